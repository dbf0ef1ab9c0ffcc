"""Runs at the coordinator: those that wait are started, several beside each other; none is left hanging."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from primum.federation.runs import FAILED, OVER, QUEUED, RUNNING, STARTING, STOPPED, Run
from primum.federation.superlink import SuperLink

STUDIES_AT_ONCE: Final = 4
_BEGINS: Final = 45.0  # seconds in which a server program says its first word
_STOPS: Final = 20.0  # seconds that it may take over a stop
_ASKS: Final = 5.0  # seconds between questions to Flower about a program that holds its run: an end is seen by the lock


@dataclass
class Program:
    """A server program: Flower's number of its run, how long SuperLink's log was when it began, and when Flower was last
    asked about it."""

    number: int
    log: int
    asked: float = 0.0


class Supervisor:
    """At most `most` runs at once, the oldest first, each with a server program of its own.

    A run whose server program ended without a word is failed; one that was running when the coordinator was killed is
    started again, and goes on after its last finished round.
    """

    def __init__(self, runs: Path, link: SuperLink, most: int, say: Callable[[str], None]) -> None:
        self._runs, self._link, self._most, self._say = runs, link, most, say
        self._numbers: dict[str, Program] = {}

    @property
    def running(self) -> dict[str, int]:
        """Flower's run number of each run that has a server program now."""
        return {name: program.number for name, program in self._numbers.items()}

    def look(self) -> None:
        """Note which runs ended, and start the next ones. Raises what SuperLink answers; call it again then."""
        for name, program in list(self._numbers.items()):
            self._watch(Run(self._runs / name), program)
        for run in self._waiting():
            if len(self._numbers) >= self._most:
                return
            self._start(run)

    def _watch(self, run: Run, program: Program) -> None:
        status = run.status()
        holds = status.get("state") == RUNNING and status.get("message") != STARTING and run.locked
        if holds and not run.stop_asked and time.monotonic() - program.asked < _ASKS:
            return
        program.asked = time.monotonic()
        word = self._link.run_status(program.number)
        if not word.startswith("finished"):
            self._end_what_hangs(run, program.number)
            return
        self._note_end(run, word)

    def _note_end(self, run: Run, word: str) -> None:
        if run.status().get("state") not in (*OVER, QUEUED):  # queued: it was resumed while its program was ending
            why = self._link.last_error(self._numbers[run.name].log) or word
            stopped = (STOPPED, "stopped; the last finished round is kept")
            run.set_status(*stopped if run.stop_asked else (FAILED, f"the server program ended: {why}"))
        del self._numbers[run.name]
        self._say(f"Run {run.name}: {run.status().get('state')} {run.status().get('message', '')}".rstrip())

    def _end_what_hangs(self, run: Run, number: int) -> None:
        """A program that was killed, never says a word, or does not heed a stop, is ended from outside.

        Flower itself notices one that was killed after a minute.
        """
        status = run.status()
        age = time.time() - float(status.get("at", 0.0))
        if status.get("message") == STARTING and age > _BEGINS:
            self._link.stop_run(number)
            self._note_end(run, f"it said nothing for {_BEGINS:g} s")
        elif run.stop_asked and time.time() - run.stop_asked_at > _STOPS:
            self._link.stop_run(number)
            self._note_end(run, "it was stopped")
        elif status.get("state") == RUNNING and status.get("message") != STARTING and not run.locked:
            self._link.stop_run(number)
            self._note_end(run, "it was killed, or ended without a word")

    def _waiting(self) -> list[Run]:
        runs = [Run(folder) for folder in sorted(self._runs.glob("*"))] if self._runs.exists() else []
        states = (QUEUED, RUNNING)
        return [run for run in runs if run.name not in self._numbers and run.status().get("state") in states]

    def _start(self, run: Run) -> None:
        begun = self._link.log_size
        number = self._link.start_run(run.name)
        self._numbers[run.name] = Program(number, begun)
        run.set_status(RUNNING, STARTING, flower=number)
        self._say(f"Run {run.name}: started")
