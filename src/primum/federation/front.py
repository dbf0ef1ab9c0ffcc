"""The one port that hospitals and scientists reach: TLS 1.3, in front of SuperLink on 127.0.0.1.

Forwards the Fleet calls that a node needs, streaming, and nothing else of Flower: Control would let everyone execute a
bundle here. Answers enrolment, and the scientist's requests, which are signed by a key on the coordinator's list.
"""

import asyncio
import binascii
import time
from base64 import b64decode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any, Final, get_args

import httpx
from flwr.proto.fleet_pb2 import PullMessagesResponse
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from primum import __version__, wire
from primum.errors import PrimumError, Refused
from primum.federation.attendance import Attendance
from primum.federation.control import Control
from primum.federation.enrolment import EnrolRequest, Member, Register
from primum.federation.freshness import Fresh
from primum.federation.parcel_desk import ParcelDesk
from primum.federation.parcels import PATH as PARCEL_PATH
from primum.federation.parcels import ParcelStore
from primum.federation.pins import PATH as CERTIFICATE_PATH
from primum.federation.pins import Shown
from primum.federation.scientist import (
    FetchRequest,
    Followed,
    FollowRequest,
    MembersAnswer,
    MembersRequest,
    ResumeRequest,
    RunFiles,
    ScientistRequest,
    StatusRequest,
    StopRequest,
    SubmitRequest,
    Submitted,
)
from primum.federation.waiting_room import HOLD, WaitingRoom
from primum.keys.identity import Identity
from primum.secagg.messages import Signed, open_signed, sign

FLEET_CALLS: Final = frozenset(
    {
        "activate-node",
        "deactivate-node",
        "send-node-heartbeat",
        "pull-messages",
        "push-messages",
        "push-object",
        "pull-object",
        "confirm-message-received",
    }
)
PULL: Final = "pull-messages"
PUSH: Final = frozenset({"push-messages", "push-object"})
HELLO: Final = "/primum/hello"
LARGEST_BODY: Final = 512 * 1024 * 1024
LARGEST_REQUEST: Final = 4 * 1024 * 1024
LARGEST_MODEL: Final = 64 * 1024 * 1024  # a finished model that is handed in to be looked at
ScientistOrder = (
    SubmitRequest | FollowRequest | FetchRequest | StatusRequest | StopRequest | ResumeRequest | MembersRequest
)
Headers = list[tuple[str, str]]
_HOP_BY_HOP: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "host", "upgrade", "te", "content-length"}
)


@dataclass(frozen=True)
class Desk:
    """What the front needs of the coordinator."""

    identity: Identity
    register: Register
    scientists: Callable[[], frozenset[bytes]]
    enrolled: Callable[[Member], None]
    submit: Callable[[SubmitRequest], str]
    follow: Callable[[FollowRequest], Followed]
    fetch: Callable[[FetchRequest], RunFiles]
    control: Control
    certificates: Callable[[], Shown]
    attendance: Attendance
    parcels: ParcelStore
    room: WaitingRoom = field(default_factory=WaitingRoom)


def make_front(desk: Desk, superlink_port: int, superlink_certificate: Any) -> Starlette:
    """The ASGI application."""
    fleet = httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{superlink_port}",
        verify=superlink_certificate,
        timeout=60,
        limits=httpx.Limits(max_connections=256, max_keepalive_connections=64),
    )
    fresh = Fresh()
    parcels = ParcelDesk(desk.parcels, lambda: frozenset(desk.register.transports()))

    async def forward(request: Request) -> Response:
        call = request.path_params["call"]
        if call not in FLEET_CALLS:
            return Response(status_code=404)
        transport = _transport(request)
        if transport is not None and not desk.register.admits(transport):
            return _words(desk.register.refusal(transport))
        headers = [(k, v) for k, v in request.headers.items() if k not in _HOP_BY_HOP]
        try:
            answer = await (pull(request, headers) if call == PULL else send(call, headers, _bounded(request)))
        except _TooLarge:
            return Response(status_code=413)
        except (httpx.HTTPError, ClientDisconnect):
            return Response(status_code=502)
        if transport is not None and answer.is_success:  # SuperLink has checked the signature of this key
            desk.attendance.note(transport, call)
        if call in PUSH:
            desk.room.replied()
        kept = {k: v for k, v in answer.headers.items() if k not in _HOP_BY_HOP | {"content-encoding"}}
        close = BackgroundTask(answer.aclose)
        return StreamingResponse(answer.aiter_bytes(), answer.status_code, kept, background=close)

    async def send(call: str, headers: Headers, content: AsyncIterator[bytes] | bytes) -> httpx.Response:
        upstream = fleet.build_request("POST", f"/v1/fleet/{call}", headers=headers, content=content)
        return await fleet.send(upstream, stream=True)

    async def pull(request: Request, headers: Headers) -> httpx.Response:
        """The node's orders, read whole; where there are none, as soon as there are, or after some seconds."""
        body, until = await _whole(request), time.monotonic() + HOLD
        while True:
            call = desk.room.next_call()
            answer = await send(PULL, headers, body)
            empty = not _holds_messages(await answer.aread()) and answer.is_success
            if not (empty and await desk.room.wait(call, until - time.monotonic())):
                return answer
            if await request.is_disconnected():  # Flower hands an order out once: not to whom is gone
                raise ClientDisconnect

    async def enrol(request: Request) -> Response:
        return await _answer(request, lambda body: _enrol(desk, body))

    async def scientist(request: Request) -> Response:
        return await _answer(request, lambda body: _scientist(desk, body, fresh), LARGEST_MODEL)

    async def certificate(_: Request) -> Response:
        signed = sign(desk.identity, desk.certificates())
        return Response(wire.encode(signed), media_type="application/octet-stream")

    async def hello(_: Request) -> Response:
        return JSONResponse({"version": __version__, "time": round(time.time(), 3)})

    return Starlette(
        routes=[
            Route(HELLO, hello, methods=["GET"]),
            Route(CERTIFICATE_PATH, certificate, methods=["GET"]),
            Route("/v1/fleet/{call}", forward, methods=["POST"]),
            Route("/primum/enrol", enrol, methods=["POST"]),
            Route("/primum/scientist", scientist, methods=["POST"]),
            Route(PARCEL_PATH, parcels.answer, methods=["GET", "PUT", "POST"]),
        ]
    )


