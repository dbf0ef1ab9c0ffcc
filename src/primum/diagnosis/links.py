"""A server's connections: to the dealer, and between A and B. Each is kept up by a task that tries again for ever.

A run that fails ends the connection between A and B; the next one begins with fresh keys, so nothing of a broken run
can be mistaken for a later one.
"""

import asyncio
import contextlib
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Final

from primum.diagnosis.channel import STEP_SECONDS, Channel, MessageType, connect, granted
from primum.diagnosis.deployment import Deployment
from primum.diagnosis.messages import Agree, Deal, Hello, Material, Opening, Ready, Sorry, Start, Welcome, frame_limit
from primum.diagnosis.numbers import UsedNumbers
from primum.diagnosis.roles import RoleKeys
from primum.diagnosis.session import Session, accept, hello, welcome
from primum.errors import PeerError, PrimumError, Unavailable
from primum.keys.agreement import KeyPair
from primum.keys.certificate import certificate_digest, server_context
from primum.mpc.share import Role
from primum.wire import Message

Say = Callable[[str], None]
_RETRY_SECONDS: Final = 0.3
_MOST_ANNOUNCED: Final = 4096


class _Kept(ABC):
    """A connection that this side opens and keeps up; `problem` says why it is not there."""

    def __init__(self, peer: str, address: str, say: Say) -> None:
        self._peer = peer
        self._address = address
        self._say = say
        self._problem: PrimumError = Unavailable(f"{peer} is not connected yet.", "Is it running?")
        self.channel: Channel | None = None
        self.session: Session | None = None

    async def keep(self) -> None:
        """Connect, wait until the connection ends, connect again; for ever."""
        self._say(f"waiting for {self._peer} at {self._address}")
        while True:
            try:
                await self._once()
            except PrimumError as error:
                if error.message != self._problem.message:
                    self._say(error.message)
                self._problem = error
            finally:
                if self.channel is not None:
                    self.channel.close()
                self.channel = self.session = None
            await asyncio.sleep(_RETRY_SECONDS)

    def current(self) -> tuple[Channel, Session]:
        """The connection and its keys; the error that explains why there is none."""
        if self.channel is None or self.session is None or not self.channel.alive:
            raise type(self._problem)(self._problem.message, self._problem.hint)
        return self.channel, self.session

    async def ready(self, seconds: float) -> tuple[Channel, Session]:
        """`current`, after waiting up to `seconds` for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.session is None:
                    await asyncio.sleep(0.02)
        return self.current()

    @abstractmethod
    async def _once(self) -> None:
        """One connection, until it ends."""

    async def _greet(self, channel: Channel, deployment: Deployment, role: Role, used: UsedNumbers) -> Session:
        keys = KeyPair.generate()
        mark = used.mark
        try:
            await channel.send(hello(deployment, role, mark, keys))
            said = await channel.expect(Welcome)
        except Unavailable:
            raise PeerError(
                f"{self._peer} ended the connection without a word.",
                "It does not know this server's certificate (all need the files of one deployment), or it is stopping.",
            ) from None
        return accept(deployment, role, said, mark, keys, self._peer)

    def _up(self, channel: Channel, session: Session) -> None:
        self.channel, self.session = channel, session
        self._problem = Unavailable(f"{self._peer} closed the connection.", "Is it still running?")
        self._say(f"connected to {self._peer}")


class DealerLink(_Kept):
    """A server's connection to the dealer."""

    def __init__(self, deployment: Deployment, role: Role, keys: RoleKeys, used: UsedNumbers, say: Say) -> None:
        super().__init__("the dealer", deployment.dealer.address, say)
        self._deployment, self._role, self._keys, self._used = deployment, role, keys, used

    async def _once(self) -> None:
        card, limit = self._deployment.dealer, frame_limit(self._deployment.program)
        self.channel = await connect(card.address, card.certificate, self._keys.tls, "the dealer", limit)
        self._up(self.channel, await self._greet(self.channel, self._deployment, self._role, self._used))
        await self.channel.closed()

    async def deal(self, first: int, count: int, sessions: tuple[bytes, bytes]) -> bytes:
        """B's corrections for these numbers, packed."""
        channel, _ = self.current()
        try:
            await channel.send(Deal(first, count, sessions))
            material = await channel.expect(Material)
            if (material.first, material.count) != (first, count):
                raise PeerError("The dealer sent material for other numbers.", "It was not used.")
        except PrimumError:
            channel.close()  # a late answer must not be taken for the next one's
            raise
        return material.data


