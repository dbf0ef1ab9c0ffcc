"""Which classes a labels.csv gives an image: several, in columns or in one cell; grades; and what is refused by name."""

from pathlib import Path

import pytest
from tests.imaging.samples import KEY, png

from primum.errors import DataError, OtherClasses
from primum.imaging import Intake, PatientSource, Preparation, read_folder
from primum.imaging.labels_csv import LABELS, read_labels
from primum.imaging.listing import list_folder
from primum.imaging.split import deal
from primum.study import Labels

BY_NAME = PatientSource(r"^([a-z]+\d+)_")
CLASSES = ("Mass", "Edema", "Hernia")
ROWS = ("Mass|Edema", "No Finding", "Edema", "Hernia", "Mass", "Hernia|Mass")


def folder(tmp_path: Path, *lines: str, header: str = "file,label") -> Path:
    """A picture and a line for each of `lines`: what follows the file's name."""
    for number, _ in enumerate(lines):
        png(tmp_path / f"p{number}_0.png")
    rows = "".join(f"p{number}_0.png,{line}\n" for number, line in enumerate(lines))
    (tmp_path / "labels.csv").write_text(f"{header}\n{rows}")
    return tmp_path


def read(path: Path, **options: object) -> Intake:
    return read_folder(path, preparation=Preparation(16), patients=BY_NAME, pseudonym_key=KEY, **options)  # type: ignore[arg-type]


def columns(path: Path, *lines: str, header: str = "file,Mass,Edema,Hernia") -> Path:
    return folder(path, *lines, header=header)


ONES = ("1,1,0", "0,0,0", "0,1,0", "0,0,1", "1,0,0", "1.0,0,1")


def test_names_in_a_cell_and_a_column_for_each_class_say_the_same(tmp_path: Path) -> None:
    cells = read(folder(tmp_path / "cells", *ROWS), classes=CLASSES, labels="several")
    ones = read(columns(tmp_path / "columns", *ONES), classes=CLASSES, labels="several")
    wanted = [[1, 1, 0], [0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 0, 0], [1, 0, 1]]
    assert cells.dataset.labels.tolist() == ones.dataset.labels.tolist() == wanted
    assert cells.dataset.several and not cells.dataset.masked
    assert cells.classes == ones.classes == cells.dataset.by_class() == {"Mass": 3, "Edema": 2, "Hernia": 2}
    assert cells.patients == {"Mass": 3, "Edema": 2, "Hernia": 2} and cells.problems == ones.problems == ()


def test_without_a_study_the_csv_tells_that_images_have_several(tmp_path: Path) -> None:
    cells = read(folder(tmp_path / "cells", *ROWS))
    extra = read(columns(tmp_path / "c", *(f"{line},61" for line in ONES), header="file,Mass,Edema,Hernia,age"))
    assert cells.labels == extra.labels == "several"
    assert cells.dataset.classes == extra.dataset.classes == ("Edema", "Hernia", "Mass")
    assert cells.dataset.labels.tolist() == extra.dataset.labels.tolist()
    assert extra.notices == ("columns of labels.csv that are no classes: age",)
    assert read(folder(tmp_path / "one", *"ABABAB")).labels == "one"


def test_several_names_where_one_is_asked_are_set_aside(tmp_path: Path) -> None:
    found = read(folder(tmp_path, "A", "B", "A|B", "A", "B", "A"), labels="one")
    assert found.dataset.classes == ("A", "B") and len(found.dataset) == 5
    (problem,) = found.problems
    assert problem.file == "p2_0.png" and "several labels" in problem.reason and "--labels several" in problem.hint


