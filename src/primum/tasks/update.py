"""What a hospital sends in a round of training, and what the server makes of the sum: two kinds, one interface.

| kind | a hospital computes | it sends | the server steps along |
|---|---|---|---|
| GradientSum | one clipped sum at the global weights | the sum, with its share of the noise | sum / (q N) |
| WeightDifference | K local steps from the global weights | d = w_K - w_0, weighted or not | -(mean of d) |

Local steps (McMahan et al. 2017; proximal term: Li et al. 2020): d_0 = 0, then K times

    d <- d - eta (g + mu d),    g the mean gradient over a fresh Poisson sample at w_0 + d

eta the local learning rate, mu the proximal factor: mu d is the gradient of mu/2 |w - w_0|^2. It comes after clipping
and noise and looks at neither data nor sample, so it is post-processing. Without privacy g is the clipped sum divided by
q times the hospital's own number of images: that number stays in the building, but for weights (`largest_weight`).
With privacy each g has the hospital's full noise, integers drawn by its own Mechanism (k_min = 1, one hospital), and is
divided by the public q N / n. Then d is post-processing of K private steps: it needs no more noise, and the noise of
other hospitals does not count.

**How large a difference may be.** Public numbers bound it: |1 - eta mu| <= 1, so |d_i| <= eta K G, where G bounds a
coordinate of g: C / q without privacy (a sample is at most the whole hospital), with it the reach of the mechanism over
the expected batch. That is far from what happens: with all K gradients of norm C in one direction, spread evenly, the
root mean square of a coordinate is eta K C / sqrt(dim), to which noise adds eta sqrt(K) times its own in each step. SPAN
times that typical size is the bound where it is the smaller one, and the hospital cuts its coordinates to it (it never
refuses). The largest coordinate seen on PneumoniaMNIST and chest X-rays was 5.2 typical ones with privacy at epsilon 3,
where it is nearly all noise, and 0.4 without.

**How fine.** One step of the ring is a typical coordinate over FINE, or the noise of a coordinate over FINE_NOISE where
that is coarser, and coarser still where 32 bits do not hold the sum. Values are rounded up or down at random, with the
right mean.
"""

import math
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from primum.dp.mechanism import Mechanism
from primum.rng import Stream
from primum.secagg import Shape
from primum.secagg.vector import WEIGHT, Layout, Part
from primum.study import Training

SPAN: Final = 16.0  # typical coordinates that the largest one may be
FINE: Final = 2048.0  # integer steps of a typical coordinate
FINE_NOISE: Final = 64.0  # integer steps of the noise: rounding makes it larger by 3 in 100,000 at most
UPDATE: Final = "update"
_RING: Final = (1 << 31) - 1  # the largest magnitude of a sum

Integers = npt.NDArray[np.int32]
Reals = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]


class Hospital(Protocol):
    """One hospital's training data, as an update needs it; the Learner."""

    @property
    def images(self) -> int:
        """How many units (without privacy: images) it trains on; stays in the building."""

    def gradient(self, weights: Weights) -> Reals:
        """The clipped sum over a fresh Poisson sample at these weights [dimension]."""


def shape_of(mechanism: Mechanism) -> Shape:
    """The vector of one sum under a mechanism."""
    return Shape(mechanism.dimension, mechanism.bits)


class Update(Protocol):
    """A round's vector, from both sides."""

    @property
    def shape(self) -> Shape:
        """Length and bits of the vector."""

    @property
    def steps(self) -> int:
        """Private steps on a hospital's patients in one round: what it is charged for."""

    def integers(self, hospital: Hospital, weights: Weights, stream: Stream) -> Integers:
        """A hospital's vector, int32 [shape.length], from the global weights [dimension]."""

    def mean_gradient(self, total: Integers, members: int) -> Reals:
        """What the server steps along, float64 [dimension], from the sum over `members` hospitals."""


@dataclass(frozen=True)
class GradientSum:
    """One private step over all hospitals together; `expected_batch` is q N, a public constant.

    Dividing by the actual batch would let the noise depend on the data.
    """

    mechanism: Mechanism
    expected_batch: float
    steps: int = 1

    @property
    def shape(self) -> Shape:
        """One coordinate a weight."""
        return shape_of(self.mechanism)

    def integers(self, hospital: Hospital, weights: Weights, stream: Stream) -> Integers:
        """The clipped sum with this hospital's share of the noise."""
        return self.mechanism.share(hospital.gradient(weights), stream)

    def mean_gradient(self, total: Integers, members: int) -> Reals:
        """The noisy sum over the expected batch, whoever was there."""
        return self.mechanism.restore(total) / self.expected_batch


