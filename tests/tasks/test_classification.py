"""One hospital's step and look: noisy always, the right mean, by patient; and the whole of it learns."""

from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from tests.tasks.studies import study

from primum import ring
from primum.accelerator import Accelerator
from primum.clipping import Clipper
from primum.errors import DataError
from primum.rng import Stream
from primum.tasks import learner
from primum.tasks.classification import BINS
from primum.tasks.figures import binary_figures
from primum.tasks.learner import Cohort, Learner
from primum.tasks.look import look, patient_cells
from primum.tasks.plan import Plan, resolve
from primum.tasks.selftest import check_clipping
from primum.tasks.training import Optimiser


def cohort(plan: Plan, patients: int, images: int = 1, seed: int = 0) -> Cohort:
    """Two classes apart along the first coordinates; features of length 1, as from the front end."""
    generator = torch.Generator().manual_seed(seed)
    labels = (torch.arange(patients) % 2).repeat_interleave(images)
    features = 0.3 * torch.randn(patients * images, plan.front_end.dimension, generator=generator)
    features[:, :20] += 1.5 * (2.0 * labels[:, None] - 1)
    features /= features.norm(dim=1, keepdim=True) * (1 + 1e-6)
    names = tuple(f"{seed}-{i // images}" for i in range(patients * images))
    return Cohort(features, labels, names)


def zeros(plan: Plan) -> np.ndarray:
    return np.zeros(plan.dimension, np.float32)


def test_a_step_is_the_clipped_sum_with_this_hospitals_noise() -> None:
    plan = Plan(resolve(study(training={"sampling": 1.0})))
    hospital = Learner(plan, cohort(plan, 60))
    truth = hospital.gradient(zeros(plan))
    noise = np.array([plan.training.restore(hospital.step(zeros(plan))) - truth for _ in range(30)])
    width = plan.training.share_sigma / plan.training.scale
    for factor, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        statistic = float((noise**2).sum()) / (factor * width) ** 2
        tail = min(stats.chi2.cdf(statistic, noise.size), stats.chi2.sf(statistic, noise.size))
        assert bool(2 * tail > 1e-6) is accepted


def test_two_steps_at_the_same_weights_differ_in_sample_and_noise() -> None:
    plan = Plan(resolve(study()))
    hospital = Learner(plan, cohort(plan, 60))
    assert not np.array_equal(hospital.gradient(zeros(plan)), hospital.gradient(zeros(plan)))
    assert not np.array_equal(hospital.step(zeros(plan)), hospital.step(zeros(plan)))


def test_noise_does_not_depend_on_how_many_patients_a_hospital_has() -> None:
    """Black images have features, and so gradients, of zero: what is left is the noise."""
    plan = Plan(resolve(study()))
    for count in (1, 100):
        black = cohort(plan, count)
        step = Learner(plan, Cohort(black.features * 0, black.labels, black.patients)).step(zeros(plan))
        assert step.std() == pytest.approx(plan.training.share_sigma, rel=0.2)


def test_a_hospital_without_patients_sends_noise() -> None:
    plan = Plan(resolve(study()))
    empty = Cohort(torch.zeros(0, plan.front_end.dimension), torch.zeros(0, dtype=torch.int64), ())
    assert Learner(plan, empty).step(zeros(plan)).std() == pytest.approx(plan.training.share_sigma, rel=0.2)
    assert look(plan, empty, zeros(plan), Stream.from_os()).shape == (plan.evaluation.dimension,)


def test_a_patient_with_many_images_moves_a_step_by_at_most_c() -> None:
    plan = Plan(resolve(study(training={"sampling": 1.0})))
    many = cohort(plan, 1, images=50)
    gradient = Learner(plan, many).gradient(zeros(plan))
    assert np.linalg.norm(gradient) <= plan.study.training.clipping_norm