def test_images_of_a_patient_may_have_other_classes_or_grades(tmp_path: Path) -> None:
    rows = [f"p{number}_{eye}.png,{(number + eye) % 3}" for number in range(6) for eye in (0, 1)]
    for row in rows:
        png(tmp_path / row.split(",")[0])
    (tmp_path / "labels.csv").write_text("file,label\n" + "\n".join(rows))
    grades = ("0", "1", "2")
    data = read(tmp_path, classes=grades, labels="ordered").dataset
    assert len(data) == 12 and data.patient_count == 6 and not data.several
    with pytest.raises(DataError, match="are in two classes") as refused:
        read(tmp_path, classes=grades)
    assert "--labels ordered" in refused.value.hint


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("Mass|Mass", "has one class twice"),
        ("Mass|Oedema", "one of its labels is not a class of the study"),
        ("Mass||Edema", "has an empty name among its labels"),
        ("Mass|No Finding", "one of its labels is not a class of the study"),
        ("", "has no label in labels.csv"),
    ],
)
def test_a_cell_that_cannot_be_meant_is_set_aside(tmp_path: Path, label: str, reason: str) -> None:
    intake = read(folder(tmp_path, label, *ROWS), classes=CLASSES, labels="several")
    assert [problem.file for problem in intake.problems] == ["p0_0.png"]
    assert reason in intake.problems[0].reason and "Oedema" not in intake.problems[0].hint


@pytest.mark.parametrize("cell", ["-1", "", "yes", "2"])
def test_a_column_that_is_neither_0_nor_1_is_set_aside(tmp_path: Path, cell: str) -> None:
    intake = read(columns(tmp_path, f"1,{cell},0", *ONES), classes=CLASSES, labels="several")
    assert [problem.reason for problem in intake.problems] == ["column Edema of labels.csv is neither 0 nor 1"]
    at_first = read(columns(tmp_path, f"1,{cell},0", *ONES))  # without a study: a column of unsure cells is a class's
    assert ("Edema" in at_first.dataset.classes) == (cell in ("-1", ""))
    assert bool(at_first.problems) == (cell in ("-1", ""))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("file,Mass,Edemas,Hernia", "has no column for class Edema"),
        ("file,Mass,Mass,Edema", "has no column for class Hernia"),
        ("file,patient,Patient,Mass", "must have one column `patient`"),
    ],
)
def test_columns_that_are_not_those_of_the_study_are_refused(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(columns(tmp_path, *ONES, header=header), classes=CLASSES, labels="several")


def test_a_class_in_two_columns_or_of_no_image_is_refused(tmp_path: Path) -> None:
    twice = columns(tmp_path / "twice", *(f"{line},1" for line in ONES), header="file,Mass,Edema,Hernia,Edema")
    with pytest.raises(DataError, match="two columns for class Edema"):
        read(twice, classes=CLASSES, labels="several")
    with pytest.raises(DataError, match="no image of class Hernia") as caught:
        read(folder(tmp_path / "empty", "Mass|Edema", "Mass", "Edema"), classes=CLASSES, labels="several")
    assert type(caught.value) is DataError  # to the scientist it would say that no patient here has that class


@pytest.mark.parametrize("labels", ["one", "several"])
def test_a_list_of_other_classes_names_those_asked_for_and_those_there(tmp_path: Path, labels: Labels) -> None:
    listed = folder(tmp_path, "Mass", "Edema", "Mass")
    with pytest.raises(OtherClasses, match=r"has no image of class cat and none of class dog") as caught:
        read(listed, classes=("cat", "dog"), labels=labels)
    assert caught.value.hint == "The study asks for cat, dog; there are Edema, Mass."


def test_folders_of_classes_are_no_place_for_several(tmp_path: Path) -> None:
    for name in CLASSES:
        png(tmp_path / name / "p1_0.png")
    with pytest.raises(DataError, match="in class folders an image has one class") as refused:
        list_folder(tmp_path, CLASSES, "several")
    assert "labels.csv" in refused.value.hint
    with pytest.raises(DataError, match="must have one column `label`") as refused:
        list_folder(columns(tmp_path / "c", *ONES), CLASSES, "one")
    assert 'labels = "several"' in refused.value.hint


def test_images_with_several_classes_are_dealt_with_their_labels(tmp_path: Path) -> None:
    source = folder(tmp_path / "all", *ROWS, *ROWS)
    (source / LABELS).rename(source / "Labels.CSV")
    targets = (tmp_path / "a", tmp_path / "b")
    deal(source, targets, KEY, patients=BY_NAME)
    whole = {one.file: set(one.label.split("|")) for one in list_folder(source).entries}
    parts = [one for target in targets for one in read_labels(target, target / LABELS, CLASSES, "several").entries]
    assert {one.file: set(one.label.split("|")) for one in parts} == whole
