"""A folder of images with masks -> a data set whose labels are masks: pictures, or volumes cut into slices."""

import json
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primum.errors import DataError, OtherClasses
from primum.imaging.archive import Unpacked, unpacked
from primum.imaging.cache import Found, Outcome
from primum.imaging.cases import DESCRIPTION, Case, Cases, holds_masks, list_cases
from primum.imaging.folder import (
    FEWEST_PATIENTS,
    Intake,
    Progress,
    drop_copies,
    known_patient,
    read_folder,
    require_patients,
    set_aside,
)
from primum.imaging.image import Picture, Pixels, Problem, naming, speaking_of
from primum.imaging.listing import ignored_by_name, walk
from primum.imaging.manifest import Record
from primum.imaging.mask_picture import as_classes, class_numbers, class_places, is_picture, read_mask_picture
from primum.imaging.patches import patches, prepare_patch_masks, prepare_patches
from primum.imaging.patient import NoPatient, PatientSource
from primum.imaging.photo import TURNED
from primum.imaging.prepare import Preparation, prepare_layout
from primum.imaging.reader import decode
from primum.imaging.reading import Job, Read, Reading, identifiers
from primum.imaging.segmentation_object import read_segmentation
from primum.imaging.series import read_volume
from primum.imaging.slices import prepare_mask, prepare_volume, slice_layout
from primum.imaging.volume import Volume, prepared_spacing, same_grid, volume_format
from primum.imaging.windows import Layout, Windows, place_classes
from primum.study import Labels

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class _Read:
    """One case, prepared: so many slices with their masks."""

    case: Case
    read: Read
    notices: tuple[str, ...]
    patient: str = field(repr=False)

    @property
    def outcome(self) -> Outcome:
        return self.read.outcome

    def record(self) -> Record:
        found = self.outcome
        return Record(
            self.case.image, "used", self.case.mask, tuple(self.read.stamps), self.read.content, self.patient,
            found.study, found.series, found.format, self.notices, found.count, found.drawn, found.spacing,
            grid=found.grid, file_spacing=found.file_spacing,
        )  # fmt: skip


def reader_of(*, masked: bool, labels: Labels | None) -> Callable[..., Intake]:
    """`read_masked_folder` for images with masks, else `read_folder` with these `labels`; they take the same arguments."""
    return read_masked_folder if masked else partial(read_folder, labels=labels)


def require_task(folder: Path, task: str) -> None:
    """OtherClasses unless `folder` has masks where a study's `task` is segmentation, and none where it is another."""
    masked = holds_masks(folder)
    if masked != (task == "segmentation"):
        holds = "images with masks" if masked else "images without masks"
        raise OtherClasses(f"{folder} holds {holds}, the study is a {task}.", "Give other data, or another study.")


def read_masked_folder(
    folder: Path,
    classes: tuple[str, ...] | None = None,
    *,
    preparation: Preparation,
    patients: PatientSource,
    pseudonym_key: bytes,
    progress: Progress | None = None,
    cache: Path | None = None,
    cores: int = 1,
    fewest: int = FEWEST_PATIENTS,
) -> Intake:
    """Read every image of `folder` with its mask (cases.py says which layouts), prepared; `labels` are the masks.

    Volumes become slices along `preparation.axis`, all of them and in order, each under the volume's name, or patches,
    and then pictures are set aside; with windows every picture and slice becomes several images, in the order of `cover.Cover`. A mask is
    placed as its image, by the nearest pixel. `classes`: those of a study, the background first; else those of
    dataset.json, else "background", "class 1", ... Where both are given, names decide (`class_places`). A mask of 0
    and 255 means background and class 1 of two. `fewest`: patients that a hospital must have.

    Set aside by name and reason: an image without a mask and the reverse, a mask of another shape or place, values that
    are no class, exact copies, images without a patient, and what cannot be read. `progress(done, total)` is called
    after each image. `cache`, `cores`: as in `read_folder`. Raises DataError where the folder or the number of patients
    makes it unusable as a whole, MachineError where the cache cannot be written.
    """
    with unpacked(folder) as opened, Reading(cache, preparation, "masks", pseudonym_key) as reading:
        cases = list_cases(opened.folder)
        problems = [*opened.problems, *cases.problems]
        numbering = _numbering(folder, cases.classes, classes)
        names = classes or cases.classes
        jobs = [
            _CaseJob(opened.folder, case, cases.tomography, names, numbering, preparation) for case in cases.entries
        ]
        reads: list[_Read] = []
        seen: dict[str, Read] = {}
        nameless = 0
        for done, (case, read) in enumerate(zip(cases.entries, reading.each(jobs, cores), strict=True), 1):
            seen[case.image] = read
            try:
                reads.append(_usable(case, read, patients, pseudonym_key))
            except DataError as error:
                nameless += isinstance(error, NoPatient)
                problems.append(Problem(case.image, error.message, error.hint))
            if progress is not None:
                progress(done, len(cases.entries))
        if nameless and not reads:
            raise DataError(f"no image in {folder} says whose it is", NoPatient().hint)
        reads = drop_copies(reads, lambda read: (read.case.image, ""), "image", problems)
        with naming(problems):
            _require_reads(folder, reads, problems, fewest)
        names = names or _numbered(reads)
        records = (*(read.record() for read in reads), *set_aside(problems, seen, _masks(cases)))
        notices = _notices(opened, reads, names, preparation)
        manifest, images, masks = reading.finish(opened.folder, names, records, notices)
    return Intake.of(manifest, images, masks)


