"""Secure aggregation against Flower's SecAgg+, against AES itself, and with a thousand nodes.

ResNet-18's 11.2 million coordinates in a ring of 24 bits, ten nodes of whom nine are needed, everybody everybody's
neighbour; from the float32 vector to bytes ready to send, rounding and packing included, both in processes of their own
with the same environment and one thread (bench/flower_secagg.py says what of Flower is counted). A round of ours is one in
steady state: a node's time is start, rounding, masking, the shares, and its deal for the next round.

flower_node_ratio    CPU seconds a node and round of Flower over ours
flower_server_ratio  CPU seconds of the server a round over ours, one node vanished before its vector
flower_bytes_ratio   bytes that a node sends in a round over ours
limit_ratio          masking and packing over (degree + 1) AES-256-CTR of 4 bytes a coordinate (ours draws 3 for 24 bits)
memory_ratio         the most memory that a node takes from vector to message, the vector included, over the vector
nodes_1000_s         seconds of a round of 1,000 nodes with 100,000 coordinates in one process, 10 % vanishing anywhere
nodes_1000_bytes     bytes that a node sends in it
nodes_1000_ratio     CPU seconds of a node with 1,000 nodes over those with 100
noise_rate           million values of discrete Gaussian noise a second on one core, sigma 1,000
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt

from bench import flower_secagg
from primum import wire
from primum.dp.noise import DiscreteGaussian
from primum.keys.identity import Identity
from primum.rng import Stream
from primum.secagg import Encapsulated, MaskedVector, Node, Opening, Server, Setup, Signed, masks
from primum.secagg.vector import Layout, Part

NODES, THRESHOLD, LENGTH, BITS = 10, 9, 11_200_000, 24
MANY, FEWER, SHORT = 1000, 100, 100_000
ROUNDS = 3
_REPOSITORY = Path(__file__).resolve().parent.parent
_MODEL = b"m" * 32

Vector = npt.NDArray[np.float32]


def vector(place: int, length: int) -> Vector:
    """What one node has to send: float32 in [-1, 1)."""
    return (2 * Stream.public(f"secagg bench {place}").uniform(length) - 1).astype(np.float32)


def layout(nodes: int, length: int) -> Layout:
    """One part, in the finest steps that 24 bits hold."""
    made = Layout((Part("update", length, 1.0, (2 ** (BITS - 1) - 1) // nodes - 2),), nodes)
    assert made.bits == BITS
    return made


@dataclass
class Times:
    """CPU seconds by node of one round, those of the server, the bytes that each node sent."""

    nodes: dict[int, float] = field(default_factory=dict)
    server: float = 0.0
    sent: dict[int, int] = field(default_factory=dict)

    def exchange(
        self, places: Iterable[int], kind: type[Any], answer: Callable[[int], wire.Message], take: Callable[..., Any]
    ) -> None:
        """Each node answers, up to the bytes that it sends; the server reads them and takes the message."""
        for place in places:
            began = time.process_time()
            data = wire.encode(answer(place))
            between = time.process_time()
            take(place, wire.decode(data, kind, "a node"))
            self.nodes[place] = self.nodes.get(place, 0.0) + between - began
            self.server += time.process_time() - between
            self.sent[place] = self.sent.get(place, 0) + len(data)

    def serve(self, work: Callable[..., Any], *arguments: Any) -> Any:
        """Do the server's work."""
        began = time.process_time()
        done = work(*arguments)
        self.server += time.process_time() - began
        return done


