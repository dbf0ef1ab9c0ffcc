"""Who may ask, and how often: tokens that the model owner signs and both servers count, each for itself, on disk.

Answers tell about the model: enough of them and it can be copied (docs/threat-model.md). A deployment that was made
with tokens answers nobody without one. A token is for one deployment and one key: each half of a request is signed with
that key, so a server that has seen a token cannot ask in its holder's name. It names its holder to the servers, who
learn by it which requests come from one holder, and nothing about an image.
"""

import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from primum.diagnosis.deployment import Deployment
from primum.diagnosis.files import read_message, write_message
from primum.diagnosis.records import Records
from primum.errors import InputError, PeerError, Refused
from primum.keys.identity import Identity, verify
from primum.mpc.share import Role
from primum.wire import Message, decode, encode

_PURPOSE: Final = "token"
_ASKING: Final = "request with a token"
_LIMIT: Final = 4096
_LONGEST_NAME: Final = 100
MOST_IMAGES: Final = 1 << 32
_DAY: Final = 86_400
_ASK: Final = "Ask the model owner for a token."


class Token(Message, frozen=True):
    """What the holder of `key` may ask: `images` in all, until `expires` (seconds since 1970)."""

    id: bytes
    deployment: bytes
    holder: str
    key: bytes
    images: int
    expires: int


class SignedToken(Message, frozen=True):
    """A Token's bytes and the model owner's signature."""

    content: bytes
    signature: bytes


class TokenFile(Message, frozen=True):
    """What the holder gets: the token and the private key to it, PEM."""

    token: SignedToken
    secret: bytes


class Asked(Message, frozen=True):
    """What the holder signs of one half of a request; `share`: SHA-256 of what the box holds for that server."""

    server: Role
    deployment: bytes
    request: bytes
    images: int
    reply: bytes
    share: bytes


@dataclass(frozen=True)
class Permit:
    """A token in its holder's hands."""

    token: bytes = field(repr=False)
    _key: Identity = field(repr=False)

    def sign(self, asked: Asked) -> bytes:
        """The proof that goes with one half of a request."""
        return self._key.sign(_ASKING, encode(asked))


def make_token(owner: Identity, deployment: Deployment, holder: str, images: int, days: int) -> TokenFile:
    """A token for `holder`; InputError where the key is not the model owner's or a number makes no sense."""
    if owner.public != deployment.model_owner:
        raise InputError("This key did not sign the deployment.", "Use the --identity that `primum deploy` had.")
    if not 1 <= images <= MOST_IMAGES or not 1 <= days <= 3650 or not 1 <= len(holder) <= _LONGEST_NAME:
        raise InputError("A token is for 1 or more images, 1 to 3650 days, and a short name.", "Change the numbers.")
    key, expires = Identity.generate(), int(time.time()) + days * _DAY
    content = encode(Token(os.urandom(16), deployment.digest(), holder, key.public, images, expires))
    return TokenFile(SignedToken(content, owner.sign(_PURPOSE, content)), key.pem())


def save_token(token: TokenFile, path: Path) -> None:
    """Write a token, readable by its owner only."""
    write_message(path, token, private=True)


def load_token(path: Path, deployment: Deployment) -> Permit:
    """The token in `path`, to ask with; InputError where it is not for this deployment."""
    file = read_message(path, TokenFile, _LIMIT)
    try:
        token = _checked(file.token, deployment)
    except (PeerError, Refused) as error:
        raise InputError(f"{path}: {error.message}", _ASK) from None
    key = Identity.from_pem(file.secret, str(path))
    if key.public != token.key:
        raise InputError(f"{path}: token and key do not belong together.", _ASK)
    return Permit(encode(file.token), key)


def check_token(data: bytes, proof: bytes, asked: Asked, deployment: Deployment) -> Token | None:
    """The token that came with half a request, or None where the deployment asks for none.

    Refused if the token is not good, PeerError if the request is not its holder's.
    """
    if not deployment.tokens:
        return None
    if not data:
        raise Refused("This deployment answers only requests with a token.", _ASK)
    token = _checked(decode(data, SignedToken, "the data owner", _LIMIT), deployment)
    verify(token.key, _ASKING, encode(asked), proof, "the data owner")
    return token


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
        damaged = "An older copy would give tokens back what they used: make a new deployment, with new tokens."
        self._records = Records(folder / "tokens.bin", ">16sQ", damaged)
        self._used: dict[bytes, int] = {}
        for name, images in self._records.read():
            self._used[name] = self._used.get(name, 0) + images

    def used(self, token: Token) -> int:
        """Images that the token has had, those of failed requests included."""
        return self._used.get(token.id, 0)

    def check(self, token: Token, images: int) -> None:
        """Refused if the token has fewer than `images` left."""
        left = token.images - self.used(token)
        if images > left:
            raise Refused(f"The token has {left} of {token.images} images left; this request has {images}.", _ASK)

    def spend(self, token: Token, images: int) -> None:
        """Count `images`; Refused if that is more than the token is for. On disk when this returns."""
        self.check(token, images)
        self._records.append(token.id, images)
        self._used[token.id] = self.used(token) + images
