"""Where data owners come in: HTTPS, TLS 1.3, one request in, one answer out, both JSON.

POST /v1/requests   a Request        200 an Answer; else a Problem
GET  /v1/status                      role and deployment
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Final, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from primum.diagnosis.deployment import Deployment
from primum.diagnosis.files import from_json, to_json
from primum.diagnosis.messages import Answer, Problem, Request, request_limit
from primum.errors import InputError, MachineError, PeerError, PrimumError, Refused, Unavailable
from primum.keys.certificate import CertificateFiles, server_context
from primum.mpc.share import Role

_UPLOAD_SECONDS: Final = 60.0
_STATUS: Final[dict[type[PrimumError], int]] = {
    InputError: 400,
    PeerError: 400,
    Refused: 409,
    MachineError: 500,
    Unavailable: 503,
}


class Submitting(Protocol):
    """What the endpoint needs of a server."""

    @property
    def role(self) -> Role: ...

    @property
    def deployment(self) -> Deployment: ...

    async def submit(self, request: Request) -> Answer: ...


def application(server: Submitting) -> Starlette:
    """The web application of one server."""

    async def requests(request: HttpRequest) -> Response:
        try:
            body = await _body(request, request_limit(server.deployment.program, server.role))
            asked = from_json(body, Request, "the data owner", len(body))
            return Response(to_json(await server.submit(asked)), media_type="application/json")
        except PrimumError as error:
            return problem(error)
        except TimeoutError:
            return problem(Unavailable("It took too long.", "Ask again."))

    async def status(_: HttpRequest) -> Response:
        return JSONResponse({"role": server.role, "deployment": server.deployment.digest().hex()})

    return Starlette(routes=[Route("/v1/requests", requests, methods=["POST"]), Route("/v1/status", status)])


async def _body(request: HttpRequest, limit: int) -> bytes:
    """The body, refused as soon as it is longer than `limit`."""
    parts: list[bytes] = []
    size = 0
    async with asyncio.timeout(_UPLOAD_SECONDS):
        async for part in request.stream():
            size += len(part)
            if size > limit:
                raise PeerError(f"The request is longer than {limit:,} bytes.", "It was not read to its end.")
            parts.append(part)
    return b"".join(parts)


def problem(error: PrimumError) -> Response:
    """The error as an answer."""
    kind = next((kind for kind in _STATUS if isinstance(error, kind)), MachineError)
    name = kind.__name__
    data = to_json(Problem(name, error.message, error.hint))  # type: ignore[arg-type]  # one of the five
    return Response(data, _STATUS[kind], media_type="application/json")


class _Server(uvicorn.Server):  # type: ignore[misc]  # uvicorn is untyped here
    """uvicorn without its own signal handlers; `stop` is an event."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve_https(
    server: Submitting, tls: CertificateFiles, listener: socket.socket, ready: Callable[[], None], stop: asyncio.Event
) -> None:
    """Serve on `listener` until `stop`; calls `ready` once requests are taken."""
    config = uvicorn.Config(
        application(server),
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=64,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=1,
    )
    config.load()
    config.ssl = server_context(tls)
    https = _Server(config)
    serving = asyncio.create_task(https.serve(sockets=[listener]))
    while not https.started and not serving.done():
        await asyncio.sleep(0.01)
    if https.started:
        ready()
    stopping = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
    https.should_exit = True
    await serving
    stopping.cancel()
