"""Confidence intervals of figures between bounds, from their variance.

Sources: Wilson, JASA 22, 1927; Rao and Scott, Annals of Statistics 15, 1987 (as many trials as would vary as much).
"""

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

LEVEL: Final = 0.95
"""Level of all confidence intervals, unless told otherwise."""

CALIBRATION_BINS: Final = 10
"""Of probabilities, where they are compared with what is true."""

_NOTHING: Final = 1e-12  # of a variance
_Z: Final = NormalDist().inv_cdf((1 + LEVEL) / 2)

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Interval:
    """A figure and its confidence interval."""

    value: float
    low: float
    high: float

    def named(self, name: str) -> dict[str, float]:
        """`name`, and `name`_low and `name`_high where they are finite."""
        told = {name: self.value, f"{name}_low": self.low, f"{name}_high": self.high}
        return {key: value for key, value in told.items() if math.isfinite(value)}

    def stretched(self, factor: float, shift: float = 0.0) -> "Interval":
        """The interval of factor * figure + shift; `factor` above 0."""
        return Interval(*(factor * one + shift for one in (self.value, self.low, self.high)))


def wilson(share: float, count: float, z: float = _Z) -> tuple[float, float]:
    """Wilson's score interval of a share of `count` trials."""
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2)) / (1 + z**2 / count)
    return max(0.0, middle - half), min(1.0, middle + half)


def of_share(value: float, variance: float, trials: float) -> Interval:
    """Of a figure from 0 to 1: Wilson's, for as many trials as would vary as much; where nothing varies for `trials`.

    Does not end at 1 where all went right, as value +- 1.96 deviations would.
    """
    inside = min(1.0, max(0.0, value))
    vary = inside * (1 - inside)
    return Interval(value, *wilson(inside, vary / variance if min(vary, variance) > _NOTHING else trials))


def of_correlation(value: float, variance: float, trials: float) -> Interval:
    """Of a figure from -1 to 1, as `of_share`."""
    return of_share((value + 1) / 2, variance / 4, trials).stretched(2, -1)


def of_distances(gaps: Floats, spreads: Floats, variance: float) -> Interval:
    """Of a sum of absolute values of gaps [n], each known up to a normal error of deviation spreads [n].

    By chance alone such a sum is above 0, and above the true one: the lower end goes down by as much as that may be, for
    gaps not smaller than their own errors allow. `variance`: of the sum where no gap changes its sign.
    """
    value, half = float(np.abs(gaps).sum()), _Z * math.sqrt(variance)
    least = np.maximum(np.abs(gaps) - _Z * spreads, 0.0)
    by_chance = sum(_above(float(gap), float(spread)) for gap, spread in zip(least, spreads, strict=True))
    return Interval(value, max(0.0, value - by_chance - half), min(1.0, value + half))


def of_patients(values: Floats, least: float = -math.inf, most: float = math.inf) -> Interval | None:
    """Of a mean over patients [n], Student's t, within the bounds; NaN is of a patient who has no such figure.

    None where nobody has it. Of one patient alone nothing is known of how patients differ: from `least` to `most`. Where
    all are alike, between finite bounds as `of_share`: so many that are alike do not say that all are.
    """
    known = values[~np.isnan(values)]
    count = len(known)
    if not count:
        return None
    mean = float(known.mean())
    if count == 1:
        return Interval(mean, least, most)
    spread, reach = float(known.std(ddof=1)), most - least
    if not spread and math.isfinite(reach):
        return of_share((mean - least) / reach, 0.0, count).stretched(reach, least)
    half = float(special.stdtrit(count - 1, (1 + LEVEL) / 2)) * spread / math.sqrt(count)
    return Interval(mean, max(least, mean - half), min(most, mean + half))


def mean_of_patients(
    name: str, values: Floats, least: float = -math.inf, most: float = math.inf
) -> dict[str, float | None]:
    """`of_patients` as `Interval.named`; `name` alone, with None, where nobody has the figure."""
    mean = of_patients(values, least, most)
    return {name: None} if mean is None else {**mean.named(name)}


def _above(gap: float, spread: float) -> float:
    """By how much the mean of abs(gap + error) is above gap, for a normal error of that deviation; gap >= 0."""
    if not spread:
        return 0.0
    ratio = gap / spread
    density = math.sqrt(2 / math.pi) * math.exp(-(ratio**2) / 2)
    return float(spread * (density - ratio * math.erfc(ratio / math.sqrt(2))))
