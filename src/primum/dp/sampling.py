"""Who is in a step: every patient of every hospital with probability q, independently (Poisson), drawn in secret.

`PoissonSampler` and `PatientSampler` are for a training loop of one's own: they charge an `Accountant` before each draw,
so that no step is taken which is not paid for. They take numbers and names, never a loader: a loader that shuffles
gives each unit the same number of visits, and no such figure would hold for it.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import stats

from primum.dp.account import OVERFLOW_PROBABILITY
from primum.dp.accountant import Accountant
from primum.errors import BudgetError, DataError, InputError
from primum.rng import Stream

__all__ = [
    "OVERFLOW_PROBABILITY",
    "Charged",
    "PatientSampler",
    "PoissonSampler",
    "Sample",
    "draw",
    "group_by",
    "public_maximum",
]

Indices = npt.NDArray[np.int64]


def draw(groups: Sequence[Sequence[int]], q: float, stream: Stream) -> npt.NDArray[np.int64]:
    """Indices of the examples of one step: each group (patient) with probability q, one of its examples at random."""
    chosen = np.flatnonzero(stream.bernoulli(q, len(groups)))
    return np.array([groups[i][stream.below(len(groups[i]))] for i in chosen.tolist()], np.int64)


def draw_several(groups: Sequence[Sequence[int]], q: float, most: int, stream: Stream) -> "Sample":
    """Each group (patient) with probability q, and up to `most` of its examples at random."""
    drawn = np.flatnonzero(stream.bernoulli(q, len(groups))).tolist()
    images = [some_of(groups[patient], most, stream) for patient in drawn]
    indices = np.concatenate([np.empty(0, np.int64), *images])
    return Sample(indices, np.repeat(np.arange(len(drawn)), [len(some) for some in images]), len(drawn))


def group_by(names: Sequence[str]) -> list[list[int]]:
    """Indices of equal names together, in order of first appearance: images by patient."""
    groups: Mapping[str, list[int]] = {name: [] for name in names}
    for index, name in enumerate(names):
        groups[name].append(index)
    return list(groups.values())


def public_maximum(units: int, q: float, steps: int) -> int:
    """The batch size that no step of the study exceeds, but with probability 1e-9.

    `units` is the study's public number of patients (or images) in all hospitals together, so the maximum tells nothing
    about one of them. A batch is padded to it: time and memory would show its size.
    """
    if q >= 1:
        return units
    return int(min(units, stats.binom.isf(OVERFLOW_PROBABILITY / steps, units, q) + 1))


class Charged:
    """What both samplers are: steps of one accountant, each charged before it is drawn, and released once."""

    def __init__(self, accountant: Accountant) -> None:
        self._accountant, self._stream = accountant, Stream.from_os()
        self._drawn: int | None = None  # units of the sample whose sum waits for its noise

    def __len__(self) -> int:
        return self._accountant.left

    @property
    def accountant(self) -> Accountant:
        """What the steps are charged to."""
        return self._accountant

    @property
    def expected_batch(self) -> float:
        """q N: what a step's noisy sum is divided by, whatever the size of its sample."""
        raise NotImplementedError

    @property
    def largest_batch(self) -> int:
        """No sample has more units."""
        return math.ceil(self.expected_batch / self._accountant.sampling)

    def begin(self) -> bool:
        """Charge one step, if there is one left."""
        if not self._accountant.left:
            return False
        self._accountant.charge()
        return True

    def release(self, units: int, whole: bool = False) -> None:
        """Called when a sum over `units` gets its noise: once for each draw.

        BudgetError where no draw was charged for it, or where more units are in the sum than were drawn: then one may
        be in it twice, and noise for once is too little. With `whole`, for units of several rows, fewer are refused too:
        rows were then put together that do not belong together, and one unit more would move all that follow.
        """
        if self._drawn is None:
            raise BudgetError(
                "A second noisy sum was asked for in one step of the sampler.",
                "Call privatize once for each sample: every release is charged before its sample is drawn.",
            )
        if units > self._drawn:
            raise BudgetError(
                "The sum holds more than the last sample: another sample, or the same one twice.",
                "Call privatize after each sample; to use several views of an image, make them one unit of the clipper.",
            )
        if whole and units < self._drawn:
            raise BudgetError(
                "The sum holds fewer units than were drawn, and a unit is several rows: they are not the sampler's.",
                "Draw with PatientSampler and place with Sample.placed, or give each image's views as consecutive rows.",
            )
        self._drawn = None


