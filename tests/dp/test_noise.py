"""Integer noise: the right distribution at the right width, and never the same twice."""

import os

import numpy as np
import pytest
from scipy import stats

from primum.dp.mechanism import Mechanism
from primum.dp.noise import DiscreteGaussian
from primum.rng import Stream

SMALLEST_P = 1e-6  # a right sampler fails one of these tests once in a million runs


def fits_width(values: np.ndarray, sigma: float) -> bool:
    """Chi-square test of the variance, two-sided."""
    statistic = float((values.astype(np.float64) ** 2).sum()) / sigma**2
    tail = min(stats.chi2.cdf(statistic, len(values)), stats.chi2.sf(statistic, len(values)))
    return 2 * tail > SMALLEST_P


def exact_pmf(sigma: float) -> tuple[np.ndarray, np.ndarray]:
    reach = int(np.ceil(14 * sigma))
    support = np.arange(-reach, reach + 1)
    weights = np.exp(-(support.astype(np.float64) ** 2) / (2 * sigma**2))
    return support, weights / weights.sum()


def chi_square_p(values: np.ndarray, sigma: float, cells: int = 60) -> float:
    """Pearson's test against the exact probabilities, neighbouring values merged into cells of at least 1/cells."""
    support, chances = exact_pmf(sigma)
    edges, mass = [], 0.0
    for value, chance in zip(support.tolist(), chances.tolist(), strict=True):
        mass += chance
        if mass >= 1 / cells:
            edges.append(value)
            mass = 0.0
    cell_of = np.searchsorted(edges, support, "left")
    expected = np.bincount(cell_of, chances, len(edges) + 1) * len(values)
    observed = np.bincount(np.searchsorted(edges, values, "left"), minlength=len(edges) + 1)
    kept = expected > 5
    statistic = float((((observed - expected) ** 2)[kept] / expected[kept]).sum())
    return float(stats.chi2.sf(statistic, kept.sum() - 1))


@pytest.mark.parametrize("sigma", [3.0, 57.3, 1000.0, 5000.0, 3.0e6])
def test_noise_is_accepted_at_its_scale_and_rejected_at_two_thirds_and_three_halves_of_it(sigma: float) -> None:
    values = DiscreteGaussian(sigma).draw(20_000, Stream.from_os())
    assert fits_width(values, sigma)
    assert not fits_width(values, sigma * 2 / 3)
    assert not fits_width(values, sigma * 3 / 2)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0, 7.7, 100.0])
def test_small_sigma_has_the_exact_probabilities(sigma: float) -> None:
    assert chi_square_p(DiscreteGaussian(sigma).draw(200_000, Stream.from_os()), sigma) > SMALLEST_P


@pytest.mark.parametrize("sigma", [1025.0, 4000.0, 70_000.0])
def test_a_plus_m_b_has_the_exact_probabilities(sigma: float) -> None:
    values = DiscreteGaussian(sigma).draw(200_000, Stream.from_os())
    assert chi_square_p(values, sigma) > SMALLEST_P
    assert chi_square_p(values, sigma * 1.05) < SMALLEST_P  # the test has eyes


@pytest.mark.parametrize("modulus", [2, 64, 67])
def test_a_plus_m_b_leaves_no_comb(modulus: int) -> None:
    """Residues modulo m (64) would show the seams between A and m B."""
    residues = DiscreteGaussian(9000.0).draw(200_000, Stream.from_os()) % modulus
    observed = np.bincount(residues, minlength=modulus)
    assert stats.chisquare(observed).pvalue > SMALLEST_P


def test_a_value_is_the_inverse_of_the_cumulative_distribution() -> None:
    """The table against its slow twin: for known random words, the first entry that is greater decides."""
    words = Stream(bytes(32)).uint64(2000)
    drawn = DiscreteGaussian(4.0).draw(2000, Stream(bytes(32)))
    support, chances = exact_pmf(4.0)
    cumulative = np.cumsum(chances)
    slow = support[np.searchsorted(cumulative, words / 2.0**64, "right")]
    assert (slow == drawn).mean() > 0.999  # float64 differs from 128 bits at a seam once in 2^50


def test_no_value_is_beyond_the_reach() -> None:
    noise = DiscreteGaussian(2000.0)
    assert np.abs(noise.draw(100_000, Stream.from_os())).max() <= noise.reach
    assert 11.9 * 2000 < noise.reach < 24 * 2000


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
    windows = np.lib.stride_tricks.sliding_window_view(flat, 4)
    assert len(np.unique(windows, axis=0)) == len(windows)  # no four neighbours of any step or parameter come again


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
