"""One hospital's part in a round of training: whatever is learned, the same way from a sample to integers."""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum.accelerator import PROCESSOR, Accelerator
from primum.clipping import Automatic, Clipper, Flat
from primum.dp.sampling import draw_several, group_by
from primum.errors import DataError, MachineError
from primum.models.learned import write_weights
from primum.rng import Stream
from primum.tasks.augmentation import Augmenter, mixed
from primum.tasks.features import Features
from primum.tasks.plan import Plan

_AT_ONCE: Final = 1 << 21  # values of a linear layer's inputs that are clipped at a time: about a cache
_FEW: Final = 4
_ROWS: Final = 32  # pictures at a time through a network
_VOXELS: Final = 1 << 19  # of patches at a time: what a network keeps of a voxel is some hundred numbers

Integers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Cohort:
    """Some patients' images as the learned module sees them: `features` float32 [n, *shape] (features.py), pseudonyms [n].

    `labels`: int64 [n], of several classes 0 or 1 [n, classes]; or masks uint8 [n, (depth,) size, size]. `grids`: of
    windows which picture, of patches which volume each was cut from; a look is at the wholes. `files`, `spacing`: of masks, whose borders
    are measured. All three as in `imaging.Dataset`.
    """

    features: Features = field(repr=False)
    labels: Tensor = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    grids: tuple[tuple[int, ...], ...] = field(default=(), repr=False)
    files: tuple[str, ...] = field(default=(), repr=False)
    spacing: tuple[tuple[float, ...], ...] = field(default=(), repr=False)

    def __repr__(self) -> str:
        return f"Cohort({len(self.patients)} images)"

    def groups(self, unit: str, most_images: int) -> list[list[int]]:
        """What is drawn: patients with their images; or each image, at most `most_images` a patient."""
        patients = group_by(self.patients)
        if unit == "patient":
            return patients
        return [[index] for images in patients for index in images[:most_images]]


