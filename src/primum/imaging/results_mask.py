"""A mask as the clinic reads it: DICOM SEG on the grid of its source images, and NIfTI.

A SEG holds one binary segment for each class but the first, which is the background, and refers to its source images
one by one; it is valid for a single radiograph, and for a series in any orientation. Source: DICOM PS3.3 A.51, C.8.20;
highdicom (Bridge et al., Journal of Digital Imaging 35, 2022).
"""

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import highdicom as hd
import nibabel
import numpy as np
import numpy.typing as npt
from nibabel import orientations
from pydicom.sr.codedict import codes

from primum.errors import DataError
from primum.imaging.results_codes import OWN_CODES, coding_schemes
from primum.imaging.results_files import (
    MANUFACTURER,
    NOT_FOR_DIAGNOSIS,
    UTF8,
    Algorithm,
    check_classes,
    encode,
    new_uid,
    orientation,
    read_headers,
    refers_to,
    refuse_existing,
    write_new,
)
from primum.imaging.stored import functional

Mask = npt.NDArray[np.uint8]

_SERIES: Final = 9001
_PLACES: Final = "PerFrameFunctionalGroupsSequence"
_OFF_GRID: Final = 0.05
"""Voxels; headers give places to a few decimals only."""
_ORGANS: Final = {
    name: getattr(codes.SCT, keyword)
    for name, keyword in (
        ("brain", "Brain"),
        ("colon", "Colon"),
        ("heart", "Heart"),
        ("hippocampus", "Hippocampus"),
        ("kidney", "Kidney"),
        ("liver", "Liver"),
        ("lung", "Lung"),
        ("lungs", "Lung"),
        ("pancreas", "Pancreas"),
        ("prostate", "Prostate"),
        ("spleen", "Spleen"),
        ("stomach", "Stomach"),
    )
}
_FINDINGS: Final = {
    name: getattr(codes.SCT, keyword)
    for name, keyword in (
        ("cancer", "Neoplasm"),
        ("lesion", "Lesion"),
        ("tumor", "Neoplasm"),
        ("tumour", "Neoplasm"),
    )
}
"""Class names whose code in SNOMED CT is certain; every other class gets a code of our own, made of its place."""


def write_segmentation(
    source_files: Sequence[Path], mask: Mask, classes: Sequence[str], algorithm: Algorithm, out: Path
) -> None:
    """Write `mask` as a DICOM SEG that refers to `source_files`.

    `source_files`: the images of one series, in any order, or one image, or one file of several frames in one frame of
    reference. `mask`: uint8 [files or frames, rows, columns], or [rows, columns] for one image; a class for each pixel,
    slice i of the mask belonging to file i. `classes[0]` is the background. Patient and study are those of the source,
    as DICOM requires.

    Raises DataError where mask and files do not belong together, a file is no DICOM image, or `out` exists.
    """
    refuse_existing(out)
    check_mask(mask, classes)
    headers = read_headers(source_files)
    stacked = mask[None] if mask.ndim == 2 else mask
    with refers_to(source_files[0]):
        _check_grid(source_files[0], headers, stacked)
        _say_thickness(headers)
        data = encode(_segmentation(headers, stacked, classes, algorithm))
    write_new(out, data)


def _segmentation(headers: list[Any], mask: Mask, classes: Sequence[str], algorithm: Algorithm) -> hd.seg.Segmentation:
    """Segmentation IOD (PS3.3 A.51); ValueError if not every slice of every class is in it."""
    found = hd.seg.Segmentation(
        source_images=headers,
        pixel_array=mask,
        segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=_segments(classes, algorithm),
        series_instance_uid=new_uid(),
        series_number=_SERIES,
        sop_instance_uid=new_uid(),
        instance_number=1,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.software,
        device_serial_number=algorithm.digest,
        content_label="SEGMENTATION",
        content_description=NOT_FOR_DIAGNOSIS,
        series_description=NOT_FOR_DIAGNOSIS,
        omit_empty_frames=bool(mask.any()),
        specific_character_set=UTF8,
        coding_schemes=coding_schemes(),
    )
    if "FrameOfReferenceUID" not in found:
        found.PatientOrientation = orientation(headers[0])
    filled = sum(bool((part == number).any()) for part in mask for number in range(1, len(classes)))
    if int(found.NumberOfFrames) != (filled or (len(classes) - 1) * len(mask)):
        raise ValueError("the library left a frame out")
    return found


