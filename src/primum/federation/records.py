"""Our bytes in Flower's messages, and the one place where Flower's waiting times are set.

A Flower message is a tree of objects, each carried by a request of its own, so a protocol message travels as one array
of bytes in one record; a long one as a note of where its bytes are (`parcels.py`).
"""

from typing import Any, Final

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.proto.message_pb2 import PullObjectRequest
from flwr.supercore.inflatable import inflatable_utils

from primum.errors import PeerError
from primum.federation.parcels import LARGEST, Note

_RECORD: Final = "primum"
_FIELD: Final = "body"
_DIGEST: Final = "parcel"
_SIZE: Final = "bytes"
FIRST_WAIT: Final = 0.02
LONGEST_WAIT: Final = 0.2
GIVE_UP: Final = 30.0


def wait_briefly() -> None:
    """Look again after 20 ms for an object that is not there yet, not after a second (Flower's default).

    Flower's Grid calls these functions with their defaults and half of all exchanges meet one such wait.
    And give up after 30 seconds, not two hours: while the Grid waits for one hospital it hears no other, and what is lost
    is asked for again (`exchange.py`). tests/federation/test_flower_contract.py says when the names move.
    """
    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        function.__kwdefaults__.update(initial_backoff=FIRST_WAIT, backoff_cap=LONGEST_WAIT, max_time=GIVE_UP)


def was_taken(grid: Any, name: str) -> bool:
    """Whether the node has confirmed that it has this order: Flower deletes the message's object then."""
    request = PullObjectRequest(node=grid.node, run_id=grid.run.run_id, object_id=name)
    return not grid._runtime_client.PullObject(request).object_found


def to_message(content: bytes | Note, node_id: int, kind: str, lifetime: float) -> Message:
    """A message to a node; `lifetime` seconds after which Flower drops it."""
    return Message(_record(content), node_id, kind, ttl=lifetime)


def to_reply(content: bytes | Note, received: Message) -> Message:
    """The answer to a message."""
    return Message(_record(content), reply_to=received)


def content_of(message: Message, peer: str) -> bytes | Note:
    """The bytes in a message, or the note of a parcel; PeerError where there is neither."""
    if message.has_error():
        raise PeerError(f"{peer} could not be reached (Flower error {message.error.code}).", "It is left out.")
    record = message.content.get(_RECORD)
    if isinstance(record, ConfigRecord) and len(message.content) == 1:
        body, digest, size = record.get(_FIELD), record.get(_DIGEST), record.get(_SIZE)
        if isinstance(body, bytes):
            return body
        if isinstance(digest, bytes) and len(digest) == 32 and isinstance(size, int) and 0 < size <= LARGEST:
            return Note(digest, size)
    raise PeerError(f"{peer} sent a message that is not Primum's.", "It was not used.")


def _record(content: bytes | Note) -> RecordDict:
    if isinstance(content, Note):
        return RecordDict({_RECORD: ConfigRecord({_DIGEST: content.digest, _SIZE: content.size})})
    return RecordDict({_RECORD: ConfigRecord({_FIELD: content})})
