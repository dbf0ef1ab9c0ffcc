"""A server's connections: to the dealer, and between A and B. Each is kept up by a task that tries again for ever.

A run that fails ends the connection between A and B; the next one begins with fresh keys, so nothing of a broken run
can be mistaken for a later one.
"""

import asyncio
import contextlib
import socket
import ssl
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator
from typing import Final

from primum.diagnosis.channel import STEP_SECONDS, Channel, MessageType, connect, granted
from primum.diagnosis.deployment import Deployment
from primum.diagnosis.lane import Lane, accept_lane, open_lane
from primum.diagnosis.messages import (
    FRAME_LIMIT,
    Agree,
    Deal,
    Dealt,
    Hello,
    Provide,
    Queued,
    Ready,
    Sorry,
    Start,
    Waiting,
    Welcome,
)
from primum.diagnosis.numbers import UsedNumbers
from primum.diagnosis.roles import RoleKeys
from primum.diagnosis.session import Session, accept, hello, welcome
from primum.errors import PeerError, PrimumError, Unavailable
from primum.kernels.words import Bytes
from primum.keys.agreement import KeyPair
from primum.keys.certificate import certificate_digest, server_context
from primum.mpc.check import material_sizes
from primum.mpc.share import Role
from primum.wire import Message

Say = Callable[[str], None]
_RETRY_SECONDS: Final = 0.3
_MOST_ANNOUNCED: Final = 4096


class _Kept(ABC):
    """A connection that this side opens and keeps up; `problem` says why it is not there."""

    def __init__(self, peer: str, address: str, changed: Callable[[], None], say: Say) -> None:
        self._peer = peer
        self._address = address
        self._changed = changed
        self._say = say
        self._problem: PrimumError = Unavailable(f"{peer} is not connected yet.", "Is it running?")
        self.channel: Channel | None = None
        self.session: Session | None = None
        self.lane: Lane | None = None

    async def keep(self) -> None:
        """Connect, wait until the connection ends, connect again; for ever."""
        self._loop = asyncio.get_running_loop()
        self._say(f"waiting for {self._peer} at {self._address}")
        while True:
            try:
                await self._once()
            except PrimumError as error:
                if error.message != self._problem.message:
                    self._say(error.message)
                self._problem = error
            finally:
                self.drop()
                self.channel = self.session = self.lane = None
            await asyncio.sleep(_RETRY_SECONDS)

    def drop(self) -> None:
        """End the connection and its lane; from any thread. `keep` makes new ones, with fresh keys."""
        self.session = None  # nobody begins with what is about to close
        if self.lane is not None:
            self.lane.close()
        if self.channel is not None:
            self._loop.call_soon_threadsafe(self.channel.close)

    async def _open_lane(self, address: str, certificate: str, keys: RoleKeys, session: Session) -> Lane:
        opening = asyncio.to_thread(open_lane, address, certificate, keys.tls, self._peer, session.id)
        return await opening

    def current(self) -> tuple[Channel, Session]:
        """The connection and its keys; the error that explains why there is none."""
        if self.channel is None or self.session is None or not self.channel.alive:
            raise type(self._problem)(self._problem.message, self._problem.hint)
        return self.channel, self.session

    async def ready(self, seconds: float) -> tuple[Channel, Session]:
        """`current`, after waiting up to `seconds` for it."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self.session is None or self.channel is None or not self.channel.alive:
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

    def _up(self, session: Session) -> None:
        self.session = session
        self._changed()
        self._problem = Unavailable(f"{self._peer} closed the connection.", "Is it still running?")
        self._say(f"connected to {self._peer}")


class DealerLink(_Kept):
    """A server's connection to the dealer."""

    def __init__(
        self,
        deployment: Deployment,
        role: Role,
        keys: RoleKeys,
        used: UsedNumbers,
        changed: Callable[[], None],
        say: Say,
    ) -> None:
        super().__init__("the dealer", deployment.dealer.address, changed, say)
        self._deployment, self._role, self._keys, self._used = deployment, role, keys, used

    async def _once(self) -> None:
        card = self._deployment.dealer
        self.channel = await connect(card.address, card.certificate, self._keys.tls, "the dealer", FRAME_LIMIT)
        session = await self._greet(self.channel, self._deployment, self._role, self._used)
        if self._role == "B":
            self.lane = await self._open_lane(card.address, card.certificate, self._keys, session)
        self._up(session)
        await self.channel.closed()

    def deal(self, first: int, images: int, sessions: tuple[bytes, bytes]) -> Iterator[Bytes]:
        """B's corrections for these numbers, message by message as the dealer makes them; blocks.

        The lane is closed unless all of them are taken: what is left must not be mistaken for the next ones.
        """
        lane = self.lane
        if lane is None:
            raise Unavailable("The dealer is not connected.", "Is it running?")
        finished = False
        try:
            lane.send_message(Deal(first, images, sessions))
            dealt = granted(lane.receive_one_of(Dealt, Sorry), Dealt, "the dealer")
            if (dealt.first, dealt.images) != (first, images):
                raise PeerError("The dealer sent material for other numbers.", "It was not used.")
            for size in material_sizes(self._deployment.program, images):
                yield lane.receive(size)
            finished = True
        finally:
            if not finished and self.lane is lane:  # not one that was made since
                self.drop()


