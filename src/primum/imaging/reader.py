"""One reader per format, chosen by a file's first bytes, never by its name's ending."""

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import numpy as np

from primum.errors import DataError
from primum.imaging.image import Picture

Recognise = Callable[[bytes], bool]
Read = Callable[[Path], Picture]
Patient = Callable[[Path], str | None]

LARGEST_FILE: Final = 1 << 30
"""Bytes; a larger file is set aside before it is opened."""
LARGEST_PICTURE: Final = 100_000_000
"""Pixels in one frame; a picture that claims more is set aside before it is decoded (decompression bombs)."""

_HEAD: Final = 132
_READERS: Final[dict[str, tuple[Recognise, Read, Patient]]] = {}
_KNOWN: Final = (
    (b"GIF8", "a GIF picture"),
    (b"RIFF", "a sound or a film"),
    (b"PK\3\4", "a ZIP archive"),
    (b"\x1f\x8b", "a gzip archive (perhaps NIfTI)"),
    (b"NRRD000", "a volume (NRRD), not a picture"),
    (b"%PDF", "a PDF document"),
    (b"\0\0\0\x0cjP  ", "a bare JPEG 2000 picture"),
)


def reader(name: str, recognise: Recognise, patient: Patient = lambda path: None) -> Callable[[Read], Read]:
    """Register a function path -> Picture as the reader of format `name`.

    `recognise` is given the first 132 bytes; `patient` finds the patient named inside a file without decoding it.
    """

    def register(read: Read) -> Read:
        if name in _READERS:
            raise ValueError(f"two readers for {name}")
        _READERS[name] = (recognise, read, patient)
        return read

    return register


def formats() -> tuple[str, ...]:
    """Names of the formats that can be read."""
    return tuple(_READERS)


def decode(path: Path) -> Picture:
    """The picture in a file of any known format; raises DataError with reason and hint, whatever is in the file."""
    name, (_, read, _) = _reader_of(path)
    with decoding(name):
        picture = read(path)
    return _checked(picture)


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever a decoder of format `name` raises in the block becomes a DataError; its warnings and logs are silent."""
    try:
        with silence():
            yield
    except DataError:
        raise
    except MemoryError as error:
        raise DataError("does not fit into memory", "Export it at a smaller size.") from error
    except Exception as error:  # decoders raise everything; their words may quote values, so only the kind is told
        raise DataError(
            f"cannot be decoded as {name} ({type(error).__name__})", "Export it again; it may be damaged or cut off."
        ) from error


def patient_inside(path: Path) -> str | None:
    """The patient that the file itself names, without decoding its pixels; None where it names none."""
    try:
        with silence():
            return _reader_of(path)[1][2](path)
    except Exception:  # what is wrong with the file is told when it is decoded
        return None


def _reader_of(path: Path) -> tuple[str, tuple[Recognise, Read, Patient]]:
    head = read_head(path)
    for name, entry in _READERS.items():
        if entry[0](head):
            return name, entry
    kind = next((words for magic, words in _KNOWN if head.startswith(magic)), None)
    hint = f"Primum reads {', '.join(_READERS)}; export it as one of these."
    raise DataError(f"is {kind}" if kind else "is not an image", hint)


def read_head(path: Path, length: int = _HEAD) -> bytes:
    """The first bytes of a regular file that is neither empty nor too large, else a DataError that says why."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise DataError("is not a regular file", "Give the image file itself.")
        with path.open("rb") as file:
            head = file.read(length)
    except FileNotFoundError as error:
        missing = "is a link to a file that is not there" if path.is_symlink() else "does not exist"
        raise DataError(missing, "Check the name, or copy the file itself.") from error
    except OSError as error:
        raise DataError(f"cannot be opened ({error.strerror})", "Check its permissions.") from error
    if size == 0:
        raise DataError("is empty (0 bytes)", "Export it again.")
    if size > LARGEST_FILE:
        raise DataError(f"is larger than {LARGEST_FILE >> 20} MiB", "Export single frames.")
    return head


def _checked(picture: Picture) -> Picture:
    values = picture.values
    if values.size == 0 or not np.isfinite(values).all():
        raise DataError("has no pixels or values that are not numbers", "Export it again.")
    if float(values.max()) - float(values.min()) < 1e-6:
        raise DataError("shows nothing: all its pixels are equal", "Export it again; a decoder may have failed.")
    return picture


@contextmanager
def silence() -> Iterator[None]:
    """Neither warnings nor logs of libraries in the block: they may quote patients, and problems are told by name."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def check_size(rows: int, columns: int) -> None:
    """Refuse a picture that claims no pixels or too many, before memory is taken for it."""
    if rows < 1 or columns < 1:
        raise DataError("has no rows or no columns", "Export it again.")
    if rows * columns > LARGEST_PICTURE:
        raise DataError(
            f"claims {columns} x {rows} pixels, more than {LARGEST_PICTURE:,}", "Export it at a smaller size."
        )
