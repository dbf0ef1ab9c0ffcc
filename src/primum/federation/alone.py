"""One process a state folder: two nodes would use each other's round numbers and budgets, two coordinators each other's runs."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from primum.errors import MachineError

_FILE: Final = "running"


@contextmanager
def alone(state: Path, role: str = "node") -> Iterator[None]:
    """Hold the folder for this process, until it ends; MachineError where another holds it."""
    with (state / _FILE).open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MachineError(
                f"Another {role} is running with {state}.", "End it first, or give this one another --state."
            ) from None
        yield


def is_held(state: Path) -> bool:
    """Whether a process holds the folder."""
    try:
        with (state / _FILE).open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
