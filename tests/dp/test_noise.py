"""Integer noise: the right distribution at the right width, and never the same twice."""

import os
from fractions import Fraction

import numpy as np
import pytest
from scipy import stats
from tests.dp.laws import SMALLEST_P, Law, chi_square_p, distance, fits_width, gaussian, law_of, thresholds_of

from primum.dp.mechanism import Mechanism
from primum.dp.noise import CHUNK, DiscreteGaussian, Drawer, convolution_error
from primum.dp.table import Table
from primum.kernels import alias, reference
from primum.rng import Stream


@pytest.mark.parametrize("sigma", [3.0, 57.3, 1000.0, 5000.0, 3.0e6])
def test_noise_is_accepted_at_its_scale_and_rejected_at_two_thirds_and_three_halves_of_it(sigma: float) -> None:
    values = DiscreteGaussian(sigma).draw(20_000, Stream.from_os())
    assert fits_width(values, sigma)
    assert not fits_width(values, sigma * 2 / 3)
    assert not fits_width(values, sigma * 3 / 2)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 7.7, 100.0])
def test_small_sigma_has_the_exact_probabilities(sigma: float) -> None:
    assert chi_square_p(DiscreteGaussian(sigma).draw(200_000, Stream.from_os()), sigma) > SMALLEST_P


@pytest.mark.parametrize("sigma", [171.0, 4000.0, 70_000.0])
def test_a_plus_m_b_has_the_exact_probabilities(sigma: float) -> None:
    values = DiscreteGaussian(sigma).draw(200_000, Stream.from_os())
    assert chi_square_p(values, sigma) > SMALLEST_P
    assert chi_square_p(values, sigma * 1.05) < SMALLEST_P  # the test has eyes


@pytest.mark.parametrize("modulus", [2, 40, 67])
def test_a_plus_m_b_leaves_no_comb(modulus: int) -> None:
    """Residues modulo m (40) would show the seams between A and m B."""
    residues = DiscreteGaussian(9000.0).draw(200_000, Stream.from_os()) % modulus
    observed = np.bincount(residues, minlength=modulus)
    assert stats.chisquare(observed).pvalue > SMALLEST_P


def slow_draws(noise: DiscreteGaussian, count: int, stream: Stream) -> list[int]:
    """One value at a time, from the words that `add_to` says it takes."""
    out = [0] * count
    for start in range(0, count, CHUNK):
        places = range(start, min(start + CHUNK, count))
        for factor, table in noise._tables:
            indices, coins = np.empty(len(places), np.uint16), np.empty(len(places), np.uint64)
            stream.fill(indices)
            stream.fill(coins)
            spare = int(stream.uint64())
            rows = thresholds_of(table.arrays), table.arrays[2].tolist()
            for place, index, coin in zip(places, indices.tolist(), coins.tolist(), strict=True):
                out[place] += factor * (table.lowest + reference.alias_column(*rows, index, (coin << 64) + spare))
    return out


@pytest.mark.parametrize("sigma", [0.5, 4.0, 1000.0, 3.0e5])
def test_the_same_words_give_the_values_of_the_slow_twin(sigma: float) -> None:
    noise, count = DiscreteGaussian(sigma), CHUNK + 300
    slow = slow_draws(noise, count, Stream(bytes(32)))
    assert noise.draw(count, Stream(bytes(32))).tolist() == slow
    total = np.arange(count, dtype=np.int32)
    noise.add_to(total, Stream(bytes(32)))
    assert (total - np.arange(count)).tolist() == slow


def law_of_sum(noise: DiscreteGaussian) -> Law:
    """The law of A + m B, exactly, from its tables."""
    total: Law = {0: 1}
    for factor, table in noise._tables:
        part = law_of(table.arrays, table.lowest)
        low, high = min(total) + factor * min(part), max(total) + factor * max(part)
        dense = np.zeros(high - low + 1, object)
        wide = np.array([part.get(k, 0) for k in range(min(part), max(part) + 1)], object)
        for value, chance in total.items():
            start = value + factor * min(part) - low
            dense[start : start + factor * len(wide) : factor][: len(wide)] += chance * wide
        total = {low + k: chance for k, chance in enumerate(dense.tolist()) if chance}
    return total


@pytest.mark.parametrize("sigma", [0.5, 3.0, 170.0, 171.0, 200.0])
def test_the_distance_is_what_it_says(sigma: float) -> None:
    """The exact law of the sampler against the exact Gaussian: the bound holds and is not far off."""
    noise = DiscreteGaussian(sigma)
    law = law_of_sum(noise)
    assert max(law) <= noise.reach
    true = distance(law, gaussian(Fraction(sigma) ** 2, Fraction(0), min(law), max(law)))
    assert true <= noise.distance <= 10 * true
    # the test has eyes: a width that is wrong in the last bits of a float64 is further away
    assert distance(law, gaussian(Fraction(sigma * (1 + 2.0**-52)) ** 2, Fraction(0), min(law), max(law))) > 2.0**-60


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.9, 30.0, 100.0, 1e3, 6.9e3, 3e4, 2.8e5, 1e7, 1e9, 2.0**39.9])
def test_every_distance_is_below_2_to_the_minus_104(sigma: float) -> None:
    assert 0 < DiscreteGaussian(sigma).distance < 2.0**-104


