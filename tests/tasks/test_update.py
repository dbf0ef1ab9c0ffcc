"""What a round sends: local steps equal those made by hand, means are means, private steps have their full noise."""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from tests.tasks.studies import LOCAL, study
from torch import Tensor

from primum import ring
from primum.clipping.factors import MARGIN
from primum.dp import account
from primum.errors import StudyError
from primum.models.linear import logits_of
from primum.rng import Stream
from primum.study import Training
from primum.tasks.learner import Cohort, Learner
from primum.tasks.plan import Plan, resolve
from primum.tasks.training import Optimiser
from primum.tasks.update import FINE, SPAN, PlainStep, PrivateStep, WeightDifference, difference_layout


def cohort(plan: Plan, patients: int, seed: int, apart: float = 1.5) -> Cohort:
    """Two classes apart along the first coordinates; features of length 1, as from the front end."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(patients) % 2
    features = 0.3 * torch.randn(patients, plan.front_end.dimension, generator=generator)
    features[:, :20] += apart * (2.0 * labels[:, None] - 1)
    features /= features.norm(dim=1, keepdim=True) * (1 + 1e-6)
    return Cohort(features, labels, tuple(f"{seed}-{i}" for i in range(patients)))


def update_of(plan: Plan) -> WeightDifference:
    assert isinstance(plan.update, WeightDifference)
    return plan.update


def summed(plan: Plan, vectors: list[np.ndarray]) -> np.ndarray:
    """As secure aggregation does it."""
    bits = plan.update.shape.bits
    return ring.to_signed(sum(ring.from_signed(vector, bits) for vector in vectors) & ring.mask(bits), bits)


@dataclass
class Bowl:
    """A hospital whose images all pull to one point: the mean gradient at w is w - target, and nothing is random."""

    target: np.ndarray
    images: int
    sampling: float = 1.0
    seen: list[np.ndarray] = field(default_factory=list)

    def gradient(self, weights: np.ndarray) -> np.ndarray:
        self.seen.append(weights.copy())
        return self.sampling * self.images * (weights.astype(np.float64) - self.target)


def bowls(weighting: str = "equal", **training: Any) -> WeightDifference:
    """Two hospitals or more with three weights, no clipping in reach."""
    settings = Training(**(LOCAL | {"sampling": 1.0, "clipping_norm": 100.0} | training))
    step = PlainStep(settings.clipping_norm, settings.sampling)
    return WeightDifference(settings, step, difference_layout(settings, step, 3, 3, 1000 * (weighting == "images")))


# -- plain local steps -------------------------------------------------------------------------------------------------


def by_hand(pieces: Cohort, start: Tensor, training: Training) -> Tensor:
    """The slow twin: one image at a time, autograd, clipping, plain steps; the difference of weights, float64."""
    rate, weights = training.local_learning_rate or 0.0, start.double()
    most = training.clipping_norm * (1 - MARGIN)
    for _ in range(training.local_steps):
        total = torch.zeros_like(weights)
        for features, label in zip(pieces.features, pieces.labels, strict=True):
            leaf = weights.float().requires_grad_()
            loss = torch.nn.functional.cross_entropy(logits_of((leaf @ features).view(1, 1)), label.view(1))
            (gradient,) = torch.autograd.grad(loss, leaf)
            total += gradient.double() * min(1.0, most / float(gradient.norm()))
        mean = total / len(pieces.patients)
        weights = weights - rate * (mean + training.proximal * (weights - start.double()))
    return weights - start.double()


@pytest.mark.parametrize("proximal", [0.0, 0.3])
@pytest.mark.parametrize("weighting", ["equal", "images"])
def test_plain_local_steps_equal_those_made_by_hand(weighting: str, proximal: float) -> None:
    """With q = 1 nothing is random but rounding: the mean, or weighted mean, of what each hospital's pieces give."""
    training = LOCAL | {"sampling": 1.0, "clipping_norm": 0.2, "proximal": proximal}
    plan = Plan(study(privacy=None, training=training, aggregation={"weighting": weighting}))
    sizes = (9, 20, 4)
    cohorts = [cohort(plan, size, seed) for seed, size in enumerate(sizes)]
    start = np.linspace(-1, 1, plan.dimension, dtype=np.float32)
    total = summed(plan, [Learner(plan, some).step(start) for some in cohorts])
    differences = [by_hand(some, torch.from_numpy(start), plan.study.training).numpy() for some in cohorts]
    shares = np.array(sizes if weighting == "images" else (1, 1, 1), float)
    wanted = np.average(differences, axis=0, weights=shares)
    found = -plan.update.mean_gradient(total, 3)
    rounding = 3 / update_of(plan).layout.parts[0].scale / shares.sum()
    assert np.abs(found - wanted).max() < rounding + 1e-6  # float32 gradients
    assert np.abs(wanted).max() > 100 * rounding


