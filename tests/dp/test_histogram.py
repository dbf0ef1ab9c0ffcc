"""Noisy counts for evaluation: one cell a patient, sensitivity 1."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.dp import histogram
from primum.rng import Stream


@given(
    table=st.tuples(st.integers(1, 5), st.integers(2, 16)),
    patients=st.lists(st.tuples(st.integers(0, 99), st.integers(0, 99)), min_size=1, max_size=40),
)
def test_each_patient_is_in_one_cell_and_removing_one_moves_one_count_by_one(
    table: tuple[int, int], patients: list[tuple[int, int]]
) -> None:
    rows = np.array([row % table[0] for row, _ in patients])
    columns = np.array([column % table[1] for _, column in patients])
    counts = histogram.counts(rows, columns, table)
    assert counts.shape == (table[0] * table[1],)
    assert counts.sum() == len(patients)
    assert counts.reshape(table)[rows[0], columns[0]] >= 1
    difference = counts - histogram.counts(rows[1:], columns[1:], table)
    assert np.linalg.norm(difference) == 1


def test_an_empty_hospital_counts_nothing() -> None:
    assert not histogram.counts(np.zeros(0, np.int64), np.zeros(0, np.int64), (2, 8)).any()


@pytest.mark.parametrize("table", [(2, 8), (3, 3), (1, 16)])
def test_without_noise_the_counts_come_back_exactly(table: tuple[int, int]) -> None:
    """RESOLUTION is whole, so rounding moves no count."""
    mechanism = histogram.mechanism(table, 0.0, 2, 3, 500)
    counts = np.arange(table[0] * table[1]).astype(np.float64)
    assert mechanism.scale == pytest.approx(histogram.RESOLUTION)
    assert mechanism.restore(mechanism.share(counts, Stream.from_os())) == pytest.approx(counts, abs=1e-9)


def test_the_noise_of_a_count_has_the_width_that_the_plan_says() -> None:
    mechanism = histogram.mechanism((2, 8), 2.0, 2, 3, 500)
    stream = Stream.from_os()
    nothing = np.zeros(mechanism.dimension)
    rows = np.array([mechanism.restore(mechanism.share(nothing, stream)) for _ in range(1500)])
    expected = 2.0 * mechanism.integer_sensitivity / mechanism.scale / np.sqrt(2)
    assert rows.std() == pytest.approx(expected, rel=0.03)
    assert mechanism.integer_sensitivity / mechanism.scale <= 1 + 1e-6  # rounding costs nothing
