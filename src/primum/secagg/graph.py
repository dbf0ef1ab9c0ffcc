"""Who shares masks with whom: everybody with everybody, or a random regular graph that nobody could choose.

The random graph is Bell et al.'s (CCS 2020, section 3.3): members in a random order on a circle, each the neighbour of
the degree / 2 before and after it. Every neighbourhood is then a uniform set, so that the hypergeometric bounds of
`setup.py` hold. A server that calls absent whom it likes can cut the circle into arcs; t is such that nobody at the end
of an arc can be opened.
The order comes from a seed to which every member gave a nonce, committed to before any was shown.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

from primum.rng import Stream
from primum.secagg.setup import Setup

NONCE_BYTES: Final = 32


@dataclass(frozen=True)
class Graph:
    """The neighbourhoods of members 1 to n. `circle` is empty for the complete graph."""

    n: int
    degree: int
    circle: tuple[int, ...] = field(default=(), repr=False)
    committee: frozenset[int] = field(default=frozenset(), repr=False)

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {place: position for position, place in enumerate(self.circle)}

    def neighbourhood(self, place: int) -> tuple[int, ...]:
        """`place` and its neighbours, sorted: the x of a share of `place` is its holder's position here, from 1."""
        if not self.circle:
            return tuple(range(1, self.n + 1))
        here = self._positions[place]
        offsets = range(-(self.degree // 2), self.degree // 2 + 1)
        return tuple(sorted(self.circle[(here + offset) % self.n] for offset in offsets))


def complete(setup: Setup) -> Graph:
    """Everybody is everybody's neighbour and in the committee."""
    return Graph(setup.n, setup.n - 1, (), frozenset(range(1, setup.n + 1)))


def drawn(setup: Setup, seed: bytes) -> Graph:
    """The random graph and the committee of `seed`: the same for everybody who knows it."""
    order = Stream(hashlib.sha256(b"primum circle\0" + seed).digest()).permutation(setup.n)
    chosen = Stream(hashlib.sha256(b"primum committee\0" + seed).digest()).permutation(setup.n)
    committee = frozenset(int(place) + 1 for place in chosen[: setup.committee.size])
    return Graph(setup.n, setup.degree, tuple(int(place) + 1 for place in order), committee)


def nonce_commitment(nonce: bytes) -> bytes:
    """32 bytes that fix a nonce before it is shown."""
    return hashlib.sha256(b"primum nonce\0" + nonce).digest()


def opens(nonce: bytes, commitment: bytes) -> bool:
    """Whether a nonce is one, and the one that was committed to."""
    return len(nonce) == NONCE_BYTES and nonce_commitment(nonce) == commitment


def seed_of(story: bytes, nonces: Iterable[bytes]) -> bytes:
    """32 bytes from all nonces in the members' order, bound to the key offers that committed to them."""
    return hashlib.sha256(b"primum graph\0" + story + b"".join(nonces)).digest()


def story_of(story: bytes, seed: bytes) -> bytes:
    """32 bytes that name all that was shown before the ciphertexts: the offers' digest, and the graph."""
    return hashlib.sha256(story + seed).digest()
