"""Append-only, hash-chained, signed record of what was asked and done.

One line of JSON an entry: number, time, kind, details, the hash of the line before, and a signature over all of that.
A line that is changed, left out or put between breaks the chain at its place. Hashes and counts stand in it, never
messages, images or labels.
"""

import hashlib
import json
import time
from collections.abc import Callable, Iterator
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
        self._number, self._head = 0, _START
        for line, _ in _lines(path):
            self._number, self._head = self._number + 1, _hash(line)

    @property
    def head(self) -> str:
        """Hash of the last entry, hex; whoever notes it down can tell later that nothing before was changed."""
        return self._head

    def write(self, kind: str, **details: Any) -> None:
        """Append one entry."""
        entry = {
            "n": self._number + 1,
            "at": round(time.time(), 3),
            "kind": kind,
            "details": details,
            "before": self._head,
        }
        signature = self._signer.sign(PURPOSE, _canonical(entry).encode()).hex()
        line = _canonical({"entry": entry, "signature": signature})
        try:
            append(self._path, (line + "\n").encode())
        except OSError as error:
            raise MachineError(
                f"{self._path} cannot be written: {error.strerror}.", "Free some space; nothing was sent."
            ) from None
        self._number, self._head = self._number + 1, _hash(line)


def read(path: Path, check: Verifier | None = None) -> list[dict[str, Any]]:
    """All entries, after checking the chain; InputError names the first line that does not fit.

    `check` verifies each entry's signature (for instance `keys.identity.verify` with the signer's key); without it a
    chain that was computed anew as a whole, or whose end was cut off, is not noticed.
    """
    before, entries = _START, []
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
        entries.append(entry)
    return entries


def _lines(path: Path) -> Iterator[tuple[str, int]]:
    if path.exists():
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
            yield line, number


def _canonical(data: dict[str, Any]) -> str:
    return json.dumps(data, sort_keys=True, separators=(",", ":"))


def _hash(line: str) -> str:
    return hashlib.sha256(line.encode()).hexdigest()
