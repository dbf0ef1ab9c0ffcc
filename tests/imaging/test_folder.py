"""A hospital's folder: what it offers, what is set aside by name, and what makes it unusable as a whole."""

import os
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.imaging.samples import KEY, WHEEL, another_user, dicom, grey, png, two_classes

from primum.errors import DataError
from primum.imaging import (
    CHEST_XRAY_PATIENT,
    Dataset,
    FolderError,
    Intake,
    PatientSource,
    Preparation,
    assert_disjoint,
    read_folder,
)

BY_NAME = PatientSource(r"^([a-z]+\d+)_")


def _read(folder: Path, patients: PatientSource = BY_NAME, **options: Any) -> Intake:
    options = {"preparation": Preparation(16), "pseudonym_key": KEY, **options}
    return read_folder(folder, patients=patients, **options)


def _reasons(intake: Intake) -> dict[str, str]:
    return {problem.file: problem.reason for problem in intake.problems}


def test_class_folders(tmp_path: Path) -> None:
    png(two_classes(tmp_path) / "A" / "a00_1.png")
    done: list[tuple[int, int]] = []
    intake = _read(tmp_path, progress=lambda *counts: done.append(counts))
    data = intake.dataset
    assert data.images.shape == (13, 1, 16, 16) and data.images.dtype == torch.float32
    assert data.classes == ("A", "B") and data.labels.tolist() == [0] * 7 + [1] * 6
    assert intake.classes == {"A": 7, "B": 6} and intake.patients == {"A": 6, "B": 6}
    assert intake.formats == {"PNG": 13} and intake.problems == () and intake.notices == ()
    assert data.patients[0] == data.patients[1] != data.patients[2]
    assert data.files[0] == "A/a00_0.png" and done[-1] == (13, 13) and len(done) == 13


def test_formats_and_depths_are_mixed(tmp_path: Path) -> None:
    two_classes(tmp_path)
    dicom(tmp_path / "A" / "2026" / "05" / "IM1", PatientID="d1")
    dicom(tmp_path / "B" / "no ending", PatientID="d2")
    png(tmp_path / "B" / "ward" / "b99_0.PNG")
    intake = _read(tmp_path)
    assert intake.formats == {"DICOM": 2, "PNG": 13} and "A/2026/05/IM1" in intake.dataset.files


def test_the_order_and_the_result_do_not_depend_on_the_disk(tmp_path: Path) -> None:
    a, b = two_classes(tmp_path / "a"), tmp_path / "b"
    for path in sorted(a.rglob("*.png"), reverse=True):
        target = b / path.relative_to(a)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    first, second = _read(a).dataset, _read(b).dataset
    assert first.files == second.files and torch.equal(first.images, second.images)


def test_what_cannot_be_used_is_set_aside_by_name_and_the_rest_is_read(tmp_path: Path) -> None:
    two_classes(tmp_path)
    a = tmp_path / "A"
    (a / "a90_empty.png").touch()
    (a / "a91_text.png").write_text("no picture")
    (a / "a92_cut.dcm").write_bytes(dicom(tmp_path / "whole").read_bytes()[:700])
    (tmp_path / "whole").unlink()
    (a / "a93_report.dcm").write_bytes((WHEEL / "reportsi.dcm").read_bytes())
    (a / "a94_seg.dcm").write_bytes((WHEEL / "liver_1frame.dcm").read_bytes())
    (a / "a95_colour.dcm").write_bytes((WHEEL / "examples_rgb_color.dcm").read_bytes())
    dicom(a / "a96_flat.dcm", np.zeros((16, 16), np.uint16))
    (a / "a97_link.png").symlink_to(tmp_path / "gone")
    (a / "a98_copy.png").write_bytes((a / "a00_0.png").read_bytes())
    png(a / "nobody.png")
    png(tmp_path / "outside.png")
    (a / ".DS_Store").write_bytes(b"x")
    intake = _read(tmp_path)
    reasons = _reasons(intake)
    expected = {
        "A/a90_empty.png": "empty", "A/a91_text.png": "not an image", "A/a92_cut.dcm": "cut off",
        "A/a93_report.dcm": "without pixels", "A/a94_seg.dcm": "mask", "A/a95_colour.dcm": "in colour",
        "A/a96_flat.dcm": "equal", "A/a97_link.png": "link", "A/a98_copy.png": "same picture as A/a00_0.png",
        "A/nobody.png": "does not say whose it is", "outside.png": "lies in no class folder",
    }  # fmt: skip
    assert reasons.keys() == expected.keys()
    for file, words in expected.items():
        assert words in reasons[file]
    assert all(problem.hint for problem in intake.problems)
    assert len(intake.dataset) == 12


