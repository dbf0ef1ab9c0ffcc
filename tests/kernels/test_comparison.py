"""A sign from one-time tables: both servers' loops together, every value and mask of small rings, edges of large ones."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import comparison, reference
from primum.kernels.words import type_for
from primum.rng import Stream

EVERY_RING = range(5, 22)


class Sides:
    """Both servers' material for comparing `count` values, dealt from fresh streams."""

    def __init__(self, mask: np.ndarray, bits: int) -> None:
        count, stream = len(mask), Stream.from_os()
        kinds = [type_for(max(8, 1 << width)) for width in comparison.digit_widths(bits - 1)]
        self.bits, self.mask = bits, mask
        self.masks = [self._fresh(stream, count, np.uint8) for _ in "AB"]
        self.words = [[self._fresh(stream, count, kind) for kind in kinds]]
        self.products = [self._fresh(stream, count, np.uint16)]
        corrections = tuple(word.copy() for word in self.words[0])
        last = self.products[0].copy()
        comparison.hide_digits(mask, bits, self.masks[0] ^ self.masks[1], corrections, last)
        self.words.append(list(corrections))
        self.products.append(last)

    @staticmethod
    def _fresh(stream: Stream, count: int, kind: type) -> np.ndarray:
        out = np.empty(count, kind)
        stream.fill(out)
        return out

    def looked_up(self, opened: np.ndarray) -> list[np.ndarray]:
        return [comparison.look_up(opened, self.bits, self.masks[i], tuple(self.words[i])) for i in range(2)]

    def compare(self, opened: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(d^, s) of [opened - mask >= 0]."""
        one, two = self.looked_up(opened)
        index = one ^ two
        shares = [comparison.borrow_share(index, self.masks[i], self.products[i]) for i in range(2)]
        hidden = comparison.sign(shares[0], shares[1], index, opened, self.bits)
        assert np.array_equal(hidden, comparison.sign(shares[1], shares[0], index, opened, self.bits))
        top = (self.mask >> np.uint32(self.bits - 1)).astype(np.uint8)
        return hidden, np.uint8(1) ^ top ^ ((self.masks[0] ^ self.masks[1]) >> np.uint8(7))


def every_pair(bits: int) -> tuple[np.ndarray, np.ndarray]:
    values = np.arange(1 << bits, dtype=np.uint32)
    opened, mask = np.meshgrid(values, values)
    return np.ascontiguousarray(opened.reshape(-1)), np.ascontiguousarray(mask.reshape(-1))


def edge_values(bits: int) -> list[int]:
    half = 1 << (bits - 1)
    near = {place + step for place in (0, half, 2 * half) for step in (-2, -1, 0, 1)}
    digits = itertools.accumulate(comparison.digit_widths(bits - 1))
    return sorted(
        {value % (2 * half) for value in near | {(1 << at) - 1 for at in digits} | {1 << at for at in digits}}
    )


def positive(opened: np.ndarray, mask: np.ndarray, bits: int) -> np.ndarray:
    kept = (opened - mask) & np.uint32(2**bits - 1)
    return (kept < (1 << (bits - 1))).astype(np.uint8)


@pytest.mark.parametrize("bits", [5, 6, 7, 8, 9])
def test_the_sign_of_every_value_under_every_mask(bits: int) -> None:
    opened, mask = every_pair(bits)
    hidden, s = Sides(mask, bits).compare(opened)
    assert np.array_equal(hidden ^ s, positive(opened, mask, bits))


@pytest.mark.parametrize("bits", EVERY_RING)
def test_the_sign_at_the_edges_of_every_ring(bits: int) -> None:
    pairs = list(itertools.product(edge_values(bits), repeat=2))
    opened, mask = (np.array(column, np.uint32) for column in zip(*pairs, strict=True))
    hidden, s = Sides(mask, bits).compare(opened)
    assert (hidden ^ s).tolist() == [reference.is_positive(a, b, bits) for a, b in pairs]


@given(st.integers(5, 21), st.lists(st.tuples(st.integers(0, 2**21 - 1), st.integers(0, 2**21 - 1)), max_size=30))
def test_the_sign_of_any_value_in_any_ring(bits: int, pairs: list[tuple[int, int]]) -> None:
    kept = [(a % 2**bits, b % 2**bits) for a, b in pairs]
    opened, mask = (np.array([pair[i] for pair in kept], np.uint32) for i in range(2))
    hidden, s = Sides(mask, bits).compare(opened)
    assert (hidden ^ s).tolist() == [reference.is_positive(a, b, bits) for a, b in kept]


@given(st.integers(5, 21), st.lists(st.tuples(st.integers(0, 2**21 - 1), st.integers(0, 2**21 - 1)), max_size=30))
def test_the_index_under_its_masks_is_less_and_equal_of_the_digits(bits: int, pairs: list[tuple[int, int]]) -> None:
    opened, mask = (np.array([pair[i] % 2**bits for pair in pairs], np.uint32) for i in range(2))
    sides = Sides(mask, bits)
    one, two = sides.looked_up(opened)
    index = one ^ two ^ ((sides.masks[0] ^ sides.masks[1]) & np.uint8(127))
    widths = comparison.digit_widths(bits - 1)
    low = np.uint32(2 ** (bits - 1) - 1)
    expected = [reference.digit_bits(int(a), int(b), widths) for a, b in zip(opened & low, mask & low, strict=True)]
    assert index.tolist() == expected
    assert max(one.tolist() + two.tolist(), default=0) < 128  # seven bits go over the wire


@pytest.mark.parametrize("bits", EVERY_RING)
def test_digits_fill_the_value_and_fit_a_word(bits: int) -> None:
    widths = comparison.digit_widths(bits - 1)
    assert sum(widths) == bits - 1 and len(widths) == 4 and min(widths) >= 1 and max(widths) <= 5
    assert list(widths) == sorted(widths)


@pytest.mark.parametrize("bits", [0, 3, 21])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="4 to 20 bits"):
        comparison.digit_widths(bits)


def test_the_borrow_is_decided_by_the_highest_digit_that_differs() -> None:
    assert comparison.BORROW.tolist() == [reference.borrow(index) for index in range(128)]
    for a, b in itertools.product(range(256), repeat=2):
        assert reference.borrow(reference.digit_bits(a, b, (2, 2, 2, 2))) == (a < b)


def test_the_polynomial_is_the_borrow_for_every_index_and_mask() -> None:
    assert (len(comparison.MONOMIALS), comparison.PRODUCT_BITS) == (22, 15)
    for index, masks in itertools.product(range(128), repeat=2):
        monomials = masks | int(comparison.PRODUCTS[masks]) << comparison.OPENED_BITS
        said = (monomials & int(comparison.COEFFICIENTS[index])).bit_count() & 1
        assert said ^ reference.borrow(index) == reference.borrow(index ^ masks)


def test_products_are_those_of_the_mask_bits() -> None:
    for masks in range(128):
        for place, monomial in enumerate(comparison.MONOMIALS[comparison.OPENED_BITS :]):
            chosen = [masks >> bit & 1 for bit in range(7) if monomial >> bit & 1]
            assert int(comparison.PRODUCTS[masks]) >> place & 1 == all(chosen)


def test_read_only_corrections_are_read() -> None:
    """What comes from the wire may be a view that nothing can be written to."""
    opened, mask = every_pair(5)
    sides = Sides(mask, 5)
    for word in sides.words[1]:
        word.flags.writeable = False
    sides.products[1].flags.writeable = False
    hidden, s = sides.compare(opened)
    assert np.array_equal(hidden ^ s, positive(opened, mask, 5))
