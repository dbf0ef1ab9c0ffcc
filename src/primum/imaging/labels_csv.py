"""labels.csv: which file has which class, or which classes, and whose it is.

| columns | an image has |
|---|---|
| `file,label,patient` | one class, or a grade |
| `file,label,patient` with names separated by `|` in `label` | several; `No Finding` for none of them (as ChestX-ray14 has it) |
| `file,patient` and a column for each class | several: 1 where it has the class, else 0 |

labels.json says the same in another form (labels_json.py). `patient` may be left out; columns stand in any order,
separated by commas, semicolons or tabs. Columns of nobody's class are not used, and said.
"""

import csv
import io
import os
from collections import defaultdict
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from pathlib import Path, PurePosixPath
from typing import Final

from primum.errors import DataError, OtherClasses
from primum.imaging.image import Problem
from primum.imaging.labels_json import table_of_json
from primum.study import SEPARATOR, Labels

LABELS: Final = "labels.csv"
NONE: Final = "No Finding"
_OWN: Final = ("file", "label", "patient")
_FIRST_LINE: Final = "Its first line names the columns: file,label,patient (patient may be left out)."
_CELLS: Final = {"0": False, "1": True, "0.0": False, "1.0": True}
"""What a class's column may hold; programs that had an empty cell in a column write 1.0 for 1."""

_UNSURE: Final = {"", "-1", "-1.0"}
"""How CheXpert says not mentioned and uncertain: such an image is set aside by name, and its column is a class's."""

Row = dict[str, str]


@dataclass(frozen=True)
class Listed:
    """One file to read: its name relative to the folder, its class, and its patient if a csv gives it.

    `label`: of an image with several classes their names in the order of the classes, with `|` between; empty for none.
    """

    file: str
    label: str
    patient: str | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Labelled:
    """What a labels.csv says. `named`: every file that stands in it, usable or not."""

    entries: tuple[Listed, ...]
    classes: tuple[str, ...]
    problems: tuple[Problem, ...]
    notices: tuple[str, ...]
    named: frozenset[str]
    labels: Labels


def classes_of(label: str, labels: Labels) -> tuple[str, ...]:
    """The classes that a `Listed.label` means."""
    if labels != "several":
        return (label,)
    return tuple(label.split(SEPARATOR)) if label else ()


def read_labels(folder: Path, path: Path, classes: tuple[str, ...] | None, labels: Labels | None) -> Labelled:
    """The csv or JSON `path` of `folder`; `classes` and `labels` as for `list_folder`. DataError where it is no such file."""
    header, rows = _table(path)
    in_columns = "label" not in header and labels in (None, "several")
    named = frozenset(row["file"] for row in rows)
    notices: tuple[str, ...] = ()
    if in_columns:
        labels = "several"
        names, notices = _columns(path, header, rows, classes)
        asked = _from_columns(rows, names)
    else:
        _require(path, header, "label")
        if labels is None:
            labels = "several" if any(SEPARATOR in row["label"] for row in rows) else "one"
        asked = _from_cells(rows, classes) if labels == "several" else _from_single(rows, classes)
        named_here = {name for one, _ in asked for name in classes_of(one.label, labels)}
        # a line without a label, or with several of them, is a problem and no class
        names = classes or tuple(sorted(name for name in named_here if name and SEPARATOR not in name))
    entries, problems = _usable(folder, asked)
    return Labelled(entries, names, tuple(_in(path.name, problem) for problem in problems), notices, named, labels)


def _in(name: str, problem: Problem) -> Problem:
    """With the name that the file really has."""
    return replace(problem, reason=problem.reason.replace(LABELS, name), hint=problem.hint.replace(LABELS, name))


Asked = list[tuple[Listed, Problem | None]]


def _from_single(rows: list[Row], classes: tuple[str, ...] | None) -> Asked:
    found = [Listed(row["file"], row["label"], row.get("patient") or None) for row in rows]
    return [(one, _single_problem(one, classes)) for one in found]


def _single_problem(one: Listed, classes: tuple[str, ...] | None) -> Problem | None:
    if not one.label:
        return Problem(one.file, f"has no label in {LABELS}", "Fill in its label.")
    if classes is not None and one.label not in classes:
        return Problem(one.file, "its label is not a class of the study", f"The classes are {', '.join(classes)}.")
    if classes is None and SEPARATOR in one.label:
        return Problem(one.file, f"has several labels in {LABELS}, where one was asked", "Take --labels several.")
    return None


def _from_cells(rows: list[Row], classes: tuple[str, ...] | None) -> Asked:
    """Several names in a cell."""
    asked: Asked = []
    for row in rows:
        names = [name.strip() for name in row["label"].split(SEPARATOR)]
        none = len(names) == 1 and names[0].lower() == NONE.lower() and NONE not in (classes or ())
        kept = [] if none else [name for name in classes or sorted(set(names)) if name in names]
        listed = Listed(row["file"], SEPARATOR.join(kept), row.get("patient") or None)
        asked.append((listed, None if none else _several_problem(row["file"], names, classes)))
    return asked


def _several_problem(file: str, names: list[str], classes: tuple[str, ...] | None) -> Problem | None:
    if names == [""]:
        return Problem(file, f"has no label in {LABELS}", f"Fill in its classes, or `{NONE}` if it has none of them.")
    if "" in names:
        return Problem(file, f"has an empty name among its labels in {LABELS}", f"Remove the {SEPARATOR} too many.")
    if len(set(names)) < len(names):
        return Problem(file, f"has one class twice in {LABELS}", "Name each of its classes once.")
    if classes is not None and not set(names) <= set(classes):
        hint = f"The classes are {', '.join(classes)}; `{NONE}` stands alone, where an image has none of them."
        return Problem(file, "one of its labels is not a class of the study", hint)
    if NONE.lower() in (name.lower() for name in names) and NONE not in (classes or ()):
        return Problem(file, f"has `{NONE}` beside a class in {LABELS}", "Remove one of them.")
    return None


