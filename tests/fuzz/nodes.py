"""Mutated orders at hospitals: real ones with real images, in the middle of a run whose coordinator sends them.

Each mutant is an order of the run, one field changed, signed again by the coordinator as what it is. It counts as
accepted if the hospital answers it with keys, a masked vector, shares or a yes, although a field was changed that it has
to check. Left to the coordinator are, and so are not counted:

- KeysOrder.session, KeysOrder.first_round: numbers, as long as they go up
- StudyOrder.run: it names the runs; another one is another run of the same study, which is put before the hospital
- RoundOrder.settlements: one that does not verify is not used, and the worst case stays charged
- JournalHead.head: a hash of its own journal, kept for a later comparison
- ConfirmRequest.included: where a quorum signs, the coordinator names the set, once; it is checked when shares are asked for
- the order in which signed words of others are listed, and a ciphertext that is there twice
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from tests.federation.playing import World, build, make_study
from tests.fuzz.counts import Counts
from tests.fuzz.mutations import Draw, Mutant, flipped, mutate

from primum import wire
from primum.errors import PeerError, PrimumError
from primum.federation.aggregation import Replies
from primum.federation.messages import (
    ConfirmOrder,
    Consent,
    DealOrder,
    Done,
    EndOrder,
    Failure,
    KeysOrder,
    Order,
    PairOrder,
    Reply,
    RevealOrder,
    RoundOrder,
    StudyOrder,
    Tagged,
    UnmaskOrder,
)
from primum.secagg.messages import Signed, open_signed, sign

FREE = frozenset(
    {
        "KeysOrder.session",
        "KeysOrder.first_round",
        "StudyOrder.run",
        "RoundOrder.settlements",
        "JournalHead.head",
        "ConfirmRequest.included",
        "PairOrder.shown reversed",
        "UnmaskRequest.evidence reversed",
        "DealOrder.encapsulated reversed",
        "Encapsulated.ciphertexts twice",
    }
)
TARGETS = (RoundOrder, UnmaskOrder, PairOrder, DealOrder, KeysOrder, StudyOrder, EndOrder, RevealOrder, ConfirmOrder)
_BURSTS = 9  # in how many places of a run the mutants of one kind are sent


class _Enough(BaseException):
    """So many mutants were sent."""


@dataclass
class Attacker:
    """The exchange of a coordinator that sends mutants of one kind of order before the order itself."""

    world: World
    target: type[Order]
    count: int
    draw: Draw
    counts: Counts = field(default_factory=Counts)

    def __call__(self, orders: Mapping[int, Order], deadline: float) -> Replies:
        for place, order in orders.items():
            shown = RevealOrder(order.run, order.shown) if isinstance(order, PairOrder) else None
            fits = shown if self.target is RevealOrder else order
            if isinstance(fits, self.target):
                for _ in range(min(self.count - self.counts.sent, -(-self.count // _BURSTS))):
                    self.attack(place, fits)
        if self.counts.sent >= self.count:
            raise _Enough
        return self.world.wires(orders, deadline)

    def attack(self, place: int, order: Order) -> None:
        """One mutant to one hospital, and what came of it."""
        self.world.wires.number += 1
        mutant, number = mutate(order, self.draw, self.world.coordinator), self.world.wires.number
        if self.draw.one_in(40):
            mutant, number = Mutant(order, ("Tagged.number",)), self.draw.below(number)
        body = wire.encode(sign(self.world.coordinator, Tagged(number, wire.encode(mutant.message))))
        if self.draw.one_in(40):
            mutant, body = Mutant(order, ("frame",)), flipped(body, self.draw)
        self.counts.count(self._past_frame(body))
        where = f"hospital, {'.'.join(mutant.path)}"
        try:
            answer = self.world.hospitals[place].process.answer(body)
        except PeerError as error:
            self.counts.refusals[error.message] += 1
            return
        except Exception as error:  # a crash of the node: what this looks for
            self.counts.crash(where, error)
            return
        self._judge(where, mutant, self._reply(place, answer))

    def _reply(self, place: int, answer: bytes) -> Reply:
        member = self.world.members[place - 1]
        tagged = open_signed(wire.decode(answer, Signed, "a test"), Tagged, member, "a test")
        reply: Reply = wire.decode_one_of(tagged.body, get_args(Reply), "a test")
        return reply

    def _judge(self, where: str, mutant: Mutant, reply: Reply) -> None:
        if isinstance(reply, Failure):
            self.counts.refusals[reply.message] += 1
            if reply.error.startswith("Unexpected"):
                self.counts.crashes.append(f"{where}: {reply.error} {reply.message}")
        elif isinstance(reply, Done) or (isinstance(reply, Consent) and reply.answer != "yes"):
            self.counts.refusals["nothing was sent"] += 1
        elif not mutant.touches(FREE):
            self.counts.accepted.append(f"{where}: answered with {type(reply).__name__}")

    def _past_frame(self, body: bytes) -> bool:
        """Whether envelope, signature and fields are such that the protocol looks at it."""
        try:
            envelope = wire.decode(body, Signed, "x", 1 << 30)
            tagged = open_signed(envelope, Tagged, self.world.coordinator.public, "x")
            wire.decode_one_of(tagged.body, get_args(Order), "x", 1 << 30)
        except PeerError:
            return False
        return True


def fuzz_nodes(folder: Path, count: int, label: str = "nodes", targets: tuple[Any, ...] = TARGETS) -> Counts:
    """`count` mutants, in equal parts of each kind of order; a run for each kind."""
    total, share = Counts(), -(-count // len(targets))
    worlds = {3: build(folder / "three", 3, epsilon_cap=1000.0)}
    for target in targets:
        size = 6 if target is ConfirmOrder else 3
        if size not in worlds:
            worlds[size] = build(folder / "six", size, epsilon_cap=1000.0)
        total.add(_attack(worlds[size], target, min(share, count - total.sent), Draw(f"{label} {target.__name__}")))
    return total


def _attack(world: World, target: type[Order], count: int, draw: Draw) -> Counts:
    attacker = Attacker(world, target, count, draw)
    for study in _studies(world):
        run = world.submit(study)
        rounds = world.rounds(run)
        rounds._exchange = rounds._sums._exchange = attacker
        try:
            rounds.run_all()
            rounds.tell_end("over")
        except (PrimumError, _Enough):
            pass
        if attacker.counts.sent >= count:
            break
    return attacker.counts


def _studies(world: World) -> Iterator[Any]:
    for number in range(20):
        yield make_study(
            world.members,
            name=f"fuzz-{number}",
            rounds=3,
            may_vanish=2 if len(world.members) == 6 else 0,
            privacy={"noise_multiplier": 20.0, "evaluation_noise_multiplier": 20.0},
        )
