"""Backups of state folders: whole, consistent, checked; never laid over a state."""

import hashlib
import json
import stat
import tarfile
from pathlib import Path

import pytest

from primum import archive
from primum.archive import Manifest
from primum.disk import append, transaction
from primum.errors import InputError, MachineError

SCHEMA = "create table if not exists entry (n integer primary key)"


def nothing_more(folder: Path, manifest: Manifest) -> None:
    """What a role without rules of its own does after a restore."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A node's state folder, as far as a backup looks at it."""
    made = tmp_path / "node-state"
    for name in ("images", "runs/one"):
        (made / name).mkdir(parents=True)
    (made / "pseudonym.key").write_bytes(bytes(32))
    (made / "images" / "prepared").write_bytes(b"pixels of patients")
    (made / "runs" / "one" / "model.safetensors").write_bytes(b"weights")
    (made / "superlink.log").write_text("words")
    (made / "journal.jsonl").write_text('{"n": 1}\n{"n": 2}\n{"n": 3')
    with transaction(made / "ledger.sqlite", SCHEMA) as db:
        db.execute("insert into entry values (1)")
    return made


def test_what_comes_back_is_what_was_there_without_caches_logs_and_torn_lines(folder: Path, tmp_path: Path) -> None:
    made = archive.backup(folder, tmp_path / "kept.tar.gz", "1.2.3")
    found = archive.restore(tmp_path / "kept.tar.gz", tmp_path / "new" / "state", nothing_more)
    assert found == made and (found.role, found.release) == (archive.NODE, "1.2.3")
    new = tmp_path / "new" / "state"
    assert {path.relative_to(new).as_posix() for path in new.rglob("*") if path.is_file()} == {
        "pseudonym.key",
        "journal.jsonl",
        "ledger.sqlite",
        "runs/one/model.safetensors",
    }
    assert (new / "journal.jsonl").read_text() == '{"n": 1}\n{"n": 2}\n'
    with transaction(new / "ledger.sqlite", SCHEMA) as db:
        assert db.execute("select n from entry").fetchall() == [(1,)]
    assert stat.S_IMODE(new.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in new.rglob("*") if path.is_file()} == {0o600}
    assert stat.S_IMODE((tmp_path / "kept.tar.gz").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_backup_of_a_role_that_writes_is_consistent(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A role that answers between any two files: each step stands in the ledger before the journal, and in the copies."""
    copy_one, numbers = archive._copy_one, iter(range(2, 1000))
    (folder / "journal.jsonl").write_text("")

    def copy_and_answer(path: Path, target: Path) -> None:
        copy_one(path, target)
        number = next(numbers)
        with transaction(folder / "ledger.sqlite", SCHEMA) as db:
            db.execute("insert into entry values (?)", (number,))
        append(folder / "journal.jsonl", json.dumps({"n": number}).encode() + b"\n")

    monkeypatch.setattr(archive, "_copy_one", copy_and_answer)
    for attempt in range(2):
        archive.backup(folder, tmp_path / f"{attempt}.tar.gz", "1")
        new = tmp_path / f"new-{attempt}"
        archive.restore(tmp_path / f"{attempt}.tar.gz", new, nothing_more)
        lines = {json.loads(line)["n"] for line in (new / "journal.jsonl").read_text().splitlines()}
        with transaction(new / "ledger.sqlite", SCHEMA) as db:
            known = {n for (n,) in db.execute("select n from entry")}
        assert lines <= known
    assert lines


def test_a_folder_that_is_no_state_and_a_file_that_is_there_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not the state folder of a role"):
        archive.backup(tmp_path, tmp_path / "kept.tar.gz", "1")
    (tmp_path / "there").write_text("")
    for file in (tmp_path / "there", folder / "within.tar.gz"):
        with pytest.raises(InputError, match="is there already, or within"):
            archive.backup(folder, file, "1")
    with pytest.raises(MachineError, match="cannot be written"):
        archive.backup(folder, tmp_path / "no-folder" / "kept.tar.gz", "1")


def test_a_backup_is_never_laid_over_a_state(folder: Path, tmp_path: Path) -> None:
    archive.backup(folder, tmp_path / "kept.tar.gz", "1")
    with pytest.raises(InputError, match="is not empty"):
        archive.restore(tmp_path / "kept.tar.gz", folder, nothing_more)
    empty = tmp_path / "empty"
    empty.mkdir()
    archive.restore(tmp_path / "kept.tar.gz", empty, nothing_more)
    assert (empty / "pseudonym.key").exists()


def test_a_damaged_file_restores_nothing_or_what_was_there(folder: Path, tmp_path: Path) -> None:
    """The last bytes of gzip and tar, and times in their headers, say nothing about the content."""
    kept, refused = tmp_path / "kept.tar.gz", 0
    made = archive.backup(folder, kept, "1")
    whole = kept.read_bytes()
    places = range(0, len(whole), max(1, len(whole) // 40))
    for number, damaged in enumerate(
        [*(whole[:n] for n in places), *(whole[:n] + bytes([whole[n] ^ 0x55]) + whole[n + 1 :] for n in places)]
    ):
        kept.write_bytes(damaged)
        new = tmp_path / f"new-{number}"
        try:
            archive.restore(kept, new, nothing_more)
        except InputError:
            refused += 1
            assert not new.exists()
        else:
            assert {name: hashlib.sha256((new / name).read_bytes()).hexdigest() for name in made.files} == made.files
    assert refused > len(places)


@pytest.mark.parametrize(
    ("name", "words"),
    [("../outside", "outside of its folder"), ("/tmp/outside", "outside of its folder"), ("a//b", "outside")],
)
def test_a_file_that_names_places_outside_is_refused(tmp_path: Path, name: str, words: str) -> None:
    manifest = {"format": 1, "role": "node", "release": "1", "made": 1.0, "files": {name: "0" * 64}}
    _write(tmp_path / "bad.tar.gz", manifest)
    with pytest.raises(InputError, match=words):
        archive.restore(tmp_path / "bad.tar.gz", tmp_path / "new", nothing_more)


def test_a_file_of_a_newer_release_is_refused_by_its_name(tmp_path: Path) -> None:
    _write(tmp_path / "new.tar.gz", {"format": 99, "role": "node", "release": "7.0", "made": 1.0, "files": {}})
    with pytest.raises(InputError, match=r"newer release \(7\.0\)"):
        archive.restore(tmp_path / "new.tar.gz", tmp_path / "state", nothing_more)


def _write(file: Path, manifest: dict[str, object]) -> None:
    with tarfile.open(file, "w:gz") as tar:
        archive._add(tar, "manifest.json", json.dumps(manifest).encode())


def test_where_the_last_step_of_a_restore_fails_there_is_no_folder(folder: Path, tmp_path: Path) -> None:
    archive.backup(folder, tmp_path / "kept.tar.gz", "1")

    def refuse(staging: Path, manifest: Manifest) -> None:
        raise InputError("no", "")

    with pytest.raises(InputError, match="no"):
        archive.restore(tmp_path / "kept.tar.gz", tmp_path / "new", refuse)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.tar.gz", "node-state"]