class Learner:
    """One hospital's training patients under one plan. Draws its own samples and its own noise.

    Gradients are computed on the accelerator; samples, sums and noise stay on the processor. With `hides_size` a private
    round takes as long for every sample; nobody need wait where nobody else looks on.
    """

    def __init__(
        self, plan: Plan, cohort: Cohort, accelerator: Accelerator = PROCESSOR, hides_size: bool = True
    ) -> None:
        self._plan, self._cohort, self._accelerator = plan, cohort, accelerator
        self.module = plan.module().to(accelerator.device)
        self._stream, self._hides_size = Stream.from_os(), hides_size
        training, asked = plan.study.training, plan.study.augmentation
        self._copies = asked.copies if asked else 1
        self._mixup = asked if asked and asked.mixup else None
        self._unit = training.images_a_patient * self._copies * (2 if self._mixup else 1)
        sides, masked = plan.front_end.shape[1:], cohort.labels.ndim > 2
        self._augmenter = Augmenter(asked, sides, masked, self._stream) if asked else None
        self.clipping = Automatic() if training.clipping == "automatic" else Flat()
        self._clipper = Clipper(
            self.module,
            plan.task.loss,
            training.clipping_norm,
            clipping=self.clipping,
            images_per_unit=self._unit,
            rows=_rows(plan) * self._unit // training.images_a_patient,
        )
        self._counting = None if plan.counting is None else torch.tensor(plan.counting)
        privacy = plan.study.privacy
        self._groups = cohort.groups(
            privacy.unit if privacy else "image", privacy.images_per_patient if privacy else 10**9
        )
        if len(self._groups) > plan.patients:
            units = "images" if privacy and privacy.unit == "image" else "patients"
            raise DataError(
                f"The study says {plan.patients} {units} in all; this hospital alone has more.",
                "Ask the scientist to correct privacy.patients.",
            )

    def step(self, weights: npt.NDArray[np.float32]) -> Integers:
        """This hospital's integers for one round at these public weights [coordinates]: never without its noise."""
        return self._plan.update.integers(self, weights, self._stream)

    @property
    def images(self) -> int:
        """How many units it trains on (without privacy: images); stays in the building."""
        return len(self._groups)

    @property
    def sampling(self) -> float:
        """q: the probability that a unit is in a sample."""
        return self._plan.study.training.sampling

    def draw(self, stream: Stream) -> npt.NDArray[np.int64]:
        """Which units a fresh sample holds, by number; for the self-test: no gradient is computed."""
        sample = draw_several([[unit] for unit in range(len(self._groups))], self.sampling, 1, stream)
        return sample.indices

    def clipped(self, features: Tensor, labels: Tensor) -> Tensor:
        """The engine's sum of the clipped gradients of these images, each a unit of its own, at the module's weights."""
        unit = self._unit
        weights = torch.full((len(features) * unit,), 1 / unit)
        self._add(features.repeat_interleave(unit, 0), labels.repeat_interleave(unit, 0), weights, 0)
        return self._clipper.take()

    def gradient(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
        """The clipped sum over a fresh Poisson sample, before noise [coordinates]: stays in the building.

        `weights` [coordinates]: where the norm follows the gradients it stands behind them.
        """
        training = self._plan.study.training
        sample = draw_several(self._groups, self.sampling, training.images_a_patient, self._stream)
        if sample.patients > self._plan.largest_batch:
            raise MachineError(
                "This round's sample is larger than the public maximum; the round is not answered.",
                "This happens with probability 1e-9 and is charged to delta; if it happens again, report it.",
            )
        self._clipper.drop()  # what a round that failed left: with this one's it would be two samples under one noise
        if self._plan.quantile_norm:
            weights, self._clipper.clipping_norm = weights[:-1], float(weights[-1])
        write_weights(self.module, weights)
        hidden = self._plan.study.privacy is not None and self._hides_size
        padded = self._plan.largest_batch * self._unit if hidden else 0
        chosen, factors = sample.placed(training.images_a_patient)
        chosen, factors = np.repeat(chosen, self._copies), np.repeat(factors, self._copies) / np.float32(self._copies)
        weights_of = torch.from_numpy(factors)
        if self._augmenter is None and self._mixup is None and len(self._cohort.labels):
            self._add_in_pieces(torch.from_numpy(chosen), weights_of, padded)
            return self._taken()
        features, labels = self._cohort.features[chosen], self._cohort.labels[chosen]
        if self._augmenter is not None:  # blank pictures too: time would show how many were drawn
            features, labels, weights_of = (_filled(part, padded) for part in (features, labels, weights_of))
            features, labels = self._augmenter(features, labels)
        if self._mixup is not None:  # never with privacy, so nothing is filled up
            features, labels, weights_of = mixed(features, labels, weights_of, self._mixup, self._stream)
        self._add(features, labels, weights_of, padded)
        return self._taken()

    def _taken(self) -> npt.NDArray[np.float64]:
        """The sum; where the norm follows the gradients in norms, with how many of them are short (`quantile.py`)."""
        within, units, follows = self._clipper.within, self._clipper.units, self._plan.quantile_norm
        total = self._clipper.take().double().numpy()
        if follows is None:
            return total
        return np.append(total / self._clipper.clipping_norm, follows.coordinate(1.0, within, units))

    def _add_in_pieces(self, chosen: Tensor, weights: Tensor, padded_to: int) -> None:
        """As `_add` of the images `chosen`, a physical batch at a time: their features need not all be held.

        Filled up with the first image at weight 0, which adds nothing and takes the same time.
        """
        chosen, weights = _filled(chosen, padded_to), _filled(weights, padded_to)
        step = _rows(self._plan)
        with self._accelerator.alone() as device:
            for start in range(0, len(chosen), step):
                rows = chosen[start : start + step]
                labels = self._cohort.labels[rows]
                counting = None if self._counting is None else self._counting[labels]
                features = self._cohort.features[rows].to(device)
                self._clipper.add(features, labels.to(device), weights[start : start + step], len(rows), counting)

    def _add(self, features: Tensor, labels: Tensor, weights: Tensor, padded_to: int) -> None:
        counting = None if self._counting is None else self._counting[labels]
        with self._accelerator.alone() as device:
            self._clipper.add(features.to(device), labels.to(device), weights, padded_to, counting)


def _filled(part: Tensor, rows: int) -> Tensor:
    """With zeros up to `rows` rows."""
    missing = max(0, rows - len(part))
    return torch.cat([part, part.new_zeros(missing, *part.shape[1:])]) if missing else part


def _rows(plan: Plan) -> int:
    """Pictures of a physical batch: as many of a patient as a unit has are never parted."""
    values, rows, unit = math.prod(plan.front_end.shape), _ROWS, plan.study.training.images_a_patient
    if plan.learned.kind == "linear" and len(plan.front_end.shape) == 1:
        return max(1, max(16, _AT_ONCE // values) // unit) * unit
    if plan.learned.kind == "linear":  # of a layer at every pixel a few pictures' features are a cache
        rows = max(_FEW, _AT_ONCE // values)
    elif plan.study.images.fit == "patches":
        rows = _VOXELS // values
    return max(1, min(_ROWS, rows)) * unit
