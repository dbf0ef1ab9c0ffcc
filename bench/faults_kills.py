"""kill -9 of every process of a federation, at every stage of a run, in real processes; each is started again at once.

Four hospitals of whom one may vanish, and three of whom none may, through a coordinator on loopback. One run for each
process to be killed, in which it is killed at every stage: what a run is in stands in its `waiting.json`. Once it
is back the run must come from stage to stage, none longer than GOES_ON seconds, until a round is finished, and while it
could not, somebody must have said who or what is waited for. What is checked at a run's end: `wrong_results`,
`lost_entries` (faults_findings.py).

A run whose server program was killed alone is failed, with the reason, and goes on by `primum resume`; a coordinator
whose SuperLink was killed ends, with the reason, and is started again.
"""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.federation.playing import make_study
from tests.integration.cluster import Cluster, alive, descendants, open_files, wait_for

from bench.faults_findings import Outcome, Pair, lost_entries, wrong_results
from primum.errors import PrimumError
from primum.federation.runs import FAILED, OVER, Run
from primum.study import Study

GOES_ON = 30.0
"""Seconds after which a run that shows nothing new hangs, counted from when the killed process is back."""
STAGE = 6.0  # seconds that a hospital has for a stage
STARTS = 90.0
EVERY = 2  # rounds between two looks
ROUNDS = 24
SHORT = 6
LOOKS = 10
STAGES = (
    "setup",
    "vectors",
    "shares",
    "look: vectors",
    "look: shares",
    "checkpoint written",
    "between rounds",
    "consent",
)
"""In the order in which one run comes by: keys are set up at its beginning. For the last a run of its own is begun."""
PROCESSES = (
    "coordinator and all it started",
    "coordinator",
    "server program",
    "SuperLink",
    "hospital",
    "hospital and coordinator",
    "hospital of three",
)
# -- stages -------------------------------------------------------------------------------------------------------------


def in_look(run: Run, study: Study) -> bool:
    """Whether the round that is going on looks at the evaluation patients."""
    rounds, every = len(run.lines("metrics.jsonl")), study.training.look_every
    due = rounds > 0 and (rounds == study.training.rounds or (every > 0 and rounds % every == 0))
    return due and all(line["round"] != rounds for line in run.lines("looks.jsonl"))


@dataclass
class Moment:
    """Says when a run is at a stage; made when one begins to look for it."""

    run: Run
    study: Study
    stage: str
    _before: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        self._before = self._marks()

    def _marks(self) -> tuple[int, int]:
        """Other numbers after a checkpoint was written, and after a round's line was."""
        written = self.run.folder / "checkpoint.safetensors"
        return (written.stat().st_mtime_ns if written.exists() else 0, len(self.run.lines("metrics.jsonl")))

    def come(self) -> bool:
        """Whether it is there now."""
        if self.stage == "checkpoint written":
            return self._marks()[0] != self._before[0]
        if self.stage == "between rounds":
            return self._marks()[1] != self._before[1]
        waiting = self.run.waiting().get("stage")
        if self.stage in ("consent", "setup"):
            return bool(waiting == self.stage)
        look, _, name = self.stage.rpartition(": ")
        return bool(waiting == name and in_look(self.run, self.study) == bool(look))

    def reached(self, patience: float = 60.0) -> bool:
        """Wait for it; False if the run ended before."""
        until = time.monotonic() + patience
        while not self.come():
            if time.monotonic() > until or self.run.status().get("state") in OVER:
                return False
            time.sleep(0.0005)
        return True


# -- processes ----------------------------------------------------------------------------------------------------------


def called(cluster: Cluster, words: bytes) -> list[int]:
    """Processes below the coordinator in whose command line these words stand."""
    found = []
    for pid in descendants(cluster.coordinator.child.pid):
        with suppress(OSError):
            if words in Path(f"/proc/{pid}/cmdline").read_bytes() and alive(pid):
                found.append(pid)
    return found


def program_of(cluster: Cluster, run: Run) -> list[int]:
    """The server program of this run, by the lock that it holds: that of the run before may still be ending."""
    lock = str(run.folder / "lock")
    return [pid for pid in called(cluster, b"flwr-serverapp") if lock in open_files(pid)]


