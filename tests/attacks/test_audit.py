"""The private training, audited: it stays below its epsilon, and whatever is broken on purpose does not.

An attacker hears the real learners of three hospitals: their Poisson samples, clipped sums, integers and noise.
`sound` is so strict that a right training fails a test once in a million runs.
"""

import math

import numpy as np
import pytest
import torch
from scipy import stats
from tests.attacks.federation import (
    HONEST,
    Making,
    PublicNoise,
    SameNoise,
    WithoutClipping,
    WithoutNoise,
    canaries,
    learners,
    patients,
    study,
    with_noise,
)

from primum.attacks import (
    Canaries,
    TradeOff,
    best_bound,
    by_likelihood,
    by_spread,
    by_sum,
    guess,
    honestly,
    listen,
    quiet_directions,
    rejects,
    threshold,
    zeros,
)
from primum.attacks.canaries import Served
from primum.clipping import Clipper
from primum.dp import Accountant, Budget, PoissonSampler, account, privatize
from primum.dp.account import Steps
from primum.errors import InputError
from primum.models.linear import LinearHead
from primum.rng import Stream
from primum.study import Study
from primum.tasks import metrics
from primum.tasks.classification import loss
from primum.tasks.learner import Learner
from primum.tasks.plan import Plan

SOUND = 1 - 1e-6
DELTA = 1e-5
COUNT = 1000


def steps_of(plan: Plan, honest: int = HONEST) -> Steps:
    return plan.training_steps(plan.study.training.rounds, honest)


def heard(
    plan: Plan, making: Making = Learner, length: float = 1.0, served: Served = zeros
) -> tuple[np.ndarray, Canaries]:
    birds = canaries(plan, COUNT, length)
    return listen(plan, learners(plan, birds, making), birds, HONEST, served).steps, birds


def trials_reject(scores: np.ndarray, birds: Canaries, at: float, claimed: Steps, level: float) -> bool:
    return rejects(threshold(scores, birds.included, at), TradeOff.of(claimed), level)


@pytest.fixture(scope="module")
def three() -> Study:
    return study(3.0)


@pytest.mark.parametrize("epsilon", [1.0, 8.0])
@pytest.mark.parametrize("served", [honestly, zeros])
def test_the_training_stays_below_its_epsilon_under_every_attack(epsilon: float, served: Served) -> None:
    plan = Plan(study(epsilon))
    claimed = steps_of(plan)
    assert 0.97 * epsilon < account.epsilon(claimed, DELTA, interval=5e-3) <= epsilon
    birds = canaries(plan, COUNT)
    found = listen(plan, learners(plan, birds), birds, HONEST, served)
    curve = TradeOff.of(claimed)
    for scores in (
        by_sum(found.steps),
        by_likelihood(found.steps, claimed.q, claimed.sigma),
        by_spread(found.steps),
        birds.unlikely(found.weights),
    ):
        assert best_bound(scores, birds.included, DELTA, SOUND) < epsilon
        assert not rejects(guess(scores, birds.included, 100, 100), curve, SOUND)
    expected = claimed.q * claimed.count
    assert not trials_reject(by_sum(found.steps), birds, expected / 2, claimed, SOUND)


def test_the_audit_comes_close() -> None:
    """It would not if canaries were not clipped to the norm, not sampled at q, or heard in the wrong direction."""
    plan = Plan(study(8.0))
    claimed = steps_of(plan)
    steps, birds = heard(plan)
    expected = claimed.q * claimed.count
    too_private = Steps(claimed.count, claimed.q, claimed.sigma * 1.8)
    assert trials_reject(by_sum(steps), birds, expected / 2, too_private, 0.95)
    assert steps[:, birds.included].sum(0).mean() == pytest.approx(expected, rel=0.3)


@pytest.mark.parametrize("honest", [1, 2, 3])
def test_the_noise_that_is_heard_is_that_of_the_honest_hospitals_together(three: Study, honest: int) -> None:
    plan, birds = Plan(three), canaries(Plan(three), COUNT)
    steps = listen(plan, learners(plan, birds), birds, honest).steps[:, ~birds.included]
    widths = {count: steps_of(plan, count).sigma for count in (1, 2, 3)}
    for count, width in widths.items():
        statistic = float((steps**2).sum()) / width**2
        tail = min(stats.chi2.cdf(statistic, steps.size), stats.chi2.sf(statistic, steps.size))
        assert bool(2 * tail > 1e-6) is (count == honest)


