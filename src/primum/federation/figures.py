"""What whoever watches a coordinator or a node may see: counts, times and states.

Of one hospital the coordinator shows whether it is connected and when it was last seen, nothing else. A node shows no
count of images or patients.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from primum import __version__
from primum.disk import Grown
from primum.dp.account import epsilon_of_rdp
from primum.dp.ledger import EVALUATION, TRAINING, Ledger
from primum.federation.attendance import Attendance
from primum.federation.contact import Contact
from primum.federation.enrolment import Register
from primum.federation.policy import Policy
from primum.federation.runs import Run
from primum.keys.certificate import days_left
from primum.watch import Figure, single


@dataclass
class CoordinatorFigures:
    """Of a coordinator's state folder, and of who is connected to it."""

    state: Path
    register: Register
    attendance: Attendance
    answers: Callable[[], bool]
    _rounds: dict[str, tuple[int, int]] = field(default_factory=dict)

    def __call__(self) -> Iterator[Figure]:
        """All figures, as of now."""
        members = self.register.members()
        at = self.attendance
        runs = [Run(folder) for folder in sorted((self.state / "runs").glob("*"))]
        states = Counter(str(run.status().get("state", "")) for run in runs)
        yield _build()
        yield single("superlink_up", "1 if Flower's SuperLink answers", float(self.answers()))
        connected = [({"hospital": m.name}, float(at.connected(m.transport))) for m in members]
        yield Figure("hospital_connected", "1 if a hospital's node is connected", connected)
        seen = [({"hospital": m.name}, at.last_seen(m.transport) or 0.0) for m in members]
        yield Figure("hospital_last_seen_seconds", "when a hospital's node was last heard of, since 1970", seen)
        yield Figure("runs", "runs by state", [({"state": state}, count) for state, count in sorted(states.items())])
        rounds = sum(self._finished(run) for run in runs)
        yield single("rounds_total", "finished rounds of all runs", rounds, "counter")
        if (self.state / "tls.pem").exists():
            days = days_left((self.state / "tls.pem").read_text())
            yield single("certificate_days", "days until the certificate of the port ends", days)

    def _finished(self, run: Run) -> int:
        """Rounds of a run; its file is read again only when it has grown."""
        path = run.folder / "metrics.jsonl"
        size = path.stat().st_size if path.exists() else 0
        if self._rounds.get(run.name, (-1, 0))[0] != size:
            self._rounds[run.name] = (size, len(run.lines("metrics.jsonl")))
        return self._rounds[run.name][1]


@dataclass
class NodeFigures:
    """Of a node's state folder."""

    state: Path
    contact: Contact
    certificate: Callable[[], str]
    _runs: set[str] = field(default_factory=set)
    _rounds: int = 0
    _bytes: int = 0

    def __post_init__(self) -> None:
        """Begin with the whole journal."""
        self._journal = Grown(self.state / "journal.jsonl")

    def __call__(self) -> Iterator[Figure]:
        """All figures, as of now."""
        for line in self._journal.lines():
            self._count(json.loads(line)["entry"])
        yield _build()
        yield single("connected", "1 if the coordinator answers", float(self.contact.connected))
        yield single("last_seen_seconds", "when the coordinator last answered, since 1970", self.contact.at)
        yield single("runs_total", "runs in which this node gave a vector", len(self._runs), "counter")
        yield single("rounds_total", "vectors that this node gave", self._rounds, "counter")
        yield single("vector_bytes_total", "bytes of masked vectors that left", self._bytes, "counter")
        yield single("certificate_days", "days until the coordinator's certificate ends", days_left(self.certificate()))
        yield from self._privacy()

    def _count(self, entry: dict[str, Any]) -> None:
        if entry["kind"] == "vector":
            self._runs.add(entry["details"]["run"])
            self._rounds += 1
            self._bytes += int(entry["details"]["bytes"])

    def _privacy(self) -> Iterator[Figure]:
        path, policy = self.state / "ledger.sqlite", Policy.read(self.state / "policy.toml") or Policy()
        yield single("epsilon_cap", "the most that one patient may lose, over all studies", policy.epsilon_cap)
        if not path.exists():
            return
        ledger = Ledger(path, policy.cap)
        spent = {name: ledger.spent(name) for name in (TRAINING, EVALUATION)}
        samples = [
            ({"population": name}, epsilon_of_rdp(rdp, policy.rdp_order, policy.delta_max) if rdp else 0.0)
            for name, rdp in spent.items()
        ]
        yield Figure("epsilon_spent", "what a patient has lost so far", samples)


def _build() -> Figure:
    return Figure("build_info", "the release that runs", [({"version": __version__}, 1.0)])
