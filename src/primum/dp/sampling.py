"""Who is in a step: every patient of every hospital with probability q, independently (Poisson), drawn in secret."""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy import stats

from primum.rng import Stream

OVERFLOW_PROBABILITY = 1e-9  # of a study; charged to delta


def draw(groups: Sequence[Sequence[int]], q: float, stream: Stream) -> npt.NDArray[np.int64]:
    """Indices of the examples of one step: each group (patient) with probability q, one of its examples at random."""
    chosen = np.flatnonzero(stream.bernoulli(q, len(groups)))
    return np.array([groups[i][stream.below(len(groups[i]))] for i in chosen.tolist()], np.int64)


def group_by(names: Sequence[str]) -> list[list[int]]:
    """Indices of equal names together, in order of first appearance: images by patient."""
    groups: Mapping[str, list[int]] = {name: [] for name in names}
    for index, name in enumerate(names):
        groups[name].append(index)
    return list(groups.values())


def public_maximum(units: int, q: float, steps: int) -> int:
    """The batch size that no step of the study exceeds, but with probability 1e-9.

    `units` is the study's public number of patients (or images) in all hospitals together, so the maximum tells nothing
    about one of them. A batch is padded to it: time and memory would show its size.
    """
    if q >= 1:
        return units
    return int(min(units, stats.binom.isf(OVERFLOW_PROBABILITY / steps, units, q) + 1))
