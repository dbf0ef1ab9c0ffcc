"""One hospital's share: nothing overflows, sums are plain, the noise has its width, one patient its bound."""

import math
import tracemalloc
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from primum import ring
from primum.dp.centred import LEAST_SIGMA, CentredGaussian
from primum.dp.mechanism import ROUNDING_WIDTH, Mechanism
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
        "share_width": st.sampled_from([3.0, 4.5, 16.0, 100.0]),
        "bound_bits": st.sampled_from([None, None, 9, 10, 14, 20, 32]),
        "rotated": st.booleans(),
    }
)


def made(**changes: Any) -> Mechanism:
    settings = {
        "dimension": 400,
        "sensitivity": 0.25,
        "noise_multiplier": 4.0,
        "k_min": 2,
        "hospitals": 3,
        "largest_batch": 300,
    }
    return Mechanism(**(settings | changes))


def possible(shape: dict[str, Any]) -> Mechanism:
    """The mechanism of `shape`; where its bits do not hold the noise, another example is drawn."""
    mechanism = Mechanism(**shape)
    try:
        _ = mechanism.bits, mechanism.bound
    except StudyError:
        assume(False)
    return mechanism


def reach(mechanism: Mechanism) -> int:
    return CentredGaussian(mechanism.share_width).reach if mechanism.noise_multiplier else 0


@given(shapes)
def test_no_sum_of_all_hospitals_overflows_the_ring(shape: dict[str, Any]) -> None:
    """The extremes: every hospital at its bound, all noise at its reach, in one direction."""
    mechanism = possible(shape)
    most = mechanism.hospitals * (mechanism.bound + reach(mechanism))
    assert most <= 2 ** (mechanism.bits - 1) - 1
    for extreme in (most, -most):
        total = np.array([extreme], np.int64)
        assert ring.to_signed(ring.from_signed(total, mechanism.bits), mechanism.bits) == total


@given(shapes)
def test_every_share_fits_its_own_bounds(shape: dict[str, Any]) -> None:
    """Even a vector that no clipped sum can be is clamped, so that one hospital cannot overflow the rest."""
    mechanism = possible(shape)
    share = mechanism.share(np.full(mechanism.dimension, 1e12), Stream.from_os())
    assert share.dtype == np.int32
    assert np.abs(share.astype(np.int64)).max() <= mechanism.bound + reach(mechanism)


@given(shapes, st.integers(8, 32))
def test_with_given_bits_the_bound_is_the_largest_that_cannot_overflow(shape: dict[str, Any], bits: int) -> None:
    mechanism = Mechanism(**(shape | {"bound_bits": bits}))
    room = 2 ** (bits - 1) - mechanism.hospitals * (2 + reach(mechanism))
    if room <= 0:
        with pytest.raises(StudyError, match=f"{bits} bits do not hold the noise"):
            _ = mechanism.bits
        with pytest.raises(StudyError, match=f"{bits} bits do not hold the noise"):
            mechanism.share(np.zeros(mechanism.dimension), Stream.from_os())
        return
    assert mechanism.bits == bits
    assert mechanism.bound >= 1
    assert mechanism.hospitals * (mechanism.bound + 1 + reach(mechanism)) < 2 ** (bits - 1)
    if mechanism.bound < 2**29:
        assert mechanism.hospitals * (mechanism.bound + 2 + reach(mechanism)) >= 2 ** (bits - 1)


@given(shapes)
def test_without_given_bits_no_clipped_sum_is_clamped(shape: dict[str, Any]) -> None:
    mechanism = possible(shape | {"bound_bits": None})
    assert mechanism.clamp > mechanism.sensitivity * mechanism.largest_batch
    if mechanism.bits > 8:
        assert mechanism.hospitals * (mechanism.bound + 1 + reach(mechanism)) >= 2 ** (mechanism.bits - 2)


@given(shapes, st.integers(0, 10))
def test_integer_sums_equal_plain(shape: dict[str, Any], seed: int) -> None:
    """Without noise, the sum of the hospitals' integers is the plain sum, to one rounding each."""
    mechanism = possible(shape | {"noise_multiplier": 0.0, "bound_bits": None})
    draws = Stream(seed.to_bytes(32, "big"))
    size = mechanism.sensitivity * mechanism.largest_batch / math.sqrt(mechanism.dimension)
    totals = [(draws.uniform(mechanism.dimension) * 2 - 1) * size for _ in range(mechanism.hospitals)]
    whole = sum(
        ring.from_signed(mechanism.share(total, Stream.from_os()), mechanism.bits) for total in totals
    ) & ring.mask(mechanism.bits)
    away = mechanism.restore(ring.to_signed(whole, mechanism.bits)) - sum(totals)
    allowed = (mechanism.hospitals + 1e-6) / mechanism.scale
    if mechanism.rotated:
        assert np.linalg.norm(away) <= allowed * math.sqrt(mechanism.dimension)
    else:
        assert np.abs(away).max() <= allowed


