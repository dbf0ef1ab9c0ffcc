"""Mutated requests at the coordinator's one port: enrolment, scientist, parcels. The real application, without a socket.

Accepted is a mutant that is answered with 200 although a field was changed that has to be checked. Left to the sender are,
and so are not counted:

- ScientistRequest.at within two minutes, ScientistRequest.nonce; the same of ParcelRequest
- FollowRequest.line and .fault: from where on; ParcelRequest.start and .end: which bytes
- StatusRequest.run: an empty name asks for all runs
- EnrolRequest.transport where it is another valid key: it is the node's own
- bytes of a parcel that is not whole yet: its digest is compared when it is

A parcel is accepted where bytes are given, or kept as a whole, that have another digest than asked for.
"""

import asyncio
import base64
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import httpx
import msgspec
from tests.federation.playing import make_study
from tests.fuzz.counts import Counts
from tests.fuzz.mutations import Draw, Mutant, flipped, mutate

from primum import __version__, wire
from primum.errors import PeerError
from primum.federation.coordinator import Coordinator, State
from primum.federation.enrolment import PURPOSE, EnrolRequest
from primum.federation.front import ScientistOrder, make_front
from primum.federation.node import NodeState
from primum.federation.parcels import HEADER, PATH, Note, ParcelRequest, ParcelStore
from primum.federation.scientist import (
    Desk,
    FetchRequest,
    FollowRequest,
    MembersRequest,
    ResumeRequest,
    ScientistRequest,
    StatusRequest,
    StopRequest,
    SubmitRequest,
)
from primum.keys.certificate import load_or_make
from primum.keys.identity import Identity, verify
from primum.secagg.messages import Signed, open_signed, sign
from primum.study import sign_study

FREE = frozenset(
    {
        "ScientistRequest.at",
        "ScientistRequest.nonce",
        "ParcelRequest.at",
        "ParcelRequest.nonce",
        "ParcelRequest.start",
        "ParcelRequest.end",
        "FollowRequest.line",
        "FollowRequest.fault",
    }
)
Asked = tuple[Mutant, httpx.Request, bool]


@dataclass
class Front:
    """The application of a coordinator with three members and a run, and a client that calls it in this process."""

    folder: Path
    state: State = field(init=False)
    nodes: list[NodeState] = field(init=False)

    def __post_init__(self) -> None:
        self.state = State.open(self.folder / "coordinator")
        files = load_or_make(self.state.folder, "127.0.0.1")
        desk = Desk(address="127.0.0.1:1", coordinator=self.state.identity.public.hex(), certificate=files.pem())
        (self.state.folder / "coordinator.toml").write_text(desk.text())
        coordinator = Coordinator(self.state, "127.0.0.1", 1, lambda text: None)
        self.app = make_front(coordinator._desk(), 1, True)
        self.nodes = [NodeState.open(self.folder / f"node-{number}") for number in range(3)]
        for number, node in enumerate(self.nodes):
            self.state.register.enrol(enrol_request(node, self.state.register.invite(f"node {number}")))
        self.parcels = ParcelStore.at(self.state.folder)

    def ask(self, request: httpx.Request) -> httpx.Response:
        """The answer; whatever the application raises is raised here."""

        async def work() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="https://x") as client:
                return await client.send(request)

        return asyncio.run(work())


def enrol_request(node: NodeState, token: bytes) -> EnrolRequest:
    """As a node enrols."""
    unsigned = EnrolRequest(token, node.identity.public, node.transport()[1], __version__, b"")
    return signed_anew(unsigned, node.identity)


def signed_anew(request: EnrolRequest, identity: Identity) -> EnrolRequest:
    return msgspec.structs.replace(request, signature=identity.sign(PURPOSE, request.signed_part()))


def fuzz_front(folder: Path, count: int, label: str = "front") -> Counts:
    """`count` mutants: two of ten at enrolment, five at the scientist's door, three of parcels."""
    front, counts, draw = Front(folder), Counts(), Draw(label)
    doors: tuple[Callable[[Front, Draw], Asked], ...] = (
        *[_Enrolments(front).one] * 2,
        *[_Scientists(front).one] * 5,
        *[_Parcels(front).one] * 3,
    )
    for number in range(count):
        mutant, request, past = doors[number % len(doors)](front, draw)
        counts.count(past)
        where = f"front, {'.'.join(mutant.path)}"
        try:
            answer = front.ask(request)
        except Exception as error:  # a crash of the front: what this looks for
            counts.crash(where, error)
            continue
        if answer.status_code >= 500 and answer.status_code != 507:
            counts.crashes.append(f"{where}: {answer.status_code}")
        elif answer.status_code == 200 and not mutant.touches(FREE) and _counts(front, mutant, request, answer):
            counts.accepted.append(f"{where}: {mutant.message!r}")
        counts.refusals[f"{answer.status_code} {answer.text[:80]}" if answer.status_code != 200 else "200"] += 1
    return counts


def _counts(front: Front, mutant: Mutant, request: httpx.Request, answer: httpx.Response) -> bool:
    """Whether a mutant that was answered was taken for good."""
    if isinstance(mutant.message, StatusRequest):
        return bool(mutant.message.run)
    if isinstance(mutant.message, ParcelRequest) and request.method == "GET":
        return hashlib.sha256(answer.content).digest() != mutant.message.digest
    if isinstance(mutant.message, ParcelRequest):
        kept = front.parcels.folder.glob("*/up/*")
        return any(p.suffix != ".part" and hashlib.sha256(p.read_bytes()).hexdigest() != p.name for p in kept)
    return True


