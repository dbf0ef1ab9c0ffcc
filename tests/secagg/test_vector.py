"""Named parts in one vector: sums are exact to a rounding each, and never wrap."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primum import ring
from primum.errors import InputError, StudyError
from primum.rng import Stream
from primum.secagg import Shape
from primum.secagg.vector import WEIGHT, Layout, Part

parts = st.lists(
    st.tuples(st.integers(1, 6), st.sampled_from([1e-3, 1.0, 700.0]), st.sampled_from([0.5, 10.0, 70.0])),
    min_size=1,
    max_size=4,
)


def layout_of(shapes: list[tuple[int, float, float]], members: int, largest_weight: int = 0) -> Layout:
    made = tuple(Part(f"part {i}", *shape) for i, shape in enumerate(shapes))
    return Layout(made, members, largest_weight)


@settings(deadline=None)
@given(
    shapes=parts, members=st.integers(3, 9), weight=st.sampled_from([0, 1, 40]), key=st.binary(min_size=32, max_size=32)
)
def test_sums_come_back_by_part(shapes: list[tuple[int, float, float]], members: int, weight: int, key: bytes) -> None:
    layout = layout_of(shapes, members, weight)
    stream, total, expected = Stream(key), np.zeros(layout.length, np.int64), {part.name: 0.0 for part in layout.parts}
    weights = 0
    for _ in range(members):
        own = stream.below(weight + 1) if weight else 1
        values = {p.name: (stream.uniform(p.length) * 2 - 1) * p.largest for p in layout.parts}
        total += layout.encode(values, stream, own)
        weights += own
        expected = {name: expected[name] + own * values[name] for name in expected}
    assert np.abs(total).max() < 2 ** (layout.bits - 1)
    sums = layout.decode(total.astype(np.int32))
    for part in layout.parts:
        assert np.abs(sums[part.name] - expected[part.name]).max() <= members / part.scale * (1 + 1e-9)
    if weight:
        assert sums[WEIGHT].tolist() == [weights]


@settings(deadline=None)
@given(shapes=parts, members=st.integers(3, 200), weight=st.sampled_from([0, 7, 200]))
def test_the_extremes_fit_into_the_ring_and_no_smaller_one_holds_them(
    shapes: list[tuple[int, float, float]], members: int, weight: int
) -> None:
    layout = layout_of(shapes, members, weight)
    for sign in (1.0, -1.0):
        values = {p.name: np.full(p.length, sign * p.largest) for p in layout.parts}
        total = members * layout.encode(values, Stream(bytes(32)), max(1, weight)).astype(np.int64)
        assert np.array_equal(ring.to_signed(ring.from_signed(total, layout.bits), layout.bits), total)
    most = max(math.ceil(p.largest * p.scale * max(1, weight)) + 1 for p in layout.parts)
    assert layout.shape == Shape(layout.length, layout.bits)
    assert layout.bits == max(8, (members * max(most, weight)).bit_length() + 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_rounding_is_right_on_average(dtype: type) -> None:
    layout = layout_of([(40_000, 1.0, 1.0)], 3)
    drawn = layout.encode({"part 0": np.full(40_000, 0.3, dtype)}, Stream.from_os())
    assert set(drawn.tolist()) == {0, 1}
    assert abs(drawn.mean() - 0.3) < 6 * math.sqrt(0.21 / 40_000)


def test_weights_to_a_million() -> None:
    layout = layout_of([(3, 1.0, 100.0)], 10, 10**6)
    values = {"part 0": np.array([1.0, -1.0, 0.25])}
    total = sum(layout.encode(values, Stream.from_os(), 10**6).astype(np.int64) for _ in range(10))
    sums = layout.decode(np.asarray(total, np.int32))
    assert sums[WEIGHT].tolist() == [10.0**7]
    assert np.allclose(sums["part 0"] / sums[WEIGHT], [1.0, -1.0, 0.25], atol=1e-8)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1.001, -1e30])
def test_what_is_no_number_or_too_large_is_refused_by_part_and_index(bad: float) -> None:
    layout = layout_of([(2, 1.0, 100.0), (50_000, 1.0, 100.0)], 3)
    values = {"part 0": np.zeros(2), "part 1": np.zeros(50_000)}
    values["part 1"][40_000] = bad
    with pytest.raises(InputError, match="Part 'part 1': value 40000 is not a number or beyond"):
        layout.encode(values, Stream.from_os())


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({}, "has the parts"),
        ({"part 0": np.zeros(3), "more": np.zeros(1)}, "has the parts"),
        ({"part 0": np.zeros(2)}, "3 floating-point"),
        ({"part 0": np.zeros((3, 1))}, "3 floating-point"),
        ({"part 0": np.zeros(3, int)}, "3 floating-point"),
    ],
)
def test_other_parts_are_refused(values: dict[str, np.ndarray], says: str) -> None:
    with pytest.raises(InputError) as caught:
        layout_of([(3, 1.0, 10.0)], 3).encode(values, Stream.from_os())
    assert says in caught.value.message + caught.value.hint


@pytest.mark.parametrize(("largest", "weight"), [(0, 2), (10, 11), (10, -1), (10, 2.5)])
def test_a_weight_outside_its_bounds_is_refused(largest: int, weight: int) -> None:
    with pytest.raises(InputError, match=f"weight is {weight}"):
        layout_of([(1, 1.0, 10.0)], 3, largest).encode({"part 0": np.zeros(1)}, Stream.from_os(), weight)


@pytest.mark.parametrize(
    ("shapes", "weight", "says"),
    [
        ([(4, 1e6, 1e6)], 0, "'part 0' would need"),
        ([(4, 1.0, 1.0), (4, 1.0, 1e9)], 0, "'part 1' would need"),
        ([(4, 1.0, 1e-9)], 2**31, "'weight' would need"),
        ([(4, 1e200, 1e200)], 0, "'part 0' would need 1027 bits"),
    ],
)
def test_a_sum_that_could_wrap_is_refused_by_part(
    shapes: list[tuple[int, float, float]], weight: int, says: str
) -> None:
    with pytest.raises(StudyError, match=says):
        layout_of(shapes, 3, weight)


@pytest.mark.parametrize(
    "shape", [(0, 1.0, 1.0), (1, 0.0, 1.0), (1, math.inf, 1.0), (1, 1.0, -1.0), (1, math.nan, 1.0)]
)
def test_a_part_that_is_none_is_refused(shape: tuple[int, float, float]) -> None:
    with pytest.raises(StudyError, match="positive"):
        Part("x", *shape)


@pytest.mark.parametrize("names", [[], ["a", "a"], [WEIGHT]])
def test_names_of_parts_are_distinct(names: list[str]) -> None:
    with pytest.raises(StudyError, match="distinct"):
        Layout(tuple(Part(name, 1, 1.0, 1.0) for name in names), 3)


def test_a_sum_of_another_length_is_refused() -> None:
    with pytest.raises(InputError, match="layout has 3"):
        layout_of([(3, 1.0, 10.0)], 3).decode(np.zeros(4, np.int32))


@pytest.mark.parametrize(("members", "weight"), [(0, 0), (-1, 0), (3, -1)])
def test_members_and_weights_are_positive(members: int, weight: int) -> None:
    with pytest.raises(StudyError, match="positive"):
        Layout((Part("a", 1, 1.0, 1.0),), members, weight)