class LocalStep(Protocol):
    """How a hospital gets the mean gradient of one local step."""

    @property
    def largest(self) -> float:
        """No coordinate of a mean gradient is larger."""

    @property
    def noise(self) -> float:
        """Standard deviation of its noise, a coordinate."""

    def mean(self, hospital: Hospital, weights: Weights, stream: Stream) -> Reals:
        """The mean gradient over a fresh sample."""


@dataclass(frozen=True)
class PlainStep:
    """Without privacy: the clipped sum over q times the hospital's own number of images."""

    clipping_norm: float
    sampling: float
    noise: float = 0.0

    @property
    def largest(self) -> float:
        """A sample is at most the whole hospital: C / q."""
        return self.clipping_norm / self.sampling

    def mean(self, hospital: Hospital, weights: Weights, stream: Stream) -> Reals:
        """Without images: zeros."""
        return hospital.gradient(weights) / (self.sampling * max(1, hospital.images))


@dataclass(frozen=True)
class PrivateStep:
    """With privacy: the sum with this hospital's full noise, over the public `expected_batch` of one hospital, q N / n.

    `mechanism` is that of one hospital alone: k_min = 1.
    """

    mechanism: Mechanism
    expected_batch: float

    @property
    def largest(self) -> float:
        """What the mechanism's ring can hold at most."""
        return 2.0 ** (self.mechanism.bits - 1) / self.mechanism.scale / self.expected_batch

    @property
    def noise(self) -> float:
        """Of the mean gradient."""
        return self.mechanism.restored_sigma(1) / self.expected_batch

    def mean(self, hospital: Hospital, weights: Weights, stream: Stream) -> Reals:
        """Never without its noise."""
        noisy = self.mechanism.share(hospital.gradient(weights), stream)
        return self.mechanism.restore(noisy) / self.expected_batch


@dataclass(frozen=True)
class WeightDifference:
    """So many local steps, and the difference of weights that they made, cut to the layout's largest value."""

    training: Training
    step: LocalStep
    layout: Layout

    @property
    def shape(self) -> Shape:
        """One coordinate a weight, and one for the hospital's weight in the mean where there is one."""
        return self.layout.shape

    @property
    def steps(self) -> int:
        """Every local step is one."""
        return self.training.local_steps

    @property
    def largest(self) -> float:
        """Coordinates are cut to this."""
        return self.layout.parts[0].largest

    def integers(self, hospital: Hospital, weights: Weights, stream: Stream) -> Integers:
        """Local steps from the global weights, then the difference in the ring."""
        difference = np.clip(self.difference(hospital, weights, stream), -self.largest, self.largest)
        weight = hospital.images if self.layout.largest_weight else 1
        return self.layout.encode({UPDATE: difference}, stream, weight)

    def difference(self, hospital: Hospital, weights: Weights, stream: Stream) -> Reals:
        """d after the last local step, float64 [dimension]; with privacy private already."""
        rate, pull = self.training.local_learning_rate or 0.0, self.training.proximal
        start = weights.astype(np.float64)
        moved = np.zeros_like(start)
        for _ in range(self.training.local_steps):
            gradient = self.step.mean(hospital, (start + moved).astype(np.float32), stream)
            moved -= rate * (gradient + pull * moved)
        return moved

    def mean_gradient(self, total: Integers, members: int) -> Reals:
        """Minus the mean difference ("pseudo-gradient", Reddi et al. 2021), over hospitals or over images; none: zeros."""
        sums = self.layout.decode(total)
        count = float(sums[WEIGHT][0]) if self.layout.largest_weight else members
        return -sums[UPDATE] / max(1.0, count)


def difference_layout(
    training: Training, step: LocalStep, dimension: int, members: int, largest_weight: int = 0
) -> Layout:
    """Bound and scale of the differences, from public numbers alone (the docstring above); StudyError where none fit."""
    count, rate = training.local_steps, training.local_learning_rate or 0.0
    noise = rate * math.sqrt(count) * step.noise
    typical = math.hypot(rate * count * training.clipping_norm / math.sqrt(dimension), noise)
    largest = min(rate * count * step.largest, SPAN * typical)
    room = _RING // members - 2  # one for rounding up, one for the float64 product
    scale = min(1 / max(typical / FINE, noise / FINE_NOISE), room / (largest * max(1, largest_weight)))
    return Layout((Part(UPDATE, dimension, largest, scale),), members, largest_weight)
