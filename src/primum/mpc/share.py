"""Sharings [x] = x_A + x_B in Z_2^l, the ratcheted keys behind them, and how ring elements become bytes."""

import math
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from primum.errors import PeerError, Refused
from primum.kernels.words import Buffer, Bytes, pack, type_for, unpack
from primum.keys.agreement import hkdf
from primum.ring import Ring, mask
from primum.rng import Stream

Elements = npt.NDArray[np.unsignedinteger[Any]]
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


class Streams:
    """One stream an image, for one operation: what is drawn depends on the order of drawing. Prints nothing."""

    __slots__ = ("_streams",)

    def __init__(self, keys: tuple[bytes, ...], labels: tuple[bytes | str, ...]) -> None:
        self._streams = [Stream(hkdf(key, *labels)) for key in keys]

    def draw(self, size: int, bits: int) -> Elements:
        """Uniform elements [images, size] of the smallest unsigned type with `bits` bits; those are the ones that count."""
        rows: Elements = np.empty((len(self._streams), size), type_for(bits))
        for row, stream in zip(rows, self._streams, strict=True):
            stream.fill(row)
        return rows


def expand_input(seed: bytes, shape: tuple[int, ...]) -> Ring:
    """x_A from the 32-byte seed that the data owner sends A instead of a share; the lowest bits count."""
    return Stream(hkdf(seed, "input share")).uint64(shape)


def split_input(values: Ring, seed: bytes, bits: int) -> Ring:
    """x_B = x - x_A, where x_A is what `expand_input` makes from `seed`. A fresh seed for every call."""
    return (values - expand_input(seed, values.shape)) & mask(bits)


def to_bytes(elements: Elements, bits: int) -> Bytes:
    """The lowest `bits` bits of each element, in order."""
    return pack(elements, bits)


def from_bytes(data: Buffer, shape: tuple[int, ...], bits: int, peer: str) -> Elements:
    """The elements of `shape` in `data`; PeerError that names `peer` unless length and padding are exactly right."""
    count = math.prod(shape)
    try:
        return unpack(data, count, bits).reshape(shape)
    except ValueError as error:
        raise PeerError(f"{peer} sent something else than was due: {error}.", "It was not used.") from None
