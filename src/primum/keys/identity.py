"""Long-lived Ed25519 identities (RFC 8032), their fingerprints and files."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from primum.disk import write
from primum.errors import InputError, PeerError

PUBLIC_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64
_LONG: Final = 1 << 16  # bytes; of what is longer the BLAKE3 digest is signed


@dataclass(frozen=True)
class Identity:
    """A private Ed25519 key; prints its fingerprint only."""

    _private: Ed25519PrivateKey = field(repr=False)

    @classmethod
    def generate(cls) -> "Identity":
        """A fresh identity."""
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def load_or_make(cls, path: Path) -> "Identity":
        """The identity in the PEM file `path` (mode 0600); made and written there if the file does not exist."""
        if not path.exists():
            made = cls.generate()
            write(path, made.pem(), private=True)
            return made
        return cls.from_pem(path.read_bytes(), str(path))

    @classmethod
    def from_pem(cls, data: bytes, where: str) -> "Identity":
        """The identity in PEM; InputError that names `where` it was found."""
        try:
            key = serialization.load_pem_private_key(data, password=None)
        except (ValueError, TypeError) as error:
            raise InputError(f"{where} is not a private key in PEM form.", "Restore it from a copy.") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InputError(f"{where} is not an Ed25519 key.", "Restore it from a copy.")
        return cls(key)

    def pem(self) -> bytes:
        """The private key in PEM: a secret."""
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def public(self) -> bytes:
        """The 32 bytes of the public key: the name of this identity in every protocol."""
        return self._private.public_key().public_bytes_raw()

    def sign(self, purpose: str, data: bytes) -> bytes:
        """64 bytes: Ed25519 over purpose and data; a signature for one purpose is invalid for every other."""
        return self._private.sign(_framed(purpose, data))

    def __repr__(self) -> str:
        return f"Identity({fingerprint(self.public)})"


def verify(public: bytes, purpose: str, data: bytes, signature: bytes, peer: str) -> None:
    """Return if `signature` is `public`'s over purpose and data; else PeerError that names `peer`."""
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, _framed(purpose, data))
    except (InvalidSignature, ValueError):
        raise PeerError(
            f"The signature of {peer} ({purpose}) is wrong.",
            "It was altered, or signed by another key: not used.",
        ) from None


def fingerprint(public: bytes) -> str:
    """Sixteen groups of four hex digits that people can compare over the telephone."""
    digest = hashlib.sha256(b"primum identity\0" + public).hexdigest()
    return "-".join(digest[i : i + 4] for i in range(0, 64, 4))


def list_fingerprint(publics: Iterable[bytes]) -> str:
    """The fingerprint of a list of identities, whatever its order."""
    ordered = sorted(publics)
    return fingerprint(b"list" + len(ordered).to_bytes(4, "big") + b"".join(ordered))


def _framed(purpose: str, data: bytes) -> bytes:
    # Ed25519 reads what it signs twice, through SHA-512: of a long message the digest is signed instead
    name = purpose.encode()
    head, signed = (b"primum signature 1\0", data)
    if len(data) > _LONG:
        head, signed = b"primum signature 1 of a digest\0", blake3(data).digest()
    return head + len(name).to_bytes(2, "big") + name + signed
