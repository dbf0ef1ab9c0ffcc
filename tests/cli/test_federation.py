"""The command line of the federation side: quick help, and bad input in a line or two."""

import contextlib
import json
import os
import pty
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.command import run_command

from primum.errors import InputError
from primum.journal import Journal, read
from primum.keys.identity import Identity

HEAVY = ("torch", "numpy", "flwr", "pydicom", "matplotlib", "scipy", "numba", "pydantic")


def primum(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_command(*arguments, timeout=60, COLUMNS="200")


def refused(done: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    assert done.returncode == code, done
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_help_names_every_verb_and_imports_nothing_heavy() -> None:
    program = (
        "import sys\nsys.argv = ['primum', '--help']\nfrom primum.cli import main\n"
        "try:\n    main()\nfinally:\n"
        f"    print('HEAVY', sorted(set({HEAVY!r}) & set(sys.modules)), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "HEAVY []" in done.stderr
    for verb in (
        "coordinator",
        "node",
        "train",
        "inspect",
        "data",
        "pacs",
        "new",
        "demo",
        "report",
        "deploy",
        "dealer",
        "serve",
        "diagnose",
    ):
        assert verb in done.stdout


def test_a_verb_that_does_not_exist_is_named() -> None:
    refused(primum("trian"), 2, "trian")


@pytest.fixture(scope="module")
def study_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("new") / "study.toml"
    done = primum("new", "study", str(path))
    assert done.returncode == 0, done
    return path


def test_a_new_study_has_comments_and_is_explained_without_members(study_file: Path) -> None:
    assert study_file.read_text().count("#") > 15
    done = primum("train", str(study_file), "--check")
    assert done.returncode == 0, done
    for word in (
        "3 hospitals (none named yet",
        "noise multiplier",
        "epsilon per patient at delta 1e-05",
        "bytes",
        "40 rounds",
    ):
        assert word in done.stdout, done.stdout


def test_a_study_is_not_written_over_another(study_file: Path) -> None:
    before = study_file.read_text()
    refused(primum("new", "study", str(study_file)), 2, "exists already", str(study_file))
    assert study_file.read_text() == before


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("epsilon = 3.0", "epsilom = 3.0", "unknown key privacy.epsilom"),
        ("epsilon = 3.0", "epsilom = 3.0", "Did you mean privacy.epsilon?"),
        ("rounds = 40", "rounds = 0", "training.rounds"),
        ("delta = 1e-5", "delta = 1e-3", "too large for 379 patients"),
        ("[training]", "[training", "not valid TOML"),
        ("patients = 379", "# patients", "privacy.patients is missing"),
        ("[study]", "[study]\nexpires = 2020-01-01", "study.expires = 2020-01-01 is past"),
    ],
)
def test_a_wrong_study_is_refused_with_its_file_and_key(
    study_file: Path, tmp_path: Path, old: str, new: str, says: str
) -> None:
    path = tmp_path / "wrong.toml"
    assert old in study_file.read_text()
    path.write_text(study_file.read_text().replace(old, new))
    refused(primum("train", str(path), "--check"), 2, says, str(path))


def test_a_model_that_does_not_fit_its_images_is_refused_with_its_file_and_sections(
    study_file: Path, tmp_path: Path
) -> None:
    path, model = tmp_path / "wrong.toml", '[model]\nkind = "vgg"\nwidths = [2, 2, 2, 2, 2, 2]\n\n['
    text = re.sub(r"\[model\].*?\n\[", lambda _: model, study_file.read_text(), flags=re.DOTALL)
    path.write_text(text)
    refused(
        primum("train", str(path), "--check"), 2, f"{path}: [model] and [images]: ", "blocks (1, 1, 2, 2, 2) for widths"
    )


def test_a_study_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(primum("train", str(tmp_path / "none.toml"), "--check"), 2, "none.toml")


def test_training_without_a_coordinator_says_what_to_start(study_file: Path, tmp_path: Path) -> None:
    done = primum("train", str(study_file), "--state", str(tmp_path / "state"))
    refused(done, 2, "coordinator.toml does not exist", "primum coordinator")


def test_an_invitation_before_the_first_start_says_what_to_start(tmp_path: Path) -> None:
    done = primum("coordinator", "--state", str(tmp_path / "state"), "invite", "North")
    refused(done, 2, "coordinator.toml does not exist", "Start `primum coordinator` first")
    assert done.stdout == ""


def test_a_scientists_key_that_is_no_key_is_refused(tmp_path: Path) -> None:
    refused(primum("coordinator", "--state", str(tmp_path), "scientist", "abc"), 2, "64 hex digits")
    assert not (tmp_path / "scientists.txt").exists()


def test_a_node_with_a_wrong_join_file_or_folder_is_told_which(tmp_path: Path) -> None:
    join = tmp_path / "north.join"
    refused(primum("node", "--join", str(join), "--data", str(tmp_path)), 2, "north.join")
    join.write_text("hospital = 'x'\n")
    refused(primum("node", "--join", str(join), "--data", str(tmp_path)), 2, "north.join", "missing")
    text = f"hospital = 'x'\naddress = 'h:1'\ncoordinator = '{'00' * 32}'\ncertificate = ''\ntoken = '00'\n"
    join.write_text(text)
    refused(primum("node", "--join", str(join), "--data", str(tmp_path / "none")), 2, "none is not a folder")


# -- the terminal -------------------------------------------------------------------------------------------------------

DESK = """
import sys, time
from primum.federation.terminal import TerminalDesk
desk = TerminalDesk(lambda text: print(text, flush=True))
while True:
    answer, by = desk.ask(b"run", None, None, b"")
    if answer != "waiting":
        break
    time.sleep(0.02)
print("ANSWER", answer, flush=True)
"""


def at_a_terminal(play: Callable[[int, Callable[[str], None]], None], program: str = DESK) -> tuple[int, str]:
    """Runs `program` at a pseudo-terminal; returns its exit code and all that it said."""
    near, far = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", program], stdin=far, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    os.close(far)
    said: list[str] = []
    assert child.stdout is not None
    output = child.stdout
    reader = threading.Thread(target=lambda: said.extend(iter(lambda: output.readline().decode(), "")))
    reader.start()

    def until(text: str) -> None:
        end = time.monotonic() + 40
        while text not in "".join(said):
            assert time.monotonic() < end, said
            time.sleep(0.02)

    try:
        play(near, until)
        code = child.wait(timeout=20)
    finally:
        child.kill()
        child.wait()
        reader.join()
        output.close()
        with contextlib.suppress(OSError):
            os.close(near)
    return code, "".join(said)


@pytest.mark.parametrize(("typed", "answer"), [("yes", "yes"), ("no", "no"), ("maybe\nYES", "yes"), ("\nno", "no")])
def test_a_person_answers_at_the_terminal(typed: str, answer: str) -> None:
    def play(terminal: int, until: Callable[[str], None]) -> None:
        until("Take part in this study? Type yes or no:")
        first, *rest = typed.split("\n")
        os.write(terminal, first.encode() + b"\n")
        for line in rest:
            until("\nType yes or no:")
            os.write(terminal, line.encode() + b"\n")

    code, said = at_a_terminal(play)
    assert code == 0
    assert f"ANSWER {answer}" in said


def test_a_terminal_that_hangs_up_says_no() -> None:
    def play(terminal: int, until: Callable[[str], None]) -> None:
        until("Take part")
        os.close(terminal)

    code, said = at_a_terminal(play)
    assert "ANSWER no" in said or code < 0  # the hang-up may end the process before it can say so


def test_a_process_ends_cleanly_while_a_question_stands() -> None:
    program = DESK.replace("while True:", "for _ in range(10):")

    def play(terminal: int, until: Callable[[str], None]) -> None:
        until("ANSWER waiting")

    code, said = at_a_terminal(play, program)
    assert code == 0, said
    assert "Fatal" not in said


# -- the journal --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", [0, 1, 2])
def test_a_journal_that_was_altered_in_the_middle_is_found_out(tmp_path: Path, line: int) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, Identity.generate())
    for number in range(4):
        journal.write("vector", round=number)
    assert len(read(path)) == 4
    lines = path.read_text().splitlines()
    lines[line] = lines[line].replace(f'"round":{line}', '"round":9')
    path.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError, match=f"the chain breaks at line {line + 2}"):
        read(path)


