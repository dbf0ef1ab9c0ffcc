"""The result equals the plain integer sum to the last bit, whoever vanishes when."""

from collections.abc import Callable
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.secagg.playing import Federation

from primum.errors import InputError, Unavailable

Build = Callable[..., Federation]


def random_vectors(federation: Federation, seed: int, reach: int) -> dict[int, np.ndarray]:
    generator = np.random.default_rng(seed)
    length = federation.shape.length
    return {place: generator.integers(-reach, reach + 1, length) for place in federation.nodes}


@settings(max_examples=15)
@given(n=st.integers(3, 6), bits=st.integers(8, 32), length=st.integers(1, 40), seed=st.integers(0, 2**32))
def test_sum_is_exact(federation: Build, n: int, bits: int, length: int, seed: int) -> None:
    built = federation(n, length=length, bits=bits)
    built.begin()
    vectors = random_vectors(built, seed, (1 << (bits - 1)) // n - 1)
    result = built.round(vectors)
    assert result.included == tuple(range(1, n + 1))
    assert np.array_equal(result.total, sum(vectors.values()))


def test_negative_and_largest_values_are_exact(federation: Build) -> None:
    built = federation(3, bits=16, length=3)
    built.begin()
    vectors = {1: np.array([-10000, 32767, -1]), 2: np.array([-10000, 0, -1]), 3: np.array([-10000, 0, 0])}
    assert built.round(vectors).total.tolist() == [-30000, 32767, -2]


def test_a_vector_that_does_not_fit_is_refused_before_it_is_sent(federation: Build) -> None:
    built = federation(3, bits=8, length=1)
    built.begin()
    with pytest.raises(InputError, match="8 bits"):
        built.round({place: np.array([200]) for place in built.nodes})


def test_many_rounds_with_two_exchanges_each(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    built.begin()
    for seed in range(5):
        vectors = random_vectors(built, seed, 1000)
        assert np.array_equal(built.round(vectors).total, sum(vectors.values()))
    assert built.server.round == 6


@pytest.mark.parametrize("when", ["vector", "shares"])
@pytest.mark.parametrize("who", [1, 2, 3, 4])
def test_one_of_four_vanishes(federation: Build, when: str, who: int) -> None:
    built = federation(4, may_vanish=1)
    built.begin()
    vectors = random_vectors(built, who, 1000)
    gone = {f"vanish_before_{when}": [who]}
    result = built.round(vectors, **gone)
    expected = [place for place in vectors if when == "shares" or place != who]
    assert list(result.included) == expected
    assert np.array_equal(result.total, sum(vectors[place] for place in expected))
    again = built.round(vectors)  # the others dealt for the next round when they gave shares
    assert who not in again.included
    assert np.array_equal(again.total, sum(vectors[place] for place in again.included))


def test_every_pair_of_vanishing_of_four_is_refused(federation: Build) -> None:
    for gone in combinations(range(1, 5), 2):
        built = federation(4, may_vanish=1)
        built.begin()
        with pytest.raises(Unavailable, match="at least 3"):
            built.round(random_vectors(built, 0, 10), vanish_before_vector=gone)


def test_three_cannot_lose_one(federation: Build) -> None:
    built = federation(3)
    built.begin()
    with pytest.raises(Unavailable, match="2 of 3"):
        built.round(random_vectors(built, 0, 10), vanish_before_vector=[2])
    built.begin(session=2, first_round=2)  # what failed is tried again under a new number
    vectors = random_vectors(built, 1, 10)
    assert np.array_equal(built.round(vectors).total, sum(vectors.values()))


def test_who_vanished_comes_back_with_a_new_session(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    built.begin()
    vectors = random_vectors(built, 3, 10)
    built.round(vectors, vanish_before_vector=[2])
    built.begin(session=2, first_round=built.server.round)
    assert built.round(vectors).included == (1, 2, 3, 4)


@pytest.mark.parametrize(("length", "bits"), [(65_536, 24), (65_537, 17), (200_003, 13), (131_072, 32)])
def test_vectors_longer_than_a_chunk(federation: Build, length: int, bits: int) -> None:
    built = federation(4, may_vanish=1, length=length, bits=bits)
    built.begin()
    vectors = random_vectors(built, 7, (1 << (bits - 1)) // 4 - 1)
    result = built.round(vectors, vanish_before_vector=[3])
    assert np.array_equal(result.total, sum(vectors[place] for place in result.included))


@pytest.mark.parametrize(("n", "c", "d"), [(10, 1, 2), (10, 3, 3), (100, 5, 5)])
def test_many_members_of_whom_d_vanish(federation: Build, n: int, c: int, d: int) -> None:
    built = federation(n, colluding=c, may_vanish=d)
    built.begin()
    vectors = random_vectors(built, n, 1000)
    result = built.round(vectors, vanish_before_vector=range(1, d), vanish_before_shares=[n])
    assert result.included == tuple(range(d, n + 1))
    assert np.array_equal(result.total, sum(vectors[place] for place in result.included))


def test_every_subset_of_six_that_may_vanish(federation: Build) -> None:
    """Three exchanges: all ways of two members to fall silent, at the vector or later, are exact."""
    built, session = federation(6, may_vanish=2), 0
    vectors = random_vectors(built, 6, 1000)
    for gone in combinations(range(1, 7), 2):
        for early in (0, 1, 2):
            session += 1
            built.begin(session, built.server.round + 1)
            result = built.round(vectors, vanish_before_vector=gone[:early], vanish_before_confirmation=gone[early:])
            assert result.included == tuple(place for place in vectors if place not in gone[:early])
            assert np.array_equal(result.total, sum(vectors[place] for place in result.included))


@pytest.mark.parametrize("bad", [np.zeros(8), np.zeros(8, np.uint32), np.full(8, np.nan)])
def test_what_is_not_signed_integers_is_refused(federation: Build, bad: np.ndarray) -> None:
    built = federation(3)
    built.begin()
    with pytest.raises(InputError, match="not signed integers"):
        built.round(dict.fromkeys(built.nodes, bad))
