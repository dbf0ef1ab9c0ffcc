"""Rectangles of a DICOM picture overwritten, in all its frames; the picture is then stored uncompressed."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from primum.errors import DataError
from primum.imaging.reader import LARGEST_FILE, check_size
from primum.imaging.stored import frame

Box = tuple[int, int, int, int]
"""(top, left, bottom, right) in pixels; bottom and right are just outside."""

_COMPRESSED_ONLY: Final = ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")


def blank(dataset: Dataset, boxes: Sequence[Box]) -> int:
    """Overwrite `boxes` with black in every frame, in place; how many boxes lie in the picture.

    Nothing of what stood there can be found again: the pixels are decoded, overwritten and stored without compression
    (explicit VR, in the byte order of the file); colours become RGB. Raises DataError where a box is none, the
    picture cannot be decoded, has pixels that are no integers of 8, 16 or 32 bits, or is too large to be unpacked.
    """
    rows, columns = int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0))
    check_size(rows, columns)
    inside = [_clipped(box, rows, columns) for box in boxes]
    frames = int(dataset.get("NumberOfFrames") or 1)
    _check(dataset, rows * columns * frames)
    values = np.stack([_blanked(frame(dataset, index), inside, dataset) for index in range(frames)])
    _store(dataset, values, frames)
    return sum(bottom > top and right > left for top, left, bottom, right in inside)


def _clipped(box: Box, rows: int, columns: int) -> Box:
    top, left, bottom, right = box
    if not (0 <= top < bottom and 0 <= left < right):
        raise DataError(f"{top},{left},{bottom},{right} is no rectangle", "Give top,left,bottom,right in pixels.")
    return min(top, rows), min(left, columns), min(bottom, rows), min(right, columns)


def _check(dataset: Dataset, pixels: int) -> None:
    bits = int(dataset.get("BitsAllocated", 8))
    if "PixelData" not in dataset or bits not in (8, 16, 32):
        raise DataError("has pixels that cannot be blanked (no integers of 8, 16 or 32 bits)", "Keep it out.")
    if pixels * int(dataset.get("SamplesPerPixel", 1)) * bits // 8 > LARGEST_FILE:
        raise DataError(f"is larger than {LARGEST_FILE >> 20} MiB when it is unpacked", "Export fewer frames.")


def _blanked(values: npt.NDArray[Any], boxes: Sequence[Box], dataset: Dataset) -> npt.NDArray[Any]:
    """A copy with black (for a palette: its first colour) in the boxes."""
    values = values.copy()
    inverted = dataset.PhotometricInterpretation == "MONOCHROME1"
    black = values.max() if inverted else values.min() if values.ndim == 2 else 0
    for top, left, bottom, right in boxes:
        values[top:bottom, left:right] = black
    return values


def _store(dataset: Dataset, values: npt.NDArray[Any], frames: int) -> None:
    """`values` [frames, rows, columns(, 3)] as the pixels of `dataset`, uncompressed."""
    for name in _COMPRESSED_ONLY:
        if name in dataset:
            delattr(dataset, name)
    if values.ndim == 4:
        dataset.PhotometricInterpretation, dataset.PlanarConfiguration = "RGB", 0
    bits = values.dtype.itemsize * 8
    if bits != int(dataset.BitsAllocated):
        dataset.BitsAllocated = bits
    dataset.PixelRepresentation = int(values.dtype.kind == "i")
    big = UID(str(dataset.file_meta.TransferSyntaxUID)) == ExplicitVRBigEndian  # other elements are in that order too
    dataset.file_meta.TransferSyntaxUID = ExplicitVRBigEndian if big else ExplicitVRLittleEndian
    data = values.astype(values.dtype.newbyteorder(">" if big else "<")).tobytes()
    dataset.PixelData = data + bytes(len(data) % 2)
    dataset["PixelData"].VR = "OB" if bits == 8 else "OW"
    dataset["PixelData"].is_undefined_length = False
