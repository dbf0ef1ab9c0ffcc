"""Cuts and comparisons: every value under every mask in small rings, any value in large ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mpc.plain import assert_every_step_is_right, wrapped
from tests.mpc.theatre import Theatre, as_ring, by_hand, program_of

from primum.mpc.check import check
from primum.mpc.compare import pair_counts
from primum.mpc.program import Add, Cut, Extend, MaxPool, Open, Operation, Program, Relu, Sign, Wire
from primum.mpc.rule import Wires
from primum.rng import Stream

RIGHT = {
    Relu: lambda value: np.maximum(value, 0),
    Sign: lambda value: (value >= 0).astype(np.int64),
    Extend: lambda value: value,
}
kinds = pytest.mark.parametrize("kind", [Relu, Sign, Extend])


def small_to_large(kind: type[Operation], shape: tuple[int, int, int], t: int, ring: int, bits: int = 64) -> Program:
    """An input in Z_2^bits, its lowest t bits, and the operation to Z_2^ring."""
    wires = (
        Wire("x", shape, bits, 3, 4),
        Wire("T", shape, t, 3, 4),
        Wire("y", shape, ring, 0 if kind is Sign else 3, 4),
    )
    return program_of(bits, wires, (Add("drop", ("x",), "T", (1,)), kind("k", "T", "y")))  # type: ignore[call-arg]


def every_pair(bits: int) -> tuple[np.ndarray, np.ndarray]:
    """Every value of Z_2^bits, signed, with every mask."""
    values = np.arange(1 << bits)
    value, rho = np.meshgrid(wrapped(values, bits), values.astype(np.uint32))
    return value.reshape(-1), rho.reshape(-1)


def halves(whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two arrays [1, n] of one type that add up to `whole`."""
    one = np.empty((1, whole.size), whole.dtype)
    Stream.from_os().fill(one)
    return one, whole.reshape(1, -1) - one


def drawn_for(rho: np.ndarray, kind: type[Operation]) -> list[tuple[np.ndarray, np.ndarray]]:
    mask_bits = halves(np.frombuffer(Stream.from_os().bytes(rho.size), np.uint8))
    return [halves(rho), mask_bits] if kind is not Extend else [halves(rho)]


@kinds
@pytest.mark.parametrize("t", [5, 6, 7, 8])
@pytest.mark.parametrize("ring", [9, 40, 64])
def test_every_value_under_every_mask(kind: type[Operation], t: int, ring: int) -> None:
    value, rho = every_pair(t)
    program = small_to_large(kind, (1, 1, value.size), t, ring)
    one, two = halves(as_ring(value))
    found = by_hand(program, program.operations[1], {"A": one, "B": two}, drawn_for(rho, kind)).reshape(-1)
    fits = (np.abs(value * 2 + 1) < 1 << (t - 1)) if kind is Extend else np.ones(value.size, bool)
    assert fits.sum() >= value.size // 2
    assert np.array_equal(found[fits], RIGHT[kind](value)[fits])


@kinds
@given(st.integers(5, 21), st.integers(0, 43), st.integers(1, 3), st.data())
def test_any_value_in_any_ring(kind: type[Operation], t: int, more: int, images: int, data: st.DataObject) -> None:
    half = 1 << (t - 1) if kind is not Extend else 1 << (t - 2)
    near = st.sampled_from([-half, -half + 1, -1, 0, 1, half - 1]) | st.integers(-half, half - 1)
    row = st.lists(near, min_size=6, max_size=6)
    values = np.array(data.draw(st.lists(row, min_size=images, max_size=images))).reshape(images, 2, 1, 3)
    stage = Theatre(small_to_large(kind, (2, 1, 3), t, min(64, t + 1 + more)))
    assert np.array_equal(stage.infer(values), RIGHT[kind](values))


@pytest.mark.parametrize("t", [2, 3, 4, 16, 24, 31, 32])
def test_an_extension_is_right_in_rings_that_cannot_be_compared(t: int) -> None:
    quarter = 1 << (t - 2)
    values = np.array([-quarter, -1, 0, quarter - 1] * 50).reshape(1, 1, 1, 200)
    stage = Theatre(small_to_large(Extend, (1, 1, 200), t, 40))
    assert np.array_equal(stage.infer(values), values)


@pytest.mark.parametrize(("bits", "shift"), [(8, 1), (8, 3), (9, 4), (10, 5)])
def test_a_cut_of_every_value_and_every_share(bits: int, shift: int) -> None:
    """floor(y / 2^c) or one more, and in the mean over A's share exactly y / 2^c."""
    y, share = every_pair(bits)
    wires = (Wire("y", (1, 1, y.size), bits, shift, 4), Wire("T", (1, 1, y.size), bits - shift, 0, 4))
    program = program_of(bits, wires, (Cut("c", "y", "T"),))
    one = share.astype(np.uint64).reshape(1, 1, 1, -1)
    stage = Theatre(program)
    found = stage.infer_shares({"A": one, "B": as_ring(y).reshape(one.shape) - one}).reshape(-1)
    error = wrapped(found - (y >> shift), bits - shift)
    assert set(error.tolist()) == {0, 1}
    mean = np.bincount(y + (1 << (bits - 1)), error) / (1 << bits)
    assert np.array_equal(mean * (1 << shift), np.arange(-(1 << (bits - 1)), 1 << (bits - 1)) % (1 << shift))


