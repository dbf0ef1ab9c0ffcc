"""DICOM images that results refer to: drawn, with an invented patient."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import generate_uid
from tests.imaging.samples import dicom, grey

from primum.imaging.results_files import Algorithm

ALGORITHM = Algorithm("Chest net", "1.2", "ab" * 32)
CT, CR, DX = (f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "1", "1.1"))
PATIENT = {
    "PatientName": "Müller^Jörg",
    "PatientID": "SECRET-4711",
    "PatientBirthDate": "19500203",
    "PatientSex": "M",
    "AccessionNumber": "ACC-99",
    "StudyDate": "20200102",
    "StudyTime": "101112",
    "StudyID": "S5",
    "ReferringPhysicianName": "Doe^Jane",
    "SpecificCharacterSet": "ISO_IR 100",
}


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """An orthogonal matrix [3, 3] of three turns in radians."""
    matrix = np.eye(3)
    for (a, b), angle in zip(((0, 1), (0, 2), (1, 2)), (yaw, pitch, roll), strict=True):
        turn = np.eye(3)
        turn[[a, a, b, b], [a, b, a, b]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        matrix = matrix @ turn
    return matrix


def series(
    folder: Path, axes: np.ndarray, slices: int = 5, rows: int = 10, columns: int = 12, **elements: Any
) -> tuple[list[Path], np.ndarray]:
    """CT slices along `axes` (columns: along a row, along a column, across), and their affine (slice, row, column)."""
    origin, spacing = np.array([-31.5, 12.25, 100.0]), (0.75, 1.25, 3.0)
    study, stack, frame = generate_uid(), generate_uid(), generate_uid()
    affine = np.eye(4)
    affine[:3] = np.column_stack((axes[:, 2] * spacing[2], axes[:, 1] * spacing[1], axes[:, 0] * spacing[0], origin))
    files = []
    for number in range(slices):
        uid, place = generate_uid(), origin + number * spacing[2] * axes[:, 2]
        stored = grey(f"slice {number}", rows, columns, 4095)
        wanted = {
            **PATIENT,
            "SOPClassUID": CT,
            "SOPInstanceUID": uid,
            "StudyInstanceUID": study,
            "SeriesInstanceUID": stack,
            "FrameOfReferenceUID": frame,
            "Modality": "CT",
            "InstanceNumber": number + 1,
            "ImageOrientationPatient": [round(float(x), 10) for x in axes[:, :2].T.ravel()],
            "ImagePositionPatient": [round(float(x), 8) for x in place],
            "PixelSpacing": [spacing[1], spacing[0]],
            "SliceThickness": spacing[2],
            **elements,
        }
        files.append(dicom(folder / f"slice{number}.dcm", stored, **wanted))
    return files, affine


def radiograph(path: Path, sop_class: str = DX, **elements: Any) -> Path:
    """A radiograph of 40 x 30 pixels: no frame of reference, no position."""
    wanted = {
        **PATIENT,
        "SOPClassUID": sop_class,
        "SOPInstanceUID": generate_uid(),
        "StudyInstanceUID": generate_uid(),
        "SeriesInstanceUID": generate_uid(),
        "Modality": "DX" if sop_class == DX else "CR",
        "PatientOrientation": ["L", "F"],
        "ImagerPixelSpacing": [0.2, 0.2],
        **elements,
    }
    return dicom(path, grey("radiograph", 40, 30, 4095), **wanted)


def mask_of(shape: tuple[int, ...], classes: int, seed: int = 0) -> np.ndarray:
    """Blocks of all classes, uint8, different in every slice."""
    places = np.indices(shape)
    return ((sum(places[axis] // 3 for axis in range(len(shape))) + places[0] + seed) % classes).astype(np.uint8)


def by_source(path: Path) -> dict[str, np.ndarray]:
    """Source SOP instance -> mask [rows, columns], with pydicom and the standard alone (PS3.3 C.8.20)."""
    found = pydicom.dcmread(path)
    frames = found.pixel_array.reshape(-1, found.Rows, found.Columns)
    masks: dict[str, np.ndarray] = {}
    for frame, groups in zip(frames, found.PerFrameFunctionalGroupsSequence, strict=True):
        source = groups.DerivationImageSequence[0].SourceImageSequence[0].ReferencedSOPInstanceUID
        shared = found.SharedFunctionalGroupsSequence[0]
        named = groups if "SegmentIdentificationSequence" in groups else shared
        number = named.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        masks.setdefault(source, np.zeros(frame.shape, np.uint8))[frame == 1] = number
    return masks


def enhanced(path: Path, axes: np.ndarray, frames: int = 4) -> Path:
    """One enhanced CT file of 10 x 12 pixels a frame, with the places of its frames and nothing more."""
    shared, per_frame = Dataset(), []
    shared.PixelMeasuresSequence = [_item(PixelSpacing=[1.25, 0.75], SliceThickness=3.0)]
    orientation = [round(float(x), 10) for x in axes[:, :2].T.ravel()]
    shared.PlaneOrientationSequence = [_item(ImageOrientationPatient=orientation)]
    for number in range(frames):
        place = [round(float(x), 8) for x in 3.0 * number * axes[:, 2]]
        per_frame.append(_item(PlanePositionSequence=[_item(ImagePositionPatient=place)]))
    return dicom(
        path,
        np.stack([grey(f"frame {number}", 10, 12, 4095) for number in range(frames)]),
        **PATIENT,
        SOPClassUID="1.2.840.10008.5.1.4.1.1.2.1",
        SOPInstanceUID=generate_uid(),
        StudyInstanceUID=generate_uid(),
        SeriesInstanceUID=generate_uid(),
        FrameOfReferenceUID=generate_uid(),
        Modality="CT",
        NumberOfFrames=frames,
        Rows=10,
        Columns=12,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=per_frame,
    )


def _item(**elements: Any) -> Dataset:
    item = Dataset()
    for name, value in elements.items():
        setattr(item, name, value)
    return item
