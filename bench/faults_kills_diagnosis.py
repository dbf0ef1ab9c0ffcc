"""kill -9 of dealer, server A, server B and the data owner's process, at many moments of a request; and started again.

Moments are shares of the measured time of a request of 16 images from when it is asked, and two between requests: right
after an answer, while the material of the next one is made, and idle. Afterwards a request must be answered rightly (as
the model in clear does), and no number or request may stand twice in what a role has used.
"""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tests.diagnosis.conftest import Cluster, images, used_records

from bench.faults_findings import Outcome
from bench.faults_kills import GOES_ON
from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.deployment import load_public
from primum.errors import PeerError, PrimumError, Unavailable
from primum.journal import read as read_journal

ROLES = ("dealer", "A", "B")
OWNER = "data owner"
SHARES = (0.05, 0.2, 0.35, 0.5, 0.65, 0.8, 0.95)
BETWEEN = ("material is made", "idle")
IMAGES = 16
TOLERANCE = 0.01


def moments(shares: tuple[float, ...] = SHARES) -> tuple[str, ...]:
    """Names of all moments."""
    return (*(f"{share:.0%} of a request" for share in shares), *BETWEEN)


@dataclass
class _Asked:
    """A request in another thread: its answers, or why there are none."""

    cluster: Cluster
    batch: torch.Tensor
    error: Exception | None = None
    logits: list[tuple[float, ...]] = field(default_factory=list)

    def start(self) -> "threading.Thread":
        thread = threading.Thread(target=self._work)
        thread.start()
        return thread

    def _work(self) -> None:
        try:
            self.logits = [one.logits for one in diagnose(self.batch, self.cluster.public)]
        except Exception as error:  # told by the caller, if it is of the wrong kind
            self.error = error


def right(cluster: Cluster, batch: torch.Tensor, logits: list[tuple[float, ...]]) -> bool:
    """Whether these are what the model says in clear."""
    assert cluster.model is not None
    plain = cluster.model.logits(batch).numpy()
    return bool(np.abs(np.array(logits) - plain).max() < TOLERANCE)


