"""Orders to members over Flower's Grid, replies back, each in a signed envelope; long ones as parcels (`parcels.py`).

An order that its node has not confirmed is said again, byte for byte: Flower hands a message out once, and a break may
lose the answer in which it was. A node answers the same order in the same way, so saying it again changes nothing.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, get_args

from flwr.app import Message
from flwr.common.constant import ErrorCode
from flwr.serverapp import Grid

from primum import wire
from primum.errors import PeerError
from primum.federation.aggregation import Replies
from primum.federation.enrolment import Register
from primum.federation.messages import Order, Reply, Tagged
from primum.federation.parcels import INLINE, Note, ParcelStore
from primum.federation.records import content_of, to_message
from primum.keys.identity import Identity
from primum.secagg.messages import Signed, open_signed, sign

LONGEST_TRANSFER: Final = 7200.0
"""Seconds that the bytes of one exchange may take beside a stage's deadline, however slow the link."""
_POLL: Final = 0.03
_KIND: Final = "query.primum"
_LIMIT: Final = 1 << 30
_AGAIN: Final = 3.0  # seconds after which it is asked whether an order has arrived; twice as long each time
_SOON: Final = 0.5
_GRACE: Final = 60.0  # seconds in which a member that Flower lost may come back
_LATE: Final = 60.0  # seconds that Flower keeps a short message longer than its deadline


@dataclass
class _Asked:
    """One order on its way to one member."""

    place: int
    number: int
    content: bytes | Note
    size: int
    expected: int
    began: float
    again: float
    pause: float = _AGAIN
    lost: float | None = None
    names: list[str] = field(default_factory=list)


