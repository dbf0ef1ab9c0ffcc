"""What a study costs, against published and recomputed values, and against dp_accounting's other accountants."""

import math
from fractions import Fraction
from itertools import pairwise

import dp_accounting
import mpmath
import pytest
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.rdp import RdpAccountant
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from primum.dp import account
from primum.dp.account import Budget, Steps
from primum.dp.centred import CentredGaussian
from primum.dp.mechanism import ROUNDING_WIDTH, SUM_DISTANCE
from primum.dp.noise import convolution_error
from primum.dp.sampling import OVERFLOW_PROBABILITY
from primum.errors import InputError, StudyError

VALUES = [  # sigma, q, steps, delta; epsilon by RDP, by PLD, by PLD for replacing a patient
    (Steps(60, 0.5, 4.1), 1e-3, 3.43, 3.01, 6.97),
    (Steps(300, 512 / 4708, 6.12), 1e-4, 1.12, 1.00, 2.15),
    (Steps(3001, 0.034, 1.15), 1e-4, 9.83, 8.94, 17.2),
]


def google_rdp(steps: Steps, orders: list[float] | None = None) -> RdpAccountant:
    accountant = RdpAccountant(orders)
    accountant.compose(account.event(steps))
    return accountant


@pytest.mark.parametrize(("steps", "delta", "renyi", "tight", "replace"), VALUES)
def test_values_of_three_studies(steps: Steps, delta: float, renyi: float, tight: float, replace: float) -> None:
    orders = [float(order) for order in range(2, 257)]
    ours = min(account.epsilon_of_rdp(account.rdp(steps, int(order)), int(order), delta) for order in orders)
    assert ours == pytest.approx(renyi, abs=0.006)
    assert float(google_rdp(steps, orders).get_epsilon(delta)) == pytest.approx(ours, rel=1e-6)
    assert account.epsilon(steps, delta) == pytest.approx(tight, abs=0.006)
    assert account.epsilon(steps, delta, replace=True) == pytest.approx(replace, abs=0.06)


TUTORIAL = [  # MNIST, 60,000 images, batches of 256, delta 1e-5: the table of TensorFlow Privacy's first tutorial
    (1.3, 15, 1.19, 0.95, 0.86),
    (1.1, 60, 3.01, 2.60, 2.38),
    (0.7, 45, 7.10, 6.32, 5.64),
]


