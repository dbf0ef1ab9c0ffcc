"""Whose certificate the other side shows: the coordinator's, a successor that it has signed, or somebody's in between."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import httpx
from cryptography import x509
from cryptography.x509.oid import NameOID

from primum.doctor.findings import FAILED, OK, WARNING, Finding
from primum.errors import PeerError, PrimumError
from primum.federation.pins import learn
from primum.federation.way import Way
from primum.keys.certificate import WARN_DAYS, days_left

TIMEOUT: Final = 5.0
WRONG: Final = PeerError.exit_code
_ROOT: Final = "/"


@dataclass(frozen=True)
class Shown:
    """What the other side's TLS shows: its version, its certificate."""

    version: str
    der: bytes

    @property
    def certificate(self) -> x509.Certificate:
        """Parsed."""
        return x509.load_der_x509_certificate(self.der)

    @property
    def pem(self) -> str:
        """As text."""
        return ssl.DER_cert_to_PEM_cert(self.der)


def judge(way: Way, coordinator: bytes | None, host: str, shown: Shown) -> Iterator[Finding]:
    """The certificate: whose, issued by whom, for which names, until when."""
    issuer, days = _issuer(shown.certificate), days_left(shown.pem)
    if not way.certificate:
        yield Finding("certificate", WARNING, f"issued by {issuer}", "Give --join: only it says which one is right.")
    elif _trusted(replace(way, authority=None), host, shown) is None:
        yield Finding("certificate", OK, "the one of the join file")
        if shown.version != "TLSv1.3":
            yield Finding("TLS version", FAILED, shown.version, "TLS 1.3 is needed: what stands in between?", WRONG)
    elif way.authority is not None and _trusted(way, host, shown) is None:
        todo = "It reads studies and models, not updates: see docs/how-to/behind-a-proxy.md."
        yield Finding("certificate", WARNING, f"an intercepting proxy that --ca allows, issued by {issuer}", todo)
    else:
        yield _foreign(way, coordinator, host, shown, issuer)
        return
    if days < WARN_DAYS:
        when = f"ends in {days} days" if days >= 0 else "has ended"
        state, code = (WARNING, 0) if days >= 0 else (FAILED, WRONG)
        yield Finding("certificate's end", state, f"it {when}", "The coordinator's operator renews it.", code)  # type: ignore[arg-type]


def _foreign(way: Way, coordinator: bytes | None, host: str, shown: Shown, issuer: str) -> Finding:
    names = _names(shown.certificate)
    if shown.pem.strip() in way.certificate or _same(way.certificate, shown):
        todo = f"Use one of these names, or ask for a join file with the address {host} (`invite --address`)."
        return Finding("certificate", FAILED, f"it is for {', '.join(names)}, not for {host}", todo, WRONG)
    if coordinator is not None and _signed_since(way, coordinator):
        return Finding("certificate", OK, "another one than in the join file: the coordinator has signed it since")
    if shown.certificate.issuer == shown.certificate.subject:
        todo = (
            "The coordinator was set up anew, or somebody stands in between: compare by telephone, ask for a new file."
        )
        return Finding("certificate", FAILED, f"another one than in the join file, of {issuer} itself", todo, WRONG)
    seen = f"another one than in the join file, issued by {issuer}: a proxy opens the connection"
    todo = f"Ask IT not to intercept {way.address}; or allow it: --ca FILE with their authority's certificate."
    return Finding("certificate", FAILED, seen, todo, WRONG)


def _trusted(way: Way, host: str, shown: Shown) -> str | None:
    """None if that way's TLS would take what is shown, else why not. Without a connection: judged by its bytes."""
    if way.authority is None:
        if not _same(way.certificate, shown):
            return "another certificate"
        return None if host in _names(shown.certificate) else "another name"
    try:
        with way.client(TIMEOUT) as client:
            client.get(_ROOT, timeout=TIMEOUT)
    except httpx.ConnectError as error:
        return str(error)
    except httpx.HTTPError:
        return None
    return None


def _same(pinned: str, shown: Shown) -> bool:
    try:
        certificates = x509.load_pem_x509_certificates(pinned.encode())
    except ValueError:
        return False
    return shown.certificate in certificates


def _signed_since(way: Way, coordinator: bytes) -> bool:
    try:
        learn(way, coordinator)
    except PrimumError:
        return False
    return True


def _issuer(certificate: x509.Certificate) -> str:
    for kind in (NameOID.ORGANIZATION_NAME, NameOID.COMMON_NAME):
        found = certificate.issuer.get_attributes_for_oid(kind)
        if found:
            return f"{str(found[0].value)[:80]!r}"
    return "nobody that is named"


def _names(certificate: x509.Certificate) -> list[str]:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    return [str(name.value) for name in names]