# -- broken on purpose -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "factor"), [(3.0, 1 / 2), (1.0, 1 / 4), (1.0, 1 / 8)])
def test_noise_that_is_too_narrow_is_found(epsilon: float, factor: float) -> None:
    honest = study(epsilon)
    claimed = steps_of(Plan(honest))
    steps, birds = heard(with_noise(honest, factor))
    assert trials_reject(by_sum(steps), birds, claimed.q * claimed.count / 2, claimed, 0.95)
    if factor <= 1 / 4:
        assert rejects(guess(by_sum(steps), birds.included, 100, 100), TradeOff.of(claimed))
    if factor <= 1 / 8:
        assert best_bound(by_sum(steps), birds.included, DELTA) > epsilon


@pytest.mark.parametrize("epsilon", [1.0, 3.0])
def test_a_training_without_noise_is_found(epsilon: float) -> None:
    plan = Plan(study(epsilon))
    steps, birds = heard(plan, WithoutNoise)
    assert best_bound(by_sum(steps), birds.included, DELTA) > epsilon


def test_a_training_without_clipping_is_found(three: Study) -> None:
    steps, birds = heard(Plan(three), WithoutClipping, length=10.0)
    assert best_bound(by_sum(steps), birds.included, DELTA) > 3.0
    steps, birds = heard(Plan(three), length=10.0)
    assert best_bound(by_sum(steps), birds.included, DELTA, SOUND) < 3.0


def test_the_same_noise_in_each_step_is_found(three: Study) -> None:
    """The sum over steps does not show it; what changes from step to step is without any noise."""
    steps, birds = heard(Plan(three), SameNoise)
    assert best_bound(by_sum(steps), birds.included, DELTA) < 3.0
    assert best_bound(by_spread(steps), birds.included, DELTA) > 3.0


def test_noise_from_a_public_seed_is_found(three: Study) -> None:
    """Everybody draws it again and takes it off."""
    plan = Plan(three)
    steps, birds = heard(plan, PublicNoise)
    again = Stream.public("42")
    noise = [plan.training.restore(plan.training.share(np.zeros(plan.dimension), again)) for _ in range(len(steps))]
    known = 2 * np.array([birds.along(one) for one in noise]) / plan.study.training.clipping_norm
    assert best_bound(by_sum(steps - known), birds.included, DELTA) > 3.0
    steps, birds = heard(plan)
    assert best_bound(by_sum(steps - known), birds.included, DELTA, SOUND) < 3.0


def test_noise_a_thousand_times_as_wide_destroys_what_is_learned() -> None:
    """The engine really adds its noise to what it learns."""
    honest = study(8.0)
    aucs = []
    for plan in (with_noise(honest, 1.0), with_noise(honest, 1000.0)):
        birds = canaries(plan, 1)
        weights = listen(plan, learners(plan, birds), birds, HONEST).weights
        test = patients(plan, 400, "test")
        test.features[:, 1:] += torch.from_numpy(Stream.from_os().uniform((400, plan.dimension - 1)) - 0.5).float()
        scores = (test.features.numpy() @ weights).astype(np.float64)
        aucs.append(metrics.auc(test.labels.numpy(), scores))
    assert aucs[0] > 0.85
    assert 0.3 < aucs[1] < 0.7


# -- a loop of one's own -----------------------------------------------------------------------------------------------


class Shuffled(PoissonSampler):
    """Deals everybody out once in an epoch, as loaders do, while the accountant counts Poisson samples."""

    def _draw(self) -> np.ndarray:
        batches = round(1 / self._accountant.sampling)
        step = (self._accountant.charged - 1) % batches
        if step == 0:
            self._order = np.array_split(self._stream.permutation(self._images), batches)
        return self._order[step]


