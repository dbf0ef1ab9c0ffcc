"""Small volumes, series of DICOM files and segmentations for the tests of imaging."""

import struct
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from tests.imaging.samples import dicom

from primum.rng import Stream

AXIAL = (1, 0, 0, 0, 1, 0)
CORONAL = (1, 0, 0, 0, 0, -1)
AFFINE = np.array([[0, -1.5, 0, 40], [-2, 0, 0, 60], [0, 0, 3, -90], [0, 0, 0, 1]], np.float64)
"""Of a NIfTI (RAS): first index to the back, second to the left, third to the head."""
CT_IMAGE = "1.2.840.10008.5.1.4.1.1.2"


def body(label: str = "body", shape: tuple[int, int, int] = (5, 12, 10)) -> np.ndarray:
    """Hounsfield values, int16: an ellipsoid off the middle in air, with noise; the same for the same label."""
    grids = np.meshgrid(*(np.linspace(-1, 1, side) for side in shape), indexing="ij")
    inside = sum(((grid - 0.15 * axis) / 0.9) ** 2 for axis, grid in enumerate(grids)) < 1
    noise = Stream.public(label).uniform(shape)
    values = np.where(inside, 40 + 300 * grids[2] + 60 * noise, -1000 + 5 * noise)
    return values.round().astype(np.int16)


