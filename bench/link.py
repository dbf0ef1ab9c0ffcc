"""Rounds of a network of 11 million weights over a bad link: 45 MB down and up, 5 Mbit/s, 3 % loss, a break a minute.

Real processes: a coordinator, three hospitals, each behind a link of its own (`bad_link.py`; a kernel's netem would do the
same). A residual network of 11,170,753 weights, without privacy, so that an update has 32 bits a coordinate. The links
begin to be bad when all hospitals have agreed. The last line is JSON:

link        share of what the bandwidth allows: (bytes of the model + bytes of an update) / rate, over seconds of a round
seconds     of each round
computing   seconds of a round of the same study over the links without their faults: nothing but work
resent      bytes that the links carried beyond those of models and updates, as a share of them
breaks      of all links while rounds were going on

With --connections it only shows what plain TCP connections, 1, 2 and 4 at once, get of such a link without breaks.
"""

import argparse
import json
import socket
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

from bench.bad_link import BadLink, Quality
from bench.round import nodes
from primum.federation.coordinator import Coordinator, State
from primum.federation.explain import vector_bytes
from primum.federation.node import NodeState
from primum.federation.runs import FINISHED, Run
from primum.federation.scientist import Scientist
from primum.imaging.phantom import PHANTOM_PATIENT, draw
from primum.ports import free_port
from primum.study import About, Deadlines, Hospitals, Images, Study, Training
from primum.study.kinds import ResidualModel
from primum.tasks.plan import Plan

NODES = 3
SIDE = 16
FINE = Quality(rate=1e9, round_trip=0.001)


def study_of(members: list[bytes], widths: tuple[int, ...], rounds: int) -> Study:
    """Two classes of drawn images; half of the patients in a round."""
    return Study(
        study=About(name="link", purpose="A benchmark.", classes=("NORMAL", "PNEUMONIA")),
        images=Images(size=SIDE),
        model=ResidualModel(kind="residual-network", widths=widths),
        training=Training(rounds=rounds, sampling=0.1),
        privacy=None,
        hospitals=Hospitals(members=tuple(member.hex() for member in members)),
        deadlines=Deadlines(stage=120.0),
    )


class Federation:
    """A coordinator in this process, hospitals in theirs, and links in between whose quality can change."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.state = folder, State.open(folder / "coordinator")
        drawn = draw(folder / "drawn", 60) / "train"
        port = free_port()
        self.coordinator = Coordinator(self.state, "127.0.0.1", port, lambda text: None)
        ready = threading.Event()
        threading.Thread(target=self.coordinator.serve, args=(lambda address: ready.set(),), daemon=True).start()
        ready.wait(60)
        self.links = [BadLink(port, FINE, seed) for seed in range(NODES)]
        self.members = []
        for number, link in enumerate(self.links):
            node = NodeState.open(folder / f"node-{number}")
            self.members.append(node.identity.public)
            (node.folder / "policy.toml").write_text("without_privacy = true\nepsilon_cap = 8.0\n")
            (folder / f"images-{number}").symlink_to(drawn)
            (folder / f"{number}.join").write_text(self.state.invite(f"node {number}", f"127.0.0.1:{link.port}"))

    def train(self, study: Study, quality: Quality) -> tuple[list[float], int, int]:
        """Seconds of each round; bytes carried and breaks on all links in the rounds."""
        scientist = Scientist.at(self.state.folder)
        run = Run(self.state.runs / scientist.submit(study))
        while run.status().get("state") in ("queued", "running") and not run.started()[0]:
            time.sleep(0.05)
        before = [(sum(link.carried.values()), link.breaks) for link in self.links]
        for link in self.links:
            link.change(quality)
        while run.status().get("state") in ("queued", "running"):
            time.sleep(0.2)
        for link in self.links:
            link.change(FINE)
        if run.status().get("state") != FINISHED:
            raise SystemExit(f"{run.status()}\n{(run.folder / 'log.txt').read_text()}")
        carried = sum(sum(link.carried.values()) - old for link, (old, _) in zip(self.links, before, strict=True))
        breaks = sum(link.breaks - old for link, (_, old) in zip(self.links, before, strict=True))
        for line in run.lines("attempts.jsonl"):
            print("attempt failed:", line)
        return [line["seconds"] for line in run.lines("metrics.jsonl")], carried, breaks


def connections(quality: Quality, count: int, seconds: float = 8.0) -> float:
    """Share of the bandwidth that so many connections get together, after two seconds to begin in."""
    source = socket.create_server(("127.0.0.1", 0))
    link, over, got = BadLink(source.getsockname()[1], quality), threading.Event(), [0] * count

    def give() -> None:
        with suppress(OSError):
            while True:
                near, _ = source.accept()
                threading.Thread(target=pour, args=(near,), daemon=True).start()

    def pour(near: socket.socket) -> None:
        with suppress(OSError), near:
            while not over.is_set():
                near.sendall(bytes(1 << 16))

    def take(number: int) -> None:
        with suppress(OSError), socket.create_connection(("127.0.0.1", link.port)) as line:
            while not over.is_set():
                got[number] += len(line.recv(1 << 16))

    for target, args in ((give, ()), *((take, (number,)) for number in range(count))):
        threading.Thread(target=target, args=args, daemon=True).start()
    time.sleep(2)
    before, began = sum(got), time.monotonic()
    time.sleep(seconds)
    share = (sum(got) - before) / (time.monotonic() - began) / quality.rate
    over.set()
    link.close()
    source.close()
    return share


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--mbit", type=float, default=5.0)
    parser.add_argument("--loss", type=float, default=0.03)
    parser.add_argument("--every", type=float, default=60.0, help="seconds between breaks")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--widths", type=int, nargs="+", default=[64, 128, 256, 512])
    parser.add_argument("--connections", action="store_true", help="only what 1, 2 and 4 connections get")
    given = parser.parse_args()
    rate = given.mbit * 1e6 / 8
    if given.connections:
        shares = {
            f"{count} at {loss:.0%} loss": round(connections(Quality(rate, 0.04, loss), count), 2)
            for loss in (0.0, given.loss)
            for count in (1, 2, 4)
        }
        print(json.dumps({"connections": shares}))
        return
    quality = Quality(rate=rate, round_trip=0.04, loss=given.loss, every=given.every, away=2.0 if given.every else 0.0)
    with tempfile.TemporaryDirectory() as name:
        federation = Federation(Path(name))
        study = study_of(federation.members, tuple(given.widths), given.rounds)
        plan = Plan(study)
        size = 4 * plan.dimension + vector_bytes(plan)
        with nodes(federation.folder, ["primum", "node"], PHANTOM_PATIENT):
            fine, _, _ = federation.train(study, FINE)
            seconds, carried, breaks = federation.train(study, quality)
        federation.coordinator.stop()
    allowed = size / rate
    for number, taken in enumerate(seconds, start=1):
        print(f"round {number}: {taken:.0f} s; the bandwidth allows {allowed:.0f} s; {allowed / taken:.2f}")
    moved = NODES * len(seconds) * size
    line = {
        "link": round(allowed / (sum(seconds) / len(seconds)), 3),
        "seconds": [round(taken, 1) for taken in seconds],
        "computing": round(min(fine), 1),
        "resent": round(carried / moved - 1, 3),
        "breaks": breaks,
        "megabytes": round(size / 2e6, 1),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
