"""A hospital's privacy ledger: reserve before anything leaves, refuse before overspending, survive a kill -9.

The cap is one Renyi order with its budget, fixed when the cap is set: studies whose settings were chosen after seeing
earlier results may be added up at one order (Feldman and Zrnic 2021), but privacy loss distributions may not.
Training and evaluation patients are disjoint, so they compose in parallel: each population has its own sum against the
same cap.
"""

import sqlite3
import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from primum.disk import transaction
from primum.dp.account import rdp_of_epsilon
from primum.errors import BudgetError, InputError

TRAINING: Final = "training"
EVALUATION: Final = "evaluation"

_SCHEMA: Final = """
create table if not exists cap (one integer primary key check (one = 1), rdp_order integer not null,
    budget real not null, epsilon real not null, delta real not null);
create table if not exists entry (id integer primary key autoincrement, at real not null, study text not null,
    run text not null, round integer not null, population text not null, rdp_reserved real not null,
    rdp_settled real, unique (run, round, population));
"""


@dataclass(frozen=True)
class Cap:
    """The most that this hospital lets one patient lose, ever: epsilon at delta, added up at one Renyi order."""

    epsilon: float
    delta: float
    order: int

    @property
    def budget(self) -> float:
        """Renyi divergence at the order; InputError where the order is too small for the delta."""
        allowed = rdp_of_epsilon(self.epsilon, self.order, self.delta)
        if allowed <= 0:
            raise InputError(
                f"rdp_order = {self.order} leaves nothing of epsilon_cap = {self.epsilon:g} at delta {self.delta:g}.",
                "Use a larger rdp_order; 8 to 32 suits epsilon 1 to 10.",
            )
        return allowed


@dataclass(frozen=True)
class Entry:
    """One line of the ledger."""

    study: str
    run: str
    round: int
    population: str
    reserved: float
    settled: float | None


class Ledger:
    """The ledger in one SQLite file."""

    def __init__(self, path: Path, cap: Cap) -> None:
        self._path, self._cap = path, cap
        with self._transaction() as db:
            row = db.execute("select rdp_order, budget from cap").fetchone()
            if row is None:
                values = (cap.order, cap.budget, cap.epsilon, cap.delta)
                db.execute("insert into cap values (1, ?, ?, ?, ?)", values)
            elif row[0] != cap.order:
                raise InputError(
                    f"The ledger adds up at rdp_order {row[0]}, the policy says {cap.order}.",
                    f"The order is fixed when the ledger is made: write rdp_order = {row[0]}.",
                )

    def _transaction(self) -> AbstractContextManager[sqlite3.Connection]:
        return transaction(self._path, _SCHEMA)

    def reserve(self, study: str, run: str, round_number: int, population: str, divergence: float) -> None:
        """Write down the worst case of one step before it starts; BudgetError, and nothing written, if it does not fit.

        A step of the same run, round and population is reserved once: a second time is a BudgetError too. A negative
        divergence is a ValueError: it would hand budget back.
        """
        _refuse_negative(divergence)
        with self._transaction() as db:
            self._require(db, population, divergence)
            try:
                db.execute(
                    "insert into entry (at, study, run, round, population, rdp_reserved) values (?, ?, ?, ?, ?, ?)",
                    (time.time(), study, run, round_number, population, divergence),
                )
            except sqlite3.IntegrityError:
                raise BudgetError(
                    f"Round {round_number} of run {run} was already charged.", "A round is never answered twice."
                ) from None

    def charge_spent(self, study: str, run: str, round_number: int, population: str, divergence: float) -> bool:
        """Write down a step that was answered already, whatever is left; returns False where it stands here before."""
        _refuse_negative(divergence)
        values = (time.time(), study, run, round_number, population, divergence)
        columns = "at, study, run, round, population, rdp_reserved"
        with self._transaction() as db:
            done = db.execute(f"insert or ignore into entry ({columns}) values (?, ?, ?, ?, ?, ?)", values)  # noqa: S608
            return done.rowcount == 1

    def require(self, population: str, divergence: float) -> None:
        """BudgetError unless so much is left: asked for a whole study before it begins."""
        with self._transaction() as db:
            self._require(db, population, divergence)

    def _require(self, db: sqlite3.Connection, population: str, divergence: float) -> None:
        left = self._cap.budget - self._spent(db, population)
        if not divergence <= left:
            raise BudgetError(
                f"This needs {divergence:.4g} of the privacy budget of the {population} patients; {max(left, 0):.4g} of "
                f"{self._cap.budget:.4g} is left (Renyi divergence at order {self._cap.order}).",
                "Ask for less epsilon or fewer rounds. The cap is the hospital's own, a node's in policy.toml (`primum budget "
                f"STUDY --node STATE`), a loop's in Cap(...): this would need epsilon_cap = {self._cap.epsilon + divergence - left:.3g}.",
            )

    def settle(self, run: str, round_number: int, population: str, divergence: float) -> None:
        """After t nodes signed the set that was summed: charge the noise that was really there, never more than before."""
        _refuse_negative(divergence)
        with self._transaction() as db:
            db.execute(
                "update entry set rdp_settled = min(rdp_reserved, ?) where run = ? and round = ? and population = ? "
                "and rdp_settled is null",
                (divergence, run, round_number, population),
            )

    def spent(self, population: str) -> float:
        """Renyi divergence spent (or reserved) so far."""
        with self._transaction() as db:
            return self._spent(db, population)

    def left(self, population: str) -> float:
        """What is left under the cap."""
        return self._cap.budget - self.spent(population)

    def entries(self) -> list[Entry]:
        """All lines, oldest first: what a second accountant replays."""
        with self._transaction() as db:
            rows = db.execute("select study, run, round, population, rdp_reserved, rdp_settled from entry order by id")
            return [Entry(*row) for row in rows]

    @staticmethod
    def _spent(db: sqlite3.Connection, population: str) -> float:
        query = "select coalesce(sum(coalesce(rdp_settled, rdp_reserved)), 0) from entry where population = ?"
        return float(db.execute(query, (population,)).fetchone()[0])


def _refuse_negative(divergence: float) -> None:
    if divergence < 0:
        raise ValueError("a divergence is not negative")
