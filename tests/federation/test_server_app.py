"""The exchange over Flower's Grid: who is who, what is late, what is garbage. The grid here is a list in memory."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from flwr.app import Message
from flwr.serverapp import Grid
from tests.federation.playing import World, make_study

from primum import wire
from primum.federation.enrolment import Register
from primum.federation.messages import Consent, StudyOrder, Tagged
from primum.federation.records import body_of, to_reply
from primum.federation.server_app import GridExchange
from primum.keys.identity import Identity
from primum.secagg.messages import sign
from primum.study import sign_study


@dataclass
class _Node:
    node_id: int
    public_key: bytes
    status: str = "online"


@dataclass
class MemoryGrid:
    """Hands each message to its hospital when it is pushed; answers wait to be pulled."""

    world: World
    nodes: list[_Node]
    spoil: Callable[[int, bytes], bytes | None] = lambda place, answer: answer
    waiting: dict[str, Message] = field(default_factory=dict)
    pushed: int = 0

    def get_nodes(self) -> list[_Node]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            self.pushed += 1
            identifier = f"message {self.pushed}"
            identifiers.append(identifier)
            message.metadata.__dict__["_message_id"] = identifier
            place = message.metadata.dst_node_id
            answer = self.spoil(place, self.world.hospitals[place].process.answer(body_of(message, "the hub")))
            if answer is not None:
                self.waiting[identifier] = to_reply(answer, message)
        return identifiers

    def pull_messages(self, identifiers: list[str]) -> list[Message]:
        return [self.waiting.pop(name) for name in identifiers if name in self.waiting]


@dataclass
class Table:
    """Transport keys by identity, as a Register has them."""

    keys: dict[bytes, bytes]

    def transports(self) -> dict[bytes, bytes]:
        return self.keys


def exchange_of(world: World, grid: MemoryGrid) -> GridExchange:
    table = Table({identity: b"transport %d" % place for place, identity in enumerate(world.members, start=1)})
    return GridExchange(cast(Grid, grid), world.coordinator, tuple(world.members), cast(Register, table), print)


@pytest.fixture
def grid(three: World) -> MemoryGrid:
    return MemoryGrid(three, [_Node(place, b"transport %d" % place) for place in (1, 2, 3)])


def ask(world: World, exchange: GridExchange) -> Any:
    order = StudyOrder(b"r" * 16, sign_study(make_study(world.members), world.scientist))
    return exchange(dict.fromkeys((1, 2, 3), order), 1.0)


def test_orders_reach_their_members_and_answers_come_back(three: World, grid: MemoryGrid) -> None:
    replies = ask(three, exchange_of(three, grid))
    assert {place: reply.answer for place, reply in replies.by_place.items()} == {1: "yes", 2: "yes", 3: "yes"}
    assert replies.sent.keys() == replies.received.keys() == {1, 2, 3}


def test_a_node_that_is_offline_or_unknown_is_missing(three: World, grid: MemoryGrid) -> None:
    grid.nodes[0] = _Node(1, b"transport 1", "offline")
    grid.nodes[2] = _Node(3, b"the key of a stranger")
    assert ask(three, exchange_of(three, grid)).by_place.keys() == {2}


def test_nobody_there_is_an_empty_answer(three: World, grid: MemoryGrid) -> None:
    grid.nodes = []
    assert ask(three, exchange_of(three, grid)).by_place == {}


def test_garbage_and_a_strangers_signature_are_left_out(three: World, grid: MemoryGrid) -> None:
    forged = Consent(b"r" * 16, b"", "yes", "", True)
    stranger = wire.encode(sign(Identity.generate(), Tagged(1, wire.encode(forged))))
    grid.spoil = lambda place, answer: {1: b"garbage", 2: stranger}.get(place, answer)
    assert ask(three, exchange_of(three, grid)).by_place.keys() == {3}


def test_a_hospital_cannot_answer_for_another(three: World, grid: MemoryGrid) -> None:
    kept: list[bytes] = []

    def swap(place: int, answer: bytes) -> bytes:
        kept.append(answer)
        return kept[0]

    grid.spoil = swap
    assert ask(three, exchange_of(three, grid)).by_place.keys() == {1}


def test_an_answer_to_an_older_order_is_left_out(three: World, grid: MemoryGrid) -> None:
    kept: dict[int, bytes] = {}
    grid.spoil = lambda place, answer: kept.setdefault(place, answer)
    exchange = exchange_of(three, grid)
    assert len(ask(three, exchange).by_place) == 3
    assert ask(three, exchange).by_place == {}


def test_an_answer_that_comes_after_the_deadline_is_not_taken_for_the_next_one(three: World, grid: MemoryGrid) -> None:
    exchange = exchange_of(three, grid)
    grid.spoil = lambda place, answer: None if place == 2 else answer
    assert ask(three, exchange).by_place.keys() == {1, 3}
    grid.waiting["message 2"] = to_reply(b"late", Message(_content(), 2, "query.primum"))
    grid.spoil = lambda place, answer: answer
    assert len(ask(three, exchange).by_place) == 3


def _content() -> Any:
    from flwr.app import RecordDict

    return RecordDict()


def test_numbers_of_a_restarted_coordinator_go_on_upwards(three: World, grid: MemoryGrid) -> None:
    assert len(ask(three, exchange_of(three, grid)).by_place) == 3
    assert len(ask(three, exchange_of(three, grid)).by_place) == 3, "the second one is a new process"
