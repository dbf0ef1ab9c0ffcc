"""State folders as release 0.1.0 wrote them keep opening. The schemas are written down here: they must not follow the source."""

import sqlite3
from pathlib import Path

import pytest

from primum.diagnosis.roles import load_keys, make_role
from primum.dp.ledger import TRAINING, Cap, Entry, Ledger
from primum.errors import InputError
from primum.federation.approval import Approvals
from primum.federation.coordinator import State
from primum.federation.enrolment import Member, Register
from primum.federation.memory import Memory
from primum.state_folder import open_state

MEMBERS = """
create table invitation (token blob primary key, name text not null unique, expires real not null, used_by blob);
create table member (identity blob primary key, name text not null, transport blob not null unique, at real not null);
insert into invitation values (x'aa', 'North', 1.0, x'01');
insert into member values (x'01', 'North', x'02', 1.0);
"""
MEMORY = """
create table decision (study blob primary key, answer text not null, decided_by text not null, at real not null);
create table used (run blob primary key, round integer not null);
create table joined (run blob primary key, session integer not null);
create table split (one integer primary key check (one = 1), share real not null);
create table answered (model blob primary key, included blob not null);
insert into decision values (x'05', 'yes', 'policy', 1.0);
insert into used values (x'03', 7);
insert into joined values (x'03', 4);
insert into split values (1, 0.25);
insert into answered values (x'08', x'09');
"""
LEDGER = """
create table cap (one integer primary key check (one = 1), rdp_order integer not null,
    budget real not null, epsilon real not null, delta real not null);
create table entry (id integer primary key autoincrement, at real not null, study text not null,
    run text not null, round integer not null, population text not null, rdp_reserved real not null,
    rdp_settled real, unique (run, round, population));
insert into cap values (1, 8, 2.5, 4.0, 1e-5);
insert into entry values (1, 1.0, 'tiny', '03', 7, 'training', 0.5, 0.25);
"""


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with the three files, and without the number of its format."""
    for name, script in (("members", MEMBERS), ("memory", MEMORY), ("ledger", LEDGER)):
        db = sqlite3.connect(tmp_path / f"{name}.sqlite")
        db.executescript(script)
        db.close()
    return tmp_path


def test_the_members_of_an_old_coordinator_are_still_members(old: Path) -> None:
    register = State.open(old).register
    assert register.members() == [Member("North", b"\x01", b"\x02")]
    assert register.admits(b"\x02")
    register.revoke("North")
    assert not Register(old).admits(b"\x02")


def test_an_old_node_remembers_its_rounds_and_what_it_spent(old: Path) -> None:
    memory = Memory(old / "memory.sqlite")
    assert (memory.used_round(b"\x03"), memory.used_session(b"\x03"), memory.evaluation_share(0.5)) == (7, 4, 0.25)
    assert not memory.same_set(b"\x08", b"other")
    memory.refuse_older(None)
    ledger = Ledger(old / "ledger.sqlite", Cap(4.0, 1e-5, 8))
    assert ledger.entries() == [Entry("tiny", "03", 7, TRAINING, 0.5, 0.25)]
    assert Approvals(old / "memory.sqlite").requests() == []


def test_a_folder_gets_its_number_once(old: Path) -> None:
    for _ in range(2):
        open_state(old)
        assert (old / "format").read_text() == "1\n"


@pytest.mark.parametrize(("written", "words"), [("2", "newer release"), ("words", "does not hold a number")])
def test_a_folder_of_a_newer_release_is_refused_and_left_alone(tmp_path: Path, written: str, words: str) -> None:
    make_role("dealer", tmp_path / "dealer", "127.0.0.1:7401")
    load_keys(tmp_path / "dealer")
    for folder in (tmp_path / "dealer", tmp_path / "coordinator"):
        folder.mkdir(exist_ok=True)
        (folder / "format").write_text(written)
        before = sorted(folder.iterdir())
        with pytest.raises(InputError, match=words):
            load_keys(folder) if folder.name == "dealer" else State.open(folder)
        assert sorted(folder.iterdir()) == before and (folder / "format").read_text() == written
