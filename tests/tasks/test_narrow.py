"""So many bits a coordinate: sums are exact, the clamp is where it belongs, the promise is kept, and the model learns."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.tasks.studies import study
from tests.tasks.test_update import cohort, summed

from primum import ring
from primum.dp.mechanism import Mechanism
from primum.errors import StudyError
from primum.kernels import hadamard
from primum.rng import Stream
from primum.tasks.learner import Learner
from primum.tasks.narrow import FEWEST, LEAST, SHARE, Narrow
from primum.tasks.plan import Plan, resolve
from primum.tasks.training import Optimiser


def planned(bits: int | None, **privacy: object) -> Plan:
    plan = Plan(resolve(study(aggregation={"bits": bits} if bits else {}, **privacy)))
    plan.check()
    return plan


narrows = st.builds(
    lambda dimension, norm, sigma, k_min, more, bits, batch: Narrow(
        Mechanism(dimension, norm, sigma, k_min, k_min + more, 3000, share_width=16.0), bits, batch
    ),
    st.sampled_from([50, 4050, 100_000]),
    st.sampled_from([0.01, 0.25, 40.0]),
    st.sampled_from([0.7, 3.1, 9.0]),
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(8, 32),
    st.sampled_from([1.0, 60.0, 2000.0]),
)


@given(narrows)
def test_the_widest_noise_is_taken_that_leaves_the_clamp_its_place(narrow: Narrow) -> None:
    try:
        chosen = narrow.fitted()
    except StudyError as error:
        assert f"aggregation.bits = {narrow.bits} leaves no room" in error.message
        enough = replace(narrow, bits=int(error.hint.split()[1]))
        assert enough.clamp_of(enough.fitted()) >= FEWEST
        assert narrow.clamp_of(chosen_at(narrow, 3.0)) < FEWEST
        return
    assert chosen.bits == narrow.bits
    assert chosen.rotated
    assert 3.0 <= chosen.share_width <= 16.0
    typical = SHARE * narrow.batch * chosen.sensitivity / math.sqrt(chosen.dimension)
    assert narrow.clamp_of(chosen) == pytest.approx(chosen.clamp / typical)
    assert narrow.clamp_of(chosen) >= (LEAST if chosen.share_width > 3 else FEWEST)
    if chosen.share_width < 16:
        assert narrow.clamp_of(chosen_at(narrow, chosen.share_width * 1.4)) < LEAST


def chosen_at(narrow: Narrow, width: float) -> Mechanism:
    return replace(narrow.wide, share_width=width, bound_bits=narrow.bits, rotated=True)


@given(narrows, st.sampled_from([0.5, 1.0, 2.9, 8.0]))
def test_the_noise_that_is_signed_gives_the_accountant_what_was_asked_and_little_more(
    narrow: Narrow, accounted: float
) -> None:
    try:
        sigma = narrow.for_accounted(accounted).noise_multiplier
        made = replace(narrow, wide=replace(narrow.wide, noise_multiplier=sigma)).fitted()
    except StudyError:
        assume(False)
    assert accounted <= made.accounted_multiplier < 1.05 * accounted


@pytest.mark.parametrize("bits", [8, 9, 10, 12, 16, 32])
def test_a_study_in_so_many_bits_keeps_its_promise(bits: int) -> None:
    plan = planned(bits)
    assert plan.update.shape.bits == bits
    assert plan.update.shape.length == plan.dimension
    assert 2.9 < plan.epsilon_after(20) <= 3.0
    privacy = plan.study.privacy
    assert privacy is not None
    less = privacy.model_copy(update={"noise_multiplier": privacy.noise_multiplier * 0.99})
    with pytest.raises(StudyError, match="altered or made for other settings"):
        Plan(plan.study.model_copy(update={"privacy": less})).check()


def test_fewer_bits_cost_a_little_more_noise_and_enough_bits_cost_none() -> None:
    plans = {bits: planned(bits) for bits in (None, 14, 10, 8)}
    noise = {bits: plan.training.noise_multiplier for bits, plan in plans.items()}
    assert noise[14] == noise[None] < noise[10] < noise[8] < 1.09 * noise[None]
    assert plans[None].update.shape.bits > 12
    assert plans[None].clamp is None


def test_without_bits_nothing_is_rotated_or_clamped() -> None:
    mechanism = planned(None).training
    assert not mechanism.rotated
    assert mechanism.bound_bits is None
    assert mechanism.share_width == 16.0


@pytest.mark.parametrize("bits", [8, 10])
def test_hospitals_learn_in_few_bits_and_their_sums_are_exact(bits: int) -> None:
    """A whole training in the ring: it equals the integer sum, little is cut at eight bits and less at ten, and it learns."""
    plan = planned(bits)
    mechanism = plan.training
    learners = [Learner(plan, cohort(plan, 100, seed, 0.5)) for seed in (1, 2, 3)]
    optimiser = Optimiser.start(plan.study.training, plan.first_weights())
    cut = 0
    for _ in range(plan.study.training.rounds):
        weights = optimiser.weights.astype(np.float32)
        gradients = [learner.gradient(weights) for learner in learners]
        cut += sum(int((np.abs(rotated(mechanism, some)) > mechanism.clamp).sum()) for some in gradients)
        vectors = [mechanism.share(some, Stream.from_os()) for some in gradients]
        total = summed(plan, vectors)
        assert np.array_equal(total, np.sum(vectors, 0))
        optimiser.step(plan.update.mean_gradient(total, 3))
    assert cut < {8: 0.02, 10: 0.001}[bits] * 3 * plan.study.training.rounds * plan.dimension
    fresh = cohort(plan, 300, 9, 0.5)
    called = (fresh.features.double() @ torch.from_numpy(optimiser.result)).numpy() > 0
    assert (called == fresh.labels.numpy()).mean() > 0.85


def rotated(mechanism: Mechanism, total: np.ndarray) -> np.ndarray:
    """What the clamp sees, with the mechanism's own signs."""
    vector = total.copy()
    mechanism._flip(vector)
    hadamard.transform(vector)
    return vector


def test_the_extremes_of_eight_bits_do_not_wrap() -> None:
    """All hospitals at the clamp with all the noise there can be: still inside the ring, and one more would not be."""
    plan = planned(8)
    mechanism = plan.training
    most = max(int(np.abs(mechanism.share(np.full(plan.dimension, 1e9), Stream.from_os())).max()) for _ in range(20))
    reach = 38  # 12 widths of 3, and the seams of its digits
    assert mechanism.share_width == 3.0
    assert most <= mechanism.bound + reach
    assert 3 * (mechanism.bound + 1 + reach) < 128 <= 3 * (mechanism.bound + 2 + reach)
    assert ring.to_signed(ring.from_signed(np.array([3 * (mechanism.bound + reach)]), 8), 8) == 3 * (
        mechanism.bound + reach
    )


@pytest.mark.parametrize(("hospitals", "fits"), [(3, True), (4, False)])
def test_bits_that_do_not_even_hold_the_noise_are_refused_with_those_that_do(hospitals: int, fits: bool) -> None:
    if fits:
        planned(8, members=hospitals)
        return
    with pytest.raises(StudyError, match=r"aggregation\.bits = 8 leaves no room") as caught:
        planned(8, members=hospitals)
    assert caught.value.hint.startswith("Use 9 or more")
    planned(9, members=hospitals)
