"""Learning a class for each image: the loss, and what a private look counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from primum.models.answers import probabilities_of
from primum.models.linear import logits_of
from primum.tasks.figures import binary_figures, chances_figures, confusion_figures
from primum.tasks.points import NO_POINTS, Points

BINS: Final = 8  # of a score; more carry more noise than resolution at a few hundred patients
FINE: Final = 64  # where there is no noise

Cells = npt.NDArray[np.int64]


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each example, [n]: outputs [n, classes] (or [n, 1] for two), target [n]."""
    return nn.functional.cross_entropy(logits_of(outputs), target, reduction="none")


@dataclass(frozen=True)
class Classification:
    """One of so many classes for each image. `exact`: no noise is added, so that finer and more tables cost nothing.

    `points`: where exact figures of two classes are told.
    """

    classes: int
    exact: bool = False
    points: Points = NO_POINTS

    @property
    def bins(self) -> int:
        """Of a probability."""
        return max(FINE, self.classes) if self.exact else BINS

    @property
    def table(self) -> tuple[int, ...]:
        """Of a look: true classes, by bins of the second one's probability for two classes, by called ones for more.

        Of more than two classes, where exact: before that table one for each class, by bins of its probability, and one
        of whether the most probable class is right (1, else 0), by bins of its probability.
        """
        if self.classes == 2:
            return self.classes, self.bins
        return (self.classes + 2, self.classes, self.bins) if self.exact else (self.classes, self.classes)

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of each example, [n]."""
        return loss(outputs, target)

    def cells(self, outputs: Tensor, labels: Tensor, patients: Sequence[Sequence[int]]) -> tuple[Cells, Cells]:
        """Row and column of each patient in each table, from the mean probabilities over the patient's images."""
        probabilities = probabilities_of(outputs).double().numpy()
        means = np.array([probabilities[images].mean(0) for images in patients])
        rows = labels.numpy()[[images[0] for images in patients]]
        bins = np.clip((means * self.bins).astype(np.int64), 0, self.bins - 1)
        if self.classes == 2:
            return rows, bins[:, 1]
        called = means.argmax(1)
        if not self.exact:
            return rows, called
        right = (called == rows).astype(np.int64)
        columns = np.concatenate([bins, bins.max(1, keepdims=True), called[:, None]], axis=1)
        return np.stack([*[rows] * self.classes, right, rows], axis=1), columns

    def figures(self, counts: npt.NDArray[np.float64], noise: float) -> dict[str, Any]:
        """Accuracy and what else the counts tell, with intervals; counts as `table`, with noise of that deviation."""
        if self.classes == 2:
            return binary_figures(counts, noise, self.points)
        if counts.ndim == 2:
            return confusion_figures(counts, noise)
        return chances_figures(counts)
