"""A DICOM series -> a volume: slices ordered by where they lie in the patient, never by the name of their file.

Position along the normal of ImageOrientationPatient (PS3.3 C.7.6.2.1.1). Slices of another orientation, size, spacing,
series or place, a gap, and two slices at one place are refused, naming the file. One enhanced multi-frame file is a
series by itself (PS3.3 C.7.6.16). A tilted gantry gives slices that are shifted evenly: the affine says so.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread

from primum.errors import DataError
from primum.imaging import nifti as _nifti  # noqa: F401 - registers its reader
from primum.imaging import nrrd as _nrrd  # noqa: F401 - registers its reader
from primum.imaging.image import Pixels
from primum.imaging.intensity import Float64
from primum.imaging.listing import walk
from primum.imaging.reader import check_size, decoding, read_head, silence
from primum.imaging.stored import (
    GREY,
    first_number,
    frame,
    functional,
    in_hounsfield,
    looks_like_dicom,
    open_dicom,
    refuse_what_is_no_picture,
    rescaled,
    valid_pixels,
)
from primum.imaging.volume import Volume, canonical, check_volume, checked, read_volume_file, volume_reader

MOST_FRAMES: Final = 20_000
STEADY: Final = 0.05
"""Distances between neighbouring slices may differ by this part of the usual distance (rounding of positions)."""
PARALLEL: Final = 1e-3
"""Direction cosines may differ by so much within a series."""
_HEADER: Final = [
    "SOPClassUID", "SeriesInstanceUID", "ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "Rows",
    "Columns", "NumberOfFrames", "SliceThickness", "SpacingBetweenSlices", "PerFrameFunctionalGroupsSequence",
    "SharedFunctionalGroupsSequence",
]  # fmt: skip


@dataclass(frozen=True)
class _Slice:
    """Where one frame lies: `corner` of its first pixel, `turn` (6 cosines), `spacing` (row, column), all LPS mm.

    `file`: what errors call its file, empty where there is only one. `name`: the same with the frame.
    """

    path: Path
    file: str
    index: int
    name: str
    series: str = field(repr=False)
    shape: tuple[int, int]
    corner: Float64
    turn: Float64
    spacing: tuple[float, float]
    thickness: float

    @property
    def normal(self) -> Float64:
        return np.cross(self.turn[:3], self.turn[3:])


def read_series(files: Sequence[Path]) -> Volume:
    """The volume that the DICOM files show together; raises DataError that names the file at fault."""
    with decoding("DICOM series"):
        slices = [one for path in files for one in _slices(path, path.name if len(files) > 1 else "")]
        if not slices:
            raise DataError("has no slices", "Give the DICOM files of one series.")
        step = _in_order(slices)
        first = slices[0]
        check_volume((len(slices), *first.shape))
        values, facts = _values(slices)
        affine = np.eye(4)
        affine[:3, 0], affine[:3, 3] = step, first.corner
        affine[:3, 1], affine[:3, 2] = first.turn[3:] * first.spacing[0], first.turn[:3] * first.spacing[1]
        notices = ("its slices are shifted evenly (tilted gantry)",) if _tilted(first, step) else ()
        values, affine = canonical(values, affine)
    patient = facts.pop("patient")
    return checked(Volume(values, affine, "DICOM series", patient=patient, notices=notices, **facts))


@volume_reader("DICOM", looks_like_dicom)
def _read_file(path: Path) -> Volume:
    return read_series([path])


def read_volume(path: Path) -> Volume:
    """The volume in a file (NIfTI, NRRD, DICOM with one or many frames) or in a folder of one DICOM series.

    Other files of the folder are refused by name; DICOMDIR and hidden files are passed over. Raises DataError.
    """
    if path.is_dir():
        return read_series([path / name for name in walk(path)])
    return read_volume_file(path)


def is_stack(path: Path) -> bool:
    """Whether a file is DICOM of several frames, which `read_volume` reads as a volume or refuses.

    DataError where it cannot be opened; False where its header is damaged, which is told when it is decoded.
    """
    if not looks_like_dicom(read_head(path)):
        return False
    try:
        with silence():
            header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["NumberOfFrames"])
            return int(header.get("NumberOfFrames") or 1) > 1
    except Exception:
        return False


def _slices(path: Path, file: str) -> list[_Slice]:
    """All frames of one file, from its header alone; errors call it `file`."""
    try:
        if not looks_like_dicom(read_head(path)):
            raise DataError("is no DICOM file", "Keep the files of one series in a folder of their own.")
        header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=_HEADER)
        frames = int(header.get("NumberOfFrames") or 1)
        check_size(int(header.get("Rows", 0)), int(header.get("Columns", 0)))
        if frames > MOST_FRAMES:
            raise DataError(f"claims {frames} frames", "Export fewer frames in a file.")
        return [_slice(path, file, header, index, frames) for index in range(frames)]
    except DataError as error:
        raise _named(file, error) from error
    except Exception as error:  # pydicom raises everything; its words may quote values
        damaged = DataError(f"cannot be decoded as DICOM ({type(error).__name__})", "Export it again.")
        raise _named(file, damaged) from error


def _named(file: str, error: DataError) -> DataError:
    return DataError(f"{file} {error.message}".strip(), error.hint)


def _slice(path: Path, file: str, header: Dataset, index: int, frames: int) -> _Slice:
    corner = _numbers(header, "PlanePositionSequence", "ImagePositionPatient", index, 3)
    turn = _numbers(header, "PlaneOrientationSequence", "ImageOrientationPatient", index, 6)
    spacing = _numbers(header, "PixelMeasuresSequence", "PixelSpacing", index, 2)
    if min(spacing) <= 0 or abs(np.linalg.norm(np.cross(turn[:3], turn[3:])) - 1) > 0.01:
        raise DataError("has a PixelSpacing or an ImageOrientationPatient that is none", "Export it again.")
    shape = int(header.Rows), int(header.Columns)
    thick = [first_number(functional(header, "PixelMeasuresSequence", name, index)) for name in _HEADER[9:7:-1]]
    thickness = next((side for side in thick if side is not None and side > 0), 1.0)
    name = file if frames == 1 else f"{file} frame {index + 1}".strip()
    series = str(header.get("SeriesInstanceUID", ""))
    return _Slice(
        path, file, index, name, series, shape, corner, turn, (float(spacing[0]), float(spacing[1])), thickness
    )


def _numbers(header: Dataset, sequence: str, name: str, index: int, count: int) -> Float64:
    found: Any = functional(header, sequence, name, index)
    if found is None or found == "" or len(found) != count:
        raise DataError(f"lacks {name}, which a volume needs", "Export the whole series, or use it as single pictures.")
    numbers = np.array([float(value) for value in found], np.float64)
    if not np.isfinite(numbers).all():
        raise DataError(f"has a {name} that is no number", "Export it again.")
    return numbers


def _in_order(slices: list[_Slice]) -> Float64:
    """Sort the slices by position and return the step (LPS mm) from one to the next; refuses what is no one volume."""
    _refuse_mixtures(slices)
    normal = slices[0].normal
    slices.sort(key=lambda one: float(one.corner @ normal))
    if len(slices) == 1:
        return normal * slices[0].thickness
    steps = np.diff([one.corner for one in slices], axis=0)
    distances = steps @ normal
    usual = float(np.median(distances))
    for one, other, distance in zip(slices, slices[1:], distances.tolist(), strict=False):
        if distance < max(0.01, STEADY * usual):
            raise DataError(f"{one.name} and {other.name} lie at the same place", "Keep one of them in the series.")
        if abs(distance - usual) > STEADY * usual + 0.01:
            raise DataError(
                f"between {one.name} and {other.name} are {distance:.2f} mm, elsewhere {usual:.2f} mm",
                "Slices are missing or of another series: export the whole series.",
            )
    step: Float64 = (slices[-1].corner - slices[0].corner) / (len(slices) - 1)
    for place, one in enumerate(slices):
        if np.linalg.norm(slices[0].corner + place * step - one.corner) > max(one.spacing):
            raise DataError(f"{one.name} is shifted against the other slices", "Export the series again.")
    return step


def _refuse_mixtures(slices: list[_Slice]) -> None:
    """Refuse, by the name of a file in the minority, what has another series, orientation, size or spacing."""
    turns = np.array([one.turn for one in slices])
    usual = np.median(turns, axis=0)
    nearest = turns[int(np.abs(turns - usual).max(axis=1).argmin())]
    spacing = Counter(one.spacing for one in slices).most_common(1)[0][0]
    series = Counter(one.series for one in slices).most_common(1)[0][0]
    shape = Counter(one.shape for one in slices).most_common(1)[0][0]
    for one in slices:
        what = (
            "is of another series" if one.series != series
            else "has another orientation" if np.abs(one.turn - nearest).max() > PARALLEL
            else "has another number of rows or columns" if one.shape != shape
            else "has another spacing of its pixels" if not np.allclose(one.spacing, spacing, rtol=1e-3)
            else None
        )  # fmt: skip
        if what:
            raise DataError(f"{one.name} {what} than the other slices", "Keep each series in a folder of its own.")


def _tilted(first: _Slice, step: Float64) -> bool:
    along = first.normal * float(step @ first.normal)
    return bool(np.linalg.norm(step - along) > 0.01 * np.linalg.norm(step))


def _values(slices: list[_Slice]) -> tuple[Pixels, dict[str, Any]]:
    """Rescaled values [slices, rows, columns], padding as the smallest valid value; and what the files say together."""
    values = np.empty((len(slices), *slices[0].shape), np.float32)
    valid = np.ones(values.shape, np.bool_)
    said: list[dict[str, Any]] = []
    opened: tuple[Path, Dataset] | None = None
    for place, one in enumerate(slices):
        try:
            if opened is None or opened[0] != one.path:
                opened = one.path, open_dicom(one.path)
                refuse_what_is_no_picture(opened[1])
            values[place], valid[place] = _plane(opened[1], one.index)
            said.append(_facts(opened[1], one.index))
        except DataError as error:
            raise _named(one.file, error) from error
    if not valid.all():
        values[~valid] = values[valid].min() if valid.any() else 0
    return values, _together(slices, said)


def _plane(dataset: Dataset, index: int) -> tuple[Float64, npt.NDArray[np.bool_]]:
    if dataset.PhotometricInterpretation not in GREY:
        raise DataError("is in colour; a volume is grey", "Export the series itself, not pictures of it.")
    stored = frame(dataset, index).astype(np.float64)
    return rescaled(stored, dataset, index), valid_pixels(stored, dataset)


def _facts(dataset: Dataset, index: int) -> dict[str, Any]:
    names = ("WindowCenter", "WindowWidth", "VOILUTFunction")
    centre, width, function = (functional(dataset, "FrameVOILUTSequence", name, index) for name in names)
    low, high = first_number(centre), first_number(width)
    usable = low is not None and high is not None and high >= 1
    return {
        "patient": str(dataset.get("PatientID") or "") or None,
        "hounsfield": in_hounsfield(dataset),
        "inverted": str(dataset.PhotometricInterpretation) == "MONOCHROME1",
        "window": (low, high, str(function or "LINEAR")) if usable else None,
    }


def _together(slices: list[_Slice], said: list[dict[str, Any]]) -> dict[str, Any]:
    """What is true for the whole: patients and polarity must agree; a window counts only where all have the same."""
    first = said[0]
    for one, facts in zip(slices, said, strict=True):
        for name, words in (("patient", "is of another patient"), ("inverted", "has another polarity")):
            if facts[name] != first[name]:
                raise DataError(f"{one.name} {words} than {slices[0].name}", "Keep each series in its own folder.")
    windows = {facts["window"] for facts in said}
    return {
        "patient": first["patient"],
        "hounsfield": all(facts["hounsfield"] for facts in said),
        "inverted": first["inverted"],
        "window": first["window"] if len(windows) == 1 else None,
    }
