"""A node's side of parcels: fetches long orders and delivers long replies, LANES pieces at once, through any break.

What has arrived stays, here or at the coordinator, and is asked for or sent no second time. A break is waited out; only
when nothing has moved for PATIENCE seconds is the coordinator said to be away.
"""

import base64
import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Literal

import httpx

from primum import wire
from primum.errors import PeerError, Unavailable
from primum.federation.parcels import (
    CAUTIOUS,
    HEADER,
    LANES,
    PATH,
    PIECE,
    Note,
    ParcelRequest,
    ParcelState,
    pieces,
    slices,
)
from primum.federation.way import Way
from primum.keys.identity import Identity
from primum.secagg.messages import sign

PATIENCE: Final = 120.0
"""Seconds without a byte after which a transfer is given up; the next connection goes on where it was."""
_SILENCE: Final = 20.0  # seconds without a byte after which a connection is taken for dead
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 2.0
_GONE: Final = frozenset({404, 410})


class _Over(Exception):
    """The coordinator does not wait for this any more."""


class _Altered(Exception):
    """What arrived is not what was sent."""


@dataclass
class _Load:
    """One parcel on its way: bytes done by piece, pieces of which that is doubtful, when the last byte moved."""

    note: Note
    order: bytes
    buffer: memoryview
    have: list[int]
    doubtful: set[int]
    moved: float = field(default_factory=time.monotonic)


