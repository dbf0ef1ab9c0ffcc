"""Values of 1 to 64 bits in a string of bytes: the format of `packing`, for ring elements, through 64-bit words.

Values are of any unsigned type and only their lowest bits are packed; they come back in the smallest type that holds
them. About a nanosecond a value; values that fill their type are copied.
"""

import sys
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

Words = npt.NDArray[np.unsignedinteger[Any]]
Bytes = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | Bytes
MOST_BITS: Final = 64
_FEW: Final = 1 << 15
"""Up to here whole bytes are moved by NumPy: a process with a small model need not load the kernels."""
_TYPES: Final[dict[int, type[np.unsignedinteger[Any]]]] = {8: np.uint8, 16: np.uint16, 32: np.uint32, 64: np.uint64}

if sys.byteorder != "little":  # words are written as they lie in memory
    raise ImportError("Primum's ring messages are for little-endian processors.")


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take. ValueError unless 1 <= bits <= 64."""
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"values have 1 to {MOST_BITS} bits, got {bits}")
    return (count * bits + 7) // 8


def type_for(bits: int) -> type[np.unsignedinteger[Any]]:
    """The smallest of uint8, uint16, uint32, uint64 that holds values of `bits` bits."""
    return _TYPES[max(8, 1 << (bits - 1).bit_length())]


def pack(values: Words, bits: int) -> Bytes:
    """The lowest `bits` bits of each of `values` (any shape, in order), as uint8 [packed_size]."""
    flat = np.ascontiguousarray(values).reshape(-1)
    size = packed_size(len(flat), bits)
    if flat.itemsize * 8 == bits:
        return flat.view(np.uint8)
    if bits % 8 == 0 and len(flat) < _FEW:
        wide = flat.astype(np.uint64).view(np.uint8).reshape(-1, 8)
        return np.ascontiguousarray(wide[:, : bits // 8]).reshape(-1)
    words = np.empty((size + 7) // 8, np.uint64)
    if bits == 1:
        return np.packbits((flat & flat.dtype.type(1)).astype(np.uint8, copy=False), bitorder="little")
    if len(flat):
        _pack(flat, np.uint64(bits), words)
    return words.view(np.uint8)[:size]


def unpack(data: Buffer, count: int, bits: int) -> Words:
    """The `count` values in `data`, [count], of `type_for(bits)`; perhaps a read-only view of `data`.

    ValueError for a wrong length or padding that is not zero.
    """
    view = np.frombuffer(data, np.uint8)
    if len(view) != packed_size(count, bits):
        raise ValueError(f"{count} values of {bits} bits take {packed_size(count, bits)} bytes, not {len(view)}")
    used = count * bits % 8
    if used and view[-1] >> used:
        raise ValueError("the padding after the last value is not zero")
    kind = type_for(bits)
    if np.dtype(kind).itemsize * 8 == bits:
        return np.frombuffer(data, kind)
    if bits == 1:
        return np.unpackbits(view, count=count, bitorder="little")
    if bits % 8 == 0 and count < _FEW:
        wide = np.zeros((count, 8), np.uint8)
        wide[:, : bits // 8] = view.reshape(count, bits // 8)
        return wide.view(np.uint64).reshape(-1).astype(kind)
    words = np.empty((len(view) + 7) // 8 + 1, np.uint64)
    words[-2:] = 0
    words.view(np.uint8)[: len(view)] = view
    out: Words = np.empty(count, kind)
    _unpack(words, np.uint64(bits), out)
    return out


# Indices and shifts are unsigned: numba then leaves out Python's counting from the end.


@compiled
def _pack(values: Words, bits: np.uint64, out: npt.NDArray[np.uint64]) -> None:
    one, whole = np.uint64(1), np.uint64(64)
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> (whole - bits)
    word, fill, place = np.uint64(0), np.uint64(0), np.uint64(0)
    for i in range(len(values)):
        value = np.uint64(values[np.uint64(i)]) & mask
        word |= value << fill
        fill += bits
        if fill >= whole:
            out[place] = word
            place += one
            fill -= whole
            word = (value >> one) >> (bits - fill - one)
    if fill > np.uint64(0):
        out[place] = word


@compiled
def _unpack(words: npt.NDArray[np.uint64], bits: np.uint64, out: Words) -> None:
    one, six, last = np.uint64(1), np.uint64(6), np.uint64(63)
    mask = np.uint64(0xFFFFFFFFFFFFFFFF) >> (np.uint64(64) - bits)
    for i in range(len(out)):
        at = np.uint64(i) * bits
        place, shift = at >> six, at & last
        value = (words[place] >> shift) | ((words[place + one] << one) << (last - shift))
        out[np.uint64(i)] = value & mask
