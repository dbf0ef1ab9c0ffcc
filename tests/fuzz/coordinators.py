"""Mutated answers of hospitals at the coordinator: one in each round, which must end exactly, or by name.

An answer counts as accepted if a sum comes out that is not the exact sum of the included hospitals' vectors. So what a
hospital may choose freely (its keys, its masked vector as it signs it) is counted too: a sum with it must be exact.

`fuzz_sums` plays secure aggregation alone, fast; `fuzz_rounds` whole runs of real hospitals, in which the coordinator also
reads consents, journals' heads and failures.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from tests.federation.playing import World, build, make_study
from tests.fuzz.counts import Counts
from tests.fuzz.mutations import Draw, Mutant, flipped, mutate, opened
from tests.secagg.playing import MODEL, Federation
from tests.secagg.playing import build as build_sums

from primum import wire
from primum.errors import PeerError, PrimumError
from primum.federation.messages import EndOrder, Order, Reply, StudyOrder, Tagged
from primum.keys.identity import verify
from primum.secagg.messages import Signed, open_signed, sign

CALLS = ("take_offer", "take_encapsulated", "take_deal", "take_vector", "take_confirmation", "finish")


@dataclass
class _Liar:
    """Changes what one member says in one call, once."""

    world: Federation
    call: str
    place: int
    draw: Draw
    mutant: Mutant | None = None

    def __call__(self, call: str, place: int, message: Any) -> Any:
        if (call, place) != (self.call, self.place) or self.mutant is not None:
            return message
        self.mutant = mutate(message, self.draw, self.world.identities[place - 1])
        return wire.decode(wire.encode(self.mutant.message), type(message), f"hospital {place}")


def fuzz_sums(count: int, label: str = "sums") -> Counts:
    """`count` rounds among four (two exchanges) or six (three), a session each, with one mutant in each."""
    counts, draw = Counts(), Draw(label)
    while counts.sent < count:
        size, vanish = draw.of(((4, 1), (3, 0), (6, 2)))
        world = build_sums(size, may_vanish=vanish)
        calls = [call for call in CALLS if world.setup.confirms or call != "take_confirmation"]
        liar = _Liar(world, draw.of(calls), 1 + draw.below(size), draw)
        vectors = {place: np.arange(8) * place + draw.below(1000) for place in world.nodes}
        try:
            aggregate = _round(world, vectors, liar)
            if not np.array_equal(aggregate.total, sum(vectors[place] for place in aggregate.included)):
                counts.accepted.append(f"coordinator, {liar.call}: {liar.mutant}")
            counts.refusals["the sum is exact"] += 1
        except PrimumError as error:
            counts.refusals[error.message] += 1
        except Exception as error:  # a crash of the coordinator: what this looks for
            counts.crash(f"coordinator, {'.'.join(liar.mutant.path) if liar.mutant else ''}", error)
        if liar.mutant is not None:
            counts.count(_verifies(liar.mutant.message))
    return counts


def _round(world: Federation, vectors: dict[int, Any], told: Callable[[str, int, Any], Any]) -> Any:
    nodes, server = world.nodes, world.server
    server.begin_session(1, 1)
    for place, node in nodes.items():
        server.take_offer(place, told("take_offer", place, node.offer(1, 1)))
    shown = server.offers()
    for place, node in nodes.items():
        server.take_encapsulated(place, told("take_encapsulated", place, node.encapsulate(shown)))
    for place, node in nodes.items():
        server.take_deal(place, told("take_deal", place, node.deal(server.encapsulated_for(place))))
    for place, start in server.start(MODEL, world.shape).items():
        nodes[place].start(start)
        server.take_vector(place, told("take_vector", place, nodes[place].mask(vectors[place], world.shape.bits)))
    if world.setup.confirms:
        asked = server.confirm()
        for place, node in nodes.items():
            server.take_confirmation(place, told("take_confirmation", place, node.confirm(asked)))
    request = server.request()
    return server.finish({place: told("finish", place, node.open(request)) for place, node in nodes.items()})


def _verifies(message: Any) -> bool:
    """Whether it is what `wire` reads, and every envelope of it is signed by whom it names."""
    try:
        read = wire.decode(wire.encode(message), type(message), "x")
        envelopes = [read] if isinstance(read, Signed) else [getattr(read, name) for name in read.__struct_fields__]
        for envelope in envelopes:
            if isinstance(envelope, Signed):
                kind = type(opened(envelope)).__name__
                verify(envelope.signer, kind, envelope.body, envelope.signature, "x")
    except PeerError:
        return False
    return True


# -- whole runs ---------------------------------------------------------------------------------------------------------


@dataclass
class _Spoiler:
    """Changes one answer in each attempt at a sum, and keeps every vector that a hospital computed."""

    world: World
    draw: Draw
    counts: Counts
    last: str = ""

    def __call__(self, place: int, order: Order, answer: bytes) -> bytes:
        chance = 3 if isinstance(order, StudyOrder | EndOrder) else 7
        if not self.draw.one_in(chance):
            return answer
        identity = self.world.hospitals[place].identity
        tagged = open_signed(wire.decode(answer, Signed, "x"), Tagged, identity.public, "x")
        reply: Reply = wire.decode_one_of(tagged.body, get_args(Reply), "x")
        mutant = mutate(reply, self.draw, identity)
        number = tagged.number if not self.draw.one_in(40) else tagged.number - 1
        body = wire.encode(sign(identity, Tagged(number, wire.encode(mutant.message))))
        if self.draw.one_in(40):
            body = flipped(body, self.draw)
        self.last = ".".join(mutant.path)
        self.counts.count(self._past_frame(identity.public, body))
        return body

    @staticmethod
    def _past_frame(member: bytes, body: bytes) -> bool:
        try:
            tagged = open_signed(wire.decode(body, Signed, "x"), Tagged, member, "x")
            wire.decode_one_of(tagged.body, get_args(Reply), "x")
        except PeerError:
            return False
        return True


def fuzz_rounds(folder: Path, count: int, label: str = "rounds") -> Counts:
    """At least `count` mutants, in runs of four hospitals of whom one may vanish."""
    counts, world, number = Counts(), build(folder, 4, epsilon_cap=10_000.0), 0
    spoiler = world.wires.spoil = _Spoiler(world, Draw(label), counts)
    while counts.sent < count:
        number += 1
        run = world.submit(
            make_study(
                world.members,
                name=f"fuzz-{number}",
                rounds=6,
                may_vanish=1,
                privacy={"noise_multiplier": 20.0, "evaluation_noise_multiplier": 20.0},
            )
        )
        rounds = world.rounds(run)
        try:
            rounds.run_all()
            rounds.tell_end("over")
        except PrimumError as error:
            counts.refusals[error.message[:100]] += 1
        except Exception as error:  # a crash of the server program: what this looks for
            counts.crash(f"coordinator, {spoiler.last}", error)
        for line in (*run.lines("attempts.jsonl"), *run.lines("looks.jsonl")):
            words = str(line.get("failed", ""))
            counts.refusals[words[:100]] += bool(words)
            if "public probe" in words:
                counts.accepted.append(f"coordinator: {words}")
    return counts
