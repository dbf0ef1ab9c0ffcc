"""Correlated noise: nothing is lost, no pattern of visits moves it further than it says, and it is less."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.dp import account
from primum.dp.account import Steps
from primum.dp.banded import Banded, assign, best
from primum.dp.mechanism import Mechanism
from primum.errors import InputError, StudyError
from primum.rng import Stream


def matrix(banded: Banded) -> np.ndarray:
    """C, from its definition."""
    c = np.zeros((banded.steps, banded.steps))
    for row in range(banded.steps):
        for column in range(max(0, row - banded.bands + 1), row + 1):
            c[row, column] = math.comb(2 * (row - column), row - column) / 4 ** (row - column)
    return c


@st.composite
def studies(draw: st.DrawFn, most: int = 12) -> Banded:
    steps = draw(st.integers(1, most))
    separation = draw(st.integers(1, steps))
    bands = draw(st.integers(1, separation))
    visits = draw(st.integers(1, math.ceil(steps / separation)))
    return Banded(bands, steps, visits, separation)


def patterns(banded: Banded) -> list[Sequence[int]]:
    """All sets of steps that one unit may be in."""
    return [
        steps
        for count in range(1, banded.participations + 1)
        for steps in itertools.combinations(range(banded.steps), count)
        if all(later - sooner >= banded.separation for sooner, later in itertools.pairwise(steps))
    ]


def test_with_all_bands_it_is_the_square_root_of_the_running_sum() -> None:
    c = matrix(Banded(30, 30, 1))
    assert np.allclose(c @ c, np.tri(30))
    assert np.allclose(Banded(30, 30, 1).coefficients, c[:, 0])


@given(studies())
def test_sensitivity_against_all_patterns_of_visits(banded: Banded) -> None:
    """One unit's gradients of length 1 in any directions, in any allowed steps: the worst of all is the sensitivity."""
    c = matrix(banded)
    worst = 0.0
    for steps in patterns(banded):
        gram = np.abs(c[:, list(steps)].T @ c[:, list(steps)])
        worst = max(worst, math.sqrt(gram.sum()))  # the directions that add up most
    assert banded.sensitivity == pytest.approx(worst)
    assert banded.sensitivity <= math.sqrt(banded.participations) * np.linalg.norm(c[:, 0]) + 1e-12


@given(studies(), st.integers(0, 2**32 - 1))
def test_a_unit_moves_what_is_released_by_at_most_the_sensitivity(banded: Banded, seed: int) -> None:
    random = np.random.default_rng(seed)
    steps = patterns(banded)[random.integers(len(patterns(banded)))]
    own = np.zeros((banded.steps, 3))
    for step in steps:
        own[step] = random.normal(size=3)
        own[step] /= np.linalg.norm(own[step])
    others = random.normal(size=own.shape)
    released = [_encoded(banded, sums) for sums in (others, others + own)]
    assert np.linalg.norm(released[1] - released[0]) <= banded.sensitivity + 1e-9


def _encoded(banded: Banded, sums: np.ndarray) -> np.ndarray:
    encoder, rows = banded.encoder(), []
    for total in sums:
        row, encoder = encoder.encode(total)
        rows.append(row)
    return np.array(rows)


def _decoded(banded: Banded, released: np.ndarray) -> np.ndarray:
    decoder, rows = banded.decoder(), []
    for one in released:
        row, decoder = decoder.decode(one)
        rows.append(row)
    return np.array(rows)


@given(studies(), st.integers(0, 2**32 - 1))
def test_without_noise_what_is_decoded_is_what_was_encoded(banded: Banded, seed: int) -> None:
    sums = np.random.default_rng(seed).normal(size=(banded.steps, 4))
    kept = sums.copy()
    released = _encoded(banded, sums)
    assert np.allclose(released, matrix(banded) @ sums)
    assert np.allclose(_decoded(banded, released), sums)
    assert np.array_equal(sums, kept)  # the caller's own vectors are left alone


@given(studies(), st.integers(0, 2**32 - 1))
def test_noise_comes_out_as_the_inverse_of_the_factor(banded: Banded, seed: int) -> None:
    noise = np.random.default_rng(seed).normal(size=(banded.steps, 2))
    assert np.allclose(_decoded(banded, noise), np.linalg.solve(matrix(banded), noise))


@given(studies())
def test_the_error_is_that_of_the_matrices(banded: Banded) -> None:
    factor = np.tri(banded.steps) @ np.linalg.inv(matrix(banded))
    error = banded.sensitivity * np.linalg.norm(factor) / math.sqrt(banded.steps)
    assert banded.error == pytest.approx(error)


