"""An append-only file of short records, synced before anything that depends on one is done.

Each record is followed by the first 8 bytes of its SHA-256. One that a crash cut short was never acted upon, and is
removed at the next start; a damaged one before the end is an error: what stands behind it cannot be trusted.
"""

import hashlib
import os
import struct
from pathlib import Path
from typing import Any, Final

from primum.disk import append
from primum.errors import MachineError

_CHECK: Final = 8


class Records:
    """Records of the form `form` (of `struct`) in the file `path`; `damaged` says what to do with a damaged file."""

    def __init__(self, path: Path, form: str, damaged: str) -> None:
        self._path, self._form, self._damaged = path, struct.Struct(form), damaged

    def read(self) -> list[tuple[Any, ...]]:
        """All records, in order; makes the file where there is none. MachineError where it is damaged."""
        if not self._path.exists():
            self._write(b"")
            _sync_folder(self._path.parent)
        data = self._path.read_bytes()
        found, length = [], self._form.size + _CHECK
        whole = len(data) - len(data) % length
        for start in range(0, whole, length):
            record, check = data[start : start + self._form.size], data[start + self._form.size : start + length]
            if check != _digest(record):
                if start + length == len(data):
                    whole = start  # the last record, torn by a crash
                    break
                raise MachineError(f"{self._path} is damaged at byte {start}.", self._damaged)
            found.append(self._form.unpack(record))
        if whole < len(data):
            os.truncate(self._path, whole)
        return found

    def append(self, *values: Any) -> None:
        """One record; on disk when this returns. MachineError if it cannot be written."""
        record = self._form.pack(*values)
        self._write(record + _digest(record))

    def _write(self, data: bytes) -> None:
        try:
            append(self._path, data)
        except OSError as error:
            raise MachineError(
                f"{self._path} cannot be written: {error.strerror}.", "Nothing was sent; free some space and restart."
            ) from None


def _digest(record: bytes) -> bytes:
    return hashlib.sha256(record).digest()[:_CHECK]


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
