"""What must survive a crash: files that are whole or not there, and SQLite transactions that are on disk when they end."""

import errno
import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from primum.errors import InputError, MachineError


def write(path: Path, data: bytes, private: bool = False) -> None:
    """Temporary file, fsync, rename: a reader sees the old file or the new one, never half of it.

    `private`: mode 0600 from the first byte. MachineError that names the file where the disk is full or not ours.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(
            f"{path} cannot be written: {error.strerror}.",
            "Free some space or change the permissions; nothing was lost.",
        ) from None


def append(path: Path, record: bytes) -> None:
    """Append `record` whole or not at all, mode 0600; on disk (fsync) when this returns. OSError where that fails.

    A disk that is full in the middle of a record would leave a part of it, and every later record in a wrong place.
    """
    handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        before = os.fstat(handle).st_size
        try:
            if os.write(handle, record) != len(record):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(handle)
        except OSError:
            os.ftruncate(handle, before)
            raise
    finally:
        os.close(handle)


def read_json(path: Path, form: Any) -> dict[str, Any]:
    """The JSON object in one of our own files, of the TypedDict `form`; empty where there is no such file.

    MachineError that names a file which is damaged.
    """
    if not path.exists():
        return {}
    try:
        found: dict[str, Any] = msgspec.json.decode(path.read_bytes(), type=form)
    except (msgspec.MsgspecError, ValueError):
        raise MachineError(f"{path} is damaged.", "Restore it from a copy.") from None
    return found


class Grown:
    """The whole lines that were appended to a file since they were last asked for."""

    def __init__(self, path: Path) -> None:
        self._path, self._read = path, 0

    def lines(self) -> Iterator[bytes]:
        """Those that nobody has had yet; none where there is no file."""
        if not self._path.exists():
            return
        with self._path.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if line.endswith(b"\n"):
                    self._read += len(line)
                    yield line


@contextmanager
def transaction(path: Path, schema: str, upgrades: Sequence[str] = ()) -> Iterator[sqlite3.Connection]:
    """One transaction on the SQLite file `path`, whose tables (`schema`, separated by semicolons) are made if missing.

    Alone with the file from its first statement on; committed and synced at the end, rolled back by an exception.
    `upgrades[i]` brings a file from format i to i + 1: `schema` stays as the first release wrote it, and an older file
    is upgraded within this transaction. InputError for a file that a newer release wrote, MachineError for one that is
    damaged, locked for long, or that the disk does not take.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        db.execute("pragma synchronous = full")
        db.execute("begin immediate")
        _execute(db, schema)
        _upgrade(db, path, upgrades)
        yield db
        db.execute("commit")
    except BaseException as error:
        if db.in_transaction:
            with suppress(sqlite3.DatabaseError):
                db.execute("rollback")
        if isinstance(error, sqlite3.DatabaseError | UnicodeDecodeError):  # SQLite quotes damaged names
            raise MachineError(
                f"{path} cannot be used: {error}.", "Is the disk full? Else restore a backup."
            ) from error
        raise
    finally:
        db.close()


def _upgrade(db: sqlite3.Connection, path: Path, upgrades: Sequence[str]) -> None:
    found = int(db.execute("pragma user_version").fetchone()[0])
    if found > len(upgrades):
        raise InputError(
            f"{path} was written by a newer release (format {found}; this one reads up to {len(upgrades)}).",
            "Install that release again; nothing was changed.",
        )
    for step in upgrades[found:]:
        _execute(db, step)
    if found < len(upgrades):
        db.execute(f"pragma user_version = {len(upgrades)}")


def _execute(db: sqlite3.Connection, statements: str) -> None:
    for statement in filter(str.strip, statements.split(";")):
        db.execute(statement)
