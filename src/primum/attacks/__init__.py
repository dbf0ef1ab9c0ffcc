"""What leaks: attacks on private training whose success is turned into a lower bound on epsilon.

What comes in: a training that anybody may drive, and patients of whom it is known whether they were in it (canaries).
What goes out: an epsilon that the training exceeds, at a stated confidence. Such an audit finds mistakes; it never
confirms an epsilon: a bound below the accounted figure only says that this attack found nothing.
Read first: `canaries.py`; it says what an attacker sees.

| file | what |
|---|---|
| canaries.py | patients made to be found, in a federation of learners: what is heard of them, how they are scored |
| one_run.py | from guesses in one training to epsilon, for any mechanism (Steinke, Nasr, Jagielski 2023) |
| trade_off.py | the same against the claimed trade-off curve, tighter (Mahloujifar, Melis, Chaudhuri 2025) |
| many_runs.py | from independent trials to epsilon (Jagielski, Ullman, Oprea 2020) |

| symbol | what |
|---|---|
| m | canaries, each in the training with probability 1/2, by coins that nobody sees before the guesses are made |
| r, v | guesses made (the rest are abstentions), and how many of them are right |
| f | trade-off curve: f(a) is the least type 2 error of any test with type 1 error a of "in" against "out" |
"""

from primum.attacks.canaries import (
    Canaries,
    Heard,
    by_likelihood,
    by_spread,
    by_sum,
    honestly,
    listen,
    quiet_directions,
    zeros,
)
from primum.attacks.many_runs import Trials, epsilon_of_trials, threshold
from primum.attacks.one_run import Guesses, best_bound, chance, epsilon_of_guesses, guess
from primum.attacks.trade_off import TradeOff, epsilon_of_curve, rejects

__all__ = [
    "Canaries",
    "Guesses",
    "Heard",
    "TradeOff",
    "Trials",
    "best_bound",
    "by_likelihood",
    "by_spread",
    "by_sum",
    "chance",
    "epsilon_of_curve",
    "epsilon_of_guesses",
    "epsilon_of_trials",
    "guess",
    "honestly",
    "listen",
    "quiet_directions",
    "rejects",
    "threshold",
    "zeros",
]
