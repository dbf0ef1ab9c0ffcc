"""Noise of one step that later steps partly cancel: for hospitals that cannot draw samples (DP-FTRL, banded factors).

What is trained on is a running sum of gradients, A g, with A the lower triangle of ones. Write A = B C. A hospital with
noise of its own releases C g + z, and B (C g + z) = A g + B z has less noise than A (g + z) where C is near the square
root of A. Here C is the Toeplitz square root cut to b bands (Kalinin and Lampert 2024): c_j = binom(2j, j) / 4^j, j < b.

Said for the mechanism that we have: a hospital keeps its last b - 1 clipped sums, and step t is an ordinary sum
h_t = g_t + c_1 g_(t-1) + ... + c_(b-1) g_(t-b+1), released with independent noise z_t. Whoever receives it solves the
triangular system for x = g + C^-1 z. Nothing else changes: integers, masks and noise shares are as in any other step.

Guarantee: each unit is in at most k steps, any two of them at least b apart, and when is fixed without looking at the
data. In each its gradient is at most 1 long (the clipping norm). Columns of C that far apart share no row, so the
h_1, ..., h_T of two neighbours differ by at most the root of the sum of those columns' squares: `sensitivity`. Noise of
sigma times that in every step is **one** Gaussian mechanism of multiplier sigma, however later gradients depend on
earlier outputs (Denisov et al. 2022, theorem 2.1), without sampling: `Steps(1, 1.0, sigma)`.

With integers the grid of centres (`mechanism.py`) counts in each of the up to k b steps that a unit moves, not once:
`Banded.mechanism` takes that into account.

| symbol | what |
|---|---|
| T, b, k | `steps`, `bands`, `participations` |
| c_j | `coefficients`, the first column of C |
| w_j | first column of B = A C^-1 |
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.account import Steps
from primum.dp.mechanism import Mechanism
from primum.errors import InputError, StudyError
from primum.rng import Stream

Reals = npt.NDArray[np.float64]
_ADDING_ERROR: Final = 2.0**-51  # of the difference of two weighted sums: two roundings a term, two neighbours


@dataclass(frozen=True)
class Banded:
    """The public constants of such a study. With one band it is independent noise. InputError for impossible numbers.

    `separation` is the fewest steps between two steps with the same unit, `bands` if not said.
    """

    bands: int
    steps: int
    participations: int
    separation: int = 0

    def __post_init__(self) -> None:
        if not self.separation:
            object.__setattr__(self, "separation", self.bands)
        most = math.ceil(self.steps / max(1, self.separation))
        rules = (
            (1 <= self.bands <= self.steps, f"{self.bands} bands in {self.steps} steps", "Take 1 to as many as steps."),
            (
                self.separation >= self.bands,
                f"{self.bands} bands where a unit comes back after {self.separation} steps",
                "Take no more bands than steps between two visits: else one visit's noise also has to hide the next.",
            ),
            (
                1 <= self.participations <= most,
                f"{self.participations} visits in {self.steps} steps, {self.separation} apart",
                f"1 to {most} are possible.",
            ),
        )
        for right, seen, wanted in rules:
            if not right:
                raise InputError(f"Correlated noise was asked for with {seen}.", wanted)

    @cached_property
    def coefficients(self) -> Reals:
        """c_0 = 1, ..., c_(b-1): float64 [bands]."""
        ratios = [(2 * j - 1) / (2 * j) for j in range(1, self.bands)]
        return np.cumprod(np.array([1.0, *ratios]))

    @property
    def sensitivity(self) -> float:
        """In clipping norms: the most that one unit can move all steps together.

        The worst visits are the earliest, at 0, separation, 2 separation, ...: later columns are cut off by the end of
        the study. At most sqrt(k) times the first column's norm.
        """
        norms = np.cumsum(self.coefficients**2)  # of a column's square, by rows that are left
        left = [min(self.bands, self.steps - visit * self.separation) for visit in range(self.participations)]
        return math.sqrt(math.fsum(norms[rows - 1] for rows in left))

    def spent(self, noise_multiplier: float) -> Steps:
        """The whole study, to the accountant: one Gaussian. Noise is `noise_multiplier` times C times `sensitivity`."""
        return Steps(1, 1.0, noise_multiplier)

    def mechanism(self, one: Mechanism) -> Mechanism:
        """`one`, made for sums of sensitivity C, as each step of this study needs it; noise multiplier and width stay.

        Its scale s is such that the centres of all steps together move by at most Delta: s C `sensitivity`, and in each of
        k b steps sqrt(dim) times the grid's error and that of adding up b sums in float64. StudyError where those alone
        are as large as Delta, InputError for a rotated mechanism.
        """
        if one.rotated:
            raise InputError("Correlated noise was asked for with rotated sums.", "Leave the rotation out.")
        weight = float(np.sum(self.coefficients))
        batch = math.ceil(one.largest_batch * weight / self.sensitivity)
        if not one.noise_multiplier:
            return replace(one, sensitivity=one.sensitivity * self.sensitivity, largest_batch=batch)
        delta, reach = one.integer_sensitivity, one.scale * one.sensitivity
        adding = math.sqrt(one.dimension) * self.bands * reach * one.largest_batch * weight * _ADDING_ERROR
        moved = math.sqrt(self.participations * self.bands) * (delta - reach + adding)
        if moved >= delta:
            raise StudyError(
                f"{self.bands} bands of {one.dimension:,} weights are less exact than one patient moves them.",
                "Use fewer bands or a larger share width.",
            )
        sensitivity = one.sensitivity * self.sensitivity * reach / (delta - moved)
        return replace(one, sensitivity=sensitivity, largest_batch=batch)

    @property
    def error(self) -> float:
        """RMSE of the running sums' noise over the steps, in clipping norms, at noise multiplier 1."""
        running = _running(self.coefficients, self.steps)
        times = self.steps - np.arange(self.steps)
        return self.sensitivity * math.sqrt(float(np.sum(times * running**2)) / self.steps)

    @property
    def gain(self) -> float:
        """How many times larger the running sums' error is with independent noise at the same guarantee."""
        return Banded(1, self.steps, self.participations, self.separation).error / self.error

    def encoder(self) -> "Encoder":
        """A hospital's state before the first step."""
        return Encoder(self)

    def decoder(self) -> "Decoder":
        """The receiver's state before the first step."""
        return Decoder(self)