class PoissonSampler(Charged):
    """The steps of a study: indices int64 [size of this step's sample], each step charged before it is drawn.

    Without `groups` each of `units` images is in a step with probability q, independently. With `groups`, the patient of
    each image, it is each patient, with one image at random: then the accountant's figures are for a patient. A sample
    may be empty: that step is noise alone and must be taken all the same. Iteration ends when the accountant has no step
    left; a second loop goes on where the first stopped. The draw is secret: it must not be shown or written down.
    """

    def __init__(self, units: int, accountant: Accountant, *, groups: Sequence[str] | None = None) -> None:
        _check(units, accountant, groups)
        super().__init__(accountant)
        self._images = int(units)
        self._groups = None if groups is None else group_by(_names(groups))

    def __iter__(self) -> Iterator[Indices]:
        while self.begin():
            indices = self._draw()
            self._drawn = len(indices)
            yield indices

    def _draw(self) -> Indices:
        q = self._accountant.sampling
        if self._groups is not None:
            return draw(self._groups, q, self._stream)
        return np.flatnonzero(self._stream.bernoulli(q, self._images)).astype(np.int64)

    @property
    def expected_batch(self) -> float:
        """q N: what a step's noisy sum is divided by, whatever the size of its sample."""
        units = self._images if self._groups is None else len(self._groups)
        return self._accountant.sampling * units

    @property
    def expected_visits(self) -> float:
        """How often an image is in a sample over the whole study, on average: epochs, as others say."""
        return self._accountant.steps * self.expected_batch / self._images


@dataclass(frozen=True)
class Sample:
    """One step's images and whose they are.

    `indices` int64 [images]; `units` int64 [images] counts the drawn patients from 0 on, in rising order, so that image i
    belongs to drawn patient units[i]; `patients` of them were drawn. A patient's gradients are averaged, and clipped once.
    """

    indices: Indices = field(repr=False)
    units: Indices = field(repr=False)
    patients: int = field(repr=False)

    def placed(self, places: int) -> tuple[Indices, npt.NDArray[np.float32]]:
        """The same with `places` rows for every drawn patient, for a clipper of so many images a unit.

        Indices int64 [patients * places] and weights float32 of the same shape: one over the number of the patient's
        images, so that gradients add up to their mean; 0 for rows that only fill up. ValueError for too few places.
        """
        own = np.bincount(self.units, minlength=self.patients)[:, np.newaxis]
        if (own > places).any():
            raise ValueError(f"{int(own.max())} images of one patient do not fit into {places} places")
        place, first = np.arange(places), np.cumsum(own)[:, np.newaxis] - own
        weights = np.where(place < own, 1 / np.maximum(own, 1), 0).astype(np.float32)
        return self.indices[first + np.minimum(place, own - 1)].reshape(-1), weights.reshape(-1)


class PatientSampler(Charged):
    """The steps of a study whose drawn patients bring up to `images_per_patient` of their images each, at random.

    Each patient is in a step with probability q, independently; `groups` names the patient of each image. The rest is
    as in `PoissonSampler`.
    """

    def __init__(self, groups: Sequence[str], accountant: Accountant, *, images_per_patient: int) -> None:
        _check(len(groups), accountant, groups)
        if images_per_patient < 1:
            raise InputError(f"images_per_patient = {images_per_patient}.", "It must be at least 1.")
        super().__init__(accountant)
        self._most = images_per_patient
        self._images, self._groups = len(groups), group_by(_names(groups))

    def __iter__(self) -> Iterator[Sample]:
        while self.begin():
            sample = self._draw()
            self._drawn = sample.patients
            yield sample

    def _draw(self) -> Sample:
        return draw_several(self._groups, self._accountant.sampling, self._most, self._stream)

    @property
    def expected_batch(self) -> float:
        """q N, N patients: what a step's noisy sum is divided by."""
        return self._accountant.sampling * len(self._groups)

    @property
    def expected_visits(self) -> float:
        """How often an image is in a sample over the whole study, on average."""
        shown = sum(min(len(images), self._most) for images in self._groups)
        return self._accountant.steps * self._accountant.sampling * shown / self._images


def some_of(images: Sequence[int], most: int, stream: Stream) -> Indices:
    """`most` of `images`, all sets equally likely; all of them where there are no more."""
    whole = np.array(images, np.int64)
    return whole if len(whole) <= most else whole[stream.permutation(len(whole))[:most]]


def _names(groups: Any) -> list[Any]:
    """Of tensors and arrays the values: two tensors are never the same key."""
    return list(groups.tolist() if hasattr(groups, "tolist") else groups)


def _check(units: int, accountant: Accountant, groups: Sequence[str] | None) -> None:
    if isinstance(units, bool) or not isinstance(units, int | np.integer):
        raise InputError(
            f"A sampler takes the number of units, not a {type(units).__name__}.",
            "Give len(images). A loader that shuffles draws no Poisson samples: the privacy figure would not hold.",
        )
    if not isinstance(accountant, Accountant):
        raise InputError(f"A sampler charges an Accountant, not a {type(accountant).__name__}.", "Make one first.")
    if units < 1:
        raise DataError("There are no images to draw from.", "Give at least one.")
    if groups is not None and len(groups) != units:
        raise DataError(f"{len(groups)} patients are named for {units} images.", "Name the patient of each image.")
