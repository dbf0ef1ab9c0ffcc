"""Sharings, ratchets, streams, and the bytes of ring elements."""

import copy
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import PeerError, Refused
from primum.kernels.reference import pack
from primum.kernels.words import type_for
from primum.mpc.share import (
    FARTHEST_SKIP,
    Ratchet,
    Streams,
    expand_input,
    from_bytes,
    other,
    split_input,
    take,
    to_bytes,
)
from primum.ring import mask


@given(st.binary(min_size=32, max_size=32), st.integers(8, 64), st.integers(1, 50))
def test_shares_add_up_to_the_value(seed, bits, count):
    values = np.frombuffer(os.urandom(8 * count), np.uint64) & mask(bits)
    b = split_input(values, seed, bits)
    assert not (b & ~mask(bits)).any()
    assert np.array_equal((expand_input(seed, (count,)) + b) & mask(bits), values)


@given(st.integers(1, 64), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_bytes_are_the_lowest_bits_in_order_and_come_back(bits, values):
    elements = np.array(values, np.uint64)
    data = to_bytes(elements, bits).tobytes()
    assert data == pack(values, bits)
    back = from_bytes(data, (len(values), 1), bits, "A")
    assert back.dtype == type_for(bits) and np.array_equal(back[:, 0], elements & mask(bits))


@pytest.mark.parametrize("bits", [1, 7, 40, 44])
@pytest.mark.parametrize("change", [-1, 1])
def test_a_wrong_length_names_the_peer(bits, change):
    data = to_bytes(np.zeros(8, np.uint64), bits).tobytes()
    with pytest.raises(PeerError, match="server B"):
        from_bytes(data[:change] if change < 0 else data + b"\0", (8,), bits, "server B")


@pytest.mark.parametrize("bits", [1, 7, 44])
def test_padding_that_is_not_zero_names_the_peer(bits):
    data = bytearray(to_bytes(np.zeros(3, np.uint64), bits).tobytes())
    data[-1] |= 0x80
    with pytest.raises(PeerError, match="server A"):
        from_bytes(bytes(data), (3,), bits, "server A")


def test_the_other_server():
    assert (other("A"), other("B")) == ("B", "A")


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


def test_streams_differ_by_number_model_program_and_operation():
    keys = take(Ratchet(b"k" * 32, 1), 1, 3)
    labels = [(m, p, w) for m in (b"1", b"2") for p in (b"p", b"q") for w in ("x", "y", "xy", "")]
    drawn = [row.tobytes() for label in labels for row in Streams(keys, label).draw(4, 64)]
    assert len(drawn) == 3 * len(labels) and len(set(drawn)) == len(drawn)


def test_labels_are_not_glued_together():
    one, two = Streams((b"k" * 32,), ("ab", "c")), Streams((b"k" * 32,), ("a", "bc"))
    assert not np.array_equal(one.draw(4, 64), two.draw(4, 64))


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 64)), max_size=6))
def test_what_is_drawn_later_is_never_what_was_drawn_before(parts):
    streams, again = Streams((b"k" * 32,), ("x",)), Streams((b"k" * 32,), ("x",))
    drawn = [streams.draw(size, bits) for size, bits in parts]
    assert [part.shape for part in drawn] == [(1, size) for size, _ in parts]
    assert [part.dtype for part in drawn] == [type_for(bits) for _, bits in parts]
    whole = again.draw(sum(part.nbytes for part in drawn), 8)
    assert b"".join(part.tobytes() for part in drawn) == whole.tobytes()
