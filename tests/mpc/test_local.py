"""Operations without a message, on shares and on opened wires, in rings of every type."""

import itertools
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.mpc.plain import assert_every_step_is_right
from tests.mpc.theatre import Theatre, program_of

from primum.mpc.check import check, cost
from primum.mpc.local import interpolation
from primum.mpc.program import (
    Add,
    Concatenate,
    Flatten,
    Interpolate,
    Open,
    Operation,
    Pad,
    Program,
    Repeat,
    Reshape,
    Scale,
    Shape,
    Slice,
    SumPool,
    Transpose,
    Wire,
)
from primum.ring import mask, to_signed
from primum.rng import Stream

SHAPE = (3, 4, 2)
LINEAR: dict[str, tuple[Operation, Shape, int]] = {
    "scale": (Scale("k", "s", "y", (3, -2), 4), SHAPE, 4),
    "scale to zero": (Scale("k", "s", "y", (0, -(2**63)), 0), SHAPE, 0),
    "sum": (SumPool("k", "s", "y", (2, 3), (1, 2), (1, 0, 1, 1)), (3, 2, 2), 0),
    "sum of padding alone": (SumPool("k", "s", "y", (1, 1), (1, 1), (2, 0, 0, 2)), (5, 6, 2), 0),
    "flatten": (Flatten("k", "s", "y"), (1, 1, 24), 0),
    "reshape": (Reshape("k", "s", "y"), (2, 6, 2), 0),
    "transpose": (Transpose("k", "s", "y", (2, 0, 1)), (2, 3, 4), 0),
    "side by side": (Concatenate("k", ("s", "s"), "y", 0), (6, 4, 2), 0),
    "side by side in width": (Concatenate("k", ("s", "s", "s"), "y", 1), (3, 12, 2), 0),
    "one alone": (Concatenate("k", ("s",), "y", 2), SHAPE, 0),
    "slice": (Slice("k", "s", "y", (1, 0, 1), (1, 3, 1)), (2, 2, 1), 0),
    "pad": (Pad("k", "s", "y", (1, 0, 2, 3)), (4, 9, 2), 0),
    "gaps": (Pad("k", "s", "y", (0, 1, 0, 0), (2, 1)), (8, 7, 2), 0),
    "repeat": (Repeat("k", "s", "y", (2, 3)), (6, 12, 2), 0),
    "up": (Interpolate("k", "s", "y", 3), (7, 9, 2), 6),
    "down": (Interpolate("k", "s", "y", 0), (2, 1, 2), 0),
    "corners": (Interpolate("k", "s", "y", 5, True), (1, 7, 2), 10),
    "weights beyond the ring": (Interpolate("k", "s", "y", 20), (5, 5, 2), 40),
}


def one_step(step: Operation, shape: Shape, more: int, bits: int, opened: bool) -> Program:
    source = Wire("s", SHAPE, bits, 2, 4)
    begin = Open("o", "x", "s") if opened else Add("o", ("x",), "s", (1,))
    wires = (Wire("x", SHAPE, bits, 2, 4), source, Wire("y", shape, bits, 2 + more, 4))
    return program_of(bits, wires, (begin, step))


@pytest.mark.parametrize("name", LINEAR)
@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize("bits", [8, 13, 32, 40, 64])
def test_moving_and_public_factors(name: str, opened: bool, bits: int) -> None:
    step, shape, more = LINEAR[name]
    program = one_step(step, shape, more, bits, opened)
    check(program)
    stage = Theatre(program)
    stage.infer(to_signed(Stream.from_os().uint64((2, *SHAPE)) & mask(bits), bits))
    assert_every_step_is_right(stage)
    assert cost(program).rounds == opened
    assert (stage._served["A"].values["y"].opened is not None) == opened


@given(
    st.integers(8, 64),
    st.integers(1, 64),
    st.lists(st.integers(-(2**63), 2**64 - 1), min_size=1, max_size=4),
    st.integers(-(2**63), 2**64 - 1),
    st.integers(1, 3),
)
def test_sums_with_any_factors_and_constants_into_any_smaller_ring(bits, target, factors, constant, images):
    shapes = itertools.cycle([(2, 3, 2), (1, 3, 1), (1, 1, 1), (2, 1, 2)])
    wires = [Wire("x", (2, 3, 2), bits, 2, 4)]
    steps: list[Operation] = []
    for place, shape in zip(range(len(factors)), shapes, strict=False):
        wires.append(Wire(f"s{place}", shape, bits, 2, 4))
        steps.append(Slice(f"k{place}", "x", f"s{place}", (0, 0, 0)))
    wires.append(Wire("y", (2, 3, 2), min(bits, target), 2, 4))
    names = tuple(wire.name for wire in wires[1:-1])
    steps.append(Add("a", names, "y", tuple(factors), constant))
    stage = Theatre(program_of(bits, wires, steps))
    stage.infer(to_signed(Stream.from_os().uint64((images, 2, 3, 2)) & mask(bits), bits))
    assert_every_step_is_right(stage)


def test_opened_and_shared_wires_side_by_side() -> None:
    wires = [Wire(name, (1, 1, 2), 40, 0, 4) for name in ("x", "x^")] + [Wire("y", (1, 1, 4), 40, 0, 4)]
    steps = (Open("o", "x", "x^"), Concatenate("c", ("x", "x^"), "y", 2))
    stage = Theatre(program_of(40, wires, steps))
    assert stage.infer(np.array([7, -9]).reshape(1, 1, 1, 2)).reshape(-1).tolist() == [7, -9, 7, -9]


def test_vectors_and_images_are_flattened_as_torch_does() -> None:
    step, shape, _ = LINEAR["flatten"]
    values = np.arange(24).reshape(1, *SHAPE)
    plain = torch.from_numpy(values).permute(0, 3, 1, 2).flatten().tolist()
    assert Theatre(one_step(step, shape, 0, 40, False)).infer(values).reshape(-1).tolist() == plain


@pytest.mark.parametrize("align", [False, True])
@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 4), (5, 7), (6, 8), (11, 2)])
def test_resizing_is_that_of_torch(align: bool, size: tuple[int, int]) -> None:
    fraction = 12
    step = Interpolate("k", "s", "y", fraction, align)
    values = np.arange(24).reshape(1, *SHAPE) * 17 % 101 - 50
    found = Theatre(one_step(step, (*size, 2), 2 * fraction, 48, True)).infer(values) / 2.0 ** (2 * fraction)
    plain = torch.nn.functional.interpolate(
        torch.from_numpy(values).permute(0, 3, 1, 2).double(), size, mode="bilinear", align_corners=align
    )
    assert np.abs(found - plain.permute(0, 2, 3, 1).numpy()).max() <= 4 * 101 * 2.0**-fraction


@given(st.integers(1, 200), st.integers(1, 200), st.integers(0, 20), st.booleans())
def test_every_place_of_a_resized_row_is_within_half_a_step(length, size, fraction, align):
    first, weight = interpolation(length, size, fraction, align)
    for place, (at, right) in enumerate(zip(first.tolist(), weight.tolist(), strict=True)):
        exact = (
            Fraction(place * (length - 1), max(size - 1, 1))
            if align
            else max(Fraction(0), Fraction(2 * place + 1, 2) * Fraction(length, size) - Fraction(1, 2))
        )
        assert 0 <= at < length and 0 <= right <= 1 << fraction
        seen = Fraction(at) + Fraction(right, 1 << fraction)
        assert at == length - 1 or abs(seen - exact) <= Fraction(1, 2 << fraction) + Fraction(1, 10**9)
        assert at < length - 1 or exact >= at
