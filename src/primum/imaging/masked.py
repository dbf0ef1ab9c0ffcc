"""A folder of images with masks -> a data set whose labels are masks: pictures, or volumes cut into slices."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from primum.errors import DataError
from primum.imaging.archive import unpacked
from primum.imaging.cases import DESCRIPTION, Case, Cases, list_cases
from primum.imaging.dataset import Dataset
from primum.imaging.folder import Intake, Progress, require_patients
from primum.imaging.geometry import place_mask
from primum.imaging.image import Picture, Pixels, Problem
from primum.imaging.listing import walk
from primum.imaging.mask_picture import as_classes, class_numbers, class_places, is_picture, read_mask_picture
from primum.imaging.patient import NoPatient, PatientSource, whose
from primum.imaging.photo import TURNED
from primum.imaging.prepare import Preparation, prepare
from primum.imaging.reader import decode
from primum.imaging.segmentation_object import read_segmentation
from primum.imaging.series import read_volume
from primum.imaging.slices import prepare_mask, prepare_volume
from primum.imaging.volume import Volume, same_grid, volume_format

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Read:
    """One case, prepared: `images` [n, channels, size, size], `masks` [n, size, size]."""

    case: Case
    images: Pixels = field(repr=False)
    masks: Mask = field(repr=False)
    format: str
    notices: tuple[str, ...]
    patient: str = field(repr=False)


def read_masked_folder(
    folder: Path,
    classes: tuple[str, ...] | None = None,
    *,
    preparation: Preparation,
    patients: PatientSource,
    pseudonym_key: bytes,
    progress: Progress | None = None,
) -> Intake:
    """Read every image of `folder` with its mask (cases.py says which layouts), prepared; `labels` are the masks.

    Volumes become slices along `preparation.axis`, all of them and in order, each under the volume's name. A mask is
    placed as its image, by the nearest pixel. `classes`: those of a study, the background first; else those of
    dataset.json, else "background", "class 1", ... Where both are given, names decide (`class_places`). A mask of 0 and 255 means background and class 1 of two.

    Set aside by name and reason: an image without a mask and the reverse, a mask of another shape or place, values that
    are no class, exact copies, images without a patient, and what cannot be read. `progress(done, total)` is called
    after each image. Raises DataError where the folder or the number of patients makes it unusable as a whole.
    """
    with unpacked(folder) as opened:
        cases = list_cases(opened.folder)
        problems = [*opened.problems, *cases.problems]
        numbering = _numbering(folder, cases.classes, classes)
        names = classes or cases.classes
        reads: list[_Read] = []
        nameless = 0
        for done, case in enumerate(cases.entries, 1):
            try:
                reads.append(_read(opened.folder, case, cases, names, numbering, preparation, patients, pseudonym_key))
            except DataError as error:
                nameless += isinstance(error, NoPatient)
                problems.append(Problem(case.image, error.message, error.hint))
            if progress is not None:
                progress(done, len(cases.entries))
    if nameless and not reads:
        raise DataError(f"no image in {folder} says whose it is", NoPatient().hint)
    reads = _without_copies(reads, problems)
    _require_reads(folder, reads, problems)
    names = names or _numbered(reads)
    notices = (*opened.notices, *_notices(reads, names, preparation))
    formats = Counter[str]()
    for read in reads:
        formats[read.format] += len(read.images)
    return Intake(_dataset(reads, names), tuple(problems), notices, dict(sorted(formats.items())))


@dataclass(frozen=True)
class _Numbering:
    """What the numbers in masks mean. `count`: how many there are, None where nobody says; `table`: number -> class."""

    count: int | None
    table: Mask

    def classes(self, numbers: npt.NDArray[Any]) -> Mask:
        """Numbers of any kind as classes; raises DataError where one is no class."""
        found: Mask = self.table[as_classes(class_numbers(numbers), self.count)]
        return found


def _numbering(folder: Path, described: tuple[str, ...] | None, classes: tuple[str, ...] | None) -> _Numbering:
    """`described`: the classes of dataset.json; `classes`: those of the study; raises DataError where they disagree."""
    table = np.arange(256, dtype=np.uint8)
    if described is not None and classes is not None:
        try:
            for number, place in class_places(dict(enumerate(described[1:], 1)), classes).items():
                table[number] = place
        except DataError as error:
            raise DataError(f"{folder / DESCRIPTION} {error.message}", error.hint) from error
    own = described or classes
    return _Numbering(None if own is None else len(own), table)


def _read(
    folder: Path,
    case: Case,
    cases: Cases,
    classes: tuple[str, ...] | None,
    numbering: _Numbering,
    preparation: Preparation,
    patients: PatientSource,
    key: bytes,
) -> _Read:
    with _of_mask(case):
        files = _files(folder / case.mask)
    if files is None:
        picture = decode(folder / case.image)
        images, masks = _picture(folder, case, picture, numbering, preparation)
        found: Picture | Volume = picture
    else:
        volume = _volume(folder / case.image, cases)
        with _of_mask(case):
            drawn = _drawn(files, volume, classes, numbering)
        images, _ = prepare_volume(volume, preparation)
        masks = prepare_mask(drawn, volume, preparation)
        found = volume
    who, more = whose(patients, case.image, None, found.patient, key)
    return _Read(case, images, masks, found.format, found.notices + more, who)


def _files(mask: Path) -> list[Path] | None:
    """The files of a mask of a volume, the first of a known format; None where the mask is a picture."""
    if mask.is_file() and is_picture(mask):
        return None
    files = [mask / name for name in walk(mask)] if mask.is_dir() else [mask]
    if not files or volume_format(files[0]) is None:
        raise DataError("is no mask that can be read", "Masks are PNG, NIfTI, NRRD or DICOM SEG.")
    return files


@contextmanager
def _of_mask(case: Case) -> Iterator[None]:
    """Errors in the block speak of the case's mask."""
    try:
        yield
    except DataError as error:
        raise DataError(f"its mask {case.mask} {error.message}", error.hint) from error


