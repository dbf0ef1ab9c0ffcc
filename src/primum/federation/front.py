"""The one port that hospitals and scientists reach: TLS 1.3, in front of SuperLink on 127.0.0.1.

Forwards the Fleet calls that a node needs, streaming, and nothing else of Flower: Control would let everyone execute a
bundle here. Answers enrolment, and the scientist's requests, which are signed by a key on the coordinator's list.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, Final

import httpx
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from primum import wire
from primum.errors import PeerError, PrimumError, Refused
from primum.federation.enrolment import EnrolRequest, Member, Register
from primum.federation.scientist import (
    FetchRequest,
    Followed,
    FollowRequest,
    MembersAnswer,
    MembersRequest,
    RunFiles,
    ScientistRequest,
    SubmitRequest,
    Submitted,
)
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
LARGEST_BODY: Final = 512 * 1024 * 1024
LARGEST_REQUEST: Final = 4 * 1024 * 1024
FRESH: Final = 120.0  # seconds that a scientist's request may be old
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


def make_front(desk: Desk, superlink_port: int, superlink_certificate: Any) -> Starlette:
    """The ASGI application."""
    fleet = httpx.AsyncClient(
        base_url=f"https://127.0.0.1:{superlink_port}",
        verify=superlink_certificate,
        timeout=60,
        limits=httpx.Limits(max_connections=256, max_keepalive_connections=64),
    )
    seen: dict[bytes, float] = {}

    async def forward(request: Request) -> Response:
        call = request.path_params["call"]
        if call not in FLEET_CALLS:
            return Response(status_code=404)
        headers = [(k, v) for k, v in request.headers.items() if k not in _HOP_BY_HOP]
        upstream = fleet.build_request("POST", f"/v1/fleet/{call}", headers=headers, content=_bounded(request))
        try:
            answer = await fleet.send(upstream, stream=True)
        except _TooLarge:
            return Response(status_code=413)
        except (httpx.HTTPError, ClientDisconnect):
            return Response(status_code=502)
        kept = {k: v for k, v in answer.headers.items() if k not in _HOP_BY_HOP}
        return StreamingResponse(answer.aiter_raw(), answer.status_code, kept, background=BackgroundTask(answer.aclose))

    async def enrol(request: Request) -> Response:
        return await _answer(request, lambda body: _enrol(desk, body))

    async def scientist(request: Request) -> Response:
        return await _answer(request, lambda body: _scientist(desk, body, seen))

    return Starlette(
        routes=[
            Route("/v1/fleet/{call}", forward, methods=["POST"]),
            Route("/primum/enrol", enrol, methods=["POST"]),
            Route("/primum/scientist", scientist, methods=["POST"]),
        ]
    )


class _TooLarge(Exception):
    pass


async def _bounded(request: Request, limit: int = LARGEST_BODY) -> AsyncIterator[bytes]:
    total = 0
    async for part in request.stream():
        total += len(part)
        if total > limit:
            raise _TooLarge
        yield part


async def _answer(request: Request, handle: Callable[[bytes], wire.Message]) -> Response:
    try:
        body = b"".join([part async for part in _bounded(request, LARGEST_REQUEST)])
        reply = await asyncio.to_thread(handle, body)
    except _TooLarge:
        return JSONResponse({"error": "The request is too large.", "hint": "It was not read."}, 413)
    except PrimumError as error:
        status = 403 if isinstance(error, Refused) else 400
        return JSONResponse({"error": error.message, "hint": error.hint}, status)
    return Response(wire.encode(reply), media_type="application/octet-stream")


def _enrol(desk: Desk, body: bytes) -> wire.Message:
    request = wire.decode(body, EnrolRequest, "the enrolling node", LARGEST_REQUEST)
    member = desk.register.enrol(request)
    desk.enrolled(member)
    return sign(desk.identity, Submitted(member.name))


def _scientist(desk: Desk, body: bytes, seen: dict[bytes, float]) -> wire.Message:
    envelope = wire.decode(body, Signed, "the scientist", LARGEST_REQUEST)
    if envelope.signer not in desk.scientists():
        raise Refused(
            "This key may not give orders here.",
            "The coordinator's operator adds it: `primum coordinator scientist KEY`.",
        )
    request = open_signed(envelope, ScientistRequest, envelope.signer, "the scientist")
    _check_fresh(request, seen)
    order = wire.decode_one_of(
        request.body, (SubmitRequest, FollowRequest, FetchRequest, MembersRequest), "the scientist", LARGEST_REQUEST
    )
    reply: wire.Message
    if isinstance(order, SubmitRequest):
        reply = Submitted(desk.submit(order))
    elif isinstance(order, FollowRequest):
        reply = desk.follow(order)
    elif isinstance(order, FetchRequest):
        reply = desk.fetch(order)
    else:
        reply = MembersAnswer(tuple((member.name, member.identity) for member in desk.register.members()))
    return sign(desk.identity, reply)


def _check_fresh(request: ScientistRequest, seen: dict[bytes, float]) -> None:
    now = time.time()
    for nonce in [nonce for nonce, at in seen.items() if now - at > 2 * FRESH]:
        del seen[nonce]
    if abs(now - request.at) > FRESH:
        raise PeerError("The request is too old, or the clocks differ by minutes.", "Set both clocks (NTP).")
    if request.nonce in seen:
        raise PeerError("The request was made before.", "A request is answered once.")
    seen[request.nonce] = now
