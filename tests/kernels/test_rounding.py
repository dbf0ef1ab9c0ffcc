"""Rounding up or down at random, and rows added to a total, against their slow twins."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import accumulate, reference, rounding
from primum.rng import Stream

words = st.integers(0, 2**32 - 1)


@given(st.lists(st.tuples(st.floats(-1000, 1000), words), max_size=40), st.sampled_from([1e-3, 1.0, 777.7]))
def test_rounded_as_the_definition_says(pairs: list[tuple[float, int]], scale: float) -> None:
    values, coins = np.array([v for v, _ in pairs]), np.array([c for _, c in pairs], np.uint32)
    for kind in (np.float64, np.float32):
        out = np.empty(len(pairs), np.int32)
        assert rounding.round_into(values.astype(kind), scale, 1001.0, coins, out) == -1
        assert out.tolist() == reference.round_up_or_down(values.astype(kind).tolist(), scale, coins.tolist())


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 2.0, -1.0000001])
def test_the_first_value_that_is_no_number_or_too_large_is_named(bad: float) -> None:
    values = np.zeros(10)
    values[7], values[9] = bad, math.nan
    out = np.empty(10, np.int32)
    assert rounding.round_into(values, 3.0, 1.0, np.zeros(10, np.uint32), out) == 7
    assert not out[:7].any()


def test_what_would_not_fit_or_is_of_another_length_is_refused() -> None:
    coins, out = np.zeros(3, np.uint32), np.empty(3, np.int32)
    with pytest.raises(ValueError, match="not fit into 32 bits"):
        rounding.round_into(np.zeros(3), 2.0**31, 1.0, coins, out)
    with pytest.raises(ValueError, match="2 values, 3 coins and room for 3"):
        rounding.round_into(np.zeros(2), 1.0, 1.0, coins, out)


@given(st.integers(1, 4), st.integers(0, 70), st.booleans())
def test_rows_are_added_modulo_2_to_the_32(width: int, length: int, subtract: bool) -> None:
    stream = Stream.public(f"rows {width} {length}")
    total = stream.uint32(length)
    rows = np.frombuffer(stream.bytes(4 * width * length), np.uint8).reshape(4, width * length)
    values = [reference.row_values(row.tobytes(), width) for row in rows]
    sign = -1 if subtract else 1
    expected = [(int(start) + sign * sum(row[i] for row in values)) % 2**32 for i, start in enumerate(total)]
    accumulate.add_rows(total, list(rows), width, subtract)
    assert total.tolist() == expected


@pytest.mark.parametrize(("lengths", "width"), [((3,) * 5, 1), ((4,) * 4, 1), ((15,) * 4, 5), ((6, 6, 6, 3), 2)])
def test_rows_of_another_shape_are_refused(lengths: tuple[int, ...], width: int) -> None:
    with pytest.raises(ValueError, match="rows, integers of"):
        accumulate.add_rows(np.zeros(3, np.uint32), [np.zeros(n, np.uint8) for n in lengths], width, False)
