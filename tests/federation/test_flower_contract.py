"""What we take from Flower: says when a release moves it."""

import hashlib
import inspect
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import flwr
import httpx
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.proto import control_pb2, fleet_pb2
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.node_pb2 import Node
from flwr.server.superlink.linkstate.in_memory_linkstate import InMemoryLinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.object_store.in_memory_object_store import InMemoryObjectStore
from flwr.supercore.protobuf.client import ProtobufClient, ProtobufRequestContext
from flwr.superlink.federation.noop_federation_manager import NoOpFederationManager
from flwr.superlink.grid.http_grid import HttpGrid
from flwr.supernode.fleet_http_client import FleetHttpClient

from primum.errors import PeerError
from primum.federation import superlink
from primum.federation.fleet import _PatientHeartbeat
from primum.federation.front import FLEET_CALLS
from primum.federation.parcels import LARGEST, Note
from primum.federation.records import (
    FIRST_WAIT,
    GIVE_UP,
    LONGEST_WAIT,
    content_of,
    to_message,
    to_reply,
    wait_briefly,
    was_taken,
)


def test_it_is_the_release_that_we_pin() -> None:
    assert flwr.__version__ == "1.41.0"


@pytest.mark.parametrize("name", ["pull_objects", "pull_and_inflate_object_from_tree"])
def test_the_waits_are_keyword_defaults_and_wait_briefly_sets_them(name: str) -> None:
    function = getattr(inflatable_utils, name)
    assert {"initial_backoff", "backoff_cap", "max_time"} <= set(function.__kwdefaults__)
    before = dict(function.__kwdefaults__)
    try:
        wait_briefly()
        assert function.__kwdefaults__["initial_backoff"] == FIRST_WAIT
        assert function.__kwdefaults__["backoff_cap"] == LONGEST_WAIT
        assert function.__kwdefaults__["max_time"] == GIVE_UP
    finally:
        function.__kwdefaults__.update(before)


@pytest.mark.parametrize(
    ("function", "leading"),
    [
        (inflatable_utils.push_objects, ["objects", "push_object_fn"]),
        (make_pull_object_fn_protobuf, ["pull_object_protobuf", "node", "run_id"]),
        (
            inflatable_utils.pull_and_inflate_object_from_tree,
            ["object_tree", "pull_object_fn", "confirm_object_received_fn"],
        ),
    ],
)
def test_the_functions_that_a_node_calls_take_what_we_give(function: object, leading: list[str]) -> None:
    assert callable(function)
    assert list(inspect.signature(function).parameters)[: len(leading)] == leading


def test_the_fleet_client_has_the_calls_that_a_node_makes() -> None:
    for call in (
        "ActivateNode",
        "PullMessages",
        "PushMessages",
        "PullObject",
        "PushObject",
        "ConfirmMessageReceived",
        "SendNodeHeartbeat",
    ):
        assert callable(getattr(FleetHttpClient, call))
    parameters = list(inspect.signature(FleetHttpClient.from_server_address).parameters)
    assert parameters[:4] == ["server_address", "insecure", "root_certificates", "interceptors"]


def test_the_control_client_has_the_calls_that_the_coordinator_makes() -> None:
    for call in ("RegisterNode", "ListNodes", "UnregisterNode", "StartRun", "ListRuns"):
        assert callable(getattr(ControlHttpClient, call))
    assert {"fab", "override_config"} <= set(control_pb2.StartRunRequest.DESCRIPTOR.fields_by_name)
    assert "run_dict" in control_pb2.ListRunsResponse.DESCRIPTOR.fields_by_name


def test_the_messages_have_the_fields_that_we_read() -> None:
    assert {"messages_list", "message_object_trees"} <= set(fleet_pb2.PullMessagesResponse.DESCRIPTOR.fields_by_name)
    assert {"objects_to_push", "session_id"} <= set(fleet_pb2.PushMessagesResponse.DESCRIPTOR.fields_by_name)
    assert {"public_key", "heartbeat_interval"} <= set(fleet_pb2.ActivateNodeRequest.DESCRIPTOR.fields_by_name)


def test_registering_is_not_among_the_calls_that_the_front_lets_through() -> None:
    assert not {call for call in FLEET_CALLS if "register" in call or "fab" in call}


