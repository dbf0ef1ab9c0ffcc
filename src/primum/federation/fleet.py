"""A node's connection to the hub: Flower's Fleet interface, without Flower's processes.

Pull-only: the node opens no port. It never asks for an app bundle; what it receives is data for installed code. A break
is waited out inside a connection; what was received or computed is kept over connections (`Mail`).
"""

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Final

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_MIN_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import ActivateNodeRequest, DeactivateNodeRequest, PullMessagesRequest, PushMessagesRequest
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node
from flwr.supercore.error import ApiErrorCode
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import pull_and_inflate_object_from_tree, push_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supercore.protobuf.client import ProtobufCall, ProtobufRequestContext
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from primum.errors import PrimumError, Refused, Unavailable
from primum.federation.contact import HUB
from primum.federation.courier import Courier
from primum.federation.parcels import INLINE, Note
from primum.federation.records import FIRST_WAIT, LONGEST_WAIT, content_of, to_reply
from primum.federation.way import Way

# Flower takes a node for gone after two intervals, and lets a killed one in again only then
_INTERVAL: Final = float(HEARTBEAT_MIN_INTERVAL)
_HEARTBEAT: Final = _INTERVAL * 0.5
_HEARTBEAT_ANSWER: Final = 15.0  # seconds: on a full link an answer takes longer than Flower's 5

_PATIENCE: Final = 60.0  # seconds for which a break is waited out before the connection is given up
_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_SAID_AFTER: Final = 3.0
_AWAY: Final = frozenset({502, 503, 504})  # SuperLink is starting, or a proxy has lost the coordinator
_NOT_NOW: Final = frozenset({401, 403, *_AWAY})
_REPLIES: Final = 4  # of so many runs the last reply is kept


@dataclass(frozen=True)
class Letter:
    """An order as it came: Flower's message, the bytes, their digest; `parcel`: whether they came as one."""

    message: Message = field(repr=False)
    body: bytes = field(repr=False)
    digest: bytes
    parcel: bool


@dataclass
class Mail:
    """What a node keeps over its connections, so that no break loses or repeats work.

    The order that is being fetched, the reply that is not sent yet, and the last reply of each run: the coordinator
    asks again when it hears nothing, and the same order gets the same reply.
    """

    courier: Courier
    stop: threading.Event
    say: Callable[[str], None]
    incoming: Message | None = None
    outgoing: tuple[Letter, bytes] | None = None
    answered: dict[int, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)

    def remember(self, letter: Letter, reply: bytes) -> None:
        """This is the reply to that order."""
        run = letter.message.metadata.run_id
        self.answered.pop(run, None)
        self.answered[run] = (letter.digest, reply)
        while len(self.answered) > _REPLIES:
            del self.answered[next(iter(self.answered))]

    def known_reply(self, run: int, digest: bytes) -> bytes | None:
        """What was answered to the same bytes before, if they were the run's last."""
        kept, reply = self.answered.get(run, (b"", b""))
        return reply if kept == digest else None