@pytest.mark.parametrize(("bits", "lost"), [(8, 1), (10, 4), (9, 8), (8, 0)])
def test_an_answer_is_cut_in_the_same_way(bits: int, lost: int) -> None:
    y, share = every_pair(bits)
    program = program_of(bits, [Wire("y", (1, 1, y.size), bits, lost, 4)], [], 0)
    one = share.astype(np.uint64).reshape(1, 1, 1, -1)
    found = Theatre(program).infer_shares({"A": one, "B": as_ring(y).reshape(one.shape) - one}).reshape(-1)
    error = wrapped(found - (y >> lost), bits - lost) % (1 << (bits - lost))
    assert set(error.tolist()) <= {0, 1}
    mean = np.bincount(y + (1 << (bits - 1)), error) / (1 << bits)
    assert np.array_equal(mean * (1 << lost), np.arange(-(1 << (bits - 1)), 1 << (bits - 1)) % (1 << lost))


@given(st.integers(40, 64), st.integers(0, 32), st.integers(1, 32), st.integers(1, 3), st.data())
def test_a_cut_in_a_large_ring(bits: int, shift: int, t: int, images: int, data: st.DataObject) -> None:
    wires = (Wire("y", (1, 2, 3), bits, shift, 4), Wire("T", (1, 2, 3), t, 0, 4))
    program = program_of(bits, wires, (Cut("c", "y", "T"),))
    half = 1 << (t + shift - 1)
    near = st.sampled_from([-half, -1, 0, 1, half - 1]) | st.integers(-half, half - 1)
    size = 6 * images
    values = np.array(data.draw(st.lists(near, min_size=size, max_size=size)), np.int64).reshape(images, 1, 2, 3)
    if t + shift > bits:
        return
    stage = Theatre(program)
    stage.infer(values)
    assert_every_step_is_right(stage)
    exact = values % (1 << shift) == 0
    assert np.array_equal(stage.value("T")[exact], wrapped(values >> np.int64(shift), t)[exact])


def pooling(shape: tuple[int, int, int], m: int, step: MaxPool) -> Program:
    size = [shape[i] + step.padding[2 * i] + step.padding[2 * i + 1] for i in range(2)]
    high, wide = ((size[i] - step.kernel[i]) // step.stride[i] + 1 for i in range(2))
    wires = (Wire("x", shape, 40, 0, 4), Wire("T", shape, m, 0, 4), Wire("y", (high, wide, shape[2]), m, 0, 4))
    return program_of(40, wires, (Add("drop", ("x",), "T", (1,)), step))


@pytest.mark.parametrize("m", [5, 6, 7])
def test_the_larger_of_every_two_values_under_every_mask(m: int) -> None:
    quarter = 1 << (m - 2)
    one, two = (side.reshape(-1) for side in np.meshgrid(np.arange(-quarter, quarter), np.arange(-quarter, quarter)))
    u, v, rho = np.repeat(one, 1 << m), np.repeat(two, 1 << m), np.tile(np.arange(1 << m, dtype=np.uint32), one.size)
    program = pooling((1, 2, u.size), m, MaxPool("p", "T", "y", (1, 2), (1, 1)))
    shares = halves(as_ring(np.concatenate([u, v])))
    found = by_hand(program, program.operations[1], dict(zip("AB", shares, strict=True)), drawn_for(rho, MaxPool))  # type: ignore[arg-type]
    assert np.array_equal(found.reshape(-1), np.maximum(u, v))


@given(
    st.integers(5, 21),
    st.tuples(st.integers(1, 6), st.integers(1, 6), st.integers(1, 2)),
    st.tuples(st.integers(1, 5), st.integers(1, 5)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.tuples(*[st.integers(0, 2)] * 4),
    st.integers(1, 3),
)
def test_the_largest_of_any_window(m, shape, kernel, stride, padding, images):
    kernel = tuple(min(kernel[i], shape[i] + padding[2 * i] + padding[2 * i + 1]) for i in range(2))
    program = pooling(shape, m, MaxPool("p", "T", "y", kernel, stride, padding))
    check(program)
    stage = Theatre(program)
    quarter = 1 << (m - 2)
    values = (Stream.from_os().uint64((images, *shape)) % np.uint64(2 * quarter)).astype(np.int64) - quarter
    stage.infer(values)
    assert np.array_equal(stage.value("T"), values)
    assert_every_step_is_right(stage)
    assert len(stage.sent["A"]) == 3 * len(pair_counts(program.operations[1], Wires(program)))  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "levels"), [(1, 0), (2, 1), (3, 2), (4, 2), (5, 3), (8, 3), (9, 4)])
def test_a_window_is_halved_level_by_level(width: int, levels: int) -> None:
    program = pooling((1, width, 1), 8, MaxPool("p", "T", "y", (1, width), (1, 1)))
    counts = pair_counts(program.operations[1], Wires(program))  # type: ignore[arg-type]
    assert (len(counts), sum(counts)) == (levels, width - 1)


def test_a_wire_of_an_opened_value_is_compared_and_pooled() -> None:
    """An opened value counts as shared."""
    shape = (2, 2, 1)
    wires = (
        Wire("x", shape, 16, 0, 4),
        Wire("x^", shape, 16, 0, 4),
        Wire("m", (1, 1, 1), 16, 0, 4),
        Wire("m^", (1, 1, 1), 16, 0, 4),
        Wire("y", (1, 1, 1), 40, 0, 4),
    )
    steps = (Open("o", "x", "x^"), MaxPool("p", "x^", "m", (2, 2), (1, 1)), Open("q", "m", "m^"), Relu("r", "m^", "y"))
    stage = Theatre(program_of(16, wires, steps))
    values = np.array([[5, -3, 7, 2], [-5, -3, -7, -2]]).reshape(2, *shape)
    assert stage.infer(values).reshape(-1).tolist() == [7, 0]
    assert_every_step_is_right(stage)