def test_the_seams_between_tables_are_bounded_by_the_convolution_lemma() -> None:
    """Poisson summation, recomputed: the sum over b of exp(-(b - x)^2 / 2 t^2) at t^2 <= 1 for many x."""
    for first, second in ((1, 1), (2, 2), (Fraction(4, 3), 4)):
        t_squared = float(Fraction(first) * second / (Fraction(first) + second))
        places = np.arange(-40, 41)[:, None] - np.linspace(0, 1, 101)
        sums = np.exp(-(places**2) / (2 * t_squared)).sum(0)
        wobble = np.abs(sums / sums.mean() - 1).max()
        assert wobble < convolution_error(Fraction(first), Fraction(second)) < 1.2 * wobble
    assert convolution_error(Fraction(9), Fraction(9)) < 2.0**-126


def test_no_value_is_beyond_the_reach() -> None:
    noise = DiscreteGaussian(2000.0)
    assert np.abs(noise.draw(100_000, Stream.from_os())).max() <= noise.reach
    assert 11.9 * 2000 < noise.reach < 24 * 2000


class EqualCoins(Stream):
    """A stream whose coins are all 0; its other words are random."""

    def fill(self, out: np.ndarray) -> None:
        super().fill(out)
        if out.dtype == np.uint64 and out.size > 1:
            out[:] = 0


def test_each_coin_that_is_equal_to_its_threshold_takes_a_fresh_word() -> None:
    """Thresholds of 2^62 in 2^128: with coins whose first half is 0 a column keeps a quarter of those that chose it."""
    arrays = np.zeros(2, np.uint64), np.full(2, 2**62, np.uint64), np.array([1, 1], np.uint16)
    out, table = np.zeros(8000, np.int64), Table(arrays, 0, 0.0)
    Drawer(EqualCoins.from_os(), np.uint16).draw(alias.add_drawn, out, table, 1)
    own = int((out == 0).sum())
    assert stats.binomtest(own, len(out), 1 / 8).pvalue > SMALLEST_P  # half choose column 0; each alias is 1


def test_noise_too_wide_for_its_integers_is_refused() -> None:
    with pytest.raises(ValueError, match="does not fit into int32"):
        DiscreteGaussian(3e8).add_to(np.zeros(3, np.int32), Stream.from_os())
    assert np.abs(DiscreteGaussian(3e8).draw(50, Stream.from_os())).max() > 2**26


@pytest.mark.parametrize("sigma", [0.4, 0.0, -1.0, 2.0**40, float("nan"), float("inf")])
def test_a_width_that_cannot_be_drawn_is_refused(sigma: float) -> None:
    with pytest.raises(ValueError, match="sigma must be"):
        DiscreteGaussian(sigma)


def test_noise_never_repeats_across_steps_or_parameters() -> None:
    """Two steps, and any two runs of coordinates within one, have different noise."""
    mechanism = Mechanism(4050, 0.25, 5.0, 2, 3, 100)
    stream, nothing = Stream.from_os(), np.zeros(4050)
    rows = np.array([mechanism.share(nothing, stream) for _ in range(50)])
    assert len({row.tobytes() for row in rows}) == 50
    correlation = np.corrcoef(rows)
    assert np.abs(correlation - np.eye(50)).max() < 7 / np.sqrt(4050)
    flat = rows.reshape(-1)
    windows = np.lib.stride_tricks.sliding_window_view(flat, 12)
    assert len(np.unique(windows, axis=0)) == len(windows)  # no twelve neighbours of any step or parameter come again


def test_two_hospitals_never_draw_the_same_noise() -> None:
    mechanism = Mechanism(1000, 1.0, 5.0, 2, 3, 100)
    first, second = (mechanism.share(np.zeros(1000), Stream.from_os()) for _ in range(2))
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.25


def test_forked_workers_never_share_streams() -> None:
    """PriMIA's and deepee's workers drew the same noise; a forked stream refuses, and a fresh one differs."""
    read, write = os.pipe()
    stream = Stream.from_os()
    child = os.fork()
    if child == 0:  # only os calls here: pytest must not run twice
        try:
            stream.bytes(16)
            answer = b"drew"
        except RuntimeError as error:
            answer = str(error).encode()
        os.write(write, answer + b"|" + Stream.from_os().bytes(16).hex().encode())
        os._exit(0)
    os.waitpid(child, 0)
    answer, fresh = os.read(read, 1000).decode().split("|")
    os.close(read)
    os.close(write)
    assert "another process" in answer
    assert fresh not in (stream.bytes(16).hex(), Stream.from_os().bytes(16).hex())
