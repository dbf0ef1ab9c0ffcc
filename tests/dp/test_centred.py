"""Integers around real numbers: the exact law for any centre, at the right width, from the words they should take."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dp.laws import SMALLEST_P, Law, chi_square_p, distance, fits_width, gaussian, law_of, thresholds_of

from primum.dp.centred import GRID_BITS, LARGEST_CENTRE, VALUE_DISTANCE, CentredGaussian
from primum.dp.noise import CHUNK
from primum.kernels import reference
from primum.rng import Stream

GRID = 1 << GRID_BITS
CENTRES = [0, 1, GRID // 2, GRID // 3, 5 * GRID - 7, -(GRID // 5), -12345678]
SIGMAS = [3.0, 4.59, 4.6, 16.0, 300.0]


def draws(sigma: float, centre: int, count: int) -> np.ndarray:
    return CentredGaussian(sigma).draw(np.full(count, centre), Stream.from_os())


def law_around(noise: CentredGaussian, centre: int) -> Law:
    """The law of a whole draw, exactly, from the tables: three digits, then the wide noise."""
    tables, law = noise._family, {centre: 1}
    for _ in range(3):
        rounded: Law = {}
        for number, chance in law.items():
            digit = law_of(tables.arrays, tables.lowest, slice(128 * (number & 255), 128 * (number & 255) + 128))
            for step, other in digit.items():
                rounded[(number >> 8) + step] = rounded.get((number >> 8) + step, 0) + chance * other
        law = rounded
    if noise._wide is None:
        return law
    ((factor, wide),) = noise._wide._tables
    total: Law = {}
    for step, other in law_of(wide.arrays, wide.lowest).items():
        for number, chance in law.items():
            total[number + factor * step] = total.get(number + factor * step, 0) + chance * other
    return total


@pytest.mark.parametrize("centre", CENTRES)
@pytest.mark.parametrize("sigma", SIGMAS[:4])
def test_the_exact_law_is_within_the_distance_of_the_gaussian_around_the_centre(sigma: float, centre: int) -> None:
    noise, middle = CentredGaussian(sigma), Fraction(centre, GRID)
    law = law_around(noise, centre)
    assert max(middle - min(law), max(law) - middle) <= noise.reach
    assert distance(law, gaussian(Fraction(sigma) ** 2, middle, min(law), max(law))) <= noise.distance < VALUE_DISTANCE
    # the test has eyes: the next centre on the grid is another law
    assert distance(law, gaussian(Fraction(sigma) ** 2, middle + Fraction(1, GRID), min(law), max(law))) > 2.0**-32


@pytest.mark.parametrize("sigma", [3.0, 3.5, 4.4, 4.6, 5.0, 16.0, 64.0, 1e3, 1e4, 3e5, 2.0**23.9])
def test_every_distance_is_below_what_the_account_charges(sigma: float) -> None:
    assert 0 < CentredGaussian(sigma).distance < VALUE_DISTANCE


@pytest.mark.parametrize("centre", [0, GRID // 2, GRID // 3, -7 * GRID - 77_777])
@pytest.mark.parametrize("sigma", [3.0, 4.5, 16.0])
def test_values_have_the_exact_probabilities(sigma: float, centre: int) -> None:
    values, middle = draws(sigma, centre, 1_000_000), centre / GRID
    assert chi_square_p(values, sigma, middle) > SMALLEST_P
    assert chi_square_p(values, sigma, middle + 0.05 * sigma / 3) < SMALLEST_P
    assert chi_square_p(values, sigma * 1.02, middle) < SMALLEST_P


@pytest.mark.parametrize("sigma", [3.0, 16.0, 1000.0, 70_000.0])
def test_noise_is_accepted_at_its_scale_and_rejected_at_two_thirds_and_three_halves_of_it(sigma: float) -> None:
    stream = Stream.from_os()
    centres = stream.uint64(20_000).view(np.int64) >> 20  # up to 2^19 on either side
    away = CentredGaussian(sigma).draw(centres, stream) - centres / GRID
    assert fits_width(away, sigma)
    assert not fits_width(away, sigma * 2 / 3)
    assert not fits_width(away, sigma * 3 / 2)


def test_sums_of_shares_are_the_gaussian_of_the_summed_variance_around_the_summed_centre() -> None:
    """Three hospitals at the smallest width; together the fractions make 0.9."""
    centres = [GRID // 3, -GRID + GRID // 5, GRID + GRID * 11 // 30]
    total = sum(draws(3.0, centre, 1_000_000).astype(np.int64) for centre in centres)
    assert isinstance(total, np.ndarray)
    middle, sigma = sum(centres) / GRID, 3 * 3**0.5
    assert chi_square_p(total, sigma, middle) > SMALLEST_P
    assert chi_square_p(total, sigma, middle + 0.1) < SMALLEST_P
    assert chi_square_p(total, 3.0 * 2**0.5, middle) < SMALLEST_P


def test_the_exact_law_of_a_sum_of_two_shares() -> None:
    noise, centres = CentredGaussian(3.0), (GRID // 3, 4 * GRID - 99)
    first, second = (law_around(noise, centre) for centre in centres)
    total: Law = {}
    for one, chance in first.items():
        for other, chance_of_other in second.items():
            total[one + other] = total.get(one + other, 0) + chance * chance_of_other
    exact = gaussian(Fraction(18), Fraction(sum(centres), GRID), min(total), max(total))
    assert distance(total, exact) <= 2 * noise.distance + 2.0**-126


def slow_draws(noise: CentredGaussian, centres: list[int], stream: Stream) -> list[int]:
    """One value at a time, from the words that `draw` says it takes."""
    table, out = noise._family, list(centres)
    thresholds = thresholds_of(table.arrays)
    rows = [thresholds[i : i + 128] for i in range(0, len(thresholds), 128)], table.arrays[2].reshape(256, -1).tolist()
    for start in range(0, len(out), CHUNK):
        places = range(start, min(start + CHUNK, len(out)))
        for _ in range(3):
            indices, coins = np.empty(len(places), np.uint8), np.empty(len(places), np.uint64)
            stream.fill(indices)
            stream.fill(coins)
            spare = int(stream.uint64())
            for place, index, coin in zip(places, indices.tolist(), coins.tolist(), strict=True):
                out[place] = reference.round_digit(out[place], *rows, index, (coin << 64) + spare, table.lowest)
    if noise._wide:
        out = (np.array(out) + noise._wide.draw(len(out), stream)).tolist()
    return out


@pytest.mark.parametrize("sigma", [3.0, 16.0])
def test_the_same_words_give_the_values_of_the_slow_twin(sigma: float) -> None:
    noise = CentredGaussian(sigma)
    centres = Stream.public("centres").uint64(CHUNK + 300).view(np.int64) >> 12
    drawn = noise.draw(centres, Stream(bytes(32)))
    assert drawn.dtype == np.int32
    assert drawn.tolist() == slow_draws(noise, centres.tolist(), Stream(bytes(32)))


@given(
    st.lists(st.integers(-(2**40), 2**40), max_size=30),
    st.integers(-(2**20), 2**20),
    st.binary(min_size=32, max_size=32),
)
def test_a_whole_step_of_the_centre_is_the_same_step_of_the_value(centres: list[int], step: int, key: bytes) -> None:
    noise, numbers = CentredGaussian(16.0), np.array(centres, np.int64)
    moved = noise.draw(numbers + step * GRID, Stream(key)) - noise.draw(numbers, Stream(key))
    assert (moved == step).all()


def test_a_centre_is_left_as_it_was_and_no_value_is_beyond_the_reach() -> None:
    noise, largest = CentredGaussian(5.0), LARGEST_CENTRE << GRID_BITS
    centres = np.array([largest, -largest] * 5000)
    before = centres.copy()
    away = noise.draw(centres, Stream.from_os()) - centres / GRID
    assert np.array_equal(centres, before)
    assert 15 < np.abs(away).max() <= noise.reach < 90


@pytest.mark.parametrize("far", [(LARGEST_CENTRE << GRID_BITS) + 1, -(2**63)])
def test_a_centre_that_is_too_far_is_refused(far: int) -> None:
    with pytest.raises(ValueError, match="beyond"):
        CentredGaussian(3.0).draw(np.array([0, far]), Stream.from_os())


@pytest.mark.parametrize("sigma", [2.99, 0.0, -3.0, 2.0**24, float("nan"), float("inf")])
def test_a_width_that_cannot_be_drawn_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be"):
        CentredGaussian(sigma)


def test_nothing_is_drawn_around_nothing() -> None:
    assert CentredGaussian(3.0).draw(np.zeros(0, np.int64), Stream.from_os()).shape == (0,)


@pytest.mark.parametrize("rounding", [0.5, 0.7, 0.9])
@pytest.mark.parametrize("centre", [0.0, 0.3, 0.5])
def test_rounding_a_gaussian_is_the_gaussian_with_that_centre(rounding: float, centre: float) -> None:
    """The lemma of the account: N(c, S^2 - r^2), rounded with width r, against the discrete Gaussian around c.

    By sums over a grid of y, which for such functions are integrals; at widths where the difference can be seen.
    """
    kept, whole, places = 0.4, np.arange(-15, 16), np.arange(-12, 12, 1e-3)
    weights = np.exp(-((whole[:, None] - places) ** 2) / (2 * rounding**2))
    law = (weights / weights.sum(0) * np.exp(-((places - centre) ** 2) / (2 * kept**2))).sum(1)
    exact = np.exp(-((whole - centre) ** 2) / (2 * (rounding**2 + kept**2)))
    away = np.abs(law / law.sum() - exact / exact.sum()).sum() / 2
    bound = 2.2 * np.exp(-2 * np.pi**2 * rounding**2)
    assert bound / 100 < away < bound
