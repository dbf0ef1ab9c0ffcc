"""The journal: every change of a line is found, and each line was signed."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from primum.errors import InputError, MachineError, PeerError
from primum.journal import Journal, read
from primum.keys.identity import Identity, verify

OWNER = Identity.generate()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, OWNER)
    for number in range(5):
        journal.write("vector", round=number, name="é")
    return path


def test_entries_come_back_in_order(path: Path) -> None:
    entries = read(path)
    assert [entry["n"] for entry in entries] == [1, 2, 3, 4, 5]
    assert [entry["details"]["round"] for entry in entries] == list(range(5))
    assert all(entry["kind"] == "vector" for entry in entries)


def test_a_restarted_journal_goes_on_with_the_chain(path: Path) -> None:
    before = Journal(path, OWNER).head
    journal = Journal(path, OWNER)
    assert journal.head == before
    journal.write("end")
    assert journal.head != before
    assert len(read(path)) == 6
    assert Journal(path, OWNER).head == journal.head


@pytest.mark.parametrize("line", range(4))
@pytest.mark.parametrize("change", ["altered", "left out", "twice", "swapped"])
def test_any_change_before_the_last_line_breaks_the_chain(path: Path, line: int, change: str) -> None:
    lines = path.read_text().splitlines(keepends=True)
    if change == "altered":
        lines[line] = lines[line].replace('"kind":"vector"', '"kind":"nothing"')
    elif change == "left out":
        del lines[line]
    elif change == "twice":
        lines.insert(line, lines[line])
    else:
        lines[line], lines[line + 1] = lines[line + 1], lines[line]
    path.write_text("".join(lines))
    with pytest.raises(InputError, match=r"journal\.jsonl"):
        read(path)


def test_every_line_is_signed_by_its_owner(path: Path) -> None:
    """The last line too, which no later hash protects."""
    for line in path.read_text().splitlines():
        parts = json.loads(line)
        body = json.dumps(parts["entry"], sort_keys=True, separators=(",", ":")).encode()
        verify(OWNER.public, "journal entry", body, bytes.fromhex(parts["signature"]), "the journal")
    assert len(Ed25519PublicKey.from_public_bytes(OWNER.public).public_bytes_raw()) == 32


def test_the_head_tells_of_a_cut_end(path: Path) -> None:
    head = Journal(path, OWNER).head
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    assert Journal(path, OWNER).head != head


@pytest.mark.parametrize("line", ["", "garbage", "{}", '{"entry": 3}', "[]"])
def test_a_line_that_is_no_entry_is_named(path: Path, line: str) -> None:
    with path.open("a") as file:
        file.write(line + "\n")
    with pytest.raises(InputError, match="line 6"):
        read(path)


def test_no_journal_has_no_entries(tmp_path: Path) -> None:
    assert read(tmp_path / "nothing") == []


def test_a_journal_that_cannot_be_written_stops_what_it_would_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "gone" / "journal.jsonl", OWNER)
    with pytest.raises(MachineError, match=r"journal\.jsonl cannot be written"):
        journal.write("vector")


def test_a_chain_that_was_computed_anew_is_found_by_its_signatures(tmp_path: Path) -> None:
    honest, forged = tmp_path / "honest.jsonl", tmp_path / "forged.jsonl"
    Journal(honest, OWNER).write("vector", bytes=10)
    Journal(forged, Identity.generate()).write("vector", bytes=99)

    def check(purpose: str, data: bytes, signature: bytes) -> None:
        verify(OWNER.public, purpose, data, signature, "the hospital")

    assert read(honest, check)[0]["details"] == {"bytes": 10}
    assert read(forged)[0]["details"] == {"bytes": 99}  # the chain alone holds
    with pytest.raises(PeerError, match="signature"):
        read(forged, check)


def test_a_line_that_a_power_loss_cut_off_is_taken_out_and_said(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines(keepends=True)[-1][:40])
    journal = Journal(path, OWNER)
    journal.write("vector", round=5)
    kinds = [(entry["kind"], entry["details"]) for entry in read(path)]
    assert kinds[5:] == [("recovered", {"lost_bytes": 40}), ("vector", {"round": 5})]
    assert journal.head == Journal(path, OWNER).head


def test_several_writers_make_one_chain(path: Path) -> None:
    writers = [Journal(path, OWNER) for _ in range(3)]
    for number in range(9):
        writers[number % 3].write("vector", round=5 + number)
    assert [entry["details"]["round"] for entry in read(path)] == list(range(14))
    assert len({writer.head for writer in writers}) == 1


def test_several_processes_make_one_chain(path: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.pem"
    key.write_bytes(OWNER.pem())
    program = (
        "import sys; from pathlib import Path\n"
        "from primum.journal import Journal; from primum.keys.identity import Identity\n"
        "journal = Journal(Path(sys.argv[1]), Identity.load_or_make(Path(sys.argv[2])))\n"
        "for number in range(40): journal.write('vector', round=number)\n"
    )
    command = [sys.executable, "-c", program, str(path), str(key)]
    both = [subprocess.Popen(command) for _ in range(2)]
    assert [process.wait(timeout=60) for process in both] == [0, 0]
    assert len(read(path)) == 5 + 2 * 40


def test_a_file_that_was_shortened_meanwhile_is_not_written_to(path: Path) -> None:
    journal = Journal(path, OWNER)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(MachineError, match="was shortened"):
        journal.write("vector")
    assert path.stat().st_size == 100