class LinkToB(_Kept):
    """A's connection to B. `announced`: what B says it holds; `held` is called for each."""

    def __init__(
        self,
        deployment: Deployment,
        keys: RoleKeys,
        used: UsedNumbers,
        held: Callable[[bytes], None],
        changed: Callable[[], None],
        say: Say,
    ) -> None:
        super().__init__("server B", deployment.b.link, changed, say)
        self._deployment, self._keys, self._used, self._held = deployment, keys, used, held
        self._inbox: asyncio.Queue[Message | PrimumError] = asyncio.Queue()
        self.announced: dict[bytes, None] = {}

    async def _once(self) -> None:
        card = self._deployment.b
        self.channel = await connect(card.link, card.certificate, self._keys.tls, "server B", FRAME_LIMIT)
        session = await self._greet(self.channel, self._deployment, "A", self._used)
        self.lane = await self._open_lane(card.link, card.certificate, self._keys, session)
        self._inbox = asyncio.Queue()
        self.announced.clear()
        self._up(session)
        try:
            while True:
                self._sort(await self.channel.receive_one_of(Ready, Waiting, Agree, Sorry, seconds=None))
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

    async def queue(self, request: bytes) -> None:
        """Tell B that this server holds its half as well."""
        channel, _ = self.current()
        await channel.send(Queued(request))

    async def provide(self, session: bytes) -> None:
        """Tell B the name of A's keys with the dealer."""
        channel, _ = self.current()
        await channel.send(Provide(session))

    async def _exchange(self, message: Message, kind: type[MessageType]) -> MessageType:
        channel, _ = self.current()
        await channel.send(message)
        reply: Message | PrimumError = Waiting()
        try:
            while isinstance(reply, Waiting):
                async with asyncio.timeout(STEP_SECONDS):
                    reply = await self._inbox.get()
        except TimeoutError:
            raise Unavailable("server B did not answer in time.", "Is it overloaded?") from None
        if isinstance(reply, PrimumError):
            raise type(reply)(reply.message, reply.hint)
        return granted(reply, kind, "server B")


class LinkFromA:
    """B's side: A connects here, one connection and one lane at a time. `run` serves a Start, `provide` a Provide."""

    def __init__(
        self,
        deployment: Deployment,
        keys: RoleKeys,
        marks: Callable[[], int],
        run: Callable[[Start, Channel], Awaitable[None]],
        provide: Callable[[bytes], None],
        queued: Callable[[bytes], None],
        holding: Callable[[], list[bytes]],
        say: Say,
    ) -> None:
        self._deployment, self._keys, self._marks = deployment, keys, marks
        self._run, self._provide, self._queued, self._holding, self._say = run, provide, queued, holding, say
        self._channel: Channel | None = None
        self._lane: Lane | None = None
        self.session: Session | None = None

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
        self._loop = asyncio.get_running_loop()
        channel = Channel(reader, writer, "server A", FRAME_LIMIT)
        try:
            await self._serve(channel)
        except PrimumError as error:
            self._say(f"server A: {error.message}")
        except asyncio.CancelledError:
            pass  # this process is stopping; asyncio would print a trace
        finally:
            channel.close()
            if self._channel is channel:
                self.drop()

    def lane_connected(self, plain: socket.socket) -> None:
        """Take a lane of the connection that is up; in a thread of its own."""
        certificate = self._deployment.a.certificate
        try:
            lane = accept_lane(plain, self.context(), certificate, "server A", self._session_id)
        except PrimumError as error:
            self._say(error.message)
            return
        self._loop.call_soon_threadsafe(self._take_lane, lane, self._session_id())

    def _take_lane(self, lane: Lane, session: bytes | None) -> None:
        """In the loop's thread: the session that the lane was opened for may have ended meanwhile."""
        if session is None or session != self._session_id():
            lane.close()
            return
        before, self._lane = self._lane, lane
        if before is not None:
            before.close()

    def _session_id(self) -> bytes | None:
        return self.session.id if self.session is not None else None

    async def lane(self) -> Lane:
        """The lane of the connection that is up; A opens it before it proposes a run."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STEP_SECONDS):
                while self._lane is None:
                    await asyncio.sleep(0.005)
        if self._lane is None:
            raise Unavailable("Server A opened no lane.", "Ask again in a moment.")
        return self._lane

    def drop(self) -> None:
        """End the connection and its lane; A makes new ones."""
        if self._lane is not None:
            self._lane.close()
        if self._channel is not None:
            self._channel.close()
        self._lane = self.session = None

    async def _serve(self, channel: Channel) -> None:
        if channel.certificate() != certificate_digest(self._deployment.a.certificate):
            raise PeerError("A stranger connected.", "Only server A of the deployment is let in.")
        said = await channel.receive(Hello)
        try:
            if said.role != "A":
                raise PeerError("server A says that it is server B.", "The connection was closed.")
            answer, session = welcome(self._deployment, said, self._marks(), "server A")
        except PeerError as error:
            await channel.send(Sorry("PeerError", error.message.replace("server A", "this side"), error.hint))
            raise
        self.drop()
        self._channel, self.session = channel, session
        await channel.send(answer)
        self._say("server A is connected")
        for request in self._holding():
            await channel.send(Ready(request))
        while True:
            asked = await channel.receive_one_of(Start, Provide, Queued, seconds=None)
            if isinstance(asked, Start):
                await self._run(asked, channel)
            elif isinstance(asked, Provide):
                self._provide(asked.session)
            elif isinstance(asked, Queued):
                self._queued(asked.request)