def test_the_weights_come_as_one_more_coordinate_and_without_them_there_is_none() -> None:
    settings: dict[str, Any] = {"privacy": None, "training": LOCAL}
    plan = Plan(study(**settings, aggregation={"weighting": "images"}))
    vector = Learner(plan, cohort(plan, 7, 0)).step(np.zeros(plan.dimension, np.float32))
    assert len(vector) == plan.dimension + 1
    assert vector[-1] == 7
    assert Plan(study(**settings)).update.shape.length == plan.dimension


@given(
    st.lists(st.integers(0, 1000), min_size=3, max_size=3),
    st.sampled_from(["equal", "images"]),
    st.integers(2, 20),
    st.sampled_from([0.0, 0.2, 1.0]),
)
def test_the_mean_over_hospitals_is_weighted_as_the_study_says(
    images: list[int], weighting: str, steps: int, proximal: float
) -> None:
    """In a bowl, K steps of rate eta and pull mu go (1 - (1 - eta (1 + mu))^K) / (1 + mu) of the way."""
    update = bowls(weighting, local_steps=steps, local_learning_rate=0.3, proximal=proximal)
    start, targets = np.array([0.5, -0.25, 0.0], np.float32), np.array([[1, 2, 3], [-1, 0, 1], [4, 4, -4.0]])
    total = sum(
        update.integers(Bowl(target, count), start, Stream.from_os())
        for target, count in zip(targets, images, strict=True)
    )
    way = (1 - (1 - 0.3 * (1 + proximal)) ** steps) / (1 + proximal)
    if weighting == "images" and not sum(images):
        assert not update.mean_gradient(np.asarray(total), 3).any(), "nobody has images: no step"
        return
    there = np.array(images, float) > 0  # without images the gradient is zero: weight 0, or a difference of zeros
    differences = way * (targets - start) * there[:, None]
    wanted = np.average(differences, axis=0, weights=images if weighting == "images" else None)
    rounding = 3 / update.layout.parts[0].scale / (sum(images) if weighting == "images" else 3)
    assert np.abs(-update.mean_gradient(np.asarray(total), 3) - wanted).max() < rounding + 1e-5


def test_each_local_step_starts_where_the_last_one_ended() -> None:
    update, hospital = bowls(local_steps=3, local_learning_rate=0.5), Bowl(np.array([8.0, 0, 0]), 10)
    update.integers(hospital, np.zeros(3, np.float32), Stream.from_os())
    assert [weights[0] for weights in hospital.seen] == [0, 4, 6]


