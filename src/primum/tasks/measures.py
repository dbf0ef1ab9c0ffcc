"""What a look tells of masks: figures of each patient, and the bins that they are counted in.

| figure of a patient | bins |
|---|---|
| dice | 0 to 1, all of one width |
| volume_error, (found - true) / true pixels | -1 to 1, all of one width; more than twice the volume is in the last of them |
| surface_distance, hausdorff_95 (surface.py) | 0 to a reach, as u^2 of a u from 0 to 1: fine where good models are |

The last bin of all but Dice is of patients who have no such figure: no volume to compare with, no border in both masks.
Of several classes the figure is the mean over those of which the patient has it.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from primum.study import Measure
from primum.tasks.masks import Masks, dice, volume_errors
from primum.tasks.surface import Pieces, surfaces

Floats = npt.NDArray[np.float64]
Cells = npt.NDArray[np.int64]


def edges(measure: Measure, bins: int, reach: float) -> Floats:
    """Where the bins of those who have the figure begin and end: [bins + 1] of Dice, else [bins]."""
    if measure == "dice":
        return np.linspace(0, 1, bins + 1)
    if measure == "volume_error":
        return np.linspace(-1, 1, bins)
    distances: Floats = reach * np.linspace(0, 1, bins) ** 2
    return distances


def bins_of(values: Floats, measure: Measure, bins: int, reach: float) -> Cells:
    """The bin of each patient, [patients]; `values` [patients], NaN where a patient has no such figure."""
    borders = edges(measure, bins, reach)
    found = np.clip(np.searchsorted(borders, values, side="right") - 1, 0, len(borders) - 2)
    return np.where(np.isnan(values), bins - 1, found).astype(np.int64)


def each_patient(
    found: Masks,
    truth: Masks,
    classes: int,
    patients: Sequence[Sequence[int]],
    measures: Sequence[Measure],
    pieces: Pieces,
) -> dict[Measure, Floats]:
    """Of each figure [patients, classes - 1], NaN where a patient has none; only those that are asked."""
    told: dict[Measure, Floats] = {}
    if "dice" in measures:
        told["dice"] = dice(found, truth, classes, patients)
    if "volume_error" in measures:
        told["volume_error"] = volume_errors(found, truth, classes, patients)
    if {"surface_distance", "hausdorff_95"} & set(measures):
        ours, theirs = ([mask.numpy() for mask in masks] for masks in (found, truth))
        both = [surfaces(ours, theirs, kind, patients, pieces).each for kind in range(1, classes)]
        told["surface_distance"], told["hausdorff_95"] = (np.stack([one[:, way] for one in both], 1) for way in (0, 1))
    return {measure: told[measure] for measure in measures}


def mean_of_classes(values: Floats) -> Floats:
    """[patients] of [patients, classes]: over the classes of which a patient has the figure, NaN where of none."""
    known = ~np.isnan(values)
    counts = known.sum(1)
    means: Floats = np.where(known, values, 0).sum(1) / np.maximum(counts, 1)
    return np.where(counts > 0, means, np.nan)
