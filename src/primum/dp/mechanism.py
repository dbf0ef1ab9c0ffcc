"""One hospital's share of one private step: scale, then draw integers around the real vector.

| symbol | what |
|---|---|
| C | sensitivity of the hospital's sum, in units of the data |
| s | scale: integer units per unit of the data |
| Delta | how far one patient can move the vector of centres, in integer units: s C and the rounding of centres |
| sigma | noise multiplier of the sum over k_min honest hospitals |
| w | standard deviation of one hospital's noise in integer units, sigma Delta / sqrt(k_min); chosen, at least 3 |
| r | width of the rounding that the accountant takes off, 1.6 |
| M, K | bounds of a hospital's centres and of a value's distance from its centre |

With noise, rounding costs no sqrt(dim): a coordinate's integer is drawn around the real number itself (`centred.py`),
which is the Gaussian mechanism of variance (sigma Delta)^2 - r^2 on the real vector, rounded at random afterwards
(docs/design/privacy.md has the proof). Hence s follows from w, and a sum needs few bits.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.centred import GRID_BITS, LARGEST_CENTRE, LEAST_SIGMA, CentredGaussian
from primum.errors import StudyError
from primum.kernels import hadamard
from primum.rng import Stream

ROUNDING_WIDTH: Final = 1.6  # r
SUM_DISTANCE: Final = 2.0**-71  # of a sum's coordinate to the Gaussian rounded with width r, by Poisson summation
_RING_BITS: Final = 32
_LEAST_BITS: Final = 8
_CENTRE_ERROR: Final = 2.0**-22  # of the difference of two centres of one coordinate: the grid, and float64 below 2^29
_ROTATION_ERROR: Final = 2.0**-46  # of the difference of two rotated vectors, by norm: twice that of one, and to spare
_PIECE: Final = 1 << 18  # coordinates worked on at a time
_SIGNS: Final = "signs of a rotated sum"

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Mechanism:
    """The public constants of a private sum; every hospital and the server compute the same from the study.

    `sensitivity` is C in the units of the data. With noise, `share_width` is w: the wider, the less r costs (r^2 / 2
    k_min w^2 of the noise) and the more bits a sum takes; a factor of 2 is a bit. With `noise_multiplier` 0 there is
    no noise and no guarantee, and `resolution` is the number of integer steps per sensitivity and sqrt(dim).
    `largest_batch` examples of norm C are the largest sum that is meant to pass unclamped.
    With `bound_bits` a coordinate has exactly so many bits and what does not fit is clamped; `rotated` spreads spikes
    over the vector first, so that a tight clamp cuts little. Neither changes the guarantee.
    StudyError where the settings allow no such sum.
    """

    dimension: int
    sensitivity: float
    noise_multiplier: float
    k_min: int
    hospitals: int
    largest_batch: int
    resolution: float = 100.0
    share_width: float = 16.0
    bound_bits: int | None = None
    rotated: bool = False

    def __post_init__(self) -> None:
        width = self.share_width
        if not width >= LEAST_SIGMA:
            raise StudyError(
                f"A hospital's noise has width {width:.2f}; below {LEAST_SIGMA:g} its sum is not accounted for.",
                "Use a larger share width.",
            )
        if self.noise_multiplier and self._centre_error > 0.5 * self.integer_sensitivity:
            raise StudyError(
                f"At noise multiplier {self.noise_multiplier:.3g} one patient moves {self.dimension} coordinates less "
                "than they are exact.",
                "Use a larger epsilon or a larger share width.",
            )

    @property
    def integer_sensitivity(self) -> float:
        """Delta: how far one patient can move a hospital's centres (without noise: its rounded sum), by norm."""
        if self.noise_multiplier:
            return self.share_width * math.sqrt(self.k_min) / self.noise_multiplier
        return self.scale * self.sensitivity + math.sqrt(self.dimension)

    @property
    def _centre_error(self) -> float:
        return math.sqrt(self.dimension) * _CENTRE_ERROR

    @cached_property
    def scale(self) -> float:
        """s: integer units per unit of the data. With noise, Delta = s C (1 + rotation error) + sqrt(dim) 2^-22."""
        if not self.noise_multiplier:
            return self.resolution * math.sqrt(self.dimension) / self.sensitivity
        rotation = self.largest_batch * _ROTATION_ERROR if self.rotated else 0.0
        return (self.integer_sensitivity - self._centre_error) / (self.sensitivity * (1 + rotation))

    @property
    def share_sigma(self) -> float:
        """w: standard deviation of one hospital's noise, in integer units."""
        return self.share_width if self.noise_multiplier else 0.0

    @property
    def accounted_multiplier(self) -> float:
        """The Gaussian noise multiplier that the accountant may use: sqrt((sigma Delta)^2 - r^2) / Delta."""
        return self.noise_multiplier * self._kept

    def multiplier_for(self, accounted: float) -> float:
        """The noise multiplier that the accountant may take for `accounted`: the inverse of `accounted_multiplier`."""
        return accounted / self._kept * (1 + 2.0**-50)  # float64 must not round below what was asked for

    @property
    def _kept(self) -> float:
        # sigma Delta = w sqrt(k_min), whatever sigma is
        return math.sqrt(1 - ROUNDING_WIDTH**2 / (self.k_min * self.share_width**2))

    @cached_property
    def bound(self) -> int:
        """M: each coordinate of a hospital's scaled sum is clamped to +-M before noise.

        Without `bound_bits` no sum of `largest_batch` examples reaches it; with it, the largest M that cannot overflow.
        """
        if self.bound_bits is None:
            wanted = math.ceil(self.scale * self.sensitivity * self.largest_batch) + 1
        else:
            wanted = self._largest_bound(self.bound_bits)
        if not self.noise_multiplier:
            return wanted
        if self.bound_bits is None and wanted > LARGEST_CENTRE:
            raise StudyError(f"A coordinate would reach {wanted}, 2^29 is the most.", "Use a smaller batch.")
        return min(wanted, LARGEST_CENTRE)

    def _largest_bound(self, bits: int) -> int:
        if not 1 < bits <= _RING_BITS:
            raise StudyError(f"{bits} bits a coordinate were asked for.", f"The ring has 2 to {_RING_BITS}.")
        wanted = ((1 << (bits - 1)) - 1) // self.hospitals - 1 - self._reach
        if wanted < 1:
            raise StudyError(
                f"{bits} bits do not hold the noise of {self.hospitals} hospitals, up to {self._reach} each.",
                "Use more bits or a smaller share width.",
            )
        return wanted

    @property
    def clamp(self) -> float:
        """M in units of the data: a coordinate (of the rotated vector, if it is) further from 0 is cut to it."""
        return self.bound / self.scale

    @property
    def bits(self) -> int:
        """The ring, in which no sum of all hospitals can overflow: n (M + 1 + K) < 2^(b-1)."""
        if self.bound_bits is not None:
            self._largest_bound(self.bound_bits)
            return self.bound_bits
        bits = (self.hospitals * (self.bound + 1 + self._reach)).bit_length() + 1
        if bits > _RING_BITS:
            raise StudyError(
                f"Sums would need {bits} bits, the ring has {_RING_BITS}.", "Use a smaller batch or resolution."
            )
        return max(bits, _LEAST_BITS)

    @property
    def _reach(self) -> int:
        return self._noise.reach if self._noise else 0

    @cached_property
    def _noise(self) -> CentredGaussian | None:
        return CentredGaussian(self.share_width) if self.noise_multiplier else None

    def share(self, total: npt.NDArray[np.floating], stream: Stream) -> npt.NDArray[np.int32]:
        """This hospital's integers, int32 [dimension]; `total` float32 or float64 [dimension] has sensitivity C.

        With noise: drawn around clamp(s total). Without: clamp(floor(s total + u)), u uniform.
        ValueError for another length and for a total that is not finite. Works piece by piece, in a few megabytes
        beside the result; `rotated` takes one float64 copy of the vector.
        """
        if total.shape != (self.dimension,):
            raise ValueError(f"expected {self.dimension} coordinates, got {total.shape}")
        vector = self._rotate(total) if self.rotated else total
        if not all(np.isfinite(vector[piece]).all() for piece in self._pieces()):
            raise ValueError("a coordinate of the sum is not a finite number")
        out = np.empty(self.dimension, np.int32)
        for piece in self._pieces():
            out[piece] = self._integers(vector[piece].astype(np.float64) * self.scale, stream)
        return out

    def _integers(self, scaled: Reals, stream: Stream) -> npt.NDArray[np.int32]:
        if self._noise is not None:
            return self._noise.draw(self._centres(scaled), stream)
        return np.clip(np.floor(scaled + stream.uniform(len(scaled))), -self.bound, self.bound).astype(np.int32)

    def _centres(self, scaled: Reals) -> npt.NDArray[np.int64]:
        """The clamped vector on the grid, in units of 2^-24; nearest, because 2^-25 is far below any noise."""
        clamped = np.clip(scaled, -self.bound, self.bound)
        clamped *= 1 << GRID_BITS
        return np.rint(clamped, out=clamped).astype(np.int64)

    def restore(self, total: npt.NDArray[np.integer]) -> Reals:
        """The noisy sum in units of the data; `total` is the hospitals' integer sum, [dimension]."""
        vector = total / self.scale
        if self.rotated:
            hadamard.transform(vector)
            self._flip(vector)
        return vector

    def restored_sigma(self, shares: int) -> float:
        """Standard deviation of the noise in `restore` of a sum of `shares` hospitals, in units of the data."""
        return self.share_sigma * math.sqrt(shares) / self.scale

    def _rotate(self, total: npt.NDArray[np.floating]) -> Reals:
        vector = total.astype(np.float64)
        self._flip(vector)
        hadamard.transform(vector)
        return vector

    def _flip(self, vector: Reals) -> None:
        """Multiply each coordinate by its sign, the same for everybody and every step, in place."""
        signs = Stream.public(_SIGNS)
        for piece in self._pieces():
            part = vector[piece]
            bits = np.unpackbits(np.frombuffer(signs.bytes(_PIECE // 8), np.uint8), count=len(part))
            np.negative(part, out=part, where=bits.view(np.bool_))

    def _pieces(self) -> Iterator[slice]:
        return (slice(start, start + _PIECE) for start in range(0, self.dimension, _PIECE))