def kill(pids: list[int]) -> None:
    """All of them, as one."""
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass
class Killing:
    """One way to kill: which processes now, and how what they were is started again (returns when it is back)."""

    cluster: Cluster
    process: str
    node: int
    run: Run

    def targets(self) -> list[int]:
        """Process ids, to be had before the stage comes: then the kill is at once."""
        hub, node = self.cluster.coordinator.child.pid, self.cluster.nodes[self.node].child.pid
        match self.process:
            case "coordinator and all it started":
                return [*descendants(hub), hub]
            case "coordinator":
                return [hub]
            case "server program":
                return program_of(self.cluster, self.run)
            case "SuperLink":
                return called(self.cluster, b"flower-superlink")
            case "hospital and coordinator":
                return [node, hub]
        return [node]

    def back(self, run: Run, begun: int, connected: int) -> None:
        """Start again what was killed; `begun`, `connected`: how often coordinator and hospital had said so before."""
        if self.process == "server program":
            wait_for(lambda: run.status().get("state") == FAILED, "the run to be failed with the reason", GOES_ON)
            self.cluster.scientist.resume(run.name)
            return
        if self.process == "SuperLink":
            self.cluster.coordinator.child.wait(GOES_ON)
        if "hospital" in self.process:
            node = self.cluster.nodes[self.node]
            node.child.wait(GOES_ON)
            node.start()
        if self.process not in ("hospital", "hospital of three"):
            self.cluster.coordinator.child.wait(GOES_ON)
            self.cluster.coordinator.start()
            self.cluster.coordinator.says("Coordinator ready", times=begun + 1)
        if "hospital" in self.process:
            self.cluster.nodes[self.node].says("Connected", times=connected + 1)


# -- a run that is killed again and again -------------------------------------------------------------------------------


