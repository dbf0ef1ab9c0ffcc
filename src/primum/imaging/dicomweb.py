"""Pulling from a PACS by DICOMweb: QIDO-RS finds studies, series and instances; WADO-RS brings each instance.

Source: DICOM PS3.18 2024b, sections 8.3, 10.4 and 10.6. Instances are asked for one by one, so that a pull that was
stopped goes on where it stood: what lies in the folder is not asked for again. Each goes through the inbox: nothing
that names a patient touches the disk. Credentials come from a file, go to the named server alone (no redirect is
followed, no proxy used), and to other machines over TLS only.
"""

import re
import ssl
from base64 import b64encode
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import httpx
import msgspec

from primum.errors import DataError, InputError, MachineError, PeerError, Refused, Unavailable
from primum.imaging.inbox import Inbox
from primum.imaging.multipart import parts
from primum.imaging.reader import LARGEST_FILE

Progress = Callable[[int, int], None]

PAGE: Final = 200
"""Results asked for at once; a server may give fewer."""
MOST_RESULTS: Final = 1_000_000
LARGEST_ANSWER: Final = 64 << 20
"""Bytes of one page of a search."""
PATIENCE: Final = 30.0

_STUDY, _SERIES, _INSTANCE, _KIND = "0020000D", "0020000E", "00080018", "00080016"
_UID: Final = re.compile(r"[0-9.]{1,64}")
_PDF_AND_TEXT: Final = ("1.2.840.10008.5.1.4.1.1.104.", "1.2.840.10008.5.1.4.1.1.88.", "1.2.840.10008.5.1.4.1.1.11.")
_DATE: Final = re.compile(r"(\d{8})?-?(\d{8})?")
_DICOM: Final = 'multipart/related; type="application/dicom"'
_AS_STORED: Final = f"{_DICOM}; transfer-syntax=*"
"""The first is answered in explicit VR little endian (PS3.18 section 8.7.3.5.2), the second in what the server has."""


@dataclass(frozen=True)
class Server:
    """A DICOMweb server: its base URL, and files with what is needed to be let in.

    `credentials`: one line, `Bearer TOKEN` or `NAME:PASSWORD`, in a file that only its owner may read. `authority`: PEM
    file of who signs the server's certificate, where the system does not know it. InputError where one cannot be used.
    """

    url: str
    credentials: Path | None = None
    authority: Path | None = None

    def __post_init__(self) -> None:
        found = urlsplit(self.url)
        if found.scheme not in ("http", "https") or not found.hostname or found.query or found.fragment:
            raise InputError(
                "the address is no URL of a DICOMweb server.", "It looks like https://pacs:8443/dicom-web."
            )
        if found.username or found.password:
            raise InputError("a password in a URL is seen by all.", "Put it into a file (--credentials).")
        if self.credentials is not None and found.scheme == "http" and not _loopback(found.hostname):
            raise InputError("credentials would cross the network in the clear.", "Use https.")

    def client(self) -> httpx.Client:
        """A client that is let in; InputError where a file cannot be used."""
        headers = {"Authorization": self._header()} if self.credentials else {}
        return httpx.Client(
            base_url=self.url.rstrip("/") + "/",
            headers=headers,
            verify=self._context() if self.url.startswith("https:") else False,  # to http it means nothing
            timeout=PATIENCE,
            follow_redirects=False,
            trust_env=False,
        )

    def _context(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self.authority)
        except OSError as error:
            raise InputError(f"{self.authority} holds no certificate.", "Give a PEM file (--authority).") from error

    def _header(self) -> str:
        path = self.credentials
        if path is None:
            return ""
        try:
            if path.stat().st_mode & 0o077:
                raise InputError(f"{path} can be read by others.", f"chmod 600 {path}")
            line = path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path} cannot be read.", "One line: Bearer TOKEN, or NAME:PASSWORD.") from error
        if re.fullmatch(r"Bearer [\x21-\x7e]+", line):
            return line
        name, colon, password = line.partition(":")
        if not colon or not name or "\n" in line:
            raise InputError(f"{path} holds no credentials.", "One line: Bearer TOKEN, or NAME:PASSWORD.")
        return "Basic " + b64encode(f"{name}:{password}".encode()).decode()


