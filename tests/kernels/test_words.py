"""Ring elements of 1 to 64 bits in bytes: the kernel against one long number, and every wrong string refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import packing, reference, words
from primum.rng import Stream

widths = st.integers(1, 64)
kinds = st.sampled_from([np.uint8, np.uint16, np.uint32, np.uint64])
EDGES = (0, 1, 2**7, 2**8 - 1, 2**31, 2**32 - 1, 2**39, 2**40 - 1, 2**63, 2**64 - 1)
vectors = st.lists(st.sampled_from(EDGES) | st.integers(0, 2**64 - 1), max_size=40)


def elements(values: list[int], kind: type) -> np.ndarray:
    return np.array(values, np.uint64).astype(kind)


@given(vectors, widths, kinds)
def test_packed_as_the_definition_says(values: list[int], bits: int, kind: type) -> None:
    array = elements(values, kind)
    packed = words.pack(array, bits)
    assert packed.dtype == np.uint8 and packed.ndim == 1
    assert len(packed) == words.packed_size(len(values), bits)
    assert packed.tobytes() == reference.pack(array.tolist(), bits)


@pytest.mark.parametrize("few", [0, 1 << 16])
@pytest.mark.parametrize("bits", range(1, 65))
def test_every_width_comes_back_at_every_length(bits: int, few: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_FEW", few)  # up to so many, whole bytes go another way
    everything = Stream.public(f"words {bits}").uint64(130)
    everything[::7] = 2**64 - 1
    everything[3::7] = 0
    everything[5::7] = 1 << (bits - 1)
    kept = everything & np.uint64(2**bits - 1)
    for count in (0, 1, 2, 3, 7, 8, 9, 31, 63, 64, 65, 127, 130):
        data = words.pack(everything[:count], bits).tobytes()
        assert data == reference.pack(everything[:count].tolist(), bits)
        back = words.unpack(data, count, bits)
        assert back.dtype == words.type_for(bits) and back.shape == (count,)
        assert np.array_equal(back, kept[:count])
        assert reference.unpack(data, count, bits) == back.tolist()


@pytest.mark.parametrize("bits", range(1, 65))
def test_the_smallest_type_that_holds_a_width(bits: int) -> None:
    size = np.dtype(words.type_for(bits)).itemsize * 8
    assert size >= bits and (size == 8 or size // 2 < bits)


@pytest.mark.parametrize("bits", range(1, 33))
def test_the_format_is_that_of_packing(bits: int) -> None:
    values = Stream.public("formats").uint32(77)
    assert np.array_equal(words.pack(values, bits), packing.pack(values, bits))


@given(widths, st.sampled_from([(2, 3, 4), (0, 5), (7,), (1, 1, 9, 2)]))
def test_any_shape_in_its_order(bits: int, shape: tuple[int, ...]) -> None:
    values = Stream.public("shapes").uint64(shape)
    assert np.array_equal(words.pack(values, bits), words.pack(values.reshape(-1), bits))
    turned = values.T
    assert np.array_equal(words.pack(turned, bits), words.pack(np.ascontiguousarray(turned), bits))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview, lambda data: np.frombuffer(data, np.uint8)])
@pytest.mark.parametrize("bits", [1, 8, 13, 40, 64])
def test_any_buffer_at_any_address_is_read(kind, bits: int) -> None:  # type: ignore[no-untyped-def]
    values = Stream.public("buffers").uint64(77)
    data = kind(b"x" + words.pack(values, bits).tobytes())[1:]
    assert np.array_equal(words.unpack(data, 77, bits), values & np.uint64(2**bits - 1))


@given(widths, st.integers(0, 40), st.integers(0, 400))
def test_a_wrong_length_is_refused(bits: int, count: int, length: int) -> None:
    if length == words.packed_size(count, bits):
        length += 1
    with pytest.raises(ValueError, match="take"):
        words.unpack(bytes(length), count, bits)


@given(widths, st.integers(1, 40))
def test_padding_that_is_not_zero_is_refused(bits: int, count: int) -> None:
    for bit in range(count * bits, 8 * words.packed_size(count, bits)):
        data = bytearray(words.packed_size(count, bits))
        data[-1] |= 1 << bit % 8
        with pytest.raises(ValueError, match="padding"):
            words.unpack(data, count, bits)


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 64 bits"):
        words.pack(np.zeros(3, np.uint64), bits)
    with pytest.raises(ValueError, match="1 to 64 bits"):
        words.unpack(b"", 0, bits)
