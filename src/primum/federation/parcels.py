"""Long messages travel as parcels: in pieces, each resumed where a break cut it, so that nothing is sent twice.

A message above INLINE bytes is not in Flower's message: a note of its SHA-256 and length is (`records.py`), and the
bytes go through the coordinator's front beside Flower (`parcel_desk.py` there, `courier.py` at the node). Between the
front and the server program, two processes of one machine, a parcel is a file:

    STATE/parcels/<identity of the hospital>/down/<digest>    an order: only that hospital may read it
    STATE/parcels/<identity of the hospital>/up/<digest>      a reply: whole and checked; <digest>.part until then
    STATE/parcels/<identity of the hospital>/speed.json       what was measured on the way to and from that hospital

The folder is emptied when a coordinator starts; a parcel is deleted when its exchange is over. Why not in Flower's
message tree: docs/decisions/0011-parcels.md.
"""

import hashlib
import json
import shutil
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from primum import wire
from primum.disk import write

INLINE: Final = 1 << 18
"""Bytes of a message up to which it stands in Flower's message itself: so few that a slow link brings them in seconds."""
PIECE: Final = 1 << 20
LANES: Final = 4
"""Pieces on their way at once: one TCP connection alone does not fill a link that loses packets."""
LARGEST: Final = 512 * 1024 * 1024
CAUTIOUS: Final = 125_000.0
"""Bytes a second (1 Mbit/s) that a hospital is taken to have, until something was measured."""

PATH: Final = "/primum/parcel"
HEADER: Final = "primum-request"
"""Where the front answers, and the header with the signed request."""

Direction = Literal["down", "up"]


@dataclass(frozen=True)
class Note:
    """What stands for a parcel in a message: SHA-256 and length of its bytes."""

    digest: bytes
    size: int


class ParcelRequest(wire.Message, frozen=True):
    """A hospital's signed request at the front: `get` bytes `start` to `end` of an order, `put` bytes from `start` on of
    a reply, or the `state` of a reply. `order`: digest of the order that it answers, empty where that was no parcel."""

    at: float
    nonce: bytes
    action: Literal["get", "put", "state"]
    digest: bytes
    size: int
    start: int
    end: int
    order: bytes


class ParcelState(wire.Message, frozen=True):
    """Bytes of each piece that are there already."""

    have: tuple[int, ...]


def pieces(size: int) -> list[tuple[int, int]]:
    """(start, end) of each piece."""
    return [(start, min(start + PIECE, size)) for start in range(0, size, PIECE)]


@dataclass(frozen=True)
class ParcelStore:
    """The parcels of a coordinator."""

    folder: Path

    @classmethod
    def at(cls, state: Path) -> "ParcelStore":
        """In a coordinator's state folder."""
        return cls(state / "parcels")

    def clear(self) -> None:
        """Delete all parcels; what was measured stays."""
        for folder in (*self.folder.glob("*/down"), *self.folder.glob("*/up")):
            shutil.rmtree(folder, ignore_errors=True)

    def path(self, member: bytes, way: Direction, digest: bytes) -> Path:
        """Where a parcel is, or would be."""
        return self.folder / member.hex() / way / digest.hex()

    def offer(self, member: bytes, body: bytes) -> Note:
        """Put an order where that hospital can get it."""
        note = Note(hashlib.sha256(body).digest(), len(body))
        path = self.path(member, "down", note.digest)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write(path, body, private=True)
        return note

    def take(self, member: bytes, note: Note) -> bytes | None:
        """A reply that came in whole, and it is deleted; None if it is not there or is not what the note says."""
        path = self.path(member, "up", note.digest)
        try:
            body = path.read_bytes()
        except OSError:
            return None
        self.drop(member, "up", note.digest)
        return body if len(body) == note.size and hashlib.sha256(body).digest() == note.digest else None

    def drop(self, member: bytes, way: Direction, digest: bytes) -> None:
        """Delete one; fine if it is gone."""
        path = self.path(member, way, digest)
        for file in (path, path.with_name(f"{path.name}.part")):
            with suppress(OSError):
                file.unlink(missing_ok=True)

    def speed(self, member: bytes, way: Direction) -> float:
        """Bytes a second: the slowest of the last transfers to (`down`) or from (`up`) a hospital, or CAUTIOUS."""
        measured = [value for value in self._speeds(member).get(way, ()) if value > 0]
        return min(measured, default=CAUTIOUS)

    def note_speeds(self, member: bytes, way: Direction, speeds: list[float]) -> None:
        """Keep what was measured."""
        kept = {**self._speeds(member), way: speeds}
        (self.folder / member.hex()).mkdir(parents=True, exist_ok=True, mode=0o700)
        write(self.folder / member.hex() / "speed.json", json.dumps(kept).encode())

    def measured(self, member: bytes, way: Direction) -> list[float]:
        """The last transfers, bytes a second."""
        return list(self._speeds(member).get(way, ()))

    def _speeds(self, member: bytes) -> dict[str, list[float]]:
        try:
            kept: dict[str, list[float]] = json.loads((self.folder / member.hex() / "speed.json").read_text())
        except (OSError, ValueError):
            return {}
        return kept


def slices(body: memoryview, step: int = 1 << 16) -> Iterator[bytes]:
    """The bytes in steps, so that a break is noticed in the middle."""
    for start in range(0, len(body), step):
        yield bytes(body[start : start + step])
