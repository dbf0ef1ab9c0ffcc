"""Which files a folder holds and what became of each: the one record that every count is taken from.

A manifest names files and reasons of one hospital, and pseudonyms in place of patients, studies and series. It is kept
in the node's state folder, never beside the images; written whole or not at all (disk.py); sealed with a key derived
from the pseudonym key, so that a damaged manifest, or one of another node, is none.
"""

import hashlib
import hmac
import os
import stat
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

import msgspec

from primum.disk import write
from primum.errors import DataError
from primum.imaging.image import Problem
from primum.imaging.labels_csv import classes_of
from primum.imaging.reader import LARGEST_FILE
from primum.study import Labels

SETTLED: Final = 2_000_000_000
"""Nanoseconds: a file that was changed less before it was read may change again without a new time; its stamp does not
count the next time."""

_SEAL_BYTES: Final = 32
_Value = TypeVar("_Value")


@dataclass(frozen=True)
class Stamp:
    """One file as it was when it was read: bytes, times of change (of content, of inode), inode, SHA-256 of its content.

    The inode's time cannot be set by copying tools, and moves with the permissions: a file that may no longer be read
    is noticed. `changed_ns` 0: not settled.
    """

    size: int
    modified_ns: int
    changed_ns: int
    inode: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """One image: a file, or with masks a file or folder; `label`: its class (classes: labels_csv.py), or its mask's file.

    `parts`: all files that it was read from. `content`: what names its pixels in the cache (cache.py), empty where they
    are not kept. `patient`, `study`, `series`: pseudonyms, empty where unknown. `images`: how many it gave (slices,
    windows), 0 where it was set aside. `drawn`: images in which a pixel is of each class, with masks. `spacing`, with masks: mm of a
    prepared pixel (row, column), of a volume (slice, row, column), empty where the file does not say. `grid`: rows and columns of the picture, or slice, that was
    cut into windows, or sides of the volume that was cut into patches; empty where it is one square. `file_spacing`: mm of a
    pixel of the file itself, before it was prepared: (row, column), of a volume (slice, row, column), empty where it says none.
    """

    file: str
    state: Literal["used", "set aside"]
    label: str = ""
    parts: tuple[str, ...] = field(default=(), repr=False)
    content: str = field(default="", repr=False)
    patient: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    series: str = field(default="", repr=False)
    format: str = ""
    notices: tuple[str, ...] = ()
    images: int = 0
    drawn: tuple[int, ...] = ()
    spacing: tuple[float, ...] = ()
    reason: str = ""
    hint: str = ""
    grid: tuple[int, ...] = ()
    file_spacing: tuple[float, ...] = ()


@dataclass(frozen=True)
class Manifest:
    """What became of a folder at one preparation: records in the order of the data set, then what was set aside.

    `stamps`: of every file that was read, by its name relative to the folder. `notices`: of the folder as a whole.
    `idle`: of an earlier reading that asked for more classes, files that are still there; they count nowhere.
    `labels`: how many classes an image has.
    """

    classes: tuple[str, ...]
    records: tuple[Record, ...] = field(repr=False)
    stamps: dict[str, Stamp] = field(repr=False)
    notices: tuple[str, ...] = ()
    idle: tuple[Record, ...] = field(default=(), repr=False)
    labels: Labels = "one"

    @property
    def used(self) -> tuple[Record, ...]:
        """Images of the data set, in its order."""
        return tuple(record for record in self.records if record.state == "used")

    @property
    def problems(self) -> tuple[Problem, ...]:
        """What was set aside, why, and what to do."""
        aside = (record for record in self.records if record.state == "set aside")
        return tuple(Problem(record.file, record.reason, record.hint) for record in aside)

    @property
    def formats(self) -> dict[str, int]:
        """Files per format; a series of DICOM files is one. A file may have given several images (slices, windows)."""
        return dict(sorted(Counter(record.format for record in self.used).items()))

    @property
    def by_class(self) -> dict[str, int]:
        """Images per class; with masks: images in which a pixel is of it."""
        return {
            name: sum(_of_class(record, place, name, self.labels) for record in self.used)
            for place, name in self._numbered
        }

    @property
    def patients(self) -> dict[str, int]:
        """Patients per class; with masks: patients of whom a pixel is of it."""
        return {
            name: len({record.patient for record in self.used if _of_class(record, place, name, self.labels)})
            for place, name in self._numbered
        }

    @property
    def _numbered(self) -> list[tuple[int, str]]:
        return list(enumerate(self.classes))


def _of_class(record: Record, place: int, name: str, labels: Labels) -> int:
    if record.drawn:
        return record.drawn[place] if place < len(record.drawn) else 0
    return record.images if name in classes_of(record.label, labels) else 0


def stamp(path: Path, before: Stamp | None = None) -> Stamp:
    """The stamp of a file; `before` again if it still holds, and then the file is not read.

    Raises DataError (without a reason for a user: the reader of images has better words) where it is no regular file,
    empty, too large, or cannot be read.
    """
    try:
        if before is not None and holds(path, before):
            return before
        if not stat.S_ISREG(path.stat().st_mode):
            raise DataError("is not a regular file")
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if not 0 < found.st_size <= LARGEST_FILE:
                raise DataError("is empty or too large")
            settled = time.time_ns() - max(found.st_mtime_ns, found.st_ctime_ns) > SETTLED
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError("cannot be read") from error
    changed = found.st_ctime_ns if settled else 0
    return Stamp(found.st_size, found.st_mtime_ns, changed, found.st_ino, digest)


def holds(path: Path, before: Stamp) -> bool:
    """Whether the file is still what it was by size, times and inode, without reading it."""
    try:
        found = path.stat()
    except OSError:
        return False
    times = (found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
    return times == (before.size, before.modified_ns, before.changed_ns, before.inode)


def same_file(path: Path, before: Stamp) -> bool:
    """As `holds`, for a file that was stamped a moment ago, settled or not."""
    try:
        found = path.stat()
    except OSError:
        return False
    return (found.st_size, found.st_mtime_ns, found.st_ino) == (before.size, before.modified_ns, before.inode)


def seal_key(pseudonym_key: bytes) -> bytes:
    """The key of seals: who has no pseudonym key of this node cannot make a manifest or a cache for it."""
    return hmac.new(pseudonym_key, b"primum imaging seal\0", hashlib.sha256).digest()


def write_sealed(path: Path, value: object, key: bytes) -> None:
    """`value` (a dataclass) as JSON behind its seal; whole or not at all, mode 0600. Raises MachineError."""
    data = msgspec.json.encode(value)
    write(path, _seal(path, data, key) + data, private=True)


def read_sealed(path: Path, kind: type[_Value], key: bytes) -> _Value | None:
    """What `write_sealed` wrote at this name with this key; None where it is not there, damaged or foreign."""
    try:
        whole = path.read_bytes()
        data = whole[_SEAL_BYTES:]
        if not hmac.compare_digest(whole[:_SEAL_BYTES], _seal(path, data, key)):
            return None
        return msgspec.json.decode(data, type=kind)
    except (OSError, msgspec.MsgspecError, ValueError):
        return None


def _seal(path: Path, data: bytes, key: bytes) -> bytes:
    """The names of the file and of its folder are part of it: one in another's place is none."""
    where = f"{path.parent.name}/{path.name}".encode()
    return hmac.new(key, len(where).to_bytes(4, "big") + where + data, hashlib.sha256).digest()
