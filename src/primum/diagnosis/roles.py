"""A role's own side: its state folder (0700, one process at a time), its keys, and the card that others get.

A role card is a small public JSON file, signed by the identity in it: give it to the model owner, and compare the
fingerprint by telephone.
"""

import contextlib
import fcntl
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

import msgspec

from primum.diagnosis.files import read_message, write_message
from primum.errors import InputError, MachineError
from primum.keys.certificate import CertificateFiles, load_or_make
from primum.keys.identity import Identity, fingerprint, verify
from primum.keys.sealing import SealingKey
from primum.ports import free_port
from primum.state_folder import open_state
from primum.wire import Message, encode

Kind = Literal["dealer", "server"]
_PURPOSE: Final = "role card"
_CARD_LIMIT: Final = 64 * 1024


class RoleCard(Message, frozen=True):
    """Public keys and addresses of a dealer or a server. `link`: where a server listens for the other server."""

    role: Kind
    identity: bytes
    sealing: bytes
    certificate: str
    address: str
    link: str
    signature: bytes = b""

    def unsigned(self) -> bytes:
        """The bytes that the signature covers."""
        return encode(msgspec.structs.replace(self, signature=b""))


@dataclass(frozen=True)
class RoleKeys:
    """The private keys of a role, in its state folder."""

    folder: Path
    identity: Identity = field(repr=False)
    sealing: SealingKey = field(repr=False)
    tls: CertificateFiles


def make_role(kind: Kind, state: Path, address: str, link: str = "") -> RoleCard:
    """Make the keys of a role in `state` if they are not there, and return its signed card.

    `address`: HOST:PORT that data owners (or, for a dealer, the servers) reach. `link`, for a server: HOST:PORT that
    the other server reaches; the next port if empty.
    """
    host, port = parse_address(address)
    link = link if link or kind == "dealer" else f"{_bracket(host)}:{port + 1}"
    hosts = (host, parse_address(link)[0]) if link else (host,)
    open_state(state)
    keys = _keys(state, *hosts)
    card = RoleCard(kind, keys.identity.public, keys.sealing.public, keys.tls.pem(), address, link)
    return msgspec.structs.replace(card, signature=keys.identity.sign(_PURPOSE, card.unsigned()))


def load_keys(state: Path) -> RoleKeys:
    """The keys in `state`; InputError if no role was made there."""
    if not (state / "identity.pem").exists():
        raise InputError(f"{state} holds no keys.", "Make them with --init, and give the card to the model owner.")
    open_state(state)
    return _keys(state, "localhost")


def _keys(state: Path, *hosts: str) -> RoleKeys:
    tls = load_or_make(state, *hosts)
    return RoleKeys(
        state, Identity.load_or_make(state / "identity.pem"), SealingKey.load_or_make(state / "seal.key"), tls
    )


def save_card(card: RoleCard, path: Path) -> None:
    """Write the card as JSON."""
    write_message(path, card)


def load_card(path: Path, kind: Kind) -> RoleCard:
    """The card in `path`, its signature checked; InputError or PeerError that names the file otherwise."""
    card = read_message(path, RoleCard, _CARD_LIMIT)
    check_card(card, kind, str(path))
    return card


def check_card(card: RoleCard, kind: Kind, where: str) -> None:
    """InputError or PeerError unless the card is a `kind`'s and its signature is right."""
    if card.role != kind:
        raise InputError(f"{where} is the card of a {card.role}, not of a {kind}.", "Check which file is whose.")
    verify(card.identity, _PURPOSE, card.unsigned(), card.signature, where)
    for address in (card.address, card.link) if kind == "server" else (card.address,):
        parse_address(address)


def card_fingerprint(card: RoleCard) -> str:
    """The fingerprint of the identity in a card."""
    return fingerprint(card.identity)


def parse_address(address: str) -> tuple[str, int]:
    """(host, port) of HOST:PORT or [IPv6]:PORT."""
    host, _, port = address.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isdecimal() or not 1 <= int(port) <= 65535:
        raise InputError(f"{address!r} is not an address.", "Write HOST:PORT, for instance 127.0.0.1:7411.")
    return host, int(port)


def _bracket(host: str) -> str:
    return f"[{host}]" if ":" in host else host


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold `folder` for one process: two with the same state would use the same numbers."""
    handle = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise MachineError(
            f"Another process is running with the state folder {folder}.", "Stop it, or choose another --state."
        ) from None
    try:
        yield
    finally:
        os.close(handle)


def bind(address: str) -> socket.socket:
    """A socket that listens on `address` (HOST:PORT); MachineError where the port is in use."""
    host, port = parse_address(address)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sends at once (TCP_NODELAY) only on sockets that say that they are TCP; else answers wait 40 ms
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise MachineError(
            f"Cannot listen on {address}: {error.strerror or error}.",
            "Stop the program that uses the port, or listen elsewhere with --listen and --listen-link.",
        ) from None
    listener.setblocking(False)
    return listener


def free_address(host: str = "127.0.0.1") -> str:
    """HOST:PORT with a port that is free now, for demonstrations and tests on one machine."""
    return f"{host}:{free_port(host)}"