def test_a_line_that_was_left_out_is_found_out(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path, Identity.generate())
    for number in range(3):
        journal.write("vector", round=number)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[2]]) + "\n")
    with pytest.raises(InputError, match="line 2"):
        read(path)


def test_secagg_plan_is_a_table_or_json() -> None:
    shown = primum("secagg", "plan", "6")
    assert shown.returncode == 0, shown
    for words in ("Secure aggregation of 6 hospitals", "exchanges a round", "Refused: 6 hospitals with 1 colluding"):
        assert words in shown.stdout
    lines = primum("secagg", "plan", "1000", "--colluding", "100", "--may-vanish", "100", "--json").stdout.splitlines()
    (row,) = map(json.loads, lines)
    assert (row["degree"], row["threshold"], row["k_min"], row["exchanges"]) == (176, 126, 800, 3)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("2",), "secure aggregation needs 3"),
        (("4", "--may-vanish", "2"), "cannot lose 2"),
        (("1000", "--colluding", "400", "--may-vanish", "100"), "no neighbourhood is safe"),
        (("many",), "not a valid integer"),
        (("5", "--bits", "40"), "8<=x<=32"),
    ],
)
def test_secagg_plan_refuses_by_name(arguments: tuple[str, ...], words: str) -> None:
    done = primum("secagg", "plan", *arguments)
    assert done.returncode != 0
    assert words in done.stderr
    assert "Traceback" not in done.stderr