@dataclass(frozen=True)
class Fleet:
    """An activated connection; `receive` and `send` raise Unavailable when the hub stays away.

    Refused, in the coordinator's words, once this node is not a member any more.
    """

    _client: Any
    _node: Any
    _way: Way
    _mail: Mail

    def receive(self) -> Letter | None:
        """The next order for this node, or None; an order that was answered before is answered in the same way.

        PeerError for a message that is not Primum's, or whose bytes are not those that it names.
        """
        self._send_outgoing()
        try:
            message = self._mail.incoming or self._pull()
        except _Unwanted:
            return None
        if message is None:
            return None
        self._mail.incoming = message
        try:
            return self._open(message)
        except Unavailable:
            raise
        except BaseException:
            self._mail.incoming = None
            raise

    def send(self, letter: Letter, reply: bytes) -> None:
        """Send the reply to an order; what a break kept from leaving is sent by the next connection."""
        self._mail.remember(letter, reply)
        self._mail.outgoing = (letter, reply)
        self._send_outgoing()

    def _open(self, message: Message) -> Letter | None:
        content = content_of(message, "the coordinator")
        parcel = isinstance(content, Note)
        digest = content.digest if isinstance(content, Note) else hashlib.sha256(content).digest()
        reply = self._mail.known_reply(message.metadata.run_id, digest)
        if reply is not None:
            self._mail.incoming = None
            self.send(Letter(message, b"", digest, parcel), reply)
            return None
        body = self._mail.courier.fetch(self._way, content) if isinstance(content, Note) else content
        self._mail.incoming = None
        return None if body is None else Letter(message, body, digest, parcel)

    def _send_outgoing(self) -> None:
        if self._mail.outgoing is None:
            return
        letter, reply = self._mail.outgoing
        content: bytes | Note | None = reply
        if len(reply) > INLINE:
            content = self._mail.courier.deliver(self._way, reply, letter.digest if letter.parcel else b"")
        try:
            with _reachable():
                if content is not None:
                    self._push(to_reply(content, letter.message))
        except _Unwanted:
            self._mail.say("A reply came too late: the coordinator does not wait for it any more.")
        self._mail.outgoing = None

    # -- Flower's messages ------------------------------------------------------------------------------------------

    def _pull(self) -> Message | None:
        with _reachable():
            response = self._persist(self._client.PullMessages, PullMessagesRequest(node=self._node))
            if not response.messages_list:
                return None
            metadata = message_from_proto(response.messages_list[0]).metadata
            tree = response.message_object_trees[0]

            def confirm(object_id: str) -> None:
                self._persist(
                    self._client.ConfirmMessageReceived,
                    ConfirmMessageReceivedRequest(node=self._node, run_id=metadata.run_id, message_object_id=object_id),
                )

            message: Message = pull_and_inflate_object_from_tree(
                tree,
                make_pull_object_fn_protobuf(
                    lambda request: self._persist(self._client.PullObject, request), self._node, metadata.run_id
                ),
                confirm,
                return_type=Message,
                initial_backoff=FIRST_WAIT,
                backoff_cap=LONGEST_WAIT,
            )
            message.metadata.__dict__["_message_id"] = tree.object_id
            return message

    def _push(self, message: Message) -> None:
        message.metadata.__dict__["_message_id"] = message.object_id
        run_id = message.metadata.run_id
        with no_object_id_recompute():
            request = PushMessagesRequest(
                node=self._node,
                messages_list=[message_to_proto(remove_content_from_message(message))],
                message_object_trees=[get_object_tree(message)],
                clientapp_runtime_list=[0.0],
            )
            try:
                response = self._persist(self._client.PushMessages, request)
            except httpx.HTTPStatusError as error:
                if error.response.status_code in _NOT_NOW:
                    raise
                raise _Unwanted from error
            push_objects(get_all_nested_objects(message), self._pusher(run_id, response.session_id))

    def _pusher(self, run_id: int, session: str) -> Callable[[str, bytes], None]:
        """Pushes one object. SuperLink may know it by another session, if the request was made twice: then by none."""

        def push(object_id: str, content: bytes) -> None:
            for named in (session, ""):
                request = PushObjectRequest(
                    node=self._node, run_id=run_id, object_id=object_id, object_content=content, session_id=named
                )
                if self._persist(self._client.PushObject, request).stored:
                    return

        return push

    def _persist(self, call: Callable[[Any], Any], request: Any) -> Any:
        """Call; again after a break, for PATIENCE. Repeating does no harm: objects are named by their content."""
        began, pause, said = time.monotonic(), _FIRST_PAUSE, False
        while True:
            try:
                answer = call(request)
            except httpx.HTTPStatusError as error:
                if _run_is_over(error):
                    raise _Unwanted from error
                if error.response.status_code not in _AWAY:
                    raise
                failure: httpx.HTTPError = error
            except httpx.TransportError as error:
                failure = error
            else:
                HUB.note()
                if said:
                    self._mail.say("Connected again.")
                return answer
            waited = time.monotonic() - began
            if waited > _SAID_AFTER and not said:
                said = True
                HUB.lost()
                self._mail.say(f"The coordinator cannot be reached: {_reason(failure)}. Trying again.")
            if waited > _PATIENCE or self._mail.stop.wait(pause):
                raise failure
            pause = min(2 * pause, _LONGEST_PAUSE)


