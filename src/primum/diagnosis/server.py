"""The process of server A or B. It never opens the model, an image or a diagnosis.

Data owners come over HTTPS (`endpoint.py`); the other server and the dealer over `links.py`. A connects to B, both
connect to the dealer; who cannot reach a peer says so, tries again, and answers requests with a clear error meanwhile.

A request runs when both servers hold their halves: A proposes (Start), B chooses the numbers, both write them to disk,
B has or fetches the dealer's corrections, both compute (`runs.py`), both answer their data owner. A run that fails is
over: its numbers are spent, and nobody tries again by himself. Between requests both make the next one's material.
"""

import asyncio
import contextlib
import socket
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from primum.diagnosis.ahead import Keys
from primum.diagnosis.channel import Channel
from primum.diagnosis.dealer import Say, sorry, stop_event, use_cores
from primum.diagnosis.deployment import RoleFile, open_role_file
from primum.diagnosis.door import Door
from primum.diagnosis.endpoint import serve_https
from primum.diagnosis.lane import Lane
from primum.diagnosis.links import DealerLink, LinkFromA, LinkToB
from primum.diagnosis.messages import Agree, Answer, Request, Start, Waiting
from primum.diagnosis.metrics import SECONDS_BETWEEN, Metrics
from primum.diagnosis.numbers import HIGHEST, UsedNumbers
from primum.diagnosis.requests import OpenedRequest, open_request
from primum.diagnosis.roles import RoleKeys, bind, load_keys, locked
from primum.diagnosis.runs import Runs
from primum.errors import MachineError, PeerError, PrimumError, Refused, Unavailable
from primum.mpc.share import FARTHEST_SKIP

PAIR_SECONDS: Final = 5.0
RUN_SECONDS: Final = 600.0
_MOST_PENDING: Final = 32
_LOOK_SECONDS: Final = 0.2
_OURS: Final = "Server B met an error of its own."
_SWITCH_SECONDS: Final = 2e-4
"""Whose turn it is in the interpreter: with Python's 5 ms, a request that comes while the next one's material is made
waits for several of the worker's turns (measured: 40 ms instead of 25 for a small network)."""


def run_server(
    file: Path,
    state: Path,
    *,
    listen: str = "",
    listen_link: str = "",
    ahead: int = 0,
    threads: int = 0,
    device: str = "cpu",
    metrics: Path | None = None,
    ready: Say = print,
    say: Say = lambda line: None,
) -> None:
    """Be server A or B of the deployment in `file` until SIGTERM or SIGINT; blocks.

    `state`: this server's folder. `listen`, `listen_link`: HOST:PORT to bind where they differ from the card's.
    `ahead`: for how many further images B keeps material on its disk, beside the one that is ready in memory.
    `threads`: for products; 0 is as many as this process may use. `device`: where these are computed, cpu, cuda or
    cuda:N; all else stays on the processor. `metrics`: a file for what this server counts, else
    metrics.prom in the folder.
    `ready` gets one line, `READY A|B HOST:PORT FINGERPRINT`, once requests are taken; `say` gets what happens, in words.
    """
    sys.setswitchinterval(_SWITCH_SECONDS)
    use_cores(threads)
    _use_card(device)
    keys = load_keys(state)
    with locked(state):
        content = open_role_file(file, keys, ("A", "B"))
        counts = Metrics(metrics, private=False) if metrics is not None else None
        process = ServerProcess(content, keys, say, ahead, counts)
        card = process.deployment.server(process.role)
        sockets = [bind(listen or card.address)]
        if process.role == "B":
            sockets.append(bind(listen_link or card.link))
        asyncio.run(_serve(process, sockets, ready))


