"""Which files a folder holds, with which label: class folders, or labels.csv."""

import csv
import io
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Final

from primum.errors import DataError
from primum.imaging.image import Problem

LABELS: Final = "labels.csv"
_IGNORED: Final = frozenset(
    {"thumbs.db", "desktop.ini", "dicomdir", "manifest.csv", "readme", "readme.md", "readme.txt"}
)


@dataclass(frozen=True)
class Listed:
    """One file to read: its name relative to the folder, its class, and its patient if a csv gives it."""

    file: str
    label: str
    patient: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Listing:
    """What a folder offers before a file is opened. `classes` in the order of the labels."""

    entries: tuple[Listed, ...]
    classes: tuple[str, ...]
    problems: tuple[Problem, ...]
    notices: tuple[str, ...]


def list_folder(folder: Path, classes: tuple[str, ...] | None = None) -> Listing:
    """Files and labels of `folder`: from its labels.csv if there is one, else from its class folders.

    `classes`: those of a study; None takes what is there, sorted. Raises DataError where the folder cannot be listed,
    a class is missing or empty, or fewer than two classes are there.
    """
    top = listdir(folder)
    if any(entry.name.lower() == LABELS for entry in top):
        name = next(entry.name for entry in top if entry.name.lower() == LABELS)
        listing = _from_csv(folder, folder / name, classes)
    else:
        listing = _from_folders(folder, top, classes)
    _check_classes(folder, listing)
    return listing


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
        raise DataError(f"{folder} is a file, not a folder", "Give the folder that holds the class folders.") from error
    except OSError as error:
        raise DataError(
            f"the folder {folder} cannot be read: {error.strerror}", "Give this user the right to read it."
        ) from error
    return [entry for entry in entries if not _hidden(entry.name)]


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _IGNORED


def _from_folders(folder: Path, top: list[Path], classes: tuple[str, ...] | None) -> Listing:
    folders = [entry for entry in top if entry.is_dir()]
    names = classes or tuple(entry.name for entry in folders)
    problems = [
        Problem(entry.name, "lies in no class folder", f"Move it into one of the class folders, or write {LABELS}.")
        for entry in top
        if not entry.is_dir()
    ]
    notices, entries = [], []
    for entry in folders:
        files = list(walk(entry))
        if entry.name in names:
            entries += [Listed(f"{entry.name}/{file}", entry.name) for file in files]
        else:
            notices.append(f"folder {entry.name} is not a class of the study: {len(files)} files not used")
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        present = [entry.name for entry in folders]
        raise DataError(f"{folder} has no folder for class {missing[0]}", _nearest(missing[0], present))
    return Listing(tuple(entries), names, tuple(problems), tuple(notices))


def _nearest(name: str, present: list[str]) -> str:
    lower = {other.lower(): other for other in present}
    close = get_close_matches(name.lower(), list(lower), 1)
    if close:
        return f"There is a folder {lower[close[0]]}: rename it, or the class."
    return f"There {'are ' + ', '.join(present) if present else 'is no folder in it'}; one folder per class is needed."


def _check_classes(folder: Path, listing: Listing) -> None:
    if not listing.entries:
        raise DataError(
            f"{folder} holds no images with a class", f"Make one folder per class in it, or a {LABELS} (file,label)."
        )
    if len(listing.classes) < 2:
        raise DataError(
            f"{folder} has one class only ({listing.classes[0]})", "To tell classes apart, at least two are needed."
        )
    used = {entry.label for entry in listing.entries}
    empty = [name for name in listing.classes if name not in used]
    if empty:
        raise DataError(f"class {empty[0]} in {folder} is empty", "Add images of it, or remove the class.")


def _from_csv(folder: Path, path: Path, classes: tuple[str, ...] | None) -> Listing:
    rows = list(_rows(path))
    problems: list[Problem] = []
    chosen: dict[str, Listed] = {}
    for listed in _usable(folder, rows, classes, problems):
        chosen[listed.file] = listed
    names = classes or tuple(sorted({entry.label for entry in chosen.values()}))
    unlisted = sum(1 for file in walk(folder) if file not in {row.file for row in rows} and file != path.name)
    notices = (f"{unlisted} files are not listed in {path.name}",) if unlisted else ()
    return Listing(tuple(chosen[file] for file in sorted(chosen)), names, tuple(problems), notices)


def _usable(
    folder: Path, rows: list[Listed], classes: tuple[str, ...] | None, problems: list[Problem]
) -> Iterable[Listed]:
    labels: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        labels[row.file].add(row.label)
    for row in rows:
        problem = _row_problem(folder, row, classes, len(labels[row.file]))
        if problem is None:
            yield row
        elif problem not in problems:
            problems.append(problem)


def _row_problem(folder: Path, row: Listed, classes: tuple[str, ...] | None, labels: int) -> Problem | None:
    parts = PurePosixPath(row.file)
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        return Problem(row.file, f"lies outside the folder of {LABELS}", "Write names relative to the folder.")
    if labels > 1:
        return Problem(row.file, f"has two labels in {LABELS}", "Keep the right line only.")
    if not row.label:
        return Problem(row.file, f"has no label in {LABELS}", "Fill in its label.")
    if classes is not None and row.label not in classes:
        return Problem(row.file, "its label is not a class of the study", f"The classes are {', '.join(classes)}.")
    if not os.path.lexists(folder / row.file):
        return Problem(row.file, f"is listed in {LABELS} but is not there", "Copy it, or remove its line.")
    return None


def _rows(path: Path) -> Iterator[Listed]:
    """Lines of a labels.csv: columns file, label and perhaps patient, in any order; , or ; or tab between them."""
    text = _text(path)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [name.strip().lower() for name in next(reader)]
        missing = [name for name in ("file", "label") if header.count(name) != 1]
        if missing or header.count("patient") > 1:
            raise DataError(
                f"{path} must have one column `{(missing or ['patient'])[0]}`",
                "Its first line names the columns: file,label,patient (patient may be left out).",
            )
        for row in reader:
            if any(cell.strip() for cell in row):
                yield _row(path, reader.line_num, header, row)
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path} is empty or no csv file", "Its first line is file,label,patient.") from error


def _row(path: Path, line: int, header: list[str], row: list[str]) -> Listed:
    if len(row) != len(header):
        raise DataError(
            f"{path}, line {line}: {len(row)} columns where the first line has {len(header)}", "Correct the line."
        )
    cells = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    file = cells["file"].replace("\\", "/").removeprefix("./")
    if not file:
        raise DataError(f"{path}, line {line}: no file is named", "Fill in the file, or remove the line.")
    return Listed(file, cells["label"], cells.get("patient") or None)


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text", "Save it as 'CSV UTF-8'.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error
