"""How far what a model calls agrees with what is true: F1, Matthews' correlation coefficient, weighted kappa.

Each from a table of counts [true, called], with its slope by each count: what one image more in that cell adds to the
figure. Slopes are 0 on the whole, weighed by the counts; their spread is that of the figure (delta method).

Sources: Gorodkin, Comput. Biol. Chem. 28, 2004 (Matthews' coefficient of several classes); Cohen, Psychological Bulletin
70, 1968 (kappa with weights (i - j)^2).
"""

import math

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.float64]


def f1(counts: Counts, only: int | None = None) -> tuple[float, Counts]:
    """F1 of class `only`, or its mean over the classes that are true or called of somebody; and the slopes.

    1 where there is no such class.
    """
    either = counts.sum(1) + counts.sum(0)
    classes = [k for k in (range(len(counts)) if only is None else [only]) if either[k] > 0]
    total, slopes = 0.0, np.zeros_like(counts)
    for k in classes:
        value = 2 * float(counts[k, k]) / float(either[k])
        total += value
        slopes[k] -= value / either[k]
        slopes[:, k] -= value / either[k]
        slopes[k, k] += 2 / either[k]
    return (total / len(classes), slopes / len(classes)) if classes else (1.0, slopes)


def matthews(counts: Counts) -> tuple[float, Counts]:
    """Matthews' correlation coefficient and its slopes; 0 with slopes 0 where all are of one class or all called one."""
    total, right = float(counts.sum()), float(np.trace(counts))
    true, said = counts.sum(1), counts.sum(0)
    of_true, of_said = total**2 - float(true @ true), total**2 - float(said @ said)
    if min(of_true, of_said) <= 0:
        return 0.0, np.zeros_like(counts)
    scale = math.sqrt(of_true) * math.sqrt(of_said)
    value = (right * total - float(true @ said)) / scale
    above = total * np.eye(len(counts)) + right - said[:, None] - true[None]
    below = (total - true)[:, None] / of_true + (total - said)[None] / of_said
    return value, above / scale - value * below


def weighted_kappa(counts: Counts, noise: float = 0.0) -> tuple[float, Counts]:
    """Quadratically weighted kappa and its slopes; NaN, with zeros, where all are of one grade.

    `noise`: the standard deviation of each count; what it adds on average, half its square times the sum of second
    derivatives, is taken off.
    """
    places = np.arange(len(counts))
    weights = np.subtract.outer(places, places).astype(np.float64) ** 2
    total, rows, columns = counts.sum(), counts.sum(1), counts.sum(0)
    seen, expected = float((weights * counts).sum()), float(rows @ weights @ columns)
    if expected <= 0:
        return math.nan, np.zeros_like(counts)
    ratio = total * seen / expected
    above = (seen + total * weights) / expected  # slopes of total * seen and of expected, over expected
    below = ((weights @ columns)[:, None] + (rows @ weights)[None]) / expected
    bends = 2 * (weights * (1 - ratio) / expected - above * below + ratio * below**2)
    return 1 - ratio + noise**2 / 2 * float(bends.sum()), ratio * below - above
