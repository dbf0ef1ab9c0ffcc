"""DICOM objects from elsewhere -> files in a folder that a node can read: checked, de-identified, whole or not there.

A file lies at class/patient/series/instance.dcm; patient, series and instance are pseudonyms under the node's key. The
class is `incoming`, or the value of an attribute (before it is removed), or `unlabelled` where that is empty or names
somebody. Nothing that names a patient touches the disk. Used by `receive.py` (C-STORE) and `dicomweb.py`.
"""

import re
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from tempfile import NamedTemporaryFile
from threading import Lock
from typing import Final

import numpy as np
from pydicom import Dataset, dcmread
from pydicom.filereader import read_dataset, read_preamble
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from primum.disk import write
from primum.errors import DataError, InputError, MachineError
from primum.imaging.blank import Box
from primum.imaging.deidentify import NOTHING, Removed, deidentify, identifying_words, pseudonymous_uid
from primum.imaging.image import Pixels
from primum.imaging.labels_dicom import no_class
from primum.imaging.patient import canonical
from primum.imaging.reader import decoding
from primum.imaging.results_files import encode
from primum.imaging.stored import LABEL_MAP, SEGMENTATION, frame, kind_of, refuse_what_is_no_picture

FindText = Callable[[Pixels], list[Box]]
"""Where text stands in a picture, float32 [1 or 3, rows, columns] in [0, 1]: (top, left, bottom, right) of each."""

SYNTAXES: Final = (
    ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian, JPEGBaseline8Bit, JPEGExtended12Bit,
    JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEGLSNearLossless, JPEG2000Lossless, JPEG2000, HTJ2KLossless,
    HTJ2KLosslessRPCL, HTJ2K, RLELossless,
)  # fmt: skip
"""Transfer syntaxes whose pixels can be read. Not the deflated one: few bytes could become more than memory holds, and
every sender can send explicit little endian instead (PS3.5 section 10.1)."""
INCOMING: Final = "incoming"
UNLABELLED: Final = "unlabelled"
LEAST_FREE: Final = 1 << 30
"""Bytes that are left free on the disk: whoever may send could fill it."""

_LONGEST_CLASS: Final = 60
_FRAMES_LOOKED_AT: Final = 4


@dataclass(frozen=True)
class Rules:
    """What becomes of an object. `class_from`: keyword of the attribute that names its class. `boxes`: rectangles that
    are always blanked; `find_text`: finds more of them in each picture. InputError where `class_from` cannot be used.

    A node shows the names of its classes to others: choose an attribute whose values are few and name nobody.
    """

    class_from: str | None = None
    keep_characteristics: bool = False
    boxes: tuple[Box, ...] = ()
    find_text: FindText | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.class_from is not None and (wrong := no_class(self.class_from)):
            raise InputError(*wrong)


