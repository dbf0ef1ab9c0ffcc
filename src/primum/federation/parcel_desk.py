"""The front's side of parcels: gives a hospital its orders and takes its replies, piece by piece; measures both ways.

Each request is signed by an enrolled identity, fresh, and used once. Bytes that arrived stay when a connection breaks;
a reply that is whole is checked against its digest before the server program can see it.
"""

import asyncio
import base64
import binascii
import hashlib
import os
import shutil
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from primum import wire
from primum.errors import PeerError
from primum.federation.freshness import Fresh
from primum.federation.parcels import (
    HEADER,
    LANES,
    LARGEST,
    PIECE,
    Direction,
    Note,
    ParcelRequest,
    ParcelState,
    ParcelStore,
    pieces,
)
from primum.secagg.messages import Signed, open_signed

_LONGEST_HEADER: Final = 4096
_READ: Final = 1 << 18
_UNFINISHED: Final = 2  # replies that a hospital may have on their way at once
_SPARE: Final = 64 * 1024 * 1024  # bytes of disk that are left free
_REMEMBERED: Final = 4  # transfers of which the slowest counts
_TELLING: Final = 4.0  # seconds after which a transfer that is still going on counts too


@dataclass
class _Transfer:
    """One parcel on its way: bytes that are there by piece, since when."""

    note: Note
    have: list[int]
    began: float = field(default_factory=time.monotonic)
    counted: float = 0.0

    def speed(self, buffered: int) -> float | None:
        """Bytes a second so far; None while most of it may still stand in buffers on the way."""
        moved, seconds = sum(self.have) - buffered, time.monotonic() - self.began
        return moved / seconds if moved > 0 and seconds > 0 else None