def test_the_proximal_term_pulls_towards_the_global_weights() -> None:
    """On real gradients: the stronger the pull, the shorter the way, and a very strong one hardly leaves the start."""
    lengths = []
    for proximal in (0.0, 0.1, 0.5):
        training = LOCAL | {"local_steps": 10, "sampling": 1.0, "proximal": proximal}
        plan = Plan(study(privacy=None, training=training))
        learner = Learner(plan, cohort(plan, 30, 0))
        start = np.full(plan.dimension, 0.01, np.float32)
        moved = update_of(plan).difference(learner, start, Stream.from_os())
        lengths.append(float(np.linalg.norm(moved)))
    assert lengths[1] < 0.8 * lengths[0]
    assert lengths[2] < 0.3 * lengths[0]


def test_each_local_step_draws_a_fresh_sample() -> None:
    plan = Plan(study(privacy=None, training=LOCAL | {"local_steps": 2}))
    learner = Learner(plan, cohort(plan, 40, 0))
    sums: list[np.ndarray] = []

    class Watched:
        images = learner.images

        def gradient(self, weights: np.ndarray) -> np.ndarray:
            sums.append(learner.gradient(np.zeros_like(weights)))
            return sums[-1]

    update_of(plan).difference(Watched(), np.zeros(plan.dimension, np.float32), Stream.from_os())
    assert len(sums) == 2
    assert not np.array_equal(sums[0], sums[1])


@pytest.mark.parametrize(("momentum", "rate"), [(0.0, 1.0), (0.5, 2.0)])
def test_the_server_adds_the_mean_difference_with_its_own_rate_and_momentum(momentum: float, rate: float) -> None:
    """velocity <- momentum velocity + mean difference; weights <- weights + rate velocity. FedAvg for 0 and 1."""
    update = bowls(momentum=momentum, learning_rate=rate, local_steps=2, local_learning_rate=0.25)
    optimiser, target = Optimiser.start(update.training, np.zeros(3)), np.array([1.0, -2, 0.5])
    weights, velocity = np.zeros(3), np.zeros(3)
    for _ in range(3):
        sent = [update.integers(Bowl(target, 5), optimiser.weights.astype(np.float32), Stream.from_os())] * 3
        optimiser.step(update.mean_gradient(np.sum(sent, 0), 3))
        difference = (1 - 0.75**2) * (target - weights)
        velocity = momentum * velocity + difference
        weights = weights + rate * velocity
        assert np.allclose(optimiser.weights, weights, atol=10 / update.layout.parts[0].scale)


# -- the bound and the ring --------------------------------------------------------------------------------------------


@given(
    st.integers(1, 10**7),
    st.integers(3, 1500),
    st.sampled_from([0, 1, 50, 10**6]),
    st.sampled_from([1e-3, 0.1, 1.0]),
    st.sampled_from([2, 30, 1000]),
    st.sampled_from([1e-6, 0.1, 1e4]),
    st.sampled_from([1e-3, 0.25, 40.0]),
    st.sampled_from([0.0, 1e-4, 30.0]),
)
def test_every_study_has_a_layout_whose_sums_do_not_overflow(
    dimension: int, members: int, weight: int, q: float, steps: int, rate: float, norm: float, noise: float
) -> None:
    settings = Training(local_steps=steps, local_learning_rate=rate, clipping_norm=norm, sampling=q)
    layout = difference_layout(settings, PlainStep(norm, q, noise), dimension, members, weight)
    (part,) = layout.parts
    assert layout.bits <= 32
    assert members * (math.ceil(part.largest * part.scale * max(1, weight)) + 1) < 2 ** (layout.bits - 1)
    typical = rate * math.hypot(steps * norm / math.sqrt(dimension), math.sqrt(steps) * noise)
    assert part.largest <= SPAN * typical * (1 + 1e-9)
    assert part.scale * typical <= FINE * (1 + 1e-9)
    if layout.bits < 30:  # not limited by the ring: as fine as it should be
        spread = rate * math.sqrt(steps) * noise
        assert part.scale * typical == pytest.approx(FINE) or part.scale * spread == pytest.approx(64)