def _holds_messages(body: bytes) -> bool:
    try:
        return bool(PullMessagesResponse.FromString(body).messages_list)
    except DecodeError:  # whatever it is, its node is not made to wait for more
        return True


class _TooLarge(Exception):
    pass


async def _bounded(request: Request, limit: int = LARGEST_BODY) -> AsyncIterator[bytes]:
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > limit:
            raise _TooLarge
        yield part


async def _whole(request: Request, limit: int = LARGEST_REQUEST) -> bytes:
    return b"".join([part async for part in _bounded(request, limit)])


async def _answer(request: Request, handle: Callable[[bytes], wire.Message], limit: int = LARGEST_REQUEST) -> Response:
    try:
        body = await _whole(request, limit)
        reply = await asyncio.to_thread(handle, body)
    except _TooLarge:
        return JSONResponse({"error": "The request is too large.", "hint": "It was not read."}, 413)
    except PrimumError as error:
        return _words(error)
    return Response(wire.encode(reply), media_type="application/octet-stream")


def _words(error: PrimumError) -> Response:
    return JSONResponse({"error": error.message, "hint": error.hint}, 403 if isinstance(error, Refused) else 400)


def _transport(request: Request) -> bytes | None:
    """The transport key (PEM) that a Fleet call names; whether it is the caller's own is checked by SuperLink."""
    try:
        return b64decode(request.headers[FLEET_HTTP_PUBLIC_KEY_HEADER], validate=True)
    except (KeyError, binascii.Error):
        return None


def _enrol(desk: Desk, body: bytes) -> wire.Message:
    request = wire.decode(body, EnrolRequest, "the enrolling node", LARGEST_REQUEST)
    member = desk.register.enrol(request)
    desk.enrolled(member)
    return sign(desk.identity, Submitted(member.name))


def _scientist(desk: Desk, body: bytes, fresh: Fresh) -> wire.Message:
    envelope = wire.decode(body, Signed, "the scientist", LARGEST_MODEL)
    if envelope.signer not in desk.scientists():
        raise Refused(
            "This key may not give orders here.",
            "The coordinator's operator adds it: `primum coordinator scientist KEY`.",
        )
    request = open_signed(envelope, ScientistRequest, envelope.signer, "the scientist")
    fresh.check(request.at, request.nonce)
    order: ScientistOrder = wire.decode_one_of(request.body, get_args(ScientistOrder), "the scientist", LARGEST_MODEL)
    return sign(desk.identity, _carry_out(desk, order))


def _carry_out(desk: Desk, order: ScientistOrder) -> wire.Message:
    match order:
        case SubmitRequest():
            return Submitted(desk.submit(order))
        case FollowRequest():
            return desk.follow(order)
        case FetchRequest():
            return desk.fetch(order)
        case StatusRequest():
            return desk.control.status(order)
        case StopRequest(run=run):
            return Submitted(desk.control.stop(run))
        case ResumeRequest(run=run):
            return Submitted(desk.control.resume(run))
        case MembersRequest():
            return MembersAnswer(tuple((member.name, member.identity) for member in desk.register.members()))
