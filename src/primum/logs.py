"""What a role says, kept in a file beside the screen: private, bounded, as words or as one JSON object a line."""

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Final, Literal

from primum.errors import MachineError, PrimumError

Say = Callable[[str], None]
Form = Literal["text", "json"]

LARGEST: Final = 10 * 1000 * 1000
OLDER: Final = 4
_WARNS: Final = ("Warning", "Refused", "Not answered")


class _PrivateFile(RotatingFileHandler):
    """Mode 0600 from the first byte on, whatever the umask is."""

    def _open(self) -> TextIOWrapper:
        handle = os.open(self.baseFilename, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.fchmod(handle, 0o600)
        return os.fdopen(handle, "a", encoding=self.encoding)


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        """One object with time (UTC), level, role and event."""
        at = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line = {
            "time": f"{at}.{int(record.msecs):03d}Z",
            "level": record.levelname.lower(),
            "role": record.name,
            "event": record.getMessage(),
        }
        return json.dumps(line, ensure_ascii=False)


@contextmanager
def kept(file: Path | None, form: Form, role: str, say: Say) -> Iterator[Say]:
    """`say`, which also writes into `file` from now on: at most 5 files of 10 MB, mode 0600. None: `say` as it is.

    An error that ends the role is written too, and goes on. MachineError where the file cannot be written.
    """
    if file is None:
        yield say
        return
    handler = _handler(file, form)

    def note(level: int, text: str) -> None:
        handler.handle(logging.LogRecord(role, level, "", 0, text, None, None))

    def both(text: str) -> None:
        say(text)
        note(logging.WARNING if text.startswith(_WARNS) else logging.INFO, text)

    note(logging.INFO, "started")
    try:
        yield both
        note(logging.INFO, "ended")
    except PrimumError as error:
        note(logging.ERROR, str(error))
        raise
    except BaseException as error:
        note(logging.ERROR, f"ended by {type(error).__name__}")
        raise
    finally:
        handler.close()


def _handler(file: Path, form: Form) -> logging.Handler:
    try:
        handler = _PrivateFile(file, maxBytes=LARGEST, backupCount=OLDER, encoding="utf-8")
    except OSError as error:
        raise MachineError(f"{file} cannot be written: {error.strerror}.", "Choose another --log.") from None
    handler.setFormatter(_Json() if form == "json" else logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    handler.handleError = lambda record: None  # type: ignore[method-assign]  # a full disk must not end the role
    return handler


def bound(file: Path, most: int = LARGEST) -> None:
    """Begin `file` anew once it is longer than `most` bytes; what it held goes to `file`.1, in place of what was there.

    For logs of other processes that hold them open, which must append (O_APPEND). A line that is written meanwhile may
    be lost. A full disk changes nothing.
    """
    try:
        if file.stat().st_size > most:
            older = file.with_name(f"{file.name}.1")
            shutil.copyfile(file, older)
            older.chmod(0o600)
            os.truncate(file, 0)
    except OSError:
        return
