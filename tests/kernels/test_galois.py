"""GF(2^8): the kernel on eight bytes at once against products of polynomials."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import galois, reference
from primum.rng import Stream

places = st.lists(st.integers(1, 255), min_size=1, max_size=12, unique=True)


def random_bytes(*shape: int) -> np.ndarray:
    out = np.empty(shape, np.uint8)
    Stream.from_os().fill(out)
    return out


def test_multiplication_is_that_of_aes_for_all_pairs() -> None:
    everything = np.arange(256, dtype=np.uint8)[None]
    for factor in range(256):
        product = galois.combine(everything, np.array([factor], np.uint8))
        assert product.tolist() == [reference.times(a, factor) for a in range(256)]


def test_example_of_the_standard() -> None:
    # FIPS 197, section 4.2: {57} * {83} = {c1}
    assert galois.combine(np.array([[0x57]], np.uint8), np.array([0x83], np.uint8)) == [0xC1]
    assert reference.times(0x57, 0x83) == 0xC1


@given(st.integers(1, 9), st.integers(0, 19), st.lists(st.integers(0, 255), max_size=9))
def test_evaluation_is_the_sum_of_powers(threshold: int, length: int, points: list[int]) -> None:
    coefficients = random_bytes(threshold, length)
    values = galois.evaluate(coefficients, np.array(points, np.uint8))
    assert values.shape == (len(points), length)
    assert np.array_equal(values, reference.evaluate(coefficients, points))


@given(st.lists(st.integers(0, 255), min_size=1, max_size=9), st.integers(0, 19))
def test_combination_is_the_weighted_sum(weights: list[int], length: int) -> None:
    shares = random_bytes(len(weights), length)
    assert np.array_equal(galois.combine(shares, np.array(weights, np.uint8)), reference.combine(shares, weights))


@given(places)
def test_lagrange_weights(points: list[int]) -> None:
    assert galois.lagrange_at_zero(np.array(points, np.uint8)).tolist() == reference.lagrange_at_zero(points)


@given(places, st.integers(1, 70))
def test_as_many_values_as_coefficients_give_the_constant_term(points: list[int], length: int) -> None:
    coefficients = random_bytes(len(points), length)
    here = np.array(points, np.uint8)
    values = galois.evaluate(coefficients, here)
    assert np.array_equal(galois.combine(values, galois.lagrange_at_zero(here)), coefficients[0])


def test_all_255_places() -> None:
    everywhere = np.arange(1, 256, dtype=np.uint8)
    coefficients = random_bytes(255, 33)
    values = galois.evaluate(coefficients, everywhere)
    assert np.array_equal(galois.combine(values, galois.lagrange_at_zero(everywhere)), coefficients[0])


@pytest.mark.parametrize("points", [[0, 1], [1, 1], []])
def test_wrong_places_are_refused(points: list[int]) -> None:
    with pytest.raises(ValueError, match="places"):
        galois.lagrange_at_zero(np.array(points, np.uint8))


def test_shares_without_weights_are_refused() -> None:
    with pytest.raises(ValueError, match="weights"):
        galois.combine(random_bytes(3, 4), np.ones(2, np.uint8))