@pytest.mark.parametrize("rotated", [False, True])
def test_noise_of_a_step_is_accepted_at_its_scale_and_rejected_at_two_thirds_and_three_halves_of_it(
    rotated: bool,
) -> None:
    """Over the sum of k_min hospitals, in units of the data: sigma times C, and nothing for rounding."""
    mechanism = made(rotated=rotated)
    stream, parts = Stream.from_os(), Stream.public("two hospitals").uniform((2, 400)) - 0.5
    totals = np.zeros((60, 400))
    for row in totals:
        row += mechanism.restore(sum(mechanism.share(part, stream) for part in parts)) - parts.sum(0)
    for factor, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        width = factor * 4.0 * 0.25
        statistic = float((totals**2).sum()) / width**2
        tail = min(stats.chi2.cdf(statistic, totals.size), stats.chi2.sf(statistic, totals.size))
        assert bool(2 * tail > 1e-6) is accepted
    assert math.isclose(mechanism.restored_sigma(2), 4.0 * 0.25, rel_tol=1e-4)
    assert np.abs(totals.mean(0)).max() < 6 / math.sqrt(60)


def test_the_ratio_of_noise_to_one_patient_never_depends_on_batch_size() -> None:
    for batch in (1, 10, 10_000):
        mechanism = made(largest_batch=batch)
        assert mechanism.share_sigma == made().share_sigma
        assert mechanism.scale == made().scale


@given(shapes)
def test_the_scale_makes_the_noise_of_k_min_hospitals_the_multiplier_times_the_sensitivity(
    shape: dict[str, Any],
) -> None:
    mechanism = Mechanism(**(shape | {"noise_multiplier": shape["noise_multiplier"] or 1.3}))
    delta = mechanism.integer_sensitivity
    width = math.sqrt(mechanism.k_min) * mechanism.share_sigma
    assert math.isclose(width, mechanism.noise_multiplier * delta)
    moved = mechanism.scale * mechanism.sensitivity
    assert moved + math.sqrt(mechanism.dimension) * 2.0**-23 < delta < 1.001 * moved


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("bits", [None, 14, 10])
def test_one_patient_moves_the_centres_by_at_most_delta(bits: int | None, rotated: bool) -> None:
    """The definition of Delta, over many neighbours; for the worst of them it is reached."""
    mechanism = made(dimension=50, noise_multiplier=0.5, bound_bits=bits, rotated=rotated, share_width=5.0)
    draws, worst = Stream.from_os(), 0.0

    def centres(total: np.ndarray) -> np.ndarray:
        vector = mechanism._rotate(total) if rotated else total
        return mechanism._centres(vector * mechanism.scale) / 2.0**24

    for _ in range(300):
        total = (draws.uniform(50) - 0.5) * draws.below(20)
        patient = draws.uniform(50) - 0.5
        patient *= 0.25 / np.linalg.norm(patient)
        moved = np.linalg.norm(centres(total + patient) - centres(total))
        assert moved <= mechanism.integer_sensitivity
        worst = max(worst, moved)
    assert worst > 0.99 * mechanism.integer_sensitivity


def test_one_patient_moves_the_rounded_sum_by_at_most_delta_without_noise() -> None:
    """floor(s x + u) with the same u, over many neighbours."""
    mechanism = made(noise_multiplier=0.0, dimension=50)
    draws = Stream.from_os()
    for _ in range(300):
        total = (draws.uniform(50) - 0.5) * 10
        patient = draws.uniform(50) - 0.5
        patient *= 0.25 / np.linalg.norm(patient)
        key = draws.bytes(32)
        moved = mechanism.share(total + patient, Stream(key)) - mechanism.share(total, Stream(key))
        assert np.linalg.norm(moved) <= mechanism.integer_sensitivity


def test_rounding_is_unbiased_without_noise() -> None:
    mechanism = made(noise_multiplier=0.0, dimension=1)
    stream = Stream.from_os()
    rounded = np.array([mechanism.share(np.array([0.3 / mechanism.scale]), stream)[0] for _ in range(4000)])
    assert set(rounded.tolist()) == {0, 1}
    assert stats.binomtest(int(rounded.sum()), 4000, 0.3).pvalue > 1e-6


def test_a_share_is_drawn_around_the_scaled_vector_itself() -> None:
    """For the same words: what CentredGaussian draws around s x on the grid, across pieces and chunks."""
    mechanism = made(dimension=(1 << 18) + 20_000)
    total = Stream.public("a sum").uniform(mechanism.dimension) - 0.5
    share, slow, stream = mechanism.share(total, Stream(bytes(32))), [], Stream(bytes(32))
    for start in (0, 1 << 18):
        centres = np.rint(total[start : start + (1 << 18)] * mechanism.scale * 2**24).astype(np.int64)
        slow.append(CentredGaussian(16.0).draw(centres, stream))
    assert np.array_equal(share, np.concatenate(slow))
    assert np.array_equal(share, mechanism.share(total.copy(), Stream(bytes(32))))