class Federation:
    """Nodes and server in one process; every message travels as bytes."""

    def __init__(self, setup: Setup, layout_: Layout) -> None:
        identities = sorted((Identity.generate() for _ in range(setup.n)), key=lambda identity: identity.public)
        members = [identity.public for identity in identities]
        coordinator, run = Identity.generate(), bytes(16)
        self.setup, self.layout = setup, layout_
        self.nodes = {
            place: Node(identity, members, coordinator.public, run, setup, 0)
            for place, identity in enumerate(identities, start=1)
        }
        self.server = Server(coordinator, members, run, setup)
        self.stream = Stream.from_os()
        self.sessions = 0

    def session(self) -> Times:
        """Keys, ciphertexts, shares for the first round."""
        times, server = Times(), self.server
        self.sessions += 1
        first = max(node.used_round for node in self.nodes.values()) + 1
        server.begin_session(self.sessions, first)

        nodes = self.nodes
        times.exchange(nodes, Signed, lambda place: nodes[place].offer(self.sessions, first), server.take_offer)
        shown = times.serve(server.offers)
        if self.setup.sparse:
            offers = shown
            times.exchange(nodes, Signed, lambda place: nodes[place].reveal(offers), server.take_reveal)
            shown = times.serve(server.reveals)
        times.exchange(nodes, Encapsulated, lambda place: nodes[place].encapsulate(shown), server.take_encapsulated)
        received = {place: times.serve(server.encapsulated_for, place) for place in nodes}
        times.exchange(nodes, Signed, lambda place: nodes[place].deal(received[place]), server.take_deal)
        return times

    def round(self, vectors: Mapping[int, Vector], gone: Mapping[str, set[int]]) -> Times:
        """One round; `gone` are those who fall silent at the vectors, the confirmations, the shares. Checks the sum."""
        times, server, away = Times(), self.server, set(gone.get("vectors", set()))
        sent: dict[int, npt.NDArray[np.int32]] = {}
        nodes, starts = self.nodes, times.serve(server.start, _MODEL, self.layout.shape)

        def masked(place: int) -> MaskedVector:
            nodes[place].start(starts[place])
            sent[place] = self.layout.encode({"update": vectors[place]}, self.stream)  # kept for the check of the sum
            return nodes[place].mask(sent[place], BITS)

        times.exchange(starts.keys() - away, MaskedVector, masked, server.take_vector)
        away |= gone.get("confirmations", set())
        if self.setup.confirms:
            asked = times.serve(server.confirm)
            times.exchange(
                starts.keys() - away, Signed, lambda place: nodes[place].confirm(asked), server.take_confirmation
            )
        request = times.serve(server.request)
        away |= gone.get("shares", set())
        openings: dict[int, Opening] = {}
        times.exchange(starts.keys() - away, Opening, lambda place: nodes[place].open(request), openings.__setitem__)
        result = times.serve(server.finish, openings)
        wanted = sum(sent[place].astype(np.int64) for place in result.included)
        assert np.array_equal(result.total, wanted), "the sum is not exact"
        self.alive = sorted(starts.keys() - away)
        return times


def ours() -> dict[str, Any]:
    """Ten nodes: warm, then measured with everybody, then with one vanished."""
    federation = Federation(Setup(NODES, 1, NODES - THRESHOLD), layout(NODES, LENGTH))
    vectors = {place: vector(place, LENGTH) for place in federation.nodes}
    federation.session()
    federation.round(vectors, {})
    all_there = [federation.round(vectors, {}) for _ in range(ROUNDS)]
    one_gone = []
    for _ in range(ROUNDS):
        federation.session()  # whoever vanished is back
        one_gone.append(federation.round(vectors, {"vectors": {NODES}}))
    return {
        "node_s": min(median(times.nodes.values()) for times in all_there),
        "server_s": min(times.server for times in all_there),
        "server_vanished_s": min(times.server for times in one_gone),
        "bytes": max(all_there[0].sent.values()),
        "limit": limit(NODES),
    }


