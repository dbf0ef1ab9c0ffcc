"""A DICOM storage service (C-STORE SCP, PS3.4 Annex B): what a PACS sends goes through the inbox into a folder.

Answers C-ECHO and C-STORE of images and masks in the transfer syntaxes that can be read; everything else is refused
when the association is negotiated. An object is held in memory until it is whole, de-identified, and written: an
association that breaks off leaves nothing. Listens on this machine alone unless an address is named, and then only
for senders whose titles are listed or whose certificates are signed by a named authority. An AE title is no password:
anybody on the network can claim one. Where the network is not the PACS's own, use certificates.
"""

import logging
import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

from pydicom import Dataset
from pydicom.uid import UID_dictionary
from pynetdicom import AE, evt
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]

from primum.errors import DataError, InputError, MachineError
from primum.imaging.inbox import SYNTAXES, Inbox
from primum.imaging.reader import LARGEST_FILE
from primum.imaging.stored import LABEL_MAP, SEGMENTATION

PORT: Final = 11112
TITLE: Final = "PRIMUM"
SILENCE: Final = 60.0
"""Seconds after which a sender that says nothing is hung up on."""
HANDSHAKE: Final = 10.0
"""The same while TLS is agreed on; others wait in this time."""
LARGEST_PDU: Final = 1 << 20
"""Bytes of one protocol data unit; pynetdicom would read whatever a sender announces."""

_WORDS_TO_SENDER: Final = 64
_SUCCESS, _NO_ROOM, _NOT_UNDERSTOOD = 0x0000, 0xA700, 0xC000
_PARAMETRIC_MAP: Final = "1.2.840.10008.5.1.4.1.1.30"