def _picture(
    folder: Path, case: Case, picture: Picture, numbering: _Numbering, preparation: Preparation
) -> tuple[Pixels, Mask]:
    if TURNED in picture.notices:
        raise DataError("is turned by EXIF; whether its mask is turned too cannot be told", "Save it upright.")
    rows, columns = picture.values.shape[1:]
    with _of_mask(case):
        values = numbering.classes(read_mask_picture(folder / case.mask))
        if values.shape != (rows, columns):
            high, wide = values.shape
            raise DataError(f"has {wide} x {high} pixels, the image {columns} x {rows}", "Draw it on this image.")
    images, _ = prepare(picture, preparation)
    where = preparation.placement(rows, columns, picture.spacing)
    return images[None], place_mask(values, where)[None]


def _volume(path: Path, cases: Cases) -> Volume:
    """The volume; of a format that names no unit, in Hounsfield values if the folder says so."""
    volume = read_volume(path)
    if cases.tomography is None or volume.format.startswith("DICOM"):
        return volume
    return replace(volume, hounsfield=cases.tomography)


def _drawn(files: list[Path], volume: Volume, classes: tuple[str, ...] | None, numbering: _Numbering) -> Mask:
    """Classes on the grid of `volume`, from a volume of numbers or from DICOM SEG files, one or more."""
    if volume_format(files[0]) == "DICOM":
        return _together([read_segmentation(file, volume, classes) for file in files])
    if len(files) > 1:
        raise DataError("holds several files", "Keep one mask for each image.")
    drawn = read_volume(files[0])
    if drawn.values.shape != volume.values.shape:
        raise DataError(f"has {_sides(drawn)} voxels, the image {_sides(volume)}", "Draw it on this image.")
    if not same_grid(volume, drawn):
        raise DataError("lies elsewhere than the image (another affine)", "Save it with the orientation of the image.")
    return numbering.classes(drawn.values)


def _together(masks: list[Mask]) -> Mask:
    """Several segmentations of one volume as one mask."""
    whole = masks[0]
    for mask in masks[1:]:
        if ((whole != 0) & (mask != 0) & (whole != mask)).any():
            raise DataError("has segments that overlap", "Keep one class for each voxel.")
        whole = np.maximum(whole, mask)
    return whole


def _sides(volume: Volume) -> str:
    return " x ".join(map(str, volume.values.shape))


def _require_reads(folder: Path, reads: list[_Read], problems: list[Problem]) -> None:
    if not reads:
        first = problems[0]
        raise DataError(f"no image in {folder} can be used: {first.file} {first.reason}", first.hint)
    require_patients(folder, len({read.patient for read in reads}))
    if not any(read.masks.any() for read in reads):
        raise DataError(f"no mask in {folder} marks anything", "Every pixel is background: check the masks.")


def _without_copies(reads: list[_Read], problems: list[Problem]) -> list[_Read]:
    """Set aside the same image under a second name: one patient would count twice, or stand on both sides."""
    first: dict[bytes, str] = {}
    kept = []
    for read in reads:
        digest = hashlib.sha256(read.images.tobytes()).digest()
        if digest in first:
            problems.append(Problem(read.case.image, f"is the same image as {first[digest]}", "Keep one of them."))
        else:
            first[digest] = read.case.image
            kept.append(read)
    return kept


def _numbered(reads: list[_Read]) -> tuple[str, ...]:
    """Names where nobody gave some; at least one class beside the background."""
    top = max(1, *(int(read.masks.max()) for read in reads))
    return ("background", *(f"class {number}" for number in range(1, top + 1)))


def _notices(reads: list[_Read], classes: tuple[str, ...], preparation: Preparation) -> list[str]:
    counts = Counter(notice for read in reads for notice in read.notices)
    notices = [f"{count} x {notice}" for notice, count in sorted(counts.items())]
    volumes = [len(read.images) for read in reads if len(read.images) > 1]
    if volumes:
        notices.append(f"{len(volumes)} volumes cut into {sum(volumes)} {preparation.axis} slices")
    drawn = np.unique(np.concatenate([np.unique(read.masks) for read in reads])).tolist()
    return notices + [f"no pixel of class {name}" for place, name in enumerate(classes) if place not in drawn]


def _dataset(reads: list[_Read], classes: tuple[str, ...]) -> Dataset:
    counts = [len(read.images) for read in reads]
    return Dataset(
        torch.from_numpy(np.concatenate([read.images for read in reads])),
        torch.from_numpy(np.concatenate([read.masks for read in reads])),
        tuple(read.patient for read, count in zip(reads, counts, strict=True) for _ in range(count)),
        tuple(read.case.image for read, count in zip(reads, counts, strict=True) for _ in range(count)),
        classes,
    )