def test_one_band_is_independent_noise() -> None:
    alone = Banded(1, 50, 5, 10)
    assert alone.gain == 1.0
    assert alone.sensitivity == pytest.approx(math.sqrt(5))
    assert alone.error == pytest.approx(math.sqrt(5 * 51 / 2))


@pytest.mark.parametrize(("steps", "visits", "separation"), [(100, 1, 100), (400, 4, 100), (400, 20, 20), (60, 30, 2)])
def test_running_sums_have_less_error_than_with_independent_noise(steps: int, visits: int, separation: int) -> None:
    chosen = best(steps, visits, separation)
    assert chosen.gain > 1.2
    assert all(chosen.error <= Banded(bands, steps, visits, separation).error for bands in (1, 2, separation))


def test_the_noise_of_a_simulated_study_has_the_error_that_is_said() -> None:
    banded = best(100, 4, 25)
    noise = np.random.default_rng(1).normal(size=(100, 4000)) * banded.sensitivity
    running = np.cumsum(_decoded(banded, noise), axis=0)
    assert math.sqrt((running**2).mean()) == pytest.approx(banded.error, rel=0.03)


def test_the_whole_study_is_one_gaussian() -> None:
    assert Banded(8, 100, 5).spent(4.0) == Steps(1, 1.0, 4.0)
    assert account.epsilon(Banded(8, 100, 5).spent(4.0), 1e-5) == account.epsilon(Steps(1, 1.0, 4.0), 1e-5)


def one_step(dimension: int, share_width: float = 16.0) -> Mechanism:
    return Mechanism(dimension, 0.25, 4.0, k_min=1, hospitals=1, largest_batch=100, share_width=share_width)


@given(studies(), st.integers(1, 10**7), st.floats(4, 64))
def test_the_mechanism_hides_all_steps_together(banded: Banded, dimension: int, width: float) -> None:
    made = banded.mechanism(one_step(dimension, width))
    steps = banded.participations * banded.bands
    grid = math.sqrt(dimension * steps) * 2.0**-22
    assert made.scale * 0.25 * banded.sensitivity + grid <= made.integer_sensitivity * (1 + 1e-12)
    assert made.noise_multiplier == 4.0 and made.share_sigma == width
    assert made.restored_sigma(1) == pytest.approx(4.0 * 0.25 * banded.sensitivity, rel=0.01)
    assert made.clamp >= 0.25 * 100 * banded.coefficients.sum() * 0.999  # nothing is cut


def test_mechanisms_that_cannot_be_are_refused() -> None:
    with pytest.raises(InputError, match="rotated"):
        Banded(2, 4, 1).mechanism(replace(one_step(16), rotated=True))
    with pytest.raises(StudyError, match="less exact"):
        Banded(1000, 10**6, 1000).mechanism(one_step(10**9))
    without = Banded(2, 4, 1).mechanism(replace(one_step(16), noise_multiplier=0.0))
    assert without.sensitivity == pytest.approx(0.25 * math.sqrt(1.25))


def test_integers_all_the_way() -> None:
    """Encode, draw integers around it, decode: the sums come back with the noise of C^-1, and no more."""
    banded = Banded(4, 12, 3)
    mechanism = banded.mechanism(one_step(2000))
    sums, stream = np.random.default_rng(3).normal(size=(12, 2000)), Stream.from_os()
    released = np.array([mechanism.restore(mechanism.share(row, stream)) for row in _encoded(banded, sums)])
    noise = np.cumsum(_decoded(banded, released) - sums, axis=0)
    assert math.sqrt((noise**2).mean()) == pytest.approx(4.0 * 0.25 * banded.error, rel=0.05)


def test_a_hospital_that_sends_after_the_last_step_is_refused_and_its_sums_do_not_print() -> None:
    encoder = Banded(2, 2, 1).encoder()
    for _ in range(2):
        _, encoder = encoder.encode(np.full(3, 0.125))
    assert "0.125" not in repr(encoder) and len(encoder.last) == 1
    with pytest.raises(InputError, match="All 2 steps are taken"):
        encoder.encode(np.zeros(3))


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((0, 10, 1), "0 bands"),
        ((11, 10, 1), "11 bands"),
        ((4, 10, 3, 3), "comes back after 3"),
        ((2, 10, 6), "6 visits"),
    ],
)
def test_impossible_numbers_are_refused(numbers: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Banded(*numbers)


def test_every_unit_gets_a_batch_of_its_own() -> None:
    batches = assign(1000, 8, Stream.from_os())
    assert np.array_equal(np.sort(np.concatenate(batches)), np.arange(1000))
    assert all(60 < len(batch) < 200 and batch.dtype == np.int64 for batch in batches)
    assert len({len(batch) for batch in batches}) > 1  # independent, not a partition into equal parts
