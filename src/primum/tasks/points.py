"""Points of a ROC curve that a study chooses: where specificity, or sensitivity, is at least so much."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from primum.study import Evaluation

_SLACK: Final = 1e-12  # of a share of so many images

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Points:
    """The least specificities, and the least sensitivities, at which a study wants to know the other of the two."""

    specificities: tuple[float, ...] = ()
    sensitivities: tuple[float, ...] = ()

    @classmethod
    def of(cls, evaluation: Evaluation | None) -> "Points":
        """Those that the study names."""
        return cls(evaluation.at_specificity, evaluation.at_sensitivity) if evaluation else cls()

    def on(self, false: Floats, true: Floats) -> Iterator[tuple[dict[str, Any], int]]:
        """What was asked, and its place on a curve of false and true positive rates from (0, 0) to (1, 1), both rising.

        Of all places that reach what was asked it is the one at which the other of the two is best.
        """
        for least in self.specificities:
            yield {"asked": "specificity", "at_least": least}, int(np.flatnonzero(1 - false >= least - _SLACK)[-1])
        for least in self.sensitivities:
            yield {"asked": "sensitivity", "at_least": least}, int(np.flatnonzero(true >= least - _SLACK)[0])


NO_POINTS: Final = Points()
