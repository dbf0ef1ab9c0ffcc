"""Append-only, hash-chained, signed record of what was asked and done.

One line of JSON an entry: number, time, kind, details, the hash of the line before, and a signature over all of that.
A line that is changed, left out or put between breaks the chain at its place. Hashes and counts stand in it, never
messages, images or labels. Several processes may write into one file: each takes its lock and goes on after the last line.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from primum.disk import append
from primum.errors import InputError, MachineError

_START: Final = "0" * 64
PURPOSE: Final = "journal entry"

Verifier = Callable[[str, bytes, bytes], None]
"""verify(purpose, data, signature); raises where the signature is wrong."""


class Signer(Protocol):
    """Whoever signs the entries: an `Identity`."""

    def sign(self, purpose: str, data: bytes) -> bytes:
        """64 bytes."""


class Journal:
    """The journal in the file `path`; each entry is on disk (fsync) when `write` returns."""

    def __init__(self, path: Path, signer: Signer) -> None:
        self._path, self._signer = path, signer
        self._number, self._head, self._read = 0, _START, 0
        if path.exists():
            self._catch_up()

    @property
    def head(self) -> str:
        """Hash of the last entry, hex; whoever notes it down can tell later that nothing before was changed."""
        if self._path.exists():
            self._catch_up()
        return self._head

    def write(self, kind: str, **details: Any) -> None:
        """Append one entry. MachineError, and nothing written, where the disk does not take it."""
        try:
            with _alone(self._path):
                self._catch_up()
                lost = self._drop_torn_line()
                if lost:
                    self._append("recovered", {"lost_bytes": lost})
                self._append(kind, details)
        except OSError as error:
            raise MachineError(
                f"{self._path} cannot be written: {error.strerror}.", "Free some space; nothing was sent."
            ) from None

    def _append(self, kind: str, details: dict[str, Any]) -> None:
        entry = {
            "n": self._number + 1,
            "at": round(time.time(), 3),
            "kind": kind,
            "details": details,
            "before": self._head,
        }
        signature = self._signer.sign(PURPOSE, _canonical(entry).encode()).hex()
        line = _canonical({"entry": entry, "signature": signature})
        append(self._path, (line + "\n").encode())
        self._take(line.encode())

    def _catch_up(self) -> None:
        """Follow what other processes have written since."""
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if line.endswith(b"\n"):
                    self._take(line[:-1])

    def _take(self, line: bytes) -> None:
        self._number, self._head = self._number + 1, _hash(line)
        self._read += len(line) + 1

    def _drop_torn_line(self) -> int:
        """Cut off what a power loss left of a line that was never finished; returns its length."""
        torn = self._path.stat().st_size - self._read
        if torn < 0:
            raise MachineError(f"{self._path} was shortened while it was written to.", "Restore it from a copy.")
        if torn:
            os.truncate(self._path, self._read)
        return torn


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@dataclass(frozen=True)
class Link:
    """One entry of a chain, and the hash that the next one names."""

    entry: dict[str, Any]
    hash: str


def read(path: Path, check: Verifier | None = None) -> list[dict[str, Any]]:
    """All entries, after checking the chain; InputError names the first line that does not fit.

    `check` verifies each entry's signature (for instance `keys.identity.verify` with the signer's key); without it a
    chain that was computed anew as a whole, or whose end was cut off, is not noticed.
    """
    return [link.entry for link in read_chain(path, check)]


def read_chain(path: Path, check: Verifier | None = None) -> list[Link]:
    """`read`, with the hash of each line: what others were shown as the head at that time."""
    before, links = _START, []
    for line, number in _lines(path):
        try:
            record = json.loads(line)
            entry, signature = record["entry"], bytes.fromhex(record["signature"])
            if check is not None:
                check(PURPOSE, _canonical(entry).encode(), signature)
            follows = entry["before"] == before and entry["n"] == number
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path}, line {number} is not a journal entry.", "The journal was altered.") from None
        if not follows:
            raise InputError(f"{path}: the chain breaks at line {number}.", "The journal was altered there or before.")
        before = _hash(line)
        links.append(Link(entry, before))
    return links


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    if path.exists():
        for number, line in enumerate(path.read_bytes().splitlines(), start=1):
            yield line, number


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _hash(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()
