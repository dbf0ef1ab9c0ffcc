"""A private look: how good a model is on patients whom no round of training saw, as a noisy table of counts.

And what a study asks before it begins, with the same noise (survey.py).
"""

import math
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from primum.dp import histogram
from primum.dp.sampling import group_by
from primum.models.learned import write_weights
from primum.rng import Stream
from primum.tasks.features import Features
from primum.tasks.learner import Cohort
from primum.tasks.masks import masks_of
from primum.tasks.plan import Plan
from primum.tasks.segmentation import Segmentation
from primum.tasks.windows import Wholes, joined

_ROWS: Final = 64
_OF_PATCHES: Final = 5  # axes
_VOXELS: Final = 1 << 20

Integers = npt.NDArray[np.int32]
Cells = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float32]


def look(plan: Plan, cohort: Cohort, weights: Weights, stream: Stream) -> Integers:
    """One look at a hospital's evaluation patients: noisy counts, one cell a patient (in each table)."""
    rows, columns = patient_cells(plan, cohort, weights)
    return plan.evaluation.share(histogram.counts(rows, columns, plan.task.table), stream)


def survey(plan: Plan, cohort: Cohort, stream: Stream) -> Integers:
    """What patients are like, of one hospital: noisy sums, int32. ValueError where the study does not ask."""
    if plan.sheet is None:
        raise ValueError("nothing was asked")
    pixels = cohort.features[:] if plan.sheet.channels else torch.zeros(0)
    return plan.surveying.share(plan.sheet.sums(cohort.labels, pixels, cohort.patients), stream)


def known_pixels(plan: Plan, cohort: Cohort) -> Cohort:
    """The cohort once the survey is known: where it asked for pixels, their features are those of the plan from now on."""
    if plan.sheet is None or not plan.sheet.channels:
        return cohort
    with torch.no_grad():
        return replace(cohort, features=plan.front_end.features(cohort.features[:]))


def patient_cells(plan: Plan, cohort: Cohort, weights: Weights) -> tuple[Cells, Cells]:
    """Row and column of each patient in the task's table, [patients]; or in each of its tables, [patients, tables].

    Of windows a patient's Dice is that of the blended masks of the patient's pictures: each pixel counts once, and a
    patient is in one cell all the same.
    """
    if not cohort.patients:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    module = plan.module()
    write_weights(module, weights)
    if isinstance(plan.task, Segmentation):
        return plan.task.cells(masks_seen(module, cohort))
    return plan.task.cells(outputs_of(module, cohort.features), cohort.labels, group_by(cohort.patients))


def masks_seen(module: nn.Module, cohort: Cohort) -> Wholes:
    """What is found beside what is true: a mask of each image, of windows of each picture."""
    if cohort.grids:

        def outputs(some: slice) -> Tensor:
            return outputs_of(module, cohort.features[some])

        return joined(outputs, cohort.labels, cohort.patients, cohort.files, cohort.spacing, cohort.grids)
    found, truth = (list(masks.unbind()) for masks in (masks_of(outputs_of(module, cohort.features)), cohort.labels))
    return Wholes(found, truth, cohort.patients, cohort.files, cohort.spacing)


def outputs_of(module: nn.Module, features: Features) -> Tensor:
    """What the learned module gives, some pictures or patches at a time; no gradient is kept."""
    rows = _ROWS if len(features.shape) < _OF_PATCHES else max(1, _VOXELS // math.prod(features.shape[1:]))
    with torch.no_grad():
        return torch.cat([module(features[start : start + rows]) for start in range(0, len(features), rows)])
