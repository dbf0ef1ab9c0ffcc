"""Sharing against exhaustion (its arithmetic: tests/kernels)."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.rng import Stream
from primum.secagg import shamir


@given(st.binary(min_size=1, max_size=64), st.integers(2, 10), st.data())
def test_any_threshold_shares_open_it(secret: bytes, count: int, data: st.DataObject) -> None:
    threshold = data.draw(st.integers(1, count))
    places = data.draw(st.lists(st.integers(1, 255), min_size=count, max_size=count, unique=True))
    shares = shamir.share(secret, places, threshold, Stream.from_os())
    for subset in list(combinations(places, threshold))[:20]:
        assert shamir.reconstruct({place: shares[place] for place in subset}) == secret


def test_fewer_shares_are_uniform() -> None:
    # two secrets, one share of a 2-of-2 sharing: the share's distribution must not tell them apart
    seen = {}
    for secret in (b"\x00", b"\xff"):
        values = [shamir.share(secret, [1, 2], 2, Stream.from_os())[1][0] for _ in range(4096)]
        seen[secret] = np.bincount(values, minlength=256)
    for counts in seen.values():
        chi_squared = ((counts - 16) ** 2 / 16).sum()
        assert chi_squared < 380  # 255 degrees of freedom: exceeded with probability below 1e-6


@pytest.mark.parametrize("places", [[0, 1], [1, 1], [1, 256], []])
def test_wrong_places_are_refused(places: list[int]) -> None:
    with pytest.raises(ValueError, match="places"):
        shamir.share(b"secret", places, 1, Stream.from_os())


def test_shares_of_different_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="different lengths"):
        shamir.reconstruct({1: b"ab", 2: b"a"})


@pytest.mark.parametrize("threshold", [0, 4])
def test_a_threshold_that_cannot_be_reached_is_refused(threshold: int) -> None:
    with pytest.raises(ValueError, match="threshold"):
        shamir.share(b"secret", [1, 2, 3], threshold, Stream.from_os())
