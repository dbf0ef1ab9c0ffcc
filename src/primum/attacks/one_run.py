"""A lower bound on epsilon from one training with many canaries, for any mechanism whatsoever.

Steinke, Nasr, Jagielski, "Privacy auditing with one (1) training run", NeurIPS 2023 (arXiv 2305.08846): m canaries are
in or out by independent fair coins S; the auditor sees the output, guesses r of them and is right v times. If the
training is (epsilon, delta)-private for adding or removing a canary, corollary 5.4 (pages 15 and 16; theorem 5.2 with
abstentions) bounds the chance of so many:

    P[right >= v]  <=  P[B >= v]  +  2 m delta max_(1 <= i <= v) P[v - i <= B < v] / i

with B binomial (r, e^epsilon / (1 + e^epsilon)).

Randomised response reaches it at delta = 0. For Gaussian noise it is loose (about a third of the true epsilon at 3 and
1,000 canaries), because no outcome is nearly as telling as all of randomised response's: `trade_off.py` is tighter.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
from scipy import special

LEVEL: Final = 0.95
_LARGEST: Final = 60.0  # epsilon: e^60 is beyond any count
_SHARES: Final = (0.003, 0.01, 0.03, 0.1, 0.3, 0.8)  # of the canaries that are guessed

Reals = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Guesses:
    """m canaries, r guesses, v of them right. ValueError for numbers that cannot be."""

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise ValueError(f"{self.right} right of {self.made} guesses of {self.canaries} canaries")


def guess(scores: Reals, included: Coins, highest: int, lowest: int) -> Guesses:
    """Guess "in" for the `highest` scores and "out" for the `lowest` ones; scores float64 [m], coins bool [m].

    Both numbers must be fixed before the coins are looked at. ValueError where they overlap or a score is not a number.
    """
    if scores.shape != included.shape or not np.isfinite(scores).all():
        raise ValueError("each canary needs one finite score")
    if min(highest, lowest) < 0 or highest + lowest > len(scores):
        raise ValueError(f"{highest} highest and {lowest} lowest of {len(scores)} scores")
    order = np.argsort(scores, kind="stable")
    right = int(included[order[len(order) - highest :]].sum()) + int((~included[order[:lowest]]).sum())
    return Guesses(len(scores), highest + lowest, right)


def chance(guesses: Guesses, epsilon: float, delta: float) -> float:
    """At most this is the probability of so many right guesses under (epsilon, delta): corollary 5.4, at most 1.

    ValueError for an epsilon below 0 or a delta outside [0, 1].
    """
    if not epsilon >= 0 or not 0 <= delta <= 1:
        raise ValueError(f"epsilon {epsilon}, delta {delta}")
    m, r, v = guesses.canaries, guesses.made, guesses.right
    right, wrong = 1 / (1 + math.exp(-epsilon)), 1 / (1 + math.exp(epsilon))
    tail = float(special.betainc(v, r - v + 1, right)) if v else 1.0  # P[B >= v]
    if delta == 0 or v == 0:
        return tail
    k = np.arange(v - 1, -1, -1)
    ways = special.gammaln(r + 1) - special.gammaln(k + 1) - special.gammaln(r - k + 1)
    below = np.cumsum(np.exp(ways + k * math.log(right) + (r - k) * math.log(wrong)))  # P[v - i <= B < v]
    steepest = float((below / np.arange(1, v + 1)).max())
    return min(1.0, tail + 2 * m * delta * steepest)


def epsilon_of_guesses(guesses: Guesses, delta: float, level: float = LEVEL) -> float:
    """The largest epsilon at which so many right guesses have at most the chance 1 - `level`; 0 where there is none.

    A training that is (epsilon, delta)-private gives a larger figure than epsilon with probability 1 - `level` at most.
    """
    return largest(lambda epsilon: chance(guesses, epsilon, delta) <= 1 - level, _LARGEST)


def best_bound(
    scores: Reals, included: Coins, delta: float, level: float = LEVEL, shares: Sequence[float] = _SHARES
) -> float:
    """The best of several numbers of guesses, half "in", half "out", each at its part of 1 - `level` (union bound)."""
    halves = {max(1, round(share * len(scores) / 2)) for share in shares}
    each = 1 - (1 - level) / len(halves)
    return max(epsilon_of_guesses(guess(scores, included, half, half), delta, each) for half in halves)


def largest(holds: Callable[[float], bool], most: float, exact: float = 1e-4) -> float:
    """The largest x in [0, `most`] up to which `holds`, to `exact` and never above it; 0 where it never does."""
    low, high = 0.0, most
    if holds(high):
        return high
    while high - low > exact:
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
