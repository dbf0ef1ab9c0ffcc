"""Classes by an attribute of DICOM files: a labels.json that names no files, but an attribute and what its values mean.

    {"dicom": "BodyPartExamined", "classes": {"CHEST": "chest", "HAND": "hand", "WRIST": "hand"}}

A node shows the names of its classes to others: these are the words that the data owner wrote here, never what stands
in a file. A value that is not in the list is set aside, and told nowhere.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydicom import dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.multival import MultiValue

from primum.errors import DataError
from primum.imaging.image import Problem
from primum.imaging.labels_csv import Labelled, Listed, text_of
from primum.imaging.labels_json import parsed
from primum.imaging.patient import canonical
from primum.imaging.reader import decoding, read_head
from primum.imaging.stored import looks_like_dicom
from primum.study import Labels

_CLASS_VRS: Final = frozenset({"CS", "IS", "LO", "LT", "SH", "ST", "UC", "UT"})
_PERSONAL: Final = frozenset({0x0010, 0x0012, 0x0038})
_NO_CLASS: Final = frozenset({"AccessionNumber", "StudyID"})
_HINT: Final = 'Write {"dicom": "BodyPartExamined", "classes": {"CHEST": "chest", "HAND": "hand"}}.'


@dataclass(frozen=True)
class ByAttribute:
    """`keyword` of an attribute, and its values -> classes. Several values of one file are joined by a backslash."""

    keyword: str
    classes: dict[str, str]


def no_class(keyword: str) -> tuple[str, str] | None:
    """Why the attribute cannot name a class, and what to do: it does not exist, or is about a person; None if it can."""
    tag = tag_for_keyword(keyword)
    if tag is None:
        return f"{keyword} is no attribute of DICOM.", "Give its keyword, as in StudyDescription."
    if tag >> 16 == 0x0010 and keyword != "PatientSex":
        return f"{keyword} cannot name a class: it is about a person.", "Give a text about the image."
    if dictionary_VR(tag) not in _CLASS_VRS or tag >> 16 in _PERSONAL - {0x0010} or keyword in _NO_CLASS:
        return f"{keyword} cannot name a class.", "Give a short text that is about the image."
    return None


def attribute_in(path: Path) -> ByAttribute | None:
    """What the labels.json `path` says, where it names an attribute; None where it names files, or is a csv.

    Raises DataError where it is no JSON, or the attribute or the classes cannot be used.
    """
    if path.suffix.lower() != ".json":
        return None
    told = parsed(path, text_of(path))
    if not isinstance(told, dict) or "dicom" not in told:
        return None
    if more := sorted(set(told) - {"dicom", "classes"}):
        if not isinstance(told.get("classes"), dict):
            return None  # files, one of which is called "dicom"
        raise DataError(f"{path}: {more[0]!r} is not known beside an attribute", _HINT)
    keyword, classes = told["dicom"], told.get("classes")
    if not isinstance(keyword, str) or not isinstance(classes, dict) or not _are_names(classes.values()):
        raise DataError(f"{path} does not say which values of the attribute mean which classes", _HINT)
    if wrong := no_class(keyword):
        raise DataError(f"{path}: {wrong[0].rstrip('.')}", wrong[1])
    return ByAttribute(keyword, {canonical(value): name.strip() for value, name in classes.items()})


def _are_names(told: Iterable[Any]) -> bool:
    return all(isinstance(name, str) and name.strip() for name in told)


def labelled_by(
    said: ByAttribute, folder: Path, files: list[str], classes: tuple[str, ...] | None, labels: Labels | None
) -> Labelled:
    """`files` of `folder` by the attribute in their headers; `classes` and `labels` as for `list_folder`.

    Opens every file, but not its pixels. DataError where images shall have several classes.
    """
    if labels == "several":
        raise DataError(f"{folder}: an attribute gives an image one class, not several", "Write labels.csv instead.")
    entries, problems = [], []
    for file in files:
        try:
            entries.append(Listed(file, _class_of(folder / file, said, classes)))
        except DataError as error:
            problems.append(Problem(file, error.message, error.hint))
    names = classes or tuple(sorted({entry.label for entry in entries}))
    return Labelled(tuple(entries), names, tuple(problems), (), frozenset(files), labels or "one")


def _class_of(path: Path, said: ByAttribute, classes: tuple[str, ...] | None) -> str:
    if not looks_like_dicom(read_head(path)):
        raise DataError("is no DICOM file, and labels.json takes the class from an attribute", "Keep it elsewhere.")
    with decoding("DICOM"):
        header = dcmread(path, force=True, stop_before_pixels=True, specific_tags=[said.keyword])
        found = header.get(said.keyword)
    values = found if isinstance(found, MultiValue) else [] if found is None else [found]
    value = canonical("\\".join(str(one) for one in values))
    if not value:
        raise DataError(f"does not say its {said.keyword}", "Move it elsewhere, or list files and labels instead.")
    if value not in said.classes:
        raise DataError(f"its {said.keyword} is not among the classes of labels.json", "Add what it says to `classes`.")
    if classes is not None and said.classes[value] not in classes:
        raise DataError("its label is not a class of the study", f"The classes are {', '.join(classes)}.")
    return said.classes[value]