@dataclass
class Inbox:
    """A folder that takes objects in, one at a time whoever calls. Counts what it did; prints no name of anybody.

    `new`: written now, `unlabelled` of them without a class; `there`: were there already; `aside`: why the others were
    not written -> how many; `rejected`: why senders were sent away before they could give anything -> how many times.
    """

    folder: Path
    key: bytes = field(repr=False)
    rules: Rules = field(default_factory=Rules)
    new: int = 0
    unlabelled: int = 0
    there: int = 0
    aside: Counter[str] = field(default_factory=Counter)
    rejected: Counter[str] = field(default_factory=Counter)
    removed: Removed = NOTHING
    _names: set[str] | None = field(default=None, repr=False)
    _lock: Lock = field(default_factory=Lock, repr=False)

    def require_writable(self) -> None:
        """Make the folder; MachineError where files cannot be written to it, before anybody sends one."""
        _make(self.folder, self.folder)
        try:
            with NamedTemporaryFile(dir=self.folder, prefix=".primum-"):
                pass
        except OSError as error:
            raise MachineError(
                f"{self.folder} cannot be written: {error.strerror}.", "Choose another folder."
            ) from error

    def reject(self, why: str) -> bool:
        """Count a sender that was sent away; whether it is the first for that reason."""
        with self._lock:
            self.rejected[why] += 1
            return self.rejected[why] == 1

    def take(self, data: bytes) -> Path:
        """Take in one DICOM file (PS3.10), and say where it lies now.

        Raises DataError with the reason where it is set aside, MachineError where it cannot be written.
        """
        with self._lock:
            try:
                return self._take(data)
            except DataError as error:
                self.aside[error.message] += 1
                raise

    def has(self, instance: str) -> bool:
        """Whether the instance (its UID as the sender knows it) lies in the folder, in whichever class."""
        with self._lock:
            if self._names is None:
                self._names = {path.stem for path in self.folder.glob("*/*/*/*.dcm")}
            return pseudonymous_uid(instance, self.key) in self._names

    def _take(self, data: bytes) -> Path:
        with decoding("DICOM"):
            if _syntax(data) not in SYNTAXES:
                raise DataError("has a transfer syntax that cannot be read", "Send it uncompressed or as JPEG 2000.")
            dataset = dcmread(BytesIO(data))
            _refuse(dataset)
            label = _class_of(dataset, self.rules.class_from)
            boxes = self._boxes(dataset)
        removed = deidentify(dataset, self.key, keep_characteristics=self.rules.keep_characteristics, boxes=boxes)
        with decoding("DICOM"):
            series = str(dataset.get("SeriesInstanceUID") or "") or "series"
            path = self.folder / label / str(dataset.PatientID) / series / f"{dataset.SOPInstanceUID}.dcm"
            cleaned = encode(dataset)
        if path.exists():
            self.there += 1
            return path
        _make(path.parent, self.folder)
        write(path, cleaned, private=True)
        self.new += 1
        self.unlabelled += label == UNLABELLED
        if self._names is not None:
            self._names.add(path.stem)
        self.removed = self.removed + removed
        return path

    def _boxes(self, dataset: Dataset) -> tuple[Box, ...]:
        found = set(self.rules.boxes)
        if self.rules.find_text is not None:
            frames = int(dataset.get("NumberOfFrames") or 1)
            for index in sorted({round(step * (frames - 1) / 3) for step in range(_FRAMES_LOOKED_AT)}):
                found.update(self.rules.find_text(_shown(dataset, index)))
        return tuple(sorted(found))


def _syntax(data: bytes) -> UID:
    """From the file meta information alone: a deflated data set would be inflated by reading further."""
    file = BytesIO(data)
    read_preamble(file, False)
    meta = read_dataset(file, False, True, stop_when=lambda tag, kind, length: tag >> 16 != 2)
    return UID(str(meta.get("TransferSyntaxUID", "")))


def _refuse(dataset: Dataset) -> None:
    """Raise DataError where no reader of this room could use the object."""
    if kind_of(dataset) not in (SEGMENTATION, LABEL_MAP):
        refuse_what_is_no_picture(dataset)
    elif "PixelData" not in dataset:
        raise DataError("is a mask without pixels", "Export it again.")


def _class_of(dataset: Dataset, name: str | None) -> str:
    if name is None:
        return INCOMING
    value = dataset.get(name)
    text = unicodedata.normalize("NFKC", canonical(str(value if value is not None else "")))
    words = identifying_words(dataset)
    if words is not None and words.search(text):
        return UNLABELLED
    kept = re.sub(r"[^\w .+-]", "_", text)[:_LONGEST_CLASS].strip(" .")
    return kept or UNLABELLED


def _shown(dataset: Dataset, index: int) -> Pixels:
    """One frame for the eye of a detector: float32 [1 or 3, rows, columns] in [0, 1]."""
    values = frame(dataset, index).astype(np.float32)
    low, high = float(values.min()), float(values.max())
    values = (values - low) / (high - low if high > low else 1.0)
    return values[None] if values.ndim == 2 else np.ascontiguousarray(values[..., :3].transpose(2, 0, 1))


def _make(folder: Path, top: Path) -> None:
    """`folder` below `top`, each level for this user alone; MachineError where there is no room."""
    try:
        missing: Sequence[Path] = [folder, *folder.parents]
        for level in reversed([level for level in missing if level == top or top in level.parents]):
            level.mkdir(mode=0o700, exist_ok=True, parents=level == top)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise MachineError(f"{folder} cannot be made: {error.strerror}.", "Choose another folder.") from error
    if free < LEAST_FREE:
        raise MachineError(f"the disk of {top} is nearly full.", "Free some space; what is there is whole.")