@pytest.mark.parametrize(("sigma", "epochs", "published", "renyi", "tight"), TUTORIAL)
def test_values_of_a_well_known_tutorial(
    sigma: float, epochs: int, published: float, renyi: float, tight: float
) -> None:
    """Its figures are of the first conversion to epsilon (Mironov 2017, proposition 3); both of today's are smaller."""
    steps = Steps(epochs * 60_000 // 256, 256 / 60_000, sigma)
    first = min(account.rdp(steps, order) + math.log(1e5) / (order - 1) for order in range(2, 65))
    assert published - 0.006 < first < published + 0.03  # the tutorial had orders between whole numbers as well
    assert account.epsilon_by_rdp(steps, 1e-5) == pytest.approx(renyi, abs=0.006)
    assert account.epsilon(steps, 1e-5) == pytest.approx(tight, abs=0.006)


def test_the_second_opinion_has_the_published_values() -> None:
    for steps, delta, renyi, *_ in VALUES:
        assert account.epsilon_by_rdp(steps, delta) == pytest.approx(renyi, abs=0.02)  # finer orders: a little less


@settings(max_examples=8)
@given(
    sigma=st.floats(0.8, 8),
    q=st.sampled_from([0.02, 0.2, 0.5, 1.0]),
    count=st.integers(1, 300),
    more=st.integers(1, 300),
)
def test_both_accountants_agree_in_order_and_never_fall(sigma: float, q: float, count: int, more: int) -> None:
    def both(steps: Steps) -> tuple[float, float]:
        return account.epsilon(steps, 1e-5, interval=5e-3), account.epsilon_by_rdp(steps, 1e-5)

    tight, renyi = both(Steps(count, q, sigma))
    assert tight <= renyi * 1.05 + 0.02  # the grid is coarse here; Renyi figures are a tenth above
    for worse in (Steps(count + more, q, sigma), Steps(count, q, sigma * 0.9), Steps(count, min(1.0, 1.2 * q), sigma)):
        assert both(worse)[0] >= tight * (1 - 1e-9)
        assert both(worse)[1] >= renyi * (1 - 1e-9)


@settings(max_examples=6)
@given(sigma=st.floats(0.5, 40), count=st.integers(1, 200), delta=st.sampled_from([1e-7, 1e-5, 1e-2]))
def test_without_sampling_epsilon_is_that_of_one_gaussian(sigma: float, count: int, delta: float) -> None:
    """Against the grid of privacy losses, which is a little above; and the definition, at epsilon itself."""
    shift, relation = math.sqrt(count) / sigma, dp_accounting.NeighboringRelation
    for replace, long in ((False, shift), (True, 2 * shift)):
        exact = account.epsilon(Steps(count, 1.0, sigma), delta, replace=replace)
        accountant = PLDAccountant(
            relation.REPLACE_ONE if replace else relation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3
        )
        accountant.compose(account.event(Steps(count, 1.0, sigma)))
        grid = accountant.get_epsilon(delta)
        assert exact <= grid * (1 + 1e-6) + 1e-8 and grid <= exact * 1.002 + 0.002 * math.sqrt(count)
        if exact:
            a, b = long / 2 - exact / long, -long / 2 - exact / long
            assert stats.norm.cdf(a) - math.exp(exact + stats.norm.logcdf(b)) == pytest.approx(delta, rel=1e-4)


def test_a_wider_grid_never_gives_less() -> None:
    for steps, delta, _, tight, _ in VALUES:
        fine, coarse = account.epsilon(steps, delta), account.epsilon(steps, delta, interval=5e-3)
        assert fine <= coarse < tight * 1.01


def test_suggestions_keep_the_budget_and_each_is_best_at_something() -> None:
    budget = Budget(3.0, 1e-5)
    made = account.suggest(budget, 379, samplings=(0.05, 0.5, 1.0), counts=(20, 70), most_visits=60)
    assert (1.0, 70) not in {(one.sampling, one.steps) for one in made}  # too many visits
    for one in made:
        steps = Steps(one.steps, one.sampling, one.noise_multiplier)
        assert 0.97 * 3.0 < account.epsilon(steps, budget.delta, interval=1e-3) <= 3.0
        assert one.signal == pytest.approx(379 * one.sampling * math.sqrt(one.steps) / one.noise_multiplier)
        assert one.visits == pytest.approx(one.sampling * one.steps)
        better = [other for other in made if other.visits <= one.visits and other.steps >= one.steps]
        assert all(other.signal <= one.signal * 1.01 for other in better)
    assert made[0].sampling == 1.0
    assert all(later.signal <= sooner.signal * 1.01 for sooner, later in pairwise(made))


def test_suggestions_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="within 100 visits"):
        account.suggest(Budget(3.0, 1e-5), 5, samplings=(0.1,))
    with pytest.raises(StudyError, match="No noise"):
        account.suggest(Budget(1e-6, 1e-12), 100, samplings=(1.0,), counts=(100,))


@given(
    sigma=st.floats(0.6, 20),
    q=st.floats(1e-3, 1.0),
    count=st.integers(1, 5000),
    order=st.integers(2, 64),
)
def test_rdp_equals_dp_accounting_at_integer_orders(sigma: float, q: float, count: int, order: int) -> None:
    steps = Steps(count, q, sigma)
    theirs = float(google_rdp(steps, [float(order)])._rdp[0])
    assert account.rdp(steps, order) == pytest.approx(theirs, rel=1e-6, abs=1e-9 * count)


@given(divergence=st.floats(0.01, 20), order=st.integers(2, 64), delta=st.sampled_from([1e-4, 1e-5, 1e-8]))
def test_rdp_and_epsilon_are_each_others_inverse(divergence: float, order: int, delta: float) -> None:
    epsilon = account.epsilon_of_rdp(divergence, order, delta)
    if epsilon > 0:
        assert account.rdp_of_epsilon(epsilon, order, delta) == pytest.approx(divergence)


def test_epsilon_of_rdp_is_never_below_the_tight_figure() -> None:
    for steps, delta, *_ in VALUES:
        best = min(account.epsilon_of_rdp(account.rdp(steps, order), order, delta) for order in range(2, 64))
        assert account.epsilon(steps, delta) <= best


def test_one_gaussian_against_the_closed_form() -> None:
    """Balle and Wang 2018, theorem 8: delta of one Gaussian at epsilon."""
    for sigma in (0.8, 2.0, 5.0):
        epsilon = account.epsilon(Steps(1, 1.0, sigma), 1e-5)
        a, b = 1 / (2 * sigma) - epsilon * sigma, -1 / (2 * sigma) - epsilon * sigma
        exact = stats.norm.cdf(a) - math.exp(epsilon) * stats.norm.cdf(b)
        assert exact <= 1e-5 * (1 + 1e-9)  # pessimistic
        assert exact == pytest.approx(1e-5, rel=0.01)


