"""AUC, accuracy and means from a noisy table of counts, with intervals that add the known noise to the chance of the sample.

A table of few patients carries little at a strict epsilon: where an interval is wider than +-0.1 it says so. Without
noise the interval says it, however wide. Intervals of shares and areas are score intervals (Wilson 1927; of areas
Newcombe 2006): where all patients were called right they do not end at 1.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np

from primum.tasks.agreement import Counts, f1, matthews, weighted_kappa
from primum.tasks.intervals import CALIBRATION_BINS, Interval, of_correlation, of_distances, of_share
from primum.tasks.points import NO_POINTS, Points

_Z: Final = 1.96
_TOO_WIDE: Final = 0.1
_TOO_FEW: Final = "too few patients for this epsilon"
_SHARES: Final = np.linspace(0, 1, 10_001)


@dataclass(frozen=True)
class _Estimate:
    """A share or an area, and its variance: by the chance of the sample where the true value is such a one, by the noise."""

    value: float
    by_sample: Callable[[Counts], Counts]
    by_noise: float

    @property
    def half_width(self) -> float:
        """Of an interval that is not cut at 0 and 1."""
        return _half_width(float(self.by_sample(np.array(self.value))) + self.by_noise)

    def figure(self, name: str) -> dict[str, Any]:
        """The value and its interval: all true values from which it is no farther than chance and noise explain."""
        far = _Z * np.sqrt(self.by_sample(_SHARES) + self.by_noise)
        inside = _SHARES[np.abs(_SHARES - self.value) <= far + 1e-9]
        return _bounded(name, self.value, float(inside.min(initial=1)), float(inside.max(initial=0)))


def binary_figures(counts: Counts, noise: float, points: Points = NO_POINTS) -> dict[str, Any]:
    """From counts [2, bins] of negatives and positives by score, each with independent noise of width `noise`."""
    found = _of_two(counts, noise)
    if found is None:
        return nothing(counts, noise)
    return _told(*found, noise) | _called(counts, noise) | _at(counts, noise, points) | verdict(counts, noise)


def _called(counts: Counts, noise: float, only: int | None = None) -> dict[str, Any]:
    """Sensitivity and specificity at probability 1/2, F1 (mean of both classes) and Matthews' correlation coefficient;
    without noise also how far probabilities are off, over the bins of the score. With intervals."""
    half = counts.shape[1] // 2
    told = _sides(counts, half, noise) | _of_table(_at_half(counts), noise * math.sqrt(half), only)
    return told if noise else told | _calibration(_whether_right(counts))


def _whether_right(counts: Counts) -> Counts:
    """[wrong or right, bins] of the probability of the class that is called, from [true, bins of the second class's]."""
    half = counts.shape[1] // 2
    called_first, called_second = counts[:, :half][:, ::-1], counts[:, half:]
    return np.concatenate([np.zeros_like(called_first), called_second + called_first[::-1]], axis=1)


def _at_half(counts: Counts) -> Counts:
    """[true, called] of [true, bins]: who has a probability of 1/2 is called positive."""
    half = counts.shape[1] // 2
    return np.stack([counts[:, :half].sum(1), counts[:, half:].sum(1)], axis=1)


def _calibration(counts: Counts) -> dict[str, Any]:
    """`calibration_error` of counts without noise, [wrong or right, bins of the probability of the class that is called].

    Over `CALIBRATION_BINS`, as of single images: finer ones have fewer patients each, and are off by chance alone.
    """
    total, centres = float(counts.sum()), (np.arange(counts.shape[1]) + 0.5) / counts.shape[1]
    group = (centres * CALIBRATION_BINS).astype(np.int64)
    gaps = np.bincount(group, (counts[1] - counts.sum(0) * centres) / total).astype(np.float64)
    squares = np.bincount(group, (counts[1] * (1 - centres) ** 2 + counts[0] * centres**2) / total**2).astype(float)
    least = float(counts.sum(0) @ (centres * (1 - centres))) / total**2
    variance = max(least, float(squares.sum()) - float(np.abs(gaps).sum()) ** 2 / total)
    return _rounded("calibration_error", of_distances(gaps, np.sqrt(squares), variance))


def _sides(counts: Counts, first: int, noise: float) -> dict[str, Any]:
    """Sensitivity and specificity with their intervals, where bins from the `first` on are called positive."""
    bins, told = counts.shape[1], dict[str, Any]()
    for name, row, right in (("sensitivity", counts[1], slice(first, bins)), ("specificity", counts[0], slice(first))):
        cells = len(row[right])
        share = _accuracy(float(row[right].sum()), float(row.sum()), cells, bins, noise)
        told |= share.figure(name)
    return told


def _at(counts: Counts, noise: float, points: Points) -> dict[str, Any]:
    """`points`, as of images; thresholds are where bins begin. None of a noisy table, whose bins are few."""
    if noise or points == NO_POINTS:
        return {}
    above = np.concatenate([np.zeros((2, 1)), counts[:, ::-1].cumsum(1)], axis=1)  # of the highest bins
    false, true = above / above[:, -1:]
    bins = counts.shape[1]
    told = [
        {**point, "threshold": (bins - place) / bins, **_sides(counts, bins - place, noise)}
        for point, place in points.on(false, true)
    ]
    return {"points": told}


def _of_table(table: Counts, noise: float, only: int | None = None) -> dict[str, float]:
    """F1 (of class `only`, or the mean over classes) and Matthews' correlation coefficient of counts [true, called].

    With intervals; `noise` is that of each count.
    """
    table = np.maximum(table, 0)
    if not table.any():
        return {}
    told = dict[str, float]()
    for name, (value, slopes), of in (("f1", f1(table, only), of_share), ("mcc", matthews(table), of_correlation)):
        told |= _rounded(name, of(value, _variance(table, slopes, noise), _fewest(table)))
    return told


def _variance(table: Counts, slopes: Counts, noise: float) -> float:
    """Of a figure, by the chance of the sample and by the noise of each count."""
    return max(0.0, float((table * slopes**2).sum())) + noise**2 * float((slopes**2).sum())


def _fewest(table: Counts) -> float:
    """Patients of the true class that fewest have, of those that somebody has."""
    true = table.sum(1)
    return float(true[true > 0].min()) if (true > 0).any() else 1.0


def _rounded(name: str, interval: Interval) -> dict[str, float]:
    return _bounded(name, interval.value, interval.low, interval.high)


def _of_two(counts: Counts, noise: float) -> tuple[_Estimate, _Estimate] | None:
    """AUC and accuracy; None where one of the two sides has nobody."""
    negatives, positives = counts
    n, p = float(negatives.sum()), float(positives.sum())
    if n < 1 or p < 1:
        return None
    # negative counts stay: cutting them at 0 would add patients to empty bins and pull the AUC towards 1/2
    order = np.tri(len(negatives), k=-1) + np.eye(len(negatives)) / 2  # [positive's bin, negative's bin]
    value = min(1.0, max(0.0, float(positives @ order @ negatives / (n * p))))
    by_noise = _noise_variance(order - value, negatives, positives, noise)
    half = len(negatives) // 2
    right = float(negatives[:half].sum() + positives[half:].sum())
    accuracy = _accuracy(right, n + p, counts.size // 2, counts.size, noise)
    return _Estimate(value, partial(_sampling_variance, negatives=n, positives=p), by_noise), accuracy


def several_figures(counts: Counts, noise: float, names: Sequence[str], points: Points = NO_POINTS) -> dict[str, Any]:
    """From counts [classes, 2, bins], a table as for `binary_figures` of each class; `noise` is that of each count.

    `auc` and `accuracy`: means over the classes of whom there are patients with and without it; `by_class` has those of
    each class, or that it has too few. Noise is independent from class to class. The patients are the same ones: that
    part of the mean's deviation is taken to be the mean deviation, as if classes went together, and is no less.
    """
    each = [_of_two(table, noise) for table in counts]
    known = [found for found in each if found is not None]
    if not known:
        return nothing(counts, noise)
    auc, accuracy = (_mean([found[place] for found in known]) for place in (0, 1))
    by_class = {
        name: _told(*found, noise) | _called(table, noise, only=1) | _at(table, noise, points)
        if found is not None
        else _none(noise)
        for name, found, table in zip(names, each, counts, strict=True)
    }
    tables = [table for found, table in zip(each, counts, strict=True) if found is not None]
    return _told(auc, accuracy, noise) | _mean_f1(tables, noise) | {"by_class": by_class} | verdict(counts, noise)


def _mean_f1(tables: Sequence[Counts], noise: float) -> dict[str, float]:
    """Mean over classes of F1 of having each; its deviation as of the other means (`several_figures`)."""
    halves = [np.maximum(_at_half(table), 0) for table in tables]
    told = [(f1(half, only=1), half) for half in halves]
    deviation = sum(
        math.sqrt(_variance(half, slopes, noise * math.sqrt(tables[0].shape[1] // 2))) for (_, slopes), half in told
    )
    fewest = min(_fewest(half) for half in halves)
    mean = sum(value for (value, _), _ in told) / len(told)
    return _rounded("f1", of_share(mean, (deviation / len(told)) ** 2, fewest))


def _told(auc: _Estimate, accuracy: _Estimate, noise: float) -> dict[str, Any]:
    return auc.figure("auc") | accuracy.figure("accuracy") | too_few(auc.half_width, noise)


def _mean(estimates: Sequence[_Estimate]) -> _Estimate:
    count = len(estimates)

    def by_sample(share: Counts) -> Counts:
        total: Counts = sum((np.sqrt(one.by_sample(share)) for one in estimates), np.zeros_like(share))
        return (total / count) ** 2

    return _Estimate(
        sum(one.value for one in estimates) / count, by_sample, sum(one.by_noise for one in estimates) / count**2
    )


def confusion_figures(counts: Counts, noise: float) -> dict[str, Any]:
    """From counts [classes, classes], true by predicted, each with independent noise of width `noise`."""
    total = float(counts.sum())
    if total < 1:
        return nothing(counts, noise)
    accuracy = _accuracy(float(np.trace(counts)), total, len(counts), counts.size, noise)
    figures = accuracy.figure("accuracy")
    return figures | _of_table(counts, noise) | verdict(counts, noise) | too_few(accuracy.half_width, noise)


def chances_figures(counts: Counts) -> dict[str, Any]:
    """From counts without noise, [classes + 2, classes, bins], as `Classification.table` has them for several classes.

    Beside what the last table tells: `auc`, the mean over classes of each one's area against the rest, and
    `calibration_error` of the most probable class.
    """
    classes = counts.shape[1]
    figures = confusion_figures(counts[-1][:, :classes], 0.0)
    if "accuracy" not in figures:
        return figures | verdict(counts, 0.0)
    sides = (np.stack([table.sum(0) - table[kind], table[kind]]) for kind, table in enumerate(counts[:classes]))
    known = [found[0] for found in (_of_two(table, 0.0) for table in sides) if found is not None]
    areas = _mean(known).figure("auc") if known else {}
    return areas | figures | _calibration(counts[-2][:2]) | verdict(counts, 0.0)


def ordered_figures(counts: Counts, noise: float) -> dict[str, Any]:
    """From counts [grades, grades], true by called, as `confusion_figures`; with the distance in grades.

    Also `mae`: mean absolute error in grades; `kappa`: quadratically weighted, 1 where all agree, 0 as by chance, below 0
    where worse. Kappa is left out where the counts do not say how grades are spread.
    """
    figures, total = confusion_figures(counts, noise), float(counts.sum())
    if "accuracy" not in figures:
        return figures
    off = np.abs(np.subtract.outer(np.arange(len(counts)), np.arange(len(counts)))).astype(np.float64)
    mae = min(float(off.max()), max(0.0, float((counts * off).sum()) / total))
    centred = (off - mae) ** 2
    spread = max(0.0, float((counts * centred).sum())) / total**2 + noise**2 * float(centred.sum()) / total**2
    most = float(off.max())
    error = of_share(mae / most, spread / most**2, max(1.0, total)).stretched(most)
    return figures | _rounded("mae", error) | _kappa(counts, noise)


def _kappa(counts: Counts, noise: float) -> dict[str, float]:
    value, slopes = weighted_kappa(counts, noise)
    if not math.isfinite(value):
        return {}
    variance = _variance(counts, slopes, noise)
    return _rounded("kappa", of_correlation(min(1.0, max(-1.0, value)), variance, _fewest(counts)))


def mean_figure(counts: Counts, noise: float, name: str, edges: Counts) -> dict[str, float]:
    """The mean of a figure, with its interval, from how many patients are in each of its bins; noise as above.

    `edges`: [bins + 1]; counts after those bins are of patients who have no such figure. Empty where nobody has it.
    """
    counts, centres = counts[: len(edges) - 1], (edges[1:] + edges[:-1]) / 2
    total = float(counts.sum())
    if total < 1:
        return {}
    least, most = float(edges[0]), float(edges[-1])
    mean = min(most, max(least, float(counts @ centres) / total))
    spread = max(0.0, float(counts @ (centres - mean) ** 2) / total)
    variance = spread / total + noise**2 * float(((centres - mean) ** 2).sum()) / total**2
    half_bin = float(np.maximum(counts, 0) @ np.diff(edges)) / 2 / float(np.maximum(counts, 0).sum())
    return _figure(name, mean, variance, (least, most), wider=half_bin)  # nobody knows where in its bin a patient is


def _noise_variance(centred: Counts, negatives: Counts, positives: Counts, noise: float) -> float:
    """Variance of the AUC by the noise of the counts: both first-order terms and their product.

    `centred` [bins, bins] is the comparison of a positive's bin with a negative's, less the AUC.
    """
    n, p = negatives.sum(), positives.sum()
    by_positives, by_negatives = centred @ negatives / (n * p), positives @ centred / (n * p)
    first = noise**2 * float(by_positives @ by_positives + by_negatives @ by_negatives)
    return first + noise**4 * float((centred**2).sum()) / float(n * p) ** 2


def _accuracy(right: float, total: float, right_cells: int, cells: int, noise: float) -> _Estimate:
    value = min(1.0, max(0.0, right / total))
    # derivative of right / total: (1 - value) / total for a right cell, -value / total for a wrong one
    spread = noise**2 * (right_cells * (1 - value) ** 2 + (cells - right_cells) * value**2) / total**2
    return _Estimate(value, lambda share: share * (1 - share) / total, spread)


def _sampling_variance(auc: Counts, negatives: float, positives: float) -> Counts:
    """Hanley and McNeil 1982, equation 2."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return np.maximum(0.0, spread / (negatives * positives))


def _half_width(variance: float) -> float:
    return _Z * math.sqrt(max(variance, 0.0))


def _figure(
    name: str, value: float, variance: float, bounds: tuple[float, float] = (0.0, 1.0), wider: float = 0.0
) -> dict[str, Any]:
    half, (least, most) = _half_width(variance) + wider, bounds
    return _bounded(name, value, max(least, value - half), min(most, value + half))


def _bounded(name: str, value: float, low: float, high: float) -> dict[str, Any]:
    """The figure between its bounds, rounded; a bound that the grid put on the wrong side of the value is the value."""
    ends = {f"{name}_low": round(min(low, value), 4), f"{name}_high": round(max(high, value), 4)}
    return {name: round(value, 4)} | ends


def verdict(counts: Counts, noise: float) -> dict[str, Any]:
    """The table itself and the noise of each count: the figures can be computed again. Of exact ones also `patients`."""
    told = {"counts": np.round(counts, 4).tolist(), "noise": round(noise, 3)}
    return told if noise else told | {"patients": round(float(counts.sum()) / math.prod(counts.shape[:-2]))}


def too_few(half_width: float, noise: float) -> dict[str, Any]:
    """Whether an interval is so wide that a noisy figure says little; one without noise is what it is."""
    wide = noise > 0 and half_width > _TOO_WIDE
    return {"too_few": wide, **({"text": _TOO_FEW} if wide else {})}


def nothing(counts: Counts, noise: float) -> dict[str, Any]:
    """What is told where there are no figures."""
    return _none(noise) | verdict(counts, noise)


def _none(noise: float) -> dict[str, Any]:
    return {"too_few": True, "text": _TOO_FEW if noise else "too few patients"}
