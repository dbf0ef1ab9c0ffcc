"""The twin on plain integers against arithmetic that needs no thought."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from primum.compiler.simulate import exact_convolution, simulate, taps, wrap
from primum.mpc.program import Add, Convolution, Cut, Program, Relu, Sign, Wire
from primum.ring import from_signed
from primum.rng import Stream


@given(
    bits=st.sampled_from([40, 48, 56, 64]),
    rows=st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=3, max_size=3), min_size=4, max_size=4),
)
def test_convolution_is_exact_modulo_the_ring(bits, rows):
    value, weight = np.array(rows[:2], np.int64), np.array(rows[2:], np.int64)
    value, weight = wrap(value, bits), wrap(weight, bits)
    got = exact_convolution(value[:, :, None, None], weight[:, :, None, None], bits, Convolution("", "", "", 0, (1, 1)))
    for one in range(2):
        for two in range(2):
            expected = sum(int(a) * int(b) for a, b in zip(value[one], weight[two], strict=True))
            assert (int(got[one, two, 0, 0]) - expected) % 2**bits == 0


def test_a_long_sum_is_exact():
    length = 5000
    value, weight = (Stream.public(name).uint64((1, length, 1, 1)).view(np.int64) >> 24 for name in "ab")
    got = exact_convolution(value, weight, 40, Convolution("", "", "", 0, (1, 1)))
    expected = sum(int(a) * int(b) for a, b in zip(value.ravel(), weight.ravel(), strict=True))
    assert (int(got[0, 0, 0, 0]) - expected) % 2**40 == 0


def _one(step, source, target):
    return Program(source.bits, (source, target), (step,), source.name, target.name, 0)


def _run(program, values):
    images = from_signed(np.array(values, np.int64).reshape(-1, 1, 1, 1), program.bits)
    return simulate(program, np.zeros(0, np.uint64), images, Stream.public("rounding")).ravel()


@given(st.integers(-(2**36), 2**36), st.integers(1, 20))
def test_a_cut_rounds_to_a_neighbour(value, lost):
    program = _one(
        Cut("c", "x", "y"), Wire("x", (1, 1, 1), 40, lost, 16), Wire("y", (1, 1, 1), min(40 - lost, 32), 0, 16)
    )
    got = int(_run(program, [value])[0])
    exact = [value >> lost, -(-value >> lost)]
    assert (got - exact[0]) % 2 ** min(40 - lost, 32) == 0 or (got - exact[1]) % 2 ** min(40 - lost, 32) == 0


def test_a_cut_is_unbiased():
    program = _one(Cut("c", "x", "y"), Wire("x", (1, 1, 1), 40, 10, 16), Wire("y", (1, 1, 1), 20, 0, 16))
    got = _run(program, [300] * 40_000)
    assert set(got.tolist()) == {0, 1}
    assert got.mean() == pytest.approx(300 / 1024, abs=0.015)


def test_relu_sign_and_a_constant():
    small, large = Wire("x", (1, 1, 1), 20, 0, 19), Wire("y", (1, 1, 1), 40, 0, 19)
    values = [-5, -1, 0, 1, 2**19 - 1, -(2**19)]
    assert _run(_one(Relu("r", "x", "y"), small, large), values).tolist() == [0, 0, 0, 1, 2**19 - 1, 0]
    assert _run(_one(Sign("s", "x", "y"), small, large), values).tolist() == [0, 0, 1, 1, 1, 0]
    tiny = Wire("y", (1, 1, 1), 5, 0, 4)
    assert _run(_one(Add("a", ("x",), "y", (-2,), 3), small, tiny), [1, 5, 9, 10]).tolist() == [1, -7, -15, 15]


@given(st.integers(1, 9), st.integers(1, 30), st.booleans())
def test_bilinear_weights_are_pytorchs(before, after, corners):
    low, high, weight = taps(before, after, 20, corners)
    row = torch.from_numpy(Stream.public("row").uniform((1, 1, 1, before)))
    expected = functional.interpolate(row, (1, after), mode="bilinear", align_corners=corners)[0, 0, 0].numpy()
    values = row[0, 0, 0].numpy()
    got = values[low] * (1 - weight / 2**20) + values[high] * weight / 2**20
    np.testing.assert_allclose(got, expected, atol=2e-6)