# -- enrolment ----------------------------------------------------------------------------------------------------------


class _Enrolments:
    def __init__(self, front: Front) -> None:
        self.node = NodeState.open(front.folder / "newcomer")
        self.asked = enrol_request(self.node, front.state.register.invite("newcomer"))

    def one(self, front: Front, draw: Draw) -> Asked:
        mutant = mutate(self.asked, draw)
        while {"EnrolRequest.identity", "EnrolRequest.signature"} & set(mutant.path) and not draw.one_in(8):
            mutant = mutate(self.asked, draw)  # the frame, here: seldom
        if mutant.path != ("EnrolRequest.signature",):
            mutant = Mutant(signed_anew(mutant.message, self.node.identity), mutant.path)
        body = wire.encode(mutant.message)
        if draw.one_in(40):
            mutant, body = Mutant(self.asked, ("frame",)), flipped(body, draw)
        return mutant, httpx.Request("POST", "https://x/primum/enrol", content=body), self._past_frame(body)

    @staticmethod
    def _past_frame(body: bytes) -> bool:
        try:
            read = wire.decode(body, EnrolRequest, "x")
            verify(read.identity, PURPOSE, read.signed_part(), read.signature, "x")
        except PeerError:
            return False
        return True


# -- the scientist ------------------------------------------------------------------------------------------------------


class _Scientists:
    def __init__(self, front: Front) -> None:
        self.identity = front.state.scientist
        members = [node.identity.public for node in front.nodes]
        self.study = sign_study(make_study(members), self.identity)
        front.ask(self._request(SubmitRequest(self.study)))
        [run] = [path.name for path in front.state.runs.iterdir()]
        self.orders = (
            SubmitRequest(self.study),
            FollowRequest(run, 0, 0),
            FetchRequest(run),
            StatusRequest(run),
            StopRequest(run),
            ResumeRequest(run),
            MembersRequest(),
        )

    def _request(self, order: wire.Message, **changes: Any) -> httpx.Request:
        asked = ScientistRequest(**{"at": time.time(), "nonce": os.urandom(16), "body": wire.encode(order), **changes})
        return httpx.Request("POST", "https://x/primum/scientist", content=wire.encode(sign(self.identity, asked)))

    def one(self, front: Front, draw: Draw) -> Asked:
        order = draw.of(self.orders)
        if draw.one_in(6) or isinstance(order, MembersRequest):
            asked = ScientistRequest(time.time(), draw.bytes(16), wire.encode(order))
            mutant = mutate(asked, draw)
            while mutant.path == ("ScientistRequest.body",) and not draw.one_in(8):
                mutant = mutate(asked, draw)  # the frame: seldom
            body = wire.encode(sign(self.identity, mutant.message))
        else:
            mutant = mutate(order, draw)
            request = ScientistRequest(time.time(), draw.bytes(16), wire.encode(mutant.message))
            body = wire.encode(sign(self.identity, request))
        if draw.one_in(40):
            mutant, body = Mutant(order, ("frame",)), flipped(body, draw)
        return mutant, httpx.Request("POST", "https://x/primum/scientist", content=body), self._past_frame(body)

    def _past_frame(self, body: bytes) -> bool:
        try:
            request = open_signed(wire.decode(body, Signed, "x"), ScientistRequest, self.identity.public, "x")
            wire.decode_one_of(request.body, get_args(ScientistOrder), "x")
        except PeerError:
            return False
        return True


# -- parcels ------------------------------------------------------------------------------------------------------------


class _Parcels:
    def __init__(self, front: Front) -> None:
        self.identity = front.nodes[0].identity
        self.store, self.down, self.up = front.parcels, os.urandom(5000), os.urandom(4000)

    def one(self, front: Front, draw: Draw) -> Asked:
        order = self.store.offer(self.identity.public, self.down)
        action = draw.of(("get", "put", "state"))
        note = order if action == "get" else Note(hashlib.sha256(self.up).digest(), len(self.up))
        answers = b"" if action == "get" else order.digest
        asked = ParcelRequest(
            time.time(),
            draw.bytes(16),
            action,
            note.digest,
            note.size,
            0,
            note.size,
            answers,  # type: ignore[arg-type]
        )
        mutant = mutate(asked, draw)
        if mutant.path == ("ParcelRequest.action",):  # one of the three, or it is not read
            mutant = Mutant(msgspec.structs.replace(asked, action=draw.of(("get", "put", "state"))), mutant.path)
        signed = wire.encode(sign(self.identity, mutant.message))
        if draw.one_in(40):
            mutant, signed = Mutant(asked, ("frame",)), flipped(signed, draw)
        method = {"get": "GET", "put": "PUT", "state": "POST"}[action]
        content = self.up if action == "put" else b""
        request = httpx.Request(
            method, f"https://x{PATH}", headers={HEADER: base64.b64encode(signed).decode()}, content=content
        )
        return mutant, request, self._past_frame(signed)

    def _past_frame(self, signed: bytes) -> bool:
        try:
            open_signed(wire.decode(signed, Signed, "x"), ParcelRequest, self.identity.public, "x")
        except PeerError:
            return False
        return True