def test_flower_superlink_knows_the_flags_that_we_give_it() -> None:
    program = Path(sys.executable).parent / "flower-superlink"
    done = subprocess.run([program, "--help"], capture_output=True, text=True, timeout=60)
    source = inspect.getsource(superlink.SuperLink.start)
    flags = {
        word.strip('"')
        for word in source.replace(",", " ").replace("(", " ").replace(")", " ").split()
        if word.startswith('"--')
    }
    assert len(flags) >= 9
    for flag in flags:
        assert flag in done.stdout, flag


def test_the_bundle_is_the_published_one() -> None:
    assert hashlib.sha256(superlink.bundle()).hexdigest() == superlink.BUNDLE_DIGEST


def test_the_bundle_only_names_installed_code() -> None:
    program = superlink._BUNDLE["primum_study.py"]
    assert [line for line in program.splitlines() if "import" in line] == [
        "from primum.federation.server_app import app, client"
    ]


def test_flower_runs_without_telemetry_updates_and_foreign_state(tmp_path: Path) -> None:
    environment = superlink.environment(tmp_path)
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    assert environment["FLWR_DISABLE_UPDATE_CHECK"] == "1"
    assert Path(environment["FLWR_HOME"]).parent == tmp_path


def test_our_bytes_travel_in_one_record_and_come_back() -> None:
    message = to_message(b"\x00body", 7, "query.primum", 60)
    assert message.metadata.dst_node_id == 7
    assert content_of(message, "a peer") == b"\x00body"
    message.metadata.__dict__["_message_id"] = "an order"
    reply = to_reply(b"answer", message)
    assert reply.metadata.reply_to_message_id == "an order"
    assert content_of(reply, "a peer") == b"answer"


def test_a_parcel_travels_as_its_digest_and_length() -> None:
    note = Note(b"d" * 32, 45_000_000)
    message = to_message(note, 7, "query.primum", 60)
    assert content_of(message, "a peer") == note
    assert len(message.content.deflate()) < 1000


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({"body": b"x"})}),
        RecordDict({"primum": ConfigRecord({"body": "text"})}),
        RecordDict({"primum": ConfigRecord({"body": b"x"}), "more": ConfigRecord()}),
        RecordDict({"primum": ConfigRecord({"parcel": b"d" * 31, "bytes": 5})}),
        RecordDict({"primum": ConfigRecord({"parcel": b"d" * 32, "bytes": LARGEST + 1})}),
        RecordDict({"primum": ConfigRecord({"parcel": b"d" * 32, "bytes": 0})}),
    ],
    ids=["empty", "another record", "text", "two records", "short digest", "too long", "nothing"],
)
def test_a_message_of_another_form_is_not_ours(content: RecordDict) -> None:
    with pytest.raises(PeerError, match="not Primum's"):
        content_of(Message(content, 1, "query.primum"), "a peer")


# -- what a connection relies on when it breaks -------------------------------------------------------------------------


@dataclass
class Hub:
    """SuperLink's state as we run it, in memory: one run, one node that is online, one order to it."""

    state: InMemoryLinkState
    node: int
    order: Message

    def reply(self) -> tuple[Message, Any, set[str]]:
        """A reply, its tree, and the objects that make it up."""
        reply = to_reply(b"a reply", self.order)
        reply.metadata.__dict__.update(_message_id=reply.object_id, _src_node_id=self.node)
        return reply, get_object_tree(reply), set(get_all_nested_objects(reply))

    def push(self, reply: Message, tree: Any) -> tuple[str, set[str]]:
        """As the Fleet call does: the session, and the objects that the hub asks for."""
        session = self.state.start_session(reply.metadata.run_id)
        return session, set(self.state.store_message_and_object_tree(reply, tree, session)[1])


@pytest.fixture
def hub() -> Hub:
    state = InMemoryLinkState(NoOpFederationManager(), InMemoryObjectStore())
    run = state.create_run(None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP)
    node = state.create_node("", "", b"key", 10)
    assert state.activate_node(node, 10)
    order = to_message(b"an order", node, "query.primum", 60)
    order.metadata.__dict__.update(_run_id=run, _src_node_id=SUPERLINK_NODE_ID)
    order.metadata.__dict__["_message_id"] = order.object_id
    state.store_message_and_object_tree(order, get_object_tree(order), state.start_session(run))
    return Hub(state, node, order)


