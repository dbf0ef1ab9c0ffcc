"""Runs whose server program cannot start, with a real SuperLink: ended within a minute, with the reason."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.federation.playing import make_study

from primum.federation.runs import FAILED, STOPPED, Run
from primum.federation.superlink import SuperLink, bundle
from primum.federation.supervision import Supervisor
from primum.keys.certificate import load_or_make
from primum.keys.identity import Identity
from primum.study import sign_study


@dataclass
class Broken(SuperLink):
    """Starts another program than ours: one that is not there."""

    program: str = "primum.federation.not_there"

    def start_run(self, run: str, content: bytes | None = None) -> int:
        """Of that program."""
        return super().start_run(run, bundle(self.program))


@pytest.fixture(scope="module")
def link(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broken]:
    state = tmp_path_factory.mktemp("state")
    (state / "keys").mkdir()
    started = Broken.start(state, load_or_make(state / "keys", "127.0.0.1"))
    assert isinstance(started, Broken)
    yield started
    started.stop()


def submitted(folder: Path) -> Run:
    study = make_study([Identity.generate().public for _ in range(3)])
    return Run.create(folder / "runs", sign_study(study, Identity.generate()), "tiny")


def watched(supervisor: Supervisor, run: Run) -> dict[str, object]:
    """Until the run is over; at most a minute."""
    until = time.monotonic() + 60
    while run.status().get("state") not in (FAILED, STOPPED):
        assert time.monotonic() < until, run.status()
        supervisor.look()
        time.sleep(0.1)
    return run.status()


def test_a_program_that_cannot_be_imported_fails_the_run_with_pythons_words(link: Broken, tmp_path: Path) -> None:
    run, said = submitted(tmp_path), list[str]()
    link.program = "primum.federation.not_there"
    status = watched(Supervisor(tmp_path / "runs", link, 2, said.append), run)
    assert "No module named 'primum.federation.not_there'" in str(status["message"])
    assert any("not_there" in line for line in said)


def test_a_run_that_was_stopped_before_its_program_began_is_stopped_and_not_failed(
    link: Broken, tmp_path: Path
) -> None:
    run = submitted(tmp_path)
    supervisor = Supervisor(tmp_path / "runs", link, 2, lambda line: None)
    link.program = "primum.federation.not_there"
    supervisor.look()
    run.ask_to_stop()
    assert watched(supervisor, run)["state"] == STOPPED
    assert supervisor.running == {}
