"""Integers drawn around a real number: rounding and noise in one (discrete Gaussian with a real centre).

P(k) proportional to exp(-(k - c)^2 / (2 sigma^2)) over the integers k, for a centre c that is a multiple of 2^-24.
Rounding a real vector first and adding integer noise then would move each coordinate by up to one and cost sqrt(dim)
in the sensitivity; drawing around the real number itself costs nothing (docs/design/privacy.md).

Three digits to the base 256 are rounded away one after another, as in Micciancio and Walter (CRYPTO 2017, section 3):
m in units of 2^-24 becomes an integer around m/256 in units of 2^-16, drawn from the table of its last digit, and so
on. Each step has width r, so all three have variance r^2 (1 + 2^-16 + 2^-32); what is missing to sigma^2 is added as
noise around 0. The laws add up because the widths are at least 3 (convolution lemma, see `noise.py`).
"""

import math
from fractions import Fraction
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.noise import CHUNK, DiscreteGaussian, Drawer, convolution_error
from primum.dp.table import Table, family
from primum.kernels import alias
from primum.rng import Stream

LEAST_SIGMA: Final = 3.0
GRID_BITS: Final = 24  # of a centre, behind the point
LARGEST_CENTRE: Final = 1 << 29  # integer units
VALUE_DISTANCE: Final = 2.0**-100  # no value of any sigma is further from its law
_DIGITS: Final = 3
_NARROW: Final = 4.6  # below, the digits carry all of sigma
_SPREAD: Final = 1 + Fraction(1, 2**16) + Fraction(1, 2**32)
_DIGIT_VARIANCE: Final = Fraction(9)


class CentredGaussian:
    """The discrete Gaussian with real centres and one sigma, from 3 to 2^24. 10 to 20 ns a value."""

    def __init__(self, sigma: float) -> None:
        if not LEAST_SIGMA <= sigma < 2.0**24:
            raise ValueError(f"sigma must be from {LEAST_SIGMA:g} to 2^24, got {sigma}")
        self.sigma = sigma
        variance = Fraction(sigma) ** 2
        self._narrow = sigma < _NARROW
        self._digit_variance = variance / _SPREAD if self._narrow else _DIGIT_VARIANCE
        missing = variance - self._digit_variance * _SPREAD
        self._wide = None if self._narrow else DiscreteGaussian(math.sqrt(missing), missing)

    @cached_property
    def _family(self) -> Table:
        return family(self._digit_variance)

    @property
    def reach(self) -> int:
        """No value is further than this from its centre."""
        digits = 2 - self._family.lowest  # (1 - lowest) (1 + 2^-8 + 2^-16), rounded up
        return digits + (self._wide.reach if self._wide else 0)

    @property
    def distance(self) -> float:
        """A bound on the statistical distance of one value to the exact law, for any centre; below 2^-100."""
        tables = _DIGITS * self._family.distance + (self._wide.distance if self._wide else 0.0)
        return tables + _DIGITS * convolution_error(_DIGIT_VARIANCE, _DIGIT_VARIANCE)

    def draw(self, centres: npt.NDArray[np.int64], stream: Stream) -> npt.NDArray[np.int32]:
        """An independent value around each of `centres` int64 [n], in units of 2^-24: int32 [n].

        ValueError for a centre beyond 2^29 integer units. For each chunk of 2^14 values and each digit the stream
        gives index words (uint8) and more (see `Drawer`); after all chunks come the words of `DiscreteGaussian.add_to`.
        """
        if centres.size and max(-int(centres.min()), int(centres.max())) > LARGEST_CENTRE << GRID_BITS:
            raise ValueError(f"a centre is beyond {LARGEST_CENTRE}")
        out, drawer = np.empty(len(centres), np.int32), Drawer(stream, np.uint8)
        for start in range(0, len(out), CHUNK):
            rest = centres[start : start + CHUNK].copy()
            for _ in range(_DIGITS):
                drawer.draw(alias.round_digit, rest, self._family)
            out[start : start + CHUNK] = rest
        if self._wide:
            self._wide.add_to(out, stream)
        return out
