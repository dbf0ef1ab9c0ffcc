"""The slow twin of every kernel: plain Python after the definition, for the tests to compare with.

Nothing here is constant time, and nothing of Primum but its tests calls it.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import numpy.typing as npt

Doubles = npt.NDArray[np.float64]


def pack(values: Sequence[int], bits: int) -> bytes:
    """packing.pack: one long binary number, value i times 2^(i bits), lowest byte first."""
    number = sum((value & ((1 << bits) - 1)) << (place * bits) for place, value in enumerate(values))
    return number.to_bytes((len(values) * bits + 7) // 8, "little")


def unpack(data: bytes, count: int, bits: int) -> list[int]:
    """packing.unpack, of well-formed data."""
    number = int.from_bytes(data, "little")
    return [number >> (place * bits) & ((1 << bits) - 1) for place in range(count)]


def times(a: int, b: int) -> int:
    """a b in GF(2^8): the product of polynomials, then its remainder (FIPS 197, section 4.2)."""
    product = 0
    for bit in range(8):
        product ^= (a << bit) * (b >> bit & 1)
    for bit in range(14, 7, -1):
        product ^= (0x11B << (bit - 8)) * (product >> bit & 1)
    return product


def inverse(a: int) -> int:
    """The b with a b = 1."""
    return next(b for b in range(1, 256) if times(a, b) == 1)


def evaluate(coefficients: npt.NDArray[np.uint8], places: Sequence[int]) -> npt.NDArray[np.uint8]:
    """galois.evaluate: sum of coefficient times power, power by power."""
    out = np.zeros((len(places), coefficients.shape[1]), np.uint8)
    for row, place in enumerate(places):
        power = 1
        for coefficient in coefficients:
            out[row] ^= np.array([times(int(byte), power) for byte in coefficient], np.uint8)
            power = times(power, place)
    return out


def combine(shares: npt.NDArray[np.uint8], weights: Sequence[int]) -> npt.NDArray[np.uint8]:
    """galois.combine."""
    total = np.zeros(shares.shape[1], np.uint8)
    for share, weight in zip(shares, weights, strict=True):
        total ^= np.array([times(int(byte), weight) for byte in share], np.uint8)
    return total


def lagrange_at_zero(places: Sequence[int]) -> list[int]:
    """galois.lagrange_at_zero, factor by factor."""
    weights = []
    for place in places:
        weight = 1
        for other in places:
            if other != place:
                weight = times(weight, times(other, inverse(other ^ place)))
        weights.append(weight)
    return weights


def hadamard(values: Sequence[float]) -> list[float]:
    """hadamard.transform: each block times the matrix with entries (-1)^(ones in i and j) / sqrt(size)."""
    out: list[float] = []
    while len(out) < len(values):
        size = 1 << ((len(values) - len(out)).bit_length() - 1)
        block = values[len(out) : len(out) + size]
        rows = [
            math.fsum(-value if (i & j).bit_count() & 1 else value for j, value in enumerate(block))
            for i in range(size)
        ]
        out += [row / math.sqrt(size) for row in rows]
    return out


def alias_column(thresholds: Sequence[int], aliases: Sequence[int], index: int, coin: int) -> int:
    """The column that one index word and one coin of 128 bits draw from one table."""
    own = index % len(thresholds)
    return own if coin < thresholds[own] else aliases[own]


def round_digit(
    centre: int,
    thresholds: Sequence[Sequence[int]],
    aliases: Sequence[Sequence[int]],
    index: int,
    coin: int,
    lowest: int,
) -> int:
    """alias.round_digit, of one number and 256 tables."""
    rest, digit = divmod(centre, 256)
    return rest + lowest + alias_column(thresholds[digit], aliases[digit], index, coin)


def round_up_or_down(values: Sequence[float], scale: float, coins: Sequence[int]) -> list[int]:
    """rounding.round_into: floor(x s + u), u = coin / 2^32."""
    return [math.floor(value * scale + coin * 2.0**-32) for value, coin in zip(values, coins, strict=True)]


def row_values(row: bytes, width: int) -> list[int]:
    """accumulate.add_rows: the integers in one row."""
    if width != 3:
        return [int.from_bytes(row[at : at + width], "little") for at in range(0, len(row), width)]
    count = len(row) // 3
    low = [int.from_bytes(row[2 * i : 2 * i + 2], "little") for i in range(count)]
    return [low[i] + (row[2 * count + i] << 16) for i in range(count)]


def signed(value: int, bits: int) -> int:
    """The integer in [-2^(bits-1), 2^(bits-1)) that is `value` modulo 2^bits."""
    half = 1 << (bits - 1)
    return (value + half) % (2 * half) - half


def limbs(value: int, count: int) -> list[int]:
    """limbs: balanced digits in [-128, 127], lowest first, whose sum with weights 256^i is `value` modulo 256^count."""
    digits = []
    for _ in range(count):
        digits.append(signed(value, 8))
        value = (value - digits[-1]) >> 8
    return digits


def convolve(
    values: npt.NDArray[np.uint64],
    weight: npt.NDArray[np.uint64],
    bits: int,
    groups: int = 1,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilation: tuple[int, int] = (1, 1),
) -> list[list[list[list[int]]]]:
    """limbs.convolve, term by term: values [n, h, w, c], weight [kh, kw, c / groups, outputs]; modulo 2^bits."""
    high, wide, part, outputs = weight.shape
    top, bottom, left, right = padding
    padded = np.pad(values, ((0, 0), (top, bottom), (left, right), (0, 0))).astype(object)
    kernel = weight.astype(object)

    def term(image: int, i: int, j: int, output: int) -> int:
        first = output // (outputs // groups) * part
        return sum(
            int(padded[image, i + a * dilation[0], j + b * dilation[1], first + c] * kernel[a, b, c, output])
            for a in range(high)
            for b in range(wide)
            for c in range(part)
        ) % (1 << bits)

    rows = range(0, padded.shape[1] - dilation[0] * (high - 1), stride[0])
    columns = range(0, padded.shape[2] - dilation[1] * (wide - 1), stride[1])
    return [[[[term(n, i, j, o) for o in range(outputs)] for j in columns] for i in rows] for n in range(len(values))]


def _seen(values: Doubles, corner: tuple[int, int], size: tuple[int, int]) -> list[list[Doubles]]:
    """What each weight of a kernel of 3 x 3 sees, [n, channels, *size] by row and column."""
    images, channels, high, wide = values.shape
    padded = np.zeros((images, channels, corner[0] + high + size[0] + 2, corner[1] + wide + size[1] + 2))
    padded[:, :, corner[0] : corner[0] + high, corner[1] : corner[1] + wide] = values
    return [[padded[:, :, i : i + size[0], j : j + size[1]] for j in range(3)] for i in range(3)]


def convolve_floats(values: Doubles, corner: tuple[int, int], weight: Doubles, size: tuple[int, int]) -> Doubles:
    """winograd_float.convolve of weight [outputs, channels, 3, 3]."""
    seen = _seen(values, corner, size)
    parts = [np.einsum("nchw,kc->nkhw", seen[i][j], weight[:, :, i, j]) for i in range(3) for j in range(3)]
    total: Doubles = np.sum(parts, axis=0)
    return total


def weight_slopes(values: Doubles, corner: tuple[int, int], slopes: Doubles) -> Doubles:
    """winograd_float.each."""
    seen = _seen(values, corner, slopes.shape[2:])
    return np.stack([np.stack([np.einsum("nchw,nkhw->nck", part, slopes) for part in row], 2) for row in seen], 2)


def largest(plane: Doubles, side: int, around: int) -> tuple[Doubles, npt.NDArray[np.int64]]:
    """pooling.pool of one plane [h, w]."""
    high, wide = ((length + 2 * around - side) // 2 + 1 for length in plane.shape)
    padded = np.pad(plane, around, constant_values=-np.inf)
    out, marks = np.empty((high, wide)), np.zeros((high, wide), np.int64)
    for y in range(high):
        for x in range(wide):
            window = padded[2 * y : 2 * y + side, 2 * x : 2 * x + side].reshape(-1)
            marks[y, x] = np.argmax(window)  # a NaN, or the first of the largest
            out[y, x] = window[marks[y, x]]
    return out, marks


def digits(value: int, widths: Sequence[int]) -> list[int]:
    """comparison: the digits of `value`, lowest first."""
    found = []
    for width in widths:
        found.append(value % (1 << width))
        value >>= width
    return found


def digit_bits(a: int, b: int, widths: Sequence[int]) -> int:
    """comparison: the index without masks: [a_j < b_j] of digits 0 to 3 in bits 0 to 3, [a_j = b_j] of 1 to 3 above."""
    pairs = list(zip(digits(a, widths), digits(b, widths), strict=True))
    less = [one < two for one, two in pairs]
    equal = [one == two for one, two in pairs[1:]]
    return sum(bit << place for place, bit in enumerate(less + equal))


def borrow(index: int) -> int:
    """comparison: [a < b] from `digit_bits`: decided by the highest digit that differs."""
    less, equal = [index >> place & 1 for place in range(4)], [1, *(index >> place & 1 for place in range(4, 7))]
    return less[0] & equal[1] & equal[2] & equal[3] ^ less[1] & equal[2] & equal[3] ^ less[2] & equal[3] ^ less[3]


def is_positive(opened: int, mask: int, bits: int) -> int:
    """comparison: [T >= 0] where opened = T + mask in Z_2^bits."""
    return int(signed(opened - mask, bits) >= 0)


def cut(share: int, bits: int, shift: int, up: bool) -> int:
    """selection.cut: the quotient of share mod 2^bits and 2^shift, rounded up or down, in Z_2^(bits - shift)."""
    quotient = (share % (1 << bits)) / Fraction(1 << shift)
    return (math.ceil(quotient) if up else math.floor(quotient)) % (1 << (bits - shift))
