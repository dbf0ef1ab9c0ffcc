"""Our bytes in Flower's messages, and the one place where Flower's waiting times are set.

A Flower message is a tree of objects, each carried by a request of its own, so a whole protocol message travels as one
array of bytes in one record.
"""

from typing import Final

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.supercore.inflatable import inflatable_utils

from primum.errors import PeerError

_RECORD: Final = "primum"
_FIELD: Final = "body"
FIRST_WAIT: Final = 0.02
LONGEST_WAIT: Final = 0.2


def wait_briefly() -> None:
    """Look again after 20 ms for an object that is not there yet, not after a second (Flower's default).

    Flower's Grid calls these functions with their defaults and half of all exchanges meet one such wait.
    tests/federation/test_flower_contract.py says when the two names move.
    """
    for function in (inflatable_utils.pull_objects, inflatable_utils.pull_and_inflate_object_from_tree):
        function.__kwdefaults__.update(initial_backoff=FIRST_WAIT, backoff_cap=LONGEST_WAIT)


def to_message(body: bytes, node_id: int, kind: str, lifetime: float) -> Message:
    """A message to a node; `lifetime` seconds after which Flower drops it."""
    return Message(RecordDict({_RECORD: ConfigRecord({_FIELD: body})}), node_id, kind, ttl=lifetime)


def to_reply(body: bytes, received: Message) -> Message:
    """The answer to a message."""
    return Message(RecordDict({_RECORD: ConfigRecord({_FIELD: body})}), reply_to=received)


def body_of(message: Message, peer: str) -> bytes:
    """The bytes in a message; PeerError where there are none."""
    if message.has_error():
        raise PeerError(f"{peer} could not be reached (Flower error {message.error.code}).", "It is left out.")
    record = message.content.get(_RECORD)
    body = record.get(_FIELD) if isinstance(record, ConfigRecord) else None
    if not isinstance(body, bytes) or len(message.content) != 1:
        raise PeerError(f"{peer} sent a message that is not Primum's.", "It was not used.")
    return body
