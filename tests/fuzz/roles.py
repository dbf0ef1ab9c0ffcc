"""Mutated messages at real processes of encrypted inference, over TLS with the true keys of whoever sends them."""

import asyncio
import contextlib
import http.client
import json
from collections.abc import Iterator
from pathlib import Path

from tests.fuzz.counts import Counts
from tests.fuzz.diagnoses import (
    FREE,
    Stage,
    decodes,
    fuzz_answers,
    fuzz_greetings,
    fuzz_requests,
    is_sealed,
    mutated_request,
)
from tests.fuzz.mutations import Draw, Mutant, flipped, mutate

from primum import wire
from primum.diagnosis.channel import Channel, connect
from primum.diagnosis.client import run as run_async
from primum.diagnosis.files import to_json
from primum.diagnosis.lane import Lane, open_lane
from primum.diagnosis.messages import FRAME_LIMIT, Deal, Dealt, Hello, Provide, Queued, Sorry, Start, Welcome
from primum.diagnosis.session import Session, accept, hello
from primum.errors import PeerError, PrimumError
from primum.keys.agreement import KeyPair
from primum.keys.certificate import client_context
from primum.mpc.check import material_sizes
from primum.mpc.share import ROLES, Role


def fuzz_roles(stage: Stage, count: int, label: str = "roles") -> Counts:
    """Mutants over TLS with the true keys: half of them at the dealer, the others at B's link and at both servers' doors.

    Server A is not started before the doors: its place is taken. Afterwards a diagnosis must still come out right.
    """
    counts, cluster = Counts(), stage.cluster
    cluster.start("dealer")
    try:
        counts.add(run_async(lambda: _at_dealer(stage, count // 4, Draw(f"{label} dealer"))))
        counts.add(_deals(stage, count // 4, Draw(f"{label} deals")))
        cluster.start("B")
        counts.add(run_async(lambda: _at_b(stage, count // 4, Draw(f"{label} B"))))
        cluster.start("A")
        counts.add(_at_doors(stage, count - counts.sent, Draw(f"{label} doors")))
        for role in ("dealer", *ROLES):
            if "Traceback" in cluster.log(role) or cluster.running[role].process.poll() is not None:
                counts.crashes.append(f"{role}: {cluster.log(role)[-500:]}")
    finally:
        cluster.stop()
    return counts


async def _said(channel: Channel, *kinds: type[wire.Message]) -> wire.Message | None:
    """The answer; None where the connection was ended."""
    try:
        return await channel.receive_one_of(*kinds, seconds=10)
    except PrimumError:
        return None


async def _connect(stage: Stage, role: Role, where: str) -> Channel:
    card = stage.deployment.dealer if where == "dealer" else stage.deployment.b
    address = card.address if where == "dealer" else card.link
    return await connect(address, card.certificate, stage.keys[role].tls, where, FRAME_LIMIT)


async def _greeted(stage: Stage, role: Role, where: str) -> tuple[Channel, Session]:
    channel, keys = await _connect(stage, role, where), KeyPair.generate()
    await channel.send(hello(stage.deployment, role, 0, keys))
    return channel, accept(stage.deployment, role, await channel.expect(Welcome), 0, keys, where)


async def _at_dealer(stage: Stage, count: int, draw: Draw) -> Counts:
    counts = Counts()
    for _ in range(count):
        role = draw.of(ROLES)
        mutant = mutate(hello(stage.deployment, role, 0, KeyPair.generate()), draw)
        channel = await _connect(stage, role, "dealer")
        await _send(channel, mutant, counts, draw, Hello)
        answer = await _said(channel, Welcome, Sorry)
        if isinstance(answer, Welcome) and not mutant.touches(FREE):
            counts.accepted.append(f"dealer, {'.'.join(mutant.path)}")
        counts.refusals[answer.message[:80] if isinstance(answer, Sorry) else type(answer).__name__] += 1
        channel.close()
    await asyncio.sleep(0.1)
    channel, _ = await _greeted(stage, "A", "dealer")
    channel.close()
    await asyncio.sleep(0.1)
    return counts


async def _send(channel: Channel, mutant: Mutant, counts: Counts, draw: Draw, kind: type[wire.Message]) -> None:
    data = wire.encode(mutant.message)
    if draw.one_in(40):
        data = flipped(data, draw)
    try:
        wire.decode(data, kind, "x", FRAME_LIMIT)
        counts.count(True)
    except PeerError:
        counts.count(False)
    channel._writer.write(len(data).to_bytes(4, "big") + data)
    await channel._writer.drain()


def _deals(stage: Stage, count: int, draw: Draw) -> Counts:
    """At the dealer's lane, as server B; each time with fresh connections where the one before was ended."""
    counts = Counts()
    loop = asyncio.new_event_loop()
    while counts.sent < count:
        (a, of_a), (b, of_b) = (loop.run_until_complete(_greeted(stage, role, "dealer")) for role in ROLES)
        card = stage.deployment.dealer
        lane = open_lane(card.address, card.certificate, stage.keys["B"].tls, "the dealer", of_b.id)
        first = of_b.base + 1
        with contextlib.suppress(PrimumError):
            for asked in _mutated_deals(Deal(first, 1, (of_a.id, of_b.id)), draw, count - counts.sent):
                counts.count(decodes(asked.message, Deal))
                _deal(stage, lane, asked, counts)
        lane.close()
        for channel in (a, b):
            channel.close()
        loop.run_until_complete(asyncio.sleep(0.02))
    loop.close()
    return counts


def _mutated_deals(honest: Deal, draw: Draw, most: int) -> Iterator[Mutant]:
    for _ in range(most):
        mutant = mutate(honest, draw)
        if mutant.path == ("Deal.first",) and 0 < mutant.message.first < 1 << 20:
            continue  # a number of B's own choice
        yield mutant


def _deal(stage: Stage, lane: Lane, asked: Mutant, counts: Counts) -> None:
    lane.send_message(asked.message)
    answer = lane.receive_one_of(Dealt, Sorry, seconds=10)
    if isinstance(answer, Sorry):
        counts.refusals[answer.message[:80]] += 1
        return
    for size in material_sizes(stage.deployment.program, asked.message.images):
        lane.receive(size)
    counts.refusals["dealt"] += 1
    if not asked.touches(FREE):
        counts.accepted.append(f"dealer, {'.'.join(asked.path)}")


async def _at_b(stage: Stage, count: int, draw: Draw) -> Counts:
    """At B's link, as server A: greetings, and proposals to run what B does not hold."""
    counts = Counts()
    while counts.sent < count:
        if draw.one_in(3):
            channel = await _connect(stage, "A", "server B")
            mutant = mutate(hello(stage.deployment, "A", 0, KeyPair.generate()), draw)
            await _send(channel, mutant, counts, draw, Hello)
            answer = await _said(channel, Welcome, Sorry)
            if isinstance(answer, Welcome) and not mutant.touches(FREE):
                counts.accepted.append(f"server B, {'.'.join(mutant.path)}")
        else:
            channel, session = await _greeted(stage, "A", "server B")
            honest: wire.Message = draw.of(
                (Start(draw.bytes(32), 1, session.base, session.id), Provide(session.id), Queued(draw.bytes(32)))
            )
            mutant = mutate(honest, draw)
            await _send(channel, mutant, counts, draw, type(honest))
            if isinstance(honest, Start):
                answer = await _said(channel, Sorry)
                counts.refusals[answer.message[:80] if isinstance(answer, Sorry) else "ended"] += 1
        channel.close()
    await asyncio.sleep(0.1)
    return counts


def _at_doors(stage: Stage, count: int, draw: Draw) -> Counts:
    """Over HTTPS at A and B; what a sender may choose is left out: it would be waited for."""
    counts = Counts()
    connections = {}
    for role in ROLES:
        card = stage.deployment.server(role)
        host, port = card.address.split(":")
        connections[role] = http.client.HTTPSConnection(
            host, int(port), context=client_context(card.certificate), timeout=30
        )
    while counts.sent < count:
        pair = stage.requests()
        request = pair[counts.sent % 2]
        mutant = mutated_request(stage, request, draw)
        if mutant.touches(FREE):
            continue
        counts.count(is_sealed(stage, mutant.message, request.server))
        connection = connections[request.server]
        connection.request("POST", "/v1/requests", to_json(mutant.message))
        response = connection.getresponse()
        status, said = response.status, response.read()
        name = f"server {request.server}, {'.'.join(mutant.path)}"
        if status == 200:
            counts.accepted.append(name)
            continue
        try:
            counts.refusals[json.loads(said)["message"][:80]] += 1
        except (ValueError, KeyError):
            counts.crashes.append(f"{name}: {status}")
    for connection in connections.values():
        connection.close()
    return counts


def fuzz_diagnosis(folder: Path, count: int, label: str = "diagnosis") -> Counts:
    """A third of `count` at requests, a third at answers, the others at greetings and at real processes."""
    stage, counts = Stage(folder), Counts()
    counts.add(fuzz_requests(stage, count // 3, f"{label} requests"))
    counts.add(fuzz_answers(stage, count // 3, f"{label} answers"))
    counts.add(fuzz_greetings(stage, count // 6, f"{label} greetings"))
    return counts.add(fuzz_roles(stage, count - counts.sent, f"{label} roles"))
