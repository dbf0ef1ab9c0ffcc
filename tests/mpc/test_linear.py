"""Openings, convolutions and products in every ring, and masked weights."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.mpc.plain import assert_every_step_is_right
from tests.mpc.programs import everything, small_images, small_weights
from tests.mpc.theatre import MODEL, Theatre, program_of

from primum.kernels import limbs
from primum.mpc.check import check, cost
from primum.mpc.linear import mask_weights, split_weights, weight_mask
from primum.mpc.program import Add, Bias, Convolution, Multiply, Open, Program, Repeat, Wire, weight_size
from primum.ring import mask, to_signed
from primum.rng import Stream

RINGS = (8, 12, 16, 24, 32, 40, 48, 56, 64)


def layer(
    bits: int, size: tuple[int, int, int], kernel: tuple[int, int], outputs: int, groups: int = 1, stride: int = 1
) -> Program:
    """Open and convolve, as much padding as the kernel has."""
    edges = (kernel[0] - 1, 0, 0, kernel[1] - 1)
    places = [(size[i] - 1) // stride + 1 for i in range(2)]
    wires = (Wire("x", size, bits, 0, 7), Wire("x^", size, bits, 0, 7), Wire("y", (*places, outputs), bits, 0, 7))
    steps = (Open("open", "x", "x^"), Convolution("c", "x^", "y", 0, kernel, (stride, stride), edges, (1, 1), groups))
    return program_of(bits, wires, steps)


def any_elements(shape: int | tuple[int, ...], bits: int) -> np.ndarray:
    return to_signed(Stream.from_os().uint64(shape) & mask(bits), bits)


@given(
    st.sampled_from(RINGS),
    st.tuples(st.integers(1, 4), st.integers(1, 4)),
    st.tuples(st.integers(1, 3), st.integers(1, 3)),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 2),
    st.integers(1, 3),
)
def test_any_weights_and_values_in_any_ring(bits, size, kernel, part, groups, stride, images):
    program = layer(bits, (*size, part * groups), kernel, 2 * groups, groups, stride)
    check(program)
    stage = Theatre(program, any_elements(weight_size(program), bits))
    stage.infer(any_elements((images, *size, part * groups), bits))
    assert_every_step_is_right(stage)


@pytest.mark.parametrize("bits", RINGS)
def test_one_channel_and_a_kernel_of_one(bits):
    """The least product there is: torch's int8 product leaves garbage there."""
    program = layer(bits, (3, 3, 1), (1, 1), 2)
    for _ in range(5):
        stage = Theatre(program, any_elements(4, bits))
        stage.infer(any_elements((1, 3, 3, 1), bits))
        assert_every_step_is_right(stage)


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (1, 2)])
@pytest.mark.parametrize("padding", [(0, 0, 0, 0), (1, 1, 1, 1), (0, 0, 0, 1), (2, 1, 1, 3)])
@pytest.mark.parametrize("groups", [1, 2])
def test_a_single_place_with_any_kernel_and_padding(kernel, padding, groups):
    """The last layers of a network for small images: a kernel of 3 x 3 on one place, padded."""
    places = (2 + padding[0] + padding[1] - kernel[0], 2 + padding[2] + padding[3] - kernel[1])
    if min(places) < 1:
        return
    wires = [Wire(name, (1, 1, 4), 40, 0, 7) for name in ("x", "x^")] + [Wire("y", (*places, 6), 40, 0, 7)]
    steps = (Open("o", "x", "x^"), Convolution("c", "x^", "y", 0, kernel, (1, 1), padding, (1, 1), groups))
    program = program_of(40, wires, steps)
    check(program)
    stage = Theatre(program, any_elements(weight_size(program), 40))
    stage.infer(any_elements((3, 1, 1, 4), 40))
    assert_every_step_is_right(stage)


@pytest.mark.parametrize("groups", [1, 2, 4])
@pytest.mark.parametrize("value", [-1, -(1 << 39), (1 << 39) - 1])
def test_extremes_of_the_ring(groups, value):
    program = layer(40, (4, 4, 4), (3, 3), 4, groups)
    stage = Theatre(program, np.full(weight_size(program), value))
    stage.infer(np.full((2, 4, 4, 4), value))
    assert_every_step_is_right(stage)


def test_a_processor_whose_int8_products_saturate_computes_the_same(monkeypatch):
    program = everything()
    images = small_images(program, 2)
    monkeypatch.setattr(limbs, "in_floats", lambda: not limbs.limbs_are_exact())
    quick = Theatre(program, small_weights(program), b"k" * 32)
    quick.infer(images)
    monkeypatch.setattr(limbs, "in_floats", lambda: True)
    slow = Theatre(program, small_weights(program), b"k" * 32)
    slow.infer(images)
    assert (slow.sent, slow.dealt) == (quick.sent, quick.dealt)
    assert_every_step_is_right(slow)


