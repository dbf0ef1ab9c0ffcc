"""Learning a class for each image: the loss, and what a private look counts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

from primum.models.answers import probabilities_of
from primum.models.linear import logits_of
from primum.tasks.figures import binary_figures, confusion_figures
from primum.tasks.points import NO_POINTS, Points

BINS: Final = 8  # of a score; more carry more noise than resolution at a few hundred patients
FINE: Final = 64  # where there is no noise

Cells = npt.NDArray[np.int64]


def loss(outputs: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each example, [n]: outputs [n, classes] (or [n, 1] for two), target [n]."""
    return nn.functional.cross_entropy(logits_of(outputs), target, reduction="none")


@dataclass(frozen=True)
class Classification:
    """One of so many classes for each image. `bins`: of a score, in a look; `points`: where its exact figures are told."""

    classes: int
    bins: int = BINS
    points: Points = NO_POINTS

    @property
    def table(self) -> tuple[int, int]:
        """Rows and columns of a look: true classes, by bins of the score for two classes, by predicted ones for more."""
        return self.classes, self.bins if self.classes == 2 else self.classes

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Cross entropy of each example, [n]."""
        return loss(outputs, target)

    def cells(self, outputs: Tensor, labels: Tensor, patients: Sequence[Sequence[int]]) -> tuple[Cells, Cells]:
        """Row and column of each patient, from the mean probabilities over the patient's images.

        The column is the bin of the second class's probability for two classes, else the predicted class.
        """
        probabilities = probabilities_of(outputs).double().numpy()
        means = np.array([probabilities[images].mean(0) for images in patients])
        rows = labels.numpy()[[images[0] for images in patients]]
        if self.classes > 2:
            return rows, means.argmax(1)
        return rows, np.clip((means[:, 1] * self.bins).astype(np.int64), 0, self.bins - 1)

    def figures(self, counts: npt.NDArray[np.float64], noise: float) -> dict[str, Any]:
        """AUC and accuracy, or accuracy alone, with intervals; counts [rows, columns] with noise of that deviation."""
        if self.classes > 2:
            return confusion_figures(counts, noise)
        return binary_figures(counts, noise, self.points)