@pytest.mark.parametrize("q", [1.0, 0.3])
def test_what_public_numbers_allow_is_never_cut(q: float) -> None:
    """Few coordinates: the bound is eta K C / q, and a hospital whose whole sample pulls one way just reaches it."""
    settings = Training(local_steps=6, local_learning_rate=0.5, clipping_norm=0.25, sampling=q)
    update = WeightDifference(settings, PlainStep(0.25, q), difference_layout(settings, PlainStep(0.25, q), 2, 3))

    class Slope:
        images = 40

        def gradient(self, weights: np.ndarray) -> np.ndarray:
            return np.array([-0.25 * self.images, 0.0])  # every image in the sample, all with norm C

    reached = update.difference(Slope(), np.zeros(2, np.float32), Stream.from_os())
    assert reached[0] == pytest.approx(update.largest)
    assert update.largest == pytest.approx(0.5 * 6 * 0.25 / q)


def test_a_difference_beyond_the_bound_is_cut_and_never_refused() -> None:
    plan = Plan(study(privacy=None, training=LOCAL))
    update = update_of(plan)
    assert update.largest < 2.0 * 4 * 0.25 / 0.5, "in many coordinates the bound is that of typical ones"
    far = np.zeros(plan.dimension)
    far[0], far[1] = 1e6, -1e6

    class Wild:
        images = 1

        def gradient(self, weights: np.ndarray) -> np.ndarray:
            return far

    vectors = [update.integers(Wild(), np.zeros(plan.dimension, np.float32), Stream.from_os()) for _ in range(3)]
    mean = update.mean_gradient(summed(plan, vectors), 3)
    assert mean[:2] == pytest.approx([update.largest, -update.largest], rel=1e-3)
    assert np.abs(mean[2:]).max() < 2 / update.layout.parts[0].scale


def test_differences_of_real_studies_stay_far_inside_their_bound() -> None:
    """Else the constant SPAN would be wrong: nothing is cut, with privacy and without."""
    for privacy in ({}, {"privacy": None}):
        plan = Plan(resolve(study(training=LOCAL | {"sampling": 0.5}, **privacy)))
        update, start = update_of(plan), np.zeros(plan.dimension, np.float32)
        learner = Learner(plan, cohort(plan, 100, 1))
        for _ in range(5):
            moved = update.difference(learner, start, Stream.from_os())
            assert np.abs(moved).max() < update.largest / 2


# -- private local steps -----------------------------------------------------------------------------------------------


def test_every_local_step_has_the_hospitals_full_noise() -> None:
    """Black images have features, and so gradients, of zero: what is left is the noise of K steps, each of sigma C."""
    plan = Plan(resolve(study(training=LOCAL)))
    black = cohort(plan, 40, 0)
    learner = Learner(plan, Cohort(black.features * 0, black.labels, black.patients))
    start = np.zeros(plan.dimension, np.float32)
    noise = np.array([update_of(plan).difference(learner, start, Stream.from_os()) for _ in range(20)])
    privacy, training = plan.study.privacy, plan.study.training
    assert privacy is not None
    one_step = privacy.noise_multiplier * training.clipping_norm / (training.sampling * 300 / 3)
    width = 2.0 * math.sqrt(4) * one_step
    for factor, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        statistic = float((noise**2).sum()) / (factor * width) ** 2
        tail = min(stats.chi2.cdf(statistic, noise.size), stats.chi2.sf(statistic, noise.size))
        assert bool(2 * tail > 1e-6) is accepted
    flat = noise / np.sqrt((noise**2).mean())
    assert np.abs(np.corrcoef(flat[:4])[np.triu_indices(4, 1)]).max() < 6 / math.sqrt(plan.dimension)


