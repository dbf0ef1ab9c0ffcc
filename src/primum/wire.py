"""Messages <-> bytes: canonical, versioned, bounded.

A message is a frozen `Message` subclass: fields are int, str, bytes, `Bulk`, bool, float, tuples, dicts and other
messages.
Its bytes are msgpack with the version, the class name as tag and the fields by name in order of definition, so equal
messages have equal bytes and a signature over the bytes is a signature over the message. Decoding checks the size
first, then type, version, every field's type, and that the bytes are the canonical ones.
"""

from functools import reduce
from operator import or_
from typing import Any, Final, TypeVar

import msgspec

from primum.errors import PeerError

VERSION: Final = 1
DEFAULT_LIMIT: Final = 64 * 1024 * 1024
_LONG: Final = 1 << 16  # bytes that msgpack writes as "bin 32"
_LONG_BYTES: Final = b"\xc6"
_EMPTY: Final = b"\xc4\x00"

Bulk = memoryview
"""A field of many bytes: reading it makes no copy. The last field of its message, so that checking makes none either."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=True, tag_field="kind"):
    """Base of everything that goes over a wire. Prints its name only: fields may be secret or long."""

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    __str__ = __repr__


MessageType = TypeVar("MessageType", bound=Message)

_encoder: Final = msgspec.msgpack.Encoder()


def encode(message: Message) -> bytes:
    """The canonical bytes of `message`: one version byte, then msgpack."""
    return bytes([VERSION]) + _encoder.encode(message)


def decode(data: bytes, kind: type[MessageType], peer: str, limit: int = DEFAULT_LIMIT) -> MessageType:
    """The message of type `kind` in `data`.

    Raises PeerError, naming `peer`, if it is too long, of another version or type, malformed, or not canonical.
    """
    message: MessageType = _decode(data, kind, kind.__name__, peer, limit)
    return message


def decode_one_of(data: bytes, kinds: tuple[type[Message], ...], peer: str, limit: int = DEFAULT_LIMIT) -> Any:
    """The message in `data`, of one of `kinds`; errors as `decode`."""
    return _decode(data, reduce(or_, kinds), "message", peer, limit)


def _decode(data: bytes, kind: Any, name: str, peer: str, limit: int) -> Any:
    if len(data) > limit:
        raise PeerError(f"{peer} sent {len(data):,} bytes where a {name} has at most {limit:,}.", "It was not read.")
    if not data or data[0] != VERSION:
        raise PeerError(
            f"{peer} sent something that is not a Primum {name} of version {VERSION}.",
            "Check that both sides run the same release of Primum.",
        )
    try:
        message = msgspec.msgpack.decode(memoryview(data)[1:], type=kind)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, ValueError) as error:
        raise PeerError(
            f"{peer} sent a malformed {name}: {error}.", "It was not used; check that both sides run the same release."
        ) from None
    if not _is_canonical(message, data):
        raise PeerError(f"{peer} sent a {name} that is not in canonical form.", "It was not used.")
    return message


def _is_canonical(message: Message, data: bytes) -> bool:
    """Whether `data` is what `encode` makes of `message`.

    A long last field is a view into `data`: what stands before it is compared, instead of a copy of it all.
    """
    name = message.__struct_fields__[-1] if message.__struct_fields__ else ""
    tail = getattr(message, name, None)
    if not isinstance(tail, memoryview) or len(tail) < _LONG:
        return encode(message) == data
    short = encode(msgspec.structs.replace(message, **{name: b""}))
    head = short[: -len(_EMPTY)] + _LONG_BYTES + len(tail).to_bytes(4, "big")
    return len(data) == len(head) + len(tail) and data.startswith(head)
