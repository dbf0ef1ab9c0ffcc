"""Many bodies, endless bodies and slow bodies: real sockets at a real server with little room and little patience."""

import asyncio
import json
import socket
import time

import pytest
from tests.diagnosis.conftest import Cluster, images

from primum.diagnosis import uploads
from primum.diagnosis.data_owner import ImagePath, diagnose
from primum.diagnosis.files import to_json
from primum.diagnosis.messages import request_limit
from primum.diagnosis.requests import make_requests
from primum.diagnosis.uploads import Uploads, received
from primum.errors import PeerError, Unavailable
from primum.keys.certificate import client_context
from primum.keys.sealing import SealingKey

LITTLE = """
from primum.diagnosis import endpoint, uploads
uploads.BUDGET_BYTES, uploads.GRACE_SECONDS, endpoint._SILENT_SECONDS = 1, 1.0, 0.5
"""


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Servers with room for one of the largest requests; a second's patience."""
    made = Cluster.make(tmp_path_factory.mktemp("uploads"))
    made.before = LITTLE
    try:
        yield made.start()
    finally:
        made.stop()


class Visitor:
    """A connection to server B that sends what it is told to, when it is told to."""

    def __init__(self, cluster):
        card = cluster.public.deployment.b
        host, port = card.address.split(":")
        plain = socket.create_connection((host, int(port)), 10)
        self.socket = client_context(card.certificate).wrap_socket(plain, server_hostname=host)
        self.largest = request_limit(cluster.public.deployment.program, "B")

    def begin(self, size=None):
        """The head of a request of `size` bytes, or in chunks."""
        length = "transfer-encoding: chunked" if size is None else f"content-length: {size}"
        self.socket.sendall(f"POST /v1/requests HTTP/1.1\r\nhost: b\r\n{length}\r\n\r\n".encode())
        return self

    def drip(self):
        """A byte every 50 ms until the server says something (the first of it) or closes (nothing), 20 s at most."""
        self.socket.settimeout(0.05)
        for _ in range(400):
            try:
                self.socket.sendall(b"x")
                return self.socket.recv(1 << 16)
            except TimeoutError:
                continue
            except OSError:
                return b""
        raise AssertionError("the server waited for ever")

    def read(self, data=b""):
        """(status, head in small letters, answer) of the response; b"" where the server closed without one."""
        self.socket.settimeout(10)
        while b"\r\n\r\n" not in data:
            part = self.socket.recv(1 << 16)
            if not part:
                return data
            data += part
        head, _, body = data.partition(b"\r\n\r\n")
        words = head.decode().lower()
        length = int(words.split("content-length: ")[1].split("\r\n")[0])
        while len(body) < length:
            body += self.socket.recv(1 << 16)
        return int(words.split()[1]), words, json.loads(body)

    def close(self):
        self.socket.close()


@pytest.fixture
def visitors(small):
    made = []
    yield lambda: made.append(Visitor(small)) or made[-1]
    for one in made:
        one.close()


def pair(cluster):
    inputs = ImagePath.of(cluster.public).inputs(images(1))
    return make_requests(inputs, cluster.public.deployment, SealingKey.generate().public)


@pytest.mark.parametrize("size", ["largest", None], ids=["a length", "chunks"])
def test_who_finds_no_room_is_told_so_at_once_and_later_served(small, visitors, size):
    """A body that was begun holds its room from its head on; the next one is not read."""
    first = visitors()
    first.begin(first.largest if size else None)
    time.sleep(0.1)
    status, head, answer = visitors().begin(first.largest).read()
    assert status == 503 and f"retry-after: {uploads.RETRY_SECONDS}" in head
    assert answer["code"] == "Unavailable" and "busy" in answer["message"]
    with pytest.raises(Unavailable, match="busy"):
        diagnose(images(1), small.public)
    first.close()
    time.sleep(0.1)
    assert len(diagnose(images(1), small.public)) == 1


def test_a_slow_body_is_given_up_and_its_room_returned(small, visitors):
    slow = visitors()
    slow.begin(slow.largest)
    status, head, answer = slow.read(slow.drip())
    assert status == 503 and "retry-after" in head and "too slowly" in answer["message"]
    assert len(diagnose(images(1), small.public)) == 1


def test_silence_and_a_slow_head_are_shown_out(small, visitors):
    silent, dripping = visitors(), visitors()
    dripping.socket.sendall(b"POST /v1/requests HTTP/1.1\r\nx-never-ending: ")
    assert dripping.drip() == b"" and silent.read() == b""
    assert len(diagnose(images(1), small.public)) == 1


def test_a_body_longer_than_it_may_be_is_not_read(small, visitors):
    one = visitors()
    status, _, answer = one.begin(one.largest + 1).read()
    assert status == 400 and "longer than" in answer["message"]


def test_room_is_counted_and_given_back(monkeypatch):
    monkeypatch.setattr(uploads, "BUDGET_BYTES", 100)
    room = Uploads(60)
    with room.room(40) as most, room.room(None) as other:
        assert (most, other) == (40, 60)
        with pytest.raises(Unavailable, match="busy"), room.room(1):
            pass
        with room.room(0):
            pass
    with pytest.raises(ZeroDivisionError), room.room(60):
        _ = 1 / 0
    for size in (61, -1):
        with pytest.raises(PeerError, match="longer than 60"), room.room(size):
            pass
    with room.room(60), room.room(40):
        pass


def test_a_body_must_keep_the_least_pace(monkeypatch):
    """After the grace, bytes buy time: a tenth of a second for each 10 kB."""
    monkeypatch.setattr(uploads, "GRACE_SECONDS", 0.1)

    async def parts(count, pause):
        for _ in range(count):
            yield bytes(20_000)
            await asyncio.sleep(pause)

    assert len(asyncio.run(received(parts(5, 0.02), 100_000))) == 100_000
    with pytest.raises(Unavailable, match="too slowly: 20,000 bytes"):
        asyncio.run(received(parts(5, 0.6), 100_000))
    with pytest.raises(PeerError, match="longer than"):
        asyncio.run(received(parts(5, 0.0), 99_999))


def test_the_same_bytes_as_before_arrive(small):
    """What is read part by part is what was sent."""
    request = pair(small)[1]
    data = to_json(request)

    async def parts():
        for at in range(0, len(data), 7):
            yield data[at : at + 7]

    assert asyncio.run(received(parts(), len(data))) == data
