"""The exchange over Flower's Grid: who is who, what is late, what is garbage. The grid here is a list in memory."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import pytest
from flwr.app import Error, Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid
from tests.federation.playing import World, make_study

from primum import wire
from primum.federation import exchange as exchange_module
from primum.federation.enrolment import Register
from primum.federation.exchange import LONGEST_TRANSFER, GridExchange
from primum.federation.messages import Consent, Failure, RoundOrder, StudyOrder, Tagged
from primum.federation.parcels import CAUTIOUS, INLINE, Note, ParcelStore
from primum.federation.records import content_of, to_message, to_reply
from primum.keys.identity import Identity
from primum.secagg.messages import Signed, sign
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
    bodies: list[bytes] = field(default_factory=list)
    answers: dict[bytes, bytes] = field(default_factory=dict)
    lost: dict[str, int] = field(default_factory=dict)

    def get_nodes(self) -> list[_Node]:
        return self.nodes

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers = []
        for message in messages:
            self.pushed += 1
            identifier = f"message {self.pushed}"
            identifiers.append(identifier)
            message.metadata.__dict__["_message_id"] = identifier
            place, content = message.metadata.dst_node_id, content_of(message, "the hub")
            assert isinstance(content, bytes)
            self.bodies.append(content)
            if content not in self.answers:
                self.answers[content] = self.world.hospitals[place].process.answer(content)
            answer = self.spoil(place, self.answers[content])
            if answer is not None:
                self.waiting[identifier] = to_reply(answer, message)
        return identifiers

    def pull_messages(self, identifiers: list[str]) -> list[Message]:
        gone = [error_about(name, self.lost.pop(name)) for name in identifiers if name in self.lost]
        return gone + [self.waiting.pop(name) for name in identifiers if name in self.waiting]


def error_about(name: str, code: int) -> Message:
    """What SuperLink says of a message whose node is gone, or whose reply did not arrive."""
    order = to_message(b"an order", 1, "query.primum", 60)
    order.metadata.__dict__["_message_id"] = name
    return Message(Error(code), reply_to=order)


@dataclass
class Table:
    """Transport keys by identity, as a Register has them."""

    keys: dict[bytes, bytes]

    def transports(self) -> dict[bytes, bytes]:
        return self.keys


def exchange_of(world: World, grid: MemoryGrid) -> GridExchange:
    table = Table({identity: b"transport %d" % place for place, identity in enumerate(world.members, start=1)})
    return GridExchange(
        cast(Grid, grid),
        world.coordinator,
        tuple(world.members),
        cast(Register, table),
        print,
        parcels=ParcelStore.at(world.folder),
    )


@pytest.fixture
def grid(three: World) -> MemoryGrid:
    return MemoryGrid(three, [_Node(place, b"transport %d" % place) for place in (1, 2, 3)])


def ask(world: World, exchange: GridExchange, deadline: float = 1.0) -> Any:
    order = StudyOrder(b"r" * 16, sign_study(make_study(world.members), world.scientist))
    return exchange(dict.fromkeys((1, 2, 3), order), deadline)


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


# -- what is lost is said again -----------------------------------------------------------------------------------------


def test_an_order_that_nobody_answers_is_said_again_byte_for_byte(
    three: World, grid: MemoryGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "_AGAIN", 0.1)
    heard: list[bytes] = []

    def lose_the_first(place: int, answer: bytes) -> bytes | None:
        heard.append(answer)
        return answer if place != 2 or heard.count(answer) > 1 else None

    grid.spoil = lose_the_first
    assert ask(three, exchange_of(three, grid), 60.0).by_place.keys() == {1, 2, 3}
    assert len(set(grid.bodies)) == 3 < len(grid.bodies), "the same bytes again, not a new order"


def test_an_order_that_its_node_has_confirmed_is_not_said_again(
    three: World, grid: MemoryGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "_AGAIN", 0.1)
    grid.spoil = lambda place, answer: None if place == 2 else answer
    exchange, asked = exchange_of(three, grid), list[str]()
    exchange._taken = lambda name: not asked.append(name)  # type: ignore[func-returns-value]
    assert ask(three, exchange).by_place.keys() == {1, 3}
    assert (asked, len(grid.bodies)) == (["message 2"], 3)


@pytest.mark.parametrize("code", [ErrorCode.NODE_UNAVAILABLE, ErrorCode.MESSAGE_UNAVAILABLE])
def test_a_reply_that_flower_lost_is_asked_for_again(
    three: World, grid: MemoryGrid, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    monkeypatch.setattr(exchange_module, "_SOON", 0.05)
    exchange, names = exchange_of(three, grid), iter(range(1, 100))

    def lose_once(place: int, answer: bytes) -> bytes | None:
        if next(names) == 2:
            grid.lost["message 2"] = code
            return None
        return answer

    grid.spoil = lose_once
    assert ask(three, exchange, 60.0).by_place.keys() == {1, 2, 3}


def test_a_member_that_stays_away_is_left_out_before_the_deadline(
    three: World, grid: MemoryGrid, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchange_module, "_GRACE", 0.2)
    monkeypatch.setattr(exchange_module, "_SOON", 0.05)

    def vanish(place: int, answer: bytes) -> bytes | None:
        if place != 2:
            return answer
        grid.lost["message 2"] = ErrorCode.NODE_UNAVAILABLE
        grid.nodes[1] = _Node(2, b"transport 2", "offline")
        return None

    grid.spoil = vanish
    replies = ask(three, exchange_of(three, grid), 3600.0)  # else the test would not end
    assert replies.by_place.keys() == {1, 3}


# -- long ones ----------------------------------------------------------------------------------------------------------


def long_order(run: bytes = b"r" * 16) -> RoundOrder:
    nobody = Signed(b"", b"", b"")
    return RoundOrder(run, "train", bytes(2 * INLINE), nobody, (), nobody)


@dataclass
class ParcelGrid(MemoryGrid):
    """Hospitals that answer a parcel with one, by way of the coordinator's folder."""

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        identifiers, store = [], ParcelStore.at(self.world.folder)
        for message in messages:
            self.pushed += 1
            identifier = f"message {self.pushed}"
            identifiers.append(identifier)
            message.metadata.__dict__["_message_id"] = identifier
            place, note = message.metadata.dst_node_id, content_of(message, "the hub")
            assert isinstance(note, Note) and message.metadata.ttl > LONGEST_TRANSFER
            hospital = self.world.hospitals[place].identity
            body = store.path(hospital.public, "down", note.digest).read_bytes()
            number = wire.decode(wire.decode(body, Signed, "the hub").body, Tagged, "the hub").number
            reply = wire.encode(sign(hospital, Tagged(number, wire.encode(Failure("x", "y" * 2 * INLINE, "z")))))
            answer = Note(hashlib.sha256(reply).digest(), len(reply))
            if self.spoil(place, reply) is not None:
                path = store.path(hospital.public, "up", answer.digest)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(reply)
            self.waiting[identifier] = to_reply(answer, message)
        return identifiers


