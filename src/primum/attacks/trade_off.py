"""A lower bound against the trade-off curve that is claimed, not only against one epsilon of it.

**From one training.** Mahloujifar, Melis, Chaudhuri, "Auditing f-differential privacy in one run", ICML 2025 (arXiv
2410.22235). Coins and guesses as in `one_run.py`. Let p_j be the probability of exactly j right guesses; for each i,

    a_i = sum over j >= i of (j / m) p_j          b_i = sum over j >= i of ((r - j) / m) p_j

Turning one canary's coin turns its right guess into a wrong one and leaves all others: under f-privacy a_(i+1) <= 1 -
f(b_i), so b_i >= f(1 - a_(i+1)) for a symmetric f. Start from P[right >= v] = 1 - level: a_v = (1 - level) v / m and
b_v = (1 - level) (r - v) / m: each i downwards needs at least so much more of b, and with it of a. All of it is
a_0 + b_0 = r / m; where more is needed, the curve is rejected. No mechanism of that curve is rejected more often than
said.

**From independent trials** (`many_runs.py` says when canaries of one training are such), each with a fair coin: no test
errs less often than with probability a, where f(a) = a. The curve is rejected where so few errors are less likely than
1 - level (binomial, exact). For Gaussian noise and enough trials that comes as close to the truth as one likes (Nasr et
al. 2023 do the same with two error rates).

The epsilon of a rejected curve is that of its own accountant at less noise: "if the noise had the law that is claimed,
it is narrower than this". A mechanism with another law altogether is what `one_run.py` is for.
"""

from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from scipy import special, stats

from primum.attacks.many_runs import Trials
from primum.attacks.one_run import LEVEL, Guesses, largest
from primum.dp import account
from primum.dp.account import Steps

_GRID: Final = np.linspace(0.0, 15.0, 151)
_INTERVAL: Final = 1e-2  # of a curve's privacy losses: pessimistic, so that less is rejected
_FINE: Final = 1e-3  # of the figure that is returned
_OCTAVES: Final = 4.0  # narrower and wider noise that is tried
_EXACT: Final = 0.02  # octaves

Reals = npt.NDArray[np.float64]


@dataclass(frozen=True)
class TradeOff:
    """A symmetric trade-off curve, from its privacy profile: delta at each of some epsilons, both float64 [n].

    f(a) = max over epsilon of 0, 1 - delta - e^epsilon a and e^-epsilon (1 - delta - a): Dong, Roth, Su 2022, "Gaussian
    differential privacy", after Wasserman and Zhou 2010. With few epsilons f is too small, and less is rejected.
    """

    epsilons: Reals = field(repr=False)
    deltas: Reals = field(repr=False)

    @classmethod
    def gaussian(cls, mu: float) -> "TradeOff":
        """mu-Gaussian privacy: a normal mean moved by mu standard deviations."""
        deltas = stats.norm.cdf(mu / 2 - _GRID / mu) - np.exp(_GRID) * stats.norm.cdf(-mu / 2 - _GRID / mu)
        return cls(_GRID, np.maximum(deltas, 0.0))

    @classmethod
    @lru_cache(maxsize=256)
    def of(cls, steps: Steps) -> "TradeOff":
        """What the accountant says of `steps`, at all deltas."""
        accountant = PLDAccountant(value_discretization_interval=_INTERVAL)
        accountant.compose(account.event(steps))
        return cls(_GRID, np.array([accountant.get_delta(epsilon) for epsilon in _GRID.tolist()]))

    def __call__(self, error: float) -> float:
        """f at one type 1 error."""
        room = 1 - self.deltas
        steep, flat = room - np.exp(self.epsilons) * error, np.exp(-self.epsilons) * (room - error)
        return max(0.0, float(steep.max()), float(flat.max()))

    @property
    def least_error(self) -> float:
        """No test of a fair coin errs less often: the a with f(a) = a, max of (1 - delta) / (1 + e^epsilon)."""
        return max(0.0, float(((1 - self.deltas) / (1 + np.exp(self.epsilons))).max()))


def rejects(evidence: Guesses | Trials, curve: TradeOff, level: float = LEVEL) -> bool:
    """Whether so much evidence has at most the chance 1 - `level` under `curve`."""
    if isinstance(evidence, Trials):
        wrong, count = evidence.missed + evidence.false_alarms, evidence.with_it + evidence.without_it
        return bool(special.bdtr(wrong, count, curve.least_error) <= 1 - level)
    return _rejects_guesses(evidence, curve, level)


def _rejects_guesses(guesses: Guesses, curve: TradeOff, level: float) -> bool:
    m, r, v = guesses.canaries, guesses.made, guesses.right
    a, b = (1 - level) * v / m, (1 - level) * (r - v) / m
    for right in range(v - 1, -1, -1):
        needed = max(b, curve(1 - a))
        a += right / (r - right) * (needed - b)
        b = needed
        if a + b > r / m:
            return True
    return False


def epsilon_of_curve(evidence: Guesses | Trials, claimed: Steps, delta: float, level: float = LEVEL) -> float:
    """epsilon at `delta` of `claimed` with the narrowest noise that is rejected; 0 where not even 16 times as much is.

    If the noise is as claimed, the figure is above the accountant's with probability 1 - `level` at most. A second or
    two: one accountant for each width that is tried. Never more than that of a 16th of the noise.
    """

    def too_private(octaves: float) -> bool:
        return rejects(evidence, TradeOff.of(narrower(octaves)), level)

    def narrower(octaves: float) -> Steps:
        return replace(claimed, sigma=claimed.sigma * 2.0**-octaves)

    if not too_private(-_OCTAVES):
        return 0.0
    found = largest(lambda octaves: too_private(octaves - _OCTAVES), 2 * _OCTAVES, _EXACT) - _OCTAVES
    return account.epsilon(narrower(found), delta, interval=_FINE)
