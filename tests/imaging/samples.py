"""Small pictures and DICOM files for the tests of imaging."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from primum.rng import Stream

WHEEL = Path(pydicom.__file__).parent / "data" / "test_files"
"""DICOM files inside the pydicom wheel."""

KEY = bytes(range(32))


def grey(label: str, rows: int = 24, columns: int = 20, top: int = 255) -> np.ndarray:
    """A smooth picture with noise, uint16 in [0, top], the same for the same label."""
    stream = Stream.public(label)
    ramp = np.linspace(0.1, 0.8, rows)[:, None] + np.linspace(0, 0.1, columns)[None]
    values = np.clip(ramp + 0.1 * stream.uniform((rows, columns)), 0, 1)
    values[0, 0], values[-1, -1] = 0, 1
    return (values * top).round().astype(np.uint16)


def png(path: Path, label: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Pillow.fromarray(grey(label or str(path)).astype(np.uint8)).save(path)
    return path


def dicom(path: Path, stored: np.ndarray | None = None, /, **elements: Any) -> Path:
    """A DICOM file with nothing but what pixels need, and `elements` (None removes one)."""
    stored = grey(str(path), top=4095) if stored is None else stored
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    bits = stored.dtype.itemsize * 8
    standard: dict[str, Any] = {
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "PixelData": stored.tobytes(),
    }
    for name, value in {**standard, **elements}.items():
        if value is not None:
            setattr(dataset, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset.save_as(path, enforce_file_format=True)
    return path


def two_classes(folder: Path, count: int = 6) -> Path:
    """`folder`/{A,B}/pNN_0.png: `count` patients of each class, one picture each."""
    for label in ("A", "B"):
        for number in range(count):
            png(folder / label / f"{label.lower()}{number:02d}_0.png")
    return folder


@contextmanager
def another_user() -> Iterator[Path]:
    """A folder that all may enter, and inside the block this process is not root: permissions count."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        before = os.geteuid()
        if before == 0:
            os.seteuid(65534)
        try:
            yield folder
        finally:
            if before == 0:
                os.seteuid(0)
