"""What we take from Flower: says when a release moves it."""

import hashlib
import inspect
import subprocess
import sys
from pathlib import Path

import flwr
import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto import control_pb2, fleet_pb2
from flwr.supercore.control.control_http_client import ControlHttpClient
from flwr.supercore.inflatable import inflatable_utils
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supernode.fleet_http_client import FleetHttpClient

from primum.errors import PeerError
from primum.federation import superlink
from primum.federation.front import FLEET_CALLS
from primum.federation.records import FIRST_WAIT, LONGEST_WAIT, body_of, to_message, to_reply, wait_briefly


def test_it_is_the_release_that_we_pin() -> None:
    assert flwr.__version__ == "1.41.0"


@pytest.mark.parametrize("name", ["pull_objects", "pull_and_inflate_object_from_tree"])
def test_the_waits_are_keyword_defaults_and_wait_briefly_sets_them(name: str) -> None:
    function = getattr(inflatable_utils, name)
    assert {"initial_backoff", "backoff_cap"} <= set(function.__kwdefaults__)
    before = dict(function.__kwdefaults__)
    try:
        wait_briefly()
        assert function.__kwdefaults__["initial_backoff"] == FIRST_WAIT
        assert function.__kwdefaults__["backoff_cap"] == LONGEST_WAIT
    finally:
        function.__kwdefaults__.update(before)


@pytest.mark.parametrize(
    ("function", "leading"),
    [
        (inflatable_utils.push_objects, ["objects", "push_object_fn"]),
        (make_pull_object_fn_protobuf, ["pull_object_protobuf", "node", "run_id"]),
        (make_push_object_fn_protobuf, ["push_object_protobuf", "node", "run_id", "session_id"]),
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
    for call in ("RegisterNode", "StartRun", "ListRuns"):
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
    assert body_of(message, "a peer") == b"\x00body"
    message.metadata.__dict__["_message_id"] = "an order"
    reply = to_reply(b"answer", message)
    assert reply.metadata.reply_to_message_id == "an order"
    assert body_of(reply, "a peer") == b"answer"


@pytest.mark.parametrize(
    "content",
    [
        RecordDict(),
        RecordDict({"other": ConfigRecord({"body": b"x"})}),
        RecordDict({"primum": ConfigRecord({"body": "text"})}),
        RecordDict({"primum": ConfigRecord({"body": b"x"}), "more": ConfigRecord()}),
    ],
    ids=["empty", "another record", "text", "two records"],
)
def test_a_message_of_another_form_is_not_ours(content: RecordDict) -> None:
    with pytest.raises(PeerError, match="not Primum's"):
        body_of(Message(content, 1, "query.primum"), "a peer")
