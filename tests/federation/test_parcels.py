"""Parcels through real sockets and TLS, over links that break: nothing is sent twice, and nothing else gets in or out."""

import base64
import hashlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from bench.bad_link import BadLink, Quality
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from primum import wire
from primum.errors import PeerError, Unavailable
from primum.federation import courier as courier_module
from primum.federation.courier import Courier
from primum.federation.parcel_desk import ParcelDesk
from primum.federation.parcels import CAUTIOUS, HEADER, LANES, PATH, PIECE, Note, ParcelRequest, ParcelStore, pieces
from primum.federation.way import Way
from primum.keys.certificate import load_or_make
from primum.keys.identity import Identity
from primum.ports import free_port
from primum.secagg.messages import sign

# a break in the middle of a handshake leaves Python's half-made TLS socket to the garbage collector
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

SIZE = 4_000_000
BREAKS = Quality(rate=5_000_000, round_trip=0.01, every=0.3, away=0.02)
LOST = 512 * 1024  # bytes that a break destroys on its way: what stands in the buffers of four connections
FAST = Quality(rate=3_000_000, round_trip=0.005)


class Hub:
    """A coordinator's front with nothing but parcels, and how to reach it."""

    def __init__(self, folder: Path) -> None:
        self.hospital, self.stranger = Identity.generate(), Identity.generate()
        self.store = ParcelStore(folder / "parcels")
        self.desk = ParcelDesk(self.store, lambda: frozenset({self.hospital.public}))
        self.files = load_or_make(folder, "127.0.0.1")
        self.port = free_port()
        self.spoil = False
        app = Starlette(routes=[Route(PATH, self._answer, methods=["GET", "PUT", "POST"])])
        config = uvicorn.Config(
            app,
            host="127.0.0.1",
            port=self.port,
            ssl_certfile=self.files.certificate,
            ssl_keyfile=self.files.private_key,
            log_config=None,
            lifespan="off",
            ws="none",
        )
        self.server = uvicorn.Server(config)
        self.thread = threading.Thread(target=self.server.run, daemon=True)
        self.thread.start()
        while not self.server.started and self.thread.is_alive():
            time.sleep(0.01)

    async def _answer(self, request: Request) -> Response:
        return await self.desk.answer(request)

    def way(self, port: int | None = None) -> Way:
        return Way(f"127.0.0.1:{port or self.port}", self.files.pem())

    def courier(self, identity: Identity | None = None) -> Courier:
        return Courier(identity or self.hospital, threading.Event())

    def ask(self, method: str, request: ParcelRequest, signer: Identity | None = None, body: bytes = b"") -> int:
        header = base64.b64encode(wire.encode(sign(signer or self.hospital, request))).decode()
        with self.way().client() as client:
            return client.request(method, PATH, headers={HEADER: header}, content=body).status_code

    def close(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=10)


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    made = Hub(tmp_path_factory.mktemp("hub"))
    yield made
    made.close()


@contextmanager
def link_to(hub: Hub, quality: Quality) -> Iterator[BadLink]:
    link = BadLink(hub.port, quality)
    try:
        yield link
    finally:
        link.close()


def request(action: str, note: Note, start: int = 0, end: int | None = None, **changes: object) -> ParcelRequest:
    fields = {"at": time.time(), "nonce": os.urandom(16), "order": b"", **changes}
    return ParcelRequest(
        action=action, digest=note.digest, size=note.size, start=start, end=note.size if end is None else end, **fields
    )  # type: ignore[arg-type]


# -- through breaks -----------------------------------------------------------------------------------------------------


def test_an_order_arrives_through_breaks_and_is_not_sent_twice(hub: Hub) -> None:
    body = os.urandom(SIZE)
    note = hub.store.offer(hub.hospital.public, body)
    with link_to(hub, BREAKS) as link:
        assert hub.courier().fetch(hub.way(link.port), note) == body
        assert link.breaks >= 2
        assert link.carried["down"] < 1.05 * SIZE + link.breaks * LOST


def test_a_reply_arrives_through_breaks_and_is_not_sent_twice(hub: Hub) -> None:
    body = os.urandom(SIZE)
    with link_to(hub, BREAKS) as link:
        note = hub.courier().deliver(hub.way(link.port), body, b"")
        assert note is not None
        assert link.breaks >= 2
        assert link.carried["up"] < 1.05 * SIZE + link.breaks * LOST
    assert hub.store.take(hub.hospital.public, note) == body
    assert hub.store.take(hub.hospital.public, note) is None, "it is deleted when it was taken"


def test_a_reply_that_is_there_already_costs_a_question(hub: Hub) -> None:
    body = os.urandom(SIZE)
    note = hub.courier().deliver(hub.way(), body, b"")
    with link_to(hub, FAST) as link:
        assert hub.courier().deliver(hub.way(link.port), body, b"") == note
        assert link.carried["up"] < 10_000


