"""What a node must not forget over a crash: its decisions, and the round numbers it has used."""

import sqlite3
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from primum.disk import transaction

_SCHEMA = """
create table if not exists decision (study blob primary key, answer text not null, decided_by text not null, at real not null);
create table if not exists used (run blob primary key, round integer not null);
create table if not exists joined (run blob primary key, session integer not null);
create table if not exists split (one integer primary key check (one = 1), share real not null);
create table if not exists answered (model blob primary key, included blob not null);
"""


@dataclass(frozen=True)
class Decision:
    """Yes or no to one study (named by its digest), who said so, when."""

    answer: str
    decided_by: str
    at: float


class Memory:
    """One SQLite file; every call is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA)

    def decision(self, study: bytes) -> Decision | None:
        """What was decided on this study."""
        with self._open() as db:
            row = db.execute("select answer, decided_by, at from decision where study = ?", (study,)).fetchone()
            return Decision(*row) if row else None

    def decide(self, study: bytes, answer: str, decided_by: str) -> None:
        """Write down a decision."""
        with self._open() as db:
            db.execute("insert or replace into decision values (?, ?, ?, ?)", (study, answer, decided_by, time.time()))

    def used_round(self, run: bytes) -> int:
        """The highest round number of this run that was begun."""
        with self._open() as db:
            row = db.execute("select round from used where run = ?", (run,)).fetchone()
            return int(row[0]) if row else 0

    def use_round(self, run: bytes, number: int) -> None:
        """Write down that a round is begun, before anything of it is sent."""
        with self._open() as db:
            db.execute("insert or replace into used values (?, ?)", (run, number))

    def used_session(self, run: bytes) -> int:
        """The highest session number of this run that was joined."""
        with self._open() as db:
            row = db.execute("select session from joined where run = ?", (run,)).fetchone()
            return int(row[0]) if row else 0

    def use_session(self, run: bytes, number: int) -> None:
        """Write down that a session is joined, before its keys are sent: a coordinator draws no graph twice."""
        with self._open() as db:
            db.execute("insert or replace into joined values (?, ?)", (run, number))

    def evaluation_share(self, asked: float) -> float:
        """The share of patients set aside for evaluation: the first one asked for, then the same for ever."""
        with self._open() as db:
            db.execute("insert or ignore into split values (1, ?)", (asked,))
            return float(db.execute("select share from split").fetchone()[0])

    def same_set(self, model: bytes, included: bytes) -> bool:
        """Whether shares on this model were given for no other set of hospitals, ever; writes this one down.

        Without noise, a second sum on the same model with one hospital less is that hospital's update.
        """
        with self._open() as db:
            db.execute("insert or ignore into answered values (?, ?)", (model, included))
            query = "select included from answered where model = ?"
            return bool(db.execute(query, (model,)).fetchone()[0] == included)
