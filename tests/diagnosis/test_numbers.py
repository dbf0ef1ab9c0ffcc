"""Numbers on disk: once, in order, whatever a crash leaves."""

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.diagnosis.numbers import HIGHEST, UsedNumbers, note
from primum.errors import MachineError, Refused
from primum.journal import Journal, read
from primum.keys.identity import Identity


def request(number):
    return number.to_bytes(32, "big")


def test_numbers_and_requests_survive_a_restart(tmp_path):
    used = UsedNumbers(tmp_path)
    assert used.mark == 0
    used.record(1, 3, request(1))
    used.record(10, 1, request(2))
    again = UsedNumbers(tmp_path)
    assert again.mark == 10 and again.knows(request(1)) and not again.knows(request(3))
    for first, name in ((10, 3), (3, 4), (0, 5), (HIGHEST + 1, 6)):
        with pytest.raises(Refused):
            again.record(first, 1, request(name))
    with pytest.raises(Refused, match="answered before"):
        again.record(11, 1, request(2))
    again.record(11, 1, request(3))
    assert UsedNumbers(tmp_path).mark == 11


@given(st.integers(0, 56 * 3))
def test_a_record_cut_short_at_any_byte_was_never_used(tmp_path_factory, length):
    folder = tmp_path_factory.mktemp("state")
    used = UsedNumbers(folder)
    for number in (1, 2, 3):
        used.record(number, 1, request(number))
    path = folder / "used.bin"
    path.write_bytes(path.read_bytes()[:length])
    after = UsedNumbers(folder)
    assert after.mark == length // 56
    after.record(after.mark + 1, 1, request(9))
    assert UsedNumbers(folder).mark == after.mark


def test_a_last_record_torn_in_place_was_never_used(tmp_path):
    used = UsedNumbers(tmp_path)
    used.record(1, 1, request(1))
    used.record(2, 1, request(2))
    path = tmp_path / "used.bin"
    path.write_bytes(path.read_bytes()[:-20] + bytes(20))
    assert UsedNumbers(tmp_path).mark == 1


def test_damage_in_the_middle_stops_the_role(tmp_path):
    used = UsedNumbers(tmp_path)
    for number in (1, 2, 3):
        used.record(number, 1, request(number))
    path = tmp_path / "used.bin"
    data = bytearray(path.read_bytes())
    data[60] ^= 1
    path.write_bytes(data)
    with pytest.raises(MachineError, match="damaged"):
        UsedNumbers(tmp_path)


def test_the_record_is_synced_before_record_returns(tmp_path, monkeypatch):
    synced: list[int] = []
    real = os.fsync
    used = UsedNumbers(tmp_path)
    monkeypatch.setattr(os, "fsync", lambda handle: (synced.append(os.fstat(handle).st_size), real(handle))[1])
    used.record(1, 1, request(1))
    assert synced == [56]


def test_a_disk_that_cannot_be_written_is_a_machine_error_and_nothing_is_used(tmp_path, monkeypatch):
    used = UsedNumbers(tmp_path)

    def full(handle, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(MachineError, match="No space"):
        used.record(1, 1, request(1))
    monkeypatch.undo()
    assert used.mark == 0 and UsedNumbers(tmp_path).mark == 0


def test_the_journal_keeps_no_message(tmp_path):
    path = tmp_path / "journal.jsonl"
    note(Journal(path, Identity.generate()), "answered", request(1), 7, 1, sent=b"SECRET SHARE", received=b"other")
    [entry] = read(path)
    assert "SECRET" not in path.read_text() and entry["details"]["first"] == 7
