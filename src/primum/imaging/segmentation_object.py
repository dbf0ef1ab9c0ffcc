"""DICOM SEG -> a mask on the grid of its volume: each frame laid where it lies in the patient.

Kinds BINARY (1 bit), FRACTIONAL (half of the greatest value and more counts) and LABELMAP. Frames may be missing (they
are empty), in any order, turned around or exchanged in their axes against the volume, but must lie on its grid.
Source: DICOM PS3.3 A.51, C.8.20, C.7.6.16.
"""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset

from primum.errors import DataError
from primum.imaging.intensity import Float64
from primum.imaging.mask_picture import class_places
from primum.imaging.reader import check_size, decoding
from primum.imaging.series import MOST_FRAMES
from primum.imaging.stored import LABEL_MAP, SEGMENTATION, first_number, frame, functional, kind_of, open_dicom
from primum.imaging.volume import Volume

ON_GRID: Final = 0.1
"""A frame may lie off the volume's grid by this part of a voxel."""
LARGEST_SEGMENT: Final = 255


def read_segmentation(path: Path, volume: Volume, classes: tuple[str, ...] | None = None) -> npt.NDArray[np.uint8]:
    """Uint8 [slices, rows, columns] on the grid of `volume`: 0 background, else the class of the segment.

    `classes`: those of a study; which one a segment is says `class_places`, by its label or its number. None takes the
    segment's number. Raises DataError where a frame lies off the grid or outside the volume, or two segments share
    a voxel.
    """
    with decoding("DICOM SEG"):
        dataset = open_dicom(path)
        if kind_of(dataset) not in (SEGMENTATION, LABEL_MAP):
            raise DataError("is a DICOM file, but no segmentation (SEG)", "Export the mask as DICOM SEG.")
        check_size(int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0)))
        frames = int(dataset.get("NumberOfFrames") or 1)
        if frames > MOST_FRAMES:
            raise DataError(f"claims {frames} frames", "Export fewer frames in a file.")
        numbers = _class_of_segment(dataset, classes)
        to_grid = np.linalg.inv(volume.affine)
        mask = np.zeros(volume.values.shape, np.uint8)
        for index in range(frames):
            _lay(mask, _labels(dataset, index, numbers), to_grid @ _frame_affine(dataset, index))
        return mask


def _class_of_segment(dataset: Dataset, classes: tuple[str, ...] | None) -> dict[int, int]:
    """Number of each segment -> class."""
    segments = {int(item.SegmentNumber): str(item.get("SegmentLabel", "")) for item in dataset.SegmentSequence}
    segments.pop(0, None)  # label maps may name the background
    if classes is not None:
        return class_places(segments, classes)
    if max(segments, default=0) > LARGEST_SEGMENT:
        raise DataError(f"has a segment above {LARGEST_SEGMENT}", "Number its segments from 1.")
    return {number: number for number in segments}


def _labels(dataset: Dataset, index: int, numbers: dict[int, int]) -> npt.NDArray[np.uint8]:
    """Classes [rows, columns] of one frame."""
    values = frame(dataset, index)
    if kind_of(dataset) == LABEL_MAP or str(dataset.get("SegmentationType", "")) == "LABELMAP":
        if not set(np.unique(values).tolist()) <= {0, *numbers}:
            raise DataError("has values that are the number of no segment", "Export it again.")
        mapped = np.zeros(values.shape, np.uint8)
        for segment, place in numbers.items():
            mapped[values == segment] = place
        return mapped
    number = first_number(functional(dataset, "SegmentIdentificationSequence", "ReferencedSegmentNumber", index))
    if number is None or int(number) not in numbers:
        raise DataError("has a frame of no segment", "Export it again.")
    least = 1.0
    if str(dataset.get("SegmentationType", "")) == "FRACTIONAL":
        least = float(dataset.get("MaximumFractionalValue", 255)) / 2
    return np.where(values >= least, numbers[int(number)], 0).astype(np.uint8)


def _frame_affine(dataset: Dataset, index: int) -> Float64:
    """[4, 3]: (row, column, 1) of a frame -> LPS mm."""
    corner = functional(dataset, "PlanePositionSequence", "ImagePositionPatient", index)
    turn = functional(dataset, "PlaneOrientationSequence", "ImageOrientationPatient", index)
    spacing = functional(dataset, "PixelMeasuresSequence", "PixelSpacing", index)
    if corner is None or turn is None or spacing is None:
        raise DataError("does not say where its frames lie", "Export it again from the program that drew it.")
    x, y = np.array(turn[:3], np.float64), np.array(turn[3:], np.float64)
    affine = np.zeros((4, 3))
    affine[:3, 0], affine[:3, 1] = y * float(spacing[0]), x * float(spacing[1])
    affine[:3, 2], affine[3, 2] = np.array(corner, np.float64), 1
    return affine


def _lay(mask: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8], to_voxel: Float64) -> None:
    """Write the labels of one frame at its place; `to_voxel` [4, 3]: (row, column, 1) -> voxel of the mask."""
    whole = np.rint(to_voxel[:3])
    rows, columns = np.nonzero(labels)
    if not np.isfinite(to_voxel).all() or not _on_grid(to_voxel[:3], whole, labels.shape):
        raise DataError("lies on another grid than its volume", "Draw the mask on the series itself.")
    if not len(rows):
        return
    places = whole.astype(np.int64) @ np.stack([rows, columns, np.ones_like(rows)])
    if (places < 0).any() or (places >= np.array(mask.shape)[:, None]).any():
        raise DataError("marks voxels outside its volume", "Give the whole series, or the mask of this one.")
    slices, down, across = places
    before, drawn = mask[slices, down, across], labels[rows, columns]
    if ((before != 0) & (before != drawn)).any():
        raise DataError("has segments that overlap", "Keep one class for each voxel.")
    mask[slices, down, across] = drawn


def _on_grid(exact: Float64, whole: Float64, shape: tuple[Any, ...]) -> bool:
    """Whether steps are those of a grid and no corner of the frame is off it by more than `ON_GRID` voxels."""
    steps = np.abs(whole[:, :2])
    if not (np.array_equal(steps.sum(axis=0), [1, 1]) and steps.sum(axis=1).max() <= 1):
        return False
    corners = np.array([[row, column, 1] for row in (0, shape[0] - 1) for column in (0, shape[1] - 1)]).T
    return bool(np.abs((exact - whole) @ corners).max() <= ON_GRID)
