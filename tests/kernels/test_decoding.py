"""Wrong shares are found up to the bound of the code, and never a right one named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.kernels import decoding, galois, reference
from primum.rng import Stream


def test_products_are_those_of_the_definition() -> None:
    everything = np.arange(256, dtype=np.uint8)
    for factor in (0, 1, 2, 3, 0x53, 255):
        assert decoding.times(everything, np.full(1, factor, np.uint8)).tolist() == [
            reference.times(a, factor) for a in range(256)
        ]


@settings(deadline=None, max_examples=300)
@given(n=st.integers(1, 24), data=st.data())
def test_so_many_wrong_rows_are_found_and_no_other(n: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, n))
    points = np.array(data.draw(st.lists(st.integers(1, 255), min_size=n, max_size=n, unique=True)), np.uint8)
    stream = Stream.public(f"decoding {n} {threshold}")
    rows = galois.evaluate(np.frombuffer(stream.bytes(threshold * 5), np.uint8).reshape(threshold, 5), points)
    liars = data.draw(st.sets(st.integers(0, n - 1), max_size=(n - threshold) // 2))
    changed = rows.copy()
    for liar in liars:
        changed[liar, data.draw(st.integers(0, 4))] ^= data.draw(st.integers(1, 255))
    assert decoding.locate_errors(points, changed, threshold) == frozenset(liars)


@pytest.mark.parametrize(("n", "threshold"), [(100, 90), (177, 126), (9, 5)])
def test_the_most_that_can_be_found(n: int, threshold: int) -> None:
    points = np.arange(1, n + 1, dtype=np.uint8)
    rows = galois.evaluate(np.frombuffer(Stream.public("most").bytes(threshold * 32), np.uint8).reshape(-1, 32), points)
    most = (n - threshold) // 2
    changed = rows.copy()
    changed[3 : 3 + most] ^= 0x5A
    assert decoding.locate_errors(points, changed, threshold) == frozenset(range(3, 3 + most))
    changed[0 : most + 4] ^= np.frombuffer(Stream.public("more").bytes(32 * (most + 4)), np.uint8).reshape(-1, 32)
    found = decoding.locate_errors(points, changed, threshold)
    assert found is None or len(found) <= most  # more than that cannot be told apart: the caller compares a hash


def test_shares_that_are_all_needed_tell_nothing() -> None:
    points = np.array([1, 2, 3], np.uint8)
    assert decoding.locate_errors(points, np.zeros((3, 4), np.uint8), 3) == frozenset()
    assert decoding.locate_errors(points, np.eye(3, dtype=np.uint8), 3) == frozenset()
    assert decoding.locate_errors(points, np.array([[0], [0], [9]], np.uint8), 2) is None