@given(st.integers(8, 64), st.integers(1, 64), st.integers(1, 3), st.booleans())
def test_a_secret_number_for_each_channel_in_any_smaller_ring(bits, smaller, images, opened):
    """The lowest bits of a share in the program's ring are a share in the smaller one."""
    narrow = min(bits, smaller)
    wires = [Wire(name, (2, 3, 4), bits, 2, 7) for name in "xs"] + [
        Wire(name, (2, 3, 4), narrow, 2, 7) for name in "ny"
    ]
    begin = Open("o", "x", "s") if opened else Add("o", ("x",), "s", (1,))
    program = program_of(bits, wires, (begin, Add("narrow", ("s",), "n", (1,)), Bias("bias", "n", "y")))
    check(program)
    stage = Theatre(program, any_elements(weight_size(program), bits))
    stage.infer(any_elements((images, 2, 3, 4), bits))
    assert_every_step_is_right(stage)
    assert weight_size(program) == 4 and cost(program).rounds == opened and not cost(program).dealt_to_b


@given(st.integers(8, 64), st.integers(1, 3), st.sampled_from([(1, 1, 1), (2, 1, 3), (1, 4, 1)]))
def test_products_of_wires_of_any_values(bits, images, small):
    """A size of 1 is repeated; a wire times itself is its square."""
    wires = (
        Wire("x", small, bits, 2, 7),
        Wire("x^", small, bits, 2, 7),
        Wire("wide^", (2, 4, small[2]), bits, 2, 7),
        Wire("y", (2, 4, small[2]), bits, 4, 7),
        Wire("z", small, bits, 4, 7),
    )
    steps = (
        Open("open", "x", "x^"),
        Repeat("repeat", "x^", "wide^", (2 // small[0], 4 // small[1])),
        Multiply("m", "x^", "wide^", "y"),
        Multiply("square", "x^", "x^", "z"),
    )
    stage = Theatre(program_of(bits, wires, steps))
    stage.infer(any_elements((images, *small), bits))
    assert_every_step_is_right(stage)


def test_a_value_that_two_layers_use_is_opened_once_and_a_share_is_opened_anew():
    bits, shape = 40, (2, 2, 1)
    wires = [Wire(name, shape, bits, 0, 7) for name in ("x", "x^", "y", "z", "y^", "x^^")]
    steps = (
        Open("o", "x", "x^"),
        Convolution("c", "x^", "y", 0, (1, 1)),
        Convolution("d", "x^", "z", 0, (2, 2), (1, 1), (1, 0, 1, 0)),
        Open("p", "y", "y^"),
        Open("q", "x^", "x^^"),
    )
    program = program_of(bits, wires, steps)
    stage = Theatre(program, any_elements(weight_size(program), bits))
    stage.infer(any_elements((2, *shape), bits))
    assert_every_step_is_right(stage)
    assert len(stage.sent["A"]) == 3 and len(set(stage.sent["A"])) == 3


def test_weights_lie_in_the_order_of_the_program():
    program = everything()
    flat = np.arange(weight_size(program), dtype=np.uint64)
    parts = [
        (step.name, w.shape, int(w.flat[0]) if w.size else None, b.tolist())
        for step, w, b in split_weights(program, flat)
    ]
    assert parts == [
        ("conv", (3, 3, 2, 2), 0, [36, 37]),
        ("bias", (1, 1, 0, 2), None, [38, 39]),
        ("linear", (1, 1, 16, 3), 40, [88, 89, 90]),
    ]


def test_masks_of_two_versions_differ_even_under_one_seed():
    """W2^ - W1^ must not be W2 - W1 (reusing R_W for another version of the model would show the difference)."""
    seeds = {"A": b"a" * 32, "B": b"b" * 32}
    program, other = everything(), everything(48)
    one = np.arange(weight_size(program), dtype=np.uint64)
    two = one * np.uint64(3)
    for changed in ((program, b"2" * 32), (other, b"1" * 32)):
        difference = mask_weights(changed[0], two, changed[1], seeds) - mask_weights(program, one, b"1" * 32, seeds)
        assert not ((difference - (two - one)) & mask(40) == 0).any()


def test_masked_weights_are_uniform_and_the_seeds_undo_them():
    program = layer(40, (1, 1, 5000), (1, 1), 4)
    seeds = {"A": os.urandom(32), "B": os.urandom(32)}
    plain = np.full(weight_size(program), 5, np.uint64)
    masked = mask_weights(program, plain, MODEL, seeds)
    for shift in (0, 32):
        counts = np.bincount(((masked >> np.uint64(shift)) & np.uint64(255)).astype(int), minlength=256)
        expected = masked.size / 256
        assert ((counts - expected) ** 2 / expected).sum() < 400  # chi-square, 255 degrees: p about 1e-8
    for role in ("A", "B"):
        masked = masked - weight_mask(program, MODEL, seeds[role])
    assert np.array_equal(masked & mask(40), plain)
