"""How this machine reaches a coordinator: address, pinned certificate, and what a hospital puts in between.

Nothing is taken from the environment: HTTPS_PROXY and its kin count only where a setting says `environment`.
"""

import ssl
import urllib.request
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

import httpx

from primum.errors import InputError
from primum.keys.certificate import client_context

ENVIRONMENT: Final = "environment"
PROXY_HINT: Final = "Does it want a user and password (http://USER:PASSWORD@HOST:PORT)? `primum doctor` says more."
_CONNECT: Final = 15.0
_SILENCE: Final = 30.0


@dataclass(frozen=True)
class Way:
    """`proxy`: URL of an HTTP proxy that lets CONNECT through, or `environment`. `authority`: PEM of the hospital's own
    certificate authority, whose intercepting proxy is then accepted beside the pinned certificate."""

    address: str
    certificate: str
    proxy: str | None = field(default=None, repr=False)  # may hold a password
    authority: str | None = None

    def context(self) -> ssl.SSLContext:
        """TLS 1.3 to the pinned certificate; TLS 1.2 or newer where an authority of the hospital is accepted."""
        context = client_context(self.certificate)
        if self.authority is not None:
            context.minimum_version = ssl.TLSVersion.TLSv1_2
            try:
                context.load_verify_locations(cadata=self.authority)
            except (ssl.SSLError, ValueError):
                raise InputError(
                    "The file of --ca is not in PEM form.", "Ask the hospital's IT for it again."
                ) from None
        return context

    def client(self, answer_within: float = _SILENCE) -> httpx.Client:
        """A client for this way. `answer_within`: seconds in which something must come back after a request is sent."""
        timeout = httpx.Timeout(_SILENCE, connect=_CONNECT, read=answer_within, pool=None)
        return httpx.Client(
            base_url=f"https://{self.address}",
            verify=self.context(),
            timeout=timeout,
            trust_env=False,
            proxy=self.proxy_url(),
        )

    def proxy_url(self) -> str | None:
        """The proxy that is used for this address, if one is. InputError if it is not the URL of an HTTP proxy."""
        url = _from_environment(self.address) if self.proxy == ENVIRONMENT else self.proxy
        return None if url is None else check_proxy(url)


def check_proxy(url: str) -> str:
    """`url` if it is that of an HTTP proxy, http://[USER:PASSWORD@]HOST:PORT; else InputError, without the password."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.path in ("", "/") and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise InputError("The proxy is not given as http://HOST:PORT.", "As --proxy http://proxy.hospital.example:3128")
    return url


def without_password(url: str) -> str:
    """`url`, to be shown: user and password left out."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


def host_and_port(address: str) -> tuple[str, int]:
    """Of HOST:PORT or [IPv6]:PORT. InputError if it is something else."""
    host, _, port = address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise InputError(f"{address[:100]!r} is not HOST:PORT.", "As coordinator.example.org:9443")
    return host.strip("[]"), int(port)


def _from_environment(address: str) -> str | None:
    host, port = host_and_port(address)
    if urllib.request.proxy_bypass(f"{host}:{port}"):
        return None
    found = urllib.request.getproxies()
    return found.get("https") or found.get("all")
