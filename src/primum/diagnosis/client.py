"""A data owner's or carrier's way to the two servers: HTTPS with pinned certificates; sees sealed boxes only."""

import asyncio
import contextlib
import ipaddress
import ssl
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, TypeVar

import httpx

from primum.diagnosis.channel import error_from
from primum.diagnosis.deployment import Deployment, PublicFile
from primum.diagnosis.files import from_json, read_message, to_json, write_message
from primum.diagnosis.messages import Answer, Problem, Request, answer_limit, request_limit
from primum.diagnosis.roles import parse_address
from primum.errors import InputError, PeerError, PrimumError, Unavailable
from primum.keys.certificate import client_context
from primum.mpc.share import ROLES, Role

Result = TypeVar("Result")
_CONNECT_SECONDS: Final = 5.0
_ANSWER_SECONDS: Final = 90.0
_SECONDS_AN_IMAGE: Final = 5.0
_SETTLE_SECONDS: Final = 0.2
"""What was begun is given this long before it is cancelled: a TLS handshake that is cancelled leaves a socket open."""
_ABORT_SECONDS: Final = 0.05
"""asyncio closes the sockets of connections that were cancelled only after some more turns of the loop."""
REQUEST_NAMES: Final[dict[Role, str]] = {"A": "request-a.json", "B": "request-b.json"}
ANSWER_NAMES: Final[dict[Role, str]] = {"A": "answer-a.json", "B": "answer-b.json"}


class Servers:
    """Connections to both servers, kept open; an asynchronous context manager."""

    def __init__(self, deployment: Deployment) -> None:
        self._addresses = {role: deployment.server(role).address for role in ROLES}
        self._clients = {role: _client(deployment, role) for role in ROLES}
        self._limit = answer_limit(deployment.program)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self._clients.values():
            await client.aclose()
        if error is not None:
            await asyncio.sleep(_ABORT_SECONDS)

    async def ask(self, requests: tuple[Request, Request]) -> tuple[tuple[Answer, Answer], int]:
        """Both answers, and how many bytes went and came; the first error of either server ends the other's wait."""
        async with _cancelling(*(self._post(request) for request in requests)) as tasks:
            (a, size_a), (b, size_b) = await asyncio.gather(*tasks)
        return (a, b), size_a + size_b

    async def _post(self, request: Request) -> tuple[Answer, int]:
        role, body = request.server, to_json(request)
        peer = f"server {role} at {self._addresses[role]}"
        headers = {"content-type": "application/json"}
        timeout = httpx.Timeout(_ANSWER_SECONDS + _SECONDS_AN_IMAGE * request.images, connect=_CONNECT_SECONDS)
        try:
            async with self._clients[role].stream(
                "POST", "/v1/requests", content=body, headers=headers, timeout=timeout
            ) as response:
                data = await _bounded(response, peer, self._limit)
        except httpx.HTTPError as error:
            raise _why(error, peer) from None
        if response.status_code == 503 and response.headers.get("content-type") != "application/json":
            raise Unavailable(f"{peer} has too many visitors.", "Ask again in a moment.")  # not said by Primum
        if response.status_code != 200:
            problem = from_json(data, Problem, peer, self._limit)
            raise error_from(problem.code, problem.message, problem.hint, peer)
        return from_json(data, Answer, peer, self._limit), len(body) + len(data)


def _client(deployment: Deployment, role: Role) -> httpx.AsyncClient:
    card = deployment.server(role)
    host, _ = parse_address(card.address)
    return httpx.AsyncClient(
        verify=client_context(card.certificate),
        base_url=f"https://{card.address}",
        timeout=httpx.Timeout(_ANSWER_SECONDS, connect=_CONNECT_SECONDS),
        trust_env=not _loopback(host),  # a hospital's proxy may carry TLS; it cannot read it
    )


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def _bounded(response: httpx.Response, peer: str, limit: int) -> bytes:
    data = bytearray()
    async for part in response.aiter_raw():
        data += part
        if len(data) > limit:
            raise PeerError(f"{peer} sent more than {limit:,} bytes.", "It was not read to its end.")
    return bytes(data)


def _why(error: BaseException, peer: str) -> PrimumError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return PeerError(
                f"{peer} does not show the certificate that the deployment file names.",
                "Somebody else answers there, or the file is old: ask the model owner.",
            )
        cause = cause.__cause__ or cause.__context__
    if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
        return Unavailable(f"{peer} does not answer.", "Is it running? Check the network and the address.")
    if isinstance(error, httpx.TimeoutException):
        return Unavailable(f"{peer} did not answer in time.", "Ask again later.")
    return Unavailable(f"{peer} broke the connection off.", "Make a new request; none is run twice.")


@contextlib.asynccontextmanager
async def _cancelling(*work: Coroutine[Any, Any, Result]) -> Any:
    """Tasks for `work`; whatever is not done at the end is cancelled."""
    tasks = [asyncio.ensure_future(part) for part in work]
    try:
        yield tasks
    finally:
        if not all(task.done() for task in tasks):
            await asyncio.wait(tasks, timeout=_SETTLE_SECONDS)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def run(work: Callable[[], Coroutine[Any, Any, Result]]) -> Result:
    """Run a coroutine to its end from ordinary code; also in a notebook, where a loop is running already."""
    with ThreadPoolExecutor(1, "primum-client") as thread:
        return thread.submit(lambda: asyncio.run(work())).result()


def carry(folder: Path, public: PublicFile) -> None:
    """Send the request files in `folder` to their servers and write the answers beside them.

    For whoever has a network: what is carried is sealed, and the key that opens the answers is not needed.
    """
    limit = request_limit(public.deployment.program) * 2
    a, b = (read_message(folder / REQUEST_NAMES[role], Request, limit) for role in ROLES)
    if a.digest() != b.digest() or (a.server, b.server) != ROLES:
        raise InputError(f"The two request files in {folder} do not belong together.", "Make new ones.")
    if a.deployment != public.deployment.digest():
        raise InputError(f"The requests in {folder} are for another deployment.", "Use its public file.")

    async def ask() -> tuple[Answer, Answer]:
        async with Servers(public.deployment) as servers:
            return (await servers.ask((a, b)))[0]

    for role, answer in zip(ROLES, run(ask), strict=True):
        write_message(folder / ANSWER_NAMES[role], answer)
