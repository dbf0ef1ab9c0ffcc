"""The network's checks: names, addresses, proxy, TLS and who stands in between, the front's answer, clock and version."""

import http.client
import os
import socket
import ssl
import time
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import unquote, urlsplit

import httpx

from primum import __version__
from primum.doctor.certificate import TIMEOUT, WRONG, Shown, judge
from primum.doctor.findings import FAILED, OK, WARNING, Finding
from primum.errors import MachineError, Refused, Unavailable
from primum.federation.freshness import FRESH
from primum.federation.front import HELLO
from primum.federation.way import Way, host_and_port, without_password

_CLOCK_WARNING: Final = 30.0
_AWAY: Final = Unavailable.exit_code
_NO_TLS: Final = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE", "PACKET_LENGTH_TOO_LONG")
_VARIABLES: Final = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy")
Addresses = list[tuple[socket.AddressFamily, tuple[object, ...]]]


def examine_network(way: Way, coordinator: bytes | None) -> Iterator[Finding]:
    """Step by step to the coordinator; ends where the way ends.

    `way.certificate` is empty where no join file says which certificate is the right one.
    """
    host, port = host_and_port(way.address)
    proxy = way.proxy_url()
    yield _variables(way, proxy)
    if proxy is None:
        addresses, named = _resolve(host, port)
        yield named
        if not addresses:
            return
        reached, lines = _dial_all(addresses)
        yield from lines
        if not reached:
            return
    else:
        answered = _proxy(proxy, host, port)
        yield answered
        if answered.state == FAILED:
            return
    shown, spoken = _handshake(host, port, proxy)
    yield spoken
    if shown is None:
        return
    judged = list(judge(way, coordinator, host, shown))
    yield from judged
    if not any(finding.state == FAILED for finding in judged):
        yield from _greet(way, shown)


# -- names and addresses ------------------------------------------------------------------------------------------------


def _variables(way: Way, proxy: str | None) -> Finding:
    there = sorted({name.upper() for name in _VARIABLES if os.environ.get(name)})
    if proxy is not None:
        return Finding("proxy settings", OK, f"{without_password(proxy)} is used")
    if there and way.proxy is None:
        names, verb = ", ".join(there), "is" if len(there) == 1 else "are"
        todo = "If this computer needs its proxy: `--proxy environment`, or `--proxy http://HOST:PORT`."
        return Finding("proxy settings", WARNING, f"{names} {verb} set, and not used", todo)
    return Finding("proxy settings", OK, "none: directly")


def _resolve(host: str, port: int) -> tuple[Addresses, Finding]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except OSError as error:
        todo = (
            "Is it spelled right? Ask IT whether this computer may resolve names outside, or for a --proxy that does."
        )
        return [], Finding("name", FAILED, f"{host} does not resolve: {error.strerror}", todo, _AWAY)
    addresses: Addresses = list(dict.fromkeys((family, place) for family, _, _, _, place in found))
    kinds = {socket.AF_INET: "IPv4", socket.AF_INET6: "IPv6"}
    words = ", ".join(f"{place[0]} ({kinds.get(family, family.name)})" for family, place in addresses)
    return addresses, Finding("name", OK, f"{host} is {words}")


def _dial_all(addresses: Addresses) -> tuple[bool, list[Finding]]:
    """TCP to each address. One that answers is enough: the others are warnings then."""
    results = [(place, _dial(family, place)) for family, place in addresses]
    reached = any(reason is None for _, reason in results)
    lines = []
    for place, reason in results:
        where = f"{place[0]} port {place[1]}"
        if reason is None:
            lines.append(Finding("connection", OK, f"{where} answers"))
        elif reached:
            lines.append(Finding("connection", WARNING, f"{where}: {reason}", "Another address answers: it is slower."))
        else:
            lines.append(Finding("connection", FAILED, f"{where}: {reason}", _closed(reason), _AWAY))
    return reached, lines


def _dial(family: socket.AddressFamily, place: tuple[object, ...]) -> str | None:
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.settimeout(TIMEOUT)
            probe.connect(place)
    except TimeoutError:
        return f"no answer in {TIMEOUT:g} s"
    except OSError as error:
        return (error.strerror or type(error).__name__).lower()
    return None


def _closed(reason: str) -> str:
    if "refused" in reason:
        return "Nothing listens there: is the coordinator running, and is the port right?"
    return "Something on the way drops it: IT must allow the line at the end, or name a proxy (--proxy)."


# -- the proxy ----------------------------------------------------------------------------------------------------------