@dataclass(frozen=True)
class Encoder:
    """A hospital's side: its last clipped sums, newest first. They hold no noise: they never leave, and never print."""

    banded: Banded
    taken: int = 0
    last: tuple[Reals, ...] = field(default=(), repr=False)

    def encode(self, total: Reals) -> tuple[Reals, "Encoder"]:
        """What to release (with noise) in place of the clipped sum `total`, float64 [dimension], and the next state.

        A step that a hospital misses counts as a sum of zeros: encode that, or two hospitals are out of step.
        InputError after the last step.
        """
        if self.taken == self.banded.steps:
            raise InputError(f"All {self.taken} steps are taken.", "Plan more steps with more noise.")
        kept = (np.array(total, np.float64), *self.last)[: self.banded.bands]
        return _weighted(self.banded.coefficients, kept), Encoder(
            self.banded, self.taken + 1, kept[: self.banded.bands - 1]
        )


@dataclass(frozen=True)
class Decoder:
    """The receiver's side: its last results, newest first. All of it is post-processing."""

    banded: Banded
    last: tuple[Reals, ...] = field(default=(), repr=False)

    def decode(self, released: Reals) -> tuple[Reals, "Decoder"]:
        """The step's sum with correlated noise, x_t = y_t - c_1 x_(t-1) - ..., float64 [dimension], and the next state."""
        result = np.array(released, np.float64)
        if self.last:
            result -= _weighted(self.banded.coefficients[1:], self.last)
        return result, Decoder(self.banded, (result, *self.last)[: self.banded.bands - 1])


def best(steps: int, participations: int, separation: int) -> Banded:
    """The number of bands with the least error, of all powers of two up to `separation` and it itself."""
    most = min(separation, steps)
    tried = sorted({1, most, *(1 << power for power in range(most.bit_length()) if 1 << power <= most)})
    return min((Banded(bands, steps, participations, separation) for bands in tried), key=lambda banded: banded.error)


def assign(units: int, batches: int, stream: Stream) -> list[npt.NDArray[np.int64]]:
    """A batch for each unit, at random and for ever: step t takes batch t mod `batches`, so `separation` is `batches`.

    Every unit for itself: adding or removing one moves no other one to another batch. Indices of the units, one int64
    array a batch.
    """
    batch = np.array([stream.below(batches) for _ in range(units)], np.int64)
    return [np.flatnonzero(batch == number).astype(np.int64) for number in range(batches)]


def _weighted(coefficients: Reals, vectors: Sequence[Reals]) -> Reals:
    total: Reals = coefficients[0] * vectors[0]
    for coefficient, vector in zip(coefficients[1:], vectors[1:], strict=False):
        total += coefficient * vector
    return total


def _running(coefficients: Reals, steps: int) -> Reals:
    """w: running sums of the first column of C^-1, float64 [steps]."""
    inverse = np.zeros(steps)
    inverse[0] = 1.0
    for row in range(1, steps):
        reach = min(row, len(coefficients) - 1)
        inverse[row] = -float(coefficients[1 : reach + 1] @ inverse[row - reach : row][::-1])
    return np.cumsum(inverse)
