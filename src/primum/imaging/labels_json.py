"""labels.json: the same as labels.csv, as other programs write it.

| JSON | means |
|---|---|
| `{"a.png": "effusion", "b.png": ["effusion", "edema"], "c.png": []}` | one class; several; none of them |
| `[{"file": "a.png", "label": "effusion", "patient": "17"}, ...]` | a line each, as in the csv; `label` may be a list |
| `{"dicom": "BodyPartExamined", "classes": {"CHEST": "chest", ...}}` | the class is what an attribute says (labels_dicom.py) |
"""

import json
from pathlib import Path
from typing import Any, Final

from primum.errors import DataError
from primum.study import SEPARATOR

LABELS_JSON: Final = "labels.json"
_HINT: Final = 'Write {"file": "class", ...}, or a list of {"file": ..., "label": ..., "patient": ...}.'


def table_of_json(path: Path, text: str, none: str) -> tuple[list[str], list[dict[str, str]]]:
    """Names of the columns and the lines, as of a csv; `none` is the label of an image with an empty list.

    DataError that names the entry which is of another form; a file that is named twice in an object is one of them.
    """
    told = parsed(path, text)
    if isinstance(told, dict):
        told = [{"file": file, "label": label} for file, label in told.items()]
    if not isinstance(told, list) or not told:
        raise DataError(f"{path} lists no files", _HINT)
    rows = [_row(path, number, entry, none) for number, entry in enumerate(told, 1)]
    header = ["file", "label", *(["patient"] if any("patient" in row for row in rows) else [])]
    return header, [{name: row.get(name, "") for name in header} for row in rows]


def parsed(path: Path, text: str) -> Any:
    """The JSON in `text`; DataError where it is none, or an object names one thing twice."""
    try:
        return json.loads(text, object_pairs_hook=_once)
    except _Twice as error:
        raise DataError(f"{path} names {error} twice", "Keep the right entry only.") from None
    except (ValueError, RecursionError):
        raise DataError(f"{path} is no JSON", _HINT) from None


class _Twice(Exception):
    pass


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise _Twice(key[:200])
        found[key] = value
    return found


def _row(path: Path, number: int, entry: Any, none: str) -> dict[str, str]:
    if not isinstance(entry, dict) or not isinstance(entry.get("file"), str) or not entry["file"].strip():
        raise DataError(f"{path}, entry {number}: no file is named", _HINT)
    if unknown := sorted(set(entry) - {"file", "label", "patient"}):
        raise DataError(f"{path}, entry {number}: {unknown[0]!r} is not known", "An entry has file, label and patient.")
    label, patient = entry.get("label", ""), entry.get("patient", "")
    if isinstance(label, list) and all(isinstance(name, str) for name in label):
        label = SEPARATOR.join(label) if label else none
    if not isinstance(label, str | int) or isinstance(label, bool) or not isinstance(patient, str | int):
        raise DataError(f"{path}, entry {number}: a label is a word or a list of words", _HINT)
    row = {"file": entry["file"].strip().replace("\\", "/").removeprefix("./"), "label": str(label).strip()}
    return row | ({"patient": str(patient).strip()} if "patient" in entry else {})
