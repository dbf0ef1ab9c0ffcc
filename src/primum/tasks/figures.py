"""AUC and accuracy from a noisy table of counts, with intervals that add the known noise to the chance of the sample.

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
    negatives, positives = np.maximum(counts, 0)
    n, p = negatives.sum(), positives.sum()
    if n < 1 or p < 1:
        return _nothing()
    below = np.cumsum(negatives) - negatives / 2
    auc = float(positives @ below / (n * p))
    above = positives.sum() - np.cumsum(positives) + positives / 2
    slopes = np.concatenate([(above / p - auc) / n, (below / n - auc) / p])
    half = len(negatives) // 2
    right = float(negatives[:half].sum() + positives[half:].sum())
    return {
        **_figure("auc", auc, _sampling_variance(auc, n, p) + noise**2 * float(slopes @ slopes)),
        **_accuracy(right, float(n + p), counts.size, noise),
        **_verdict(counts, noise),
    } | _too_few([_half_width(_sampling_variance(auc, n, p) + noise**2 * float(slopes @ slopes))])


def confusion_figures(counts: Counts, noise: float) -> dict[str, Any]:
    """From counts [classes, classes], true by predicted."""
    table = np.maximum(counts, 0)
    if table.sum() < 1:
        return _nothing()
    figures = _accuracy(float(np.trace(table)), float(table.sum()), counts.size, noise)
    return {**figures, **_verdict(counts, noise)} | _too_few([figures["accuracy_high"] - figures["accuracy"]])


def _accuracy(right: float, total: float, cells: int, noise: float) -> dict[str, float]:
    value = right / total
    # derivative of right / total: (1 - value) / total for a right cell, -value / total for a wrong one
    spread = noise**2 * cells * ((1 - value) ** 2 + value**2) / 2 / total**2
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
