"""Discrete Gaussian integers (Canonne, Kamath, Steinke 2020) from AES-CTR.

Floating-point Gaussian noise leaks through its lowest bits (Mironov, CCS 2012); integers do not, and sums of them are
exact. A value is drawn by inverting a table of the cumulative distribution with 128-bit entries: 64 random bits decide,
and where they tie with an entry 64 more. The table is cut at 12 standard deviations (tail below 2^-107).

A large sigma is A + m B with sigma^2 = sigma_A^2 + m^2 sigma_B^2 and sigma_A = 4 m: small tables that stay in the cache.
Its distance from the discrete Gaussian of sigma is about e^(-2 pi^2 sigma_A^2 sigma_B^2 / sigma^2), here below e^-290
(the convolution lemma of Peikert, CRYPTO 2010, section 3).
"""

from fractions import Fraction
from functools import lru_cache
from typing import Final

import mpmath
import numpy as np
import numpy.typing as npt

from primum.rng import Stream

CUT: Final = 12  # standard deviations
_LARGEST_TABLE: Final = 1024  # standard deviation of the widest single table: 24,577 entries
_FINE_SIGMA: Final = 256
_STEP: Final = _FINE_SIGMA // 4  # m; with sigma > 1024 this leaves sigma_B > 15
_PRECISION: Final = 192  # bits of the arithmetic that builds a table

Integers = npt.NDArray[np.int64]


class _Table:
    """Cumulative distribution of one discrete Gaussian over [-reach, reach], in units of 2^-128."""

    def __init__(self, sigma: float) -> None:
        self.reach = int(np.ceil(CUT * sigma))
        upper = _cumulative(sigma, self.reach)
        self._high = np.array([value >> 64 for value in upper], np.uint64)
        self._low = [value & (2**64 - 1) for value in upper]

    def draw(self, count: int, stream: Stream) -> Integers:
        first = stream.uint64(count)
        index = np.searchsorted(self._high, first, side="left")
        for tied in np.flatnonzero(self._high[np.minimum(index, len(self._high) - 1)] == first):
            index[tied] = self._decide(int(index[tied]), int(first[tied]), int(stream.uint64(1)[0]))
        return index - self.reach

    def _decide(self, index: int, high: int, low: int) -> int:
        # the value is the first entry that is greater than the whole 128-bit number
        while index < len(self._low) - 1 and (int(self._high[index]), self._low[index]) <= (high, low):
            index += 1
        return index


def _cumulative(sigma: float, reach: int) -> list[int]:
    with mpmath.workprec(_PRECISION):
        two_variance = 2 * mpmath.mpf(sigma) ** 2
        half = [mpmath.exp(-mpmath.mpf(k * k) / two_variance) for k in range(reach + 1)]
        weights = [*reversed(half[1:]), *half]
        total, running, upper = mpmath.fsum(weights), mpmath.mpf(0), []
        for weight in weights:
            running += weight
            upper.append(min(int(mpmath.floor(running / total * 2**128)), 2**128 - 1))
    upper[-1] = 2**128 - 1
    return upper


@lru_cache(maxsize=16)
def _table(sigma: float) -> _Table:
    return _Table(sigma)


class DiscreteGaussian:
    """The discrete Gaussian on the integers, P(k) proportional to exp(-k^2 / (2 sigma^2)); sigma at least 0.5."""

    def __init__(self, sigma: float) -> None:
        if not 0.5 <= sigma < 2.0**40:
            raise ValueError(f"sigma must be from 0.5 to 2^40, got {sigma}")
        self.sigma = sigma
        self._factors = _decompose(sigma)

    @property
    def reach(self) -> int:
        """No value is larger than this in magnitude."""
        return sum(factor * _table(part).reach for factor, part in self._factors)

    def draw(self, count: int, stream: Stream) -> Integers:
        """`count` independent values, int64."""
        total = np.zeros(count, np.int64)
        for factor, part in self._factors:
            total += factor * _table(part).draw(count, stream)
        return total


def _decompose(sigma: float) -> list[tuple[int, float]]:
    """(factor, sigma of a table) pairs whose scaled sum has variance sigma^2."""
    parts: list[tuple[int, float]] = []
    factor, variance = 1, Fraction(sigma) ** 2
    while variance > _LARGEST_TABLE**2:
        parts.append((factor, float(_FINE_SIGMA)))
        variance = (variance - _FINE_SIGMA**2) / _STEP**2
        factor *= _STEP
    return [*parts, (factor, float(variance) ** 0.5)]
