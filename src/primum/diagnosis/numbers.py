"""Which request numbers and requests were used: written and synced before the first byte that depends on them leaves.

`used.bin` is append-only; a record is first number (8 bytes), count (8), digest of the request (32), and the first 8
bytes of the SHA-256 of those. A record that a crash cut short was never acted upon, and is removed at the next start.
`journal.jsonl` says what was done: numbers and hashes of messages, never messages.
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import Final

from primum.disk import append
from primum.errors import MachineError, Refused
from primum.journal import Journal

_RECORD: Final = struct.Struct(">QQ32s8s")
HIGHEST: Final = 1 << 62


class UsedNumbers:
    """The numbers and requests that this role has used, on disk. One process at a time (`roles.locked`)."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "used.bin"
        self._requests: set[bytes] = set()
        self._mark = 0
        self._read()

    @property
    def mark(self) -> int:
        """The highest number used so far, 0 if none."""
        return self._mark

    def knows(self, request: bytes) -> bool:
        """Whether a request with this digest was started before."""
        return request in self._requests

    def record(self, first: int, count: int, request: bytes) -> None:
        """Use the numbers first .. first + count - 1 for `request` (32 bytes); on disk when this returns.

        Refused if one of them, or the request, was used before; MachineError if it cannot be written.
        """
        if not self._mark < first <= HIGHEST or count < 1:
            raise Refused(f"Request number {first} was used before.", "Ask again: a new request gets a new number.")
        if self.knows(request):
            raise Refused("This request was answered before.", "Make a new request; none is run twice.")
        self._append(_RECORD.pack(first, count, request, _check(first, count, request)))
        self._mark = first + count - 1
        self._requests.add(request)

    def _append(self, record: bytes) -> None:
        try:
            append(self._path, record)
        except OSError as error:
            raise MachineError(
                f"{self._path} cannot be written: {error.strerror}.", "Nothing was sent; free some space and restart."
            ) from None

    def _read(self) -> None:
        if not self._path.exists():
            self._append(b"")
            _sync_folder(self._path.parent)
            return
        data = self._path.read_bytes()
        whole = len(data) - len(data) % _RECORD.size
        for start in range(0, whole, _RECORD.size):
            first, count, request, check = _RECORD.unpack_from(data, start)
            if check != _check(first, count, request):
                if start + _RECORD.size == len(data):
                    whole = start  # the last record, torn by a crash
                    break
                raise MachineError(
                    f"{self._path} is damaged at byte {start}.",
                    "Make a new role with another --state, and a new deployment with its card.",
                )
            self._mark = max(self._mark, first + count - 1)
            self._requests.add(request)
        if whole < len(data):
            os.truncate(self._path, whole)


def note(journal: Journal, kind: str, request: bytes, first: int, count: int, **messages: bytes) -> None:
    """An entry in a role's journal; `messages` are hashed, not kept."""
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in messages.items()}
    journal.write(kind, request=request.hex(), first=first, count=count, **hashes)


def _check(first: int, count: int, request: bytes) -> bytes:
    return hashlib.sha256(struct.pack(">QQ", first, count) + request).digest()[:8]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
