"""Balanced digits ("limbs") of ring elements, and sums of products of them put back: limbs.py says why.

A value is cut into digits of w bits, in [-2^(w-1), 2^(w-1)): v = sum d_i 2^(w i) modulo 2^l.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

Ring = npt.NDArray[np.uint64]
Limbs = npt.NDArray[np.int8] | npt.NDArray[np.float64]

MOST_TERMS: Final = (1 << 31) // (128 * 128) - 1
"""Products of two limbs of 8 bits that an int32 can hold the sum of."""
_MANTISSA: Final = 53  # a float64 holds every integer up to this power of two


def longest_sum(width: int) -> int:
    """Products of two limbs of `width` bits that a float64 can hold the sum of, in any order."""
    return 1 << (_MANTISSA - 2 * (width - 1))


@compiled
def cut(values: Ring, out: Limbs) -> None:
    """`values` [n] into `out` int8 [count, n], the lowest limb first."""
    for limb in range(out.shape[0]):
        row = out[limb]
        # v + 0x80..80 carries as balanced digits do, so one shift gives a digit
        bias = np.uint64(0x8080808080808080)
        shift = np.uint64(8 * limb)
        for i in range(len(values)):
            row[i] = np.int8(np.uint8((values[i] + bias) >> shift) ^ np.uint8(0x80))


@compiled
def cut_reversed(values: Ring, out: Limbs) -> None:
    """`values` [rows, terms] into `out` int8 [rows, count, terms], the highest limb first."""
    count = out.shape[1]
    bias = np.uint64(0x8080808080808080)
    for output in range(out.shape[0]):
        for limb in range(count):
            row, line = out[output, count - 1 - limb], values[output]
            shift = np.uint64(8 * limb)
            for i in range(len(line)):
                row[i] = np.int8(np.uint8((line[i] + bias) >> shift) ^ np.uint8(0x80))


@compiled
def cut_wide(values: Ring, width: int, out: npt.NDArray[np.float64]) -> None:
    """`values` [rows, terms] into `out` [count, rows, terms], the lowest limb first."""
    half = np.uint64(1) << np.uint64(width - 1)
    mask = (half << np.uint64(1)) - np.uint64(1)
    bias = np.uint64(0)
    for limb in range(out.shape[0]):
        bias += half << np.uint64(width * limb)
    for limb in range(out.shape[0]):
        shift = np.uint64(width * limb)
        for row in range(values.shape[0]):
            for i in range(values.shape[1]):
                digit = ((values[row, i] + bias) >> shift) & mask
                out[limb, row, i] = np.float64(np.int64(digit) - np.int64(half))


@compiled
def add_shifted(product: npt.NDArray[np.int32] | npt.NDArray[np.float64], shift: np.uint64, out: Ring) -> None:
    """out += product times 2^shift, both [rows, outputs]."""
    for i in range(product.shape[0]):
        for j in range(product.shape[1]):
            out[i, j] += np.uint64(np.int64(product[i, j])) << shift