def _columns(
    path: Path, header: list[str], rows: list[Row], classes: tuple[str, ...] | None
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The classes that have a column, and what is said of the other columns."""
    others = [name for name in header if name not in _OWN]
    if classes is None:
        classes = tuple(sorted(name for name in others if _of_class({row[name] for row in rows})))
        if not classes:
            raise DataError(
                f"{path} must have one column `label`, or a column of 0 and 1 for each class",
                _FIRST_LINE,
            )
    missing = [name for name in classes if name not in others]
    if missing:
        near = get_close_matches(missing[0], others, 1)
        hint = f"There is {near[0]}: rename it." if near else "Add it, with 0 or 1 for each file."
        raise OtherClasses(f"{path} has no column for class {missing[0]}", hint)
    twice = next((name for name in classes if others.count(name) > 1), None)
    if twice is not None:
        raise DataError(f"{path} has two columns for class {twice}", "Keep the right one only.")
    unused = [name for name in others if name and name not in classes]
    notices = (f"columns of {path.name} that are no classes: {', '.join(unused)}",) if unused else ()
    return classes, notices


def _of_class(cells: set[str]) -> bool:
    """Whether a column with these cells says who has a class: who is unsure of some images still says it of others."""
    return cells <= _CELLS.keys() | _UNSURE and bool(cells & _CELLS.keys())


def _from_columns(rows: list[Row], classes: tuple[str, ...]) -> Asked:
    asked: Asked = []
    for row in rows:
        wrong = next((name for name in classes if row[name] not in _CELLS), None)
        kept = [name for name in classes if _CELLS.get(row[name])]
        hint = "An image that nobody is sure of cannot be used; write 0 or 1, or remove its line."
        problem = (
            None if wrong is None else Problem(row["file"], f"column {wrong} of {LABELS} is neither 0 nor 1", hint)
        )
        asked.append((Listed(row["file"], SEPARATOR.join(kept), row.get("patient") or None), problem))
    return asked


def _usable(folder: Path, asked: Asked) -> tuple[tuple[Listed, ...], tuple[Problem, ...]]:
    """One entry a file, by name; what cannot be used is a Problem, once."""
    labels: dict[str, set[str]] = defaultdict(set)
    for one, _ in asked:
        labels[one.file].add(one.label)
    problems: list[Problem] = []
    chosen: dict[str, Listed] = {}
    for one, wrong in asked:
        problem = _outside(one) or _twice(one, len(labels[one.file])) or wrong or _absent(folder, one)
        if problem is None:
            chosen[one.file] = one
        elif problem not in problems:
            problems.append(problem)
    return tuple(chosen[file] for file in sorted(chosen)), tuple(problems)


def _outside(one: Listed) -> Problem | None:
    parts = PurePosixPath(one.file)
    if parts.is_absolute() or ".." in parts.parts or ":" in parts.parts[0]:
        return Problem(one.file, f"lies outside the folder of {LABELS}", "Write names relative to the folder.")
    return None


def _twice(one: Listed, labels: int) -> Problem | None:
    return Problem(one.file, f"has two labels in {LABELS}", "Keep the right line only.") if labels > 1 else None


def _absent(folder: Path, one: Listed) -> Problem | None:
    if os.path.lexists(folder / one.file):
        return None
    return Problem(one.file, f"is listed in {LABELS} but is not there", "Copy it, or remove its line.")


def _table(path: Path) -> tuple[list[str], list[Row]]:
    """Names of the columns, and the lines by them; of our own columns in small letters."""
    text = text_of(path)
    if path.suffix.lower() == ".json":
        return table_of_json(path, text, NONE)
    first = text.split("\n", 1)[0]
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        header = [_own(name.strip()) for name in next(reader)]
        _require(path, header, "file")
        for name in _OWN:
            if header.count(name) > 1:
                raise DataError(f"{path} must have one column `{name}`", _FIRST_LINE)
        filled = ((reader.line_num, row) for row in reader if any(cell.strip() for cell in row))
        return header, [_row(path, line, header, row) for line, row in filled]
    except (csv.Error, StopIteration) as error:
        raise DataError(f"{path} is empty or no csv file", "Its first line is file,label,patient.") from error


def _own(name: str) -> str:
    return name.lower() if name.lower() in _OWN else name


def _require(path: Path, header: list[str], name: str) -> None:
    if name not in header:
        raise DataError(
            f"{path} must have one column `{name}`",
            f'{_FIRST_LINE} A column for each class goes with labels = "several" in the study.',
        )


def _row(path: Path, line: int, header: list[str], row: list[str]) -> Row:
    if len(row) != len(header):
        raise DataError(
            f"{path}, line {line}: {len(row)} columns where the first line has {len(header)}", "Correct the line."
        )
    found = {name: cell.strip() for name, cell in zip(header, row, strict=True)}
    found["file"] = found["file"].replace("\\", "/").removeprefix("./")
    if not found["file"]:
        raise DataError(f"{path}, line {line}: no file is named", "Fill in the file, or remove the line.")
    return found


def text_of(path: Path) -> str:
    """The text of a list; DataError where it cannot be read, or is no UTF-8."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text", "Save it as 'CSV UTF-8'.") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error
