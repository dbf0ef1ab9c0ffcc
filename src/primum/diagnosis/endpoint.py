"""Where data owners come in: HTTPS, TLS 1.3, one request in, one answer out, both JSON.

POST /v1/requests   a Request        200 an Answer; else a Problem, with Retry-After where asking again may help
GET  /v1/status                      role and deployment
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import Any, Final, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from primum.diagnosis.deployment import Deployment
from primum.diagnosis.files import from_json, to_json
from primum.diagnosis.messages import Answer, Problem, Request, request_limit
from primum.diagnosis.uploads import RETRY_SECONDS, Uploads, received
from primum.errors import InputError, MachineError, PeerError, PrimumError, Refused, Unavailable
from primum.keys.certificate import CertificateFiles, server_context
from primum.mpc.share import Role

_SILENT_SECONDS: Final = 10.0
_KEPT_SECONDS: Final = 30
"""A connection is kept so long after an answer; one that has not brought a request by then, and a little, is closed."""
_MOST_CONNECTIONS: Final = 256
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

    uploads = Uploads(request_limit(server.deployment.program, server.role))

    async def requests(request: HttpRequest) -> Response:
        try:
            with uploads.room(_length(request)) as most:
                body = await received(request.stream(), most)
                asked = from_json(body, Request, "the data owner", len(body))
                del body
                return Response(to_json(await server.submit(asked)), media_type="application/json")
        except ClientDisconnect:
            return Response(status_code=400)  # nobody reads it
        except PrimumError as error:
            return problem(error)
        except TimeoutError:
            return problem(Unavailable("It took too long.", "Ask again."))

    async def status(_: HttpRequest) -> Response:
        return JSONResponse({"role": server.role, "deployment": server.deployment.digest().hex()})

    return Starlette(routes=[Route("/v1/requests", requests, methods=["POST"]), Route("/v1/status", status)])


def _length(request: HttpRequest) -> int | None:
    """How long the body says it is; None where it comes in chunks."""
    said = request.headers.get("content-length", "")
    return int(said) if said.isascii() and said.isdigit() and len(said) < 20 else None


def problem(error: PrimumError) -> Response:
    """The error as an answer."""
    kind = next((kind for kind in _STATUS if isinstance(error, kind)), MachineError)
    name = kind.__name__
    data = to_json(Problem(name, error.message, error.hint))  # type: ignore[arg-type]  # one of the five
    later = {"retry-after": str(RETRY_SECONDS)} if kind is Unavailable else None
    return Response(data, _STATUS[kind], later, media_type="application/json")


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
        limit_concurrency=_MOST_CONNECTIONS,
        timeout_keep_alive=_KEPT_SECONDS,
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
    stopping, watching = asyncio.create_task(stop.wait()), asyncio.create_task(_show_out(https))
    await asyncio.wait({serving, stopping, watching}, return_when=asyncio.FIRST_COMPLETED)
    https.should_exit = True
    await serving
    stopping.cancel()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching


async def _show_out(https: _Server) -> None:
    """Close connections that bring no request: uvicorn waits for the first byte, and for a slow head, for ever."""
    loop = asyncio.get_running_loop()
    since: dict[Any, float] = {}
    while True:
        await asyncio.sleep(_SILENT_SECONDS / 10)
        now, open_ones = loop.time(), list(https.server_state.connections)
        idle = [one for one in open_ones if one.cycle is None or one.cycle.response_complete]
        since = {one: since.get(one, now) for one in idle}
        for one, begin in since.items():
            if now - begin > _SILENT_SECONDS + (0 if one.cycle is None else _KEPT_SECONDS):
                one.transport.close()