def study_for(cluster: Cluster, numbers: tuple[int, ...], rounds: int) -> Study:
    """Enough noise that any number of rounds is allowed, and looks all along."""
    looks = min(LOOKS, 1 + rounds // EVERY)
    noise = {"epsilon": 9.0, "noise_multiplier": 20.0, "evaluation_noise_multiplier": 20.0, "looks": looks}
    return make_study(
        [cluster.identities[number] for number in numbers],
        name=f"kills-{len(numbers)}",
        rounds=rounds,
        may_vanish=len(numbers) - 3,
        training={"look_every": EVERY},
        privacy=noise,
        deadlines={"consent": 60.0, "stage": STAGE},
    )


@dataclass
class Series:
    """One run, in which a process is killed at a stage, and then the next pair; at its end everything is checked."""

    cluster: Cluster
    pairs: tuple[Pair, ...]
    rounds: int = ROUNDS
    say: Callable[[str], None] = field(default=lambda text: None)
    outcome: Outcome = field(default_factory=Outcome)

    def run(self) -> Outcome:
        """Submit, kill at every stage, let it come to its end, check everything."""
        numbers = (1, 2, 3) if self.pairs[0][0] == "hospital of three" else (1, 2, 3, 4)
        study = study_for(self.cluster, numbers, self.rounds)
        run = self.cluster.submit(study)
        for turn, pair in enumerate(self.pairs):
            killing = Killing(self.cluster, pair[0], numbers[turn % len(numbers)], run)
            if not self._kill_at(Moment(run, study, pair[1]), killing, pair):
                self.outcome.missed.append(pair)
        self._end(run)
        self._check(run)
        return self.outcome

    def _kill_at(self, moment: Moment, killing: Killing, pair: Pair) -> bool:
        run = moment.run
        if killing.process in ("server program", "coordinator and all it started"):
            wait_for(lambda: bool(program_of(self.cluster, run)), "the server program", STARTS)
        targets = killing.targets()
        if not moment.reached():
            return False
        before = progress(run)
        begun, connected = (
            log.text().count(words)
            for log, words in (
                (self.cluster.coordinator, "Coordinator ready"),
                (self.cluster.nodes[killing.node], "Connected"),
            )
        )
        at = time.monotonic()
        kill(targets)
        self.outcome.killed.add(pair)
        with Named(self.cluster, run, killing) as named:
            try:
                killing.back(run, begun, connected)
            except (AssertionError, subprocess.TimeoutExpired) as error:
                self._hang(f"{pair}: {error}")
                return True
            self._wait_until_it_goes_on(run, before, named, pair, at)
        return True

    def _wait_until_it_goes_on(
        self, run: Run, before: tuple[int, ...], named: "Named", pair: Pair, killed_at: float
    ) -> None:
        back = since = time.monotonic()
        shown = run.waiting()
        while progress(run) <= before and run.status().get("state") not in OVER:
            if run.waiting() != shown:
                since, shown = time.monotonic(), run.waiting()
            if time.monotonic() - since > GOES_ON:
                return self._hang(f"{pair}: stands still for {GOES_ON:g} s; {run.status()} {run.waiting()}")
            time.sleep(0.1)
        took = time.monotonic() - back
        self.outcome.slowest = max(self.outcome.slowest, took)
        if not named.words and time.monotonic() - killed_at > STAGE + 2:
            self._hang(f"{pair}: nobody said who or what is waited for")
        self.say(f"{pair[0]} killed at {pair[1]}: went on {took:.1f} s after it was back ({named.words})")
        return None

    def _hang(self, words: str) -> None:
        self.outcome.hangs += 1
        self.outcome.words.append(words)
        self.say(words)

    def _end(self, run: Run) -> None:
        """To its end, by resuming where it was failed for the killed program."""
        try:
            wait_for(lambda: run.status().get("state") in OVER, "the end of the run", 240)
        except AssertionError:
            self._hang(f"no end; {run.status()} {run.waiting()}")
            self.cluster.scientist.stop(run.name)
        state = run.status()
        if state.get("state") != "finished":
            self.outcome.wrong_results += 1
            self.outcome.words.append(f"the run ended as {state}")

    def _check(self, run: Run) -> None:
        wrong, lost = list(wrong_results(self.cluster, run)), list(lost_entries(self.cluster, run))
        self.outcome.wrong_results += len(wrong)
        self.outcome.lost_entries += len(lost)
        for words in (*wrong, *lost):
            self.outcome.words.append(f"{self.pairs}: {words}")
            self.say(words)


@dataclass
class Named:
    """Whether somebody said who or what is waited for, and in which words."""

    cluster: Cluster
    run: Run
    killing: Killing
    words: str = ""
    _over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> "Named":
        self._asking = threading.Thread(target=self._ask)
        self._asking.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._asking.join()

    def _ask(self) -> None:
        while not self._over.wait(0.1):
            self.look()

    def look(self) -> None:
        """Ask as `primum status` does."""
        try:
            [status] = self.cluster.scientist.status(self.run.name)
        except PrimumError as error:
            self.words = self.words or f"status: {error.message}"
            return
        names = [awaited.name for awaited in status.awaited]
        victim = f"Hospital {self.killing.node}"
        if "hospital" in self.killing.process and victim in names:
            self.words = f"status: waits for {', '.join(names)}"
        elif "hospital" not in self.killing.process and (status.state == FAILED or names):
            self.words = self.words or f"status: {status.message or status.state}; waits for {', '.join(names)}"


def progress(run: Run) -> tuple[int, ...]:
    """Grows with every finished round and every look that was noted."""
    return (sum(len(run.lines(file)) for file in ("metrics.jsonl", "looks.jsonl")),)


def runs_of(process: str, stages: tuple[str, ...]) -> list[tuple[Pair, ...]]:
    """The pairs of each run: what comes once, at a run's beginning, cannot follow another."""
    later = tuple((process, stage) for stage in stages if stage != "consent")
    return [some for some in (later, ((process, "consent"),) if "consent" in stages else ()) if some]


def federation_kills(
    folder: Path,
    say: Callable[[str], None],
    processes: tuple[str, ...] = PROCESSES,
    stages: tuple[str, ...] = STAGES,
) -> Outcome:
    """All processes at all stages; a pair that was missed is tried once more."""
    total = Outcome()
    cluster = object.__new__(Cluster)
    cluster.nodes = {}
    try:
        cluster.__init__(folder, anew=True)  # type: ignore[misc]
        for process in processes:
            for pairs in runs_of(process, stages):
                some = Series(cluster, pairs, ROUNDS if len(pairs) > 1 else SHORT, say).run()
                again, some.missed = some.missed, []
                for pair in again:
                    some.add(Series(cluster, (pair,), SHORT, say).run())
                total.add(some)
        for log in (cluster.coordinator, *cluster.nodes.values()):
            if "Traceback" in log.text():
                total.wrong_results += 1
                total.words.append(f"{log.log.name} has a stack trace: {log.text()[-1500:]}")
    finally:
        cluster.close()
    return total
