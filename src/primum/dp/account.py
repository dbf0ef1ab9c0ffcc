"""What a study costs: dp_accounting does the arithmetic, this file says of what.

Strict for integer noise. Hospitals draw integers around real centres (`centred.py`); their sum is the discrete Gaussian
around the sum of the centres, of variance S^2. Take the Gaussian mechanism of variance S^2 - r^2 on the real vector and
replace each coordinate y by an integer k with probability proportional to exp(-(k - y)^2 / 2 r^2): post-processing. By
Poisson summation the two laws differ by at most 2.2 exp(-2 pi^2 r^2) a coordinate, below 2^-71 at r = 1.6, which goes
to delta. So the Gaussian's figure at sqrt(S^2 - r^2) holds for our noise; `Mechanism.accounted_multiplier` is that.
The proof is in docs/design/privacy.md.

Neighbours: add or remove one patient of one hospital, unless a function says otherwise.
"""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import dp_accounting
from absl import logging as absl_logging
from dp_accounting.pld import privacy_loss_distribution
from dp_accounting.rdp import RdpAccountant
from scipy.optimize import brentq
from scipy.special import log_ndtr, ndtr

from primum.dp.centred import VALUE_DISTANCE
from primum.dp.losses import one_step
from primum.dp.mechanism import SUM_DISTANCE
from primum.errors import InputError, StudyError

OVERFLOW_PROBABILITY: Final = 1e-9  # of a batch above the public maximum, in a whole study; charged to delta
_INTERVAL: Final = 1e-4  # of the discretised privacy loss; pessimistic
_COARSE: Final = 5e-3  # the same for a quick look: a few thousandths more, never less
_MANY_STEPS: Final = 1000  # above, the coarse one costs percents
_LARGEST_EXPONENT: Final = 700.0  # of e in float64
_SMALLEST, _LARGEST = 0.05, 1000.0
_ORDERS: Final = (2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256)

absl_logging.set_verbosity(absl_logging.ERROR)
logging.getLogger("absl").setLevel(logging.ERROR)


@dataclass(frozen=True)
class Budget:
    """(epsilon, delta)."""

    epsilon: float
    delta: float


@dataclass(frozen=True)
class Steps:
    """What happened: `count` sums, each over a Poisson sample with probability q, with Gaussian noise multiplier sigma."""

    count: int
    q: float
    sigma: float


def delta_overheads(epsilon_: float, dimension: int, steps: int, hospitals: int) -> float:
    """What else is charged to delta: the distance of what is drawn to what is accounted for, and a batch too large.

    A vector of `dimension` coordinates is at a statistical distance of at most that many times VALUE_DISTANCE for each
    hospital (tables, cut tails, digits) and SUM_DISTANCE (Poisson summation). A study whose outputs are tau away from
    an (epsilon, delta)-private one is (epsilon, delta + (1 + e^epsilon) tau)-private.
    """
    tau = dimension * steps * (hospitals * VALUE_DISTANCE + SUM_DISTANCE)
    return (1 + math.exp(min(epsilon_, _LARGEST_EXPONENT))) * tau + OVERFLOW_PROBABILITY


@lru_cache(maxsize=4096)
def epsilon(steps: Steps, delta: float, replace: bool = False, interval: float | None = None) -> float:
    """epsilon at `delta` by privacy loss distributions; with `replace`, neighbours replace a patient.

    A wider `interval` is quicker and gives a little more, never less. Where every unit is in every step (q = 1) the sums
    are one Gaussian mechanism, and its epsilon is known exactly.
    """
    if steps.count == 0:
        return 0.0
    if steps.sigma == 0 or delta <= 0:
        return math.inf
    if steps.q >= 1:
        return gaussian_epsilon((2 if replace else 1) * math.sqrt(steps.count) / steps.sigma, delta)
    one = one_step(steps.q, steps.sigma, replace, interval or _INTERVAL)
    return float(one.self_compose(steps.count).get_epsilon_for_delta(delta))


def gaussian_epsilon(shift: float, delta: float) -> float:
    """epsilon at `delta` of telling N(0, 1) from N(shift, 1): the smallest at which

        Phi(shift/2 - epsilon/shift) - e^epsilon Phi(-shift/2 - epsilon/shift) <= delta

    (Balle and Wang, ICML 2018, theorem 8), rounded up by a part in 10^9. One sum has shift 1 / sigma, k of them
    sqrt(k) / sigma (Dong, Roth and Su 2022, corollary 3.3).
    """

    def excess(epsilon_: float) -> float:
        near, far = shift / 2 - epsilon_ / shift, -shift / 2 - epsilon_ / shift
        return float(ndtr(near) - math.exp(epsilon_ + log_ndtr(far))) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-12)) * (1 + 1e-9) + 1e-9


