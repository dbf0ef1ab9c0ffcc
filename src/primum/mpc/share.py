"""Sharings [x] = x_A + x_B in Z_2^l, the ratcheted keys behind them, and how ring elements become bytes."""

from typing import Final, Literal

import numpy as np

from primum.errors import PeerError, Refused
from primum.keys.agreement import hkdf
from primum.ring import Ring, mask, pack, packed_size, unpack
from primum.rng import Stream

Role = Literal["A", "B"]
ROLES: Final[tuple[Role, Role]] = ("A", "B")
FARTHEST_SKIP: Final = 1 << 20


def other(role: Role) -> Role:
    """The other server."""
    return "B" if role == "A" else "A"


class Ratchet:
    """A key that moves on with the request number: who steals it learns nothing about numbers already taken.

    k_(n+1) = HKDF(k_n, "next"); what number n uses is HKDF(k_n, "number"). The old key is dropped at once; it lives in
    memory only (Python cannot promise that the bytes are overwritten). Numbers only go up; a number may be left out.
    """

    __slots__ = ("_key", "_next")

    def __init__(self, key: bytes, first: int) -> None:
        self._key = key
        self._next = first

    def __repr__(self) -> str:
        return f"Ratchet(next={self._next})"

    def __reduce__(self) -> str:
        raise TypeError("a ratchet is never copied: its numbers would be used twice")

    @property
    def next(self) -> int:
        """The lowest number that can still be taken."""
        return self._next

    def take(self, number: int) -> bytes:
        """The 32-byte key of `number`, once; Refused if that number or a higher one was taken before."""
        if number < self._next:
            raise Refused(f"Request number {number} was used before.", "Ask again: a new request gets a new number.")
        if number - self._next > FARTHEST_SKIP:
            raise PeerError(f"Request number {number} is far ahead of {self._next}.", "Restart this process.")
        while self._next < number:
            self._step()
        key = hkdf(self._key, "number")
        self._step()
        return key

    def _step(self) -> None:
        self._key = hkdf(self._key, "next")
        self._next += 1


def take(ratchet: Ratchet, first: int, count: int) -> tuple[bytes, ...]:
    """The keys of `count` consecutive numbers."""
    return tuple(ratchet.take(number) for number in range(first, first + count))


def draw(key: bytes, labels: tuple[bytes | str, ...], shape: int | tuple[int, ...], bits: int) -> Ring:
    """Uniform ring elements of `shape` from the stream that `key` and `labels` name."""
    return Stream(hkdf(key, *labels)).uint64(shape) & mask(bits)


def draw_rows(keys: tuple[bytes, ...], labels: tuple[bytes | str, ...], width: int, bits: int) -> Ring:
    """Uniform ring elements [len(keys), width]: one row and one stream per key."""
    rows = np.empty((len(keys), width), np.uint64)
    for row, key in zip(rows, keys, strict=True):
        Stream(hkdf(key, *labels)).fill(row)
    rows &= mask(bits)
    return rows


def expand_input(seed: bytes, shape: tuple[int, ...], bits: int) -> Ring:
    """x_A from the 32-byte seed that the data owner sends A instead of a share."""
    return draw(seed, ("input share",), shape, bits)


def split_input(values: Ring, seed: bytes, bits: int) -> Ring:
    """x_B = x - x_A, where x_A is what `expand_input` makes from `seed`. A fresh seed for every call."""
    return (values - expand_input(seed, values.shape, bits)) & mask(bits)


def to_bytes(elements: Ring, bits: int) -> bytes:
    """Ring elements in order, `bits` bits each, highest bit first; the same bytes as `ring.pack`."""
    if bits % 8:
        return pack(elements, bits)
    big = np.ascontiguousarray(elements.reshape(-1), ">u8").view(np.uint8).reshape(-1, 8)
    return big[:, 8 - bits // 8 :].tobytes()


def from_bytes(data: bytes, shape: tuple[int, ...], bits: int, peer: str) -> Ring:
    """The ring elements of `shape` in `data`; PeerError that names `peer` unless the length is exactly right."""
    count = int(np.prod(shape, dtype=np.int64))
    if bits % 8 or len(data) != packed_size(count, bits):
        return unpack(data, count, bits, peer).reshape(shape)
    wide = np.zeros((count, 8), np.uint8)
    wide[:, 8 - bits // 8 :] = np.frombuffer(data, np.uint8).reshape(count, bits // 8)
    return wide.view(">u8").astype(np.uint64).reshape(shape)