class Courier:
    """Fetches and delivers for one node, one parcel at a time; a fetch that was given up is continued by the next."""

    def __init__(self, identity: Identity, stop: threading.Event) -> None:
        self._identity, self._stop = identity, stop
        self._begun: _Load | None = None
        self._rate = CAUTIOUS
        self.busy = False

    def fetch(self, way: Way, note: Note) -> bytes | None:
        """The bytes that the coordinator's note names; None if it has taken them back.

        Unavailable after PATIENCE, PeerError if the bytes are others than the note says.
        """
        load = self._begun
        if load is None or load.note != note:
            load = _Load(note, b"", memoryview(bytearray(note.size)), [0] * len(pieces(note.size)), set())
        self._begun = load
        try:
            self._carry(way, load, self._get)
        except _Over:
            self._begun = None
            return None
        self._begun = None
        body = bytes(load.buffer)
        if hashlib.sha256(body).digest() != note.digest:
            raise PeerError("The coordinator's order arrived with other bytes than it says.", "It was not used.")
        return body

    def deliver(self, way: Way, body: bytes, order: bytes) -> Note | None:
        """Bring a reply to the coordinator; None if its order (a digest, or empty) was taken back.

        Unavailable after PATIENCE, PeerError if the bytes arrive as others, twice.
        """
        note = Note(hashlib.sha256(body).digest(), len(body))
        for _ in range(2):
            places = len(pieces(note.size))
            load = _Load(note, order, memoryview(body), [0] * places, set(range(places)))
            try:
                self._carry(way, load, self._put)
                return note
            except _Over:
                return None
            except _Altered:  # the coordinator has thrown all of it away
                continue
        raise PeerError("A reply arrives at the coordinator with other bytes.", "Something on the way changes them.")

    # -- lanes ------------------------------------------------------------------------------------------------------

    def _carry(self, way: Way, load: _Load, carry_piece: Callable[[httpx.Client, _Load, int], None]) -> None:
        began = load.moved = time.monotonic()
        self.busy = True
        try:
            with way.client() as client:
                if load.doubtful:  # one question for all pieces
                    self._through(load, partial(self._ask, client, load, sorted(load.doubtful)))
                missing = [i for i, (start, end) in enumerate(pieces(load.note.size)) if load.have[i] < end - start]
                with ThreadPoolExecutor(LANES) as lanes:
                    steps = [partial(carry_piece, client, load, piece) for piece in missing]
                    _raise_first([lanes.submit(self._through, load, step) for step in steps])
        finally:
            self.busy = False
        self._rate = max(1.0, len(missing) * PIECE / (time.monotonic() - began)) if missing else self._rate

    def _through(self, load: _Load, step: Callable[[], None]) -> None:
        """Carry out a step; begun again after each break, until nothing has moved for PATIENCE."""
        pause = _FIRST_WAIT
        while True:
            moved = load.moved
            try:
                return step()
            except httpx.TransportError as error:
                reason = type(error).__name__
            except httpx.HTTPStatusError as error:
                reason = str(error.response.status_code)
                _check_status(error.response.status_code)
            pause = _FIRST_WAIT if load.moved > moved else min(2 * pause, _LONGEST_WAIT)
            if time.monotonic() - load.moved > PATIENCE or self._stop.wait(pause):
                raise Unavailable(
                    f"The coordinator cannot be reached: {reason}.", "What has arrived stays, and is not sent again."
                )

    def _moved(self, load: _Load) -> None:
        load.moved = time.monotonic()
        if self._stop.is_set():
            raise Unavailable("This node is being stopped.", "What has arrived stays.")

    # -- requests ---------------------------------------------------------------------------------------------------

    def _get(self, client: httpx.Client, load: _Load, piece: int) -> None:
        first, end = pieces(load.note.size)[piece]
        start = first + load.have[piece]
        with client.stream("GET", PATH, headers=self._sign(load, "get", start, end), timeout=self._timeout()) as answer:
            answer.raise_for_status()
            for part in answer.iter_raw():
                data = part[: end - start]
                load.buffer[start : start + len(data)] = data
                start += len(data)
                load.have[piece] = start - first
                self._moved(load)
        if start < end:
            raise httpx.RemoteProtocolError("the answer ended early")

    def _put(self, client: httpx.Client, load: _Load, piece: int) -> None:
        first, end = pieces(load.note.size)[piece]
        if piece in load.doubtful:
            self._ask(client, load, [piece])
        start = first + load.have[piece]
        if start == end:
            return
        load.doubtful.add(piece)
        headers = {**self._sign(load, "put", start, end), "content-length": str(end - start)}
        timeout = self._timeout(LANES * PIECE)  # so much may stand in buffers before the first byte of an answer
        answer = client.put(PATH, headers=headers, content=self._content(load, start, end), timeout=timeout)
        self._take_state(answer, load, [piece])
        if load.have[piece] < end - first:
            raise httpx.RemoteProtocolError("the coordinator has less than was sent")

    def _content(self, load: _Load, start: int, end: int) -> Iterator[bytes]:
        for data in slices(load.buffer[start:end]):
            yield data
            self._moved(load)

    def _ask(self, client: httpx.Client, load: _Load, places: list[int]) -> None:
        headers = self._sign(load, "state", 0, load.note.size)
        self._take_state(client.post(PATH, headers=headers, timeout=self._timeout()), load, places)

    def _take_state(self, answer: httpx.Response, load: _Load, places: list[int]) -> None:
        """Believe the coordinator on these pieces; the others are another lane's."""
        answer.raise_for_status()
        have = wire.decode(answer.content, ParcelState, "the coordinator").have
        lengths = [end - start for start, end in pieces(load.note.size)]
        if len(have) != len(lengths) or any(not 0 <= a <= b for a, b in zip(have, lengths, strict=True)):
            raise PeerError("The coordinator's word on a reply is wrong.", "It was not used.")
        for piece in places:
            load.have[piece] = have[piece]
            load.doubtful.discard(piece)

    def _sign(self, load: _Load, action: Literal["get", "put", "state"], start: int, end: int) -> dict[str, str]:
        note = load.note
        asked = ParcelRequest(time.time(), os.urandom(16), action, note.digest, note.size, start, end, load.order)
        return {HEADER: base64.b64encode(wire.encode(sign(self._identity, asked))).decode()}

    def _timeout(self, ahead: int = 0) -> httpx.Timeout:
        """Follows the measured rate: `ahead` bytes may have to go through before anything comes back."""
        return httpx.Timeout(_SILENCE, read=_SILENCE + ahead / self._rate, pool=None)


def _raise_first(futures: list[Future[None]]) -> None:
    wait(futures, return_when=FIRST_EXCEPTION)
    for future in futures:
        future.cancel()
    for future in futures:
        if not future.cancelled():
            future.result()


def _check_status(status: int) -> None:
    """Return where trying again helps."""
    if status in _GONE:
        raise _Over
    if status == 422:
        raise _Altered
    if status == 507:
        raise Unavailable("The coordinator's disk is full.", "Its operator must free some space; nothing was lost.")
    if status == 403:
        raise Unavailable("The coordinator refuses a transfer.", "Are both clocks right, is this hospital enrolled?")
