"""A format of pictures whose reader counts: what is decoded again is seen."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.imaging.samples import grey

from primum.errors import DataError
from primum.imaging.image import Picture
from primum.imaging.reader import _READERS, reader

_MAGIC = b"COUNTED!"
decoded: list[str] = []
"""Names of the files that were decoded, in order; tests clear it."""


@pytest.fixture(autouse=True, scope="module")
def counting() -> Iterator[None]:
    """The reader is there for the tests of the module that imports this, and for no others."""
    reader("counted", lambda head: head.startswith(_MAGIC))(_read_counted)
    yield
    _READERS.pop("counted")


def _read_counted(path: Path) -> Picture:
    """24 x 20 values of a byte each behind the magic; "bad" in their place is refused."""
    decoded.append(path.name)
    data = path.read_bytes()[len(_MAGIC) :]
    if data.startswith(b"bad"):
        raise DataError("is counted as bad", "Write a good one.")
    values = np.frombuffer(data, np.uint8).reshape(1, 24, 20)
    return Picture(values.astype(np.float32) / 255, "counted", notices=("counted",))


def counted(path: Path, label: str = "") -> Path:
    """One such file, the same for the same label; "bad" is one that cannot be read."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"bad" if label == "bad" else grey(label or path.name).astype(np.uint8).tobytes()
    path.write_bytes(_MAGIC + data)
    return path


def counted_folder(folder: Path, count: int = 4) -> Path:
    """`folder`/{A,B}/pNN_0: `count` patients of each class, one picture each."""
    for label in ("A", "B"):
        for number in range(count):
            counted(folder / label / f"{label.lower()}{number:02d}_0")
    return folder