def _usable(case: Case, read: Read, patients: PatientSource, key: bytes) -> _Read:
    if read.outcome.reason:
        raise DataError(read.outcome.reason, read.outcome.hint)
    who, notices = known_patient(patients, case.image, None, read.outcome.patient, key)
    return _Read(case, read, read.outcome.notices + notices, who)


def _masks(cases: Cases) -> dict[str, str]:
    return {case.image: case.mask for case in cases.entries}


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
            raise OtherClasses(f"{folder / DESCRIPTION} {error.message}", error.hint) from error
    own = described or classes
    return _Numbering(None if own is None else len(own), table)


@dataclass(frozen=True)
class _CaseJob(Job):
    """One image with its mask. `tomography`: whether the folder says that it is CT; `classes`: of DICOM SEG files."""

    folder: Path
    case: Case
    tomography: bool | None
    classes: tuple[str, ...] | None
    numbering: _Numbering
    preparation: Preparation

    @property
    def meaning(self) -> str:
        numbers = self.numbering.count, self.numbering.table.tolist()
        return json.dumps([self.case.image, self.case.mask, self.tomography, self.classes, numbers])

    def parts(self) -> tuple[str, ...]:
        found: list[str] = []
        for name in (self.case.image, self.case.mask):
            path = self.folder / name
            found += [f"{name}/{below}" for below in walk(path)] if path.is_dir() else [name]
        return tuple(found)

    def found(self) -> Found:
        try:
            return self._read()
        except DataError as error:
            return Found.aside(error)

    def _read(self) -> Found:
        path = self.folder / self.case.image
        with _of_mask(self.case):
            files = _files(self.folder / self.case.mask)
        if files is None:
            picture = decode(path)
            images, masks, layout = _picture(self.folder, self.case, picture, self.numbering, self.preparation)
            spacing: tuple[float, ...] = layout.spacing or ()
            grid: tuple[int, ...] = layout.grid if isinstance(layout, Windows) else ()
            found: Picture | Volume = picture
        else:
            volume = _volume(path, self.tomography)
            with _of_mask(self.case):
                drawn = _drawn(files, volume, self.classes, self.numbering)
            images, masks, spacing, grid = _cut(volume, drawn, self.preparation)
            found = volume
        known = identifiers(self.folder / self.parts()[0]) if found.format.startswith("DICOM") else {}
        return Found(
            format=found.format, notices=found.notices, patient=found.patient or "", images=images, masks=masks,
            spacing=spacing, grid=grid, file_spacing=found.spacing or (), **known
        )  # fmt: skip


def _files(mask: Path) -> list[Path] | None:
    """The files of a mask of a volume, the first of a known format; None where the mask is a picture."""
    if mask.is_file() and is_picture(mask):
        return None
    files = [mask / name for name in walk(mask)] if mask.is_dir() else [mask]
    if not files or volume_format(files[0]) is None:
        raise DataError("is no mask that can be read", "Masks are PNG, NIfTI, NRRD or DICOM SEG.")
    return files