def test_long_orders_and_replies_are_parcels_and_gone_afterwards(three: World) -> None:
    grid = ParcelGrid(three, [_Node(place, b"transport %d" % place) for place in (1, 2, 3)])
    grid.spoil = lambda place, answer: None if place == 3 else answer
    replies = exchange_of(three, grid)(dict.fromkeys((1, 2, 3), long_order()), 5.0)
    assert replies.by_place.keys() == {1, 2}, "the third names a reply that has not arrived"
    assert min(replies.sent.values()) > 2 * INLINE and min(replies.received.values()) > 2 * INLINE
    assert not [path for path in (three.folder / "parcels").rglob("*") if path.is_file()]


def test_the_time_for_an_order_grows_with_its_bytes_and_the_measured_speed(three: World, grid: MemoryGrid) -> None:
    exchange, member = exchange_of(three, grid), three.members[0]
    one = exchange._ask(1, long_order())
    assert exchange._transfer(one) == pytest.approx(2 * one.size / CAUTIOUS)
    store = ParcelStore.at(three.folder)
    store.note_speeds(member, "down", [1e6, 5e5, 2e6])
    store.note_speeds(member, "up", [1e5])
    assert exchange._transfer(one) == pytest.approx(one.size / 5e5 + one.size / 1e5)
    exchange._largest["RoundOrder"] = 1000
    assert exchange._transfer(exchange._ask(1, long_order())) == pytest.approx(one.size / 5e5 + 1000 / 1e5)
    store.note_speeds(member, "down", [1.0])
    assert exchange._transfer(one) == LONGEST_TRANSFER
    short = exchange._ask(1, StudyOrder(b"r" * 16, sign_study(make_study(three.members), three.scientist)))
    assert short.size < 10_000 and isinstance(short.content, bytes)