@dataclass(frozen=True)
class Certificates:
    """Files (PEM) for TLS 1.3: this side's certificate and key, and the authority that signs those of senders."""

    certificate: Path
    key: Path
    senders: Path | None = None

    def context(self) -> ssl.SSLContext:
        """For a server; with `senders`, only for those who show a certificate. InputError where a file is unusable."""
        context = _Impatient(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        try:
            context.load_cert_chain(self.certificate, self.key, password="")  # else OpenSSL asks at the terminal
            if self.senders is not None:
                context.load_verify_locations(self.senders)
                context.verify_mode = ssl.CERT_REQUIRED
        except OSError as error:  # ssl.SSLError is one
            raise InputError(
                f"the certificate files for DICOM cannot be used: {error.strerror or 'not PEM'}.",
                "Give a certificate and its key (not encrypted) as PEM files, and the authority of the senders.",
            ) from error
        return context


class _Impatient(ssl.SSLContext):
    """A sender that does not finish its handshake would keep all others waiting."""

    def wrap_socket(self, sock: Any, *args: Any, **options: Any) -> ssl.SSLSocket:
        sock.settimeout(HANDSHAKE)
        return super().wrap_socket(sock, *args, **options)


@dataclass(frozen=True)
class Door:
    """Who may send, and how much. `port` 0: any free one. `senders`: calling AE titles; none: all on this machine.

    Raises InputError where a title is none, or others than this machine could send without being named.
    """

    address: str = "127.0.0.1"
    port: int = PORT
    title: str = TITLE
    senders: tuple[str, ...] = ()
    certificates: Certificates | None = None
    largest: int = LARGEST_FILE
    most_associations: int = 8

    def __post_init__(self) -> None:
        for title in (self.title, *self.senders):
            if not 1 <= len(title.strip()) <= 16 or not title.isascii() or not title.isprintable() or "\\" in title:
                raise InputError(f"{title!r} is no AE title.", "1 to 16 letters, digits or signs, no backslash.")
        closed = self.senders or (self.certificates is not None and self.certificates.senders is not None)
        if not closed and not _loopback(self.address):
            raise InputError(
                f"at {self.address} everybody could send.",
                "Name who may (--from TITLE), or the authority of certificates.",
            )


def _loopback(address: str) -> bool:
    try:
        return ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


@contextmanager
def receiving(
    inbox: Inbox, door: Door, told: Callable[[], None] = lambda: None, say: Callable[[str], None] = lambda words: None
) -> Iterator[int]:
    """Receive while the block runs; gives the port. `told` is called after each object, in the thread of its sender;
    `say` with words about a sender that is sent away, once for each reason: anybody can try again and again.

    Raises MachineError where the port cannot be had. At the end associations that are still open are aborted.
    """
    logging.getLogger("pynetdicom").setLevel(logging.CRITICAL + 1)  # it logs identifiers
    entity = _entity(door)
    context = door.certificates.context() if door.certificates else None
    handlers: list[Any] = [
        (evt.EVT_CONN_OPEN, partial(_bound, largest=door.largest)),
        (evt.EVT_REJECTED, partial(_rejected, inbox=inbox, door=door, say=say)),
        (evt.EVT_C_STORE, partial(_store, inbox=inbox, told=told)),
    ]
    try:
        server = entity.start_server((door.address, door.port), block=False, ssl_context=context, evt_handlers=handlers)
    except OSError as error:
        raise MachineError(
            f"port {door.port} at {door.address} cannot be opened: {error.strerror}.", "Name another (--port)."
        ) from error
    try:
        yield server.server_address[1] if server else door.port
    finally:
        entity.shutdown()


def _entity(door: Door) -> AE:
    entity = AE(ae_title=door.title)
    entity.add_supported_context(Verification)
    for uid in sorted(_storage_classes()):
        entity.add_supported_context(uid, [str(syntax) for syntax in SYNTAXES])
    entity.require_called_aet = True
    entity.require_calling_aet = list(door.senders)
    entity.maximum_associations = door.most_associations
    entity.maximum_pdu_size = LARGEST_PDU >> 3
    entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = SILENCE
    return entity


def _storage_classes() -> set[str]:
    """All that the standard calls images, also what is retired, and masks."""
    images = {uid for uid, words in UID_dictionary.items() if words[1] == "SOP Class" and "Image Storage" in words[0]}
    return images | {SEGMENTATION, LABEL_MAP, _PARAMETRIC_MAP}


def _bound(event: Any, largest: int) -> None:
    """Hang up on a sender of a larger unit or object, before it is held in memory: a limit that pynetdicom lacks."""
    connection = event.assoc.dul.socket
    read, inner, here = connection.recv, connection.socket, [0]

    def recv(count: int) -> bytearray:
        here[0] += count
        if count > LARGEST_PDU or here[0] > largest:
            raise ConnectionAbortedError("larger than is allowed")
        received: bytearray = read(count)
        return received

    def whole(_: Any) -> None:
        here[0] = 0

    def closed(_: Any) -> None:
        inner.close()  # pynetdicom leaves it open where the other side was the first to go

    connection.recv = recv
    event.assoc.bind(evt.EVT_DIMSE_RECV, whole)
    event.assoc.bind(evt.EVT_CONN_CLOSE, closed)


def _rejected(event: Any, inbox: Inbox, door: Door, say: Callable[[str], None]) -> None:
    """Say and count why an association was refused, by the rules of `_entity`."""
    asked = event.assoc.requestor.primitive
    called, sender = asked.called_ae_title, asked.calling_ae_title
    if called != door.title.strip():
        why = "asked for another AE title"
        more = f"asked for the AE title {called!a}, and ours is {door.title!a}. Set one as the other (--title)."
    elif door.senders and sender not in [one.strip() for one in door.senders]:
        why, more = "is not among those who may send", "is not among those who may send (--from)."
    else:
        why, more = "too many at once", f"came while {door.most_associations} others were sending; it may try again."
    if inbox.reject(why):
        say(f"Rejected: {sender!a} {more}")


def _store(event: Any, inbox: Inbox, told: Callable[[], None]) -> Dataset:
    """The answer to one C-STORE: its status, and why, in words that name nobody."""
    status, words = _SUCCESS, ""
    try:
        inbox.take(event.encoded_dataset())
    except DataError as error:
        status, words = _NOT_UNDERSTOOD, error.message
    except MachineError:
        status, words = _NO_ROOM, "cannot be written"
    told()
    answer = Dataset()
    answer.Status = status
    if words:
        answer.ErrorComment = words[:_WORDS_TO_SENDER]
    return answer