@lru_cache(maxsize=4096)
def epsilon_by_rdp(steps: Steps, delta: float) -> float:
    """The same by Renyi divergence at dp_accounting's own orders: a second opinion, quick, larger by about a tenth."""
    if steps.count == 0:
        return 0.0
    if steps.sigma == 0 or delta <= 0:
        return math.inf
    accountant = RdpAccountant()
    accountant.compose(event(steps))
    return float(accountant.get_epsilon(delta))


def event(steps: Steps) -> dp_accounting.DpEvent:
    """The DpEvent that any accountant can replay."""
    gaussian = dp_accounting.GaussianDpEvent(steps.sigma)
    one = gaussian if steps.q >= 1 else dp_accounting.PoissonSampledDpEvent(steps.q, gaussian)
    return dp_accounting.SelfComposedDpEvent(one, steps.count)


def patient_epsilon(steps: Steps, delta: float, images: int) -> float:
    """The figure for a whole patient with `images` images, where the unit is the image.

    A mixture of Gaussians: each of the patient's images is in the step with probability q of its own. About half a
    second, and a little too much: a few thousandths up to 1000 steps.
    """
    if steps.count == 0:
        return 0.0
    if steps.sigma == 0 or delta <= 0:
        return math.inf
    sensitivities = list(range(images + 1))
    chances = [math.comb(images, k) * steps.q**k * (1 - steps.q) ** (images - k) for k in sensitivities]
    one = privacy_loss_distribution.from_mixture_gaussian_mechanism(
        standard_deviation=steps.sigma,
        sensitivities=sensitivities,
        sampling_probs=chances,
        value_discretization_interval=_COARSE * max(1.0, images / 4) / (1 if steps.count <= _MANY_STEPS else 5),
    )
    return float(one.self_compose(steps.count).get_epsilon_for_delta(delta))


def calibrate(budget: Budget, count: int, q: float, interval: float | None = None) -> float:
    """The smallest noise multiplier (to 0.1 %) whose `count` steps cost at most `budget`."""

    def cost(sigma: float) -> float:
        return epsilon(Steps(count, q, sigma), budget.delta, interval=interval)

    high = _enough_by_rdp(budget, count, q)
    low, spent_low, spent_high = high, 0.0, cost(high)
    while spent_low <= budget.epsilon and low > _SMALLEST:
        low /= 1.25
        spent_low = cost(low)
    while high / low > 1.001 and low > _SMALLEST:
        for guess in (_between(low, high, spent_low, spent_high, budget.epsilon), high / 1.0009):
            # the second guess is a step below whatever was enough: it usually ends the search
            if low < guess < high:
                spent = cost(guess)
                if spent > budget.epsilon:
                    low, spent_low = guess, spent
                else:
                    high, spent_high = guess, spent
    return high


def _between(low: float, high: float, spent_low: float, spent_high: float, wanted: float) -> float:
    """Where a straight line of log epsilon over log sigma meets `wanted`, a hair above; inside the bracket."""
    if spent_high <= 0 or math.isinf(spent_low):
        return math.sqrt(low * high)
    share = math.log(spent_low / wanted) / math.log(spent_low / spent_high)
    guess = low * (high / low) ** min(max(share, 0.0), 1.0) * 1.0003
    return float(min(max(guess, low * 1.0002), high / 1.0002))


def _enough_by_rdp(budget: Budget, count: int, q: float) -> float:
    """A noise multiplier that is enough by Renyi divergence, which is quick and never too small."""

    def spent(sigma: float) -> float:
        steps = Steps(count, q, sigma)
        return min(epsilon_of_rdp(rdp(steps, order), order, budget.delta) for order in _ORDERS)

    low, high = _SMALLEST, _LARGEST
    if spent(high) > budget.epsilon:
        raise StudyError(
            f"No noise makes {count} steps at q = {q:g} cost epsilon {budget.epsilon:g} at delta {budget.delta:g}.",
            "Use fewer rounds, a smaller q, or a larger epsilon.",
        )
    while high / low > 1.01:
        middle = math.sqrt(low * high)
        low, high = (middle, high) if spent(middle) > budget.epsilon else (low, middle)
    return high


def steps_within(budget: Budget, q: float, sigma: float, most: int = 100_000) -> int:
    """The largest number of steps at q and sigma that cost at most `budget`; not above `most`."""

    def cost(count: int) -> float:
        return epsilon(Steps(count, q, sigma), budget.delta)

    low = min(most, _within_by_rdp(budget, q, sigma))
    high = max(low, 1)
    while high <= most and cost(high) <= budget.epsilon:
        low, high = high, high + high // 4 + 1  # Renyi divergence, where it starts, is about a tenth too careful
    high = min(high, most + 1)
    while high - low > 1:
        for guess in (_on_line(low, high, cost(low), cost(high), budget.epsilon), low + 1):
            if low < guess < high:  # the step above what fitted usually ends the search
                low, high = (guess, high) if cost(guess) <= budget.epsilon else (low, guess)
    return low