@dataclass
class Kills:
    """A deployment whose processes are killed in turn."""

    cluster: Cluster
    say: Callable[[str], None]
    outcome: Outcome = field(default_factory=Outcome)
    takes: float = 0.0

    def measure(self) -> None:
        """Median seconds of a request, after some that make everything warm."""
        times = []
        for _ in range(7):
            began = time.monotonic()
            diagnose(images(IMAGES), self.cluster.public)
            times.append(time.monotonic() - began)
        self.takes = sorted(times[2:])[2]
        self.say(f"a request of {IMAGES} images takes {self.takes:.3f} s")

    def kill(self, role: str, share: float | None, moment: str) -> None:
        """One kill of a role; `share` of a request, None between two."""
        batch = images(IMAGES)
        asked = _Asked(self.cluster, batch)
        if share is None:
            diagnose(images(1), self.cluster.public)
            time.sleep(0.005 if moment == BETWEEN[0] else 1.0)
            self.cluster.kill(role)
        else:
            thread = asked.start()
            time.sleep(share * self.takes)
            self.cluster.kill(role)
            thread.join(60)
            self._judge(asked, thread, role, moment)
        self.outcome.killed.add((role, moment))
        self.cluster.start(role)
        self._goes_on(role, moment, asked.error)

    def _judge(self, asked: _Asked, thread: threading.Thread, role: str, moment: str) -> None:
        if thread.is_alive():
            self._note("hangs", f"({role}, {moment}): the request that was going on never ended")
        elif asked.error is not None and not isinstance(asked.error, PrimumError):
            self._note("wrong_results", f"({role}, {moment}): {type(asked.error).__name__}: {asked.error}")
        elif asked.logits and not right(self.cluster, asked.batch, asked.logits):
            self._note("wrong_results", f"({role}, {moment}): another answer than in clear")

    def _goes_on(self, role: str, moment: str, error: Exception | None) -> None:
        back, batch = time.monotonic(), images(2)
        while True:
            try:
                logits = [one.logits for one in diagnose(batch, self.cluster.public)]
                break
            except (Unavailable, PeerError) as last:
                if time.monotonic() - back > GOES_ON:
                    self._note("hangs", f"({role}, {moment}): {last}")
                    return
        took = time.monotonic() - back
        self.outcome.slowest = max(self.outcome.slowest, took)
        if not right(self.cluster, batch, logits):
            self._note("wrong_results", f"({role}, {moment}): another answer than in clear, after it was back")
        said = f"said: {error}" if error else "nobody had to be told"
        self.say(f"{role} killed at {moment}: answers {took:.1f} s after it was back ({said})")

    def kill_owner(self, share: float | None, moment: str) -> None:
        """The data owner's own process, in the middle of asking; another one asks then."""
        batch = images(IMAGES)
        process = subprocess.Popen(
            [sys.executable, "-m", "bench.faults_kills_diagnosis", str(self.cluster.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None and process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.stdin.write(json.dumps(batch.tolist()) + "\n")
        process.stdin.flush()
        assert process.stdout.readline() == "asking\n"
        if share is None:
            process.stdout.readline()
            time.sleep(0.005 if moment == BETWEEN[0] else 1.0)
        else:
            time.sleep(share * self.takes)
        process.kill()
        process.wait(30)
        process.stdin.close()
        process.stdout.close()
        self.outcome.killed.add((OWNER, moment))
        self._goes_on(OWNER, moment, None)

    def check(self) -> None:
        """Nothing was used twice, by the roles' own books and journals."""
        for role in ROLES:
            for words in used_twice(self.cluster, role):
                self._note("wrong_results", f"{role}: {words}")
            if "Traceback" in self.cluster.log(role):
                self._note("wrong_results", f"{role}: a stack trace: {self.cluster.log(role)[-500:]}")

    def _note(self, what: str, words: str) -> None:
        setattr(self.outcome, what, getattr(self.outcome, what) + 1)
        self.outcome.words.append(words)
        self.say(words)


def used_twice(cluster: Cluster, role: str) -> Iterator[str]:
    """Numbers and requests that stand twice in `used.bin`, or in what a journal says was dealt or answered."""
    records = used_records(cluster.folder / role)
    numbers = [number for first, count, _ in records for number in range(first, first + count)]
    if numbers != sorted(set(numbers)):
        yield "a number was used twice"
    if len({request for _, _, request in records}) != len(records):
        yield "a request was used twice"
    entries = [
        entry["details"]
        for entry in read_journal(cluster.folder / role / "journal.jsonl")
        if entry["kind"] in ("dealt", "answered")
    ]
    told = [number for one in entries for number in range(one["first"], one["first"] + one["count"])]
    if len(set(told)) != len(told):
        yield "the journal names a number twice"
    if not set(told) <= set(numbers):
        yield "the journal names a number that is not written down as used"


def diagnosis_kills(
    folder: Path,
    say: Callable[[str], None],
    victims: tuple[str, ...] = (*ROLES, OWNER),
    shares: tuple[float, ...] = SHARES,
) -> Outcome:
    """All processes at all moments."""
    kills = Kills(Cluster.make(folder).start(), say)
    try:
        kills.measure()
        for victim in victims:
            for moment, share in zip(moments(shares), (*shares, None, None), strict=True):
                if victim == OWNER:
                    kills.kill_owner(share, moment)
                else:
                    kills.kill(victim, share, moment)
        kills.check()
    finally:
        kills.cluster.stop()
    return kills.outcome


def _ask_from_here(folder: Path) -> None:
    """The data owner's process: an image batch a line, asked for."""
    public = load_public(folder / "files" / "public.json")
    print("ready", flush=True)
    for line in sys.stdin:
        batch = torch.tensor(json.loads(line))
        print("asking", flush=True)
        diagnose(batch, public)
        print("answered", flush=True)


if __name__ == "__main__":
    _ask_from_here(Path(sys.argv[1]))
