"""What kills showed, and what must hold after them: in sums, numbers, journals and ledgers."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tests.integration.cluster import Cluster

from primum.dp.ledger import EVALUATION, TRAINING, Ledger
from primum.errors import InputError, PeerError
from primum.federation.messages import TRAIN
from primum.federation.policy import Policy
from primum.federation.runs import Run
from primum.federation.witness import Owned, compare

Pair = tuple[str, str]


@dataclass
class Outcome:
    """What a number of kills showed; `words` says what went wrong, where something did."""

    killed: set[Pair] = field(default_factory=set)
    wrong_results: int = 0
    lost_entries: int = 0
    hangs: int = 0
    missed: list[Pair] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    slowest: float = 0.0

    def add(self, other: "Outcome") -> None:
        """Take another part's figures in."""
        self.killed |= other.killed
        self.wrong_results += other.wrong_results
        self.lost_entries += other.lost_entries
        self.hangs += other.hangs
        self.missed += other.missed
        self.words += other.words
        self.slowest = max(self.slowest, other.slowest)


def wrong_results(cluster: Cluster, run: Run) -> Iterator[str]:
    """In words what is wrong with a run's sums, numbers or journals."""
    rounds, looks, attempts = (run.lines(f"{file}.jsonl") for file in ("metrics", "looks", "attempts"))
    if [line["round"] for line in rounds] != list(range(1, len(rounds) + 1)):
        yield f"rounds are {[line['round'] for line in rounds]}"
    charged = [line for line in (*rounds, *looks, *attempts) if line.get("charged", True)]
    numbers = [line["attempt"] for line in charged]  # a session that failed has the number of the round before
    if len(set(numbers)) != len(numbers):
        yield f"an attempt's number stands twice: {sorted(numbers)}"
    if [line["attempt"] for line in rounds] != sorted(line["attempt"] for line in rounds):
        yield "a round has a smaller number than one before it"
    for line in (*attempts, *looks):
        if "public probe" in str(line.get("failed")):
            yield f"attempt {line['attempt']}: {line['failed']}"
    if len(run.lines("ledger.jsonl")) != len(rounds) + sum("figures" in line for line in looks):
        yield f"the run's ledger has {len(run.lines('ledger.jsonl'))} lines for {len(rounds)} rounds and {looks}"
    yield from _journals(cluster, run)


def _journals(cluster: Cluster, run: Run) -> Iterator[str]:
    hub = Owned.open(cluster.state.folder, None)
    for number in cluster.nodes:
        node = Owned.open(cluster.node_state(number).folder, None)
        try:
            compare(hub.links, hub.owner, node.links)
            compare(node.links, node.owner, hub.links)
        except (InputError, PeerError) as error:
            yield f"hospital {number}'s journal and the coordinator's: {error.message}"
        for kind in ("vector", "shares"):
            rounds = [entry["round"] for entry in details(node, run, kind)]
            if len(set(rounds)) != len(rounds):
                yield f"hospital {number} has {kind} of one round twice: {rounds}"


def details(journal: Owned, run: Run, kind: str) -> list[dict[str, Any]]:
    """What a journal says of one run."""
    token = run.token.hex()
    entries = [link.entry for link in journal.links]
    return [one["details"] for one in entries if one["kind"] == kind and one["details"].get("run") == token]


def lost_entries(cluster: Cluster, run: Run) -> Iterator[str]:
    """Vectors that a hospital sent and that are in no ledger; rounds that more were charged for than the run says."""
    charged = len(run.lines("metrics.jsonl")) + sum(line["charged"] for line in run.lines("attempts.jsonl"))
    for number in cluster.nodes:
        folder = cluster.node_state(number).folder
        sent = details(Owned.open(folder, None), run, "vector")
        if not sent:
            continue
        policy = Policy.read(folder / "policy.toml")
        assert policy is not None
        entries = Ledger(folder / "ledger.sqlite", policy.cap).entries()
        kept = {(entry.round, entry.population) for entry in entries if entry.run == run.token.hex()}
        for vector in sent:
            place = (vector["round"], TRAINING if vector["what"] == TRAIN else EVALUATION)
            if place not in kept:
                yield f"hospital {number} sent a vector in round {vector['round']} that is not in its ledger"
        if sum(population == TRAINING for _, population in kept) > charged:
            yield f"hospital {number} charged more rounds than the run counts ({charged})"
