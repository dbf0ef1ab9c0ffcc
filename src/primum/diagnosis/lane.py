"""A connection for one thing only: the many bytes of a run, both ways at once, without a frame around each.

A lane is opened beside a control connection (`channel.py`), to the same address: it begins with `GREETING` in clear,
then TLS 1.3 with both certificates pinned, then the id of the session that it belongs to. Its calls block, so it lives
in a worker thread; sending and receiving go on together, since both servers send before either reads.
"""

import contextlib
import hmac
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final, TypeVar

import numpy as np

from primum.diagnosis.channel import CONNECT_SECONDS, STEP_SECONDS, keep_alive
from primum.diagnosis.roles import parse_address
from primum.errors import PeerError, PrimumError, Unavailable
from primum.kernels.words import Bytes
from primum.keys.certificate import CertificateFiles, certificate_digest, client_context, shown_digest
from primum.wire import Message, decode_one_of, encode

MessageType = TypeVar("MessageType", bound=Message)
GREETING: Final = b"primum lane\n"
SESSION_BYTES: Final = 32
_SHORT: Final = 1 << 16


class Lane:
    """One connection; `peer` names the other side in errors. One thread at a time."""

    def __init__(self, connection: ssl.SSLSocket, peer: str) -> None:
        self._socket = connection
        self.peer = peer
        connection.setblocking(False)
        self._poll = select.poll()
        self._moving = threading.Lock()
        self._over = False

    def exchange(self, data: Bytes, size: int, seconds: float = STEP_SECONDS) -> Bytes:
        """Send `data` and receive `size` bytes, both at once; Unavailable if nothing moves for `seconds`."""
        into = np.empty(size, np.uint8)
        self._move(data.data.cast("B"), into.data.cast("B"), seconds)
        return into

    def send(self, data: Bytes) -> None:
        """Send; Unavailable if the other side is gone or does not read."""
        self._move(data.data.cast("B"), memoryview(b""), STEP_SECONDS)

    def receive(self, size: int, seconds: float | None = STEP_SECONDS) -> Bytes:
        """Exactly `size` bytes."""
        into = np.empty(size, np.uint8)
        self._move(memoryview(b""), into.data.cast("B"), seconds)
        return into

    def send_message(self, message: Message) -> None:
        """A short message, with its length."""
        data = encode(message)
        self._move(memoryview(len(data).to_bytes(4, "big") + data), memoryview(b""), STEP_SECONDS)

    def receive_one_of(self, *kinds: type[Message], seconds: float | None = STEP_SECONDS) -> Message:
        """A short message of one of `kinds`; its first byte may take `seconds`, or for ever."""
        size = int.from_bytes(self.receive(4, seconds).tobytes(), "big")
        if size > _SHORT:
            raise PeerError(f"{self.peer} announced a message of {size:,} bytes.", "The connection was closed.")
        message: Message = decode_one_of(self.receive(size).tobytes(), kinds, self.peer, _SHORT)
        return message

    @contextlib.contextmanager
    def saying(self, message: Message, seconds: float = STEP_SECONDS / 3) -> Iterator[None]:
        """Send `message` every few `seconds` while this thread does something else: who waits hears that it is alive."""
        done = threading.Event()

        def repeat() -> None:
            with contextlib.suppress(PrimumError):  # whoever uses the lane next is told
                while not done.wait(seconds):
                    self.send_message(message)

        saying = threading.Thread(target=repeat, daemon=True)
        saying.start()
        try:
            yield
        finally:
            done.set()
            saying.join()

    def close(self) -> None:
        """End the connection, also under a thread that waits on it: its call ends with Unavailable."""
        self._over = True
        with contextlib.suppress(OSError):
            # SSLSocket's own shutdown and close take TLS away first: the other thread would go on in clear
            socket.socket.shutdown(self._socket, socket.SHUT_RDWR)
        with self._moving, contextlib.suppress(OSError):
            self._socket.close()

    def _move(self, out: memoryview, into: memoryview, seconds: float | None) -> None:
        with self._moving:
            self._move_all(out, into, seconds)

    def _move_all(self, out: memoryview, into: memoryview, seconds: float | None) -> None:
        try:
            while out or into:
                if self._over:
                    raise self._gone()
                sent, got = self._try_send(out), self._try_receive(into)
                out, into = out[sent:], into[got:]
                if not (sent or got):
                    self._wait(bool(out), seconds)
        except ssl.SSLError as error:
            if self._over or isinstance(error, ssl.SSLEOFError):
                raise self._gone() from None
            raise PeerError(f"{self.peer} ended the connection: {error.reason or 'TLS error'}.", "Ask again.") from None
        except (OSError, ValueError):
            raise self._gone() from None

    def _try_send(self, out: memoryview) -> int:
        try:
            return self._socket.send(out) if out else 0
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0

    def _try_receive(self, into: memoryview) -> int:
        if not into:
            return 0
        try:
            got = self._socket.recv_into(into)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return 0
        if not got:
            raise self._gone()
        return got

    def _wait(self, sending: bool, seconds: float | None) -> None:
        self._poll.register(self._socket, select.POLLIN | (select.POLLOUT if sending else 0))
        if not self._poll.poll(None if seconds is None else seconds * 1000):
            raise Unavailable(f"{self.peer} did not answer within {seconds:g} seconds.", "Is it running?")

    def _gone(self) -> Unavailable:
        return Unavailable(f"{self.peer} closed the connection.", "Is it still running? Ask again when it is back.")


