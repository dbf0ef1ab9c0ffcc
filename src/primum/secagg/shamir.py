"""Shamir's t-of-n sharing over GF(2^8), byte by byte (Shamir 1979), modulus x^8 + x^4 + x^3 + x + 1 as in AES.

x = 1..255 are public; a secret byte is only ever shifted, masked and xored (kernels/galois.py), never used as an index.
x = 0 would be the secret itself and is refused, as are duplicates.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from primum.kernels import decoding, galois
from primum.rng import Stream


def share(secret: bytes, places: Sequence[int], threshold: int, stream: Stream) -> dict[int, bytes]:
    """One share of `secret` for each x in `places`; any `threshold` of them open it, fewer tell nothing."""
    _check_places(places)
    if not 1 <= threshold <= len(places):
        raise ValueError(f"{len(places)} shares cannot have threshold {threshold}")
    coefficients = np.empty((threshold, len(secret)), np.uint8)
    coefficients[0] = np.frombuffer(secret, np.uint8)
    stream.fill(coefficients[1:])
    values = galois.evaluate(coefficients, np.array(places, np.uint8))
    return {x: values[row].tobytes() for row, x in enumerate(places)}


def reconstruct(shares: Mapping[int, bytes]) -> bytes:
    """The secret that these shares (exactly threshold many, of equal length) open: Lagrange at 0."""
    places = list(shares)
    _check_places(places)
    if len({len(value) for value in shares.values()}) != 1:
        raise ValueError("shares of different lengths")
    rows = np.frombuffer(b"".join(shares.values()), np.uint8).reshape(len(places), -1)
    return galois.combine(rows, galois.lagrange_at_zero(np.array(places, np.uint8))).tobytes()


def wrong(shares: Mapping[int, bytes], threshold: int) -> frozenset[int] | None:
    """The places whose shares of equal length are not on the polynomials of the others; None where too many are wrong.

    Up to (len(shares) - threshold) / 2 are found. For shares that are being opened.
    """
    places = list(shares)
    rows = np.frombuffer(b"".join(shares.values()), np.uint8).reshape(len(places), -1)
    found = decoding.locate_errors(np.array(places, np.uint8), rows, threshold)
    return None if found is None else frozenset(places[index] for index in found)


def _check_places(places: Sequence[int]) -> None:
    if not places or len(set(places)) != len(places) or min(places) < 1 or max(places) > 255:
        raise ValueError("shares stand at different places from 1 to 255")