@dataclass(frozen=True)
class Wanted:
    """Which instances: of a modality (CR, CT, ...), of studies of a date (20240131) or dates (20240101-20241231); at
    most `most`. InputError where one is not written so."""

    modality: str | None = None
    study_date: str | None = None
    most: int | None = None

    def __post_init__(self) -> None:
        if self.modality is not None and not re.fullmatch(r"[A-Z0-9_ ]{1,16}", self.modality):
            raise InputError("a modality is written as CR, CT or MR.", "Capital letters and digits.")
        if self.study_date is not None and (not _DATE.fullmatch(self.study_date) or len(self.study_date) < 8):
            raise InputError("a study date is written as 20240131 or 20240101-20241231.", "Or open: 20240101-.")

    def of_studies(self) -> dict[str, str]:
        """Search terms for studies."""
        terms = {"ModalitiesInStudy": self.modality, "StudyDate": self.study_date}
        return {name: value for name, value in terms.items() if value}

    def of_series(self) -> dict[str, str]:
        """Search terms for the series of a study."""
        return {"Modality": self.modality} if self.modality else {}


@dataclass
class Pulled:
    """What became of a pull: `found` instances; `there` before; `fetched`; `gone` were not given -> why, how many."""

    found: int = 0
    there: int = 0
    fetched: int = 0
    gone: Counter[str] = field(default_factory=Counter)


def pull(server: Server, wanted: Wanted, inbox: Inbox, progress: Progress | None = None) -> Pulled:
    """Fetch what is wanted and not yet there; `progress(done, found)` is called after each instance.

    What the inbox sets aside is counted there. Raises Unavailable where the server does not answer (what is there
    stays, a second pull goes on), Refused where it lets nobody in, PeerError where it is no DICOMweb, MachineError
    where the folder cannot be written.
    """
    pulled = Pulled()
    with server.client() as client, _named(server):
        targets = list(_instances(client, wanted))
        pulled.found = len(targets)
        for done, (study, series, instance) in enumerate(targets, 1):
            if inbox.has(instance):
                pulled.there += 1
                inbox.there += 1
            else:
                _fetch(client, f"studies/{study}/series/{series}/instances/{instance}", inbox, pulled)
            if progress is not None:
                progress(done, len(targets))
    return pulled


def _instances(client: httpx.Client, wanted: Wanted) -> Iterator[tuple[str, str, str]]:
    """UIDs (study, series, instance) of all that is wanted and may be a picture."""
    count = 0
    for study in _search(client, "studies", wanted.of_studies(), _STUDY):
        for series in _search(client, f"studies/{study[_STUDY]}/series", wanted.of_series(), _SERIES):
            path = f"studies/{study[_STUDY]}/series/{series[_SERIES]}/instances"
            for instance in _search(client, path, {}, _INSTANCE):
                if instance.get(_KIND, "").startswith(_PDF_AND_TEXT):
                    continue
                if wanted.most is not None and count >= wanted.most:
                    return
                count += 1
                yield study[_STUDY], series[_SERIES], instance[_INSTANCE]


def _search(client: httpx.Client, path: str, terms: dict[str, str], key: str) -> Iterator[dict[str, str]]:
    """Results of QIDO-RS as {tag: UID}, page after page until one brings nothing new."""
    seen: set[str] = set()
    while len(seen) < MOST_RESULTS:
        content_type, body = _get(
            client,
            path,
            "application/dicom+json",
            {**terms, "limit": str(PAGE), "offset": str(len(seen))},
            LARGEST_ANSWER,
        )
        new = [result for result in _results(content_type, body, key) if result[key] not in seen]
        seen.update(result[key] for result in new)
        yield from new
        if not new:
            return


