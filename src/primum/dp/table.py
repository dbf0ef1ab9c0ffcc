"""Alias tables of the discrete Gaussian, whose law is known to the last bit.

A table with 2^k columns and coins of 128 bits can have exactly the laws in which every probability is a whole multiple
of 2^-(128+k). The Gaussian weights are rounded to such multiples (largest remainder, so that they sum to one exactly),
and Vose's construction (1991), in whole numbers, spreads them over the columns without any further error. Of a coin
the last 64 bits are drawn where the first 64 do not decide, once in 2^64 values.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Final

import mpmath
import numpy as np

from primum.kernels import alias

CUT: Final = 12  # standard deviations: the tail beyond is below 2^-107
DIGITS: Final = 256  # centres of a family of tables
COIN: Final = 1 << 128
_FAMILY_COLUMNS: Final = 128
_PRECISION: Final = 256  # bits behind the point of a weight


@dataclass(frozen=True, eq=False)
class Table:
    """One alias table, or a family of 256, one column each for `lowest` on, as the kernels of `alias` take it.

    `distance` bounds the statistical distance (of each table) to the exact discrete Gaussian on all integers.
    """

    arrays: alias.Tables
    lowest: int
    distance: float


def reach(variance: Fraction) -> int:
    """ceil(CUT sigma): where a table of this variance ends."""
    square = CUT**2 * variance
    root = math.isqrt(math.floor(square))
    return root + (root * root < square)


@lru_cache(maxsize=32)
def centred_at_zero(variance: Fraction) -> Table:
    """The discrete Gaussian around 0, uint16 aliases; at most 2^16 columns."""
    end = reach(variance)
    columns = 1 << (2 * end).bit_length()
    thresholds, aliases, distance = _build(variance, Fraction(0), -end, end, columns)
    return Table((*_halves(thresholds), np.array(aliases, np.uint16)), -end, distance)


@lru_cache(maxsize=4)
def family(variance: Fraction) -> Table:
    """The discrete Gaussians around a/256 for all digits a, one after another; 128 columns and uint8 aliases each."""
    end = reach(variance)
    if 2 * end + 2 > _FAMILY_COLUMNS:
        raise ValueError(f"a variance of {float(variance):g} does not fit into {_FAMILY_COLUMNS} columns")
    built = [_build(variance, Fraction(a, DIGITS), -end, end + 1, _FAMILY_COLUMNS) for a in range(DIGITS)]
    thresholds = [threshold for row, _, _ in built for threshold in row]
    aliases = np.array([row for _, row, _ in built], np.uint8).reshape(-1)
    return Table((*_halves(thresholds), aliases), -end, max(distance for *_, distance in built))


def _halves(thresholds: Sequence[int]) -> tuple[alias.Words, alias.Words]:
    """The first and the last 64 bits of each."""
    first, last = zip(*(divmod(threshold, 1 << 64) for threshold in thresholds), strict=True)
    return np.array(first, np.uint64), np.array(last, np.uint64)


def _build(
    variance: Fraction, centre: Fraction, lowest: int, highest: int, columns: int
) -> tuple[list[int], list[int], float]:
    """Thresholds, aliases and distance of one table."""
    weights = _weights(variance, centre, lowest, highest)
    probabilities, rounding = _rounded(weights, COIN * columns)
    return *_spread(probabilities, columns), rounding + _tail(variance, 1 - lowest, sum(weights))


def _weights(variance: Fraction, centre: Fraction, lowest: int, highest: int) -> list[int]:
    """exp(-(k - centre)^2 / (2 variance)) for k from `lowest` to `highest`, in units of 2^-256; errors below 2^-220.

    From k = 0 outwards: two neighbours' ratio changes by exp(-1 / variance) from one pair to the next.
    """
    one = 1 << _PRECISION

    def exponential(exponent: Fraction) -> int:
        with mpmath.workprec(_PRECISION + 64):
            return int(mpmath.floor(mpmath.exp(mpmath.mpf(exponent.numerator) / exponent.denominator) * one))

    def side(ratio: int, count: int) -> list[int]:
        values, value = [], middle
        for _ in range(count):
            value = value * ratio >> _PRECISION
            ratio = ratio * step >> _PRECISION
            values.append(value)
        return values

    middle, step = exponential(-(centre**2) / (2 * variance)), exponential(-1 / variance)
    above = side(exponential((2 * centre - 1) / (2 * variance)), highest)
    below = side(exponential(-(2 * centre + 1) / (2 * variance)), -lowest)
    return [*reversed(below), middle, *above]


def _rounded(weights: Sequence[int], total: int) -> tuple[list[int], float]:
    """Whole numbers in the ratio of `weights` that sum to `total` exactly, and their statistical distance to it."""
    whole = sum(weights)
    parts, remainders = map(list, zip(*(divmod(weight * total, whole) for weight in weights), strict=True))
    missing = total - sum(parts)
    upwards = sorted(range(len(weights)), key=remainders.__getitem__, reverse=True)[:missing]
    for i in upwards:
        parts[i] += 1
        remainders[i] = whole - remainders[i]
    return parts, float(Fraction(sum(remainders), 2 * whole * total)) + 2.0**-200


def _spread(probabilities: Sequence[int], columns: int) -> tuple[list[int], list[int]]:
    """Thresholds and aliases of the columns, by Vose's construction; `probabilities` sum to columns 2^128."""
    left = [*probabilities, *[0] * (columns - len(probabilities))]
    thresholds, aliases = [0] * columns, list(range(columns))
    small = [i for i in range(columns) if left[i] < COIN]
    large = [i for i in range(columns) if left[i] >= COIN]
    while small:
        filled, donor = small.pop(), large[-1]
        thresholds[filled], aliases[filled] = left[filled], donor
        left[donor] -= COIN - left[filled]
        if left[donor] < COIN:
            small.append(large.pop())
    return thresholds, aliases  # what is still large is exactly full: its alias is itself


def _tail(variance: Fraction, first: int, whole: int) -> float:
    """At least the share of the Gaussian `first` or further from its centre; the weights within sum to `whole`."""
    spread = float(variance)
    beyond = 2 * math.exp(-(first**2) / (2 * spread)) / -math.expm1(-first / spread)
    return beyond / (whole / (1 << _PRECISION))
