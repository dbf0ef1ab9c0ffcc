"""Learning which of some classes each image has, any number of them: the loss, and what a private look counts.

A patient with several images has a class if any of the images has it, and its probability is the mean over the images:
a finding on one picture is the patient's, and no picture is thrown away. A look has a table for each class, and a patient is
in one cell of every table: noise is made for a sensitivity of sqrt(classes) (dp/histogram.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from primum.models.answers import probabilities_of
from primum.tasks.classification import BINS, Cells
from primum.tasks.figures import several_figures
from primum.tasks.points import NO_POINTS, Points


@dataclass(frozen=True)
class Several:
    """Any of the classes for each image; their names. `presence`: how much having a class counts beside not having it."""

    names: tuple[str, ...]
    presence: tuple[float, ...] | None = None
    bins: int = BINS
    points: Points = NO_POINTS

    @property
    def table(self) -> tuple[int, int, int]:
        """Of a look: a table for each class, without and with it, by bins of its probability."""
        return len(self.names), 2, self.bins

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Binary cross entropy of each class, its mean over classes of each example, [n]; both [n, classes]."""
        truth = target.to(outputs.dtype)
        weights = None if self.presence is None else outputs.new_tensor(self.presence)
        entropy = nn.functional.binary_cross_entropy_with_logits(outputs, truth, reduction="none", pos_weight=weights)
        return entropy.mean(1)

    def cells(self, outputs: Tensor, labels: Tensor, patients: Sequence[Sequence[int]]) -> tuple[Cells, Cells]:
        """Row and column of each patient in each class's table, [patients, classes]."""
        probabilities, truth = probabilities_of(outputs, "several").double().numpy(), labels.numpy()
        means = np.array([probabilities[images].mean(0) for images in patients])
        rows = np.array([truth[images].max(0) for images in patients])
        return rows, np.clip((means * self.bins).astype(np.int64), 0, self.bins - 1)

    def figures(self, counts: npt.NDArray[np.float64], noise: float) -> dict[str, Any]:
        """Mean AUC and accuracy with intervals, and those of each class; counts [classes, 2, bins], noise as for all."""
        return several_figures(counts, noise, self.names, self.points)
