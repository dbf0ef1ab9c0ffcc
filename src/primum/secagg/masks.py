"""From keys to masks, and the digests that bind a mask to its participants and its model."""

import hashlib
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt

from primum import wire
from primum.keys.agreement import hkdf
from primum.rng import Stream
from primum.secagg.messages import Signed

KEY_BYTES: Final = 32
COMMITMENT_BYTES: Final = 16

Vector = npt.NDArray[np.uint32]


def set_digest(places: Iterable[int]) -> bytes:
    """32 bytes that name a set of members."""
    return hashlib.sha256(b"primum set\0" + bytes(sorted(places))).digest()


def offers_digest(offers: Iterable[Signed]) -> bytes:
    """32 bytes that name all signed key offers of a session, whatever their order."""
    return hashlib.sha256(b"".join(sorted(hashlib.sha256(wire.encode(offer)).digest() for offer in offers))).digest()


def ratchet(secret: bytes) -> bytes:
    """S_ij of the next round; the old one is then erased, so that nothing earlier can be opened."""
    return hkdf(secret, "ratchet")


def round_key(secret: bytes, round_number: int) -> bytes:
    """k_ij: the key of a pair's mask in one round."""
    return hkdf(secret, "mask", round_number)


def share_key(secret: bytes, round_number: int, dealer: int, receiver: int) -> bytes:
    """The key under which `dealer` seals its share for `receiver`."""
    return hkdf(secret, "share", round_number, dealer, receiver)


def commitment(key: bytes) -> bytes:
    """16 bytes by which the server sees that both ends of a pair hold the same round key."""
    return hkdf(key, "commit", length=COMMITMENT_BYTES)


def key_hash(key: bytes, purpose: str) -> bytes:
    """32 bytes by which the server recognises the right key when it is opened."""
    return hkdf(key, "hash", purpose)


def self_mask(key: bytes, length: int) -> Vector:
    """PRG(b_i): `length` uniform uint32."""
    return Stream(hkdf(key, "self mask")).uint32(length)


def pair_mask(key: bytes, participants: bytes, model: bytes, length: int) -> Vector:
    """A pair's mask: `length` uniform uint32, bound to whom and what both were told.

    Masks of nodes that were told different participants or models do not cancel.
    """
    return Stream(hkdf(key, "pair mask", participants, model)).uint32(length)
