"""The dealer's process: it deals randomness to the two servers of one deployment, and to nobody else.

Each server keeps one connection. B has a lane beside it, asks there for the corrections of a number and receives them
as they are made; A needs none, its half comes from its key.
"""

import asyncio
import contextlib
import hashlib
import os
import signal
import socket
import ssl
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from primum.diagnosis.channel import Channel
from primum.diagnosis.deployment import RoleFile, open_role_file
from primum.diagnosis.door import Door
from primum.diagnosis.lane import Lane, accept_lane
from primum.diagnosis.messages import FRAME_LIMIT, MOST_IMAGES, Deal, Dealt, Hello, Sorry
from primum.diagnosis.numbers import HIGHEST, UsedNumbers, note
from primum.diagnosis.roles import RoleKeys, bind, load_keys, locked
from primum.diagnosis.session import Session, welcome
from primum.errors import PeerError, PrimumError, Refused, Unavailable
from primum.journal import Journal
from primum.kernels.limbs import use_threads
from primum.keys.certificate import certificate_digest, server_context
from primum.mpc.dealer import Dealer
from primum.mpc.share import FARTHEST_SKIP, ROLES, Role

Say = Callable[[str], None]
_GONE: Final = "is not connected to the dealer"


def run_dealer(
    file: Path,
    state: Path,
    *,
    listen: str = "",
    threads: int = 0,
    ready: Say = print,
    say: Say = lambda line: None,
) -> None:
    """Deal for the deployment in `file` until SIGTERM or SIGINT; blocks.

    `state`: this dealer's folder. `listen`: HOST:PORT to bind where it differs from the card's address. `threads`: for
    products; 0 is as many as this process may use. `ready` gets one line, `READY dealer HOST:PORT FINGERPRINT`, once
    connections are taken; `say` gets what happens, in words.
    """
    use_cores(threads)
    keys = load_keys(state)
    with locked(state):
        content = open_role_file(file, keys, ("dealer",))
        process = DealerProcess(content, keys, say)
        listener = bind(listen or content.deployment.dealer.address)
        asyncio.run(_serve(process, listener, ready))


