"""How a hospital comes in: an invitation by file, used once, expiring; the node's keys never leave it.

Join file (TOML): where the coordinator is, its certificate and its Ed25519 identity, a token. The node sends the token,
its public keys and a signature over them; the coordinator keeps the list of members and lets their transport keys into
SuperLink, again after every restart.
"""

import hashlib
import secrets
import sqlite3
import time
import tomllib
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import tomli_w
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key
from pydantic import BaseModel, ConfigDict

from primum import __version__, wire
from primum.disk import transaction
from primum.errors import InputError, PeerError, Refused
from primum.keys.identity import verify
from primum.study import Key, parse_settings, read_text

LIFETIME: Final = 7 * 24 * 3600
PURPOSE: Final = "enrolment"

_SCHEMA: Final = """
create table if not exists invitation (token blob primary key, name text not null unique, expires real not null, used_by blob);
create table if not exists member (identity blob primary key, name text not null, transport blob not null unique, at real not null);
"""
_UPGRADES: Final = (
    "create table revoked (transport blob primary key, identity blob not null, name text not null, at real not null)",
)


class JoinFile(BaseModel):
    """What one hospital gets, by a way that the coordinator trusts (it lets somebody in)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hospital: str
    address: str
    coordinator: Key
    certificate: str
    token: str

    @classmethod
    def read(cls, path: Path) -> "JoinFile":
        """The join file in `path`; StudyError or InputError naming what is wrong."""
        try:
            data = tomllib.loads(read_text(path))
        except tomllib.TOMLDecodeError as error:
            raise InputError(f"{path} is not a join file: {error}.", "Ask the coordinator for it again.") from None
        return parse_settings(cls, data, str(path))

    def text(self) -> str:
        """As TOML."""
        return tomli_w.dumps(self.model_dump(), multiline_strings=True)


class EnrolRequest(wire.Message, frozen=True):
    """A node's keys, with the token; `signature` by the identity over everything else."""

    token: bytes
    identity: bytes
    transport: bytes
    version: str
    signature: bytes

    def signed_part(self) -> bytes:
        """What the signature covers."""
        return hashlib.sha256(self.token + self.identity + self.transport + self.version.encode()).digest()


@dataclass(frozen=True)
class Member:
    """One enrolled hospital."""

    name: str
    identity: bytes
    transport: bytes = field(repr=False)


