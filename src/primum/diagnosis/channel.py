"""A TLS 1.3 connection between dealer, A and B for control: certificates pinned on both sides, frames of bounded length.

A frame is its length in 4 bytes, big-endian, and a message of `primum.wire`. Every wait has a deadline; a peer that
vanishes without a word is noticed by TCP keep-alive within about `_SILENCE` seconds.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Final, TypeVar

from primum.diagnosis.messages import Sorry
from primum.diagnosis.roles import parse_address
from primum.errors import InputError, MachineError, PeerError, PrimumError, Refused, Unavailable
from primum.keys.certificate import CertificateFiles, certificate_digest, client_context, shown_digest
from primum.wire import Message, decode, decode_one_of, encode

MessageType = TypeVar("MessageType", bound=Message)
CONNECT_SECONDS: Final = 5.0
STEP_SECONDS: Final = 15.0
SHUTDOWN_SECONDS: Final = 2.0
_SILENCE: Final = 10
_ERRORS: Final[dict[str, type[PrimumError]]] = {
    kind.__name__: kind for kind in (InputError, MachineError, PeerError, Refused, Unavailable)
}


class Channel:
    """One connection; `peer` names the other side in errors."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, peer: str, limit: int) -> None:
        self._reader = reader
        self._writer = writer
        self._limit = limit
        self.peer = peer
        connection = writer.get_extra_info("socket")
        if connection is not None:
            keep_alive(connection)

    @property
    def alive(self) -> bool:
        """False once either side has closed."""
        return not (self._writer.is_closing() or self._reader.at_eof() or self._reader.exception() is not None)

    def certificate(self) -> str:
        """SHA-256 of the certificate that the other side shows, in hex."""
        return shown_digest(self._writer.get_extra_info("ssl_object"))

    async def send(self, message: Message) -> None:
        """Send one message; Unavailable if the other side is gone or does not read."""
        data = encode(message)
        if not self.alive:
            raise self._gone()
        try:
            self._writer.write(len(data).to_bytes(4, "big") + data)
            async with asyncio.timeout(STEP_SECONDS):
                await self._writer.drain()
        except (OSError, TimeoutError):
            raise self._gone() from None

    async def receive(self, kind: type[MessageType], seconds: float | None = STEP_SECONDS) -> MessageType:
        """The next message, of type `kind`; Unavailable after `seconds`, PeerError if it is malformed."""
        return decode(await self._frame(seconds), kind, self.peer, self._limit)

    async def receive_one_of(self, *kinds: type[Message], seconds: float | None = STEP_SECONDS) -> Message:
        """The next message, of one of `kinds`."""
        message: Message = decode_one_of(await self._frame(seconds), kinds, self.peer, self._limit)
        return message

    async def expect(self, kind: type[MessageType]) -> MessageType:
        """The next message, of type `kind`; a Sorry is raised as the error that it stands for."""
        return granted(await self.receive_one_of(kind, Sorry), kind, self.peer)

    async def _frame(self, seconds: float | None) -> bytes:
        try:
            async with asyncio.timeout(seconds):
                size = int.from_bytes(await self._reader.readexactly(4), "big")
                if size > self._limit:
                    raise PeerError(
                        f"{self.peer} announced a message of {size:,} bytes where {self._limit:,} are allowed.",
                        "The connection was closed.",
                    )
                return await self._reader.readexactly(size)
        except ssl.SSLError as error:
            raise PeerError(
                f"{self.peer} ended the connection: {error.reason or 'TLS error'}.",
                "Both sides must use files of the same deployment.",
            ) from None
        except TimeoutError:
            raise Unavailable(f"{self.peer} did not answer within {seconds:g} seconds.", "Is it running?") from None
        except (OSError, asyncio.IncompleteReadError):
            raise self._gone() from None

    async def closed(self) -> None:
        """Return when the connection has ended; for a side that waits for nothing."""
        while self.alive:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """End the connection; what was sent still goes out."""
        with contextlib.suppress(Exception):
            self._writer.close()

    def _gone(self) -> Unavailable:
        return Unavailable(f"{self.peer} closed the connection.", "Is it still running? Ask again when it is back.")


def granted(message: Message, kind: type[MessageType], peer: str) -> MessageType:
    """`message` if it is of type `kind`; a Sorry becomes its error, anything else a PeerError."""
    if isinstance(message, Sorry):
        raise error_from(message.code, message.message, message.hint, peer)
    if not isinstance(message, kind):
        raise PeerError(f"{peer} sent a {type(message).__name__} where a {kind.__name__} belongs.", "It was not used.")
    return message


def error_from(code: str, message: str, hint: str, peer: str) -> PrimumError:
    """What `peer` reported, as an error of this side."""
    return _ERRORS.get(code, PeerError)(f"{peer} says: {_line(message)}", _line(hint))


def _line(text: str) -> str:
    """What a peer wrote, as one printable line of bounded length."""
    return "".join(letter if letter.isprintable() else " " for letter in text[:300])


async def connect(address: str, certificate: str, own: CertificateFiles, peer: str, limit: int) -> Channel:
    """A connection to `peer` at `address` that shows exactly `certificate`; shows `own`.

    Unavailable if nobody answers; PeerError if somebody else does.
    """
    host, port = parse_address(address)
    context = client_context(certificate, own)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await asyncio.open_connection(
                host, port, ssl=context, limit=1 << 20, ssl_shutdown_timeout=SHUTDOWN_SECONDS
            )
    except ssl.SSLCertVerificationError:
        raise PeerError(
            f"{peer} at {address} does not show the certificate that the deployment file names.",
            "Somebody else answers there, or its keys were made anew.",
        ) from None
    except (OSError, TimeoutError):
        raise Unavailable(f"{peer} at {address} does not answer.", "Start it, or check the address.") from None
    channel = Channel(reader, writer, peer, limit)
    if channel.certificate() != certificate_digest(certificate):
        channel.close()
        raise PeerError(f"{peer} at {address} shows a certificate that is not its own.", "Somebody else answers there.")
    return channel


def keep_alive(connection: socket.socket) -> None:
    """Send at once, and notice a peer that vanished."""
    options = {"TCP_KEEPIDLE": _SILENCE // 2, "TCP_KEEPINTVL": 2, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": _SILENCE * 1000}
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for name, value in options.items():
            if hasattr(socket, name):  # Linux; elsewhere the system's own times
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
