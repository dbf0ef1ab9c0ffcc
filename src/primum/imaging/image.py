"""What an image is on its way from a file to a data set: `Picture` (as decoded), `Image` (prepared), `Problem`, `FolderError`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from primum.errors import DataError

Pixels = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Picture:
    """A decoded file at full size: grey levels as a screen would show them, 0 black and 1 white.

    `values`: float32 [1 or 3, rows, columns] in [0, 1]. `spacing`: (row, column) distance in mm, or None where the file
    does not say. `patient`: the patient as the file names it, or None; never printed. `notices`: what the reader had to
    decide (first frame of several, ...), in words that name no patient. `hounsfield`: the same pixels in Hounsfield
    units, for a CT that says so, else None.
    """

    values: Pixels = field(repr=False)
    format: str
    spacing: tuple[float, float] | None = None
    patient: str | None = field(default=None, repr=False)
    notices: tuple[str, ...] = ()
    hounsfield: Pixels | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Provenance:
    """Where an image came from: file name relative to its folder, format, and the reader's notices."""

    file: str
    format: str
    notices: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Image:
    """One prepared image. Prints its shape, never its content.

    `pixels`: float32 [channels, size, size] in [0, 1]. `spacing`: (row, column) mm per prepared pixel, or None.
    `patient`: keyed pseudonym, or None.
    """

    pixels: Pixels
    spacing: tuple[float, float] | None
    patient: str | None
    provenance: Provenance

    def __repr__(self) -> str:
        channels, rows, columns = self.pixels.shape
        return f"Image({channels} x {rows} x {columns}, {self.provenance.format})"


@dataclass(frozen=True)
class Problem:
    """A file that was set aside: which (relative to the folder), why, and what to do."""

    file: str
    reason: str
    hint: str = ""


class FolderError(DataError):
    """A folder that cannot be used as a whole; `problems`: the files that were set aside before that was seen."""

    def __init__(self, message: str, hint: str, problems: tuple[Problem, ...]) -> None:
        super().__init__(message, hint)
        self.problems = problems


@contextmanager
def speaking_of(what: str) -> Iterator[None]:
    """A DataError of the block begins with `what` it is about."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{what} {error.message}", error.hint) from error


@contextmanager
def naming(problems: Sequence[Problem]) -> Iterator[None]:
    """A DataError of the block becomes a FolderError with the files that are among `problems` by then."""
    try:
        yield
    except DataError as error:
        raise FolderError(error.message, error.hint, tuple(problems)) from error
