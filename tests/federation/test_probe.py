"""Eight public numbers at the end of every vector: a sum that is not the plain sum is not used."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.federation.playing import World, make_study

from primum import ring
from primum.errors import PeerError, PrimumError
from primum.federation.probe import LENGTH, longer, numbers, with_probe, without_probe
from primum.rng import Stream
from primum.secagg import Aggregate, Server, Shape

RUN = b"r" * 16
BITS = st.integers(8, 32)
PLACES = st.sets(st.integers(1, 40), min_size=1, max_size=20)


def sum_of(places: set[int], bits: int, length: int = 5) -> tuple[Aggregate, np.ndarray]:
    """The sum in the ring, as the server has it, and the plain sum of the vectors alone."""
    total, plain = np.zeros(length + LENGTH, np.int64), np.zeros(length, np.int64)
    for place in places:
        vector = (Stream.public(f"vector {place}").uint32(length) & 1).astype(np.int32)
        plain += vector
        total += with_probe(vector, RUN, 7, place, bits)
    wrapped = ring.to_signed((total % (1 << bits)).astype(np.uint32), bits)
    return Aggregate(wrapped.astype(np.int32), tuple(sorted(places))), plain


@given(places=PLACES, bits=BITS)
def test_a_right_sum_comes_back_without_its_probe(places: set[int], bits: int) -> None:
    aggregate, plain = sum_of(places, bits)
    found = without_probe(aggregate, RUN, 7, bits)
    assert found.included == aggregate.included
    assert np.array_equal(found.total, plain)


@given(places=PLACES, bits=BITS, seed=st.integers(0, 1000))
def test_what_is_left_of_a_mask_is_found(places: set[int], bits: int, seed: int) -> None:
    aggregate, _ = sum_of(places, bits)
    mask = Stream.public(f"mask {seed}").uint32(len(aggregate.total)) >> np.uint32(32 - bits)
    spoilt = ring.to_signed(((aggregate.total.astype(np.int64) + mask) % (1 << bits)).astype(np.uint32), bits)
    with pytest.raises(PeerError, match="differs from the plain sum"):
        without_probe(Aggregate(spoilt.astype(np.int32), aggregate.included), RUN, 7, bits)


@given(places=PLACES, bits=BITS)
def test_another_set_another_round_and_another_run_are_found(places: set[int], bits: int) -> None:
    aggregate, _ = sum_of(places, bits)
    for other, run, number in (
        (Aggregate(aggregate.total, (*aggregate.included, 41)), RUN, 7),
        (aggregate, RUN, 8),
        (aggregate, b"s" * 16, 7),
    ):
        with pytest.raises(PeerError):
            without_probe(other, run, number, bits)


def test_numbers_fit_into_the_ring_and_are_the_same_for_everybody() -> None:
    for bits in range(8, 33):
        found = numbers(RUN, 1, 2, bits)
        assert found.min() >= 0
        assert found.max() < 1 << (bits - 1)
        assert np.array_equal(found, numbers(RUN, 1, 2, bits))
    assert longer(Shape(5, 8)).length == 5 + LENGTH


def test_a_sum_that_is_spoilt_at_the_coordinator_is_thrown_away(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = Server.finish

    def spoilt(server: Server, openings: Any) -> Aggregate:
        aggregate = finish(server, openings)
        return replace(aggregate, total=np.roll(aggregate.total, 1))

    monkeypatch.setattr("primum.federation.rounds._MOST_FAILURES", 2)
    monkeypatch.setattr(Server, "finish", spoilt)
    run = three.submit(make_study(three.members))
    with pytest.raises(PrimumError, match="differs from the plain sum"):
        three.rounds(run).run_all()
    assert not run.lines("metrics.jsonl")
