"""Logs of roles: private, bounded, words or JSON; a full disk or an error loses nothing of what is on the screen."""

import json
import stat
from pathlib import Path

import pytest

from primum import logs
from primum.errors import MachineError, Refused


def test_lines_are_json_with_level_and_the_error_that_ended_it(tmp_path: Path) -> None:
    said: list[str] = []
    with pytest.raises(Refused), logs.kept(tmp_path / "a.log", "json", "node", said.append) as say:
        say('Enrolled as "Zürich"')
        say("Warning: the certificate ends")
        raise Refused("No.", "Ask.")
    assert said == ['Enrolled as "Zürich"', "Warning: the certificate ends"]
    lines = [json.loads(line) for line in (tmp_path / "a.log").read_text().splitlines()]
    assert [(line["level"], line["event"]) for line in lines] == [
        ("info", "started"),
        ("info", 'Enrolled as "Zürich"'),
        ("warning", "Warning: the certificate ends"),
        ("error", "No. Ask."),
    ]
    assert all(line["role"] == "node" and line["time"].endswith("Z") for line in lines)


def test_files_are_private_and_no_more_than_five(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "LARGEST", 1000)
    with logs.kept(tmp_path / "a.log", "text", "node", lambda text: None) as say:
        for number in range(500):
            say(f"line {number} {'x' * 50}")
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["a.log", *(f"a.log.{number}" for number in range(1, 5))]
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}
    assert all(file.stat().st_size <= 1000 for file in files)
    assert "line 499" in "".join(file.read_text() for file in files)


def test_a_file_that_was_readable_by_all_becomes_private(tmp_path: Path) -> None:
    (tmp_path / "a.log").touch(0o644)
    with logs.kept(tmp_path / "a.log", "text", "node", lambda text: None):
        pass
    assert stat.S_IMODE((tmp_path / "a.log").stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written_is_named_before_the_role_starts(tmp_path: Path) -> None:
    with (
        pytest.raises(MachineError, match=r"none/a\.log cannot be written"),
        logs.kept(tmp_path / "none" / "a.log", "text", "node", print),
    ):
        pytest.fail("it began")


def test_without_a_file_everything_is_as_it_was(tmp_path: Path) -> None:
    with logs.kept(None, "json", "node", print) as say:
        assert say is print


def test_a_long_log_of_another_process_begins_anew_and_its_writer_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "b.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 100)
        logs.bound(path, 1000)
        assert path.stat().st_size == 400
        writer.write(b"old\n" * 200)
        logs.bound(path, 1000)
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert (tmp_path / "b.log.1").read_bytes() == b"old\n" * 300
    logs.bound(tmp_path / "none", 1)