class LinkToB(_Kept):
    """A's connection to B. `announced`: what B says it holds; `held` is called for each."""

    def __init__(
        self, deployment: Deployment, keys: RoleKeys, used: UsedNumbers, held: Callable[[bytes], None], say: Say
    ) -> None:
        super().__init__("server B", deployment.b.link, say)
        self._deployment, self._keys, self._used, self._held = deployment, keys, used, held
        self._inbox: asyncio.Queue[Message | PrimumError] = asyncio.Queue()
        self.announced: dict[bytes, None] = {}

    async def _once(self) -> None:
        card, limit = self._deployment.b, frame_limit(self._deployment.program)
        self.channel = await connect(card.link, card.certificate, self._keys.tls, "server B", limit)
        session = await self._greet(self.channel, self._deployment, "A", self._used)
        self._inbox = asyncio.Queue()
        self.announced.clear()
        self._up(self.channel, session)
        try:
            while True:
                self._sort(await self.channel.receive_one_of(Ready, Agree, Opening, Sorry, seconds=None))
        except PrimumError as error:
            self._inbox.put_nowait(error)
            raise

    def _sort(self, message: Message) -> None:
        if not isinstance(message, Ready):
            self._inbox.put_nowait(message)
            return
        if len(self.announced) >= _MOST_ANNOUNCED:
            self.announced.pop(next(iter(self.announced)))
        self.announced[message.request] = None
        self._held(message.request)

    async def agree(self, start: Start) -> Agree:
        """Propose a run to B."""
        reply = await self._exchange(start, Agree)
        if reply.request != start.request:
            raise PeerError("server B agreed to another request.", "Nothing was computed.")
        return reply

    async def open(self, opening: Opening) -> Opening:
        """Exchange openings with B."""
        return await self._exchange(opening, Opening)

    async def _exchange(self, message: Message, kind: type[MessageType]) -> MessageType:
        channel, _ = self.current()
        await channel.send(message)
        try:
            async with asyncio.timeout(2 * STEP_SECONDS):  # B may be waiting for the dealer
                reply = await self._inbox.get()
        except TimeoutError:
            raise Unavailable("server B did not answer in time.", "Is it overloaded?") from None
        if isinstance(reply, PrimumError):
            raise type(reply)(reply.message, reply.hint)
        return granted(reply, kind, "server B")


class LinkFromA:
    """B's side: A connects here, one connection at a time. `run` serves a Start."""

    def __init__(
        self,
        deployment: Deployment,
        keys: RoleKeys,
        marks: Callable[[], int],
        run: Callable[[Start, Channel, Session], Awaitable[None]],
        holding: Callable[[], list[bytes]],
        say: Say,
    ) -> None:
        self._deployment, self._keys, self._marks = deployment, keys, marks
        self._run, self._holding, self._say = run, holding, say
        self._channel: Channel | None = None

    @property
    def alive(self) -> bool:
        """Whether A is connected."""
        return self._channel is not None and self._channel.alive

    def context(self) -> ssl.SSLContext:
        """TLS that lets in server A."""
        return server_context(self._keys.tls, self._deployment.a.certificate)

    async def announce(self, request: bytes) -> None:
        """Tell A, if it is there, that this server holds its half of `request`."""
        if self._channel is not None and self._channel.alive:
            with contextlib.suppress(Unavailable):
                await self._channel.send(Ready(request))

    async def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve A's connection until it ends."""
        channel = Channel(reader, writer, "server A", frame_limit(self._deployment.program))
        try:
            await self._serve(channel)
        except PrimumError as error:
            self._say(f"server A: {error.message}")
        finally:
            channel.close()

    async def _serve(self, channel: Channel) -> None:
        if channel.certificate() != certificate_digest(self._deployment.a.certificate):
            raise PeerError("A stranger connected.", "Only server A of the deployment is let in.")
        said = await channel.receive(Hello)
        try:
            answer, session = welcome(self._deployment, said, self._marks(), "server A")
        except PeerError as error:
            await channel.send(Sorry("PeerError", error.message.replace("server A", "this side"), error.hint))
            raise
        await channel.send(answer)
        if self._channel is not None:
            self._channel.close()
        self._channel = channel
        self._say("server A is connected")
        for request in self._holding():
            await channel.send(Ready(request))
        while True:
            await self._run(await channel.receive(Start, None), channel, session)
