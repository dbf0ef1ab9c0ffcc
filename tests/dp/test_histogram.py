"""Noisy counts for evaluation: one cell a patient in each table, sensitivity the root of how many tables there are."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.studies import study

from primum.dp import account, histogram
from primum.rng import Stream
from primum.study import Training
from primum.tasks.plan import Plan, resolve


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


@given(
    tables=st.integers(1, 6),
    patients=st.lists(st.integers(0, 2**30), min_size=1, max_size=20),
)
def test_a_patient_in_a_cell_of_each_table_moves_all_counts_by_the_root_of_the_tables(
    tables: int, patients: list[int]
) -> None:
    rows = np.array([[seed >> place & 1 for place in range(tables)] for seed in patients])
    columns = np.array([[seed >> (2 * place) & 7 for place in range(tables)] for seed in patients])
    table = (tables, 2, 8)
    whole = histogram.counts(rows, columns, table)
    assert whole.reshape(table).sum((1, 2)).tolist() == [len(patients)] * tables
    assert whole.reshape(table)[tables - 1, rows[0, -1], columns[0, -1]] >= 1
    difference = whole - histogram.counts(rows[1:], columns[1:], table)
    assert np.linalg.norm(difference) == pytest.approx(np.sqrt(tables))
    assert histogram.mechanism(table, 1.0, 2, 3, 100).sensitivity == pytest.approx(np.sqrt(tables))


@pytest.mark.parametrize(("row", "column"), [(2, 0), (-1, 0), (0, 8)])
def test_a_patient_outside_of_a_table_is_never_counted_in_another(row: int, column: int) -> None:
    with pytest.raises(ValueError, match="one cell of each table"):
        histogram.counts(np.array([[row, 0]]), np.array([[column, 0]]), (2, 2, 8))


def test_without_noise_several_tables_come_back_exactly_and_fit_the_ring_of_many_hospitals() -> None:
    mechanism = histogram.mechanism((14, 2, 8), 0.0, 9, 10, 1_000_000)
    assert mechanism.scale == pytest.approx(histogram.RESOLUTION) and mechanism.bits <= 32
    counts = np.full(14 * 2 * 8, 1_000_000.0)
    assert mechanism.restore(mechanism.share(counts, Stream.from_os())) == pytest.approx(counts, abs=1e-6)


def test_the_noise_of_several_tables_is_what_the_promised_epsilon_needs() -> None:
    """From the noise that is really drawn to epsilon, by the accountant: what was promised, and no less noise would do."""
    classes, asked = 5, study(classes=5, labels="several", looks=2)
    plan = Plan(resolve(asked.model_copy(update={"training": Training(rounds=0)})))
    privacy, mechanism, stream = plan.study.privacy, plan.evaluation, Stream.from_os()
    assert privacy is not None
    nothing = np.zeros(mechanism.dimension)
    honest = [sum(mechanism.share(nothing, stream) for _ in range(plan.k_min)) for _ in range(9000 // classes)]
    width = float(np.std([mechanism.restore(total) for total in honest]))
    moved = np.sqrt(classes)  # one count in each table: the test above
    assert width / moved == pytest.approx(privacy.evaluation_noise_multiplier, rel=0.02)
    spent = account.epsilon(account.Steps(2, 1.0, width / moved), plan.accounted_delta)
    assert spent == pytest.approx(privacy.epsilon, rel=0.03)
    as_one_table = account.epsilon(account.Steps(2, 1.0, width / moved / np.sqrt(classes)), plan.accounted_delta)
    assert as_one_table > 1.3 * privacy.epsilon  # what noise for a sensitivity of 1 would have cost
