"""One hospital's share of one private step: scale, round, add integer noise.

| symbol | what |
|---|---|
| C | clipping norm: sensitivity of the clipped sum |
| s | scale: integers per unit, s C = 100 sqrt(dim), so that rounding costs 1 % |
| Delta | sensitivity in integer units, s C + sqrt(dim): floor(x + u) with u independent of the data moves each coordinate by less than 1 |
| sigma | noise multiplier of the sum over k_min honest hospitals |
| sigma_share | standard deviation of one hospital's noise, sigma Delta / sqrt(k_min), at least 3 |
| M, K | bounds of a hospital's scaled sum and of its noise |

The sum of at least k_min shares of width 3 or more is the discrete Gaussian of the summed variance up to 1e-26
(Kairouz, Liu, Steinke 2021, theorem 1); `account.py` says what it costs.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from primum.dp.noise import DiscreteGaussian
from primum.errors import StudyError
from primum.rng import Stream

LEAST_SHARE = 3.0


@dataclass(frozen=True)
class Mechanism:
    """The public constants of a private sum; every hospital and the server compute the same from the study.

    `sensitivity` is C in the units of the data; `resolution` integer steps per sensitivity and sqrt(dim). With
    `noise_multiplier` 0 there is no noise and no guarantee.
    """

    dimension: int
    sensitivity: float
    noise_multiplier: float
    k_min: int
    hospitals: int
    largest_batch: int
    resolution: float = 100.0

    @property
    def scale(self) -> float:
        """s: integer units per unit of the data."""
        return self.resolution * math.sqrt(self.dimension) / self.sensitivity

    @property
    def integer_sensitivity(self) -> float:
        """Delta: how far one patient can move the rounded sum, in integer units."""
        return self.scale * self.sensitivity + math.sqrt(self.dimension)

    @property
    def share_sigma(self) -> float:
        """Standard deviation of one hospital's noise, in integer units; StudyError where it is below 3."""
        if self.noise_multiplier == 0:
            return 0.0
        sigma = self.noise_multiplier * self.integer_sensitivity / math.sqrt(self.k_min)
        if sigma < LEAST_SHARE:
            raise StudyError(
                f"A hospital's noise has width {sigma:.2f}; below {LEAST_SHARE:g} its sum is not accounted for.",
                "Use a smaller epsilon or a finer resolution.",
            )
        return sigma

    @property
    def accounted_multiplier(self) -> float:
        """The Gaussian noise multiplier that the accountant may use: sqrt(sigma^2 Delta^2 - 9) / Delta (account.py)."""
        if self.noise_multiplier == 0:
            return 0.0
        delta = self.integer_sensitivity
        return math.sqrt((self.noise_multiplier * delta) ** 2 - LEAST_SHARE**2) / delta

    def multiplier_for(self, accounted: float) -> float:
        """The noise multiplier that the accountant may take for `accounted`: the inverse of `accounted_multiplier`."""
        return math.hypot(accounted, LEAST_SHARE / self.integer_sensitivity)

    @property
    def bound(self) -> int:
        """M: each coordinate of a hospital's scaled sum is clamped to +-M before noise (never reached by clipped sums)."""
        return math.ceil(self.scale * self.sensitivity * self.largest_batch) + 1

    @property
    def bits(self) -> int:
        """The smallest ring that no sum of all hospitals can overflow: n (M + 1 + K) < 2^(b-1)."""
        reach = self._noise.reach if self._noise else 0
        bits = (self.hospitals * (self.bound + 1 + reach)).bit_length() + 1
        if bits > 32:
            raise StudyError(f"Sums would need {bits} bits, the ring has 32.", "Use a smaller batch or resolution.")
        return max(bits, 8)

    @cached_property
    def _noise(self) -> DiscreteGaussian | None:
        return DiscreteGaussian(self.share_sigma) if self.noise_multiplier else None

    def share(self, total: npt.NDArray[np.float64], stream: Stream) -> npt.NDArray[np.int64]:
        """This hospital's integers: clamp(floor(s total + u)) + noise. `total` [dimension] has sensitivity C."""
        if total.shape != (self.dimension,):
            raise ValueError(f"expected {self.dimension} coordinates, got {total.shape}")
        rounded = np.floor(total * self.scale + stream.uniform(self.dimension))
        whole = np.clip(rounded, -self.bound, self.bound).astype(np.int64)
        return whole if self._noise is None else whole + self._noise.draw(self.dimension, stream)

    def restore(self, total: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
        """The noisy sum in units of the data."""
        return total / self.scale

    def restored_sigma(self, shares: int) -> float:
        """Standard deviation of the noise in `restore` of a sum of `shares` hospitals, in units of the data."""
        return self.share_sigma * math.sqrt(shares) / self.scale

    def arriving_multiplier(self, honest: int) -> float:
        """The noise multiplier that is really in a sum with `honest` honest shares: for settling the ledger."""
        return self.noise_multiplier * math.sqrt(honest / self.k_min)
