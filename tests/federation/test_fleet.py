"""A node's connection when answers are lost: SuperLink's own state and handlers, and a client that loses what it is told to."""

import threading
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from flwr.app import Message
from flwr.common.constant import SUPERLINK_NODE_ID, SubStatus
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.error import FlowerError
from flwr.supercore.error.catalog import API_ERROR_MAP
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.servicer.fleet import fleet_handlers

from primum.errors import PeerError, Unavailable
from primum.federation import fleet as fleet_module
from primum.federation.courier import Courier
from primum.federation.fleet import Fleet, Mail
from primum.federation.parcels import Note
from primum.federation.records import to_message
from primum.federation.way import Way
from primum.keys.identity import Identity


@dataclass
class Hub:
    """SuperLink in memory, a run that runs, a node; `losing`: calls whose next answer is lost, and after how many."""

    state: InMemoryLinkState = field(init=False)
    losing: list[str] = field(default_factory=list)
    taken: bool = False

    def __post_init__(self) -> None:
        self.state = InMemoryLinkState(NoOpFederationManager(), InMemoryObjectStore())
        self.run = self.state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
        [task] = self.state.task_store
        self.state.claim_task(task)
        assert self.state.activate_task(task)
        self.node = self.state.create_node("", "", b"key", 10)
        assert self.state.activate_node(self.node, 10)

    def order(self, content: bytes | Note) -> str:
        """Put an order before the node; returns its name."""
        order = to_message(content, self.node, "query.primum", 60)
        order.metadata.__dict__.update(_run_id=self.run, _src_node_id=SUPERLINK_NODE_ID)
        order.metadata.__dict__["_message_id"] = name = order.object_id
        session = self.state.start_session(self.run)
        tree = get_object_tree(order)
        self.state.store_message_and_object_tree(order, tree, session)
        for identifier, part in get_all_nested_objects(order).items():
            self.state.store_object(self.run, session, identifier, part.deflate())
        return name

    def reply_to(self, name: str) -> bytes | None:
        """The reply's bytes as the Grid gets them, None if it is not whole."""
        found = self.state.get_message_res({name}, self.run)
        if not found or found[0].has_error():
            return None
        tree = self.state.object_store.get_object_tree(found[0].metadata.message_id)
        record = tree.children[0].children[0].object_id
        content = self.state.get_object(self.run, record)
        return content or None

    def call(self, name: str, handler: Any, request: Any, *more: Any) -> Any:
        try:
            answer = handler(request, self.state, *more)
        except FlowerError as error:  # as Flower's own middleware says it
            spec = API_ERROR_MAP[error.code]
            asked, body = httpx.Request("POST", "https://hub"), error.to_json(spec.public_message)
            said = httpx.Response(spec.http_status_code, json=body, request=asked)
            raise httpx.HTTPStatusError(spec.public_message, request=asked, response=said) from error
        if name in self.losing:
            self.losing.remove(name)
            raise httpx.ReadError("the connection broke before the answer came")
        return answer

    # as flwr.supernode.fleet_http_client.FleetHttpClient
    def PullMessages(self, request: Any) -> Any:
        return self.call("PullMessages", fleet_handlers.pull_messages, request, self.state.object_store)

    def PullObject(self, request: Any) -> Any:
        return self.call("PullObject", fleet_handlers.pull_object, request)

    def ConfirmMessageReceived(self, request: Any) -> Any:
        return self.call("Confirm", fleet_handlers.confirm_message_received, request, self.state.object_store)

    def PushMessages(self, request: Any) -> Any:
        return self.call("PushMessages", fleet_handlers.push_messages, request)

    def PushObject(self, request: Any) -> Any:
        return self.call("PushObject", fleet_handlers.push_object, request)


@pytest.fixture
def hub() -> Hub:
    return Hub()


@pytest.fixture
def mail() -> Mail:
    stop = threading.Event()
    return Mail(Courier(Identity.generate(), stop), stop, print)


def fleet_of(hub: Hub, mail: Mail) -> Fleet:
    return Fleet(hub, Node(node_id=hub.node), Way("127.0.0.1:1", ""), mail)