def organ(shape: tuple[int, int, int] = (5, 12, 10)) -> np.ndarray:
    """A mask, uint8: class 1 in the middle, class 2 at its right side, each in some slices only."""
    mask = np.zeros(shape, np.uint8)
    slices, rows, columns = shape
    mask[1 : slices - 1, rows // 3 : rows - 2, 2 : columns // 2] = 1
    mask[2:slices, rows // 4 : rows // 2, columns // 2 : columns - 1] = 2
    return mask


def oblique(degrees: float = 20) -> tuple[float, ...]:
    """Direction cosines of an axial plane tipped about the patient's x axis."""
    turn = np.deg2rad(degrees)
    return (1, 0, 0, 0, float(np.cos(turn)), float(np.sin(turn)))


def places(turn: tuple[float, ...], count: int, step: float, origin: tuple[float, ...] = (-30, -40, 100)) -> np.ndarray:
    """The corners of `count` slices, `step` mm apart along the normal."""
    normal = np.cross(turn[:3], turn[3:])
    return np.array(origin) + np.arange(count)[:, None] * step * normal


def series(
    folder: Path,
    values: np.ndarray,
    /,
    turn: tuple[float, ...] = AXIAL,
    step: float = 3.0,
    corners: np.ndarray | None = None,
    **elements: Any,
) -> list[Path]:
    """One DICOM file for each slice of `values` (int16 Hounsfield), named so that names say nothing about places."""
    corners = places(turn, len(values), step) if corners is None else corners
    paths = []
    for index, (plane, corner) in enumerate(zip(values, corners, strict=True)):
        standard: dict[str, Any] = {
            "SOPClassUID": CT_IMAGE,
            "SOPInstanceUID": f"1.2.3.{index}",
            "SeriesInstanceUID": "1.2.9",
            "Modality": "CT",
            "RescaleSlope": 1,
            "RescaleIntercept": -1024,
            "PixelSpacing": [2.0, 1.5],
            "ImageOrientationPatient": list(turn),
            "ImagePositionPatient": corner.tolist(),
        }
        name = f"IM{(index * 7) % 5}{index:03d}"
        paths.append(dicom(folder / name, (plane + 1024).astype(np.uint16), **{**standard, **elements}))
    return paths


def _item(**elements: Any) -> Sequence:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return Sequence([item])


def groups(corner: np.ndarray | None, **sequences: Sequence) -> Dataset:
    item = Dataset()
    if corner is not None:
        item.PlanePositionSequence = _item(ImagePositionPatient=np.asarray(corner).tolist())
    for name, value in sequences.items():
        setattr(item, name, value)
    return item


def shared(turn: tuple[float, ...], **sequences: Sequence) -> Sequence:
    return Sequence(
        [
            groups(
                None,
                PlaneOrientationSequence=_item(ImageOrientationPatient=list(turn)),
                PixelMeasuresSequence=_item(PixelSpacing=[2.0, 1.5], SliceThickness=3.0),
                **sequences,
            )
        ]
    )


def enhanced(path: Path, values: np.ndarray, turn: tuple[float, ...] = AXIAL, **elements: Any) -> Path:
    """One enhanced CT file of all slices of `values`."""
    corners = places(turn, len(values), 3.0)
    unit = _item(RescaleSlope=1, RescaleIntercept=-1024, RescaleType="HU")
    standard: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.2.1",
        "NumberOfFrames": len(values),
        "Rows": values.shape[1],
        "Columns": values.shape[2],
        "SharedFunctionalGroupsSequence": shared(turn, PixelValueTransformationSequence=unit),
        "PerFrameFunctionalGroupsSequence": Sequence([groups(corner) for corner in corners]),
    }
    return dicom(path, (values + 1024).astype(np.uint16), **{**standard, **elements})


def segmentation(
    path: Path,
    mask: np.ndarray,
    /,
    turn: tuple[float, ...] = AXIAL,
    corners: np.ndarray | None = None,
    labels: dict[int, str] | None = None,
    kind: str = "BINARY",
    **elements: Any,
) -> Path:
    """A DICOM SEG of `mask` [slices, rows, columns]; empty frames are left out, as most programs do."""
    corners = places(turn, len(mask), 3.0) if corners is None else corners
    labels = {int(number): f"organ {number}" for number in np.unique(mask) if number} if labels is None else labels
    frames, items = [], []
    for number in labels:
        for plane, corner in zip(mask, corners, strict=True):
            if kind != "LABELMAP" and not (plane == number).any():
                continue
            who = {} if kind == "LABELMAP" else {"SegmentIdentificationSequence": _item(ReferencedSegmentNumber=number)}
            items.append(groups(corner, **who))
            frames.append(plane if kind == "LABELMAP" else plane == number)
        if kind == "LABELMAP":
            break
    stack = np.array(frames).astype(np.uint8)
    segments = Sequence()
    for number, label in labels.items():
        segments += _item(SegmentNumber=number, SegmentLabel=label)
    bits = 1 if kind == "BINARY" else 8
    data = np.packbits(stack.ravel(), bitorder="little").tobytes() if bits == 1 else (stack * 1).tobytes()
    if kind == "FRACTIONAL":
        data = (stack * 200).astype(np.uint8).tobytes()
        elements = {"MaximumFractionalValue": 255, **elements}
    standard: dict[str, Any] = {
        "SOPClassUID": "1.2.840.10008.5.1.4.1.1.66." + ("7" if kind == "LABELMAP" else "4"),
        "SegmentationType": kind,
        "NumberOfFrames": len(stack),
        "Rows": mask.shape[1],
        "Columns": mask.shape[2],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelData": data + bytes(len(data) % 2),
        "SegmentSequence": segments,
        "SharedFunctionalGroupsSequence": shared(turn),
        "PerFrameFunctionalGroupsSequence": Sequence(items),
    }
    return dicom(path, np.zeros((1, 1), np.uint8), **{**standard, **elements})


def nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = AFFINE, kind: Any = nibabel.Nifti1Image) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    kind(values, affine).to_filename(path)
    return path


def grid_of(turn: tuple[float, ...], step: float = 3.0, origin: tuple[float, ...] = (-30, -40, 100)) -> np.ndarray:
    """The affine (slice, row, column) -> LPS mm of `series`."""
    affine = np.eye(4)
    affine[:3, 0] = np.cross(turn[:3], turn[3:]) * step
    affine[:3, 1], affine[:3, 2] = np.array(turn[3:]) * 2.0, np.array(turn[:3]) * 1.5
    affine[:3, 3] = origin
    return affine


def flips(data: bytes, seed: int, count: int) -> bytes:
    """`count` bytes of `data` changed, the same for the same seed; most of them among the first 700."""
    drawn = np.frombuffer(Stream.public(f"flips {seed}").bytes(count * 9), np.uint8).reshape(count, 9)
    changed = bytearray(data)
    for row in drawn.tolist():
        place = struct.unpack("<Q", bytes(row[:8]))[0]
        changed[place % (min(700, len(data)) if row[7] & 3 else len(data))] = row[8]
    return bytes(changed)