class Register:
    """The coordinator's list of invitations and members, in one SQLite file."""

    def __init__(self, state: Path) -> None:
        self._path = state / "members.sqlite"
        self._cached: tuple[bytes, frozenset[bytes]] | None = None

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA, _UPGRADES)

    def invite(self, name: str) -> bytes:
        """A fresh token (32 bytes) for a hospital; Refused if that name is a member or was invited before."""
        token = secrets.token_bytes(32)
        with self._open() as db:
            if db.execute("select 1 from member where name = ?", (name,)).fetchone():
                raise Refused(f"{name} is enrolled already.", "Choose another name for another hospital.")
            db.execute("delete from invitation where name = ? and used_by is null", (name,))
            db.execute("insert into invitation values (?, ?, ?, null)", (_hash(token), name, time.time() + LIFETIME))
        return token

    def enrol(self, request: EnrolRequest) -> Member:
        """Let a node in; Refused for a token that is unknown, expired, or was used by another identity.

        PeerError where its signature is wrong or its transport key is none.
        """
        verify(request.identity, PURPOSE, request.signed_part(), request.signature, "the enrolling node")
        if request.version != __version__:
            raise Refused(
                f"The node runs Primum {request.version}, the coordinator {__version__}.",
                f"Install the same release on the node: pip install primum=={__version__}.",
            )
        with self._open() as db:
            row = db.execute(
                "select name, expires, used_by from invitation where token = ?", (_hash(request.token),)
            ).fetchone()
            if row is None:
                _refuse_revoked_identity(db, request.identity)
                raise Refused("The token is not one of this coordinator's.", "Ask for a new join file.")
            name, expires, used_by = row
            if used_by is not None and used_by != request.identity:
                raise Refused("The token was used before, by another node.", "Ask for a new join file, and tell them.")
            if used_by is None and expires < time.time():  # a member starts again with its join file for ever
                raise Refused("The token has expired.", "Ask for a new join file.")
            _require_transport_key(request.transport)
            _refuse_revoked_transport(db, request.transport)
            taken = "select 1 from member where transport = ? and identity != ?"
            if db.execute(taken, (request.transport, request.identity)).fetchone():
                raise Refused(
                    "The transport key is another member's.", "Make another: `primum node --rotate-transport`."
                )
            member = Member(name, request.identity, request.transport)
            replaced = (time.time(), request.identity, request.transport)
            db.execute(_RETIRE + "identity = ? and transport != ?", replaced)
            db.execute("update invitation set used_by = ? where token = ?", (request.identity, _hash(request.token)))
            db.execute(
                "insert or replace into member values (?, ?, ?, ?)",
                (member.identity, name, member.transport, time.time()),
            )
        return member

    def revoke(self, name: str) -> Member | None:
        """Take a hospital out; its keys and its join file open nothing from now on. Returns who it was.

        None where it was invited only: then the invitation is gone. InputError for a name that nobody has.
        """
        with self._open() as db:
            row = db.execute("select name, identity, transport from member where name = ?", (name,)).fetchone()
            gone = db.execute("delete from invitation where name = ?", (name,)).rowcount
            if row is None and not gone:
                raise InputError(f"{name[:100]!r} was never invited here.", "`primum coordinator members` lists them.")
            if row is not None:
                db.execute(_RETIRE + "name = ?", (time.time(), name))
                db.execute("delete from member where name = ?", (name,))
        return Member(*row) if row is not None else None

    def forget_invitations(self) -> int:
        """Take back every invitation that was not used, as far as is known here; returns how many."""
        with self._open() as db:
            return db.execute("delete from invitation where used_by is null").rowcount

    def admits(self, transport: bytes) -> bool:
        """Whether this transport key (PEM) is a member's; asks the disk only after the list was changed."""
        return transport in self._known()

    def refusal(self, transport: bytes) -> Refused:
        """Why a key that is not a member's is refused."""
        with self._open() as db:
            try:
                _refuse_revoked_transport(db, transport)
            except Refused as refused:
                return refused
        return Refused("This node is not enrolled here.", "Ask the coordinator for a join file.")

    def _known(self) -> frozenset[bytes]:
        stamp = self.stamp()
        if self._cached is None or self._cached[0] != stamp:
            self._cached = (stamp, frozenset(self.transports().values()))
        return self._cached[1]

    def stamp(self) -> bytes:
        """Other bytes whenever the list was changed, by whichever process: SQLite's change counter."""
        if not self._path.exists():
            return b""
        with self._path.open("rb") as file:
            return file.read(28)[24:]

    def members(self) -> list[Member]:
        """All members, by name."""
        with self._open() as db:
            return [Member(*row) for row in db.execute("select name, identity, transport from member order by name")]

    def transports(self) -> dict[bytes, bytes]:
        """Transport key (PEM) by identity."""
        return {member.identity: member.transport for member in self.members()}


_RETIRE: Final = "insert or ignore into revoked select transport, identity, name, ? from member where "
_OUT: Final = "select identity, at from revoked where "


def _require_transport_key(pem: bytes) -> None:
    """PeerError unless it is what `primum node` makes: SuperLink takes no other, also when the coordinator starts again."""
    try:
        key = load_pem_public_key(pem)
        whole = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo) == pem
    except (ValueError, UnsupportedAlgorithm):
        key, whole = None, False
    if not (whole and isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP384R1)):
        raise PeerError("The node's transport key is not a P-384 key in PEM form.", "It was not let in.")


def _refuse_revoked_identity(db: sqlite3.Connection, identity: bytes) -> None:
    row = db.execute(_OUT + "identity = ? order by at desc", (identity,)).fetchone()
    if row is not None:
        raise _taken_out(row[1])


def _refuse_revoked_transport(db: sqlite3.Connection, transport: bytes) -> None:
    row = db.execute(_OUT + "transport = ?", (transport,)).fetchone()
    if row is None:
        return
    if db.execute("select 1 from member where identity = ?", (row[0],)).fetchone():
        raise Refused(
            f"This transport key was replaced by another on {_day(row[1])}.",
            "Is another node running with its identity?",
        )
    raise _taken_out(row[1])


def _taken_out(at: float) -> Refused:
    return Refused(
        f"This hospital was taken out by the coordinator's operator on {_day(at)}.",
        "If that is a mistake, ask for a new join file and start once with --rotate-transport.",
    )


def _day(at: float) -> str:
    return time.strftime("%Y-%m-%d", time.localtime(at))


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(b"primum token\0" + token).digest()
