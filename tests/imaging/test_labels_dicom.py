"""labels.json that names an attribute: classes in the data owner's words, and no value of a file anywhere."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.imaging.samples import KEY, dicom, png

from primum.errors import DataError
from primum.imaging import Intake, PatientSource, Preparation, deal, read_folder
from primum.imaging.listing import list_folder

BY_PART = {"dicom": "BodyPartExamined", "classes": {"CHEST": "chest", "HAND": "hand", "WRIST": "hand"}}


def export(folder: Path, told: Any = BY_PART, **more: str | None) -> Path:
    """An export without class folders: 3 chests, 2 hands, a wrist; `more`: patient -> what is examined."""
    parts = {"p1": "CHEST", "p2": "CHEST ", "p3": "CHEST", "p4": "HAND", "p5": "HAND", "p6": "WRIST", **more}
    for who, part in parts.items():
        dicom(folder / "2026" / who / "IM1", PatientID=who, BodyPartExamined=part)
    (folder / "labels.json").write_text(json.dumps(told))
    return folder


def read(folder: Path, classes: tuple[str, ...] | None = None) -> Intake:
    return read_folder(folder, classes, preparation=Preparation(16), patients=PatientSource(), pseudonym_key=KEY)


def test_the_class_is_what_the_attribute_means(tmp_path: Path) -> None:
    intake = read(export(tmp_path))
    assert intake.classes == {"chest": 3, "hand": 3} and not intake.problems and not intake.notices
    assert intake.dataset.files[0] == "2026/p1/IM1" and intake.dataset.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert read(tmp_path, ("hand", "chest")).dataset.labels.tolist() == [1, 1, 1, 0, 0, 0]


def test_what_stands_for_nothing_is_set_aside_and_never_told(tmp_path: Path) -> None:
    export(tmp_path, p7="MUELLERS KNEE", p8=None, p9="")
    png(tmp_path / "photo.png")
    intake = read(tmp_path)
    reasons = {one.file: one.reason for one in intake.problems}
    assert reasons == {
        "2026/p7/IM1": "its BodyPartExamined is not among the classes of labels.json",
        "2026/p8/IM1": "does not say its BodyPartExamined",
        "2026/p9/IM1": "does not say its BodyPartExamined",
        "photo.png": "is no DICOM file, and labels.json takes the class from an attribute",
    }
    assert intake.classes == {"chest": 3, "hand": 3}
    assert "MUELLER" not in repr((intake.problems, intake.notices, intake.dataset.classes, intake.manifest))
    with pytest.raises(DataError, match=r"has no image of class foot"):
        list_folder(tmp_path, ("chest", "foot"))
    finer = {"dicom": "BodyPartExamined", "classes": {"CHEST": "chest", "HAND": "hand", "WRIST": "wrist"}}
    (tmp_path / "labels.json").write_text(json.dumps(finer))
    left = {one.file: one.reason for one in list_folder(tmp_path, ("chest", "hand")).problems}
    assert left["2026/p6/IM1"] == "its label is not a class of the study"


def test_several_values_are_one_text(tmp_path: Path) -> None:
    told = {"dicom": "ImageType", "classes": {"ORIGINAL\\PRIMARY": "plain", "DERIVED\\SECONDARY": "worked on"}}
    export(tmp_path, told)
    for who, kind in (("p1", "ORIGINAL"), ("p2", "DERIVED")):
        second = "PRIMARY" if kind == "ORIGINAL" else "SECONDARY"
        dicom(tmp_path / "2026" / who / "IM1", PatientID=who, ImageType=[kind, second])
    found = {one.file: one.label for one in list_folder(tmp_path).entries}
    assert found == {"2026/p1/IM1": "plain", "2026/p2/IM1": "worked on"}


def test_a_part_for_a_hospital_keeps_the_classes(tmp_path: Path) -> None:
    export(tmp_path / "all")
    parts = (tmp_path / "one", tmp_path / "two")
    assert sum(deal(tmp_path / "all", parts, KEY, patients=PatientSource()).values()) == 6
    labels = [line.split(",")[1] for part in parts for line in (part / "labels.csv").read_text().splitlines()[1:]]
    assert sorted(labels) == ["chest"] * 3 + ["hand"] * 3


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"dicom": "BodyPartExamined"}, "which values"),
        ({"dicom": "BodyPartExamined", "classes": ["CHEST"]}, "which values"),
        ({"dicom": "BodyPartExamined", "classes": {"CHEST": ""}}, "which values"),
        ({"dicom": "BodyPart", "classes": {"CHEST": "chest"}}, "BodyPart is no attribute of DICOM"),
        ({"dicom": "PatientName", "classes": {"A": "a"}}, "PatientName cannot name a class: it is about a person"),
        ({"dicom": "StudyID", "classes": {"A": "a"}}, "StudyID cannot name a class"),
        ({"dicom": "Rows", "classes": {"12": "small"}}, "Rows cannot name a class"),
        ('{"dicom": "Modality", "classes": {"CT": "a", "CT": "b"}}', "names CT twice"),
    ],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, told: Any, words: str) -> None:
    export(tmp_path)
    (tmp_path / "labels.json").write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(DataError, match=words) as error:
        list_folder(tmp_path)
    assert "labels.json" in str(error.value)


def test_an_attribute_gives_one_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one class, not several"):
        list_folder(export(tmp_path), labels="several")


def test_a_key_that_is_not_known_is_named_and_a_file_may_be_called_dicom(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="'values' is not known beside an attribute"):
        list_folder(export(tmp_path / "export", BY_PART | {"values": []}))
    for name in ("dicom", "other"):
        png(tmp_path / "pictures" / f"{name}.png", name).rename(tmp_path / "pictures" / name)
    (tmp_path / "pictures" / "labels.json").write_text(json.dumps({"dicom": "a", "other": "b"}))
    assert list_folder(tmp_path / "pictures").classes == ("a", "b")