@pytest.mark.parametrize("images", [1, 2, 3, 5, 100])
def test_a_patients_images_are_never_parted(monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """With features of 42,000 numbers, of which 49 pictures are a physical batch, a study of two a patient once stopped."""
    plan = Plan(resolve(study(training={"sampling": 1.0, "images_a_patient": images})))
    patients = cohort(plan, 7, images=images)
    whole = Learner(plan, patients).gradient(zeros(plan))
    for at_once in (16, 17, 49):
        monkeypatch.setattr(learner, "_AT_ONCE", at_once * plan.front_end.dimension)
        parts = Learner(plan, patients).gradient(zeros(plan))
        assert np.linalg.norm(parts - whole) <= 1e-5 * np.linalg.norm(whole)


def test_a_round_that_failed_leaves_nothing_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two samples under the noise of one would cost twice what is charged."""
    plan = Plan(resolve(study(training={"sampling": 1.0})))
    patients = cohort(plan, 60)
    hospital = Learner(plan, patients)
    monkeypatch.setattr(learner, "_AT_ONCE", 16 * plan.front_end.dimension)
    added = Clipper.add
    calls: list[int] = []

    def fails_at_the_third(self: Clipper, *arguments: Any, **more: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("no memory is left")
        added(self, *arguments, **more)

    monkeypatch.setattr(Clipper, "add", fails_at_the_third)
    with pytest.raises(RuntimeError):
        hospital.gradient(zeros(plan))
    again = hospital.gradient(zeros(plan))
    assert np.linalg.norm(again - Learner(plan, patients).gradient(zeros(plan))) <= 1e-5 * np.linalg.norm(again)


def test_unit_image_caps_the_images_of_a_patient() -> None:
    plan = Plan(study(unit="image", images_per_patient=3))
    groups = cohort(plan, 4, images=10).groups("image", 3)
    assert sorted(index for group in groups for index in group) == [0, 1, 2, 10, 11, 12, 20, 21, 22, 30, 31, 32]
    assert len(cohort(plan, 4, images=10).groups("patient", 3)) == 4


def test_more_patients_than_the_study_says_are_refused() -> None:
    plan = Plan(resolve(study(patients=30)))
    with pytest.raises(DataError, match="The study says 30 patients in all"):
        Learner(plan, cohort(plan, 31))
    by_image = Plan(resolve(study(patients=30, unit="image", images_per_patient=2)))
    assert Learner(by_image, cohort(by_image, 15, images=3)).images == 30
    with pytest.raises(DataError, match="The study says 30 images in all"):
        Learner(by_image, cohort(by_image, 16, images=3))


def test_weights_are_used_and_never_kept() -> None:
    plan = Plan(resolve(study(training={"sampling": 1.0})))
    hospital = Learner(plan, cohort(plan, 20))
    at_zero = hospital.gradient(zeros(plan))
    hospital.gradient(np.ones(plan.dimension, np.float32))
    assert np.array_equal(hospital.gradient(zeros(plan)), at_zero)


def test_a_cohort_prints_a_count_only() -> None:
    plan = Plan(study())
    assert repr(cohort(plan, 3)) == "Cohort(3 images)"


def test_each_evaluation_patient_is_one_cell_from_the_mean_over_images() -> None:
    plan = Plan(resolve(study()))
    patients = cohort(plan, 10, images=3)
    weights = zeros(plan)
    weights[:20] = 1.0
    labels, cells = patient_cells(plan, patients, weights)
    logits = patients.features.numpy() @ weights
    means = (1 / (1 + np.exp(-logits.astype(np.float64)))).reshape(10, 3).mean(1)
    assert cells.tolist() == np.minimum((means * BINS).astype(int), BINS - 1).tolist()
    assert labels.tolist() == [0, 1] * 5


def test_with_more_classes_a_cell_is_the_predicted_class() -> None:
    plan = Plan(resolve(study(classes=3)))
    features = torch.zeros(3, plan.front_end.dimension)
    features[torch.arange(3), torch.arange(3)] = 0.9
    weights = np.zeros((3, plan.front_end.dimension), np.float32)
    weights[[0, 1, 2], [0, 1, 2]] = 5
    _, cells = patient_cells(plan, Cohort(features, torch.tensor([0, 1, 2]), ("a", "b", "c")), weights.reshape(-1))
    assert cells.tolist() == [0, 1, 2]


def test_hospitals_learn_together_under_privacy_and_look_at_it_privately() -> None:
    """The whole of training and evaluation in one process: integers in the ring, noise from every hospital."""
    plan = Plan(resolve(study(epsilon=8.0, patients=300)))
    plan.check()
    learners = [Learner(plan, cohort(plan, 100, seed=seed)) for seed in (1, 2, 3)]
    training = plan.study.training
    optimiser = Optimiser.start(training, plan.first_weights())
    bits = plan.update.shape.bits
    for _ in range(training.rounds):
        weights = optimiser.weights.astype(np.float32)
        vectors = [ring.from_signed(learner.step(weights), bits) for learner in learners]
        total = ring.to_signed(sum(vectors[1:], vectors[0]) & ring.mask(bits), bits)
        optimiser.step(plan.update.mean_gradient(total, 3))
    weights = optimiser.result.astype(np.float32)
    looks = sum(look(plan, cohort(plan, 60, seed=seed), weights, Stream.from_os()) for seed in (4, 5, 6))
    counts = plan.evaluation.restore(np.asarray(looks)).reshape(2, -1)
    figures = binary_figures(counts, plan.evaluation.restored_sigma(3))
    assert figures["auc"] > 0.85
    assert figures["auc_high"] > 0.95


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")
def test_gradients_on_a_card_are_those_of_the_processor() -> None:
    plan = Plan(resolve(study()))
    patients = cohort(plan, 60)
    here, there = Learner(plan, patients), Learner(plan, patients, Accelerator.named("cuda"))
    some = patients.features[:8], patients.labels[:8]
    np.testing.assert_allclose(there.clipped(*some), here.clipped(*some), atol=1e-5)
    check_clipping(plan, there, patients)
    assert there.step(zeros(plan)).shape == here.step(zeros(plan)).shape
