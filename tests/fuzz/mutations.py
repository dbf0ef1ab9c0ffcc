"""A message or a file with one thing changed. Drawn from a public stream: the same label gives the same changes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import msgspec

from primum import wire
from primum.federation import messages as orders
from primum.federation import parcels, scientist
from primum.keys.identity import Identity
from primum.mpc.share import ROLES, other
from primum.rng import Stream
from primum.secagg import messages as sums
from primum.secagg.messages import Signed, sign

Something = TypeVar("Something")
MessageType = TypeVar("MessageType", bound=wire.Message)
Path = tuple[str, ...]
"""Names of the fields down to what was changed, without places in tuples; "twice" or "reversed" stand behind a tuple
whose part is said twice, or that is."""

KINDS: Final[Mapping[str, type[wire.Message]]] = {
    name: kind
    for module in (orders, sums, scientist, parcels)
    for name, kind in vars(module).items()
    if isinstance(kind, type) and issubclass(kind, wire.Message)
}
_INTEGERS: Final = (0, 1, 2, -1, 1 << 31, 1 << 40, (1 << 62) - 1, 1 << 63, -(1 << 63), (1 << 64) - 1)
_FLOATS: Final = (0.0, -1.0, 1e308, -1e308, float("inf"), float("-inf"), float("nan"), 5e-324)
_TEXTS: Final = (
    "",
    "..",
    ".",
    "/",
    "\0",
    "x" * 300,
    "x" * 70_000,
    "\u202e",
    "../../etc/passwd",
    "NaN",
    "🫁",
    "\n",
    "*",
)
_LARGEST_INTEGER: Final = 1 << 64


class Draw:
    """Choices from a public stream."""

    def __init__(self, label: str) -> None:
        self._stream = Stream.public(f"fuzz {label}")

    def below(self, bound: int) -> int:
        return self._stream.below(bound)

    def of(self, several: Sequence[Something]) -> Something:
        return several[self._stream.below(len(several))]

    def one_in(self, many: int) -> bool:
        return self._stream.below(many) == 0

    def bytes(self, count: int) -> bytes:
        return self._stream.bytes(count)


@dataclass(frozen=True)
class Mutant:
    """A changed message, and what in it is changed."""

    message: Any
    path: Path

    def touches(self, free: frozenset[str]) -> bool:
        """Whether what is changed is one of the named fields, or stands in one: `Class.field`."""
        return bool(free & set(self.path))


def mutate(message: MessageType, draw: Draw, own: Identity | None = None) -> Mutant:
    """`message` with one field changed, of the same types; envelopes that `own` signed are opened and signed again.

    Each field has the same chance, however many others lie beside it, but the run's name, which is soon refused, less.
    """
    while True:
        path: list[str] = []
        changed = _changed(message, draw, own, path)
        dull = path[:1] and path[0].endswith(".run") and len(path) == 1 and not draw.one_in(4)
        if changed != message and not dull:
            return Mutant(changed, tuple(path))


def _changed(value: Any, draw: Draw, own: Identity | None, path: list[str]) -> Any:
    if isinstance(value, Signed) and own is not None and value.signer == own.public and not draw.one_in(20):
        inner = opened(value)
        if inner is not None:
            return sign(own, _changed(inner, draw, own, path))
    if isinstance(value, wire.Message) and value.__struct_fields__:
        name = draw.of(value.__struct_fields__)
        path.append(f"{type(value).__name__}.{name}")
        before = getattr(value, name)
        return msgspec.structs.replace(value, **{name: _changed(before, draw, own, path)})
    if isinstance(value, tuple):
        return _tuple(value, draw, own, path)
    return _leaf(value, draw)


def opened(envelope: Signed) -> wire.Message | None:
    """The message in an envelope, whichever it is; None where it is none that is known here."""
    try:
        name = msgspec.msgpack.decode(envelope.body[1:])["kind"]
        return wire.decode(envelope.body, KINDS[name], "a test")
    except (KeyError, TypeError, ValueError, wire.PeerError):
        return None


def _tuple(value: tuple[Any, ...], draw: Draw, own: Identity | None, path: list[str]) -> tuple[Any, ...]:
    if not value:
        return value
    place, what = draw.below(len(value)), draw.below(8)
    if len({type(part) for part in value}) > 1:  # a pair: with more or fewer parts it would not be read
        what = 7
    if what == 0:
        return value[:place] + value[place + 1 :]
    if what == 1:
        return _marked(path, "twice", (*value, value[place]))
    if what == 2:
        return _marked(path, "reversed", tuple(reversed(value)))
    if what == 3 and len(value) > 1:
        return ()
    return (*value[:place], _changed(value[place], draw, own, path), *value[place + 1 :])


def _marked(path: list[str], what: str, value: tuple[Any, ...]) -> tuple[Any, ...]:
    if path:
        path[-1] += f" {what}"
    return value


def _leaf(value: Any, draw: Draw) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        near = value + draw.of((-2, -1, 1, 2, 1000, -1000))
        number = draw.of((near, near, draw.of(_INTEGERS)))
        return number if -(1 << 63) <= number < _LARGEST_INTEGER else 0
    if isinstance(value, float):
        return draw.of((value + 1, -value, *_FLOATS))
    if value in ROLES and not draw.one_in(8):
        return other(value)
    if isinstance(value, str):
        return draw.of((draw.of(_TEXTS), value[:-1], value + "x", _with_letter(value, draw)))
    if isinstance(value, bytes | memoryview):
        return changed_bytes(bytes(value), draw)
    return value


def _with_letter(value: str, draw: Draw) -> str:
    place = draw.below(max(1, len(value)))
    return value[:place] + draw.of('0aZ_ ="\\') + value[place + 1 :]


def changed_bytes(data: bytes, draw: Draw) -> bytes:
    """A byte flipped, cut off, longer, zeros, drawn anew, empty."""
    what, place = draw.below(9), draw.below(max(1, len(data)))
    if what < 4 and data:
        return data[:place] + bytes([data[place] ^ (1 + draw.below(255))]) + data[place + 1 :]
    if what == 4:
        return data[:place]
    if what == 5:
        return data + draw.bytes(1 + draw.below(64))
    if what == 6:
        return bytes(len(data))
    if what == 7:
        return draw.bytes(len(data))
    return b""


def flipped(data: bytes, draw: Draw) -> bytes:
    """One byte of a frame changed."""
    place = draw.below(len(data))
    return data[:place] + bytes([data[place] ^ (1 + draw.below(255))]) + data[place + 1 :]


def changed_file(data: bytes, draw: Draw) -> bytes:
    """A file after an accident: bytes flipped, a stretch lost, doubled, zeroed, moved, or the end missing."""
    changed = bytearray(data)
    for _ in range(1 + draw.below(3)):
        if not changed:
            break
        what, start = draw.below(8), draw.below(len(changed))
        end = min(len(changed), start + 1 + draw.below(1 + draw.of((8, 64, 1024))))
        if what < 3:
            changed[start] ^= 1 + draw.below(255)
        elif what == 3:
            del changed[start:end]
        elif what == 4:
            changed[start:start] = changed[start:end]
        elif what == 5:
            changed[start:end] = bytes(end - start)
        elif what == 6:
            changed[start:end] = draw.bytes(end - start)
        else:
            del changed[start:]
    return bytes(changed) if bytes(changed) != data else data[:-1]