@pytest.mark.parametrize("lost", ["PullObject", "Confirm", "PushMessages", "PushObject"])
def test_an_answer_that_is_lost_costs_nothing(hub: Hub, mail: Mail, lost: str) -> None:
    name, fleet = hub.order(b"an order"), fleet_of(hub, mail)
    hub.losing = [lost]
    letter = fleet.receive()
    assert letter is not None and letter.body == b"an order"
    fleet.send(letter, b"the reply")
    assert hub.losing == []
    assert b"the reply" in (hub.reply_to(name) or b"")


def test_an_announcement_that_is_lost_while_the_grid_has_asked_already(hub: Hub, mail: Mail) -> None:
    name, fleet = hub.order(b"an order"), fleet_of(hub, mail)
    letter = fleet.receive()
    assert letter is not None
    answers: list[list[Message]] = []
    call = hub.call

    def grid_asks_first(what: str, *rest: Any) -> Any:
        try:
            return call(what, *rest)
        except httpx.ReadError:
            answers.append(hub.state.get_message_res({name}, hub.run))
            hub.state.delete_messages({name})
            raise

    hub.call = grid_asks_first  # type: ignore[method-assign]
    hub.losing = ["PushMessages"]
    fleet.send(letter, b"the reply")
    [[reply]] = answers
    tree = hub.state.object_store.get_object_tree(reply.metadata.message_id)
    assert b"the reply" in (hub.state.get_object(hub.run, tree.children[0].children[0].object_id) or b"")


def test_an_order_that_is_said_again_gets_the_reply_that_it_got(hub: Hub, mail: Mail) -> None:
    fleet = fleet_of(hub, mail)
    first = hub.order(b"an order")
    letter = fleet.receive()
    assert letter is not None
    fleet.send(letter, b"the reply")
    again = hub.order(b"an order")
    assert again != first
    assert fleet.receive() is None, "nothing to compute"
    assert b"the reply" in (hub.reply_to(again) or b"")
    hub.order(b"another order")
    assert fleet.receive() is not None


def test_a_reply_that_could_not_leave_is_sent_by_the_next_connection(
    hub: Hub, mail: Mail, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, fleet = hub.order(b"an order"), fleet_of(hub, mail)
    letter = fleet.receive()
    assert letter is not None
    monkeypatch.setattr(fleet_module, "_PATIENCE", 0.0)
    monkeypatch.setattr(fleet_module, "_FIRST_PAUSE", 0.0)
    hub.losing = ["PushMessages"]
    with pytest.raises(Unavailable, match="cannot be reached"):
        fleet.send(letter, b"the reply")
    assert fleet_of(hub, mail).receive() is None
    assert b"the reply" in (hub.reply_to(name) or b"")


def test_a_reply_that_nobody_wants_any_more_is_dropped(hub: Hub, mail: Mail) -> None:
    said: list[str] = []
    mail.say = said.append
    fleet = fleet_of(hub, mail)
    hub.order(b"an order")
    letter = fleet.receive()
    assert letter is not None

    def refuse(request: Any) -> Any:
        asked = httpx.Request("POST", "https://hub")
        raise httpx.HTTPStatusError("the run is over", request=asked, response=httpx.Response(400, request=asked))

    hub.PushMessages = refuse  # type: ignore[method-assign]
    fleet.send(letter, b"the reply")
    assert "too late" in said[0]
    assert mail.outgoing is None


@pytest.mark.parametrize("when", ["after the order came", "before"])
def test_a_run_that_ended_leaves_a_node_free_for_others(hub: Hub, mail: Mail, when: str) -> None:
    """SuperLink answers 403 then: a node that tried for ever would be deaf for every other study."""
    said: list[str] = []
    mail.say = said.append
    fleet = fleet_of(hub, mail)
    hub.order(b"an order")
    letter = fleet.receive() if when != "before" else None
    [task] = hub.state.task_store
    assert hub.state.finish_task(task, SubStatus.STOPPED, "")
    if letter is not None:
        fleet.send(letter, b"the reply")
        assert "too late" in said[0]
    assert mail.outgoing is None
    assert fleet.receive() is None
    assert mail.incoming is None


def test_a_message_that_is_not_ours_is_met_once(hub: Hub, mail: Mail) -> None:
    fleet = fleet_of(hub, mail)
    hub.order(Note(b"short", 5))
    with pytest.raises(PeerError, match="not Primum's"):
        fleet.receive()
    assert fleet.receive() is None