def test_no_steps_cost_nothing_and_no_noise_costs_everything() -> None:
    assert account.epsilon(Steps(0, 0.5, 4.0), 1e-5) == 0
    assert account.epsilon(Steps(1, 0.5, 0.0), 1e-5) == math.inf
    assert account.epsilon(Steps(1, 0.5, 4.0), 0.0) == math.inf
    for cost in (account.epsilon_by_rdp, lambda steps, delta: account.patient_epsilon(steps, delta, 2)):
        assert cost(Steps(0, 0.5, 4.0), 1e-5) == 0
        assert cost(Steps(1, 0.5, 0.0), 1e-5) == cost(Steps(1, 0.5, 4.0), 0.0) == math.inf
    assert account.rdp(Steps(1, 0.5, 0.0), 8) == math.inf


def test_q_of_one_is_not_treated_as_sampled() -> None:
    event = account.event(Steps(3, 1.0, 2.0))
    assert isinstance(event, dp_accounting.SelfComposedDpEvent)
    assert isinstance(event.event, dp_accounting.GaussianDpEvent)


@pytest.mark.parametrize(
    ("epsilon", "count", "q", "delta"), [(3.0, 40, 0.5, 1e-5), (1.0, 30, 1.0, 1e-6), (8.0, 100, 0.2, 1e-6)]
)
def test_calibration_keeps_the_budget_and_wastes_none(epsilon: float, count: int, q: float, delta: float) -> None:
    sigma = account.calibrate(Budget(epsilon, delta), count, q)
    assert account.epsilon(Steps(count, q, sigma), delta) <= epsilon
    assert account.epsilon(Steps(count, q, sigma / 1.002), delta) > epsilon


def test_steps_within_a_budget_are_the_most_that_fit() -> None:
    budget = Budget(3.0, 1e-5)
    most = account.steps_within(budget, 0.5, 4.6, 1000)
    assert account.epsilon(Steps(most, 0.5, 4.6), 1e-5) <= 3.0 < account.epsilon(Steps(most + 1, 0.5, 4.6), 1e-5)


def test_a_budget_that_no_noise_keeps_is_refused() -> None:
    with pytest.raises(StudyError, match="No noise"):
        account.calibrate(Budget(1e-6, 1e-12), 100_000, 1.0)


def test_a_patient_of_several_images_pays_more() -> None:
    """With one image the mixture is the plain figure; with two it grows faster than the square root."""
    steps, delta = Steps(4, 0.2, 2.9), 1e-5
    one, two = (account.patient_epsilon(steps, delta, images) for images in (1, 2))
    assert one == pytest.approx(account.epsilon(steps, delta), rel=0.02)
    assert two > 1.5 * one


@pytest.mark.parametrize("sigma", [3.0, 4.5, 4.7, 16.0, 64.0, 2000.0, 1e6])
def test_more_is_charged_to_delta_than_the_noise_is_away_from_the_gaussian(sigma: float) -> None:
    """Everything that was computed or bounded elsewhere, for every coordinate, step and hospital."""
    rounding = 2.2 * math.exp(-2 * math.pi**2 * ROUNDING_WIDTH**2)
    for dimension, steps, hospitals in ((16, 1, 3), (8100, 40, 3), (11_200_000, 300, 100)):
        seams = (hospitals - 1) * convolution_error(Fraction(9), Fraction(9))
        tau = dimension * steps * (hospitals * CentredGaussian(sigma).distance + rounding + seams)
        charged = account.delta_overheads(3.0, dimension, steps, hospitals)
        assert (1 + math.exp(3.0)) * tau + OVERFLOW_PROBABILITY < charged


def test_the_rounding_of_the_account_is_as_even_as_it_says() -> None:
    """Poisson summation, recomputed at r = 1.6: the sum over k of exp(-(k - y)^2 / 2 r^2) for y from 0 to 1."""
    with mpmath.workprec(200):
        sums = [
            mpmath.fsum(
                mpmath.exp(-((k - mpmath.mpf(y) / 20) ** 2) / (2 * mpmath.mpf(ROUNDING_WIDTH) ** 2))
                for k in range(-40, 42)
            )
            for y in range(21)
        ]
        even = mpmath.sqrt(2 * mpmath.pi) * ROUNDING_WIDTH
        wobble = max(abs(total / even - 1) for total in sums)
    assert SUM_DISTANCE / 8 < wobble / (1 - wobble) < 0.99 * SUM_DISTANCE


def test_an_enormous_epsilon_leaves_nothing_of_delta() -> None:
    assert account.delta_overheads(1e6, 10, 10, 1) > 1
    assert account.delta_overheads(math.inf, 10, 10, 1) > 1


def test_distances_and_padding_are_charged_to_delta() -> None:
    assert account.delta_overheads(3.0, 40_000, 300, 3) == pytest.approx(1e-9, rel=0.2)
    assert account.delta_overheads(10.0, 11_000_000, 5_000, 10) < 1e-6  # ResNet-18 at a large epsilon
    assert account.delta_overheads(12.0, 10**9, 10_000, 3) > 1e-5
