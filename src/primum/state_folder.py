"""A role's state folder: private, and of a format that this release reads.

The file `format` in it holds a number. A folder without one is of the first release. SQLite files have a number of
their own (`disk.transaction`); this one is about what stands in which file.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from primum.disk import write
from primum.errors import InputError, MachineError

_UPGRADES: Final[tuple[Callable[[Path], None], ...]] = (lambda folder: None,)
"""Entry i brings a folder from format i to i + 1, may be cut short anywhere, and is then done again."""


def make_private(folder: Path) -> None:
    """Make `folder` with mode 0700, or tighten it; MachineError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if folder.stat().st_mode & 0o077:
            folder.chmod(0o700)
    except OSError as error:
        raise MachineError(f"{folder} cannot be used: {error.strerror}.", "Choose another --state folder.") from None


def open_state(folder: Path) -> None:
    """`make_private`, and upgrade what an older release wrote; InputError for a folder of a newer release."""
    make_private(folder)
    path = folder / "format"
    found = _read(path)
    if found > len(_UPGRADES):
        raise InputError(
            f"{folder} was written by a newer release (format {found}; this one reads up to {len(_UPGRADES)}).",
            "Install that release again; nothing was changed.",
        )
    for step in _UPGRADES[found:]:
        step(folder)
    if found < len(_UPGRADES):
        write(path, f"{len(_UPGRADES)}\n".encode(), private=True)


def _read(path: Path) -> int:
    try:
        return int(path.read_text())
    except FileNotFoundError:
        return 0
    except (OSError, ValueError):
        raise InputError(f"{path} does not hold a number.", "Restore the folder from a backup.") from None