def test_an_order_is_handed_out_once_so_that_it_must_be_said_again(hub: Hub) -> None:
    assert len(hub.state.get_message_ins(hub.node, 1)) == 1
    assert hub.state.get_message_ins(hub.node, 1) == []


def test_an_order_that_was_confirmed_is_not_found_any_more(hub: Hub) -> None:
    """What `was_taken` asks, through the client that the Grid has."""
    grid = SimpleNamespace(
        node=Node(node_id=SUPERLINK_NODE_ID),
        run=SimpleNamespace(run_id=hub.order.metadata.run_id),
        _runtime_client=SimpleNamespace(
            PullObject=lambda request: PullObjectResponse(
                object_found=hub.state.get_object(request.run_id, request.object_id) is not None
            )
        ),
    )
    name = hub.order.metadata.message_id
    assert not was_taken(grid, name)
    hub.state.object_store.delete(name)  # as ConfirmMessageReceived does
    assert was_taken(grid, name)
    assert isinstance(HttpGrid._runtime_client, property)
    assert {"node", "run"} <= set(dir(HttpGrid(token="x")))


def test_a_reply_that_is_announced_again_misses_what_has_not_arrived(hub: Hub) -> None:
    reply, tree, objects = hub.reply()
    assert hub.push(reply, tree)[1] == objects
    assert hub.push(reply, tree)[1] == objects


def test_objects_of_a_reply_that_the_grid_waits_for_are_taken_without_a_session(hub: Hub) -> None:
    """The answer to the first announcement was lost, the Grid has asked meanwhile: a second one is not understood."""
    reply, tree, objects = hub.reply()
    hub.push(reply, tree)
    run, order = reply.metadata.run_id, hub.order.metadata.message_id
    assert hub.state.get_message_res({order}, run)
    hub.state.delete_messages({order})
    assert hub.push(reply, tree)[1] == set(), "this is why long messages do not go through Flower's tree"
    contents = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
    assert all(hub.state.store_object(run, "", name, contents[name]) for name in objects)
    assert not hub.state.store_object(run, "", *next(iter(contents.items()))), "a second time it says no"


def test_an_announcement_that_was_overtaken_ends_the_session_of_the_later_one(hub: Hub) -> None:
    """A first request was held up on a broken connection and arrives after the second: objects then need no session."""
    reply, tree, objects = hub.reply()
    _, wanted = hub.push(reply, tree)
    later, _ = hub.push(reply, tree)
    overtaken, _ = hub.push(reply, tree)
    contents = {name: part.deflate() for name, part in get_all_nested_objects(reply).items()}
    run = reply.metadata.run_id
    assert wanted == objects and overtaken != later
    assert not any(hub.state.store_object(run, later, name, contents[name]) for name in objects)
    assert all(hub.state.store_object(run, "", name, contents[name]) for name in objects)


def test_a_node_that_is_gone_is_an_error_with_the_code_that_we_wait_at(hub: Hub) -> None:
    hub.state.deactivate_node(hub.node)
    [answer] = hub.state.get_message_res({hub.order.metadata.message_id}, hub.order.metadata.run_id)
    assert answer.error.code == ErrorCode.NODE_UNAVAILABLE
    assert hub.state.acknowledge_node_heartbeat(hub.node, 10), "a heartbeat brings it back"
    assert [node.status for node in hub.state.get_node_info()] == ["online"]


def test_a_heartbeat_has_a_timeout_that_an_interceptor_can_set() -> None:
    source = inspect.getsource(ProtobufClient._unary_unary)
    assert "timeout=self._client.timeout if timeout is None else timeout" in source
    request = httpx.Request("POST", "https://hub", extensions={"timeout": httpx.Timeout(5).as_dict()})
    context = ProtobufRequestContext("a heartbeat", SendNodeHeartbeatRequest(), request)
    _PatientHeartbeat().intercept(context, lambda same: httpx.Response(200, request=same.request))
    assert request.extensions["timeout"]["read"] > 5


def test_the_clients_transport_can_be_replaced_by_ours() -> None:
    with FleetHttpClient("https://127.0.0.1:1", verify=False) as client:
        assert isinstance(client._client, httpx.Client)
