"""A private look: how good a model is on patients whom no round of training saw, as a noisy table of counts."""

import math
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from primum.dp import histogram
from primum.dp.sampling import group_by
from primum.models.learned import write_weights
from primum.rng import Stream
from primum.tasks.learner import Cohort
from primum.tasks.plan import Plan

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


def patient_cells(plan: Plan, cohort: Cohort, weights: Weights) -> tuple[Cells, Cells]:
    """Row and column of each patient in the task's table, [patients]; or in each of its tables, [patients, tables]."""
    if not cohort.patients:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    module = plan.module()
    write_weights(module, weights)
    return plan.task.cells(outputs_of(module, cohort.features), cohort.labels, group_by(cohort.patients))


def outputs_of(module: nn.Module, features: Tensor) -> Tensor:
    """What the learned module gives, some pictures or patches at a time; no gradient is kept."""
    rows = _ROWS if features.ndim < _OF_PATCHES else max(1, _VOXELS // math.prod(features.shape[1:]))
    with torch.no_grad():
        return torch.cat([module(features[start : start + rows]) for start in range(0, len(features), rows)])
