"""Poisson sampling by patient: independent, at rate q, one image of each, below the public maximum."""

import numpy as np
import pytest
from scipy import stats

from primum.dp.sampling import OVERFLOW_PROBABILITY, draw, group_by, public_maximum
from primum.rng import Stream


def test_every_patient_is_drawn_at_rate_q_independently() -> None:
    groups = [[i] for i in range(60)]
    stream = Stream.from_os()
    drawn = np.zeros((3000, 60))
    for row in drawn:
        row[draw(groups, 0.3, stream)] = 1
    rate = stats.binomtest(int(drawn.sum()), drawn.size, 0.3)
    assert rate.pvalue > 1e-6
    each = ((drawn.sum(0) - 900) ** 2 / (3000 * 0.3 * 0.7)).sum()
    assert stats.chi2.sf(each, 60) > 1e-6  # no patient more often than another
    sizes = drawn.sum(1).var(ddof=1) * 2999 / (60 * 0.3 * 0.7)
    assert 1e-6 < stats.chi2.cdf(sizes, 2999) < 1 - 1e-6  # batch sizes vary: not a shuffle with fixed batches
    assert np.abs(np.corrcoef(drawn.T) - np.eye(60)).max() < 6 / np.sqrt(3000)


def test_one_image_of_each_drawn_patient_at_random() -> None:
    groups = [[0, 1, 2, 3], [4], [5, 6]]
    stream = Stream.from_os()
    counts = np.zeros(7)
    for _ in range(4000):
        chosen = draw(groups, 0.5, stream)
        assert len({0 if i < 4 else 1 if i == 4 else 2 for i in chosen.tolist()}) == len(chosen)
        counts[chosen] += 1
    assert stats.chisquare(counts[:4]).pvalue > 1e-6
    assert stats.binomtest(int(counts[4]), 4000, 0.5).pvalue > 1e-6
    assert stats.binomtest(int(counts[5]), int(counts[5:].sum()), 0.5).pvalue > 1e-6


def test_q_of_one_draws_everybody_and_nobody_is_drawn_from_nobody() -> None:
    stream = Stream.from_os()
    assert draw([[3], [1]], 1.0, stream).tolist() == [3, 1]
    empty = draw([], 0.5, stream)
    assert empty.shape == (0,)
    assert empty.dtype == np.int64


def test_two_steps_draw_different_samples() -> None:
    stream = Stream.from_os()
    groups = [[i] for i in range(300)]
    assert draw(groups, 0.5, stream).tolist() != draw(groups, 0.5, stream).tolist()


def test_images_are_grouped_by_patient_in_order() -> None:
    assert group_by(["b", "a", "b", "c", "a"]) == [[0, 2], [1, 4], [3]]


@pytest.mark.parametrize(
    ("units", "q", "steps"), [(379, 0.5, 40), (4708, 0.1, 300), (10, 0.9, 5), (100_000, 0.001, 10)]
)
def test_the_public_maximum_is_exceeded_with_probability_1e_9_and_no_looser_than_needed(
    units: int, q: float, steps: int
) -> None:
    most = public_maximum(units, q, steps)
    assert most <= units
    assert steps * stats.binom.sf(most, units, q) <= OVERFLOW_PROBABILITY
    if most < units:
        assert steps * stats.binom.sf(most - 2, units, q) > OVERFLOW_PROBABILITY


def test_full_participation_has_everybody_as_maximum() -> None:
    assert public_maximum(379, 1.0, 40) == 379