def _use_card(name: str) -> None:
    """Products on the graphics card `name`, for as long as this process lives; `cpu`: on the processor.

    Without the lock by which nodes take turns: the weights stay on the card, and where A and B share one, A, holding
    it, would wait for B for ever. InputError where there is no such card, MachineError where it counts wrongly.
    """
    if name == "cpu":
        return
    from primum.accelerator import Accelerator  # after `use_cores`: it imports torch
    from primum.kernels.device import use_device

    try:
        use_device(Accelerator.named(name).device)
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise MachineError(f"{name} cannot multiply limbs: {reason}.", "Start the server with --device cpu.") from None


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
    ready: bool = False
    queued: bool = False
    started: bool = False
    answer: asyncio.Future[Answer] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class ServerProcess:
    """A server's state between messages: requests that wait, numbers used, connections."""

    def __init__(
        self, content: RoleFile, keys: RoleKeys, say: Say, depth: int = 0, metrics: Metrics | None = None
    ) -> None:
        if content.role == "dealer":
            raise ValueError("a dealer's file")
        self.role = content.role
        self.deployment = content.deployment
        self.keys = keys
        self._used = UsedNumbers(keys.folder)
        self._runs = Runs(content, keys, self._used, depth)
        self._metrics = metrics or Metrics(keys.folder / "metrics.prom")
        self._pending: dict[bytes, _Pending] = {}
        self._one_run = asyncio.Lock()
        self._wanted = asyncio.Event()
        self._provided = b""
        self._running = False
        self._say = say
        wanted = self._wanted.set
        self._dealer = DealerLink(self.deployment, self.role, keys, self._used, wanted, say)
        self._to_b = LinkToB(self.deployment, keys, self._used, self._held, wanted, say)
        holding = lambda: [digest for digest, pending in self._pending.items() if pending.ready]  # noqa: E731
        self._from_a = LinkFromA(
            self.deployment, keys, self._mark, self._run_b, self._provide, self._queued, holding, say
        )

    @contextlib.asynccontextmanager
    async def links(self, sockets: list[socket.socket], stop: asyncio.Event) -> AsyncIterator[None]:
        """Keep the connections up; B listens for A on the socket given. Sets `stop` where a defect of ours ends one."""
        tasks = [asyncio.create_task(self._dealer.keep()), asyncio.create_task(self._keep_ahead())]
        tasks.append(asyncio.create_task(self._keep_metrics()))
        if self.role == "A":
            tasks.append(asyncio.create_task(self._to_b.keep()))
        else:
            door = Door(self._from_a.context(), self._from_a.connected, self._from_a.lane_connected)
            tasks.append(asyncio.create_task(door.keep(sockets[0])))
        for task in tasks:
            task.add_done_callback(lambda _: stop.set())
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
            self._from_a.drop()
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
        self._runs.check_token(opened)
        pending = self._pending[opened.digest] = _Pending(opened)
        start = time.monotonic()
        try:
            answer = await (self._submit_a(pending) if self.role == "A" else self._submit_b(pending))
            self._metrics.answered(opened.images, time.monotonic() - start)
            return answer
        except BaseException as error:
            self._metrics.failed(error)
            raise
        finally:
            del self._pending[opened.digest]
            if not pending.answer.cancel() and not pending.answer.cancelled():
                pending.answer.exception()  # seen: nobody waits for it any more

    async def _keep_metrics(self) -> None:
        while True:
            await asyncio.sleep(SECONDS_BETWEEN)
            await asyncio.to_thread(self._metrics.save, len(self._pending))

    def _refuse_known(self, digest: bytes) -> None:
        if digest in self._pending or self._used.knows(digest):
            raise Refused("This request was sent before.", "Make a new request; none is run twice.")

    def _mark(self) -> int:
        """The highest number that this server knows to be used, by itself or by the dealer."""
        dealer = self._dealer.session
        return max(self._used.mark, dealer.base if dealer else 0)

    async def _keep_ahead(self) -> None:
        """Between requests, make what the next one needs."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            with contextlib.suppress(PrimumError):  # a peer is away, or broke off: its coming back is a change
                if self.role == "A":
                    await self._to_b.provide(self._dealer.current()[1].id)
            more = True
            while more:
                await asyncio.sleep(0)  # requests that wait for the lock go first
                async with self._one_run:
                    more = await self._fill()

    async def _fill(self) -> bool:
        try:
            return await asyncio.to_thread(self._runs.fill, self._keys(None), self._mark())
        except PrimumError as error:
            if not isinstance(error, Unavailable):
                self._say(f"material for the next request: {error.message}")
            return False

    def _keys(self, a_dealt: bytes | None) -> Keys:
        """The connections of a run; the error that explains which one is missing."""
        _, dealt = self._dealer.current()
        if self.role == "A":
            return Keys(dealt, self._to_b.current()[1], dealt.id)
        between, provided = self._from_a.session, a_dealt or self._provided
        if between is None or not provided:
            raise Unavailable("Server A is not connected.", "Is it running?")
        return Keys(
            dealt, between, provided, lambda first, images: self._dealer.deal(first, images, (provided, dealt.id))
        )

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
        await self._to_b.queue(pending.opened.digest)
        async with self._one_run:
            try:
                return await self._run_a(pending.opened)
            except BaseException:
                self._to_b.drop()
                raise
            finally:
                self._wanted.set()

    async def _run_a(self, opened: OpenedRequest) -> Answer:
        keys, lane = self._keys(None), self._to_b.lane
        if lane is None:
            raise Unavailable("Server B is not connected.", "Is it running?")
        mark = self._runs.lowest(keys, opened.images, self._mark()) - 1
        agreed = await self._to_b.agree(Start(opened.digest, opened.images, mark, keys.a_dealt))
        if not mark < agreed.first <= min(HIGHEST - opened.images, mark + FARTHEST_SKIP):
            raise PeerError("server B chose a request number that cannot be.", "Nothing was sent.")
        return await self._compute(opened, agreed.first, keys, lane)

    # Server B

    def _queued(self, request: bytes) -> None:
        if request in self._pending:
            self._pending[request].queued = True

    def _provide(self, session: bytes) -> None:
        self._provided = session
        self._wanted.set()

    async def _submit_b(self, pending: _Pending) -> Answer:
        await self._dealer.ready(PAIR_SECONDS)
        pending.ready = True
        await self._from_a.announce(pending.opened.digest)
        with contextlib.suppress(TimeoutError):
            return await asyncio.wait_for(asyncio.shield(pending.answer), PAIR_SECONDS + 2)
        while not pending.queued:
            # while a run goes on, what A says is not read
            if not self._from_a.alive:
                raise Unavailable("Server A is not connected.", "Is it running?")
            if not self._running:
                raise Unavailable("Server A has not received its half of the request.", "Send both halves.")
            await asyncio.sleep(_LOOK_SECONDS)
        try:
            return await asyncio.wait_for(asyncio.shield(pending.answer), RUN_SECONDS)
        except TimeoutError:
            raise Unavailable("The run took too long.", "Ask again with fewer images.") from None

    async def _run_b(self, start: Start, channel: Channel) -> None:
        pending = self._pending.get(start.request)
        try:
            self._running = True
            await self._lock(channel)
            try:
                answer = await self._answer_b(start, pending, channel)
            finally:
                self._one_run.release()
        except Exception as found:
            error = found if isinstance(found, PrimumError) else MachineError(_OURS, "Tell whoever runs server B.")
            if pending is not None and not pending.answer.done():
                pending.answer.set_exception(error)
            if channel.alive:
                await channel.send(sorry(error))
                with contextlib.suppress(PrimumError):  # A ends the connection when it has read why
                    await channel.receive(Start)
            raise error from found
        finally:
            self._running = False
            self._wanted.set()
        if pending is not None and not pending.answer.done():
            pending.answer.set_result(answer)

    async def _lock(self, channel: Channel) -> None:
        """Wait for the worker, which may be receiving material for long, and tell A meanwhile that this side lives."""
        acquiring = asyncio.ensure_future(self._one_run.acquire())
        try:
            while not (await asyncio.wait({acquiring}, timeout=PAIR_SECONDS))[0]:
                await channel.send(Waiting())
        except BaseException:
            if not acquiring.cancel() and acquiring.done():
                self._one_run.release()
            raise

    async def _answer_b(self, start: Start, pending: _Pending | None, channel: Channel) -> Answer:
        if pending is None or pending.started or pending.opened.images != start.images:
            raise Refused("Server B does not hold this request.", "Make a new request.")
        opened, keys = pending.opened, self._keys(start.session)
        first = max(start.mark + 1, self._runs.lowest(keys, opened.images, self._mark()))
        if not 0 < first <= min(HIGHEST - opened.images, self._mark() + FARTHEST_SKIP):
            raise PeerError("Server A sent a request number out of range.", "The connection was closed.")
        pending.started = True
        lane = await self._from_a.lane()
        await channel.send(Agree(opened.digest, first))
        return await self._compute(opened, first, keys, lane)

    # Both

    async def _compute(self, opened: OpenedRequest, first: int, keys: Keys, lane: Lane) -> Answer:
        """The run in its thread; if it is given up, the lane is closed and the thread has ended when this returns."""
        run = asyncio.ensure_future(asyncio.to_thread(self._runs.run, opened, first, keys, lane))
        try:
            async with asyncio.timeout(RUN_SECONDS):
                return await asyncio.shield(run)
        except BaseException:
            lane.close()
            await asyncio.wait({run})
            raise
