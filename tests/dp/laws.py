"""Laws of integers, exactly: what the tables draw, and what they should."""

from collections.abc import Mapping
from fractions import Fraction

import mpmath
import numpy as np
from scipy import stats

from primum.kernels.alias import Tables

SMALLEST_P = 1e-6  # a right sampler fails one test in a million runs
BITS = 400

Law = dict[int, int]  # value to probability, in units of one over the sum of them


def thresholds_of(arrays: Tables) -> list[int]:
    """Of all columns, whole, in units of 2^-128."""
    first, rest, _ = arrays
    return [(one << 64) + other for one, other in zip(first.tolist(), rest.tolist(), strict=True)]


def law_of(arrays: Tables, lowest: int, columns: slice = slice(None)) -> Law:
    """Of one table among `arrays`: added up over its `columns`, in units of 2^-128 / columns."""
    law: Law = {}
    first, rest, aliases = (array[columns] for array in arrays)
    for own, (threshold, other) in enumerate(zip(thresholds_of((first, rest, aliases)), aliases.tolist(), strict=True)):
        law[lowest + own] = law.get(lowest + own, 0) + threshold
        law[lowest + other] = law.get(lowest + other, 0) + 2**128 - threshold
    return {value: chance for value, chance in law.items() if chance}


def gaussian(variance: Fraction, centre: Fraction, lowest: int, highest: int) -> dict[int, mpmath.mpf]:
    """Probabilities of the discrete Gaussian on all integers, from `lowest` to `highest`, from the definition."""
    with mpmath.workprec(BITS):
        root, middle = mpmath.sqrt(mpmath.mpf(variance.numerator) / variance.denominator), round(centre)
        far = int(mpmath.ceil(22 * root))  # beyond: below 2^-340

        def weight(k: int) -> mpmath.mpf:
            exponent = -((k - centre) ** 2) / (2 * variance)
            return mpmath.exp(mpmath.mpf(exponent.numerator) / exponent.denominator)

        weights = {k: weight(k) for k in range(min(lowest, middle - far), max(highest, middle + far) + 1)}
        total = mpmath.fsum(weights.values())
        return {k: weights[k] / total for k in range(lowest, highest + 1)}


def distance(law: Mapping[int, int], exact: Mapping[int, mpmath.mpf]) -> float:
    """Statistical distance of a law to an exact one on all integers; what `exact` leaves out counts as missed."""
    with mpmath.workprec(BITS):
        total = sum(law.values())
        inside = mpmath.fsum(abs(mpmath.mpf(law.get(k, 0)) / total - chance) for k, chance in exact.items())
        return float((inside + 1 - mpmath.fsum(exact.values())) / 2)


def chi_square_p(values: np.ndarray, sigma: float, centre: float = 0.0, cells: int = 60) -> float:
    """Pearson's test against the exact probabilities, neighbours merged into cells of at least 1/cells."""
    reach, middle = int(np.ceil(14 * sigma)), round(centre)
    support = np.arange(middle - reach, middle + reach + 1)
    chances = np.exp(-((support - centre) ** 2) / (2 * sigma**2))
    chances /= chances.sum()
    edges, mass = [], 0.0
    for value, chance in zip(support.tolist(), chances.tolist(), strict=True):
        mass += chance
        if mass >= 1 / cells:
            edges.append(value)
            mass = 0.0
    cell_of = np.searchsorted(edges, support, "left")
    expected = np.bincount(cell_of, chances, len(edges) + 1) * len(values)
    observed = np.bincount(np.searchsorted(edges, values, "left"), minlength=len(edges) + 1)
    kept = expected > 5
    statistic = float((((observed - expected) ** 2)[kept] / expected[kept]).sum())
    return float(stats.chi2.sf(statistic, kept.sum() - 1))


def fits_width(values: np.ndarray, sigma: float) -> bool:
    """Chi-square test of the variance around 0, two-sided."""
    statistic = float((values.astype(np.float64) ** 2).sum()) / sigma**2
    tail = min(stats.chi2.cdf(statistic, len(values)), stats.chi2.sf(statistic, len(values)))
    return bool(2 * tail > SMALLEST_P)
