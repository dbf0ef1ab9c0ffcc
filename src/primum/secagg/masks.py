"""From keys to masks, and the digests that bind a mask to its participants and its model."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from primum import wire
from primum.kernels import accumulate, packing
from primum.keys.agreement import hkdf
from primum.rng import Stream
from primum.secagg.messages import Signed

KEY_BYTES: Final = 32
COMMITMENT_BYTES: Final = 16
CHUNK: Final = 1 << 18  # coordinates; part of the protocol, since the bytes of a mask are read chunk by chunk

Vector = npt.NDArray[np.uint32]


def vector_digest(packed: memoryview) -> bytes:
    """32 bytes of BLAKE3 that name a packed vector: three times as fast as SHA-256 (docs/decisions/0007)."""
    return blake3(packed).digest()


def set_digest(places: Iterable[int]) -> bytes:
    """32 bytes that name a set of members."""
    ordered = sorted(places)
    return hashlib.sha256(b"primum set\0" + b"".join(place.to_bytes(4, "big") for place in ordered)).digest()


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


def self_mask_key(key: bytes) -> bytes:
    """The key of the stream of a self mask, from b_i."""
    return hkdf(key, "self mask")


def pair_mask_key(key: bytes, participants: bytes, model: bytes) -> bytes:
    """The key of the stream of a pair's mask, from k_ij, bound to whom and what both were told.

    Masks of nodes that were told different participants or models do not cancel.
    """
    return hkdf(key, "pair mask", participants, model)


def mask_bytes(bits: int) -> int:
    """Bytes of a stream that one coordinate of a mask takes: as few whole ones as hold `bits` bits."""
    return (bits + 7) // 8


def apply(vector: npt.NDArray[np.int32], bits: int, added: Sequence[bytes], subtracted: Sequence[bytes]) -> memoryview:
    """`vector` [length] plus and minus the masks of these stream keys, modulo 2^bits, packed to `bits` bits each.

    Chunk by chunk: memory beyond the vector is the packed result and three small buffers.
    """
    length = len(vector)
    packed = np.empty(packing.packed_size(length, bits), np.uint8)
    masks = _Masks(bits, added, subtracted, length)
    total = np.empty(min(CHUNK, length), np.uint32)
    for start in range(0, length, CHUNK):
        part = total[: min(CHUNK, length - start)]
        part[:] = vector[start : start + len(part)].view(np.uint32)
        masks.add_to(part)
        packing.pack_into(part, bits, packed[start * bits // 8 :][: packing.packed_size(len(part), bits)])
    return packed.data


class MaskedSum:
    """The sum of packed vectors, as they come: none of them is kept, so n of them take no more memory than one."""

    def __init__(self, length: int, bits: int) -> None:
        self._bits = bits
        self._total = np.zeros(length, np.uint32)

    def __repr__(self) -> str:
        return f"MaskedSum({len(self._total)} coordinates)"

    def add(self, packed: memoryview) -> bytes:
        """Add a vector that is `packing.well_packed`; returns its digest, of the same reading."""
        digest = blake3()
        for part, piece in self._pieces(packed):
            digest.update(piece)
            packing.add_packed(part, piece, self._bits)
        return digest.digest()

    def take_back(self, packed: memoryview) -> None:
        """Undo `add`."""
        for part, piece in self._pieces(packed):
            part -= packing.unpack(piece, len(part), self._bits)

    def unmask(self, added: Sequence[bytes], subtracted: Sequence[bytes]) -> npt.NDArray[np.int32]:
        """The sum plus and minus the masks of these stream keys, as signed integers; this object is used up."""
        masks, shift = _Masks(self._bits, added, subtracted, len(self._total)), 32 - self._bits
        for start in range(0, len(self._total), CHUNK):
            part = self._total[start : start + CHUNK]
            masks.add_to(part)
            part <<= np.uint32(shift)
            part.view(np.int32)[:] >>= np.int32(shift)
        return self._total.view(np.int32)

    def _pieces(self, packed: memoryview) -> Iterator[tuple[Vector, memoryview]]:
        for start in range(0, len(self._total), CHUNK):
            part = self._total[start : start + CHUNK]
            first = start * self._bits // 8
            yield part, packed[first : first + packing.packed_size(len(part), self._bits)]


class _Masks:
    """The streams of a set of masks, side by side, added up chunk by chunk.

    A mask of a ring of b bits is drawn in as few whole bytes a coordinate as hold b bits: what is uniform modulo 2^24 is
    uniform modulo 2^23.
    """

    def __init__(self, bits: int, added: Sequence[bytes], subtracted: Sequence[bytes], length: int) -> None:
        self._width = mask_bytes(bits)
        self._groups = [
            ([Stream(key) for key in keys[first : first + accumulate.ROWS]], subtract)
            for keys, subtract in ((added, False), (subtracted, True))
            for first in range(0, len(keys), accumulate.ROWS)
        ]
        size = self._width * min(CHUNK, length)
        self._rows, self._nothing = np.empty((accumulate.ROWS, size), np.uint8), np.zeros(size, np.uint8)

    def add_to(self, total: Vector) -> None:
        size = self._width * len(total)
        for streams, subtract in self._groups:
            rows = [row[:size] for row in self._rows[: len(streams)]]
            for row, stream in zip(rows, streams, strict=True):
                stream.fill(row)
            rows += [self._nothing[:size]] * (accumulate.ROWS - len(rows))
            accumulate.add_rows(total, rows, self._width, subtract)