def test_of_copies_in_two_classes_none_is_used(tmp_path: Path) -> None:
    """Nobody knows which label is right; the class that sorts first would be a guess."""
    copy = two_classes(tmp_path) / "B" / "b90_0.png"
    copy.write_bytes((tmp_path / "A" / "a00_0.png").read_bytes())
    intake = _read(tmp_path)
    wanted = {"B/b90_0.png": "is the same picture as A/a00_0.png", "A/a00_0.png": "is the same picture as B/b90_0.png"}
    assert _reasons(intake) == wanted and len(intake.dataset) == 11
    assert all("find out which is right" in problem.hint for problem in intake.problems)


def test_names_that_are_no_utf_8_are_names(tmp_path: Path) -> None:
    two_classes(tmp_path)
    (tmp_path / "A" / os.fsdecode(b"m\xfcller.png")).write_bytes(png(tmp_path / "other.png").read_bytes())
    (tmp_path / "other.png").unlink()
    intake = _read(tmp_path, PatientSource(one_image_per_patient=True))
    assert len(intake.dataset) == 13 and not intake.problems


def test_files_of_many_images_are_led_to_where_they_are_unpacked(tmp_path: Path) -> None:
    known = {
        "pneumoniamnist_64.npz": "pneumoniamnist",
        "t10k-images-idx3-ubyte.gz": "mnist",
        "mnist_train10k.npz": "mnist",
    }
    names = {**known, "Task03_Liver.tar": "msd-liver", "ours.npz": "NAME", "train-labels-idx1-ubyte": "NAME"}
    two_classes(tmp_path / "data")
    for name in names:
        (tmp_path / "data" / name).write_bytes(b"x")
    hints = {problem.file: problem.hint for problem in _read(tmp_path / "data").problems}
    assert {file: f"data unpack {name} " in hints[file] for file, name in names.items()} == dict.fromkeys(names, True)
    with pytest.raises(DataError, match="a file, not a folder") as caught:
        _read(tmp_path / "data" / "pneumoniamnist_64.npz")
    assert "data unpack pneumoniamnist " in caught.value.hint


def test_a_file_without_permission_is_set_aside() -> None:
    with another_user() as folder:
        two_classes(folder)
        assert len(_read(folder).dataset) == 12
        (folder / "A" / "a00_0.png").chmod(0)
        intake = _read(folder)
        assert _reasons(intake) == {"A/a00_0.png": "cannot be opened (Permission denied)"}
        (folder / "A" / "a00_0.png").chmod(0o600)


@pytest.mark.parametrize("closed", [".", "A"])
def test_a_folder_without_permission_is_an_error_that_names_it(closed: str) -> None:
    with another_user() as folder:
        data = two_classes(folder / "data")
        (data / closed).chmod(0)
        with pytest.raises(DataError, match="cannot be read: Permission denied") as caught:
            _read(data)
        assert str(data / closed) in caught.value.message
        (data / closed).chmod(0o700)


def test_missing_folders_and_files_in_their_place(tmp_path: Path) -> None:
    png(tmp_path / "file.png")
    for name, words in {"gone": "does not exist", "file.png": "is a file, not a folder"}.items():
        with pytest.raises(DataError, match=words) as caught:
            _read(tmp_path / name)
        assert name in caught.value.message and caught.value.hint


