"""Named data sets as folders: a node can read them, and every image is in one place."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.imaging.named_samples import as_published, findings, npz, small_set, tar
from tests.imaging.samples import KEY

from primum.errors import DataError
from primum.imaging import PatientSource, Preparation, read_folder, read_medmnist
from primum.imaging.cases import list_cases
from primum.imaging.named import SETS, Opened, open_named
from primum.imaging.named_unpack import SKEW, deal_places, unpack, unpack_images, unpack_volumes


def test_a_node_reads_what_was_unpacked(real_data: Path | None, tmp_path: Path) -> None:
    if real_data is None:
        return
    entry, seen = SETS["breastmnist"], []
    counts, notices = unpack(
        entry, real_data, tmp_path / "out", progress=lambda done, total: seen.append((done, total))
    )
    assert counts == {"train": 546, "val": 78, "test": 156} and notices == () and seen[-1] == (780, 780)
    intake = read_folder(
        tmp_path / "out" / "test", preparation=Preparation(size=28), patients=PatientSource(), pseudonym_key=KEY
    )
    assert not intake.problems and intake.classes == {"malignant": 42, "normal or benign": 114}
    assert intake.dataset.patient_count == 156
    splits = read_medmnist(real_data / "medmnist" / "breastmnist.npz")
    pixels = dict(zip(intake.dataset.files, intake.dataset.images, strict=True))
    name = "normal or benign" if splits["test"].labels[7] else "malignant"
    np.testing.assert_allclose(pixels[f"{name}/test-000007.png"], splits["test"].images[7], atol=1e-6)
    with Pillow.open(tmp_path / "out" / "test" / name / "test-000007.png") as opened:
        assert not opened.info


def test_hospitals_by_label_differ_and_share_nothing(real_data: Path | None, tmp_path: Path) -> None:
    if real_data is None:
        return
    counts, _ = unpack(SETS["breastmnist"], real_data, tmp_path / "out", hospitals=3, by_label=True)
    assert sum(counts[f"hospital-{number}"] for number in (1, 2, 3)) == 546 and counts["test"] == 156
    files = {
        part: {path.name: path.parent.name for path in (tmp_path / "out" / part).glob("*/*.png")} for part in counts
    }
    names = [name for part in files.values() for name in part]
    assert len(names) == len(set(names)) == 780
    malignant = [list(files[f"hospital-{number}"].values()).count("malignant") for number in (1, 2, 3)]
    assert malignant[0] == round(0.7 * 147) and min(malignant) > 10


@given(st.lists(st.integers(0, 4), min_size=1, max_size=200), st.integers(2, 7))
def test_every_image_is_dealt_once(labels: list[int], hospitals: int) -> None:
    array = np.asarray(labels)
    for deal_by in (array, np.zeros_like(array)):
        dealt = deal_places(deal_by, hospitals, "test")
        assert len(dealt) == hospitals
        assert sorted(np.concatenate(dealt).tolist()) == list(range(len(labels)))
    sizes = [len(part) for part in dealt]
    assert max(sizes) - min(sizes) <= 1, "evenly"


def test_the_skew_is_as_stated() -> None:
    labels = np.repeat(np.arange(4), 1000)
    for number, part in enumerate(deal_places(labels, 3, "test")):
        counts = np.bincount(labels[part], minlength=4)
        wanted = [1000 * (SKEW if label % 3 == number else (1 - SKEW) / 2) for label in range(4)]
        np.testing.assert_allclose(counts, wanted, atol=1)


def test_what_cannot_be_unpacked(tmp_path: Path) -> None:
    entry, out = SETS["pneumoniamnist"], tmp_path / "out"
    for hospitals, by_label, words in ((0, False, "1 to 100"), (1, True, "skewed"), (2, False, "is not there")):
        with pytest.raises(DataError, match=words):
            unpack(entry, tmp_path, out, hospitals=hospitals, by_label=by_label)
    out.mkdir()
    with pytest.raises(DataError, match="exists already"):
        unpack(entry, tmp_path, out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_hospital_without_a_class_is_refused(tmp_path: Path) -> None:
    data = npz(12)
    (tmp_path / "small.npz").write_bytes(data)
    opened = Opened(read_medmnist(tmp_path / "small.npz", small_set(data).classes))
    for hospitals, by_label in ((3, True), (9, False)):
        with pytest.raises(DataError, match="no image of class"):
            unpack_images(opened, tmp_path / "out", "small", hospitals, by_label=by_label)
    assert not (tmp_path / "out").exists()
    counts = unpack_images(opened, tmp_path / "out", "small", 1)
    assert counts == {"train": 12, "val": 6, "test": 6}


def test_images_with_several_classes_go_into_one_folder(tmp_path: Path) -> None:
    data = findings(36)
    (tmp_path / "chestmnist.npz").write_bytes(data)
    entry = as_published("chestmnist", data)
    counts, notices = unpack(entry, tmp_path, tmp_path / "out", hospitals=2)
    assert counts == {"hospital-1": 18, "hospital-2": 18, "val": 36, "test": 36}
    assert notices == ('a study of it says labels = "several"',)
    intake = read_folder(
        tmp_path / "out" / "val", entry.classes, preparation=Preparation(8), patients=PatientSource(),
        pseudonym_key=KEY, labels="several",
    )  # fmt: skip
    assert intake.labels == "several" and not intake.problems and intake.dataset.patient_count == 36
    opened = open_named(entry, tmp_path).splits["val"]
    assert intake.dataset.labels.tolist() == opened.labels.tolist() and intake.dataset.classes == opened.classes
    np.testing.assert_allclose(intake.dataset.images, opened.images, atol=1e-6)
    with pytest.raises(DataError, match="no label to deal by"):
        unpack(entry, tmp_path, tmp_path / "skewed", hospitals=2, by_label=True)
    with pytest.raises(DataError, match="no image of class"):
        unpack(entry, tmp_path, tmp_path / "many", hospitals=12)


def test_grades_say_what_a_node_and_a_study_need(tmp_path: Path) -> None:
    data = npz(20, classes=5)
    (tmp_path / "retinamnist.npz").write_bytes(data)
    entry = as_published("retinamnist", data)
    counts, notices = unpack(entry, tmp_path, tmp_path / "out")
    assert counts == {"train": 20, "val": 10, "test": 10} and entry.labels == "ordered"
    assert notices == ('a study of it says labels = "ordered"; start nodes with --labels ordered',)
    intake = read_folder(
        tmp_path / "out" / "train", preparation=Preparation(8), patients=PatientSource(), pseudonym_key=KEY,
        labels="ordered",
    )  # fmt: skip
    assert intake.labels == "ordered" and intake.classes == dict.fromkeys("01234", 4)


def test_volumes_are_written_under_names_of_our_own_making(tmp_path: Path) -> None:
    evil = {
        "../../imagesTr/../escape.nii.gz": b"",
        "/absolute/imagesTr/v0.nii.gz/../../x": b"",
        "Task99/imagesTr/notes.txt": b"",
        "Task99/dataset.json": b'{"modality": {"0": "CT"}, "labels": 3, "training": [{"image": "/etc/passwd"}]}',
    }
    path = tar(tmp_path / "t.tar", **evil)
    counts = unpack_volumes(path, tmp_path / "out", SETS["msd-liver"], 2)
    assert counts == {"hospital-1": 3, "hospital-2": 3}
    found = sorted(str(file.relative_to(tmp_path / "out")) for file in (tmp_path / "out").rglob("*") if file.is_file())
    assert len(found) == 14 and all(file.split("/")[1] in ("images", "labels", "dataset.json") for file in found)
    cases = list_cases(tmp_path / "out" / "hospital-1")
    assert len(cases.entries) == 3 and cases.classes == ("background", "liver", "tumour") and cases.tomography
    for part in counts:
        images = sorted(file.name for file in (tmp_path / "out" / part / "images").iterdir())
        assert images == sorted(file.name for file in (tmp_path / "out" / part / "labels").iterdir())
    one = next((tmp_path / "out").rglob("labels/v3.nii.gz"))
    assert one.read_bytes() == b"Task99/labelsTr/v3.nii.gz"
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["out", "t.tar"]


@pytest.mark.parametrize("said", [b"no json", b"[" * 9999, b"[]", b'{"modality": {"0": 7}}'])
def test_a_description_that_is_none_is_left_out(tmp_path: Path, said: bytes) -> None:
    path = tar(tmp_path / "t.tar", **{"Task99/dataset.json": said})
    unpack_volumes(path, tmp_path / "out", SETS["msd-spleen"], 1)
    cases = list_cases(tmp_path / "out" / "train")
    assert cases.classes == ("background", "spleen") and cases.tomography is None


def test_archives_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.tar").write_text("no")
    tar(tmp_path / "more.tar", **{"Task99/labelsTr/v7.nii.gz": b"a mask without its volume"})
    tar(tmp_path / "none.tar", count=0)
    whole = tar(tmp_path / "whole.tar").read_bytes()
    (tmp_path / "cut.tar").write_bytes(whole[: len(whole) // 3])
    for name in ("text", "more", "none", "cut"):
        with pytest.raises(DataError, match=name):
            unpack_volumes(tmp_path / f"{name}.tar", tmp_path / "out", SETS["msd-liver"], 1)
    with pytest.raises(DataError, match="6 volumes"):
        unpack_volumes(tmp_path / "whole.tar", tmp_path / "out", SETS["msd-liver"], 7)
    with pytest.raises(DataError, match="is not there"):
        unpack(SETS["msd-liver"], tmp_path, tmp_path / "out")
    with pytest.raises(DataError, match="no label"):
        unpack(SETS["msd-liver"], tmp_path, tmp_path / "out", hospitals=2, by_label=True)