def test_a_fetch_that_was_given_up_goes_on_where_it_was(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(courier_module, "PATIENCE", 0.3)
    body = os.urandom(SIZE)
    note, courier = hub.store.offer(hub.hospital.public, body), hub.courier()
    with link_to(hub, Quality(rate=5_000_000, round_trip=0.01, every=0.4, away=30.0)) as link:
        with pytest.raises(Unavailable, match="cannot be reached"):
            courier.fetch(hub.way(link.port), note)
        assert link.carried["down"] > SIZE / 4
    with link_to(hub, FAST) as link:
        assert courier.fetch(hub.way(link.port), note) == body
        assert link.carried["down"] < 0.85 * SIZE


def test_a_transfer_ends_when_the_node_is_stopped(hub: Hub) -> None:
    note = hub.store.offer(hub.hospital.public, os.urandom(SIZE))
    stop = threading.Event()
    courier = Courier(hub.hospital, stop)
    with link_to(hub, Quality(rate=400_000)) as link:
        threading.Timer(0.2, stop.set).start()
        with pytest.raises(Unavailable):
            courier.fetch(hub.way(link.port), note)
        assert link.carried["down"] < SIZE / 4
    assert not courier.busy


# -- what is altered, gone, or not theirs -------------------------------------------------------------------------------


def test_an_order_with_other_bytes_is_not_used(hub: Hub) -> None:
    note = hub.store.offer(hub.hospital.public, os.urandom(SIZE))
    hub.store.path(hub.hospital.public, "down", note.digest).write_bytes(os.urandom(SIZE))
    with pytest.raises(PeerError, match="other bytes"):
        hub.courier().fetch(hub.way(), note)


def test_a_reply_with_other_bytes_is_thrown_away(hub: Hub) -> None:
    body = os.urandom(3 * PIECE)
    note = Note(hashlib.sha256(body).digest(), len(body))
    spoilt = b"x" + body[1:]
    codes = [
        hub.ask("PUT", request("put", note, start, end), body=spoilt[start:end]) for start, end in pieces(note.size)
    ]
    assert codes == [200, 200, 422]
    assert hub.store.take(hub.hospital.public, note) is None
    assert hub.courier().deliver(hub.way(), body, b"") == note, "and the right bytes are welcome afterwards"
    assert hub.store.take(hub.hospital.public, note) == body


def test_an_order_that_was_taken_back_is_neither_fetched_nor_answered(hub: Hub) -> None:
    note = hub.store.offer(hub.hospital.public, os.urandom(SIZE))
    hub.store.drop(hub.hospital.public, "down", note.digest)
    assert hub.courier().fetch(hub.way(), note) is None
    assert hub.courier().deliver(hub.way(), os.urandom(SIZE), note.digest) is None


def test_only_the_hospital_whose_order_it_is_gets_it(hub: Hub) -> None:
    note = hub.store.offer(hub.hospital.public, os.urandom(SIZE))
    other = Identity.generate()
    assert hub.ask("GET", request("get", note), hub.stranger) == 403
    hub.desk._members = lambda: frozenset({hub.hospital.public, other.public})
    assert hub.ask("GET", request("get", note), other) == 404
    assert hub.ask("GET", request("get", note)) == 200


def test_a_request_is_answered_once_and_while_it_is_fresh(hub: Hub) -> None:
    note = hub.store.offer(hub.hospital.public, os.urandom(SIZE))
    once = request("get", note)
    assert [hub.ask("GET", once), hub.ask("GET", once)] == [200, 403]
    assert hub.ask("GET", request("get", note, at=time.time() - 600)) == 403
    assert hub.ask("PUT", request("get", note)) == 403, "the method is signed too"


@pytest.mark.parametrize(
    ("start", "end", "size"),
    [(-1, 10, 100), (10, 10, 100), (0, 200, 100), (0, 1, 1 << 40)],
    ids=["before the start", "empty", "beyond the end", "too large"],
)
def test_bytes_that_no_parcel_has_are_refused(hub: Hub, start: int, end: int, size: int) -> None:
    assert hub.ask("PUT", request("put", Note(b"d" * 32, size), start, end), body=b"x") == 403


def test_a_request_without_a_signature_is_refused(hub: Hub) -> None:
    with hub.way().client() as client:
        assert client.get(PATH).status_code == 403
        assert client.get(PATH, headers={HEADER: "AAAA"}).status_code == 403


def test_a_hospital_cannot_fill_the_disk_with_beginnings(hub: Hub) -> None:
    for number in range(6):
        note = Note(bytes([number]) * 32, 2 * PIECE)
        assert hub.ask("PUT", request("put", note, 0, PIECE), body=os.urandom(PIECE)) == 200
    begun = list((hub.store.folder / hub.hospital.public.hex() / "up").glob("*.part"))
    assert len(begun) <= 2


# -- what is measured ---------------------------------------------------------------------------------------------------


def test_the_speed_of_both_ways_is_measured_and_the_slowest_counts(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    member = hub.hospital.public
    assert hub.store.speed(member, "up") == hub.store.speed(member, "down") == CAUTIOUS
    try:
        for rate in (8_000_000, 40_000_000):
            body = os.urandom((LANES + 2) * PIECE)
            with link_to(hub, Quality(rate=rate, round_trip=0.002)) as link:
                hub.courier().fetch(hub.way(link.port), hub.store.offer(member, body))
                hub.courier().deliver(hub.way(link.port), body[: 2 * PIECE], b"")
        assert 1.5e6 < hub.store.speed(member, "down") < 8.4e6
        assert 1.5e6 < hub.store.speed(member, "up") < 8.4e6
        assert len(hub.store.measured(member, "up")) >= 2
    finally:
        hub.close()
    ParcelStore(tmp_path / "parcels").clear()
    assert hub.store.speed(member, "up") < 8.4e6, "what was measured outlives the parcels"
