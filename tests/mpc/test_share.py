"""Sharings, ratchets, and the bytes of ring elements."""

import copy
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import PeerError, Refused
from primum.mpc.share import FARTHEST_SKIP, Ratchet, draw_rows, expand_input, from_bytes, split_input, take, to_bytes
from primum.ring import mask, pack


@given(st.binary(min_size=32, max_size=32), st.sampled_from([40, 48, 56, 64]), st.integers(1, 50))
def test_shares_add_up_to_the_value(seed, bits, count):
    values = np.frombuffer(os.urandom(8 * count), np.uint64) & mask(bits)
    b = split_input(values, seed, bits)
    assert np.array_equal((expand_input(seed, (count,), bits) + b) & mask(bits), values)


@given(st.integers(1, 64), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_bytes_are_those_of_ring_pack_and_come_back(bits, values):
    elements = np.array(values, np.uint64) & mask(bits)
    data = to_bytes(elements, bits)
    assert data == pack(elements, bits)
    assert np.array_equal(from_bytes(data, (len(values),), bits, "A"), elements)


@pytest.mark.parametrize("bits", [40, 44])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_length_names_the_peer(bits, change):
    data = to_bytes(np.zeros(8, np.uint64), bits)
    with pytest.raises(PeerError, match="server B"):
        from_bytes(data[:change] if change < 0 else data + b"\0", (8,), bits, "server B")


@given(st.lists(st.integers(1, 30), min_size=1, max_size=10, unique=True))
def test_both_ends_of_a_ratchet_agree_whatever_numbers_are_left_out(numbers):
    one, two = Ratchet(b"k" * 32, 1), Ratchet(b"k" * 32, 1)
    dense = {number: two.take(number) for number in range(1, 31)}
    for number in sorted(numbers):
        assert one.take(number) == dense[number]
    assert len(set(dense.values())) == 30


def test_a_number_is_taken_once_and_never_backwards():
    ratchet = Ratchet(b"k" * 32, 5)
    with pytest.raises(Refused, match="number 4 was used"):
        ratchet.take(4)
    ratchet.take(9)
    for number in (5, 8, 9):
        with pytest.raises(Refused):
            ratchet.take(number)
    with pytest.raises(PeerError):
        ratchet.take(ratchet.next + FARTHEST_SKIP + 1)


def test_what_a_ratchet_holds_later_does_not_give_earlier_keys():
    """Stolen at number 8, the state must not lead to the keys of 1 .. 7: it holds one key, and that steps forward only."""
    ratchet = Ratchet(b"k" * 32, 1)
    earlier = take(ratchet, 1, 7)
    stolen = Ratchet(ratchet._key, 1)
    reachable = {ratchet._key} | {stolen.take(number) for number in range(1, 200)}
    assert not reachable & set(earlier)
    assert Ratchet.__slots__ == ("_key", "_next")


def test_a_ratchet_is_not_copied_and_prints_no_key():
    ratchet = Ratchet(b"k" * 32, 1)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError):
            duplicate(ratchet)
    assert "kkk" not in repr(ratchet)


def test_streams_differ_by_number_wire_kind_model_and_program():
    keys = take(Ratchet(b"k" * 32, 1), 1, 3)
    labels = [(m, p, w, k) for m in (b"1", b"2") for p in (b"p", b"q") for w in ("x", "y") for k in ("mask", "product")]
    drawn = [draw_rows(keys, label, 4, 64).tobytes()[i * 32 : i * 32 + 32] for label in labels for i in range(3)]
    assert len(set(drawn)) == len(drawn)
