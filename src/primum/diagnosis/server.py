"""The process of server A or B. It never opens the model, an image or a diagnosis.

Data owners come over HTTPS (`endpoint.py`); the other server and the dealer over `links.py`. A connects to B, both
connect to the dealer; who cannot reach a peer says so, tries again, and answers requests with a clear error meanwhile.

A request runs when both servers hold their halves: A proposes (Start), B agrees with its mark, both write the numbers
to disk, B fetches the dealer's corrections, both open, both answer their data owner. A run that fails is over: its
numbers are spent, and nobody tries again by himself.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from primum.diagnosis.channel import SHUTDOWN_SECONDS, STEP_SECONDS, Channel
from primum.diagnosis.dealer import Say, sorry, stop_event
from primum.diagnosis.deployment import RoleFile, open_role_file
from primum.diagnosis.endpoint import serve_https
from primum.diagnosis.links import DealerLink, LinkFromA, LinkToB
from primum.diagnosis.messages import Agree, Answer, Opening, Request, Start
from primum.diagnosis.numbers import UsedNumbers, note
from primum.diagnosis.requests import OpenedRequest, open_request, seal_answer
from primum.diagnosis.roles import RoleKeys, bind, load_keys, locked
from primum.diagnosis.session import Session
from primum.errors import PeerError, PrimumError, Refused, Unavailable
from primum.journal import Journal
from primum.mpc.party import Evaluation, Party

PAIR_SECONDS: Final = 5.0
RUN_SECONDS: Final = 60.0
_MOST_PENDING: Final = 32


def run_server(
    file: Path,
    state: Path,
    *,
    listen: str = "",
    listen_link: str = "",
    ready: Say = print,
    say: Say = lambda line: None,
) -> None:
    """Be server A or B of the deployment in `file` until SIGTERM or SIGINT; blocks.

    `state`: this server's folder. `listen`, `listen_link`: HOST:PORT to bind where they differ from the card's.
    `ready` gets one line, `READY A|B HOST:PORT FINGERPRINT`, once requests are taken; `say` gets what happens, in words.
    """
    keys = load_keys(state)
    with locked(state):
        content = open_role_file(file, keys, ("A", "B"))
        process = ServerProcess(content, keys, say)
        card = process.deployment.server(process.role)
        sockets = [bind(listen or card.address)]
        if process.role == "B":
            sockets.append(bind(listen_link or card.link))
        asyncio.run(_serve(process, sockets, ready))


async def _serve(process: "ServerProcess", sockets: list[socket.socket], ready: Say) -> None:
    stop = stop_event()
    host, port = sockets[0].getsockname()[:2]
    line = f"READY {process.role} {host}:{port} {process.deployment.fingerprint()}"
    async with process.links(sockets[1:], stop):
        await serve_https(process, process.keys.tls, sockets[0], lambda: ready(line), stop)


@dataclass
class _Pending:
    """A request that waits for its run, or is in it."""

    opened: OpenedRequest = field(repr=False)
    paired: asyncio.Event = field(default_factory=asyncio.Event)
    started: bool = False
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ServerProcess:
    """A server's state between messages: requests that wait, numbers used, connections."""

    def __init__(self, content: RoleFile, keys: RoleKeys, say: Say) -> None:
        if content.role == "dealer":
            raise ValueError("a dealer's file")
        self.role = content.role
        self.deployment = content.deployment
        self.keys = keys
        program, model = content.deployment.program, content.deployment.model
        self._party = Party.make(self.role, program, model, content.masked, content.seeds[0])
        self._used = UsedNumbers(keys.folder)
        self._journal = Journal(keys.folder / "journal.jsonl", keys.identity)
        self._pending: dict[bytes, _Pending] = {}
        self._one_run = asyncio.Lock()
        self._dealer = DealerLink(self.deployment, self.role, keys, self._used, say)
        self._to_b = LinkToB(self.deployment, keys, self._used, self._held, say)
        self._from_a = LinkFromA(self.deployment, keys, self._mark, self._run_b, lambda: list(self._pending), say)

    @contextlib.asynccontextmanager
    async def links(self, sockets: list[socket.socket], stop: asyncio.Event) -> AsyncIterator[None]:
        """Keep the connections up; B listens for A on the socket given. Sets `stop` where a defect of ours ends one."""
        tasks = [asyncio.create_task(self._dealer.keep())]
        if self.role == "A":
            tasks.append(asyncio.create_task(self._to_b.keep()))
        else:
            await asyncio.start_server(
                self._from_a.connected,
                sock=sockets[0],
                ssl=self._from_a.context(),
                ssl_handshake_timeout=STEP_SECONDS,
                ssl_shutdown_timeout=SHUTDOWN_SECONDS,
            )
        for task in tasks:
            task.add_done_callback(lambda _: stop.set())
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        for error in ended:
            if isinstance(error, Exception):  # not the cancelling: keep() never returns by itself
                raise error

    async def submit(self, request: Request) -> Answer:
        """This server's answer to a request, once both servers and the dealer have done their part.

        Refused if the request was run before; Unavailable, naming the peer, if one is missing or dies.
        """
        self._refuse_known(request.digest())
        if len(self._pending) >= _MOST_PENDING:
            raise Unavailable("This server is busy.", "Ask again in a moment.")
        opened = await asyncio.to_thread(open_request, request, self.role, self.deployment, self.keys.sealing)
        self._refuse_known(opened.digest)
        pending = self._pending[opened.digest] = _Pending(opened)
        try:
            return await (self._submit_a(pending) if self.role == "A" else self._submit_b(pending))
        finally:
            del self._pending[opened.digest]
            if not pending.answer.cancel() and not pending.answer.cancelled():
                pending.answer.exception()  # seen: nobody waits for it any more

    def _refuse_known(self, digest: bytes) -> None:
        if digest in self._pending or self._used.knows(digest):
            raise Refused("This request was sent before.", "Make a new request; none is run twice.")

    def _mark(self) -> int:
        """The highest number that this server knows to be used, by itself or by the dealer."""
        dealer = self._dealer.session
        return max(self._used.mark, dealer.base if dealer else 0)

    # Server A

    def _held(self, request: bytes) -> None:
        if request in self._pending:
            self._pending[request].paired.set()

    async def _submit_a(self, pending: _Pending) -> Answer:
        await self._dealer.ready(PAIR_SECONDS)
        await self._to_b.ready(PAIR_SECONDS)
        if pending.opened.digest in self._to_b.announced:
            pending.paired.set()
        try:
            async with asyncio.timeout(PAIR_SECONDS + 2):  # B may be waiting for the dealer
                await pending.paired.wait()
        except TimeoutError:
            self._to_b.current()
            raise Unavailable("Server B has not received its half of the request.", "Send both halves.") from None
        async with asyncio.timeout(RUN_SECONDS), self._one_run:
            try:
                return await self._run_a(pending.opened)
            except BaseException:
                if self._to_b.channel is not None:
                    self._to_b.channel.close()
                raise

    async def _run_a(self, opened: OpenedRequest) -> Answer:
        _, dealt = self._dealer.current()
        _, between = self._to_b.current()
        mark = self._mark()
        agreed = await self._to_b.agree(Start(opened.digest, opened.images, mark, dealt.id))
        first = max(mark, agreed.mark) + 1
        evaluation = await self._prepare(opened, first, dealt, between)
        opening = Opening(opened.digest, first, evaluation.open(opened.share))
        theirs = await self._to_b.open(opening)
        return await self._finish(opened, evaluation, opening, theirs, b"")

    # Server B

    async def _submit_b(self, pending: _Pending) -> Answer:
        await self._dealer.ready(PAIR_SECONDS)
        await self._from_a.announce(pending.opened.digest)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(pending.answer), PAIR_SECONDS + 2)
        if not self._from_a.alive:
            raise Unavailable("Server A is not connected.", "Is it running?")
        if not pending.started and not self._one_run.locked():
            raise Unavailable("Server A has not received its half of the request.", "Send both halves.")
        try:
            return await asyncio.wait_for(asyncio.shield(pending.answer), RUN_SECONDS)
        except TimeoutError:
            raise Unavailable("The run took too long.", "Ask again with fewer images.") from None

    async def _run_b(self, start: Start, channel: Channel, between: Session) -> None:
        pending = self._pending.get(start.request)
        try:
            async with self._one_run:
                answer = await self._answer_b(start, pending, channel, between)
        except PrimumError as error:
            if pending is not None and not pending.answer.done():
                pending.answer.set_exception(error)
            if channel.alive:
                await channel.send(sorry(error))
                with contextlib.suppress(PrimumError):  # A ends the connection when it has read why
                    await channel.receive(Opening)
                    await channel.receive(Opening)
            raise
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(answer)

    async def _answer_b(self, start: Start, pending: _Pending | None, channel: Channel, between: Session) -> Answer:
        if pending is None or pending.started or pending.opened.images != start.images:
            raise Refused("Server B does not hold this request.", "Make a new request.")
        _, dealt = self._dealer.current()
        if not 0 <= start.mark < 1 << 62:
            raise PeerError("Server A sent a request number out of range.", "The connection was closed.")
        pending.started = True
        opened, mark = pending.opened, self._mark()
        first = max(mark, start.mark) + 1
        await channel.send(Agree(opened.digest, mark))
        evaluation = await self._prepare(opened, first, dealt, between)
        correction = await self._dealer.deal(first, opened.images, (start.session, dealt.id))
        opening = Opening(opened.digest, first, evaluation.open(opened.share))
        await channel.send(opening)
        theirs = await channel.expect(Opening)
        return await self._finish(opened, evaluation, opening, theirs, correction)

    # Both

    async def _prepare(self, opened: OpenedRequest, first: int, dealt: Session, between: Session) -> Evaluation:
        """Spend the numbers, on disk, and make the masks; nothing that depends on them has left before."""

        def prepare() -> Evaluation:
            self._used.record(first, opened.images, opened.digest)
            return self._party.evaluate(first, opened.images, dealt.ratchet, between.ratchet)

        return await asyncio.to_thread(prepare)

    async def _finish(
        self, opened: OpenedRequest, evaluation: Evaluation, own: Opening, theirs: Opening, correction: bytes
    ) -> Answer:
        if (theirs.request, theirs.first) != (own.request, own.first):
            raise PeerError("The other server opened another request.", "Nothing was answered.")

        def finish() -> Answer:
            share = evaluation.receive(theirs.data, correction)
            answer = seal_answer(opened, self.role, own.first, share, self.deployment, self.keys.identity)
            # the answer in its box: the hash of a share of 40 bits could be searched for
            messages = {"sent": own.data, "received": theirs.data, "answer": answer.box}
            note(self._journal, "answered", opened.digest, own.first, opened.images, **messages)
            return answer

        return await asyncio.to_thread(finish)