def open_lane(address: str, certificate: str, own: CertificateFiles, peer: str, session: bytes) -> Lane:
    """A lane to `peer` at `address`, which shows exactly `certificate`; for the session with this id."""
    host, port = parse_address(address)
    try:
        plain = socket.create_connection((host, port), CONNECT_SECONDS)
    except OSError:
        raise Unavailable(f"{peer} at {address} does not answer.", "Start it, or check the address.") from None
    connection = plain
    try:
        keep_alive(plain)
        plain.sendall(GREETING)
        connection = secured = client_context(certificate, own).wrap_socket(plain, server_hostname=host)
        if shown_digest(secured) != certificate_digest(certificate):
            raise PeerError(f"{peer} at {address} shows a certificate that is not its own.", "Somebody else answers.")
        secured.sendall(session)
    except OSError:
        connection.close()
        raise Unavailable(f"{peer} at {address} ended the connection.", "Ask again in a moment.") from None
    except PeerError:
        connection.close()
        raise
    return Lane(secured, peer)


def accept_lane(
    plain: socket.socket, context: ssl.SSLContext, certificate: str, peer: str, session: Callable[[], bytes | None]
) -> Lane:
    """The other end: a lane from the holder of `certificate`, for the session whose id `session` gives; blocks.

    PeerError for anybody else.
    """
    keep_alive(plain)
    try:
        if _received(plain, len(GREETING)) != GREETING:
            raise PeerError("Something else than Primum connected.", "It was not let in.")
        plain.settimeout(STEP_SECONDS)
        secured = context.wrap_socket(plain, server_side=True)
    except OSError:
        plain.close()
        raise PeerError(f"{peer} broke a connection off at its start.", "It will try again.") from None
    except PeerError:
        plain.close()
        raise
    return _of_session(secured, certificate, peer, session)


def _of_session(secured: ssl.SSLSocket, certificate: str, peer: str, session: Callable[[], bytes | None]) -> Lane:
    said = b""
    if shown_digest(secured) != certificate_digest(certificate):
        secured.close()
        raise PeerError("A stranger connected.", f"Only {peer} is let in.")
    with contextlib.suppress(OSError):
        said = _received(secured, SESSION_BYTES)
    known = session()
    if known is None or not hmac.compare_digest(said, known):
        secured.close()
        raise PeerError(f"{peer} opened a lane of another session.", "It will try again.")
    return Lane(secured, peer)


def _received(connection: socket.socket, size: int) -> bytes:
    """`size` bytes within `STEP_SECONDS`, in however many parts they come; fewer if the other side ends."""
    data, end = b"", time.monotonic() + STEP_SECONDS
    while len(data) < size:
        connection.settimeout(max(0.001, end - time.monotonic()))
        part = connection.recv(size - len(data))
        if not part:
            break
        data += part
    return data
