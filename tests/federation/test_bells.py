"""Whoever waits is rung for at once; a ring that nobody hears does no harm."""

import asyncio
import socket
import ssl
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import httpx
import pytest
import uvicorn
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.proto.message_pb2 import Message

from primum.federation.bells import FRONT, Bell, listening, ring, ring_programs
from primum.federation.coordinator import Coordinator, State
from primum.federation.front import make_front
from primum.federation.scientist import Desk as ScientistsDesk
from primum.federation.waiting_room import HOLD, WaitingRoom
from primum.keys.certificate import client_context, load_or_make


def test_a_ring_is_heard_by_whom_it_is_for(tmp_path: Path) -> None:
    with listening(tmp_path, FRONT) as front, listening(tmp_path, "run") as run, listening(tmp_path, "other") as other:
        ring(tmp_path, FRONT)
        assert front.wait(5) and not run.wait(0) and not front.wait(0)
        ring_programs(tmp_path)
        assert run.wait(5) and other.wait(5) and not front.wait(0)


def test_many_rings_are_one_and_rings_before_the_wait_count(tmp_path: Path) -> None:
    with listening(tmp_path, "run") as run:
        for _ in range(100_000):  # more than a pipe holds
            ring(tmp_path, "run")
        assert run.wait(0)
        assert not run.wait(0)


def test_a_ring_without_anybody_there_is_nothing(tmp_path: Path) -> None:
    ring(tmp_path, FRONT)
    ring_programs(tmp_path)
    with listening(tmp_path, "run"):
        (tmp_path / "bells" / "left-over").touch()
        ring_programs(tmp_path)
    ring(tmp_path, "run")
    assert not (tmp_path / "bells" / "run").exists()


def test_bells_are_private_and_one_that_was_left_is_hung_anew(tmp_path: Path) -> None:
    (tmp_path / "bells").mkdir()
    (tmp_path / "bells" / "run").write_text("left by a killed program")
    with listening(tmp_path, "run") as run:
        assert stat.S_IMODE((tmp_path / "bells" / "run").stat().st_mode) == 0o600
        ring(tmp_path, "run")
        assert run.wait(5)


async def waits(room: WaitingRoom, seconds: float) -> tuple[bool, float]:
    began = time.monotonic()
    return await room.wait(room.next_call(), seconds), time.monotonic() - began


def test_whoever_waits_in_the_room_is_called_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    async def play(bell: Bell) -> None:
        room = WaitingRoom(bell)
        assert (await waits(room, 0.05))[0] is False
        several = asyncio.gather(*(waits(room, 30) for _ in range(5)))
        threading.Timer(0.1, ring, (tmp_path, FRONT)).start()
        assert all(called for called, _ in await several)
        call = room.next_call()  # rung between looking and waiting
        ring(tmp_path, FRONT)
        assert await room.wait(call, 30)

    with listening(tmp_path, FRONT) as bell:
        asyncio.run(play(bell))


def test_without_a_bell_nobody_is_held() -> None:
    assert asyncio.run(waits(WaitingRoom(), 30))[0] is False


# -- the front ----------------------------------------------------------------------------------------------------------


class Orders(BaseHTTPRequestHandler):
    """Where SuperLink is: nothing at first, and an order as soon as one is there. `asked`: when it was asked."""

    asked: ClassVar[list[float]] = []
    there: ClassVar[bool] = False

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        Orders.asked.append(time.monotonic())
        body = PullMessagesResponse(messages_list=[Message()] if Orders.there else []).SerializeToString()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def fronted(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """The port of a front, and the folder in which its bell is."""
    Orders.asked, Orders.there = [], False
    state = State.open(tmp_path / "coordinator")
    files = load_or_make(state.folder, "127.0.0.1")
    behind = ThreadingHTTPServer(("127.0.0.1", 0), Orders)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate, files.private_key)
    behind.socket = context.wrap_socket(behind.socket, server_side=True)
    serving = threading.Thread(target=behind.serve_forever)
    serving.start()
    (state.folder / "coordinator.toml").write_text(
        ScientistsDesk(address="h:1", coordinator=state.identity.public.hex(), certificate=files.pem()).text()
    )
    with listening(state.folder, FRONT) as bell, socket.create_server(("127.0.0.1", 0)) as port:
        desk = replace(Coordinator(state, "127.0.0.1", 1, print)._desk(), room=WaitingRoom(bell))
        app = make_front(desk, behind.server_port, client_context(files.pem()))
        server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off", ws="none", loop="asyncio"))
        thread = threading.Thread(target=lambda: server.run(sockets=[port]))
        thread.start()
        yield port.getsockname()[1], state.folder
        server.should_exit = True
        thread.join()
    behind.shutdown()
    serving.join()
    behind.server_close()


def pull(port: int, seconds: float = 30.0) -> bool:
    """Whether an order came."""
    answer = httpx.post(f"http://127.0.0.1:{port}/v1/fleet/pull-messages", content=b"", timeout=seconds)
    assert answer.status_code == 200
    return bool(PullMessagesResponse.FromString(answer.content).messages_list)


def test_a_node_that_asks_too_early_has_its_order_as_soon_as_it_is_rung_for(fronted: tuple[int, Path]) -> None:
    port, state = fronted
    with ThreadPoolExecutor() as pool:
        asked = pool.submit(pull, port)
        while not Orders.asked:
            time.sleep(0.005)
        Orders.there = True
        ring(state, FRONT)
        assert asked.result() is True
    assert len(Orders.asked) == 2


def test_without_a_ring_the_question_is_answered_after_a_while_and_asked_once(fronted: tuple[int, Path]) -> None:
    began = time.monotonic()
    assert pull(fronted[0]) is False
    assert time.monotonic() - began >= HOLD
    assert len(Orders.asked) == 1


def test_an_order_is_not_fetched_for_a_node_that_is_gone(fronted: tuple[int, Path]) -> None:
    port, state = fronted
    with pytest.raises(httpx.ReadTimeout):
        pull(port, 0.3)
    Orders.there = True
    ring(state, FRONT)
    time.sleep(0.3)
    assert len(Orders.asked) == 1
    assert pull(port) is True