def _results(content_type: str, body: bytes, key: str) -> list[dict[str, str]]:
    """The DICOM JSON of a search (PS3.18 Annex F); PeerError where it is something else."""
    if not body:
        return []
    try:
        found = msgspec.json.decode(body, type=list[dict[str, Any]])
        results = [{tag: _first(result.get(tag)) for tag in (key, _KIND)} for result in found]
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _no_dicomweb("answers a search with something else than DICOM JSON") from error
    if any(not _UID.fullmatch(result[key]) for result in results):
        raise _no_dicomweb("answers a search with results that have no UID")
    return results


def _first(element: Any) -> str:
    values = element.get("Value") if isinstance(element, dict) else None
    return values[0] if isinstance(values, list) and values and isinstance(values[0], str) else ""


def _fetch(client: httpx.Client, path: str, inbox: Inbox, pulled: Pulled) -> None:
    try:
        content_type, body = _instance(client, path)
    except _Gone as error:
        pulled.gone[error.message] += 1
        return
    for kind, data in parts(content_type, body):
        if kind != "application/dicom":
            raise _no_dicomweb("answers with something else than DICOM files")
        with suppress(DataError):  # the inbox has counted it
            inbox.take(data)
    pulled.fetched += 1


def _instance(client: httpx.Client, path: str) -> tuple[str, bytes]:
    try:
        return _get(client, path, _AS_STORED, {}, LARGEST_FILE)
    except _NotSo:
        return _get(client, path, _DICOM, {}, LARGEST_FILE)


class _Gone(PeerError):
    """One instance that the server does not give, while it gives others."""


class _NotSo(_Gone):
    """The same, where it may give it in another form."""


def _get(client: httpx.Client, path: str, accept: str, terms: dict[str, str], most: int) -> tuple[str, bytes]:
    """Content type and body of an answer of 200; nothing for 204."""
    with client.stream("GET", path, params=terms, headers={"Accept": accept}) as answer:
        _check(answer.status_code, path)
        body = bytearray()
        for chunk in answer.iter_bytes():
            body += chunk
            if len(body) > most:
                raise PeerError(f"the server's answer is larger than {most >> 20} MiB.", "It was not read further.")
        return str(answer.headers.get("content-type", "")), bytes(body)


def _check(status: int, path: str) -> None:
    if status in (200, 204):
        return
    if status in (401, 403, 407):
        said = "does not allow this" if status == 403 else "takes nobody without credentials, or not with these"
        raise Refused(
            f"the server {said} ({status}).", "Give right ones in a file (--credentials), or ask who runs it."
        )
    if "/instances/" in path and status in (400, 404, 406, 410, 415, 500):
        raise (_NotSo if status in (400, 406, 415) else _Gone)(f"the server does not give it ({status})")
    if status in (404, 405, 501):
        raise _no_dicomweb(f"knows no DICOMweb at this address ({status})")
    if 300 <= status < 400:
        raise _no_dicomweb(f"sends us elsewhere ({status}), which is not followed")
    if status >= 500 or status == 429:
        raise Unavailable(f"the server cannot answer now ({status}).", "What is there stays: run it again later.")
    raise _no_dicomweb(f"answers {status}")


def _no_dicomweb(what: str) -> PeerError:
    return PeerError(f"the server {what}.", "Check the address: it ends where /studies would follow (…/dicom-web).")


@contextmanager
def _named(server: Server) -> Iterator[None]:
    """Errors of the connection, by name."""
    host = urlsplit(server.url).netloc
    try:
        yield
    except httpx.ConnectError as error:
        if "CERTIFICATE" in str(error).upper():
            raise PeerError(f"{host} shows a certificate that nobody here trusts.", "Name its --authority.") from error
        if "SSL" in str(error).upper():
            raise PeerError(f"{host} speaks no TLS at this address.", "Check http and https, and the port.") from error
        raise Unavailable(f"{host} does not answer.", "Check the address; is it running?") from error
    except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
        raise Unavailable(
            f"{host} broke off ({type(error).__name__}).", "What is there stays: run it again, it goes on."
        ) from error
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise PeerError(
            f"{host} answers with what is no HTTP ({type(error).__name__}).", "Check the address."
        ) from error
    except OSError as error:
        raise MachineError(f"this computer: {error.strerror}.", "Check disk and network.") from error


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
