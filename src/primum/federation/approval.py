"""Who said yes to which study at this hospital, until when: the record that a node asks before it answers anything.

People may answer from another process than the node's (`primum consent`), and where the policy names signers only their
signatures count: whoever can write into the state folder alone cannot agree for them.
"""

import datetime
import sqlite3
import time
from collections.abc import Collection, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from primum import wire
from primum.disk import transaction
from primum.errors import MachineError, PeerError
from primum.keys.identity import Identity, verify

YES: Final = "yes"
NO: Final = "no"
WAITING: Final = "waiting"
POLICY: Final = "policy"
_PURPOSE: Final = "approval of a study"

_SCHEMA: Final = """
create table if not exists request (study blob primary key, run blob not null, text text not null, asker blob not null, at real not null);
create table if not exists approval (study blob not null, who text not null, answer text not null, at real not null,
    until real not null, signature blob not null, primary key (study, who));
"""


@dataclass(frozen=True)
class Request:
    """A study that was put before this hospital: its digest, the run, its canonical text, who asks, since when."""

    study: bytes
    run: bytes
    text: str
    asker: bytes
    at: float


@dataclass(frozen=True)
class Approval:
    """One answer: by whom (a signer's key in hex, a user's name, or "policy"), when, and until when a yes holds."""

    who: str
    answer: str
    at: float
    until: float
    signature: bytes = b""


@dataclass(frozen=True)
class Standing:
    """What all answers together say: yes, no or waiting, in words by whom or for whom, and until when a yes stands."""

    answer: str
    words: str
    until: float = 0.0


class _Statement(wire.Message, frozen=True):
    """What a signer signs."""

    study: bytes
    answer: str
    at: float
    until: float


class Approvals:
    """The record in one SQLite file; every call is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA)

    def put(self, request: Request) -> None:
        """Note that a study was put before this hospital; the first time counts."""
        row = (request.study, request.run, request.text, request.asker, request.at)
        with self._open() as db:
            db.execute("insert or ignore into request values (?, ?, ?, ?, ?)", row)

    def requests(self) -> list[Request]:
        """All studies that were put before this hospital, oldest first."""
        with self._open() as db:
            return self._whole(db.execute("select study, run, text, asker, at from request order by at"))

    def requests_of(self, run: bytes) -> list[Request]:
        """The study of one run; more than one only if a coordinator changed it."""
        query = "select study, run, text, asker, at from request where run = ?"
        with self._open() as db:
            return self._whole(db.execute(query, (run,)))

    def _whole(self, rows: Iterable[tuple[Any, ...]]) -> list[Request]:
        """MachineError where something is missing: SQLite does not look for it when it reads."""
        found = list(rows)
        if any(value is None for row in found for value in row):
            raise MachineError(f"{self._path} is damaged.", "Restore a backup.")
        return [Request(*row) for row in found]

    def answer(self, study: bytes, approval: Approval) -> None:
        """Write down one person's answer; it takes the place of an earlier one of the same person."""
        row = (study, approval.who, approval.answer, approval.at, approval.until, approval.signature)
        with self._open() as db:
            db.execute("insert or replace into approval values (?, ?, ?, ?, ?, ?)", row)

    def answers(self, study: bytes) -> list[Approval]:
        """All answers to one study, oldest first."""
        query = "select who, answer, at, until, signature from approval where study = ? order by at"
        with self._open() as db:
            return [Approval(*row) for row in db.execute(query, (study,))]

    def standing(self, study: bytes, signers: Collection[str] | None, needed: int, now: float) -> Standing:
        """What the answers say at the time `now`. One no, of whomever, is a no.

        With `signers` so many of them (`needed`) must have signed a yes that still holds; without them one yes is enough.
        """
        answers = self.answers(study)
        for answer in answers:
            if answer.answer == NO:
                return Standing(NO, f"declined by {_shown(answer.who)}")
        yes = [answer for answer in answers if answer.answer == YES and answer.until >= now]
        if signers is not None:
            yes = [answer for answer in yes if answer.who in signers and _signed(study, answer)]
        wanted = needed if signers is not None else 1
        if len(yes) >= wanted:
            until = sorted(answer.until for answer in yes)[-wanted]
            return Standing(YES, f"agreed by {', '.join(_shown(answer.who) for answer in yes)}", until)
        if signers is None and any(answer.answer == YES for answer in answers):
            return Standing(NO, "the consent has ended")
        return Standing(WAITING, f"{len(yes)} of {wanted} said yes")


def signed_answer(study: bytes, answer: str, until: datetime.date, signer: Identity) -> Approval:
    """An answer by a person who has a key."""
    statement = _Statement(study, answer, time.time(), end_of(until))
    signature = signer.sign(_PURPOSE, wire.encode(statement))
    return Approval(signer.public.hex(), answer, statement.at, statement.until, signature)


def end_of(day: datetime.date) -> float:
    """The last second of that day at this place."""
    return datetime.datetime.combine(day, datetime.time.max).timestamp()


def _signed(study: bytes, answer: Approval) -> bool:
    statement = wire.encode(_Statement(study, answer.answer, answer.at, answer.until))
    try:
        verify(bytes.fromhex(answer.who), _PURPOSE, statement, answer.signature, "the signer")
    except (PeerError, ValueError):
        return False
    return True


def _shown(who: str) -> str:
    return f"the key {who[:16]}..." if len(who) == 64 else who
