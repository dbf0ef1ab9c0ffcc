"""One hospital's part in learning a classification: a round of training, a private look."""

from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from primum.clipping import Automatic, Clipper, Flat
from primum.dp import histogram
from primum.dp.sampling import draw_several, group_by
from primum.errors import DataError, MachineError
from primum.models.linear import LinearHead, logits_of
from primum.rng import Stream
from primum.tasks.plan import Plan

_AT_ONCE: Final = 1 << 21  # features that are clipped at a time: about a cache

Integers = npt.NDArray[np.int32]
Cells = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Cohort:
    """The features of some patients: float32 [n, dimension], labels int64 [n], pseudonyms [n]."""

    features: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)

    def __repr__(self) -> str:
        return f"Cohort({len(self.patients)} images)"

    def groups(self, unit: str, most_images: int) -> list[list[int]]:
        """What is drawn: patients with their images; or each image, at most `most_images` a patient."""
        patients = group_by(self.patients)
        if unit == "patient":
            return patients
        return [[index] for images in patients for index in images[:most_images]]


def loss(logits: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each example, [n]: logits [n, outputs], target [n]."""
    return nn.functional.cross_entropy(logits_of(logits), target, reduction="none")


class Learner:
    """One hospital's training patients under one plan. Draws its own samples and its own noise."""

    def __init__(self, plan: Plan, cohort: Cohort) -> None:
        self._plan, self._cohort = plan, cohort
        self._head = LinearHead(plan.front_end.dimension, plan.outputs)
        training = plan.study.training
        self._clipper = Clipper(
            self._head,
            loss,
            training.clipping_norm,
            clipping=Automatic() if training.clipping == "automatic" else Flat(),
            images_per_unit=training.images_a_patient,
            rows=max(16, _AT_ONCE // plan.front_end.dimension),
        )
        self._stream = Stream.from_os()
        privacy = plan.study.privacy
        self._groups = cohort.groups(
            privacy.unit if privacy else "image", privacy.images_per_patient if privacy else 10**9
        )
        if len(self._groups) > plan.patients:
            raise DataError(
                f"The study says {plan.patients} patients in all; this hospital alone has more.",
                "Ask the scientist to correct privacy.patients.",
            )

    def step(self, weights: npt.NDArray[np.float32]) -> Integers:
        """This hospital's integers for one round at these public weights [dimension]: never without its noise."""
        return self._plan.update.integers(self, weights, self._stream)

    @property
    def images(self) -> int:
        """How many units it trains on (without privacy: images); stays in the building."""
        return len(self._groups)

    def gradient(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The clipped sum over a fresh Poisson sample, before noise: stays in the building."""
        training = self._plan.study.training
        sample = draw_several(self._groups, training.sampling, training.images_a_patient, self._stream)
        if sample.patients > self._plan.largest_batch:
            raise MachineError(
                "This round's sample is larger than the public maximum; the round is not answered.",
                "This happens with probability 1e-9 and is charged to delta; if it happens again, report it.",
            )
        with torch.no_grad():
            self._head.weight.copy_(torch.from_numpy(weights).view_as(self._head.weight))
        padded = self._plan.largest_batch * training.images_a_patient if self._plan.study.privacy else 0
        chosen, weights = sample.placed(training.images_a_patient)
        features, labels = self._cohort.features[chosen], self._cohort.labels[chosen]
        self._clipper.add(features, labels, torch.from_numpy(weights), padded)
        return self._clipper.take().double().numpy()


def look(plan: Plan, cohort: Cohort, weights: npt.NDArray[np.float32], stream: Stream) -> Integers:
    """One private look at a hospital's evaluation patients: noisy counts, by class and by score or predicted class."""
    cells, labels = patient_cells(plan, cohort, weights)
    return plan.evaluation.share(histogram.counts(cells, labels, len(plan.study.study.classes)), stream)


def patient_cells(plan: Plan, cohort: Cohort, weights: npt.NDArray[np.float32]) -> tuple[Cells, Cells]:
    """One cell and one label a patient, from the mean probabilities over the patient's images.

    The cell is the bin of the second class's probability for two classes, else the predicted class.
    """
    if not cohort.patients:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    head = torch.from_numpy(weights).view(plan.outputs, -1)
    probabilities = torch.softmax(logits_of(cohort.features @ head.T), 1).double().numpy()
    groups = group_by(cohort.patients)
    means = np.array([probabilities[images].mean(0) for images in groups])
    labels = cohort.labels.numpy()[[images[0] for images in groups]]
    if len(plan.study.study.classes) > 2:
        return means.argmax(1), labels
    return np.clip((means[:, 1] * histogram.BINS).astype(np.int64), 0, histogram.BINS - 1), labels
