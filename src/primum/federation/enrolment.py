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
from pydantic import BaseModel, ConfigDict

from primum import __version__, wire
from primum.disk import transaction
from primum.errors import InputError, Refused
from primum.keys.identity import verify
from primum.study import parse_settings, read_text

LIFETIME: Final = 7 * 24 * 3600
PURPOSE: Final = "enrolment"

_SCHEMA: Final = """
create table if not exists invitation (token blob primary key, name text not null unique, expires real not null, used_by blob);
create table if not exists member (identity blob primary key, name text not null, transport blob not null unique, at real not null);
"""


class JoinFile(BaseModel):
    """What one hospital gets, by a way that the coordinator trusts (it lets somebody in)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hospital: str
    address: str
    coordinator: str
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

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA)

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
        """Let a node in; Refused for a token that is unknown, expired, or was used by another identity."""
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
                raise Refused("The token is not one of this coordinator's.", "Ask for a new join file.")
            name, expires, used_by = row
            if used_by is not None and used_by != request.identity:
                raise Refused("The token was used before, by another node.", "Ask for a new join file, and tell them.")
            if used_by is None and expires < time.time():  # a member starts again with its join file for ever
                raise Refused("The token has expired.", "Ask for a new join file.")
            taken = "select 1 from member where transport = ? and identity != ?"
            if db.execute(taken, (request.transport, request.identity)).fetchone():
                raise Refused("The transport key is another member's.", "Delete transport.pem and enrol again.")
            member = Member(name, request.identity, request.transport)
            db.execute("update invitation set used_by = ? where token = ?", (request.identity, _hash(request.token)))
            db.execute(
                "insert or replace into member values (?, ?, ?, ?)",
                (member.identity, name, member.transport, time.time()),
            )
        return member

    def members(self) -> list[Member]:
        """All members, by name."""
        with self._open() as db:
            return [Member(*row) for row in db.execute("select name, identity, transport from member order by name")]

    def transports(self) -> dict[bytes, bytes]:
        """Transport key (PEM) by identity."""
        return {member.identity: member.transport for member in self.members()}


def _hash(token: bytes) -> bytes:
    return hashlib.sha256(b"primum token\0" + token).digest()
