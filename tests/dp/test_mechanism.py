"""One hospital's integers: exact sums, right width, no overflow."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from primum import ring
from primum.dp.mechanism import LEAST_SHARE, Mechanism
from primum.errors import StudyError
from primum.rng import Stream

shapes = st.fixed_dictionaries(
    {
        "dimension": st.integers(1, 200),
        "sensitivity": st.sampled_from([1e-3, 0.25, 1.0, 50.0]),
        "noise_multiplier": st.sampled_from([0.0, 0.7, 4.1, 20.0]),
        "k_min": st.integers(1, 4),
        "hospitals": st.integers(3, 8),
        "largest_batch": st.integers(1, 3000),
    }
)


def made(**changes: float) -> Mechanism:
    settings = {
        "dimension": 400,
        "sensitivity": 0.25,
        "noise_multiplier": 4.0,
        "k_min": 2,
        "hospitals": 3,
        "largest_batch": 300,
    }
    return Mechanism(**(settings | changes))  # type: ignore[arg-type]


@given(shapes)
def test_no_sum_of_all_hospitals_overflows_the_ring(shape: dict[str, float]) -> None:
    """The extremes: every hospital at its bound, all noise at its reach, in one direction."""
    mechanism = Mechanism(**shape)  # type: ignore[arg-type]
    reach = mechanism._noise.reach if mechanism._noise else 0
    most = mechanism.hospitals * (mechanism.bound + reach)
    assert most <= 2 ** (mechanism.bits - 1) - 1
    for extreme in (most, -most):
        total = np.array([extreme], np.int64)
        assert ring.to_signed(ring.from_signed(total, mechanism.bits), mechanism.bits) == total


@given(shapes, st.integers(0, 10))
def test_integer_sums_equal_plain(shape: dict[str, float], seed: int) -> None:
    """Without noise, the sum of the hospitals' integers is the plain sum, to one rounding each."""
    mechanism = Mechanism(**(shape | {"noise_multiplier": 0.0}))  # type: ignore[arg-type]
    draws = Stream(seed.to_bytes(32, "big"))
    size = mechanism.sensitivity * mechanism.largest_batch / math.sqrt(mechanism.dimension)
    totals = [(draws.uniform(mechanism.dimension) * 2 - 1) * size for _ in range(mechanism.hospitals)]
    whole = sum(
        ring.from_signed(mechanism.share(total, Stream.from_os()), mechanism.bits) for total in totals
    ) & ring.mask(mechanism.bits)
    restored = mechanism.restore(ring.to_signed(whole, mechanism.bits))
    assert np.abs(restored - sum(totals)).max() <= (mechanism.hospitals + 1e-6) / mechanism.scale


@given(shapes)
def test_every_share_fits_its_own_bounds(shape: dict[str, float]) -> None:
    """Even a vector that no clipped sum can be is clamped, so that one hospital cannot overflow the rest."""
    mechanism = Mechanism(**shape)  # type: ignore[arg-type]
    reach = mechanism._noise.reach if mechanism._noise else 0
    share = mechanism.share(np.full(mechanism.dimension, 1e12), Stream.from_os())
    assert np.abs(share).max() <= mechanism.bound + reach


def test_noise_of_a_step_is_accepted_at_its_scale_and_rejected_at_two_thirds_and_three_halves_of_it() -> None:
    """Over the sum of k_min hospitals, in units of the data: sigma times (C and the rounding)."""
    mechanism = made()
    stream, totals = Stream.from_os(), np.zeros((60, 400))
    for row in totals:
        row += mechanism.restore(mechanism.share(np.zeros(400), stream) + mechanism.share(np.zeros(400), stream))
    for factor, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        width = factor * 4.0 * 0.25 * 1.01
        statistic = float((totals**2).sum()) / width**2
        tail = min(stats.chi2.cdf(statistic, totals.size), stats.chi2.sf(statistic, totals.size))
        assert bool(2 * tail > 1e-6) is accepted


def test_the_ratio_of_noise_to_one_patient_never_depends_on_batch_size() -> None:
    for batch in (1, 10, 10_000):
        mechanism = made(largest_batch=batch)
        assert mechanism.share_sigma == made().share_sigma
        assert mechanism.scale == made().scale


def test_one_patient_moves_the_rounded_sum_by_at_most_delta() -> None:
    """floor(s x + u) with the same u: the definition of Delta, over many neighbours."""
    mechanism = made(noise_multiplier=0.0, dimension=50)
    draws = Stream.from_os()
    for _ in range(300):
        total = (draws.uniform(50) - 0.5) * 10
        patient = draws.uniform(50) - 0.5
        patient *= 0.25 / np.linalg.norm(patient)
        key = draws.bytes(32)
        moved = mechanism.share(total + patient, Stream(key)) - mechanism.share(total, Stream(key))
        assert np.linalg.norm(moved) <= mechanism.integer_sensitivity


def test_rounding_is_unbiased() -> None:
    mechanism = made(noise_multiplier=0.0, dimension=1)
    stream = Stream.from_os()
    rounded = np.array([mechanism.share(np.array([0.3 / mechanism.scale]), stream)[0] for _ in range(4000)])
    assert set(rounded.tolist()) == {0, 1}
    assert stats.binomtest(int(rounded.sum()), 4000, 0.3).pvalue > 1e-6


def test_the_accountant_sees_slightly_less_noise_than_there_is() -> None:
    mechanism = made()
    delta = mechanism.integer_sensitivity
    width = math.sqrt(2) * mechanism.share_sigma
    assert math.isclose(mechanism.accounted_multiplier, math.sqrt(width**2 - 9) / delta)
    assert 0 < 1 - mechanism.accounted_multiplier / mechanism.noise_multiplier < 1e-6


@pytest.mark.parametrize("accounted", [0.3, 0.7, 8.0])
def test_the_multiplier_for_what_is_accounted_is_its_inverse(accounted: float) -> None:
    coarse = made(dimension=16)
    found = Mechanism(16, 0.25, coarse.multiplier_for(accounted), 2, 3, 300)
    assert math.isclose(found.accounted_multiplier, accounted)


def test_more_honest_hospitals_than_promised_count_for_more() -> None:
    assert made().arriving_multiplier(2) == 4.0
    assert math.isclose(made().arriving_multiplier(3), 4.0 * math.sqrt(1.5))


def test_noise_too_narrow_to_be_accounted_for_is_refused() -> None:
    coarse = Mechanism(1, 1.0, 0.1, 2, 3, 100, resolution=1.0)
    with pytest.raises(StudyError, match=f"below {LEAST_SHARE:g}"):
        _ = coarse.share_sigma


def test_a_ring_of_more_than_32_bits_is_refused() -> None:
    with pytest.raises(StudyError, match="32"):
        _ = made(largest_batch=10**9).bits


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 400"):
        made().share(np.zeros(399), Stream.from_os())
