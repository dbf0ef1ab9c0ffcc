"""AUC, accuracy and means from a noisy table of counts, with intervals that add the known noise to the chance of the sample.

A table of few patients carries little at a strict epsilon: where an interval is wider than +-0.1 it says so.
"""

import math
from typing import Any, Final

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]
_Z: Final = 1.96
_TOO_WIDE: Final = 0.1


def binary_figures(counts: Counts, noise: float) -> dict[str, Any]:
    """From counts [2, bins] of negatives and positives by score, each with independent noise of width `noise`."""
    negatives, positives = counts
    n, p = float(negatives.sum()), float(positives.sum())
    if n < 1 or p < 1:
        return _nothing()
    # negative counts stay: cutting them at 0 would add patients to empty bins and pull the AUC towards 1/2
    order = np.tri(len(negatives), k=-1) + np.eye(len(negatives)) / 2  # [positive's bin, negative's bin]
    auc = min(1.0, max(0.0, float(positives @ order @ negatives / (n * p))))
    variance = _sampling_variance(auc, n, p) + _noise_variance(order - auc, negatives, positives, noise)
    half = len(negatives) // 2
    right = float(negatives[:half].sum() + positives[half:].sum())
    return {
        **_figure("auc", auc, variance),
        **_accuracy(right, n + p, counts.size // 2, counts.size, noise),
        **_verdict(counts, noise),
    } | _too_few([_half_width(variance)])


def confusion_figures(counts: Counts, noise: float) -> dict[str, Any]:
    """From counts [classes, classes], true by predicted, each with independent noise of width `noise`."""
    total = float(counts.sum())
    if total < 1:
        return _nothing()
    figures = _accuracy(float(np.trace(counts)), total, len(counts), counts.size, noise)
    half = max(figures["accuracy_high"] - figures["accuracy"], figures["accuracy"] - figures["accuracy_low"])
    return {**figures, **_verdict(counts, noise)} | _too_few([half])


def mean_figures(counts: Counts, noise: float, name: str) -> dict[str, Any]:
    """The mean of a figure between 0 and 1, from how many patients are in each of its bins, [bins]; noise as above."""
    total = float(counts.sum())
    if total < 1:
        return _nothing()
    centres = (np.arange(len(counts)) + 0.5) / len(counts)
    mean = min(1.0, max(0.0, float(counts @ centres) / total))
    spread = max(0.0, float(counts @ (centres - mean) ** 2) / total)
    variance = spread / total + noise**2 * float(((centres - mean) ** 2).sum()) / total**2
    return {**_figure(name, mean, variance), **_verdict(counts[None], noise)} | _too_few([_half_width(variance)])


def _noise_variance(centred: Counts, negatives: Counts, positives: Counts, noise: float) -> float:
    """Variance of the AUC by the noise of the counts: both first-order terms and their product.

    `centred` [bins, bins] is the comparison of a positive's bin with a negative's, less the AUC.
    """
    n, p = negatives.sum(), positives.sum()
    by_positives, by_negatives = centred @ negatives / (n * p), positives @ centred / (n * p)
    first = noise**2 * float(by_positives @ by_positives + by_negatives @ by_negatives)
    return first + noise**4 * float((centred**2).sum()) / float(n * p) ** 2


def _accuracy(right: float, total: float, right_cells: int, cells: int, noise: float) -> dict[str, float]:
    value = min(1.0, max(0.0, right / total))
    # derivative of right / total: (1 - value) / total for a right cell, -value / total for a wrong one
    spread = noise**2 * (right_cells * (1 - value) ** 2 + (cells - right_cells) * value**2) / total**2
    return _figure("accuracy", value, value * (1 - value) / total + spread)


def _sampling_variance(auc: float, negatives: float, positives: float) -> float:
    """Hanley and McNeil 1982, equation 2."""
    q1, q2 = auc / (2 - auc), 2 * auc**2 / (1 + auc)
    spread = auc * (1 - auc) + (positives - 1) * (q1 - auc**2) + (negatives - 1) * (q2 - auc**2)
    return max(0.0, spread / (negatives * positives))


def _half_width(variance: float) -> float:
    return _Z * math.sqrt(max(variance, 0.0))


def _figure(name: str, value: float, variance: float) -> dict[str, float]:
    half = _half_width(variance)
    return {
        name: round(value, 4),
        f"{name}_low": round(max(0.0, value - half), 4),
        f"{name}_high": round(min(1.0, value + half), 4),
    }


def _verdict(counts: Counts, noise: float) -> dict[str, Any]:
    return {"counts": [[round(float(c), 1) for c in row] for row in counts], "noise": round(noise, 3)}


def _too_few(half_widths: list[float]) -> dict[str, Any]:
    too_few = max(half_widths) > _TOO_WIDE
    return {"too_few": too_few, **({"text": "too few patients for this epsilon"} if too_few else {})}


def _nothing() -> dict[str, Any]:
    return {"too_few": True, "text": "too few patients for this epsilon"}