def _of_mask(case: Case) -> AbstractContextManager[None]:
    """Errors in the block speak of the case's mask."""
    return speaking_of(f"its mask {case.mask}")


def _picture(
    folder: Path, case: Case, picture: Picture, numbering: _Numbering, preparation: Preparation
) -> tuple[Pixels, Mask, Layout]:
    if TURNED in picture.notices:
        raise DataError("is turned by EXIF; whether its mask is turned too cannot be told", "Save it upright.")
    rows, columns = picture.values.shape[1:]
    with _of_mask(case):
        values = numbering.classes(read_mask_picture(folder / case.mask))
        if values.shape != (rows, columns):
            high, wide = values.shape
            raise DataError(f"has {wide} x {high} pixels, the image {columns} x {rows}", "Draw it on this image.")
    layout = preparation.layout(rows, columns, picture.spacing)
    return prepare_layout(picture, preparation, layout), place_classes(values[None], layout)[0], layout


def _volume(path: Path, tomography: bool | None) -> Volume:
    """The volume; of a format that names no unit, in Hounsfield values if the folder says so."""
    volume = read_volume(path)
    if tomography is None or volume.format.startswith("DICOM"):
        return volume
    return replace(volume, hounsfield=tomography)


def _cut(
    volume: Volume, drawn: Mask, preparation: Preparation
) -> tuple[Pixels, Mask, tuple[float, ...], tuple[int, ...]]:
    """Its images, their masks, and their spacing and grid as in `Record`: patches, or slices, perhaps in windows."""
    if preparation.fit == "patches":
        images, masks = prepare_patches(volume, preparation), prepare_patch_masks(drawn, volume, preparation)
        return images, masks, preparation.voxel, patches(volume, preparation).cover.grid
    images, within = prepare_volume(volume, preparation)
    spacing = prepared_spacing(volume, preparation.axis, within) if within else ()
    masks, layout = prepare_mask(drawn, volume, preparation), slice_layout(volume, preparation)
    return images, masks, spacing, layout.grid if isinstance(layout, Windows) else ()


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


def _require_reads(folder: Path, reads: list[_Read], problems: list[Problem], fewest: int) -> None:
    if not reads:
        first = problems[0]
        raise DataError(f"no image in {folder} can be used: {first.file} {first.reason}", first.hint)
    require_patients(folder, [read.patient for read in reads], fewest)
    if not any(sum(read.outcome.drawn[1:]) for read in reads):
        raise DataError(f"no mask in {folder} marks anything", "Every pixel is background: check the masks.")


def _numbered(reads: list[_Read]) -> tuple[str, ...]:
    """Names where nobody gave some; at least one class beside the background."""
    top = max(1, *(len(read.outcome.drawn) - 1 for read in reads))
    return ("background", *(f"class {number}" for number in range(1, top + 1)))


def _notices(
    opened: Unpacked, reads: list[_Read], classes: tuple[str, ...], preparation: Preparation
) -> tuple[str, ...]:
    counts = Counter(notice for read in reads for notice in read.notices)
    ignored = ignored_by_name(opened.folder)
    notices = [*opened.notices, *ignored, *(f"{count} x {notice}" for notice, count in sorted(counts.items()))]
    volumes = [read.outcome.count for read in reads if read.outcome.count > 1]
    if preparation.fit == "windows":
        cut = sum(read.outcome.count for read in reads)
        notices.append(f"{len(reads)} images cut into {cut} windows of {preparation.size} pixels a side")
    elif preparation.fit == "patches":
        cut, sides = sum(read.outcome.count for read in reads), " x ".join(map(str, preparation.shape))
        notices.append(f"{len(reads)} volumes cut into {cut} patches of {sides} voxels")
    elif volumes:
        notices.append(f"{len(volumes)} volumes cut into {sum(volumes)} {preparation.axis} slices")
    seen = {place for read in reads for place, images in enumerate(read.outcome.drawn) if images}
    return (*notices, *(f"no pixel of class {name}" for place, name in enumerate(classes) if place not in seen))