class ParcelDesk:
    """Answers parcel requests. One event loop calls it, so nothing here is locked."""

    def __init__(self, store: ParcelStore, members: Callable[[], frozenset[bytes]]) -> None:
        self._store, self._members, self._fresh = store, members, Fresh()
        self._transfers: dict[tuple[bytes, Direction, bytes], _Transfer] = {}
        self._finished: dict[tuple[bytes, Direction], list[float]] = {}
        store.clear()

    async def answer(self, request: Request) -> Response:
        """GET, PUT or POST (state). 403 for strangers, 404 and 410 for what is over, 422 for bytes of another digest."""
        try:
            member, asked = self._open(request)
        except PeerError as error:
            return Response(error.message, 403)
        if asked.action == "get":
            return self._give(member, asked)
        if asked.order and not self._store.path(member, "down", asked.order).exists():
            return Response("The order was taken back.", 410)
        return await self._take(member, asked, request)

    def _open(self, request: Request) -> tuple[bytes, ParcelRequest]:
        try:
            packed = base64.b64decode(request.headers.get(HEADER, "")[:_LONGEST_HEADER], validate=True)
        except (ValueError, binascii.Error):
            raise PeerError("The request is not signed.", "It was not read.") from None
        envelope = wire.decode(packed, Signed, "the hospital", _LONGEST_HEADER)
        if envelope.signer not in self._members():
            raise PeerError("This key is not enrolled here.", "Ask for a join file.")
        asked = open_signed(envelope, ParcelRequest, envelope.signer, "the hospital")
        self._fresh.check(asked.at, asked.nonce)
        methods = {"get": "GET", "put": "PUT", "state": "POST"}
        if request.method != methods[asked.action] or len(asked.digest) != 32 or len(asked.order) not in (0, 32):
            raise PeerError("The request is malformed.", "It was not carried out.")
        if not 0 <= asked.start < asked.end <= asked.size <= LARGEST:
            raise PeerError("The request asks for bytes that no parcel has.", "It was not carried out.")
        return envelope.signer, asked

    # -- orders -----------------------------------------------------------------------------------------------------

    def _give(self, member: bytes, asked: ParcelRequest) -> Response:
        path = self._store.path(member, "down", asked.digest)
        if not path.is_file() or path.stat().st_size != asked.size:
            return Response("There is no such parcel.", 404)
        transfer = self._transfer(member, "down", asked)
        length = str(asked.end - asked.start)
        return StreamingResponse(
            self._read(member, transfer, path, asked.start, asked.end), 200, {"content-length": length}
        )

    async def _read(self, member: bytes, transfer: _Transfer, path: Path, start: int, end: int) -> AsyncIterator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            while start < end:
                part = await asyncio.to_thread(file.read, min(_READ, end - start))
                if not part:
                    return
                yield part
                transfer.have[start // PIECE] = max(transfer.have[start // PIECE], start % PIECE + len(part))
                start += len(part)
        await self._measure(member, "down", transfer, whole=sum(transfer.have) == transfer.note.size)

    # -- replies ----------------------------------------------------------------------------------------------------

    async def _take(self, member: bytes, asked: ParcelRequest, request: Request) -> Response:
        path = self._store.path(member, "up", asked.digest)
        if path.exists():
            return _state([end - start for start, end in pieces(asked.size)])
        part = path.with_name(f"{path.name}.part")
        transfer = self._transfer(member, "up", asked)
        if not part.exists():
            transfer.have = [0] * len(transfer.have)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if shutil.disk_usage(path.parent).free < asked.size + _SPARE:
                return Response("The coordinator's disk is full.", 507)
        if asked.action == "put":
            try:
                await self._write(part, transfer, asked, request)
            except ClientDisconnect:
                return Response(status_code=400)
            except OSError:
                return Response("The coordinator cannot write it.", 507)
            await self._measure(member, "up", transfer)
        if sum(transfer.have) == transfer.note.size:
            return await self._finish(member, transfer, part, path)
        return _state(transfer.have)

    async def _write(self, part: Path, transfer: _Transfer, asked: ParcelRequest, request: Request) -> None:
        piece, position = asked.start // PIECE, asked.start
        end = min((piece + 1) * PIECE, asked.end)
        if asked.start > piece * PIECE + transfer.have[piece]:  # a gap would never be filled
            return
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            async for data in request.stream():
                data = data[: end - position]
                await asyncio.to_thread(os.pwrite, handle, data, position)
                position += len(data)
                transfer.have[piece] = max(transfer.have[piece], position - piece * PIECE)
        finally:
            os.close(handle)

    async def _finish(self, member: bytes, transfer: _Transfer, part: Path, path: Path) -> Response:
        right = await asyncio.to_thread(_has_digest, part, transfer.note)
        self._transfers.pop((member, "up", transfer.note.digest), None)
        if path.exists():  # another lane's last piece was a moment earlier
            part.unlink(missing_ok=True)
            return _state(transfer.have)
        if not right:
            part.unlink(missing_ok=True)
            return Response("The bytes have another digest.", 422)
        part.replace(path)
        await self._measure(member, "up", transfer, whole=True)
        return _state(transfer.have)

    # -- both -------------------------------------------------------------------------------------------------------

    def _transfer(self, member: bytes, way: Direction, asked: ParcelRequest) -> _Transfer:
        key = (member, way, asked.digest)
        found = self._transfers.get(key)
        if found is None or found.note.size != asked.size:
            self._forget_oldest(member, way)
            found = self._transfers[key] = _Transfer(Note(asked.digest, asked.size), [0] * len(pieces(asked.size)))
        return found

    def _forget_oldest(self, member: bytes, way: Direction) -> None:
        same = [key for key in self._transfers if key[:2] == (member, way)]
        for key in same[: max(0, len(same) + 1 - _UNFINISHED)]:
            del self._transfers[key]
            self._store.path(*key).with_name(f"{key[2].hex()}.part").unlink(missing_ok=True)

    async def _measure(self, member: bytes, way: Direction, transfer: _Transfer, whole: bool = False) -> None:
        now = time.monotonic()
        if not whole and (now - transfer.began < _TELLING or now - transfer.counted < 1):
            return
        # what the front has written may still stand in buffers; what it has read has arrived
        speed = transfer.speed(LANES * PIECE if way == "down" else 0)
        if speed is None:
            return
        finished = self._finished.setdefault((member, way), self._store.measured(member, way))
        transfer.counted = now
        if whole:
            finished[:] = [*finished, speed][-_REMEMBERED:]
        told = finished if whole else [*finished, speed]
        await asyncio.to_thread(self._store.note_speeds, member, way, list(told))


def _state(have: list[int]) -> Response:
    return Response(wire.encode(ParcelState(tuple(have))), media_type="application/octet-stream")


def _has_digest(path: Path, note: Note) -> bool:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").digest()
            return found == note.digest and os.fstat(file.fileno()).st_size == note.size
    except OSError:
        return False
