"""Max pools eight windows at a time: what the twin says, number by number, with NaN, equals and infinities."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.kernels import pooling, reference
from primum.rng import Stream

VALUES = [0.0, -0.0, 1.0, 1.0, 2.5, -3.0, 7.0, np.inf, -np.inf, np.nan]


@st.composite
def planes(draw: st.DrawFn) -> tuple[np.ndarray, int, int]:
    side, around = draw(st.sampled_from(pooling.SIDES)), draw(st.integers(0, 1))
    shape = (draw(st.integers(1, 3)), *(draw(st.integers(max(1, side - 2 * around), 40)) for _ in range(2)))
    words = Stream.public(f"planes {draw(st.integers(0, 999))}").uint64(int(np.prod(shape)))
    usual = draw(st.booleans())
    values = words.astype(np.float64) / 2.0**63 - 1 if usual else np.array(VALUES)[(words % np.uint64(10)).astype(int)]
    return values.astype(np.float32).reshape(shape), side, around


@given(planes())
@settings(max_examples=150, deadline=None)
def test_the_largest_and_where_it_stood(case: tuple[np.ndarray, int, int]) -> None:
    values, side, around = case
    size = [(length + 2 * around - side) // 2 + 1 for length in values.shape[1:]]
    out, marks = np.full((len(values) + 2, *size), 5, np.float32), np.full((len(values) + 2, *size), 99, np.uint8)
    pooling.pool(values, side, around, out[1:-1], marks[1:-1])
    for plane, found, mark in zip(values, out[1:-1], marks[1:-1], strict=True):
        wanted, places = reference.largest(plane.astype(float), side, around)
        assert np.array_equal(found, wanted, equal_nan=True)
        first_nan = np.isnan(wanted)  # of several NaN the last one: nothing follows from which
        inside = np.isfinite(wanted) | (wanted == np.inf)  # where all are -inf: see below
        assert np.array_equal(mark[~first_nan & inside], places[~first_nan & inside])
    assert (out[[0, -1]] == 5).all() and (marks[[0, -1]] == 99).all(), "nothing beside it"


@given(planes())
@settings(max_examples=150, deadline=None)
def test_slopes_go_where_the_largest_stood(case: tuple[np.ndarray, int, int]) -> None:
    values, side, around = case
    values = np.where(np.isfinite(values), values, 0).astype(np.float32)
    size = [(length + 2 * around - side) // 2 + 1 for length in values.shape[1:]]
    out, marks = np.empty((len(values), *size), np.float32), np.empty((len(values), *size), np.uint8)
    pooling.pool(values, side, around, out, marks)
    slopes = np.arange(1, out.size + 1, dtype=np.float32).reshape(out.shape)
    found = np.full((len(values) + 2, *values.shape[1:]), np.nan, np.float32)
    pooling.spread(slopes, marks, side, around, found[1:-1])
    for plane, slope, got in zip(values, slopes, found[1:-1], strict=True):
        wanted = np.zeros(np.add(plane.shape, 2 * around))
        places = reference.largest(plane.astype(float), side, around)[1]
        for (y, x), mark in np.ndenumerate(places):
            wanted[2 * y + mark // side, 2 * x + mark % side] += slope[y, x]
        inner = tuple(slice(around, around + length) for length in plane.shape)
        assert np.array_equal(got, wanted[inner])
    assert np.isnan(found[[0, -1]]).all(), "nothing beside it"


@pytest.mark.parametrize("side", pooling.SIDES)
@pytest.mark.parametrize("around", [0, 1])
def test_where_all_is_minus_infinity_no_padding_is_marked(side: int, around: int) -> None:
    """Or slopes would be taken from beside the picture: from another one."""
    values = np.full((1, 9, 20), -np.inf, np.float32)
    size = [(length + 2 * around - side) // 2 + 1 for length in values.shape[1:]]
    out, marks = np.empty((1, *size), np.float32), np.empty((1, *size), np.uint8)
    pooling.pool(values, side, around, out, marks)
    assert (out == -np.inf).all()
    for (y, x), mark in np.ndenumerate(marks[0].astype(int)):
        place = 2 * y - around + mark // side, 2 * x - around + mark % side
        assert place == (max(0, 2 * y - around), max(0, 2 * x - around))