class GridExchange:
    """Carries orders to the members of one study; see `aggregation.Exchange`.

    A member has `deadline` seconds for computing, and beside it the time that the order's bytes and those of the answer
    take at the slowest speed measured with this member (1 Mbit/s until then), at most LONGEST_TRANSFER. `ring` is called
    when orders were handed in; `wait` returns when a reply may have come, or after a while.
    """

    def __init__(
        self,
        grid: Grid,
        identity: Identity,
        members: tuple[bytes, ...],
        register: Register,
        say: Callable[[str], None],
        *,
        parcels: ParcelStore,
        heard: Callable[[int], None] = lambda place: None,
        interrupted: Callable[[], bool] = lambda: False,
        taken: Callable[[str], bool] = lambda name: False,
        ring: Callable[[], None] = lambda: None,
        wait: Callable[[], object] = lambda: time.sleep(_POLL),
    ) -> None:
        self._say, self._heard, self._interrupted, self._taken = say, heard, interrupted, taken
        self._ring, self._wait = ring, wait
        self._grid, self._identity, self._members, self._register = grid, identity, members, register
        self._parcels = parcels
        self._number = time.time_ns()
        self._largest: dict[str, int] = {}

    def __call__(self, orders: Mapping[int, Order], deadline: float) -> Replies:
        """See `aggregation.Exchange`."""
        nodes = self._nodes()
        asked = [self._ask(place, order) for place, order in orders.items() if place in nodes]
        if not asked:
            time.sleep(min(0.5, deadline))
            return Replies({}, {}, {})
        kinds = {place: type(order).__name__ for place, order in orders.items()}
        replies: dict[int, Reply] = {}
        received: dict[int, int] = {}
        self._push(asked, nodes, deadline)
        waiting = {one.place: one for one in asked}
        while waiting and not self._interrupted():
            self._collect(waiting, replies, received, kinds)
            self._say_again(waiting, deadline)
            waiting = {place: one for place, one in waiting.items() if self._still(one, deadline)}
            if waiting:
                self._wait()
        for one in asked:
            if isinstance(one.content, Note):  # whoever still fetches it learns that it is over
                self._parcels.drop(self._members[one.place - 1], "down", one.content.digest)
        return Replies(replies, {one.place: one.size for one in asked}, received)

    # -- sending ----------------------------------------------------------------------------------------------------

    def _ask(self, place: int, order: Order) -> _Asked:
        self._number += 1
        body = wire.encode(sign(self._identity, Tagged(self._number, wire.encode(order))))
        content = self._parcels.offer(self._members[place - 1], body) if len(body) > INLINE else body
        now = time.monotonic()
        expected = self._largest.get(type(order).__name__, len(body))
        return _Asked(place, self._number, content, len(body), expected, now, now + _AGAIN)

    def _push(self, asked: list[_Asked], nodes: Mapping[int, int], deadline: float) -> None:
        messages = []
        for one in asked:
            parcel = isinstance(one.content, Note)  # it can be taken back, so its note may live long
            kept = LONGEST_TRANSFER if parcel else self._transfer(one)
            messages.append(to_message(one.content, nodes[one.place], _KIND, deadline + kept + _LATE))
        for one, name in zip(asked, self._grid.push_messages(messages), strict=True):
            if name:
                one.names.append(name)
        self._ring()

    def _say_again(self, waiting: Mapping[int, _Asked], deadline: float) -> None:
        now = time.monotonic()
        due = [one for one in waiting.values() if now >= one.again]
        if not due:
            return
        nodes = self._nodes()
        again = []
        for one in due:
            if one.place not in nodes:
                one.lost, one.again = one.lost or now, now + 1
                continue
            one.lost, one.again, one.pause = None, now + one.pause, 2 * one.pause
            if not any(self._taken(name) for name in one.names):
                again.append(one)
        if again:
            self._push(again, nodes, deadline)

    def _transfer(self, one: _Asked) -> float:
        member = self._members[one.place - 1]
        seconds = one.size / self._parcels.speed(member, "down") + one.expected / self._parcels.speed(member, "up")
        return min(LONGEST_TRANSFER, seconds)

    def _still(self, one: _Asked, deadline: float) -> bool:
        now = time.monotonic()
        if one.lost is not None and now - one.lost > _GRACE:
            self._say(f"hospital {one.place} is left out: it has not been connected for {_GRACE:g} s.")
            return False
        return now < one.began + deadline + self._transfer(one)

    # -- receiving --------------------------------------------------------------------------------------------------

    def _collect(
        self,
        waiting: dict[int, _Asked],
        replies: dict[int, Reply],
        received: dict[int, int],
        kinds: Mapping[int, str],
    ) -> None:
        names = {name: one for one in waiting.values() for name in one.names}
        for message in self._pull(names):
            one = names[message.metadata.reply_to_message_id]
            if message.has_error():
                one.names.remove(message.metadata.reply_to_message_id)
                if one.place in waiting and not one.names:
                    self._missed(one, message.error.code)
                continue
            if waiting.pop(one.place, None) is not None:
                self._take(one, message, replies, received)
                size = received.get(one.place, 0)
                self._largest[kinds[one.place]] = max(size, self._largest.get(kinds[one.place], 0))

    def _missed(self, one: _Asked, code: int) -> None:
        now = time.monotonic()
        if code == ErrorCode.NODE_UNAVAILABLE:
            one.lost = one.lost or now
        one.again = now + _SOON

    def _pull(self, names: Mapping[str, Any]) -> Iterable[Message]:
        return list(self._grid.pull_messages(list(names))) if names else []

    def _take(self, one: _Asked, message: Message, replies: dict[int, Reply], received: dict[int, int]) -> None:
        name, member = f"hospital {one.place}", self._members[one.place - 1]
        try:
            content = content_of(message, name)
            body = self._parcels.take(member, content) if isinstance(content, Note) else content
            if body is None:
                raise PeerError(f"{name} names a reply that has not arrived.", "It was not used.")
            envelope = wire.decode(body, Signed, name, _LIMIT)
            tagged = open_signed(envelope, Tagged, member, name)
            if tagged.number != one.number:
                raise PeerError(f"{name} answers an old order.", "It was not used.")
            reply: Reply = wire.decode_one_of(tagged.body, get_args(Reply), name, _LIMIT)
        except PeerError as error:
            self._say(f"{name} is left out: {error.message}")
            return
        replies[one.place], received[one.place] = reply, len(body)
        self._heard(one.place)

    def _nodes(self) -> dict[int, int]:
        """Flower's node number of each member that is connected: by the transport key that its identity signed."""
        transports = {key: identity for identity, key in self._register.transports().items()}
        places: dict[int, int] = {}
        for node in self._grid.get_nodes():
            identity = transports.get(node.public_key)
            if identity in self._members and node.status == "online":
                places[self._members.index(identity) + 1] = node.node_id
        return places
