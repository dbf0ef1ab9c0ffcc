"""A run's folder: whole or not at all."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.federation.playing import make_study

from primum.errors import MachineError, PeerError
from primum.federation.runs import FINISHED, QUEUED, Run
from primum.keys.identity import Identity
from primum.study import sign_study


@pytest.fixture
def run(tmp_path: Path) -> Run:
    members = [bytes([place]) * 32 for place in range(3)]
    return Run.create(tmp_path / "runs", sign_study(make_study(members), Identity.generate()), "tiny")


def test_a_new_run_is_queued_private_and_named_by_sixteen_random_bytes(run: Run) -> None:
    assert run.status()["state"] == QUEUED
    assert run.folder.stat().st_mode & 0o777 == 0o700
    assert len(run.token) == 16
    assert run.signed_study().text == (run.folder / "study.toml").read_text()


def test_a_half_written_last_line_is_dropped(run: Run) -> None:
    run.append("metrics.jsonl", {"round": 1})
    with (run.folder / "metrics.jsonl").open("a") as file:
        file.write('{"round": 2, "sec')
    assert run.lines("metrics.jsonl") == [{"round": 1}]
    run.append("metrics.jsonl", {"round": 2})
    assert run.lines("metrics.jsonl") == [{"round": 1}, {"round": 2}], "and does not swallow the next"


def test_a_checkpoint_comes_back_bit_for_bit(run: Run) -> None:
    weights = np.array([0.1, -1e-300, 3e300])
    assert run.last_checkpoint() is None
    run.checkpoint({"weights": weights})
    found = run.last_checkpoint()
    assert found is not None
    assert found["weights"].tobytes() == weights.tobytes()


def test_a_checkpoint_brings_the_lines_of_its_round_and_says_if_it_is_damaged(run: Run) -> None:
    run.checkpoint({"weights": np.zeros(2)}, {"metrics.jsonl": {"round": 1, "seconds": 0.25}})
    (run.folder / "metrics.jsonl").unlink()  # as a kill between the two would leave it
    for _ in range(2):
        assert run.last_checkpoint() is not None
        assert run.lines("metrics.jsonl") == [{"round": 1, "seconds": 0.25}]
    path = run.folder / "checkpoint.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(MachineError, match="is damaged"):
        run.last_checkpoint()


def test_what_people_look_at_may_be_lost_and_what_counts_may_not(run: Run) -> None:
    (run.folder / "waiting.json").write_bytes(b"")
    assert run.waiting() == {}
    (run.folder / "started.json").write_bytes(b"")
    with pytest.raises(MachineError, match=r"started\.json is damaged"):
        run.started()


def test_a_writer_that_is_killed_leaves_the_last_whole_file(run: Run) -> None:
    run.start(1, 1)
    program = (
        "import sys; from pathlib import Path; from primum.federation.runs import Run\n"
        "run = Run(Path(sys.argv[1])); n = 1\n"
        "print('go', flush=True)\n"
        "while True: n += 1; run.start(n, n)\n"
    )
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", program, str(run.folder)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        for _ in range(20):
            number, session = run.started()
            assert number == session >= 1
        writer.kill()
        writer.wait()
        writer.stdout.close()
        number, session = run.started()
        assert number == session >= 1


def test_the_flower_number_stays_when_the_state_changes(run: Run) -> None:
    run.set_status("running", "starting", flower=12)
    run.set_status(FINISHED)
    assert run.status()["flower"] == 12


def test_only_results_are_handed_out(run: Run) -> None:
    run.checkpoint({"weights": np.zeros(1)})
    names = {name for name, _ in run.results()}
    assert names == {"study.toml", "status.json", "request.bin"}


def test_a_lock_is_held_by_one_process_until_it_ends(run: Run) -> None:
    program = (
        "import sys; from pathlib import Path; from primum.federation.runs import Run\n"
        "held = Run(Path(sys.argv[1])).lock(); print('held', flush=True); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(run.folder)]
    first = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert first.stdout is not None
    assert first.stdout.readline() == b"held\n"
    second = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert second.stdout is not None
    os.set_blocking(second.stdout.fileno(), False)
    assert second.stdout.read() is None
    assert run.locked
    first.kill()
    first.communicate()
    os.set_blocking(second.stdout.fileno(), True)
    assert second.stdout.readline() == b"held\n"
    second.communicate()
    assert not run.locked


def test_a_request_that_was_altered_on_disk_is_not_a_study(run: Run) -> None:
    (run.folder / "request.bin").write_bytes(b"\x01\x80")
    with pytest.raises(PeerError, match="this run's folder"):
        run.signed_study()