def _proxy(proxy: str, host: str, port: int) -> Finding:
    where = without_password(proxy)
    try:
        _tunnel(proxy, host, port).close()
    except OSError as error:
        words = str(error)
        if "407" in words:
            todo = "Give user and password: --proxy http://USER:PASSWORD@HOST:PORT."
            return Finding("proxy", FAILED, f"{where} wants to know who you are (407)", todo, Refused.exit_code)
        if words.startswith("Tunnel"):
            todo = f"IT must allow CONNECT to {host} port {port} on the proxy."
            return Finding("proxy", FAILED, f"{where} refuses: {words}", todo, Refused.exit_code)
        return Finding("proxy", FAILED, f"{where}: {words}", "Is its name and port right? Ask IT.", _AWAY)
    return Finding("proxy", OK, f"{where} lets through to {host} port {port}")


def _tunnel(proxy: str, host: str, port: int) -> socket.socket:
    """A connection to the host through the proxy's CONNECT; OSError with the proxy's words where it refuses."""
    parts = urlsplit(proxy)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT)
    headers = {}
    if parts.username is not None:
        word = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = f"Basic {b64encode(word).decode()}"
    connection.set_tunnel(host, port, headers)
    try:
        connection.connect()
    except http.client.HTTPException as error:
        raise OSError(f"Tunnel: it does not speak HTTP ({type(error).__name__})") from None
    return connection.sock


# -- TLS ----------------------------------------------------------------------------------------------------------------


def _handshake(host: str, port: int, proxy: str | None) -> tuple[Shown | None, Finding]:
    """TLS without judging the certificate, to see what is there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        line = _tunnel(proxy, host, port) if proxy else socket.create_connection((host, port), timeout=TIMEOUT)
        line.settimeout(TIMEOUT)
        with line, context.wrap_socket(line, server_hostname=host) as secured:
            shown = Shown(str(secured.version()), secured.getpeercert(binary_form=True) or b"")
    except ssl.SSLError as error:
        reason = str(error.reason or error)
        if any(word in reason.upper() for word in _NO_TLS):
            seen = f"no TLS is spoken there ({reason}): the port answers, but in plain text"
            return None, Finding(
                "TLS", FAILED, seen, "Is it the coordinator's port, or that of another service?", WRONG
            )
        return None, Finding("TLS", FAILED, f"the handshake failed: {reason}", "Something in between? Ask IT.", WRONG)
    except OSError as error:
        seen = f"the connection is closed in the handshake: {error.strerror or error}"
        return None, Finding("TLS", FAILED, seen, "A firewall that looks at TLS? IT must allow the line below.", _AWAY)
    return shown, Finding("TLS", OK, shown.version.replace("TLSv", "TLS "))


# -- the front ----------------------------------------------------------------------------------------------------------


def _greet(way: Way, shown: Shown) -> Iterator[Finding]:
    """What the front says: that it is one, its version, its clock."""
    try:
        with _taking(way, shown) as client:
            answer = client.get(HELLO)
        said = answer.json() if answer.status_code == 200 else None
        version = str(said["version"])[:40] if isinstance(said, dict) else None
    except httpx.HTTPError as error:
        yield Finding("answer", FAILED, f"none: {type(error).__name__}", "Is the coordinator running?", _AWAY)
        return
    except (ValueError, KeyError):
        version = None
    if version is None:
        seen = f"{answer.status_code}, which is not what Primum's front says"
        yield Finding("answer", FAILED, seen, "A page of a proxy, or another service: is the port right?", WRONG)
        return
    yield Finding("answer", OK, "Primum's front")
    yield _versions(version)
    yield _clock(answer.headers.get("date", ""))


def _taking(way: Way, shown: Shown) -> httpx.Client:
    """A client that takes what is shown, judged already."""
    context = replace(way, certificate=f"{shown.pem}\n{way.certificate}").context()
    context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    context.check_hostname = False
    address = f"https://{way.address}"
    return httpx.Client(base_url=address, verify=context, timeout=TIMEOUT, trust_env=False, proxy=way.proxy_url())


def _versions(there: str) -> Finding:
    if there == __version__:
        return Finding("version", OK, f"{there} on both sides")
    todo = f"Install the same release here: pip install primum=={there}."
    return Finding("version", FAILED, f"{__version__} here, {there} at the coordinator", todo, Refused.exit_code)


def _clock(date: str) -> Finding:
    try:
        ahead = time.time() - parsedate_to_datetime(date).timestamp()
    except (TypeError, ValueError):
        return Finding("clock", WARNING, "the coordinator's answer has no date", "Compare the clocks by telephone.")
    words = f"{abs(ahead):.0f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
    if abs(ahead) < _CLOCK_WARNING:
        return Finding("clock", OK, f"{words}")
    state, code = (FAILED, MachineError.exit_code) if abs(ahead) > FRESH else (WARNING, 0)
    now = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    todo = f"It is {now} here. Set both clocks by NTP: requests older than {FRESH:g} s are refused."
    return Finding("clock", state, words, todo, code)  # type: ignore[arg-type]
