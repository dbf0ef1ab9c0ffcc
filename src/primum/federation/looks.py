"""Looks at the hospitals' evaluation patients in one run: when one is due, what they found, which model was the best.

looks.jsonl has a line for each look that was begun, also for those that failed: hospitals charge some of them. So has
survey.jsonl for the survey that a study may begin with, which is charged as a look.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from primum.disk import write
from primum.federation.runs import Run
from primum.study import Study

LOOKS: Final = "looks.jsonl"
SURVEYS: Final = "survey.jsonl"
_BEST: Final = "best.weights"
_FIGURES: Final = ("dice", "auc", "kappa", "accuracy")

Figures = dict[str, Any]
Weights = npt.NDArray[np.float32]
Totals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Looks:
    """The looks of one run, on disk."""

    run: Run
    study: Study

    @property
    def lines(self) -> list[dict[str, Any]]:
        """All looks so far: round, attempt, and figures or why it failed."""
        return self.run.lines(LOOKS)

    @property
    def left(self) -> int:
        """How many more the study has; what failed before a hospital's table had left is not charged. A survey that is
        still to come is kept for it."""
        charged, surveys = _charged(self.lines), max(self.study.surveys, _charged(self.run.lines(SURVEYS)))
        return max(0, self.study.looks + self.study.surveys - charged - surveys)

    @property
    def surveys_left(self) -> int:
        """How often the survey may be tried; what was charged for it in vain is missing at the looks."""
        return self.study.looks + self.study.surveys - _charged(self.run.lines(SURVEYS))

    @property
    def survey(self) -> Totals | None:
        """What came out of the survey, float64; None as long as nothing has."""
        found = [line["totals"] for line in self.run.lines(SURVEYS) if "totals" in line]
        return np.array(found[0], np.float64) if found else None

    def note_survey(self, attempt: int, totals: Totals, hospitals: int) -> None:
        """What came out of it, summed over so many."""
        self.run.append(SURVEYS, {"attempt": attempt, "hospitals": hospitals, "totals": totals.tolist()})

    def note_failed_survey(self, attempt: int, why: str, charged: bool) -> None:
        """One that brought nothing; `charged` if a hospital's sums had left."""
        self.run.append(SURVEYS, {"attempt": attempt, "failed": why, "charged": charged})

    def due(self, rounds: int) -> bool:
        """Whether one is to be taken after so many rounds; the last one of a study is for its end."""
        every = self.study.training.look_every
        if not every or rounds % every or rounds >= self.study.training.rounds:
            return False
        return self.left > 1 and all(line["round"] != rounds for line in self.lines)

    def note_failed(self, rounds: int, attempt: int, why: str, charged: bool) -> None:
        """A look that brought nothing; `charged` if a hospital's table had left."""
        self.run.append(LOOKS, {"round": rounds, "attempt": attempt, "failed": why, "charged": charged})

    def note(self, rounds: int, attempt: int, figures: Figures, weights: Weights) -> None:
        """A look's figures; the model is kept if it is the best so far."""
        best = self.best_figure
        figure = figure_of(figures)
        if figure is not None and (best is None or figure > best):
            write(self.run.folder / _BEST, save({"weights": weights, "round": np.array([rounds], np.int64)}))
        self.run.append(LOOKS, {"round": rounds, "attempt": attempt, "figures": figures})

    @property
    def best_figure(self) -> float | None:
        """The best so far, or None."""
        return max(self._figures, default=None)

    @property
    def enough(self) -> bool:
        """Whether the last `patience` looks brought nothing better than those before."""
        patience, found = self.study.training.patience, self._figures
        return 0 < patience < len(found) and max(found[-patience:]) <= max(found[:-patience])

    def best(self) -> tuple[Weights, int] | None:
        """The weights of the best look and its round."""
        path = self.run.folder / _BEST
        if not path.exists():
            return None
        kept = load(path.read_bytes())
        return kept["weights"], int(kept["round"][0])

    @property
    def _figures(self) -> list[float]:
        found = [figure_of(line["figures"]) for line in self.lines if "figures" in line]
        return [figure for figure in found if figure is not None]


def _charged(lines: Iterable[Mapping[str, Any]]) -> int:
    return sum(bool(line.get("charged", True)) for line in lines)


def figure_of(figures: Figures) -> float | None:
    """What models are compared by: Dice, else the area under the curve (of several classes the mean), else kappa, else
    accuracy; None where there is none."""
    if figures.get("too_few"):
        return None
    return next((float(figures[name]) for name in _FIGURES if name in figures), None)
