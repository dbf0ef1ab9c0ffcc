"""One listening port for both kinds of connection: control (`channel.py`, TLS at once) and lanes (`lane.py`)."""

import asyncio
import contextlib
import socket
import ssl
import threading
from collections.abc import Awaitable, Callable
from typing import Final

from primum.diagnosis.channel import SHUTDOWN_SECONDS, STEP_SECONDS
from primum.diagnosis.lane import GREETING

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
_MOST_WAITING: Final = 64


class Door:
    """Accepts connections until it is closed; a stranger who says nothing is shown out after a while.

    `connected` gets control connections as asyncio's streams, `lane` the sockets of lanes, in a thread of its own.
    """

    def __init__(self, context: ssl.SSLContext, connected: Connected, lane: Callable[[socket.socket], None]) -> None:
        self._context, self._connected, self._lane = context, connected, lane
        self._tasks: dict[asyncio.Task[None], None] = {}
        self._threads: list[threading.Thread] = []

    async def keep(self, listener: socket.socket) -> None:
        """Accept on `listener` (which does not block), for ever."""
        loop = asyncio.get_running_loop()
        try:
            while True:
                try:
                    plain, _ = await loop.sock_accept(listener)
                except OSError:  # too many files are open, or the visitor is gone already
                    await asyncio.sleep(0.1)
                    continue
                if len(self._tasks) >= _MOST_WAITING:
                    next(iter(self._tasks)).cancel()  # the one that has been silent longest
                task = asyncio.create_task(self._sort(plain))
                self._tasks[task] = None
                task.add_done_callback(lambda done: self._tasks.pop(done, None))
        finally:
            listener.close()
            for task in list(self._tasks):
                task.cancel()

    async def _sort(self, plain: socket.socket) -> None:
        try:
            async with asyncio.timeout(STEP_SECONDS):
                first = await _first_byte(plain)
            if first == GREETING[:1]:
                self._begin_lane(plain)
            else:
                await self._control(plain)
        except (OSError, TimeoutError, asyncio.CancelledError):
            plain.close()

    def _begin_lane(self, plain: socket.socket) -> None:
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        if len(self._threads) >= _MOST_WAITING:
            plain.close()
            return
        self._threads.append(threading.Thread(target=self._lane, args=(plain,), daemon=True))
        self._threads[-1].start()

    async def _control(self, plain: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=1 << 20)
        protocol = asyncio.StreamReaderProtocol(reader, self._connected)
        await loop.connect_accepted_socket(
            lambda: protocol,
            plain,
            ssl=self._context,
            ssl_handshake_timeout=STEP_SECONDS,
            ssl_shutdown_timeout=SHUTDOWN_SECONDS,
        )


async def _first_byte(plain: socket.socket) -> bytes:
    """The first byte that arrives, left where it is."""
    plain.setblocking(False)
    loop = asyncio.get_running_loop()
    readable: asyncio.Future[None] = loop.create_future()

    def arrived() -> None:
        if not readable.done():
            readable.set_result(None)

    loop.add_reader(plain, arrived)
    try:
        await readable
    finally:
        with contextlib.suppress(OSError, ValueError):
            loop.remove_reader(plain)
    return plain.recv(1, socket.MSG_PEEK)
