"""From guesses to epsilon: the published numbers, mechanisms whose epsilon is known, and never above it too often."""

import math

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from primum.attacks import (
    Guesses,
    TradeOff,
    Trials,
    best_bound,
    chance,
    epsilon_of_curve,
    epsilon_of_guesses,
    epsilon_of_trials,
    guess,
    rejects,
    threshold,
)
from primum.dp.account import Steps


@st.composite
def guesses(draw: st.DrawFn, most: int = 300) -> Guesses:
    canaries = draw(st.integers(1, most))
    made = draw(st.integers(0, canaries))
    return Guesses(canaries, made, draw(st.integers(0, made)))


epsilons = st.floats(0, 8)
deltas = st.floats(0, 0.01)


@pytest.mark.parametrize(
    ("numbers", "delta", "published"), [((1000, 100, 75), 1e-4, 0.673), ((100_000, 1510, 1439), 1e-5, 2.675)]
)
def test_the_numbers_that_are_published(numbers: tuple[int, int, int], delta: float, published: float) -> None:
    """Steinke, Nasr, Jagielski 2023, page 46 and page 28."""
    assert epsilon_of_guesses(Guesses(*numbers), delta) == pytest.approx(published, abs=1e-3)


@given(guesses(60), epsilons, deltas)
def test_the_chance_is_corollary_5_4_written_out(made: Guesses, epsilon: float, delta: float) -> None:
    q, r, v = math.exp(epsilon) / (1 + math.exp(epsilon)), made.made, made.right
    law = [math.comb(r, k) * q**k * (1 - q) ** (r - k) for k in range(r + 1)]
    steepest = max((sum(law[v - i : v]) / i for i in range(1, v + 1)), default=0.0)
    expected = min(1.0, sum(law[v:]) + 2 * made.canaries * delta * steepest)
    assert chance(made, epsilon, delta) == pytest.approx(expected, abs=1e-9)


@given(guesses(), epsilons, deltas, st.floats(0, 2), st.floats(0, 0.01))
def test_more_epsilon_or_delta_never_makes_guesses_less_likely(
    made: Guesses, epsilon: float, delta: float, more: float, more_delta: float
) -> None:
    assert chance(made, epsilon, delta + more_delta) >= chance(made, epsilon, delta) - 1e-12
    assert chance(made, epsilon + more, 0.0) >= chance(made, epsilon, 0.0) - 1e-12


@given(guesses(), deltas, st.floats(0, 0.01))
def test_the_bound_grows_with_right_guesses_and_shrinks_with_delta(
    made: Guesses, delta: float, more_delta: float
) -> None:
    assume(made.right < made.made)
    bound = epsilon_of_guesses(made, delta)
    better = Guesses(made.canaries, made.made, made.right + 1)
    assert epsilon_of_guesses(better, delta) >= bound - 2e-4
    assert epsilon_of_guesses(made, delta + more_delta) <= bound + 2e-4


def exceeding(m: int, epsilon: float, delta: float) -> int:
    """The fewest right guesses, of m, whose bound is above epsilon."""
    enough = next(right for right in range(m + 1) if chance(Guesses(m, m, right), epsilon, delta) <= 0.05)
    below, above = (epsilon_of_guesses(Guesses(m, m, right), delta) for right in (enough - 1, enough))
    assert below <= epsilon <= above + 2e-4
    return enough


@pytest.mark.parametrize("epsilon", [0.3, 1.0, 3.0])
def test_randomised_response_is_exceeded_at_the_stated_rate_and_comes_close(epsilon: float) -> None:
    """Exactly, by the law of the number of right guesses: its epsilon is known, and the bound is made for it."""
    m = 1000
    law = stats.binom(m, 1 / (1 + math.exp(-epsilon)))
    assert 0.02 < float(law.sf(exceeding(m, epsilon, 0.0) - 1)) <= 0.05
    assert epsilon_of_guesses(Guesses(m, m, int(law.median())), 0.0) > 0.85 * epsilon - 0.08


@pytest.mark.parametrize(("epsilon", "delta"), [(0.5, 1e-4), (2.0, 1e-3)])
def test_one_that_sometimes_tells_the_truth_is_exceeded_at_most_at_the_stated_rate(
    epsilon: float, delta: float
) -> None:
    """Each canary's coin is shown with probability delta, else randomised response: (epsilon, delta), exactly."""
    m, q = 400, 1 / (1 + math.exp(-epsilon))
    enough = exceeding(m, epsilon, delta)
    assert float(stats.binom(m, delta + (1 - delta) * q).sf(enough - 1)) <= 0.05
    assert delta + (1 - delta) * float(stats.binom(m, q).sf(enough - 1)) <= 0.05  # all coins at once


def test_guesses_are_the_highest_and_the_lowest_scores() -> None:
    scores, included = np.array([5.0, 1.0, 3.0, 2.0, 4.0]), np.array([True, True, False, False, True])
    assert guess(scores, included, 2, 1) == Guesses(5, 3, 2)
    assert guess(scores, included, 0, 0) == Guesses(5, 0, 0)
    for highest, lowest in ((3, 3), (-1, 2)):
        with pytest.raises(ValueError, match="of 5 scores"):
            guess(scores, included, highest, lowest)
    with pytest.raises(ValueError, match="finite"):
        guess(scores * np.nan, included, 1, 1)


@pytest.mark.parametrize("numbers", [(5, 6, 1), (5, 3, 4), (5, 3, -1)])
def test_numbers_that_cannot_be_are_refused(numbers: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match="right of"):
        Guesses(*numbers)


