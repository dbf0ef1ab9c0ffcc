"""The dealer's process: it deals randomness to the two servers of one deployment, and to nobody else.

Each server keeps one connection. B asks for the corrections of a number; A needs none, its half comes from its key.
"""

import asyncio
import contextlib
import hashlib
import signal
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from primum.diagnosis.channel import SHUTDOWN_SECONDS, STEP_SECONDS, Channel
from primum.diagnosis.deployment import RoleFile, open_role_file
from primum.diagnosis.messages import MOST_IMAGES, Deal, Hello, Material, Sorry, frame_limit
from primum.diagnosis.numbers import UsedNumbers, note
from primum.diagnosis.roles import RoleKeys, bind, load_keys, locked
from primum.diagnosis.session import Session, welcome
from primum.errors import PeerError, PrimumError, Refused, Unavailable
from primum.journal import Journal
from primum.keys.certificate import certificate_digest, server_context
from primum.mpc.dealer import Dealer
from primum.mpc.share import ROLES, Role

Say = Callable[[str], None]
_GONE: Final = "is not connected to the dealer"


def run_dealer(file: Path, state: Path, *, listen: str = "", ready: Say = print, say: Say = lambda line: None) -> None:
    """Deal for the deployment in `file` until SIGTERM or SIGINT; blocks.

    `state`: this dealer's folder. `listen`: HOST:PORT to bind where it differs from the card's address. `ready` gets
    one line, `READY dealer HOST:PORT FINGERPRINT`, once connections are taken; `say` gets what happens, in words.
    """
    keys = load_keys(state)
    with locked(state):
        content = open_role_file(file, keys, ("dealer",))
        process = DealerProcess(content, keys, say)
        listener = bind(listen or content.deployment.dealer.address)
        asyncio.run(_serve(process, listener, ready))


async def _serve(process: "DealerProcess", listener: socket.socket, ready: Say) -> None:
    stop = stop_event()
    server = await asyncio.start_server(
        process.connected,
        sock=listener,
        ssl=process.context(),
        ssl_handshake_timeout=STEP_SECONDS,
        ssl_shutdown_timeout=SHUTDOWN_SECONDS,
    )
    host, port = listener.getsockname()[:2]
    ready(f"READY dealer {host}:{port} {process.deployment.fingerprint()}")
    await stop.wait()
    server.close()
    process.close()


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
        self._one_deal = asyncio.Lock()
        self._say = say

    def context(self) -> ssl.SSLContext:
        """TLS that lets in the two servers of the deployment."""
        return server_context(self._tls, self.deployment.a.certificate + self.deployment.b.certificate)

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve one connection until it ends; a fault of one server does not touch the other."""
        channel = Channel(reader, writer, "a server", frame_limit(self.deployment.program))
        try:
            role = self._role(channel)
            channel.peer = f"server {role}"
            await self._greet(role, channel)
            while True:
                await self._serve_one(role, channel)
        except PrimumError as error:
            self._say(f"{channel.peer}: {error.message}")
            if not isinstance(error, Unavailable) and channel.alive:
                with contextlib.suppress(PrimumError):
                    await channel.send(sorry(error))
        finally:
            channel.close()

    def close(self) -> None:
        """End all connections."""
        for connection in self._connections.values():
            connection.channel.close()

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

    async def _serve_one(self, role: Role, channel: Channel) -> None:
        asked = await channel.receive(Deal, None)
        if role != "B":
            raise PeerError("server A asked for material that only B gets.", "The connection was closed.")
        try:
            async with self._one_deal:
                material = await asyncio.to_thread(self._deal, asked)
        except (Refused, Unavailable) as error:
            await channel.send(sorry(error))
            return
        await channel.send(material)

    def _deal(self, asked: Deal) -> Material:
        ratchets = {role: self._session(role, asked).ratchet for role in ROLES}
        if not 1 <= asked.count <= MOST_IMAGES:
            raise PeerError(f"server B asked for {asked.count} numbers at once.", "The connection was closed.")
        name = hashlib.sha256(b"".join(asked.sessions) + asked.first.to_bytes(8, "big")).digest()
        self._used.record(asked.first, asked.count, name)
        data = self._dealer.deal(asked.first, asked.count, ratchets)
        note(self._journal, "dealt", name, asked.first, asked.count)
        return Material(asked.first, asked.count, data)

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
