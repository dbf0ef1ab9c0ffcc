"""SQLite files of this and of other releases."""

import sqlite3
from pathlib import Path
from typing import TypedDict

import pytest

from primum.disk import read_json, transaction
from primum.errors import InputError, MachineError

SCHEMA = "create table if not exists entry (n integer primary key)"
UPGRADES = ("alter table entry add column who text", "create table other (n integer); insert into other values (7)")


def version(path: Path) -> int:
    db = sqlite3.connect(path)
    try:
        return int(db.execute("pragma user_version").fetchone()[0])
    finally:
        db.close()


@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_file_of_any_earlier_format_is_upgraded_once(tmp_path: Path, known: int) -> None:
    path = tmp_path / "a.sqlite"
    with transaction(path, SCHEMA, UPGRADES[:known]) as db:
        db.execute("insert into entry (n) values (1)")
    assert version(path) == known
    for _ in range(2):
        with transaction(path, SCHEMA, UPGRADES) as db:
            assert db.execute("select n, who from entry").fetchall() == [(1, None)]
            assert db.execute("select n from other").fetchall() == [(7,)]
    assert version(path) == 2


def test_a_file_of_a_newer_release_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with transaction(path, SCHEMA, UPGRADES):
        pass
    before = path.read_bytes()
    with (
        pytest.raises(InputError, match=r"newer release \(format 2; this one reads up to 1\)"),
        transaction(path, SCHEMA, UPGRADES[:1]),
    ):
        pass
    assert path.read_bytes() == before


def test_an_upgrade_that_fails_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with transaction(path, SCHEMA):
        pass
    with (
        pytest.raises(MachineError, match="cannot be used"),
        transaction(path, SCHEMA, (UPGRADES[0], "create nonsense")),
    ):
        pass
    assert version(path) == 0
    with transaction(path, SCHEMA, UPGRADES[:1]) as db:
        assert db.execute("select who from entry").fetchall() == []


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.sqlite").write_bytes(b"not SQLite at all" * 100)
    with pytest.raises(MachineError, match=r"a\.sqlite cannot be used"), transaction(tmp_path / "a.sqlite", SCHEMA):
        pass


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b'{"round": "one"}', b"\xff"])
def test_a_damaged_state_file_is_named(tmp_path: Path, content: bytes) -> None:
    class Form(TypedDict, total=False):
        round: int

    assert read_json(tmp_path / "a.json", Form) == {}
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(MachineError, match=r"a\.json is damaged"):
        read_json(tmp_path / "a.json", Form)
