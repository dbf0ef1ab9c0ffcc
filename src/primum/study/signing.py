"""A study's text, signed by who asks."""

from typing import Protocol

from primum import wire
from primum.study.whole import Study


class Signer(Protocol):
    """Whoever can sign: an `Identity`."""

    @property
    def public(self) -> bytes:
        """32 bytes."""

    def sign(self, purpose: str, data: bytes) -> bytes:
        """64 bytes."""


class SignedStudy(wire.Message, frozen=True):
    """A study's canonical text with the signature of who asks."""

    text: str
    asker: bytes
    signature: bytes


PURPOSE = "Study"


def sign_study(study: Study, signer: Signer) -> SignedStudy:
    """`study` signed by `signer`."""
    text = study.text()
    return SignedStudy(text, signer.public, signer.sign(PURPOSE, text.encode()))
