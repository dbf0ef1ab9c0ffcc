"""The four files of a deployment: one sealed to the dealer, to server A and to server B; one public for data owners.

| file | for | holds |
|---|---|---|
| dealer.json | dealer | program, model digest, roles, both weight-mask seeds; not W^, which with the seeds would be W |
| server-a.json, server-b.json | that server | program, model digest, roles, W^, its own weight-mask seed |
| public.json | data owners | program, model digest, roles, card (front end, classes, preparation) |

The model owner signs all four with one key; it is made for the deployment unless a lasting one is given.
"""

import hashlib
from pathlib import Path
from typing import Any, Final, Literal

import msgspec

from primum.diagnosis.files import read_message
from primum.diagnosis.roles import RoleCard, RoleKeys, check_card
from primum.errors import InputError, ModelError, PeerError
from primum.kernels.words import packed_size
from primum.keys.identity import fingerprint, verify
from primum.keys.sealing import seal
from primum.mpc.check import check
from primum.mpc.program import Program, weight_size
from primum.mpc.share import Role
from primum.wire import Message, decode, encode

RoleName = Literal["dealer", "A", "B"]
FILE_LIMIT: Final = 2 * 1024 * 1024 * 1024
_SIGNED: Final = "deployment"


class Deployment(Message, frozen=True):
    """What all roles know: who they are, what they compute, for which model. `nonce` makes each deployment another.

    `tokens`: only requests with a token of the model owner are answered (`tokens.py`).
    """

    nonce: bytes
    model: bytes
    program: Program
    dealer: RoleCard
    a: RoleCard
    b: RoleCard
    model_owner: bytes
    tokens: bool = False

    def digest(self) -> bytes:
        """32 bytes that name this deployment, compared in every handshake."""
        return hashlib.sha256(b"primum deployment\0" + encode(self)).digest()

    def fingerprint(self) -> str:
        """The digest as people compare it by telephone."""
        return fingerprint(self.digest())

    def server(self, role: Role) -> RoleCard:
        """The card of server A or B."""
        return self.a if role == "A" else self.b


class RoleFile(Message, frozen=True):
    """What a sealed file holds. `seeds`: (A's, B's) for the dealer, (its own,) for a server; `masked`: W^, packed."""

    deployment: Deployment
    role: RoleName
    seeds: tuple[bytes, ...]
    masked: bytes


class Signed(Message, frozen=True):
    """A RoleFile's bytes and the model owner's signature."""

    content: bytes
    signature: bytes


class SealedFile(Message, frozen=True):
    """A deployment file on disk: whose it is, in clear, and the box."""

    role: RoleName
    deployment: str
    receiver: str
    box: bytes


class PublicFile(Message, frozen=True):
    """The file of data owners; nothing in it is secret."""

    deployment: Deployment
    card: dict[str, Any]
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the signature covers."""
        return encode(msgspec.structs.replace(self, signature=b""))


def check_roles(deployment: Deployment) -> None:
    """InputError unless dealer, A and B are three identities with three keys, at addresses of their own."""
    check_card(deployment.dealer, "dealer", "the dealer's card")
    check_card(deployment.a, "server", "server A's card")
    check_card(deployment.b, "server", "server B's card")
    cards = {"the dealer": deployment.dealer, "server A": deployment.a, "server B": deployment.b}
    for name in ("identity", "sealing", "certificate", "address"):
        seen: dict[object, str] = {}
        for who, card in cards.items():
            before = seen.setdefault(getattr(card, name), who)
            if before != who:
                raise InputError(
                    f"{before[0].upper()}{before[1:]} and {who} have the same {name}.",
                    "They must be run by different institutions: together they could read images and weights.",
                )


def seal_role_file(content: RoleFile, signature: bytes, card: RoleCard) -> SealedFile:
    """`content` with the model owner's signature in a box for the role whose card it is."""
    signed = encode(Signed(encode(content), signature))
    digest = content.deployment.digest()
    box = seal(card.sealing, signed, _purpose(content.role, digest.hex()))
    return SealedFile(content.role, digest.hex(), fingerprint(card.identity), box)


def open_role_file(path: Path, keys: RoleKeys, roles: tuple[RoleName, ...]) -> RoleFile:
    """What the model owner sealed into `path` for the role whose keys these are; everything in it checked.

    ModelError or InputError that names the file: of another role, sealed for another key, altered, inconsistent.
    """
    file = read_message(path, SealedFile, FILE_LIMIT)
    if file.role not in roles:
        verb = "primum dealer" if file.role == "dealer" else "primum serve"
        raise InputError(f"{path} is the deployment file of {_name(file.role)}.", f"Use it with `{verb}`.")
    try:
        data = keys.sealing.open(file.box, _purpose(file.role, file.deployment), "the model owner")
        signed = decode(data, Signed, "the model owner", FILE_LIMIT)
        content = decode(signed.content, RoleFile, "the model owner", FILE_LIMIT)
        verify(content.deployment.model_owner, _SIGNED, signed.content, signed.signature, "the model owner")
        _check_content(content, file, keys)
    except PeerError as error:
        raise ModelError(
            f"{path} cannot be used: {error.message}",
            f"It is for {file.receiver}; these keys are {fingerprint(keys.identity.public)}. Ask for it again.",
        ) from None
    return content


def signed_purpose() -> str:
    """What the model owner's signature on a deployment's files is for."""
    return _SIGNED


def _purpose(role: RoleName, digest: str) -> str:
    return f"deployment file {role} {digest}"


def _name(role: RoleName) -> str:
    return "the dealer" if role == "dealer" else f"server {role}"


def _check_content(content: RoleFile, file: SealedFile, keys: RoleKeys) -> None:
    deployment = content.deployment
    check_roles(deployment)
    check(deployment.program)
    card = deployment.dealer if content.role == "dealer" else deployment.server(content.role)
    program = deployment.program
    expected = 0 if content.role == "dealer" else packed_size(weight_size(program), program.bits)
    if (
        content.role != file.role
        or deployment.digest().hex() != file.deployment
        or card.identity != keys.identity.public
        or len(content.seeds) != (2 if content.role == "dealer" else 1)
        or any(len(seed) != 32 for seed in content.seeds)
        or len(content.masked) != expected
    ):
        raise PeerError("the parts of the file contradict each other.", "")


def load_public(path: Path) -> PublicFile:
    """The public deployment file in `path`, its signature and roles checked; InputError that names the file."""
    public = read_message(path, PublicFile, FILE_LIMIT)
    try:
        check_public(public)
    except PeerError as error:
        raise InputError(f"{path} was altered: {error.message}", "Ask the model owner for it again.") from None
    return public


def check_public(public: PublicFile) -> None:
    """PeerError or InputError unless signature, roles and program of a public file are right."""
    verify(public.deployment.model_owner, _SIGNED, public.unsigned(), public.signature, "the model owner")
    check_roles(public.deployment)
    check(public.deployment.program)