def check_mask(mask: Mask, classes: Sequence[str]) -> None:
    """Raise DataError unless `mask` is uint8 of 2 or 3 dimensions and holds indices into `classes`."""
    check_classes(classes)
    if mask.dtype != np.uint8 or mask.ndim not in (2, 3) or mask.size == 0:
        raise DataError("a mask is uint8 [rows, columns] or [slices, rows, columns]", "Convert it first.")
    if int(mask.max()) >= len(classes):
        raise DataError(f"the mask has a value that none of {len(classes)} classes has", "Name all classes.")


def on_source_grid(source_files: Sequence[Path], affine: npt.NDArray[np.float64], mask: Mask) -> Mask:
    """`mask` of a volume, turned back to the grid of its source files: uint8 [files or frames, rows, columns], in their order.

    `mask`: uint8 [slices, rows, columns] in any order of axes. `affine`: float [4, 4], from its (slice, row, column) to
    mm, LPS, as `Volume.affine`. Nothing is interpolated: each pixel of a file is one voxel of the volume. Raises
    DataError where a pixel lies outside the volume or off its grid, or a file does not say where it lies.
    """
    headers = read_headers(source_files)
    with refers_to(source_files[0]):
        into = np.linalg.inv(np.asarray(affine, np.float64))
        slices = [
            _resliced(mask, into @ _affine_of(header, frame), header.Rows, header.Columns)
            for header in headers
            for frame in range(int(header.get("NumberOfFrames") or 1))
        ]
    return np.stack(slices)


def _affine_of(header: Any, frame: int) -> npt.NDArray[np.float64]:
    """[4, 3], from (row, column, 1) of one slice to mm (PS3.3 C.7.6.2.1.1)."""
    corner = functional(header, "PlanePositionSequence", "ImagePositionPatient", frame)
    turn = functional(header, "PlaneOrientationSequence", "ImageOrientationPatient", frame)
    spacing = functional(header, "PixelMeasuresSequence", "PixelSpacing", frame)
    if not (corner and turn and spacing):
        raise DataError("a source file does not say where it lies in the patient", "Give the slices of one CT or MR.")
    along_row, along_column = np.asarray(turn, np.float64).reshape(2, 3)
    down, across = (float(value) for value in spacing)
    columns = (along_column * down, along_row * across, np.asarray(corner, np.float64))
    return np.vstack((np.column_stack(columns), (0, 0, 1)))


def _resliced(mask: Mask, into: npt.NDArray[np.float64], rows: int, columns: int) -> Mask:
    """`mask` at the voxels that the pixels of one file are; `into`: [4, 3], (row, column, 1) to (slice, row, column)."""
    row, column = np.indices((rows, columns)).reshape(2, -1)
    exact = into[:3, :2] @ np.stack((row, column)) + into[:3, 2:]
    places = np.rint(exact).astype(np.int64)
    if np.abs(exact - places).max() > _OFF_GRID or (places < 0).any() or (mask.shape <= places.T).any():
        raise DataError(
            "the mask is not on the grid of its source files",
            "Give the mask and the affine of the volume made of them.",
        )
    found: Mask = mask[tuple(places)].reshape(rows, columns)
    return found


def _check_grid(first: Path, headers: list[Any], mask: Mask) -> None:
    frames = int(headers[0].get("NumberOfFrames") or 1) if len(headers) == 1 else len(headers)
    if any(int(header.get("NumberOfFrames") or 1) > 1 and _PLACES not in header for header in headers):
        raise DataError(
            f"{first} (or a later file) has several frames and does not say where they lie",
            "Export single frames, or an enhanced image.",
        )
    wanted = {(frames, int(header.Rows), int(header.Columns)) for header in headers}
    if wanted != {mask.shape}:
        raise DataError(
            f"the mask has {' x '.join(map(str, mask.shape))} pixels, its sources have "
            + " or ".join(" x ".join(map(str, shape)) for shape in sorted(wanted)),
            "Give the mask on the grid of the sources, one slice for each file.",
        )


