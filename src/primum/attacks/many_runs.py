"""A lower bound on epsilon from independent trials: one canary in many trainings, or many that disturb nobody.

Jagielski, Ullman, Oprea, "Auditing differentially private machine learning", NeurIPS 2020; Nasr et al., "Tight auditing
of differentially private machine learning", USENIX Security 2023. A test that says "in" above a threshold has error
rates FPR and FNR, for which (epsilon, delta) needs 1 - FNR <= e^epsilon FPR + delta and 1 - FPR <= e^epsilon FNR +
delta. Both rates are bounded from above by Clopper and Pearson's exact interval, each at half of 1 - level.

Canaries in directions of their own, with noise that is independent from coordinate to coordinate, are such trials in
one training: what is heard of one says nothing about the others.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import stats

from primum.attacks.one_run import LEVEL

Reals = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Trials:
    """How many trials were with and without the canary, and how many of each the test got wrong."""

    with_it: int
    missed: int
    without_it: int
    false_alarms: int

    def limits(self, level: float = LEVEL) -> tuple[float, float]:
        """Upper limits of FNR and FPR; both hold with probability `level`."""
        error = (1 - level) / 2
        return _upper(self.missed, self.with_it, error), _upper(self.false_alarms, self.without_it, error)


def threshold(scores: Reals, included: Coins, at: float) -> Trials:
    """Say "in" where a score is above `at`, which is fixed before the coins are looked at; scores [n], coins [n]."""
    said = scores > at
    return Trials(
        int(included.sum()), int((included & ~said).sum()), int((~included).sum()), int((~included & said).sum())
    )


def epsilon_of_trials(trials: Trials, delta: float, level: float = LEVEL) -> float:
    """The epsilon that both error rates need at `delta`, at their upper limits; never below 0.

    An (epsilon, delta)-private training gives a larger figure than epsilon with probability 1 - `level` at most.
    """
    missed, alarms = trials.limits(level)
    needed = ((1 - delta - missed) / alarms, (1 - delta - alarms) / missed)
    return max(math.log(max(ratio, 1.0)) for ratio in needed)


def _upper(wrong: int, count: int, error: float) -> float:
    """Clopper and Pearson's upper limit of a rate; 1 where there was no trial."""
    return float(stats.beta.ppf(1 - error, wrong + 1, count - wrong)) if wrong < count else 1.0
