"""Many resident hospitals and one coordinator, rounds without a pause: does memory grow, are descriptors left open?

Real processes on loopback, images of 16 pixels. Every few seconds the resident memory and the open descriptors of each
hospital's process, and of the coordinator with all that it started, are noted. Growth is from the median over half a
minute from minute 3 on (or from the middle of a shorter run) to the median over the last half minute.
"""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from tests.federation.playing import PATTERN, make_study, write_images
from tests.integration.cluster import Process, descendants, wait_for

from primum.federation.coordinator import State
from primum.federation.node import NodeState
from primum.federation.runs import RUNNING, Run
from primum.federation.scientist import Scientist
from primum.ports import free_port
from primum.study import Study

WARM = 180.0
WINDOW = 30.0
EVERY = 5.0
AT_ONCE = 4  # hospitals that start beside each other
ROUNDS = 20_000


@dataclass(frozen=True)
class Sample:
    """Bytes and descriptors at one time; of the coordinator with its children, and of each hospital."""

    at: float
    hub: tuple[int, int]
    nodes: tuple[tuple[int, int], ...]


def weight(pids: list[int]) -> tuple[int, int]:
    """Resident bytes and open descriptors of some processes together; of one that has just ended nothing."""
    resident = descriptors = 0
    for pid in pids:
        with suppress(OSError, StopIteration):
            status = Path(f"/proc/{pid}/status").read_text().splitlines()
            resident += 1024 * int(next(line for line in status if line.startswith("VmRSS")).split()[1])
            descriptors += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return resident, descriptors


@dataclass
class Soak:
    """The processes; closed at the end."""

    folder: Path
    count: int
    say: Callable[[str], None]
    nodes: list[Process] = field(default_factory=list)
    members: list[bytes] = field(default_factory=list)

    def start(self) -> None:
        """The coordinator, then the hospitals, a few at a time."""
        self.state = State.open(self.folder / "coordinator")
        arguments = ("coordinator", "--state", str(self.state.folder), "--port", str(free_port()))
        self.hub = Process(self.folder / "coordinator.log", arguments, anew=True)
        self.hub.says("Coordinator ready")
        for number in range(1, self.count + 1):
            self.nodes.append(self._node(number))
            if number % AT_ONCE == 0 or number == self.count:
                for node in self.nodes[-AT_ONCE:]:
                    node.says("Connected")
                self.say(f"{number} hospitals are connected; one has {weight([self.nodes[0].child.pid])[0] >> 20} MiB")

    def _node(self, number: int) -> Process:
        state = NodeState.open(self.folder / f"hospital-{number}")
        self.members.append(state.identity.public)
        (state.folder / "policy.toml").write_text("epsilon_cap = 200.0\nrdp_order = 8\n")
        images = write_images(self.folder / f"images-{number}", 100 * number)
        join = self.folder / f"{number}.join"
        join.write_text(self.state.invite(f"Hospital {number}"))
        given = ("--join", str(join), "--data", str(images), "--state", str(state.folder), "--patient", PATTERN)
        return Process(self.folder / f"node-{number}.log", ("node", *given), anew=True)

    def study(self) -> Study:
        """More rounds than there is time for, with so much noise that they are allowed."""
        noise = {"epsilon": 9.0, "noise_multiplier": 500.0, "looks": 0, "patients": 9 * self.count}
        deadlines = {"consent": 300.0, "stage": 120.0}
        members = sorted(self.members)
        return make_study(members, name="soak", rounds=ROUNDS, may_vanish=1, privacy=noise, deadlines=deadlines)

    def sample(self) -> Sample:
        """Now."""
        hub = self.hub.child.pid
        return Sample(
            time.monotonic(), weight([hub, *descendants(hub)]), tuple(weight([node.child.pid]) for node in self.nodes)
        )

    def close(self) -> None:
        """End all of them."""
        for process in (*self.nodes, self.hub):
            process.end()


def soak(folder: Path, count: int, minutes: float, say: Callable[[str], None]) -> dict[str, float]:
    """The figures of so many hospitals after so many minutes of rounds."""
    running = Soak(folder, count, say)
    try:
        running.start()
        scientist = Scientist.at(running.state.folder)
        run = Run(running.state.runs / scientist.submit(running.study()))
        wait_for(lambda: bool(run.lines("metrics.jsonl")), "the first round", 600)
        samples = _samples(running, run, 60 * minutes, say)
        figures = growth(samples, min(WARM, 30 * minutes))
        rounds, failed = len(run.lines("metrics.jsonl")), len(run.lines("attempts.jsonl"))
        scientist.stop(run.name)
        wait_for(lambda: run.status().get("state") != RUNNING, "the stop", 300)
    finally:
        running.close()
    return {
        "soak_nodes": count,
        "soak_minutes": minutes,
        "soak_rounds": rounds,
        "soak_failed_attempts": failed,
        **figures,
    }


def _samples(running: Soak, run: Run, seconds: float, say: Callable[[str], None]) -> list[Sample]:
    samples, began, said = [running.sample()], time.monotonic(), 0.0
    while time.monotonic() - began < seconds:
        time.sleep(EVERY)
        samples.append(running.sample())
        if time.monotonic() - said > WINDOW:
            said, last = time.monotonic(), samples[-1]
            heaviest = max(resident for resident, _ in last.nodes)
            say(
                f"{last.at - began:5.0f} s: round {len(run.lines('metrics.jsonl'))}, coordinator {last.hub[0] >> 20} MiB "
                f"and {last.hub[1]} descriptors, the heaviest hospital {heaviest >> 20} MiB and {last.nodes[0][1]}"
            )
    return samples


def growth(samples: list[Sample], warm: float) -> dict[str, float]:
    """Shares by which memory grew, and descriptors that were left open, between the two windows."""
    begin, end = samples[0].at + warm, samples[-1].at
    early = [sample for sample in samples if begin <= sample.at <= begin + WINDOW]
    late = [sample for sample in samples if sample.at >= end - WINDOW]
    hub = _grown([one.hub for one in early], [one.hub for one in late])
    nodes = [
        _grown([one.nodes[place] for one in early], [one.nodes[place] for one in late])
        for place in range(len(samples[0].nodes))
    ]
    return {
        "soak_growth_coordinator": round(hub[0], 4),
        "soak_growth_nodes": round(max(share for share, _ in nodes), 4),
        "soak_descriptors": max(0, hub[1], *(more for _, more in nodes)),
    }


def _grown(early: list[tuple[int, int]], late: list[tuple[int, int]]) -> tuple[float, int]:
    before, after = (median(resident for resident, _ in some) for some in (early, late))
    opened, left = (median(descriptors for _, descriptors in some) for some in (early, late))
    return after / before - 1, round(left - opened)
