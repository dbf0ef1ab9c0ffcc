"""Values of b bits in bytes: the kernel against one long number, and every wrong string refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import packing, reference
from primum.rng import Stream

widths = st.integers(1, 32)
vectors = st.lists(st.integers(0, 2**32 - 1), max_size=40)


@given(vectors, widths)
def test_packed_as_the_definition_says(values: list[int], bits: int) -> None:
    packed = packing.pack(np.array(values, np.uint32), bits)
    assert len(packed) == packing.packed_size(len(values), bits)
    assert packed.tobytes() == reference.pack(values, bits)


@pytest.mark.parametrize("bits", range(1, 33))
def test_every_width_comes_back_at_every_length(bits: int) -> None:
    everything = Stream.public(f"packing {bits}").uint32(100)
    everything[::7] = 2**32 - 1
    mask = np.uint32(2**bits - 1)
    for count in (0, 1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 100):
        values = everything[:count]
        packed = packing.pack(values, bits)
        assert packed.tobytes() == reference.pack(values.tolist(), bits)
        assert np.array_equal(packing.unpack(packed.tobytes(), count, bits), values & mask)
        assert reference.unpack(packed.tobytes(), count, bits) == (values & mask).tolist()


@given(vectors, widths, st.integers(0, 2**32 - 1))
def test_sums_are_modulo_2_to_the_32(values: list[int], bits: int, start: int) -> None:
    total = np.full(len(values), start, np.uint32)
    packing.add_packed(total, packing.pack(np.array(values, np.uint32), bits), bits)
    assert total.tolist() == [(start + (value & (2**bits - 1))) % 2**32 for value in values]


@given(widths, st.integers(0, 3), st.integers(0, 63))
def test_packed_piece_by_piece_is_packed_at_once(bits: int, pieces: int, rest: int) -> None:
    values = Stream.public("pieces").uint32(64 * pieces + rest)
    out = np.full(packing.packed_size(len(values), bits), 0xAA, np.uint8)
    for start in range(0, len(values), 64):
        part = values[start : start + 64]
        packing.pack_into(part, bits, out[start * bits // 8 :][: packing.packed_size(len(part), bits)])
    assert np.array_equal(out, packing.pack(values, bits))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_at_any_address_is_read(kind: type) -> None:
    values = Stream.public("buffers").uint32(77)
    data = kind(b"x" + packing.pack(values, 13).tobytes())[1:]
    assert np.array_equal(packing.unpack(data, 77, 13), values & np.uint32(2**13 - 1))


def test_negative_numbers_are_in_twos_complement() -> None:
    values = np.array([-1, -2, 3], np.int32)
    assert packing.unpack(packing.pack(values.view(np.uint32), 10), 3, 10).tolist() == [1023, 1022, 3]


@given(widths, st.integers(0, 40), st.integers(0, 200))
def test_a_wrong_length_is_refused(bits: int, count: int, length: int) -> None:
    total = np.full(count, 7, np.uint32)
    if length == packing.packed_size(count, bits):
        length += 1
    with pytest.raises(ValueError, match="take"):
        packing.add_packed(total, bytes(length), bits)
    assert (total == 7).all()
    with pytest.raises(ValueError, match="do not fill"):
        packing.pack_into(total, bits, np.zeros(length, np.uint8))


@given(widths, st.integers(1, 40))
def test_padding_that_is_not_zero_is_refused(bits: int, count: int) -> None:
    for bit in range(count * bits, 8 * packing.packed_size(count, bits)):
        data = bytearray(packing.packed_size(count, bits))
        data[-1] |= 1 << bit % 8
        with pytest.raises(ValueError, match="padding"):
            packing.unpack(data, count, bits)


@pytest.mark.parametrize("bits", [0, 33, -1])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 32 bits"):
        packing.pack(np.zeros(3, np.uint32), bits)