class _Unwanted(Exception):
    """The hub knows nothing of the order any more."""


class _PatientHeartbeat:
    """Flower's client gives a heartbeat 5 seconds; a full link needs more."""

    def intercept(self, context: ProtobufRequestContext, call_next: ProtobufCall) -> httpx.Response:
        """As flwr.supercore.protobuf.client.ProtobufClientInterceptor."""
        if isinstance(context.message, SendNodeHeartbeatRequest):
            context.request.extensions["timeout"] = httpx.Timeout(_HEARTBEAT_ANSWER).as_dict()
        answer: httpx.Response = call_next(context)
        return answer


@contextmanager
def connect(
    way: Way, keys: tuple[ec.EllipticCurvePrivateKey, ec.EllipticCurvePublicKey], mail: Mail
) -> Iterator[Fleet]:
    """Activate this node at the hub; Unavailable if it is away."""
    interceptors = [
        RuntimeVersionHttpInterceptor(component_name="SuperNode"),
        NodeAuthHttpInterceptor(*keys),
        _PatientHeartbeat(),
    ]
    with FleetHttpClient(f"https://{way.address}", interceptors=interceptors, verify=way.context()) as client:
        client.close()
        client._client = way.client()  # Flower's own reads proxy variables of the environment
        with _reachable():
            request = ActivateNodeRequest(public_key=public_key_to_bytes(keys[1]), heartbeat_interval=_INTERVAL)
            node = Node(node_id=client.ActivateNode(request).node_id)
        over = threading.Event()
        beat = threading.Thread(target=_heartbeat, args=(client, node, mail.courier, over), daemon=True)
        beat.start()
        try:
            yield Fleet(client, node, way, mail)
        finally:
            HUB.lost()
            over.set()
            beat.join(timeout=5)
            with suppress(httpx.HTTPError):  # so that the coordinator does not wait for it; else it finds out by itself
                client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))


def _heartbeat(client: Any, node: Any, courier: Courier, over: threading.Event) -> None:
    while not over.wait(_HEARTBEAT):
        interval = 2 * _INTERVAL if courier.busy else _INTERVAL  # a full link may lose some
        try:
            client.SendNodeHeartbeat(SendNodeHeartbeatRequest(node=node, heartbeat_interval=interval))
        except httpx.HTTPError:
            continue  # the main loop meets the same fault and waits, or connects again


def _refused(answer: httpx.Response) -> PrimumError:
    """The words of our front, for a node that is not (or not any more) a member."""
    try:
        said = answer.json()
        return Refused(str(said["error"])[:500], str(said["hint"])[:500])
    except (ValueError, KeyError, TypeError):
        return Unavailable("The coordinator answers 403.", "Something stands in between: a proxy?")


def _run_is_over(error: httpx.HTTPStatusError) -> bool:
    """Whether SuperLink says that the message is of a run that has ended: saying it again would help nothing."""
    try:
        return bool(error.response.json()["code"] == ApiErrorCode.FLEET_RUN_STATUS_NOT_ALLOWED)
    except (ValueError, KeyError, TypeError):
        return False


def _reason(error: httpx.HTTPError) -> str:
    return str(error.response.status_code) if isinstance(error, httpx.HTTPStatusError) else type(error).__name__


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except (_Unwanted, PrimumError):
        raise
    except httpx.HTTPStatusError as error:
        if error.response.status_code == 403:
            raise _refused(error.response) from error
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
