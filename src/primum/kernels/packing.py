"""Values of b bits in a string of bytes, little-endian: value i takes the bits from i b up to (i + 1) b.

Bit j of a string is bit j mod 8, counted from the lowest, of byte j div 8; what is left of the last byte is 0. Eight
values take b whole bytes, so a vector may be packed piece by piece, each piece but the last a multiple of 8 values.
Values are uint32 and 1 to 32 bits are packed of each. About a nanosecond a value.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

Values = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]
Buffer = bytes | bytearray | memoryview | Bytes

MOST_BITS: Final = 32


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take. ValueError unless 1 <= bits <= 32."""
    if not 1 <= bits <= MOST_BITS:
        raise ValueError(f"values have 1 to {MOST_BITS} bits, got {bits}")
    return (count * bits + 7) // 8


def pack(values: Values, bits: int) -> Bytes:
    """The lowest `bits` bits of each of `values` uint32 [n], as uint8 [packed_size(n, bits)]."""
    out = np.empty(packed_size(len(values), bits), np.uint8)
    pack_into(values, bits, out)
    return out


def pack_into(values: Values, bits: int, out: Bytes) -> None:
    """Write `pack(values, bits)` into `out` uint8 [packed_size(n, bits)], every byte of it, with no copy between.

    Higher bits of a value are dropped: int32 negatives, seen as uint32, become two's complement of `bits` bits.
    ValueError for another length of `out`.
    """
    if out.shape != (packed_size(len(values), bits),):
        raise ValueError(f"{len(values)} values of {bits} bits do not fill {len(out)} bytes")
    whole = np.ascontiguousarray(values, np.uint32)
    if bits == MOST_BITS:
        out[:] = whole.astype("<u4", copy=False).view(np.uint8)
    elif bits == 24:
        _pack_24(whole, out)
    else:
        _pack(whole, bits, out)


def unpack(data: Buffer, count: int, bits: int) -> Values:
    """The `count` values in `data`, uint32 [count]. ValueError for a wrong length or padding that is not zero."""
    total = np.zeros(count, np.uint32)
    add_packed(total, data, bits)
    return total


def add_packed(total: Values, data: Buffer, bits: int) -> None:
    """Add the values in `data` to `total` uint32 [n], in place, modulo 2^32.

    ValueError for a wrong length or padding that is not zero; `total` is untouched then.
    """
    view = _checked(data, len(total), bits)
    if bits == 24:
        _add_24(total, view)
    else:
        _add(total, view, bits)


def well_packed(data: Buffer, count: int, bits: int) -> bool:
    """Whether `data` is `count` values of `bits` bits and nothing else."""
    try:
        _checked(data, count, bits)
    except ValueError:
        return False
    return True


def _checked(data: Buffer, count: int, bits: int) -> Bytes:
    view = np.frombuffer(data, np.uint8)
    if len(view) != packed_size(count, bits):
        raise ValueError(f"{count} values of {bits} bits take {packed_size(count, bits)} bytes, not {len(view)}")
    used = count * bits % 8
    if used and view[-1] >> used:
        raise ValueError("the padding after the last value is not zero")
    view.flags.writeable = False  # one type for all buffers: one kernel
    return view


# Indices are unsigned below: numba then leaves out Python's counting from the end, and eight bytes become one word.


@compiled
def _pack(values: Values, bits: int, out: Bytes) -> None:
    # one value, or two where they fit, behind the up to 7 bits left over; 8 bytes are written and the whole ones kept
    one, mask, width = np.uint64(1), np.uint64((1 << bits) - 1), np.uint64(bits)
    count, size = np.uint64(len(values)), np.uint64(len(out))
    together = np.uint64(2 if bits <= 28 else 1)
    left, fill, place, i = np.uint64(0), np.uint64(0), np.uint64(0), np.uint64(0)
    while i + together <= count and place + np.uint64(8) <= size:
        new = np.uint64(values[i]) & mask
        if together > one:
            new |= (np.uint64(values[i + one]) & mask) << width
        left |= new << fill
        for k in range(8):
            out[place + np.uint64(k)] = np.uint8(left >> np.uint64(8 * k))
        fill += width * together
        whole = fill >> np.uint64(3)  # at most 63 bits, so at most 7 bytes
        left >>= whole << np.uint64(3)
        place += whole
        fill &= np.uint64(7)
        i += together
    while i < count:
        left |= (np.uint64(values[i]) & mask) << fill
        i += one
        fill += width
        while fill >= np.uint64(8) or (i == count and fill > np.uint64(0)):
            out[place] = np.uint8(left)
            left >>= np.uint64(8)
            fill -= min(fill, np.uint64(8))
            place += one
    if fill > np.uint64(0):  # the first loop ended on the last value
        out[place] = np.uint8(left)


@compiled
def _add(total: Values, data: Bytes, bits: int) -> None:
    seven, mask, width = np.uint64(7), np.uint64((1 << bits) - 1), np.uint64(bits)
    # the first values, of which eight bytes can be read without leaving the buffer
    whole = min(len(total), max(0, 8 * (len(data) - 8) // bits))
    for i in range(whole):
        at = np.uint64(i) * width
        word = np.uint64(0)
        for k in range(8):
            word |= np.uint64(data[(at >> np.uint64(3)) + np.uint64(k)]) << np.uint64(8 * k)
        total[i] += np.uint32((word >> (at & seven)) & mask)
    for i in range(whole, len(total)):
        at = np.uint64(i) * width
        first, end = at >> np.uint64(3), (at + width + seven) >> np.uint64(3)
        word = np.uint64(0)
        for place in range(first, end):
            word |= np.uint64(data[place]) << (np.uint64(8) * (place - first))
        total[i] += np.uint32((word >> (at & seven)) & mask)


# 24 bits are what most sums of large models need: whole bytes, and four times as fast.


@compiled
def _pack_24(values: Values, out: Bytes) -> None:
    for i in range(len(values)):
        for k in range(3):
            out[3 * i + k] = np.uint8(values[i] >> np.uint32(8 * k))


@compiled
def _word(data: Bytes, at: np.uint64) -> np.uint64:
    word = np.uint64(0)
    for k in range(8):
        word |= np.uint64(data[at + np.uint64(k)]) << np.uint64(8 * k)
    return word


@compiled
def _add_24(total: Values, data: Bytes) -> None:
    # eight values are three words
    mask, eight, count = np.uint64(0xFFFFFF), np.uint64(8), np.uint64(len(total))
    i = np.uint64(0)
    while i + eight <= count:
        at = np.uint64(3) * i
        a, b, c = _word(data, at), _word(data, at + eight), _word(data, at + np.uint64(16))
        total[i] += np.uint32(a & mask)
        total[i + np.uint64(1)] += np.uint32((a >> np.uint64(24)) & mask)
        total[i + np.uint64(2)] += np.uint32(((a >> np.uint64(48)) | (b << np.uint64(16))) & mask)
        total[i + np.uint64(3)] += np.uint32((b >> np.uint64(8)) & mask)
        total[i + np.uint64(4)] += np.uint32((b >> np.uint64(32)) & mask)
        total[i + np.uint64(5)] += np.uint32(((b >> np.uint64(56)) | (c << np.uint64(8))) & mask)
        total[i + np.uint64(6)] += np.uint32((c >> np.uint64(16)) & mask)
        total[i + np.uint64(7)] += np.uint32((c >> np.uint64(40)) & mask)
        i += eight
    while i < count:
        for k in range(3):
            total[i] += np.uint32(data[np.uint64(3) * i + np.uint64(k)]) << np.uint32(8 * k)
        i += np.uint64(1)
