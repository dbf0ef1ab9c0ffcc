"""JSON files that travel by hand: bytes as base64, written whole or not at all, bounded and checked when read."""

from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec

from primum.disk import write
from primum.errors import InputError, PeerError
from primum.wire import Message

MessageType = TypeVar("MessageType", bound=Message)
_encoder: Final = msgspec.json.Encoder()


def to_json(message: Message) -> bytes:
    """The message as JSON; bytes are base64."""
    return _encoder.encode(message)


def from_json(data: bytes, kind: type[MessageType], peer: str, limit: int) -> MessageType:
    """The message of type `kind` in `data`; PeerError that names `peer` if it is too long or malformed."""
    if len(data) > limit:
        raise PeerError(f"{peer} sent {len(data):,} bytes where {limit:,} are allowed.", "It was not read.")
    try:
        decoder: Any = msgspec.json.Decoder(kind)
        message: MessageType = decoder.decode(data)
    except (msgspec.MsgspecError, RecursionError, ValueError) as error:
        raise PeerError(
            f"{peer} sent a malformed {kind.__name__}: {_first_line(error)}.",
            "Check that both sides run the same release.",
        ) from None
    return message


def read_message(path: Path, kind: type[MessageType], limit: int) -> MessageType:
    """The message in the JSON file `path`; InputError that names the file."""
    try:
        size = path.stat().st_size
        data = path.read_bytes() if size <= limit else b""
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.", "Check the path.") from None
    if size > limit:
        raise InputError(f"{path} has {size:,} bytes; at most {limit:,} are allowed.", "It is another file.")
    try:
        return from_json(data, kind, str(path), limit)
    except PeerError as error:
        raise InputError(
            f"{path} is not a {kind.__name__} file of this release of Primum.",
            f"Ask for the file again. ({error.message})",
        ) from None


def write_message(path: Path, message: Message, private: bool = False) -> None:
    """Write `message` as indented JSON, whole or not at all; MachineError if the disk says no."""
    write(path, msgspec.json.format(to_json(message), indent=1) + b"\n", private)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0][:200] if str(error) else type(error).__name__
