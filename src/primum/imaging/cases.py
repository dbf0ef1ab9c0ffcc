"""Which images of a folder have which mask: a Decathlon folder (dataset.json), or images/ beside masks/.

An image is one file (picture, NIfTI, NRRD, DICOM), or a folder of one DICOM series; its mask a file of the same name
without ending, or a folder of DICOM SEG files of that name. Nothing is decoded here.
Source of dataset.json: Antonelli et al., Nature Communications 13, 4128 (2022); nnU-Net v2 writes `labels` turned
around and no list of its files.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Final

from primum.errors import DataError
from primum.imaging.image import Problem
from primum.imaging.listing import listdir, walk
from primum.imaging.reader import read_head
from primum.imaging.stored import looks_like_dicom

DESCRIPTION: Final = "dataset.json"
IMAGES: Final = ("images", "imagestr")
MASKS: Final = ("masks", "labels", "labelstr")
_ENDINGS: Final = (
    ".nii.gz", ".nii", ".nrrd", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".dcm", ".ima",
)  # fmt: skip
_LONGEST: Final = 1 << 24
_FIRST_CHANNEL: Final = "_0000"


@dataclass(frozen=True)
class Case:
    """One image and its mask, as names relative to the folder; each a file, or a folder of DICOM files."""

    image: str
    mask: str


@dataclass(frozen=True)
class Cases:
    """What a folder offers. `classes`: as dataset.json names them, or None. `tomography`: whether it says that all
    images are CT, or None where it does not say."""

    entries: tuple[Case, ...]
    problems: tuple[Problem, ...]
    classes: tuple[str, ...] | None = None
    tomography: bool | None = None


@dataclass
class _Found:
    cases: list[Case] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def holds_masks(folder: Path) -> bool:
    """Whether the folder has one of the layouts that `list_cases` knows. DataError where it cannot be listed."""
    names = {entry.name.lower() for entry in listdir(folder)}
    return DESCRIPTION in names or bool(names.intersection(IMAGES) and names.intersection(MASKS))


def list_cases(folder: Path) -> Cases:
    """Images with masks, in the order of their names; what lacks its other half is a Problem.

    Raises DataError where the folder is none of the known layouts.
    """
    names = {entry.name.lower(): entry.name for entry in listdir(folder)}
    description = _description(folder / names[DESCRIPTION]) if DESCRIPTION in names else {}
    found = _Found()
    if isinstance(description.get("training"), list):
        for number, entry in enumerate(description["training"], 1):
            _listed(folder, entry, number, found)
    else:
        _beside(folder, names, found)
    if not found.cases:
        why = f": {found.problems[0].file} {found.problems[0].reason}" if found.problems else ""
        raise DataError(f"{folder} holds no image with a mask{why}", "Give each mask the name of its image.")
    cases = tuple(sorted(found.cases, key=lambda case: case.image))
    return Cases(cases, tuple(found.problems), _classes(folder, description), _tomography(description))


def _description(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LONGEST:
            raise ValueError
        found = json.loads(path.read_text("utf-8-sig"))
        if not isinstance(found, dict) or not isinstance(found.get("labels"), dict):
            raise ValueError
    except (ValueError, OSError, RecursionError) as error:
        raise DataError(f"{path} is not the description of a data set", 'It needs "labels": {"0": ...}.') from error
    return found


def _classes(folder: Path, description: dict[str, Any]) -> tuple[str, ...] | None:
    labels = description.get("labels")
    if labels is None:
        return None
    turned = all(isinstance(value, str) for value in labels.values())
    pairs = labels.items() if turned else [(number, name) for name, number in labels.items()]
    try:
        numbered = {int(number): str(name) for number, name in pairs}
    except (TypeError, ValueError):
        numbered = {}
    if sorted(numbered) != list(range(len(labels))) or not 2 <= len(set(numbered.values())) == len(labels):
        raise DataError(
            f"the labels in {folder / DESCRIPTION} are not numbered 0, 1, 2, ... with a name each",
            "Class 0 is the background; regions are not supported.",
        )
    return tuple(numbered[number] for number in range(len(numbered)))


def _tomography(description: dict[str, Any]) -> bool | None:
    said = description.get("modality", description.get("channel_names"))
    if not isinstance(said, dict) or not said:
        return None
    return all(str(name).strip().upper() == "CT" for name in said.values())


def _listed(folder: Path, entry: object, number: int, found: _Found) -> None:
    """One entry of "training": names relative to the folder, which must stay inside it."""
    if not isinstance(entry, dict) or not all(isinstance(entry.get(name), str) for name in ("image", "label")):
        problem = Problem(f"{DESCRIPTION}, entry {number}", "names no image and label", "Correct or remove it.")
        found.problems.append(problem)
        return
    image, mask = (str(PurePosixPath(entry[name].replace("\\", "/"))) for name in ("image", "label"))
    for name in (image, mask):
        parts = PurePosixPath(name)
        if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
            found.problems.append(Problem(name, f"lies outside the folder of {DESCRIPTION}", "Write relative names."))
            return
        if not (folder / name).exists():
            problem = Problem(name, f"is listed in {DESCRIPTION} but is not there", "Copy it, or remove its entry.")
            found.problems.append(problem)
            return
    found.cases.append(Case(image, mask))


def _beside(folder: Path, names: dict[str, str], found: _Found) -> None:
    """images/ beside masks/, by the names without endings."""
    chosen = []
    for wanted in (IMAGES, MASKS):
        there = [names[name] for name in wanted if name in names and (folder / names[name]).is_dir()]
        if len(there) != 1:
            raise DataError(
                f"{folder} has {' and '.join(there) if there else 'no folder'} of {' or '.join(wanted)}",
                f"Make two folders, images and masks, with files of the same name; or write {DESCRIPTION}.",
            )
        chosen.append(there[0])
    images, masks = (_by_stem(folder, name, found) for name in chosen)
    if DESCRIPTION in names:
        images = {stem.removesuffix(_FIRST_CHANNEL): name for stem, name in images.items()}
    for stem, image in images.items():
        if stem in masks:
            found.cases.append(Case(image, masks[stem]))
        else:
            found.problems.append(Problem(image, "has no mask", f"Add it as {chosen[1]}/{stem}, or remove the image."))
    for stem, mask in masks.items():
        if stem not in images:
            found.problems.append(Problem(mask, "is a mask without an image", "Add the image, or remove the mask."))


def _by_stem(folder: Path, top: str, found: _Found) -> dict[str, str]:
    """Name without ending -> name relative to `folder`; a name that stands there twice is a Problem."""
    chosen: dict[str, str] = {}
    twice: set[str] = set()
    for name in _entries(folder / top):
        stem = name
        for ending in _ENDINGS:
            if name.lower().endswith(ending):
                stem = name[: -len(ending)]
                break
        if stem in chosen:
            twice.add(stem)
            found.problems.append(Problem(f"{top}/{name}", f"has the same name as {chosen[stem]}", "Rename one."))
        else:
            chosen[stem] = f"{top}/{name}"
    for stem in twice:
        found.problems.append(Problem(chosen.pop(stem), "has the same name as another file", "Rename one."))
    return chosen


def _entries(folder: Path, inside: str = "") -> list[str]:
    """Files, and folders that hold a DICOM series (told by their first file), as names relative to the top."""
    found = []
    for entry in listdir(folder):
        name = f"{inside}{entry.name}"
        if not entry.is_dir() or _holds_dicom(entry):
            found.append(name)
        else:
            found += _entries(entry, f"{name}/")
    return found


def _holds_dicom(folder: Path) -> bool:
    first = next((entry for entry in listdir(folder) if entry.is_file()), None)
    if first is None:
        first = next((folder / name for name in walk(folder)), None) if _only_folder(folder) else None
    if first is None:
        return False
    try:
        return looks_like_dicom(read_head(first))
    except DataError:
        return False


def _only_folder(folder: Path) -> bool:
    """An export often wraps a series in folders that hold nothing else."""
    return len(listdir(folder)) == 1
