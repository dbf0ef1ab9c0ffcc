"""What a node must not forget over a crash: the round and session numbers it has used, and how patients are split."""

import sqlite3
import time
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final

from primum.disk import transaction
from primum.errors import Refused

_SCHEMA = """
create table if not exists used (run blob primary key, round integer not null);
create table if not exists joined (run blob primary key, session integer not null);
create table if not exists split (one integer primary key check (one = 1), share real not null);
create table if not exists answered (model blob primary key, included blob not null);
create table if not exists restored (one integer primary key check (one = 1), at real not null);
"""
_CLOCKS: Final = 300.0  # seconds that a scientist's clock may be ahead of this hospital's


class Memory:
    """One SQLite file; every call is on disk when it returns."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def _open(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA)

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

    def note_restored(self, at: float) -> None:
        """Write down that this state came from a backup at that time: what was done since the backup is not in it."""
        with self._open() as db:
            db.execute("insert or replace into restored values (1, ?)", (at,))

    def refuse_older(self, asked: float | None) -> None:
        """Refused for a study that was signed before this state was restored from a backup, or does not say when.

        Its rounds may have been answered after the backup was made: a second answer would come from a round number
        that this state believes to be new.
        """
        with self._open() as db:
            row = db.execute("select at from restored").fetchone()
        if row is None or (asked is not None and asked > row[0] + _CLOCKS):
            return
        day = time.strftime("%Y-%m-%d %H:%M", time.localtime(row[0]))
        raise Refused(
            f"This hospital's state was restored from a backup on {day}, and this study is older or says no time.",
            "Submit the study again: it is a new run then.",
        )

    def same_set(self, model: bytes, included: bytes) -> bool:
        """Whether shares on this model were given for no other set of hospitals, ever; writes this one down.

        Without noise, a second sum on the same model with one hospital less is that hospital's update.
        """
        with self._open() as db:
            db.execute("insert or ignore into answered values (?, ?)", (model, included))
            query = "select included from answered where model = ?"
            return bool(db.execute(query, (model,)).fetchone()[0] == included)
