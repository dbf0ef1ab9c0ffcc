"""Arithmetic in GF(2^8) with AES's modulus x^8 + x^4 + x^3 + x + 1, for Shamir's sharing (FIPS 197, section 4).

Bytes that are shared are secret: eight of them at a time are shifted, masked and xored in a 64-bit word, and nothing
looks into a table with them or branches on them. Places and weights are public.
"""

from functools import cache
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.uint64]

_LOW: Final = np.uint64(0x0101010101010101)
_SEVEN: Final = np.uint64(0x7F7F7F7F7F7F7F7F)


def evaluate(coefficients: Bytes, places: Bytes) -> Bytes:
    """The polynomials with `coefficients` uint8 [t, L], constant term first, at `places` uint8 [n]: uint8 [n, L].

    L polynomials of degree below t, one a column; coefficients are secret, places public. Horner's rule, n t L / 8
    products of words: 0.3 ms for a threshold of 90, 100 places and 64 bytes.
    """
    words = _words(coefficients)
    out = np.zeros((len(places), words.shape[1]), np.uint64)
    _evaluate(words, np.ascontiguousarray(places, np.uint8), out)
    return np.ascontiguousarray(out.view(np.uint8)[:, : coefficients.shape[1]])


def combine(shares: Bytes, weights: Bytes) -> Bytes:
    """Sum over i of weights[i] shares[i]: `shares` uint8 [t, L] secret, `weights` uint8 [t] public; uint8 [L]."""
    if len(shares) != len(weights):
        raise ValueError(f"{len(shares)} shares and {len(weights)} weights")
    words = _words(shares)
    out = np.zeros(words.shape[1], np.uint64)
    _combine(words, np.ascontiguousarray(weights, np.uint8), out)
    return out.view(np.uint8)[: shares.shape[1]].copy()


def lagrange_at_zero(places: Bytes) -> Bytes:
    """The weights, uint8 [t], with which shares at `places` uint8 [t] (public) add up to the polynomial at 0.

    ValueError unless the places are different and none is 0.
    """
    points = np.asarray(places, np.uint8)
    if not points.size or not points.all() or len(np.unique(points)) != len(points):
        raise ValueError("shares stand at different places from 1 to 255")
    powers, logarithms = logarithm_tables()
    # weight i: product over j other than i of x_j / (x_j - x_i), and minus is xor
    differences = logarithms[points[:, None] ^ points[None, :]]
    np.fill_diagonal(differences, 0)
    logs = logarithms[points]
    weights: Bytes = powers[(logs.sum() - logs - differences.sum(1)) % 255]
    return weights


@cache
def logarithm_tables() -> tuple[Bytes, npt.NDArray[np.int64]]:
    """Powers of 3, uint8 [255], and their logarithms, int64 [256] (of 0: 0, never meant). For public numbers only."""
    powers, logarithms = np.empty(255, np.uint8), np.zeros(256, np.int64)
    value = 1
    for exponent in range(255):
        powers[exponent], logarithms[value] = value, exponent
        value ^= value << 1
        value ^= 0x11B if value >> 8 else 0
    return powers, logarithms


def _words(rows: Bytes) -> Words:
    """uint8 [t, L] as uint64 [t, ceil(L / 8)], filled up with zeros."""
    count, length = rows.shape
    padded = np.zeros((count, -(-length // 8) * 8), np.uint8)
    padded[:, :length] = rows
    return padded.view(np.uint64)


@compiled
def _times(word: np.uint64, factor: np.int64) -> np.uint64:
    """Each of the eight bytes of `word` times `factor` (0 to 255, public)."""
    result, high = np.uint64(0), np.uint64(0)
    for bit in range(8):
        result ^= word & np.uint64(-(factor >> bit & 1))
        high = (word >> np.uint64(7)) & _LOW
        word = (word & _SEVEN) << np.uint64(1)
        word ^= high ^ high << np.uint64(1) ^ high << np.uint64(3) ^ high << np.uint64(4)
    return result


@compiled
def _evaluate(coefficients: Words, places: Bytes, out: Words) -> None:
    for i in range(len(places)):
        factor = np.int64(places[i])
        for k in range(len(coefficients) - 1, -1, -1):
            for j in range(coefficients.shape[1]):
                out[i, j] = _times(out[i, j], factor) ^ coefficients[k, j]


@compiled
def _combine(shares: Words, weights: Bytes, out: Words) -> None:
    for i in range(len(shares)):
        for j in range(shares.shape[1]):
            out[j] ^= _times(shares[i, j], np.int64(weights[i]))