@pytest.mark.parametrize("patients", [0, 1, 100])
def test_the_noise_does_not_depend_on_how_many_patients_a_hospital_has(patients: int) -> None:
    plan = Plan(resolve(study(training=LOCAL)))
    black = cohort(plan, patients, 0)
    learner = Learner(plan, Cohort(black.features * 0, black.labels, black.patients))
    vector = learner.step(np.zeros(plan.dimension, np.float32))
    step = update_of(plan).step
    assert vector.std() / update_of(plan).layout.parts[0].scale == pytest.approx(2.0 * 2 * step.noise, rel=0.2)


def test_a_private_step_is_divided_by_a_public_number() -> None:
    plan = Plan(resolve(study(training=LOCAL | {"sampling": 1.0})))
    step = update_of(plan).step
    assert isinstance(step, PrivateStep)
    assert step.expected_batch == 300 / 3
    few, learner = [], Learner(plan, cohort(plan, 30, 0))
    start = np.zeros(plan.dimension, np.float32)
    for _ in range(200):
        few.append(step.mean(learner, start, Stream.from_os()))
    away = np.mean(few, 0) - learner.gradient(start) / 100
    assert np.abs(away).max() < 6 * step.noise / math.sqrt(200)


def test_a_private_round_is_its_local_steps_to_the_accountant() -> None:
    plan = Plan(resolve(study(training=LOCAL | {"rounds": 5})))
    plan.check()
    steps = plan.training_steps(5)
    assert (steps.count, steps.q) == (20, 0.5)
    assert plan.training.k_min == plan.training.hospitals == 1
    assert 2.98 < account.epsilon(steps, plan.accounted_delta) <= 3.0
    one_by_one = Plan(resolve(study(training={"rounds": 20})))
    assert steps.sigma == pytest.approx(one_by_one.training_steps(20).sigma, rel=1e-3)
    assert plan.largest_batch == one_by_one.largest_batch


def test_with_local_steps_the_noise_of_others_never_counts() -> None:
    local, together = (Plan(resolve(study(members=4, may_vanish=1, training=t))) for t in (LOCAL, {}))
    assert local.training_steps(1, 1) == local.training_steps(1) == local.training_steps(1, 3)
    assert together.training_steps(1, 1).sigma < together.training_steps(1).sigma < together.training_steps(1, 3).sigma


def test_whoever_is_alone_has_the_noise_of_one_hospital_less_the_rounding() -> None:
    """sqrt(h w^2 - r^2) / Delta, for any number of honest hospitals."""
    mechanism = (plan := Plan(resolve(study()))).training
    for honest in (1, 2, 3):
        exact = math.sqrt(honest * mechanism.share_width**2 - 1.6**2) / mechanism.integer_sensitivity
        assert plan.training_steps(1, honest).sigma == pytest.approx(exact, rel=1e-12)
    assert plan.training_steps(1, 2) == plan.training_steps(1)


def test_hospitals_learn_by_local_steps_with_privacy_and_without() -> None:
    for privacy in ({"epsilon": 8.0}, {"privacy": None}):
        plan = Plan(resolve(study(training=LOCAL | {"rounds": 6, "local_learning_rate": 20.0}, **privacy)))
        plan.check()
        learners = [Learner(plan, cohort(plan, 100, seed)) for seed in (1, 2, 3)]
        optimiser = Optimiser.start(plan.study.training, plan.first_weights())
        for _ in range(6):
            weights = optimiser.weights.astype(np.float32)
            total = summed(plan, [learner.step(weights) for learner in learners])
            optimiser.step(plan.update.mean_gradient(total, 3))
        fresh = cohort(plan, 200, 9)
        called = (fresh.features.double() @ torch.from_numpy(optimiser.result)).numpy() > 0
        assert (called == fresh.labels.numpy()).mean() > 0.85


def test_a_study_whose_sums_fit_no_ring_is_refused_by_part() -> None:
    settings = Training(local_steps=2, local_learning_rate=1.0)
    step = PlainStep(settings.clipping_norm, settings.sampling)
    with pytest.raises(StudyError, match="weight"):
        difference_layout(settings, step, 100, 5000, 10**6)
