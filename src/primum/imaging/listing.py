"""Which files a folder holds, with which label: class folders, labels.csv or labels.json (labels_csv.py reads them), or an
attribute of DICOM files that a labels.json names (labels_dicom.py)."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Final

from primum.errors import DataError, OtherClasses
from primum.imaging.image import Problem, naming
from primum.imaging.labels_csv import LABELS, Labelled, Listed, classes_of, read_labels
from primum.imaging.labels_dicom import attribute_in, labelled_by
from primum.imaging.labels_json import LABELS_JSON
from primum.imaging.named import unpacking
from primum.study import Labels

_IGNORED: Final = frozenset(
    {"thumbs.db", "desktop.ini", "dicomdir", "manifest.csv", "readme", "readme.md", "readme.txt"}
)
_LIKE_IMAGES: Final = ("image", "img", "scan", "volume")
_LIKE_MASKS: Final = ("mask", "seg", "label", "annotation")
_PART: Final = re.compile(r"(train(ing)?|val(id(ation)?)?|test(ing)?|fold)[ _-]*(set|data|images|\d+)?", re.IGNORECASE)
_MOVE: Final = f"Move it into one of the class folders, or write {LABELS}."
_FOR_MASKS: Final = "make two folders, images and masks, with files of the same names; or write dataset.json."


@dataclass(frozen=True)
class Listing:
    """What a folder offers before a file is opened. `classes` in the order of the labels; `labels`: how many of them an
    image has; `source`: the file of the folder that lists them, None for class folders."""

    entries: tuple[Listed, ...]
    classes: tuple[str, ...]
    problems: tuple[Problem, ...]
    notices: tuple[str, ...]
    labels: Labels = "one"
    source: str | None = None


def list_folder(folder: Path, classes: tuple[str, ...] | None = None, labels: Labels | None = None) -> Listing:
    """Files and labels of `folder`: from its labels.csv or labels.json if there is one, else from its class folders.

    `classes`, `labels`: those of a study; None takes what is there: classes sorted, and several an image where labels.csv
    has a column for each class or several names in a cell, else one. Raises DataError where the folder cannot be listed,
    a class is missing or empty, fewer than two classes are there, or images with several classes lie in class folders.
    """
    top = listdir(folder)
    lists = [entry for entry in top if entry.name.lower() in (LABELS, LABELS_JSON)]
    if len(lists) > 1:
        raise DataError(f"{folder} has {' and '.join(entry.name for entry in lists)}", "Keep the right one only.")
    if lists:
        listing = _from_list(folder, lists[0], classes, labels)
        _require_asked(folder, lists[0], listing)
    elif labels == "several":
        raise OtherClasses(
            f"{folder} has no {LABELS}: in class folders an image has one class, not several",
            f"Write {LABELS}: file,patient and a column of 0 and 1 for each class; docs/how-to/labels.md has examples.",
        )
    else:
        listing = _from_folders(folder, top, classes, labels or "one")
    with naming(listing.problems):
        _check_classes(folder, listing)
    return replace(listing, notices=(*listing.notices, *ignored_by_name(folder)))


def ignored_by_name(folder: Path) -> tuple[str, ...]:
    """A notice that counts the files below `folder` that `walk` passes over, but for hidden ones; empty without any."""
    names = (name for top, _, files in os.walk(folder) if "/." not in Path(top).as_posix() for name in files)
    counts = Counter(name for name in names if name.lower() in _IGNORED)
    listed = ", ".join(f"{count} x {name}" if count > 1 else name for name, count in sorted(counts.items()))
    return (f"files that are not looked at, by their names: {listed}",) if listed else ()


def walk(folder: Path) -> Iterator[str]:
    """Every file below `folder`, nested too, as sorted relative names with '/'; no hidden or system files.

    Raises DataError where a folder cannot be listed. Links to folders are not followed (they may go in circles).
    """
    for entry in listdir(folder):
        if entry.is_dir() and not entry.is_symlink():
            yield from (f"{entry.name}/{below}" for below in walk(entry))
        else:
            yield entry.name


def listdir(folder: Path) -> list[Path]:
    """What lies in `folder`, by name, without hidden and system files; raises DataError where it cannot be listed."""
    try:
        entries = sorted(folder.iterdir(), key=lambda entry: entry.name)
    except FileNotFoundError as error:
        raise DataError(f"the folder {folder} does not exist", "Check the path.") from error
    except NotADirectoryError as error:
        raise DataError(f"{folder} is a file, not a folder", _folder_of(folder)) from error
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be read: {error.strerror}", "Give this user the right to read it."
        ) from error
    return [entry for entry in entries if not _hidden(entry.name)]


def _folder_of(file: Path) -> str:
    return unpacking(file.name) or "Give the folder that holds the class folders."


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED


def _from_folders(folder: Path, top: list[Path], classes: tuple[str, ...] | None, labels: Labels) -> Listing:
    folders = [entry for entry in top if entry.is_dir()]
    if classes is None:
        _refuse_parts(folder, folders)
        _refuse_masks(folder, [entry.name for entry in folders])
    names = classes or tuple(entry.name for entry in folders)
    problems = [
        Problem(entry.name, "lies in no class folder", unpacking(entry.name) or _MOVE)
        for entry in top
        if not entry.is_dir()
    ]
    notices, entries = [], []
    for entry in folders:
        files = list(walk(entry))
        if entry.name in names:
            entries += [Listed(f"{entry.name}/{file}", entry.name) for file in files]
        else:
            notices.append(f"folder {entry.name} is not a class of the study: files not used: {len(files)}")
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        present = [entry.name for entry in folders]
        absent = " and none for class ".join(missing)
        raise _missing(names, present)(f"{folder} has no folder for class {absent}", _nearest(missing[0], present))
    return Listing(tuple(entries), names, tuple(problems), tuple(notices), labels)


def _missing(asked: Sequence[str], present: Sequence[str]) -> type[DataError]:
    """The class of error where some of the classes are missing. Of OtherClasses the scientist hears: that one class alone
    is missing would say that the hospital has no patient of it."""
    return DataError if set(asked) & set(present) else OtherClasses


def _refuse_parts(folder: Path, folders: list[Path]) -> None:
    """Raise DataError where folders are parts of a data set, each with folders of classes, and no classes."""
    names = sorted((entry.name for entry in folders), key=lambda name: (not name.lower().startswith("train"), name))
    if len(names) > 1 and all(_PART.fullmatch(name) for name in names):
        inside = [[below for below in listdir(entry) if below.is_dir()] for entry in folders]
        if all(len(below) > 1 for below in inside) or all((entry / LABELS).is_file() for entry in folders):
            raise DataError(
                f"{folder} holds {', '.join(names)}: parts of a data set, not classes",
                f"Give one of them: a node reads {folder / names[0]}, say, and the scientist tests with another.",
            )


def _refuse_masks(folder: Path, names: list[str]) -> None:
    """Raise DataError where folders would be classes by mistake: images and masks under other names, or half of them."""
    masks = [name for name in names if any(word in name.lower() for word in _LIKE_MASKS)]
    images = [name for name in names if name not in masks and any(word in name.lower() for word in _LIKE_IMAGES)]
    if masks and images and len(names) == len(images) + len(masks):
        raise DataError(
            f"{folder} has folders {' and '.join(names)}: that looks like images with masks, not like classes",
            f"For masks {_FOR_MASKS}",
        )
    above = folder.resolve().parent
    beside = [name for name in ("masks", "labels", "labelsTr") if (above / name).is_dir()]
    if not names and beside and folder.resolve().name in ("images", "imagesTr"):
        raise DataError(f"{folder} has {beside[0]}/ beside it", f"Give {above}, which holds images and masks.")


def _nearest(name: str, present: list[str]) -> str:
    lower = {other.lower(): other for other in present}
    close = get_close_matches(name.lower(), list(lower), 1)
    if close:
        return f"There is a folder {lower[close[0]]}: rename it, or the class."
    return f"There {'are ' + ', '.join(present) if present else 'is no folder in it'}; one folder per class is needed."


def _check_classes(folder: Path, listing: Listing) -> None:
    if not listing.entries and listing.source and not listing.problems:
        raise DataError(f"{folder / listing.source} names no file", "Add a line for each file: its name and its label.")
    if not listing.entries:
        raise DataError(
            f"{folder} holds no images with a class",
            f"Make one folder per class in it, or a {LABELS} (file,label). For masks {_FOR_MASKS}",
        )
    if len(listing.classes) < 2:
        raise DataError(
            f"{folder} has one class only ({''.join(listing.classes) or 'none'})",
            f"To tell classes apart, at least two are needed. For masks {_FOR_MASKS}",
        )
    used = {name for entry in listing.entries for name in classes_of(entry.label, listing.labels)}
    empty = [name for name in listing.classes if name not in used]
    if empty:
        raise DataError(f"class {empty[0]} in {folder} is empty", "Add images of it, or remove the class.")


def _require_asked(folder: Path, path: Path, listing: Listing) -> None:
    """DataError where a class of a study has no image, and the list `path` of `folder` does not name it at all."""
    used = {name for entry in listing.entries for name in classes_of(entry.label, listing.labels)}
    if used >= set(listing.classes):
        return
    there = _from_list(folder, path, None, listing.labels).classes
    absent = [name for name in listing.classes if name not in there]
    if absent:
        raise _missing(listing.classes, there)(
            f"{path} has no image of class {' and none of class '.join(absent)}",
            f"The study asks for {', '.join(listing.classes)}; there are {', '.join(there) or 'none'}.",
        )


def _from_list(folder: Path, path: Path, classes: tuple[str, ...] | None, labels: Labels | None) -> Listing:
    said = attribute_in(path)
    files = [file for file in walk(folder) if file != path.name]
    found: Labelled = (
        read_labels(folder, path, classes, labels)
        if said is None
        else labelled_by(said, folder, files, classes, labels)
    )
    unlisted = sum(1 for file in files if file not in found.named)
    notices = (f"files that are not listed in {path.name}: {unlisted}",) if unlisted else ()
    return Listing(found.entries, found.classes, found.problems, (*found.notices, *notices), found.labels, path.name)
