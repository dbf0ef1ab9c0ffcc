"""A study in one process, on images that are one's own: for choosing settings, and for seeing where accuracy goes.

Every hospital is a `Learner` with its own samples and its own integer noise; their vectors are added in the ring of the
study. What is missing of the federation cannot change a figure: masks, TLS, processes. Nothing is charged to a ledger:
never on patients to whom something was promised.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum import ring
from primum.dp.sampling import group_by
from primum.errors import StudyError
from primum.imaging.dataset import Dataset
from primum.imaging.split import split_patients
from primum.models.answers import CALLED, grades_of, probabilities_of
from primum.models.learned import write_weights
from primum.rng import Stream
from primum.study import Study
from primum.tasks import metrics
from primum.tasks.agreement import weighted_kappa
from primum.tasks.learner import Cohort, Learner
from primum.tasks.look import known_pixels, masks_seen, outputs_of, survey
from primum.tasks.masks import dice
from primum.tasks.ordered import Ordered
from primum.tasks.plan import Plan
from primum.tasks.segmentation import Segmentation
from primum.tasks.several import Several
from primum.tasks.training import Optimiser
from primum.tasks.update import GradientSum

_UNCLIPPED: Final = 1e6  # a norm that no gradient of a linear layer on features of length 1 reaches

Weights = npt.NDArray[np.float32]
Progress = Callable[[int], None]


def deal(features: Tensor, data: Dataset, hospitals: int, key: bytes) -> list[Cohort]:
    """The images of `data` with their `features`, dealt to hospitals by patient, by a keyed hash."""
    left = np.ones(len(data.patients), np.bool_)
    cohorts = []
    for place in range(hospitals, 0, -1):
        chosen = left & split_patients(data.patients, 1 / place, bytes([place]) + key) if place > 1 else left
        left = left & ~chosen
        names = tuple(np.array(data.patients)[chosen].tolist())
        part = torch.from_numpy(chosen)
        cohorts.append(Cohort(features[part], data.labels[part], names))
    return cohorts


def surveyed(plan: Plan, cohorts: Sequence[Cohort]) -> tuple[Plan, list[Cohort]]:
    """Plan and cohorts once it is known what the hospitals' patients are like; as they are where the study does not ask.

    In a federation a private study asks its evaluation patients; here there are none, and these are asked.
    """
    if plan.sheet is None:
        return plan, list(cohorts)
    stream, mechanism = Stream.from_os(), plan.surveying
    total = np.sum([survey(plan, cohort, stream).astype(np.int64) for cohort in cohorts], axis=0)
    known = plan.surveyed(mechanism.restore(total.astype(np.int32)).astype(np.float64))
    return known, [known_pixels(known, cohort) for cohort in cohorts]


def train(plan: Plan, cohorts: Sequence[Cohort], units: int, progress: Progress = lambda done: None) -> Weights:
    """The averaged weights [dimension] of the study over these hospitals, with `units` as N in the step size."""
    update, bits = _sum(plan), plan.update.shape.bits
    update = replace(update, expected_batch=plan.study.training.sampling * units)
    learners = [Learner(plan, cohort, hides_size=False) for cohort in cohorts]

    def mean(weights: Weights) -> npt.NDArray[np.float64]:
        vectors = [ring.from_signed(learner.step(weights).astype(np.int64), bits) for learner in learners]
        total = ring.to_signed(sum(vectors[1:], vectors[0]) & ring.mask(bits), bits)
        return update.mean_gradient(total.astype(np.int32), len(learners))

    return _optimise(plan, mean, progress)


def train_without_noise(
    plan: Plan, cohorts: Sequence[Cohort], units: int, clip: bool, progress: Progress = lambda done: None
) -> Weights:
    """The same without noise, and without clipping if asked: NO PRIVACY."""
    _sum(plan)
    if not clip:
        training = plan.study.training.model_copy(update={"clipping_norm": _UNCLIPPED, "clipping": "flat"})
        plan = Plan(plan.study.model_copy(update={"training": training}), plan.survey)
    learners = [Learner(plan, cohort, hides_size=False) for cohort in cohorts]

    def mean(weights: Weights) -> npt.NDArray[np.float64]:
        total: npt.NDArray[np.float64] = np.sum([learner.gradient(weights) for learner in learners], axis=0)
        return total / (plan.study.training.sampling * units)

    return _optimise(plan, mean, progress)


def _optimise(plan: Plan, mean: Callable[[Weights], npt.NDArray[np.float64]], progress: Progress) -> Weights:
    optimiser = Optimiser.start(plan.study.training, plan.first_weights())
    for done in range(plan.study.training.rounds):
        optimiser.step(mean(optimiser.sent), plan.mean_counting)
        progress(done + 1)
    return optimiser.result.astype(np.float32)


def _sum(plan: Plan) -> GradientSum:
    if not isinstance(plan.update, GradientSum):
        raise StudyError("Only studies with local_steps = 1 run in one process.", "Set training.local_steps to 1.")
    return plan.update


@dataclass(frozen=True)
class Quality:
    """How good a model is on labelled images; `auc` for two classes, or of several the mean; `kappa` for ordered ones.

    Of masks `accuracy` is the mean Dice of all patients; of several classes the mean over them.
    """

    accuracy: float
    auc: float | None
    kappa: float | None = None


def quality(
    plan: Plan,
    weights: Weights,
    features: Tensor,
    labels: Tensor,
    patients: tuple[str, ...] = (),
    grids: tuple[tuple[int, ...], ...] = (),
) -> Quality:
    """Accuracy of the class that is called, and for two classes the area under the curve; of masks the mean Dice.

    `patients`: whose each image is; where they are not named each is its own. `grids`: of windows, as in `Dataset`.
    """
    module = plan.module()
    write_weights(module, weights)
    if isinstance(plan.task, Segmentation):
        names = patients or tuple(map(str, range(len(labels))))
        seen = masks_seen(module, Cohort(features, labels, names, grids))
        each = dice(seen.found, seen.truth, plan.task.classes, group_by(seen.patients))
        return Quality(float(each.mean()), None)
    outputs = outputs_of(module, features)
    truth = labels.numpy()
    if isinstance(plan.task, Several):
        return _of_several(probabilities_of(outputs, "several").double().numpy(), truth)
    if isinstance(plan.task, Ordered):
        called = grades_of(outputs).numpy()
        agreed = weighted_kappa(metrics.confusion(truth, called, plan.task.classes).astype(np.float64))[0]
        return Quality(float((called == truth).mean()), None, None if np.isnan(agreed) else agreed)
    logits = outputs.numpy()
    if plan.outputs > 1:
        against_rest = (truth[:, None] == np.arange(logits.shape[1])).astype(np.int64)
        area = _mean_area(probabilities_of(outputs.double()).numpy(), against_rest)
        return Quality(float((logits.argmax(1) == truth).mean()), area)
    scores = logits[:, 0].astype(np.float64)
    both = 0 < truth.mean() < 1
    return Quality(float(((scores > 0) == truth).mean()), metrics.auc(truth, scores) if both else None)


def _of_several(probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]) -> Quality:
    return Quality(float(((probabilities > CALLED) == truth).mean()), _mean_area(probabilities, truth))


def _mean_area(probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.int64]) -> float | None:
    """Over the classes that some images have and some have not; both [n, classes]. None where there is no such class."""
    known = [place for place in range(truth.shape[1]) if 0 < truth[:, place].mean() < 1]
    areas = [metrics.auc(truth[:, place], probabilities[:, place]) for place in known]
    return float(np.mean(areas)) if areas else None


@dataclass(frozen=True)
class Ablation:
    """The same study three times: where does accuracy go?"""

    neither: Quality
    clipped: Quality
    private: Quality
    epsilon: float


def ablate(
    plan: Plan,
    training: Dataset,
    test: Dataset,
    key: bytes,
    progress: Callable[[str, int], None] = lambda what, done: None,
) -> Ablation:
    """Train without clipping, with clipping alone, and as the study says, on `training`; measure on `test`."""
    privacy = plan.study.privacy
    if privacy is None:
        raise StudyError("The study has no privacy to take away.", "Add a section [privacy].")
    plan.check()
    plan, cohorts = surveyed(plan, deal(plan.front_end.features(training.images), training, plan.hospitals, key))
    seen = plan.front_end.features(test.images)
    units = training.patient_count if privacy.unit == "patient" else len(training)

    def measured(weights: Weights) -> Quality:
        return quality(plan, weights, seen, test.labels, test.patients, test.grids)

    return Ablation(
        measured(train_without_noise(plan, cohorts, units, False, lambda done: progress("neither", done))),
        measured(train_without_noise(plan, cohorts, units, True, lambda done: progress("clipping", done))),
        measured(train(plan, cohorts, units, lambda done: progress("clipping and noise", done))),
        plan.epsilon_after(plan.study.training.rounds),
    )


def study_of(study: Study, units: int) -> Study:
    """`study` for `units` patients (or images) in all, if it was written for fewer: the images at hand are what counts."""
    privacy = study.privacy
    if privacy is None or privacy.patients >= units:
        return study
    return study.model_copy(update={"privacy": privacy.model_copy(update={"patients": units})})
