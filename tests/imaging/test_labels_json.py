"""labels.json says the same as labels.csv; what is of another form is named."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from primum.errors import DataError
from primum.imaging.listing import list_folder


def folder_of(folder: Path, told: Any, name: str = "labels.json") -> Path:
    for file in ("a.png", "b.png", "c.png"):
        Image.new("L", (8, 8)).save(folder / file)
    (folder / name).write_text(told if isinstance(told, str) else json.dumps(told))
    return folder


@pytest.mark.parametrize(
    "told",
    [
        {"a.png": "ill", "b.png": "well", "c.png": "ill"},
        [{"file": "./a.png", "label": "ill"}, {"file": "b.png", "label": "well"}, {"file": "c.png", "label": ["ill"]}],
    ],
)
def test_one_class_an_image(tmp_path: Path, told: Any) -> None:
    found = list_folder(folder_of(tmp_path, told))
    assert [(one.file, one.label, one.patient) for one in found.entries] == [
        ("a.png", "ill", None),
        ("b.png", "well", None),
        ("c.png", "ill", None),
    ]
    assert (found.classes, found.labels, found.problems, found.notices) == (("ill", "well"), "one", (), ())


def test_several_classes_and_patients_as_a_csv_has_them(tmp_path: Path) -> None:
    told = [
        {"file": "a.png", "label": ["edema", "effusion"], "patient": 7},
        {"file": "b.png", "label": [], "patient": "8"},
        {"file": "c.png", "label": "effusion", "patient": "8"},
    ]
    (tmp_path / "csv").mkdir()
    (tmp_path / "json").mkdir()
    lines = "file,label,patient\na.png,edema|effusion,7\nb.png,No Finding,8\nc.png,effusion,8\n"
    from_json = list_folder(folder_of(tmp_path / "json", told))
    from_csv = list_folder(folder_of(tmp_path / "csv", lines, "labels.csv"))
    assert from_json == replace(from_csv, source="labels.json")
    assert from_json.labels == "several"


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ('{"a.png": "ill", "a.png": "well"}', "names a.png twice"),
        ({}, "lists no files"),
        ("17", "lists no files"),
        ([{"label": "ill"}], "entry 1: no file is named"),
        ([{"file": "a.png", "class": "ill"}], "entry 1: 'class' is not known"),
        ([{"file": "a.png", "label": {"x": 1}}], "entry 1: a label is a word or a list of words"),
        ([{"file": "a.png", "label": True}], "entry 1: a label is a word or a list of words"),
    ],
)
def test_another_form_is_named(tmp_path: Path, told: Any, words: str) -> None:
    with pytest.raises(DataError, match=words) as error:
        list_folder(folder_of(tmp_path, told))
    assert str(tmp_path / "labels.json") in str(error.value)


def test_files_that_cannot_be_used_are_named_with_the_file_that_says_so(tmp_path: Path) -> None:
    told = [{"file": name, "label": label} for name, label in (("a.png", "ill"), ("b.png", "well"), ("d.png", "ill"))]
    told.append({"file": "c.png", "label": ""})
    problems = {problem.file: problem.reason for problem in list_folder(folder_of(tmp_path, told)).problems}
    assert problems == {"d.png": "is listed in labels.json but is not there", "c.png": "has no label in labels.json"}


def test_two_lists_are_one_too_many(tmp_path: Path) -> None:
    folder_of(tmp_path, {"a.png": "ill"})
    (tmp_path / "labels.csv").write_text("file,label\na.png,ill\n")
    with pytest.raises(DataError, match=r"has labels\.csv and labels\.json"):
        list_folder(tmp_path)