def use_cores(threads: int) -> None:
    """Share products among `threads`, or all cores; before torch is imported, whose own threads are told to stay one."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    use_threads(threads or _cores())


def _cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


async def _serve(process: "DealerProcess", listener: socket.socket, ready: Say) -> None:
    stop = stop_event()
    door = Door(process.context(), process.connected, process.lane)
    accepting = asyncio.create_task(door.keep(listener))
    host, port = listener.getsockname()[:2]
    ready(f"READY dealer {host}:{port} {process.deployment.fingerprint()}")
    accepting.add_done_callback(lambda _: stop.set())  # a defect of ours: better no dealer than a deaf one
    await stop.wait()
    accepting.cancel()
    process.close()
    with contextlib.suppress(asyncio.CancelledError):
        await accepting


def stop_event() -> asyncio.Event:
    """An event that SIGTERM and SIGINT set, where the loop may handle signals (the main thread)."""
    event = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(NotImplementedError, RuntimeError, ValueError):
            asyncio.get_running_loop().add_signal_handler(number, event.set)
    return event


@dataclass
class _Connection:
    channel: Channel
    session: Session = field(repr=False)


class DealerProcess:
    """The dealer's state between messages: one connection per server, the numbers used, the journal."""

    def __init__(self, content: RoleFile, keys: RoleKeys, say: Say) -> None:
        self.deployment = content.deployment
        seeds: dict[Role, bytes] = dict(zip(ROLES, content.seeds, strict=True))
        self._dealer = Dealer.make(content.deployment.program, content.deployment.model, seeds)
        self._tls = keys.tls
        self._used = UsedNumbers(keys.folder)
        self._journal = Journal(keys.folder / "journal.jsonl", keys.identity)
        self._connections: dict[Role, _Connection] = {}
        self._lane: Lane | None = None
        self._one_deal = threading.Lock()
        self._say = say

    def context(self) -> ssl.SSLContext:
        """TLS that lets in the two servers of the deployment."""
        return server_context(self._tls, self.deployment.a.certificate + self.deployment.b.certificate)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends; a fault of one server does not touch the other."""
        channel = Channel(reader, writer, "a server", FRAME_LIMIT)
        try:
            role = self._role(channel)
            channel.peer = f"server {role}"
            await self._greet(role, channel)
            await channel.closed()
        except PrimumError as error:
            self._say(f"{channel.peer}: {error.message}")
            if not isinstance(error, Unavailable) and channel.alive:
                with contextlib.suppress(PrimumError):
                    await channel.send(sorry(error))
        except asyncio.CancelledError:
            pass  # this process is stopping; asyncio would print a trace
        finally:
            channel.close()

    def close(self) -> None:
        """End all connections."""
        for connection in self._connections.values():
            connection.channel.close()
        if self._lane is not None:
            self._lane.close()

    def _role(self, channel: Channel) -> Role:
        shown = channel.certificate()
        for role in ROLES:
            if certificate_digest(self.deployment.server(role).certificate) == shown:
                return role
        raise PeerError("A stranger connected.", "Only the two servers of the deployment are let in.")

    async def _greet(self, role: Role, channel: Channel) -> None:
        said = await channel.receive(Hello)
        if said.role != role:
            raise PeerError(f"server {role} says that it is server {said.role}.", "The connection was closed.")
        answer, session = welcome(self.deployment, said, self._used.mark, channel.peer)
        before = self._connections.get(role)
        self._connections[role] = _Connection(channel, session)
        if before is not None:
            before.channel.close()
        await channel.send(answer)
        self._say(f"server {role} is connected")

    def lane(self, plain: socket.socket) -> None:
        """Deal to server B over one lane until it ends; in a thread of its own."""
        try:
            lane = accept_lane(plain, self.context(), self.deployment.b.certificate, "server B", self._session_of_b)
        except PrimumError as error:
            self._say(error.message)
            return
        before, self._lane = self._lane, lane
        if before is not None:
            before.close()
        try:
            while True:
                self._serve_one(lane)
        except PrimumError as error:
            if not isinstance(error, Unavailable):
                self._say(f"server B: {error.message}")
        finally:
            lane.close()

    def _session_of_b(self) -> bytes | None:
        connection = self._connections.get("B")
        return connection.session.id if connection is not None else None

    def _serve_one(self, lane: Lane) -> None:
        asked = lane.receive_one_of(Deal, seconds=None)
        if not isinstance(asked, Deal):
            raise TypeError("only Deal is received here")
        try:
            with self._one_deal:
                self._deal(asked, lane)
        except Refused as error:
            lane.send_message(sorry(error))

    def _deal(self, asked: Deal, lane: Lane) -> None:
        try:
            ratchets = {role: self._session(role, asked).ratchet for role in ROLES}
        except Unavailable as error:
            lane.send_message(sorry(error))
            return
        if not (1 <= asked.images <= MOST_IMAGES and 1 <= asked.first <= HIGHEST):
            raise PeerError(
                f"server B asked for {asked.images} numbers from {asked.first} on.", "The connection was closed."
            )
        if asked.first > self._used.mark + FARTHEST_SKIP:
            raise PeerError(f"server B asked for number {asked.first}, far ahead.", "The connection was closed.")
        name = hashlib.sha256(b"".join(asked.sessions) + asked.first.to_bytes(8, "big")).digest()
        self._used.record(asked.first, asked.images, name)
        messages = self._dealer.deal(asked.first, asked.images, ratchets)
        lane.send_message(Dealt(asked.first, asked.images))
        for message in messages:
            lane.send(message)
        note(self._journal, "dealt", name, asked.first, asked.images)

    def _session(self, role: Role, asked: Deal) -> Session:
        connection = self._connections.get(role)
        if connection is None or not connection.channel.alive:
            raise Unavailable(f"Server {role} {_GONE}.", "Ask again in a moment.")
        if connection.session.id != asked.sessions[ROLES.index(role)]:
            raise Unavailable(f"Server {role} has connected to the dealer anew.", "Ask again in a moment.")
        return connection.session


def sorry(error: PrimumError) -> Sorry:
    """The error as a message to the other side."""
    return Sorry(type(error).__name__, error.message, error.hint)