def test_float32_is_as_good_as_float64() -> None:
    mechanism, total = made(), (Stream.public("a sum").uniform(400) - 0.5).astype(np.float32)
    shares = [mechanism.share(kind(total), Stream(bytes(32))) for kind in (np.float32, np.float64)]
    assert np.array_equal(*shares)


def test_rotation_saves_a_spike_from_a_tight_clamp() -> None:
    """Nine bits hold a third of the spike; spread over the vector all of it passes."""
    spike, kept = np.zeros(4096), {}
    spike[77] = 60.0
    for rotated in (False, True):
        mechanism = made(dimension=4096, bound_bits=9, share_width=4.0, rotated=rotated)
        assert 5 < mechanism.clamp < 7
        total = sum(mechanism.share(spike / 3, Stream.from_os()).astype(np.int64) for _ in range(3))
        kept[rotated] = mechanism.restore(np.asarray(total))[77]
    width = mechanism.restored_sigma(3)
    assert abs(kept[True] - 60) < 6 * width < 8
    assert kept[False] < 3 * 7 + 6 * width < 30


def test_everybody_rotates_in_the_same_way_and_norms_are_kept() -> None:
    one, other = made(rotated=True, dimension=5000), made(rotated=True, dimension=5000)
    total = Stream.public("a sum").uniform(5000) - 0.5
    before = total.copy()
    assert np.array_equal(one._rotate(total), other._rotate(total))
    assert np.array_equal(total, before)
    assert math.isclose(np.linalg.norm(one._rotate(total)), np.linalg.norm(total), rel_tol=1e-12)
    assert one._rotate(np.ones(5000)).max() < 6  # without signs the first would be 64


@given(shapes)
def test_the_accountant_sees_slightly_less_noise_than_there_is(shape: dict[str, Any]) -> None:
    mechanism = Mechanism(**(shape | {"noise_multiplier": shape["noise_multiplier"] or 1.3}))
    delta = mechanism.integer_sensitivity
    width = math.sqrt(mechanism.k_min) * mechanism.share_sigma
    assert math.isclose(mechanism.accounted_multiplier, math.sqrt(width**2 - ROUNDING_WIDTH**2) / delta)
    lost = 1 - mechanism.accounted_multiplier / mechanism.noise_multiplier
    assert 0 < lost < 0.55 * (ROUNDING_WIDTH / width) ** 2 * (1 + (ROUNDING_WIDTH / width) ** 2)


@given(shapes, st.floats(0.1, 50))
def test_the_multiplier_for_what_is_accounted_is_its_inverse_and_never_less(
    shape: dict[str, Any], accounted: float
) -> None:
    coarse = Mechanism(**shape)
    found = Mechanism(**(shape | {"noise_multiplier": coarse.multiplier_for(accounted)}))
    assert found.accounted_multiplier >= accounted
    assert math.isclose(found.accounted_multiplier, accounted)


def test_rounding_in_float64_never_accounts_for_less_than_was_asked() -> None:
    for accounted in (Stream.public("multipliers").uniform(2000) * 10 + 0.1).tolist():
        assert made(noise_multiplier=made().multiplier_for(accounted)).accounted_multiplier >= accounted


@pytest.mark.parametrize("width", [LEAST_SIGMA - 0.01, 0.0, -1.0, float("nan")])
def test_noise_too_narrow_to_be_accounted_for_is_refused(width: float) -> None:
    with pytest.raises(StudyError, match=f"below {LEAST_SIGMA:g}"):
        made(share_width=width)


def test_a_sum_in_which_one_patient_is_finer_than_the_grid_is_refused() -> None:
    with pytest.raises(StudyError, match="less than they are exact"):
        made(dimension=10**12, noise_multiplier=100.0)


@pytest.mark.parametrize("noise", [0.0, 4.0])
def test_a_ring_of_more_than_32_bits_is_refused(noise: float) -> None:
    with pytest.raises(StudyError, match="Use a smaller batch"):
        _ = made(largest_batch=10**9, noise_multiplier=noise).bits
    with pytest.raises(StudyError, match="33 bits"):
        _ = made(bound_bits=33, noise_multiplier=noise).bits


def test_a_vector_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="expected 400"):
        made().share(np.zeros(399), Stream.from_os())


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("noise", [0.0, 4.0])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_sum_that_is_not_finite_is_refused_and_not_shown(bad: float, noise: float, rotated: bool) -> None:
    total = np.full(400, 0.123456789)
    total[399] = bad
    with pytest.raises(ValueError, match="not a finite number") as caught:
        made(noise_multiplier=noise, rotated=rotated).share(total, Stream.from_os())
    assert "0.12" not in str(caught.value)
    assert "inf" not in str(caught.value).replace("finite", "")


def test_a_long_vector_takes_little_memory_beside_the_result() -> None:
    mechanism, total = made(dimension=2_000_000), np.zeros(2_000_000, np.float32)
    mechanism.share(total, Stream.from_os())  # tables, machine code
    tracemalloc.start()
    share = mechanism.share(total, Stream.from_os())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - share.nbytes < 10 * 2**20
