"""The slow twin of every kernel: plain Python after the definition, for the tests to compare with.

Nothing here is constant time, and nothing of Primum but its tests calls it.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


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
    """The column that one index word and one coin of 64 bits draw from one table."""
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
