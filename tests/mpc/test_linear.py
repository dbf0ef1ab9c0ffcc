"""Ring products against Python's integers, and masked weights."""

import os

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.mpc.linear import encode_weight, mask_weight, product, product_slowly
from primum.mpc.program import linear_program
from primum.ring import mask


@given(st.integers(1, 64), st.integers(1, 5), st.integers(1, 5), st.integers(1, 40), st.randoms(use_true_random=False))
def test_product_is_exact_modulo_2_to_the_l(bits, m, c, d, random):
    rows = [[random.getrandbits(bits) for _ in range(d)] for _ in range(m)]
    weight = [[random.getrandbits(bits) for _ in range(d)] for _ in range(c)]
    fast = product(np.array(rows, np.uint64), np.array(weight, np.uint64), bits)
    assert fast.tolist() == product_slowly(rows, weight, bits)


def test_product_is_exact_where_every_sum_overflows():
    top = np.full((2, 3000), 2**64 - 1, np.uint64)
    assert product(top, top, 64).tolist() == product_slowly(top.tolist(), top.tolist(), 64)


def test_masks_of_two_versions_differ_even_under_one_seed():
    """W2^ - W1^ must not be W2 - W1 (reusing R_W for another version of the model would show the difference)."""
    seeds = {"A": b"a" * 32, "B": b"b" * 32}
    one, two = np.full((1, 8), 0.25), np.full((1, 8), 0.5)
    program = linear_program(one)
    difference = (mask_weight(program, two, b"2" * 32, seeds) - mask_weight(program, one, b"1" * 32, seeds)) & mask(
        program.bits
    )
    plain = (encode_weight(program, two) - encode_weight(program, one)) & mask(program.bits)
    assert not (difference == plain).any()


def test_masked_weights_are_uniform():
    weight = np.zeros((4, 5000))
    masked = mask_weight(linear_program(weight), weight, b"m" * 32, {"A": os.urandom(32), "B": os.urandom(32)})
    for shift in (0, 32):
        counts = np.bincount(((masked >> np.uint64(shift)) & np.uint64(255)).ravel().astype(int), minlength=256)
        expected = masked.size / 256
        assert ((counts - expected) ** 2 / expected).sum() < 400  # chi-square, 255 degrees: p about 1e-8


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(bad):
    from primum.errors import ModelError

    with pytest.raises(ModelError, match="linear"):
        linear_program(np.array([[0.0, bad]]))
