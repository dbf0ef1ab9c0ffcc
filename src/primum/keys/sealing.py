"""A box that only one receiver can open: HPKE (RFC 9180) with MLKEM768-X25519, HKDF-SHA-256 and AES-256-GCM.

Used for files that travel by hand and for requests that are recorded today and attacked later. A box does not say who
made it: sign it where that matters.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.hpke import (
    AEAD,
    KDF,
    KEM,
    MLKEM768X25519PrivateKey,
    MLKEM768X25519PublicKey,
    Suite,
)

from primum.disk import write
from primum.errors import InputError, PeerError

_SUITE: Final = Suite(KEM.MLKEM768_X25519, KDF.HKDF_SHA256, AEAD.AES_256_GCM)
_X25519: Final = 32
_MLKEM_SEED: Final = 64


@dataclass(frozen=True)
class SealingKey:
    """The private key of a receiver of boxes."""

    _x25519: X25519PrivateKey = field(repr=False)
    _mlkem: MLKEM768PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> "SealingKey":
        """A fresh key."""
        return cls(X25519PrivateKey.generate(), MLKEM768PrivateKey.generate())

    @classmethod
    def load_or_make(cls, path: Path) -> "SealingKey":
        """The key in `path` (96 bytes, mode 0600), made there if the file does not exist."""
        if not path.exists():
            made = cls.generate()
            write(path, made._x25519.private_bytes_raw() + made._mlkem.private_bytes_raw(), private=True)
            return made
        data = path.read_bytes()
        if len(data) != _X25519 + _MLKEM_SEED:
            raise InputError(f"{path} is not a sealing key.", "Restore it from a copy.")
        return cls(
            X25519PrivateKey.from_private_bytes(data[:_X25519]),
            MLKEM768PrivateKey.from_seed_bytes(data[_X25519:]),
        )

    @property
    def public(self) -> bytes:
        """1,216 bytes: X25519, then ML-KEM-768."""
        return self._x25519.public_key().public_bytes_raw() + self._mlkem.public_key().public_bytes_raw()

    def open(self, box: bytes, purpose: str, peer: str) -> bytes:
        """What `seal` put into `box` for this key and purpose; PeerError that names `peer` otherwise."""
        try:
            private = MLKEM768X25519PrivateKey(self._mlkem, self._x25519)
            return bytes(_SUITE.decrypt(box, private, info=_info(purpose)))
        except (InvalidTag, ValueError):
            raise PeerError(
                f"What {peer} sealed ({purpose}) cannot be opened here.",
                "It was altered, or sealed for another key.",
            ) from None


def seal(public: bytes, data: bytes, purpose: str) -> bytes:
    """`data` in a box for the owner of `public` (1,216 bytes), bound to `purpose`."""
    try:
        x25519 = X25519PublicKey.from_public_bytes(public[:_X25519])
        mlkem = MLKEM768PublicKey.from_public_bytes(public[_X25519:])
        return bytes(_SUITE.encrypt(data, MLKEM768X25519PublicKey(mlkem, x25519), info=_info(purpose)))
    except ValueError:  # X25519 says only now that a point is of low order
        raise InputError("The receiver's sealing key is none.", "Ask for it again.") from None


def _info(purpose: str) -> bytes:
    return b"primum box 1\0" + purpose.encode()
