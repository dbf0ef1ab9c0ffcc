"""Where a hospital computes: its processor, or a graphics card that one process has at a time.

Two nodes (or two users) of one computer may train on the same card, whose memory holds one model and batch, not two.
Whoever computes holds a lock; the system takes it back when the process ends, however it ends.
"""

import fcntl
import os
import re
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch

from primum import heap
from primum.errors import InputError, MachineError

PATIENCE: Final = 120.0
"""Seconds that a step waits for a card: longer ones are other programs, or far too many nodes."""
_POLL: Final = 0.02


@dataclass(frozen=True)
class Accelerator:
    """A device, and the file whose lock says that it is in use (None: nobody has to wait for it)."""

    device: torch.device
    lock: Path | None

    @classmethod
    def named(cls, name: str) -> "Accelerator":
        """Of `cpu`, `cuda` (the first card) or `cuda:N`. InputError where there is no such card."""
        if name == "cpu":
            return PROCESSOR
        if not re.fullmatch(r"cuda(:\d+)?", name):
            raise InputError(f"There is no device {name[:40]!r}.", "Say cpu, cuda, or cuda:1 for the second card.")
        number = int(name.partition(":")[2] or 0)
        if not torch.cuda.is_available():
            raise InputError("PyTorch finds no graphics card here.", "Say --device cpu, or install PyTorch for CUDA.")
        if number >= torch.cuda.device_count():
            raise InputError(
                f"This computer has {torch.cuda.device_count()} cards, none is cuda:{number}.", "Count from 0."
            )
        card = torch.cuda.get_device_properties(number)
        return cls(torch.device("cuda", number), lock_of(str(getattr(card, "uuid", number))))

    @contextmanager
    def alone(self, patience: float = PATIENCE) -> Iterator[torch.device]:
        """The device, for this process alone; MachineError after `patience` seconds of another's use.

        Memory is kept for later meanwhile, and given back at the end: whoever comes next needs it.
        """
        if self.lock is None:
            with heap.kept():
                yield self.device
            return
        with _held(self.lock, patience):
            try:
                yield self.device
            finally:
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()


PROCESSOR: Final = Accelerator(torch.device("cpu"), None)


def lock_of(card: str) -> Path:
    """The file of a card, the same for all users of this computer."""
    return Path(tempfile.gettempdir()) / f"primum-{re.sub('[^0-9A-Za-z-]', '', card)}.lock"


@contextmanager
def _held(path: Path, patience: float) -> Iterator[None]:
    descriptor = _opened(path)
    try:
        until = time.monotonic() + patience
        while True:
            with suppress(BlockingIOError):
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            if time.monotonic() > until:
                raise MachineError(
                    f"The graphics card has been in use by another program for {patience:.0f} s.",
                    "Let fewer nodes share it, or start this one with --device cpu.",
                )
            time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def _opened(path: Path) -> int:
    """For reading only, which a lock needs no more than: the file may be another user's, and links are not followed."""
    try:
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDONLY, 0o444))
        return os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        raise MachineError(f"{path} cannot be locked: {error.strerror}.", "Remove it, as whoever owns it.") from None
