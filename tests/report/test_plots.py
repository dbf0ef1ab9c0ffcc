"""Ticks and words."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.report.plots import Axis, Curve, lines, ticks
from primum.report.words import number, seconds, size


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6))
def test_ticks_are_inside_few_and_evenly_apart(low: float, width: float) -> None:
    found = ticks(low, low + width)
    slack = 1e-6 * (abs(low) + width)
    assert len(found) <= 7 and all(low - slack <= tick <= low + width + slack for tick in found)
    gaps = [b - a for a, b in pairwise(found)]
    assert all(gap == pytest.approx(gaps[0], rel=1e-3, abs=slack) for gap in gaps)


def test_round_ticks() -> None:
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(1, 40) == [10, 20, 30, 40]
    assert ticks(3, 3) == [3]


def test_a_point_is_a_dot_and_points_are_a_line() -> None:
    axis = Axis("x", 0, 1)
    assert "<circle" in lines("t", axis, axis, [Curve("c", ((0.5, 0.5),))])
    svg = lines("t", axis, axis, [Curve("c", ((0.0, 0.0), (1.0, 1.0)))])
    assert 'points="52.0,210.0 426.0,14.0"' in svg


@pytest.mark.parametrize(
    ("value", "words"),
    [(None, "–"), (float("inf"), "∞"), (3, "3"), (2.98, "2.98"), (0.25, "0.250"), (1e-5, "10<sup>−5</sup>"),
     (4.2e-4, "4.2 × 10<sup>−4</sup>"), (1234567.0, "1,234,567")],
)  # fmt: skip
def test_numbers(value: float | None, words: str) -> None:
    assert number(value) == words


def test_sizes_and_times() -> None:
    assert [size(value) for value in (0, 999, 65410, 6.7e6, 2.5e9, None)] == [
        "0 B", "999 B", "65.4 kB", "6.7 MB", "2.5 GB", "–",
    ]  # fmt: skip
    assert [seconds(value) for value in (0.215, 3.14159, 240, None)] == ["215 ms", "3.14 s", "240 s", "–"]