def _say_thickness(headers: list[Any]) -> None:
    """A segmentation of slices says how thick they are; where anonymised files leave it out, as far as the next one lies,
    or for a single slice 1 mm, as it is read. So does that of a radiograph: readers ask for it beside PixelSpacing."""
    for header in headers:
        if "ImagePositionPatient" not in header and "PixelSpacing" in header:
            header.SliceThickness = header.get("SliceThickness") or 1.0
    slices = [header for header in headers if "ImagePositionPatient" in header and _PLACES not in header]
    if all(header.get("SliceThickness") for header in slices):
        return
    normal = np.cross(*np.asarray(slices[0].ImageOrientationPatient, np.float64).reshape(2, 3))
    apart = np.diff(sorted(float(np.asarray(header.ImagePositionPatient, np.float64) @ normal) for header in slices))
    usual = round(float(np.median(apart)), 6) if len(apart) else 1.0
    for header in slices:
        header.SliceThickness = header.get("SliceThickness") or usual


def _segments(classes: Sequence[str], algorithm: Algorithm) -> list[hd.seg.SegmentDescription]:
    made_by = hd.AlgorithmIdentificationSequence(
        name=algorithm.name,
        family=codes.cid7162.ArtificialIntelligence,
        version=algorithm.version,
        source=MANUFACTURER,
        parameters={"model sha256": algorithm.digest},
    )
    return [
        hd.seg.SegmentDescription(
            segment_number=number,
            segment_label=name,
            segmented_property_category=category,
            segmented_property_type=kind,
            algorithm_type=hd.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
            algorithm_identification=made_by,
        )
        for number, name in enumerate(classes[1:], 1)
        for category, kind in [_codes(number, name)]
    ]


def _codes(number: int, name: str) -> tuple[Any, Any]:
    """Category and type of a segment (PS3.16 CID 7150, 7151)."""
    key = name.casefold().replace("_", " ").strip()
    if key in _ORGANS:
        return codes.SCT.AnatomicalStructure, _ORGANS[key]
    if key in _FINDINGS:
        return codes.SCT.MorphologicallyAbnormalStructure, _FINDINGS[key]
    return codes.SCT.SpatialAndRelationalConcept, hd.sr.CodedConcept(f"CLASS-{number}", OWN_CODES, name)


def write_nifti_mask(affine: npt.NDArray[np.float64], mask: Mask, out: Path, like: Path | None = None) -> None:
    """Write `mask` as NIfTI-1 (.nii or .nii.gz): labels as uint8, the axes in NIfTI's usual order or as in `like`.

    `mask`: uint8 [slices, rows, columns]. `affine`: float [4, 4], from (slice, row, column) to millimetres, x to the
    patient's left, y to the back, z to the head (LPS, as DICOM); the file has (column, row, slice) and RAS. Nothing but
    grid and labels stands in the file. `like`: the NIfTI file of the volume; then the mask has its order and directions
    of axes, voxel on voxel. Raises DataError for another shape, an affine that is none, or where `out` exists.
    """
    refuse_existing(out)
    if mask.dtype != np.uint8 or mask.ndim != 3 or mask.size == 0:
        raise DataError("a mask for NIfTI is uint8 [slices, rows, columns]", "Convert it first.")
    world = np.asarray(affine, np.float64)
    if world.shape != (4, 4) or not np.isfinite(world).all() or abs(np.linalg.det(world[:3, :3])) < 1e-9:
        raise DataError("the affine is no invertible 4 x 4 matrix", "Give the one of the source volume.")
    if not out.name.endswith((".nii", ".nii.gz")):
        raise DataError(f"{out} does not end in .nii or .nii.gz", "Name it so: viewers go by the ending.")
    ras = np.diag([-1.0, -1.0, 1.0, 1.0]) @ world[:, [2, 1, 0, 3]]
    make: Any = nibabel.Nifti1Image  # nibabel's own types are not complete
    image = make(np.ascontiguousarray(mask.transpose(2, 1, 0)), ras)
    if like is not None:
        turns: Any = orientations
        source: Any = nibabel.load(like)
        ours, theirs = (turns.io_orientation(affine) for affine in (ras, source.affine))
        image = image.as_reoriented(turns.ornt_transform(ours, theirs))
    image.header.set_xyzt_units("mm")
    data = image.to_bytes()
    write_new(out, gzip.compress(data, mtime=0) if out.name.endswith(".gz") else data)