def limit(group: int) -> dict[str, float]:
    """Masking and packing, and AES alone, of the same masks: seconds, the least of several tries side by side."""
    values = np.zeros(LENGTH, np.int32)
    keys = [os.urandom(32) for _ in range(group)]
    chunk = np.empty(1 << 15, np.uint32)
    masking, alone = [], []
    for _ in range(5):
        began = time.process_time()
        masks.apply(values, BITS, keys[: group // 2], keys[group // 2 :])
        masking.append(time.process_time() - began)
        began = time.process_time()
        for key in keys:
            stream = Stream(key)
            for start in range(0, LENGTH, len(chunk)):
                stream.fill(chunk[: min(len(chunk), LENGTH - start)])
        alone.append(time.process_time() - began)
    return {"masking_s": min(masking), "aes_s": min(alone)}


def memory() -> float:
    """Bytes that one node takes at most between vector and message, above what it had before it had the vector."""
    federation = Federation(Setup(3, 0, 0), layout(3, LENGTH))
    federation.session()
    small = Federation(Setup(3, 0, 0), layout(3, 1000))  # compiles what there is to compile
    small.session()
    small.round({place: vector(place, 1000) for place in small.nodes}, {})
    starts = federation.server.start(_MODEL, federation.layout.shape)
    federation.nodes[1].start(starts[1])
    before = _resident("VmRSS")
    values = np.full(LENGTH, 0.25, np.float32)
    whole = federation.layout.encode({"update": values}, federation.stream)
    message = federation.nodes[1].mask(whole, BITS)
    assert len(message.vector) == LENGTH * BITS // 8
    return float(_resident("VmHWM") - before)


def _resident(line: str) -> int:
    status = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(text.split()[1]) for text in status if text.startswith(line))


def many(n: int) -> dict[str, float]:
    """A round of n nodes of whom 5 % may collude and 10 % vanish at random stages; then one with whoever is left."""
    setup = Setup(n, n // 20, n // 10)
    federation = Federation(setup, layout(n, SHORT))
    values = vector(1, SHORT)
    vectors = dict.fromkeys(federation.nodes, values)
    began = time.perf_counter()
    session = federation.session()
    session_s = time.perf_counter() - began
    order = Stream.public(f"who vanishes of {n}").permutation(n) + 1
    leaving = [int(place) for place in order[: n // 10]]
    stages = {"vectors": set(leaving[::3]), "confirmations": set(leaving[1::3]), "shares": set(leaving[2::3])}
    began = time.perf_counter()
    times = federation.round(vectors, stages)
    seconds = time.perf_counter() - began
    whole = [times.nodes[place] for place in federation.alive]
    return {
        "seconds": seconds,
        "node_s": median(whole),
        "server_s": times.server,
        "sent": max(times.sent.values()),
        "session_s": session_s,
        "session_node_s": median(session.nodes.values()),
        "degree": setup.degree,
    }


def noise_rate() -> float:
    """Million values a second and core: the best of several draws into a vector of a million."""
    noise, out, stream = DiscreteGaussian(1000.0), np.zeros(1 << 20, np.int32), Stream.from_os()
    noise.add_to(out, stream)
    best = float("inf")
    for _ in range(10):
        began = time.process_time()
        noise.add_to(out, stream)
        best = min(best, time.process_time() - began)
    return len(out) / best / 1e6


_PARTS: dict[str, Callable[[], Any]] = {
    "ours": ours,
    "memory": memory,
    "many": lambda: many(MANY),
    "fewer": lambda: many(FEWER),
    "noise": noise_rate,
}


def part(name: str, environment: Mapping[str, str]) -> Any:
    """One part in a process of its own."""
    kept = {key: value for key, value in os.environ.items() if key not in flower_secagg.KEEP_MEMORY}
    command = [sys.executable, "-m", "bench.secagg", "--part", name]
    done = subprocess.run(
        command, env={**kept, **environment}, cwd=_REPOSITORY, check=True, stdout=subprocess.PIPE, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Everything; the table, then JSON."""
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(_PARTS[sys.argv[2]]()))
        return
    one = flower_secagg.ONE_THREAD
    own = part("ours", flower_secagg.ENVIRONMENT)
    flower = flower_secagg.measured(NODES, LENGTH, THRESHOLD)
    vanished = flower_secagg.measured(NODES, LENGTH, THRESHOLD, 1)
    assert flower.correct
    assert vanished.correct
    peak, noise = part("memory", one), part("noise", one)
    fewer, thousand = part("fewer", one), part("many", one)
    print(f"{'':38}{'Flower':>10}{'Primum':>10}")
    for name, theirs, mine in (
        ("node, CPU seconds a round", flower.node_s, own["node_s"]),
        ("server, everybody there", flower.server_s, own["server_s"]),
        ("server, one node vanished", vanished.server_s, own["server_vanished_s"]),
        ("sent by a node, MB", flower.bytes_sent / 1e6, own["bytes"] / 1e6),
        ("memory of a node above its vector, MB", (flower.peak_bytes or 0) / 1e6, peak / 1e6 - 4 * LENGTH / 1e6),
    ):
        print(f"{name:38}{theirs:>10.3f}{mine:>10.3f}")
    print(f"masking {own['limit']['masking_s']:.3f} s, AES alone {own['limit']['aes_s']:.3f} s")
    for n, figures in ((FEWER, fewer), (MANY, thousand)):
        print(
            f"{n} nodes, {figures['degree']} neighbours: round {figures['seconds']:.1f} s in one process; a node "
            f"{1000 * figures['node_s']:.1f} ms and {figures['sent'] / 1e3:.1f} kB, server {figures['server_s']:.2f} s; "
            f"session {figures['session_s']:.1f} s, a node {1000 * figures['session_node_s']:.1f} ms"
        )
    print(f"noise {noise:.0f} million values a second and core")
    figures = {
        "flower_node_ratio": flower.node_s / own["node_s"],
        "flower_server_ratio": vanished.server_s / own["server_vanished_s"],
        "flower_bytes_ratio": flower.bytes_sent / own["bytes"],
        "limit_ratio": own["limit"]["masking_s"] / own["limit"]["aes_s"],
        "memory_ratio": peak / (4 * LENGTH),
        "nodes_1000_s": thousand["seconds"],
        "nodes_1000_bytes": thousand["sent"],
        "nodes_1000_ratio": thousand["node_s"] / fewer["node_s"],
        "noise_rate": noise,
    }
    print(json.dumps({name: round(value, 3) for name, value in figures.items()}))


if __name__ == "__main__":
    main()