def _on_line(low: int, high: int, spent_low: float, spent_high: float, wanted: float) -> int:
    """Where a straight line of log epsilon over log steps meets `wanted`, rounded down; strictly between the two."""
    if low == 0 or spent_low <= 0 or math.isinf(spent_high):
        return (low + high) // 2
    share = math.log(wanted / spent_low) / math.log(spent_high / spent_low)
    return min(max(int(low * (high / low) ** share), low + 1), high - 1)


def _within_by_rdp(budget: Budget, q: float, sigma: float) -> int:
    allowed = [
        (rdp_of_epsilon(budget.epsilon, order, budget.delta), rdp(Steps(1, q, sigma), order)) for order in _ORDERS
    ]
    return max(int(budget_ / one) if budget_ > 0 and one > 0 else 0 for budget_, one in allowed)


@dataclass(frozen=True)
class Suggestion:
    """One way to spend a budget: what is set, and what it gives.

    `visits` (q steps) is how often a unit is looked at: what it costs to compute. `signal` is q N sqrt(steps) / sigma:
    add up all steps of a study whose gradients all point one way; that sum is so many times as long as the noise in one
    of its coordinates. Settings of one epsilon differ in it, because a small q wastes some of the noise.
    """

    sampling: float
    steps: int
    noise_multiplier: float
    expected_batch: float
    visits: float
    signal: float


_SAMPLINGS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
_COUNTS: Final = (30, 100, 300, 1000)
_LEAST_BATCH: Final = 8.0
_LIKE: Final = 1.01  # signals so close are the same


def suggest(
    budget: Budget,
    units: int,
    samplings: Sequence[float] = _SAMPLINGS,
    counts: Sequence[int] = _COUNTS,
    most_visits: float = 100.0,
) -> list[Suggestion]:
    """Ways to spend `budget` on `units` patients (or images): the most signal first (to 1 %), then the fewest visits.

    All pairs of `samplings` and `counts` with at most `most_visits` a unit and an expected batch of 8 or more, less
    those that another one beats in signal with no more visits and no fewer steps. Each costs at most the budget; its
    noise is up to 1 % above the least that is enough. About 0.1 s a pair.
    StudyError where no noise is enough for any of them, InputError where no pair is left.
    """
    pairs = [
        (q, count) for q in samplings for count in counts if q * count <= most_visits and q * units >= _LEAST_BATCH
    ]
    if not pairs:
        raise InputError(
            f"No sampling rate gives {units} units an expected batch of {_LEAST_BATCH:g} within {most_visits:g} visits.",
            "Allow more visits or larger sampling rates.",
        )
    made = [_suggestion(budget, units, q, count) for q, count in pairs]
    best = [one for one in made if not any(_beats(other, one) for other in made)]
    return sorted(best, key=lambda one: (-round(math.log(one.signal, _LIKE)), one.visits))


def _suggestion(budget: Budget, units: int, q: float, count: int) -> Suggestion:
    sigma = calibrate(budget, count, q, _COARSE)
    return Suggestion(q, count, sigma, q * units, q * count, q * units * math.sqrt(count) / sigma)


def _beats(other: Suggestion, one: Suggestion) -> bool:
    """More signal, for no more visits, in no fewer steps: an optimiser needs steps, whatever their noise is."""
    if other == one or other.visits > one.visits or other.steps < one.steps:
        return False
    same = other.visits == one.visits and other.steps == one.steps
    return other.signal > one.signal if same else other.signal * _LIKE >= one.signal


def rdp(steps: Steps, order: int) -> float:
    """Renyi divergence of integer `order`, for one order only: what the ledger adds up over studies.

    The binomial formula (Mironov, Talwar, Zhang 2019, section 3.3); an identity for remove, and it dominates add.
    """
    if steps.count == 0:
        return 0.0
    if steps.sigma == 0:
        return math.inf
    if steps.q >= 1:
        return steps.count * order / (2 * steps.sigma**2)
    terms = [
        math.lgamma(order + 1)
        - math.lgamma(k + 1)
        - math.lgamma(order - k + 1)
        + k * math.log(steps.q)
        + (order - k) * math.log1p(-steps.q)
        + k * (k - 1) / (2 * steps.sigma**2)
        for k in range(order + 1)
    ]
    largest = max(terms)
    log_moment = largest + math.log(math.fsum(math.exp(term - largest) for term in terms))
    return steps.count * max(0.0, log_moment) / (order - 1)


def epsilon_of_rdp(divergence: float, order: int, delta: float) -> float:
    """epsilon at `delta` of a mechanism of that divergence (Canonne, Kamath, Steinke 2020, proposition 12)."""
    return max(0.0, divergence + math.log1p(-1 / order) - math.log(delta * order) / (order - 1))


def rdp_of_epsilon(epsilon_: float, order: int, delta: float) -> float:
    """The divergence at `order` that a cap of epsilon at `delta` allows; 0 or less: the order does not suit it."""
    return epsilon_ - math.log1p(-1 / order) + math.log(delta * order) / (order - 1)
