"""Whoever waits for a message is rung for, between the coordinator's processes, instead of asking again and again.

A bell is a named pipe in the coordinator's private state folder. The front listens at one (orders were handed to Flower)
and each server program at its own (a reply has come). A ring carries nothing, and one that is lost costs a wait of
seconds: everybody asks once in a while all the same.
"""

import os
import select
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

FRONT: Final = "front"
_FOLDER: Final = "bells"


@dataclass(frozen=True)
class Bell:
    """The listening end; `descriptor` becomes readable when it is rung."""

    descriptor: int

    def wait(self, seconds: float) -> bool:
        """Whether it was rung within so many seconds, or since the last call."""
        rung = bool(select.select([self.descriptor], [], [], seconds)[0])
        self.hush()
        return rung

    def hush(self) -> None:
        """Forget all rings so far."""
        with suppress(BlockingIOError):
            while os.read(self.descriptor, 4096):
                pass


@contextmanager
def listening(state: Path, name: str) -> Iterator[Bell]:
    """The bell `name` of this state folder, for as long as the block lasts."""
    path = state / _FOLDER / name
    path.parent.mkdir(mode=0o700, exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path, 0o600)
    descriptor = os.open(path, os.O_RDWR | os.O_NONBLOCK)  # also for writing: else it ends with the first who rang
    try:
        yield Bell(descriptor)
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def ring(state: Path, name: str) -> None:
    """Ring one bell; nothing where nobody listens."""
    _ring(state / _FOLDER / name)


def ring_programs(state: Path) -> None:
    """Ring for every server program."""
    with suppress(FileNotFoundError):
        for path in (state / _FOLDER).iterdir():
            if path.name != FRONT:
                _ring(path)


def _ring(path: Path) -> None:
    with suppress(OSError):  # nobody listens, or it rings already
        descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(descriptor, b".")
        finally:
            os.close(descriptor)
