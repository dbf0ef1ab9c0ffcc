"""Pair secrets: X25519 (RFC 7748) and ML-KEM-768 (FIPS 203) together, through HKDF-SHA-256 (RFC 5869).

Whoever wants the secret must break both. ML-KEM is no key exchange: one side, the initiator, encapsulates to the
other's public key and has a ciphertext to carry.

| symbol | what |
|---|---|
| ss_pq, ss_ec | shared secrets of ML-KEM-768 and X25519 |
| ct | ML-KEM ciphertext, 1,088 bytes |
"""

import hashlib
from dataclasses import dataclass, field
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from primum.errors import MachineError, PeerError

SECRET_BYTES: Final = 32
CIPHERTEXT_BYTES: Final = 1088
X25519_BYTES: Final = 32
MLKEM_BYTES: Final = 1184


def hkdf(secret: bytes, *labels: bytes | str | int, length: int = SECRET_BYTES) -> bytes:
    """HKDF-SHA-256 with every label framed by its length, so that no two lists of labels collide."""
    info = b"primum 1"
    for label in labels:
        part = label if isinstance(label, bytes) else str(label).encode()
        info += len(part).to_bytes(4, "big") + part
    return HKDF(hashes.SHA256(), length, salt=None, info=info).derive(secret)


@dataclass(frozen=True)
class PublicKeys:
    """The public half of a `KeyPair`: 32 bytes X25519, 1,184 bytes ML-KEM-768."""

    x25519: bytes
    mlkem: bytes

    def digest(self) -> bytes:
        """32 bytes that name both keys."""
        return hashlib.sha256(self.x25519 + self.mlkem).digest()


@dataclass(frozen=True)
class KeyPair:
    """One run's key-agreement keys; never written to disk."""

    _x25519: X25519PrivateKey = field(repr=False)
    _mlkem: MLKEM768PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> "KeyPair":
        """Fresh keys; MachineError where the installed cryptography library has no ML-KEM."""
        try:
            return cls(X25519PrivateKey.generate(), MLKEM768PrivateKey.generate())
        except UnsupportedAlgorithm as error:
            raise MachineError(
                "The installed cryptography library has no ML-KEM-768.",
                "Install its wheel from PyPI, 48 or newer.",
            ) from error

    @property
    def public(self) -> PublicKeys:
        """What the other side needs."""
        return PublicKeys(self._x25519.public_key().public_bytes_raw(), self._mlkem.public_key().public_bytes_raw())

    def initiate(self, other: PublicKeys, peer: str) -> tuple[bytes, bytes]:
        """(pair secret, ciphertext to send): the initiator's side."""
        try:
            ss_pq, ciphertext = MLKEM768PublicKey.from_public_bytes(other.mlkem).encapsulate()
        except ValueError:
            raise PeerError(f"{peer} sent an ML-KEM-768 key that is none.", "Nothing was agreed.") from None
        ss_ec = self._exchange(other, peer)
        return _combine(ss_pq, ss_ec, ciphertext, self.public, other), ciphertext

    def respond(self, other: PublicKeys, ciphertext: bytes, peer: str) -> bytes:
        """The pair secret on the responder's side; a wrong ciphertext gives another secret, not an error (FIPS 203)."""
        try:
            ss_pq = self._mlkem.decapsulate(ciphertext)
        except ValueError:
            raise PeerError(f"{peer} sent an ML-KEM-768 ciphertext of a wrong length.", "Nothing was agreed.") from None
        ss_ec = self._exchange(other, peer)
        return _combine(ss_pq, ss_ec, ciphertext, other, self.public)

    def _exchange(self, other: PublicKeys, peer: str) -> bytes:
        try:  # refuses the points of small order (RFC 7748, section 6.1)
            return self._x25519.exchange(X25519PublicKey.from_public_bytes(other.x25519))
        except ValueError:
            raise PeerError(f"{peer} sent an X25519 key that is none.", "Nothing was agreed.") from None


def _combine(ss_pq: bytes, ss_ec: bytes, ciphertext: bytes, initiator: PublicKeys, responder: PublicKeys) -> bytes:
    context = hashlib.sha256(ciphertext + initiator.digest() + responder.digest()).digest()
    return hkdf(ss_pq + ss_ec, "pair", context)