def loop(
    sampler_of: type[PoissonSampler], sampling: float, steps: int, sigma: float
) -> tuple[np.ndarray, np.ndarray, Steps]:
    """Canaries alone, in the plain loop; what is heard of each, the coins, and what the accountant says it was."""
    count, norm = 1000, 0.2
    birds = Canaries.draw(torch.eye(count), torch.arange(count) % 2, Stream.from_os())
    chosen = np.flatnonzero(birds.included)
    head = LinearHead(count, 1)
    accountant = Accountant(
        Budget(math.inf, DELTA), sampling=sampling, steps=steps, dimension=count, noise_multiplier=sigma
    )
    sampler, clipper, heard_ = sampler_of(len(chosen), accountant), Clipper(head, loss, norm, rows=count), []
    for batch in sampler:
        clipper.add(birds.features[chosen[batch]], birds.labels[chosen[batch]])
        privatize(clipper, sampler)
        assert head.weight.grad is not None
        total = head.weight.grad.double().numpy().reshape(-1) * sampler.expected_batch
        heard_.append(birds.along(total) / norm)
    return np.array(heard_), birds.included, Steps(steps, sampling, sigma)


@pytest.mark.parametrize(("sampling", "sigma"), [(1.0, 4.0), (0.3, 1.5)])
def test_the_plain_loop_stays_below_its_curve_and_comes_close(sampling: float, sigma: float) -> None:
    steps, included, claimed = loop(PoissonSampler, sampling, 20, sigma)
    trials = threshold(by_sum(steps), included, 20 * sampling / 2)
    assert not rejects(trials, TradeOff.of(claimed), SOUND)
    assert rejects(trials, TradeOff.of(Steps(20, sampling, 2 * sigma)), 0.95)


@pytest.mark.parametrize(("sampler", "found"), [(PoissonSampler, False), (Shuffled, True)])
def test_shuffling_that_is_accounted_for_as_poisson_is_found(sampler: type[PoissonSampler], found: bool) -> None:
    """Only where noise is narrow: ten Poisson samples miss a canary every third time, a shuffle never does."""
    steps, included, claimed = loop(sampler, 0.1, 10, 0.12)
    trials = threshold(steps.max(0), included, 0.5)
    assert rejects(trials, TradeOff.of(claimed), 0.999 if found else SOUND) is found


# -- parts -------------------------------------------------------------------------------------------------------------


def test_quiet_directions_are_orthonormal_and_hardly_used() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(300, 60, generator=generator) @ torch.diag(torch.linspace(1, 0.01, 60))
    directions = quiet_directions(features, 10)
    assert torch.allclose(directions @ directions.T, torch.eye(10), atol=1e-5)
    assert float((features @ directions.T).norm()) < 0.1 * float(features.norm())
    with pytest.raises(ValueError, match="61 directions of 60"):
        quiet_directions(features, 61)


def test_the_likelihood_score_is_the_ratio_of_the_two_laws() -> None:
    steps = np.array([[0.2, 1.4], [-0.3, 0.9]])
    inside = 0.7 * stats.norm.pdf(steps, 0, 1.3) + 0.3 * stats.norm.pdf(steps, 1, 1.3)
    expected = np.log(inside / stats.norm.pdf(steps, 0, 1.3)).sum(0)
    assert by_likelihood(steps, 0.3, 1.3) == pytest.approx(expected)
    everybody = (steps - 0.5).sum(0) / 1.3**2
    assert by_likelihood(steps, 1.0, 1.3) == pytest.approx(everybody)


def test_canaries_do_not_print_their_coins_and_local_steps_are_refused(three: Study) -> None:
    plan = Plan(three)
    birds = canaries(plan, 4)
    assert repr(birds) == "Canaries()"
    joined = birds.join(patients(plan, 3, "a"))
    assert len(joined.patients) == len(set(joined.patients)) == 3 + int(birds.included.sum())
    local = {"local_steps": 2, "local_learning_rate": 1.0, "learning_rate": 1.0, "momentum": 0.0}
    stepping = Plan(three.model_copy(update={"training": three.training.model_copy(update=local)}))
    with pytest.raises(InputError, match="sums of gradients"):
        listen(stepping, learners(stepping, birds), birds, HONEST)
