"""Discrete Gaussian integers (Canonne, Kamath, Steinke 2020) from AES-CTR.

Floating-point Gaussian noise leaks through its lowest bits (Mironov, CCS 2012); integers do not, and sums of them are
exact. Values come from alias tables whose laws are known to the last bit (`table.py`), cut at 12 standard deviations.

A sigma above 170 is A + m B with sigma^2 = sigma_A^2 + m^2 sigma_B^2, sigma_A = 3 m and sigma_B > 3: tables of at most
4096 columns, which stay in the cache. Let 1/t^2 = m^2/sigma_A^2 + 1/sigma_B^2. The chance of k is exp(-k^2 / 2 sigma^2)
times a sum over the integers b of exp(-(b - x)^2 / 2 t^2), x = k m sigma_B^2 / sigma^2. By Poisson summation that sum
does not depend on x, up to a factor 1 +- 2.1 exp(-2 pi^2 t^2) (the convolution lemma of Peikert, CRYPTO 2010, section
3). Here t^2 > 4.5 and the error is below 2^-126.
"""

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.table import Table, centred_at_zero
from primum.kernels import alias
from primum.rng import Stream

CHUNK: Final = 1 << 14  # values whose random words are in the cache at a time
_WIDEST_TABLE: Final = 170  # standard deviation: 4081 integers
_STEP: Final = 40  # m
_FINE: Final = Fraction((3 * _STEP) ** 2)  # variance of A

Integers = npt.NDArray[np.int64]
Whole = npt.NDArray[np.int32] | npt.NDArray[np.int64]


class DiscreteGaussian:
    """The discrete Gaussian on the integers, P(k) proportional to exp(-k^2 / (2 sigma^2)); sigma from 0.5 to 2^40.

    3 to 5 ns a value and table: one table up to sigma 170, two up to 6,800, three up to 270,000.
    """

    def __init__(self, sigma: float, variance: Fraction | None = None) -> None:
        """`variance`, where it is given, is meant to the last bit, and sigma is its rounded root."""
        if not 0.5 <= sigma < 2.0**40:
            raise ValueError(f"sigma must be from 0.5 to 2^40, got {sigma}")
        self.sigma = sigma
        self._variance = Fraction(sigma) ** 2 if variance is None else variance

    @cached_property
    def _tables(self) -> list[tuple[int, Table]]:
        return [(factor, centred_at_zero(variance)) for factor, variance in _decompose(self._variance)]

    @property
    def reach(self) -> int:
        """No value is larger than this in magnitude."""
        return sum(factor * -table.lowest for factor, table in self._tables)

    @property
    def distance(self) -> float:
        """A bound on the statistical distance of one value to the exact discrete Gaussian; below 2^-104.

        Rounding of the tables and what they cut off, computed when they are built, and the convolution error.
        """
        seams = (len(self._tables) - 1) * convolution_error(_FINE / _STEP**2, Fraction(9))
        return sum(table.distance for _, table in self._tables) + seams

    def draw(self, count: int, stream: Stream) -> Integers:
        """`count` independent values, int64."""
        total = np.zeros(count, np.int64)
        self.add_to(total, stream)
        return total

    def add_to(self, out: Whole, stream: Stream) -> None:
        """Add an independent value to each of `out` int32 or int64 [n], in place; 160 kB of memory.

        For each chunk of 2^14 values and each table, the stream gives index words (uint16) and more (see `Drawer`).
        ValueError where a value of this sigma may not fit into `out`.
        """
        if self.reach > np.iinfo(out.dtype).max:
            raise ValueError(f"noise of sigma {self.sigma:g} does not fit into {out.dtype}")
        drawer = Drawer(stream, np.uint16)
        for part in chunks(out):
            for factor, table in self._tables:
                drawer.draw(alias.add_drawn, part, table, factor)


class Drawer:
    """Gives a kernel of `alias` its words, for at most CHUNK values at a time: index words, coins, then a spare word.

    A kernel that took the spare word before its last value gets another for the rest.
    """

    def __init__(self, stream: Stream, index: type[np.uint8] | type[np.uint16]) -> None:
        self._stream = stream
        self._indices, self._coins = np.empty(CHUNK, index), np.empty(CHUNK, np.uint64)

    def draw(self, kernel: Callable[..., int], out: Whole, table: Table, *numbers: int) -> None:
        """Let `kernel` change all of `out` by `table`; `numbers` are what else it takes."""
        indices, coins = self._indices[: len(out)], self._coins[: len(out)]
        self._stream.fill(indices)
        self._stream.fill(coins)
        done = 0
        while done < len(out):
            spare = self._stream.uint64()[()]
            done += kernel(out[done:], table.arrays, indices[done:], coins[done:], spare, table.lowest, *numbers)


def chunks(out: Whole) -> Iterator[Whole]:
    """Views of CHUNK values of `out` each, the last one shorter."""
    return (out[start : start + CHUNK] for start in range(0, len(out), CHUNK))


def convolution_error(first: Fraction, second: Fraction) -> float:
    """At least the distance of a sum of two discrete Gaussians (real centres) to the one of the summed variance.

    exp(-2 pi^2 t^2) times 2.2, with t^2 = first second / (first + second).
    """
    return 2.2 * math.exp(-2 * math.pi**2 * float(first * second / (first + second)))


def _decompose(variance: Fraction) -> list[tuple[int, Fraction]]:
    """(factor, variance of a table) pairs whose scaled sum has exactly this variance."""
    parts: list[tuple[int, Fraction]] = []
    factor = 1
    while variance > _WIDEST_TABLE**2:
        parts.append((factor, _FINE))
        variance = (variance - _FINE) / _STEP**2
        factor *= _STEP
    return [*parts, (factor, variance)]