@pytest.mark.parametrize(("epsilon", "delta"), [(-1.0, 0.0), (1.0, 2.0), (float("nan"), 0.0)])
def test_a_budget_that_cannot_be_is_refused(epsilon: float, delta: float) -> None:
    with pytest.raises(ValueError, match="epsilon"):
        chance(Guesses(3, 2, 1), epsilon, delta)


def test_scores_that_know_nothing_give_nothing_and_scores_that_know_all_give_much() -> None:
    generator = np.random.default_rng(0)
    found = 0
    for _ in range(100):
        included = generator.random(200) < 0.5
        found += best_bound(generator.standard_normal(200), included, 1e-5) > 0
    assert found <= 9  # 5 % are allowed: 10 or more have a chance of 0.03
    assert best_bound(included.astype(float), included, 1e-5) > 3.0


# -- against a curve ---------------------------------------------------------------------------------------------------


@given(st.floats(0.1, 4), st.floats(1e-3, 1 - 1e-3))
def test_the_gaussian_curve_is_the_closed_form_and_never_above_it(mu: float, error: float) -> None:
    exact = float(stats.norm.cdf(stats.norm.isf(error) - mu))
    assert exact - 0.01 < TradeOff.gaussian(mu)(error) <= exact + 1e-12


@given(st.floats(0.1, 4))
def test_the_least_error_is_where_the_curve_meets_the_diagonal(mu: float) -> None:
    least = TradeOff.gaussian(mu).least_error
    assert least == pytest.approx(float(stats.norm.cdf(-mu / 2)), abs=1e-9)
    assert TradeOff.gaussian(mu)(least) == pytest.approx(least, abs=1e-9)
    assert TradeOff(np.array([mu]), np.array([0.1])).least_error == pytest.approx(0.9 / (1 + math.exp(mu)))


def test_the_accountants_curve_of_one_gaussian_is_the_gaussian_curve() -> None:
    curve, exact = TradeOff.of(Steps(1, 1.0, 2.0)), TradeOff.gaussian(0.5)
    for error in np.linspace(0.01, 0.99, 25).tolist():
        assert curve(error) == pytest.approx(exact(error), abs=3e-3)


@given(guesses(), st.floats(0.05, 5))
def test_no_curve_of_one_epsilon_is_rejected_by_what_is_likely_for_randomised_response(
    made: Guesses, epsilon: float
) -> None:
    """Randomised response has exactly that curve, and its law is known."""
    if rejects(made, TradeOff(np.array([epsilon]), np.zeros(1))):
        assert chance(made, epsilon, 0.0) <= 0.05 + 1e-9


@settings(max_examples=2)
@given(st.integers(0, 2**32))
def test_gaussian_canaries_are_not_rejected_by_their_own_curve_and_are_by_a_much_flatter_one(seed: int) -> None:
    generator, mu, m = np.random.default_rng(seed), 1.5, 1000
    wrong = {"one run": 0, "trials": 0}
    right = dict.fromkeys(wrong, 0)
    for _ in range(20):
        included = generator.random(m) < 0.5
        scores = mu * included + generator.standard_normal(m)
        for kind, evidence in {
            "one run": guess(scores, included, 100, 100),
            "trials": threshold(scores, included, mu / 2),
        }.items():
            wrong[kind] += rejects(evidence, TradeOff.gaussian(mu))
            right[kind] += rejects(evidence, TradeOff.gaussian(0.6 if kind == "one run" else 1.1))
    assert max(wrong.values()) <= 7  # of 20, at 5 % each: above with probability 1e-6
    assert min(right.values()) >= 16


def test_the_epsilon_of_a_curve_is_that_of_the_narrowest_noise_that_is_rejected() -> None:
    claimed = Steps(10, 1.0, 10.0)  # mu = 0.316
    assert epsilon_of_curve(Trials(5000, 2500, 5000, 2500), claimed, 1e-5) == 0
    much = epsilon_of_curve(Trials(5000, 50, 5000, 50), claimed, 1e-5)
    little = epsilon_of_curve(Trials(5000, 2000, 5000, 2000), claimed, 1e-5)
    assert 40 > much > 10 > little > 1


# -- many runs ---------------------------------------------------------------------------------------------------------


@given(st.integers(1, 500), st.data())
def test_limits_are_clopper_and_pearsons(count: int, data: st.DataObject) -> None:
    wrong = data.draw(st.integers(0, count))
    missed, alarms = Trials(count, wrong, 0, 0).limits(0.95)
    assert missed == pytest.approx(stats.binomtest(wrong, count).proportion_ci(0.95, "exact").high)
    assert alarms == 1


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_trials_of_randomised_response_exceed_its_epsilon_at_most_at_the_stated_rate(epsilon: float) -> None:
    count, wrong = 120, 1 / (1 + math.exp(epsilon))
    law = stats.binom(count, wrong).pmf(np.arange(count + 1))
    rate = sum(
        law[missed] * law[alarms]
        for missed in range(count + 1)
        for alarms in range(count + 1)
        if law[missed] * law[alarms] > 1e-9 and epsilon_of_trials(Trials(count, missed, count, alarms), 0.0) > epsilon
    )
    assert rate <= 0.05
    likely = round(count * wrong)
    assert epsilon_of_trials(Trials(100 * count, 100 * likely, 100 * count, 100 * likely), 0.0) > 0.8 * epsilon


def test_trials_count_what_a_threshold_gets_wrong() -> None:
    scores, included = np.array([0.0, 1.0, 2.0, 3.0]), np.array([True, False, True, False])
    assert threshold(scores, included, 1.5) == Trials(2, 1, 2, 1)
    assert epsilon_of_trials(Trials(2, 1, 2, 1), 1e-5) == 0
    assert epsilon_of_trials(Trials(0, 0, 0, 0), 1e-5) == 0