def test_empty_folder_one_class_and_empty_class(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images with a class"):
        _read(tmp_path)
    two_classes(tmp_path / "one")
    for file in (tmp_path / "one" / "B").iterdir():
        file.unlink()
    with pytest.raises(DataError, match=r"class B in .* is empty"):
        _read(tmp_path / "one")
    (tmp_path / "one" / "B").rmdir()
    with pytest.raises(DataError, match=r"one class only \(A\)"):
        _read(tmp_path / "one")


def test_a_class_of_which_no_file_can_be_used(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for file in (tmp_path / "B").iterdir():
        file.write_bytes(b"broken")
    with pytest.raises(DataError, match=r"no image of class B .* B/b00_0.png is not an image"):
        _read(tmp_path)


def test_two_patients_in_all(tmp_path: Path) -> None:
    two_classes(tmp_path, 1)
    with pytest.raises(DataError, match="2 patients"):
        _read(tmp_path)


def test_no_source_of_patients(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for source in (PatientSource(), PatientSource(r"^(person\d+)_")):
        with pytest.raises(DataError, match=r"no image in .* says whose it is") as caught:
            _read(tmp_path, source)
        assert "--one-image-per-patient" in caught.value.hint
    (tmp_path / "A" / "x").write_text("no picture")
    with pytest.raises(FolderError, match="says whose it is") as refused:
        _read(tmp_path, PatientSource())
    assert [one.file for one in refused.value.problems] == ["A/x"], "the others lack what the message says"
    (tmp_path / "A" / "x").unlink()
    assert _read(tmp_path, PatientSource(one_image_per_patient=True)).dataset.patient_count == 12


def test_classes_of_a_study(tmp_path: Path) -> None:
    two_classes(tmp_path)
    png(tmp_path / "C" / "c00_0.png")
    intake = _read(tmp_path, classes=("B", "A"))
    assert intake.dataset.classes == ("B", "A") and intake.dataset.labels.tolist() == [1] * 6 + [0] * 6
    assert intake.notices == ("folder C is not a class of the study: files not used: 1",)
    with pytest.raises(DataError, match="no folder for class a") as caught:
        _read(tmp_path, classes=("a", "B"))
    assert "There is a folder A" in caught.value.hint


def test_a_patient_in_two_classes_is_set_aside_in_both(tmp_path: Path) -> None:
    two_classes(tmp_path)
    png(tmp_path / "B" / "a00_7.png")
    intake = _read(tmp_path)
    assert _reasons(intake) == dict.fromkeys(("A/a00_0.png", "B/a00_7.png"), "its patient is in two classes")
    assert len(intake.dataset) == 11


def test_many_patients_in_two_classes_mean_a_wrong_pattern(tmp_path: Path) -> None:
    two_classes(tmp_path)
    with pytest.raises(DataError, match=r"6 of 6 patients .* A/a00_0.png"):
        _read(tmp_path, PatientSource(r"(\d\d)_"))


def _csv(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "labels.csv").write_bytes(text.encode())
    return folder


def test_labels_csv_excel_and_windows(tmp_path: Path) -> None:
    lines = []
    for number in range(8):
        png(tmp_path / "export" / f"{number}.png")
        lines.append(f"export\\{number}.png;{'ill' if number % 2 else 'well'};P{number // 2 * 2 + number % 2}")
    _csv(tmp_path, "\ufeffFile;Label;Patient\r\n" + "\r\n".join(lines) + "\r\n\r\n")
    png(tmp_path / "extra.png")
    intake = _read(tmp_path, PatientSource())
    assert intake.classes == {"ill": 4, "well": 4} and intake.dataset.patient_count == 8
    assert intake.notices == ("files that are not listed in labels.csv: 1",)


def test_labels_csv_problems_by_name(tmp_path: Path) -> None:
    names = [png(tmp_path / f"{number}.png").name for number in range(7)]
    good = "".join(f"{name},{'x' if number < 3 else 'y'},{number}\n" for number, name in enumerate(names[:6]))
    _csv(tmp_path, f"label,x,patient\n{good}")
    with pytest.raises(DataError, match="one column `file`"):
        _read(tmp_path)
    bad = "6.png,x,6\n6.png,y,6\ngone.png,x,9\n../secret.png,x,9\n/etc/passwd,x,9\nC:/a.png,x,9\n"
    _csv(tmp_path, f"file,label,patient\n{good}{bad}")
    intake = _read(tmp_path)
    assert {file: reason.split(" in ")[0] for file, reason in _reasons(intake).items()} == {
        "6.png": "has two labels",
        "gone.png": "is listed",
        "../secret.png": "lies outside the folder of labels.csv",
        "/etc/passwd": "lies outside the folder of labels.csv",
        "C:/a.png": "lies outside the folder of labels.csv",
    }
    assert len(intake.dataset) == 6
    intake = _read(_csv(tmp_path, f"file,label,patient\n{good}6.png,z,6\n"), classes=("x", "y"))
    assert _reasons(intake) == {"6.png": "its label is not a class of the study"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("file,label\na.png,x,1\n", "line 2: 3 columns"),
        ("file,label\n,x\n", "line 2: no file"),
        ("file,label,label\n", "one column `label`"),
        ("file,label\n", "names no file"),
    ],
)
def test_broken_labels_csv(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        _read(_csv(tmp_path, text))


def test_labels_csv_that_is_not_text(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_bytes(b"file,label\nM\xfcller.png,x\n")
    with pytest.raises(DataError, match="not UTF-8"):
        _read(tmp_path)


def test_train_and_test_share_nobody(tmp_path: Path) -> None:
    train = _read(two_classes(tmp_path / "train")).dataset
    two_classes(tmp_path / "test", 5)
    for file in (tmp_path / "test").rglob("*.png"):
        file.rename(file.with_name("t" + file.name))
    test = _read(tmp_path / "test").dataset
    assert_disjoint(train, test)
    png(tmp_path / "test" / "A" / "a03_5.png")
    with pytest.raises(DataError, match=r"1 patient is in both sets: A/a03_0.png, A/a03_5.png"):
        assert_disjoint(train, _read(tmp_path / "test").dataset)


def test_nothing_prints_patients_or_content(tmp_path: Path) -> None:
    intake = _read(two_classes(tmp_path))
    printed = repr(intake) + repr(intake.dataset)
    assert all(who not in printed for who in intake.dataset.patients) and "a00" not in printed
    assert repr(intake.dataset) == "Dataset((12, 1, 16, 16), 12 patients, classes ('A', 'B'))"


def test_a_data_set_checks_itself(tmp_path: Path) -> None:
    data = _read(two_classes(tmp_path)).dataset
    half = data.select(label == 0 for label in data.labels.tolist())
    assert len(half) == 6 and half.by_class() == {"A": 6, "B": 0} and half.files == data.files[:6]
    with pytest.raises(ValueError, match="differ in number"):
        Dataset(data.images, data.labels[:-1], data.patients, data.files, data.classes)
    with pytest.raises(ValueError, match="not the index"):
        Dataset(data.images, data.labels + 1, data.patients, data.files, data.classes)


def test_chest_x_rays(real_data: Path | None) -> None:
    if real_data is None:
        return
    source = PatientSource(CHEST_XRAY_PATIENT)
    parts = [_read(real_data / "chest" / split, source, preparation=Preparation(32)) for split in ("train", "test")]
    assert [len(part.dataset) for part in parts] == [450, 150]
    assert [part.dataset.patient_count for part in parts] == [379, 138]
    assert all(part.problems == () for part in parts)
    assert_disjoint(parts[0].dataset, parts[1].dataset)


def test_full_size_pictures_are_not_kept(tmp_path: Path) -> None:
    """Forty pictures of 4 MB as float32 are read in much less memory than they have together."""
    for label in "AB":
        for number in range(20):
            stored = np.repeat(np.repeat(grey(f"{label}{number}", 32, 32, 4095), 32, 0), 32, 1)
            dicom(tmp_path / label / f"{label.lower()}{number}_0", stored)
    tracemalloc.start()
    _read(tmp_path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 80e6 < 40 * 1024 * 1024 * 4
    assert (tmp_path / "A" / "a0_0").stat().st_size > 1 << 21


def test_files_that_are_no_images_by_their_names_are_told(tmp_path: Path) -> None:
    two_classes(tmp_path)
    for name in ("readme.txt", "A/Thumbs.db", "B/Thumbs.db", "A/.hidden"):
        (tmp_path / name).write_text("x")
    [told] = _read(tmp_path).notices
    assert told == "files that are not looked at, by their names: 2 x Thumbs.db, readme.txt"


def test_too_few_patients_are_counted_beside_their_images(tmp_path: Path) -> None:
    for number in range(6):
        png(tmp_path / ("A" if number < 3 else "B") / f"{'a' if number < 3 else 'b'}1_{number}.png")
    with pytest.raises(DataError, match="6 images can be used, of 2 patients; at least 5 patients are needed"):
        _read(tmp_path)


@pytest.mark.parametrize("names", [("img", "segmentations"), ("images", "mask_png"), ("images", "image_labels")])
def test_images_with_masks_are_not_taken_for_classes(tmp_path: Path, names: tuple[str, str]) -> None:
    for name in names:
        for number in range(6):
            png(tmp_path / name / f"p{number}_0.png")
    with pytest.raises(DataError, match="looks like images with masks") as caught:
        _read(tmp_path)
    assert "two folders, images and masks" in caught.value.hint
    assert len(_read(tmp_path, PatientSource(one_image_per_patient=True), classes=names).dataset.classes) == 2


@pytest.mark.parametrize(
    "parts", [("train", "test"), ("Training", "val", "Test"), ("test_set", "train-set"), ("fold1", "fold2")]
)
def test_parts_of_a_data_set_are_not_taken_for_classes(tmp_path: Path, parts: tuple[str, ...]) -> None:
    for part in parts:
        two_classes(tmp_path / part)
    with pytest.raises(DataError, match="parts of a data set, not classes") as caught:
        _read(tmp_path)
    assert str(tmp_path / next((part for part in parts if "rain" in part), parts[0])) in caught.value.hint
    assert len(_read(tmp_path / parts[0]).dataset) == 12


def test_half_of_a_folder_with_masks_leads_to_the_whole(tmp_path: Path) -> None:
    for name in ("images", "masks"):
        png(tmp_path / name / "p1_0.png")
    with pytest.raises(DataError, match="has masks/ beside it") as caught:
        _read(tmp_path / "images")
    assert str(tmp_path) in caught.value.hint
    (tmp_path / "masks" / "p1_0.png").unlink()
    (tmp_path / "masks").rmdir()
    with pytest.raises(DataError, match="one class only") as caught:
        _read(tmp_path)
    assert "images and masks" in caught.value.hint
    two_classes(tmp_path / "classes")
    for name in ("labelled images", "unlabelled images"):
        (tmp_path / "classes" / ("A" if name[0] == "l" else "B")).rename(tmp_path / "classes" / name)
    assert _read(tmp_path / "classes").classes == {"labelled images": 6, "unlabelled images": 6}
