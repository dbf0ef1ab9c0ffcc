"""A node's connection to the hub: Flower's Fleet interface, without Flower's processes.

Pull-only: the node opens no port. It never asks for an app bundle; what it receives is data for installed code.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, push_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from primum.errors import Unavailable
from primum.federation.records import FIRST_WAIT, LONGEST_WAIT

# Flower takes a node for gone after two intervals, and lets a killed one in again only then
_INTERVAL: Final = float(HEARTBEAT_MIN_INTERVAL)
_HEARTBEAT: Final = _INTERVAL * 0.5


@dataclass(frozen=True)
class Fleet:
    """An activated connection; `receive` and `send` raise Unavailable while the hub is away."""

    _client: Any
    _node: Any

    def receive(self) -> Message | None:
        """The next message for this node, or None."""
        with _reachable():
            response = self._client.PullMessages(PullMessagesRequest(node=self._node))
            if not response.messages_list:
                return None
            metadata = message_from_proto(response.messages_list[0]).metadata
            tree = response.message_object_trees[0]
            message: Message = pull_and_inflate_object_from_tree(
                tree,
                make_pull_object_fn_protobuf(self._client.PullObject, self._node, metadata.run_id),
                self._confirm(metadata.run_id),
                return_type=Message,
                initial_backoff=FIRST_WAIT,
                backoff_cap=LONGEST_WAIT,
            )
            message.metadata.__dict__["_message_id"] = tree.object_id
            return message

    def send(self, message: Message) -> None:
        """Send a reply."""
        message.metadata.__dict__["_message_id"] = message.object_id
        with _reachable(), no_object_id_recompute():
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[get_object_tree(message)],
                clientapp_runtime_list=[0.0],
            )
            response = self._client.PushMessages(request)
            push_objects(
                get_all_nested_objects(message),
                make_push_object_fn_protobuf(
                    self._client.PushObject, self._node, message.metadata.run_id, response.session_id
                ),
                object_ids_to_push=set(response.objects_to_push),
            )

    def _confirm(self, run_id: int) -> Callable[[str], None]:
        def confirm(object_id: str) -> None:
            self._client.ConfirmMessageReceived(
                ConfirmMessageReceivedRequest(node=self._node, run_id=run_id, message_object_id=object_id)
            )

        return confirm


@contextmanager
def connect(
    address: str, certificate: str, keys: tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey]
) -> Iterator[Fleet]:
    """Activate this node at the hub behind `address` (host:port, pinned certificate); Unavailable if it is away."""
    interceptors = [RuntimeVersionHttpInterceptor(component_name="SuperNode"), NodeAuthHttpInterceptor(*keys)]
    with FleetHttpClient.from_server_address(address, False, certificate.encode(), interceptors) as client:
        with _reachable():
            request = ActivateNodeRequest(public_key=public_key_to_bytes(keys[1]), heartbeat_interval=_INTERVAL)
            node = Node(node_id=client.ActivateNode(request).node_id)
        over = threading.Event()
        beat = threading.Thread(target=_heartbeat, args=(client, node, over), daemon=True)
        beat.start()
        try:
            yield Fleet(client, node)
        finally:
            over.set()
            beat.join(timeout=5)
            with suppress(httpx.HTTPError):  # so that the coordinator does not wait for it; else it finds out by itself
                client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))


def _heartbeat(client: Any, node: Any, over: threading.Event) -> None:
    while not over.wait(_HEARTBEAT):
        try:
            client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=_INTERVAL))
        except httpx.HTTPError:
            continue  # the main loop meets the same fault and connects again


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except httpx.HTTPStatusError as error:
        raise Unavailable(
            f"The coordinator answers {error.response.status_code}.",
            "If this goes on, ask its operator whether this hospital is still enrolled.",
        ) from error
    except httpx.HTTPError as error:
        raise Unavailable(
            f"The coordinator cannot be reached: {type(error).__name__}.",
            "Trying again; check the network if it goes on.",
        ) from error
    except Exception as error:  # what Flower raises when a message expired while it was being read
        raise Unavailable(f"A message could not be read: {error}.", "The coordinator sends it again.") from error
