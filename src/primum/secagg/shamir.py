"""Shamir's t-of-n sharing over GF(2^8), byte by byte (Shamir 1979), modulus x^8 + x^4 + x^3 + x + 1 as in AES.

x = 1..255 are public; a secret byte is only ever shifted, masked and xored, never used as an index, so no cache line
depends on it. x = 0 would be the secret itself and is refused, as are duplicates.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from primum.rng import Stream

Bytes = npt.NDArray[np.uint8]


def times(values: Bytes, factor: int) -> Bytes:
    """Each of `values` (secret) times `factor` (public) in GF(2^8)."""
    result = np.zeros_like(values)
    shifted = values.copy()
    while factor:
        if factor & 1:
            result ^= shifted
        carry = (shifted >> np.uint8(7)) * np.uint8(0x1B)
        shifted = (shifted << np.uint8(1)) ^ carry
        factor >>= 1
    return result


def _times_public(a: int, b: int) -> int:
    return int(times(np.array([a], np.uint8), b)[0])


def _inverse_public(a: int) -> int:
    power, result = a, 1
    for _ in range(7):  # a^254 = a^(2 + 4 + ... + 128)
        power = _times_public(power, power)
        result = _times_public(result, power)
    return result


def share(secret: bytes, places: Sequence[int], threshold: int, stream: Stream) -> dict[int, bytes]:
    """One share of `secret` for each x in `places`; any `threshold` of them open it, fewer tell nothing."""
    _check_places(places)
    if not 1 <= threshold <= len(places):
        raise ValueError(f"{len(places)} shares cannot have threshold {threshold}")
    constant = np.frombuffer(secret, np.uint8)
    higher = [np.frombuffer(stream.bytes(len(secret)), np.uint8) for _ in range(threshold - 1)]
    return {x: _evaluate([constant, *higher], x).tobytes() for x in places}


def _evaluate(coefficients: Sequence[Bytes], x: int) -> Bytes:
    value = np.zeros_like(coefficients[0])
    for coefficient in reversed(coefficients):
        value = times(value, x) ^ coefficient
    return value


def reconstruct(shares: Mapping[int, bytes]) -> bytes:
    """The secret that these shares (exactly threshold many, of equal length) open: Lagrange at 0."""
    places = list(shares)
    _check_places(places)
    lengths = {len(value) for value in shares.values()}
    if len(lengths) != 1:
        raise ValueError("shares of different lengths")
    secret = np.zeros(lengths.pop(), np.uint8)
    for x in places:
        secret ^= times(np.frombuffer(shares[x], np.uint8), _lagrange_at_zero(x, places))
    return secret.tobytes()


def _lagrange_at_zero(x: int, places: Sequence[int]) -> int:
    weight = 1
    for other in places:
        if other != x:
            weight = _times_public(weight, _times_public(other, _inverse_public(other ^ x)))
    return weight


def _check_places(places: Sequence[int]) -> None:
    if not places or len(set(places)) != len(places) or min(places) < 1 or max(places) > 255:
        raise ValueError("shares stand at different places from 1 to 255")
