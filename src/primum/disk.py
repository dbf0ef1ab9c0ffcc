"""What must survive a crash: files that are whole or not there, and SQLite transactions that are on disk when they end."""

import errno
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from primum.errors import MachineError


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


@contextmanager
def transaction(path: Path, schema: str) -> Iterator[sqlite3.Connection]:
    """One transaction on the SQLite file `path`, whose tables (`schema`, separated by semicolons) are made if missing.

    Alone with the file from its first statement on; committed and synced at the end, rolled back by an exception.
    """
    db = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        db.execute("pragma synchronous = full")
        db.execute("begin immediate")
        for statement in filter(str.strip, schema.split(";")):
            db.execute(statement)
        yield db
        db.execute("commit")
    except BaseException:
        if db.in_transaction:
            db.execute("rollback")
        raise
    finally:
        db.close()
