"""Learning one of ordered classes (grades) for each image: the loss, and what a private look counts.

Each threshold between two grades has a logit of its own, all on the same features; the loss is the sum of their binary
cross entropies (models/answers.py has the source). A patient's images may differ in grade, as two eyes do: the patient's
grade is how many thresholds more than half of the images reach, and the called one how many have a mean probability above
1/2: both sides are counted alike. Of images of one grade it is that grade.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from primum.models.answers import CALLED, at_least
from primum.tasks.classification import Cells
from primum.tasks.figures import ordered_figures


@dataclass(frozen=True)
class Ordered:
    """One of so many ordered classes for each image."""

    classes: int

    @property
    def table(self) -> tuple[int, int]:
        """Of a look: true by called grades."""
        return self.classes, self.classes

    def _reached(self, grades: Tensor) -> Tensor:
        """Which thresholds each grade reaches, bool [n, classes - 1]."""
        return grades[:, None] > torch.arange(self.classes - 1, device=grades.device)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Binary cross entropy of each threshold, their sum of each example, [n]; outputs [n, classes - 1], target [n]."""
        truth = self._reached(target).to(outputs.dtype)
        return nn.functional.binary_cross_entropy_with_logits(outputs, truth, reduction="none").sum(1)

    def cells(self, outputs: Tensor, labels: Tensor, patients: Sequence[Sequence[int]]) -> tuple[Cells, Cells]:
        """True and called grade of each patient."""
        return self._grades(self._reached(labels), patients), self._grades(at_least(outputs), patients)

    def _grades(self, shares: Tensor, patients: Sequence[Sequence[int]]) -> Cells:
        found = shares.double().numpy()
        return np.array([(found[images].mean(0) > CALLED).sum() for images in patients], np.int64)

    def figures(self, counts: npt.NDArray[np.float64], noise: float) -> dict[str, Any]:
        """Accuracy, mean absolute error in grades and weighted kappa, with intervals; counts [true, called]."""
        return ordered_figures(counts, noise)
