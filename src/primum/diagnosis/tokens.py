"""Who may ask, and how often: tokens that the model owner signs and both servers count, each for itself, on disk.

Answers tell about the model: enough of them and it can be copied (docs/threat-model.md). A deployment that was made
with tokens answers nobody without one. A token is for one deployment; it names its holder to the servers, who learn by
it which requests come from one holder, and nothing about an image.
"""

import hashlib
import os
import struct
import time
from pathlib import Path
from typing import Final

from primum.diagnosis.deployment import Deployment
from primum.diagnosis.files import read_message, write_message
from primum.errors import InputError, MachineError, PeerError, Refused
from primum.keys.identity import Identity, verify
from primum.wire import Message, decode, encode

_PURPOSE: Final = "token"
_LIMIT: Final = 4096
_LONGEST_NAME: Final = 100
MOST_IMAGES: Final = 1 << 32
_RECORD: Final = struct.Struct(">16sQ8s")
_DAY: Final = 86_400
_ASK: Final = "Ask the model owner for a token."


class Token(Message, frozen=True):
    """What a holder may ask: `images` in all, until `expires` (seconds since 1970)."""

    id: bytes
    deployment: bytes
    holder: str
    images: int
    expires: int


class SignedToken(Message, frozen=True):
    """A Token's bytes and the model owner's signature."""

    content: bytes
    signature: bytes


def make_token(owner: Identity, deployment: Deployment, holder: str, images: int, days: int) -> SignedToken:
    """A token for `holder`; InputError where the key is not the model owner's or a number makes no sense."""
    if owner.public != deployment.model_owner:
        raise InputError("This key did not sign the deployment.", "Use the --identity that `primum deploy` had.")
    if not 1 <= images <= MOST_IMAGES or not 1 <= days <= 3650 or not 1 <= len(holder) <= _LONGEST_NAME:
        raise InputError("A token is for 1 or more images, 1 to 3650 days, and a short name.", "Change the numbers.")
    content = encode(Token(os.urandom(16), deployment.digest(), holder, images, int(time.time()) + days * _DAY))
    return SignedToken(content, owner.sign(_PURPOSE, content))


def save_token(token: SignedToken, path: Path) -> None:
    """Write a token, readable by its owner only."""
    write_message(path, token, private=True)


def load_token(path: Path, deployment: Deployment) -> bytes:
    """The bytes of the token in `path`, to be sent with requests; InputError where it is not for this deployment."""
    signed = read_message(path, SignedToken, _LIMIT)
    try:
        _checked(signed, deployment)
    except (PeerError, Refused) as error:
        raise InputError(f"{path}: {error.message}", _ASK) from None
    return encode(signed)


def check_token(data: bytes, deployment: Deployment) -> Token | None:
    """The token that came with a request, or None where the deployment asks for none; Refused if it is not good."""
    if not deployment.tokens:
        return None
    if not data:
        raise Refused("This deployment answers only requests with a token.", _ASK)
    return _checked(decode(data, SignedToken, "the data owner", _LIMIT), deployment)


def _checked(signed: SignedToken, deployment: Deployment) -> Token:
    verify(deployment.model_owner, _PURPOSE, signed.content, signed.signature, "the model owner")
    token = decode(signed.content, Token, "the model owner", _LIMIT)
    if token.deployment != deployment.digest():
        raise Refused("The token is for another deployment.", _ASK)
    if token.expires < time.time():
        raise Refused("The token has expired.", _ASK)
    return token


class TokenBook:
    """How many images each token has had at this server: an append-only file, synced before an image is computed."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "tokens.bin"
        self._used: dict[bytes, int] = {}
        self._read()

    def used(self, token: Token) -> int:
        """Images that the token has had, those of failed requests included."""
        return self._used.get(token.id, 0)

    def spend(self, token: Token, images: int) -> None:
        """Count `images`; Refused if that is more than the token is for. On disk when this returns."""
        left = token.images - self.used(token)
        if images > left:
            raise Refused(f"The token has {left} of {token.images} images left; this request has {images}.", _ASK)
        try:
            handle = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                record = _RECORD.pack(token.id, images, _check(token.id, images))
                if os.write(handle, record) != len(record):
                    raise OSError(28, "the disk is full")
                os.fsync(handle)
            finally:
                os.close(handle)
        except OSError as error:
            raise MachineError(f"{self._path} cannot be written: {error.strerror}.", "Free some space.") from None
        self._used[token.id] = self.used(token) + images

    def _read(self) -> None:
        data = self._path.read_bytes() if self._path.exists() else b""
        whole = len(data) - len(data) % _RECORD.size
        for start in range(0, whole, _RECORD.size):
            name, images, check = _RECORD.unpack_from(data, start)
            if check != _check(name, images):
                if start + _RECORD.size == len(data):
                    whole = start  # the last record, torn by a crash: nothing was computed for it
                    break
                raise MachineError(f"{self._path} is damaged at byte {start}.", "Restore it, or make a new deployment.")
            self._used[name] = self._used.get(name, 0) + images
        if whole < len(data):
            os.truncate(self._path, whole)


def _check(name: bytes, images: int) -> bytes:
    return hashlib.sha256(struct.pack(">16sQ", name, images)).digest()[:8]
