"""Data sets by name: the table, the checksums, opening them from a folder."""

import re
from pathlib import Path

import numpy as np
import pytest
from tests.imaging.named_samples import digits

from primum.errors import DataError
from primum.imaging.named import SETS, by_hand, check, find, named, open_named


def test_the_table_is_sound() -> None:
    md5s = [source.md5 for entry in SETS.values() for sources in entry.files.values() for source in sources]
    assert all(re.fullmatch("[0-9a-f]{32}", md5) for md5 in md5s) and len(set(md5s)) == len(md5s)
    for name, entry in SETS.items():
        assert entry.name == name and len(set(entry.classes)) == len(entry.classes) >= 2
        assert entry.licence and entry.citation
        for sources in entry.files.values():
            assert all(source.url.startswith("https://") and source.file in source.url for source in sources)
        for label in entry.classes:
            assert re.fullmatch(r"[a-z0-9][a-z0-9 -]*", label), "a class is the name of a folder"
    assert {"pneumoniamnist", "mnist", "msd-liver"} <= set(SETS)
    assert set(SETS["pneumoniamnist"].files) == {28, 64, 128, 224}


def test_a_name_nearly_right_is_corrected() -> None:
    assert named("PneumoniaMNIST").name == "pneumoniamnist" and named("MSD_liver").name == "msd-liver"
    with pytest.raises(DataError, match="Did you mean pneumoniamnist"):
        named("pneumonia-mnist")
    with pytest.raises(DataError, match="data list"):
        named("zzzzzzzz")
    with pytest.raises(DataError, match="28, 64, 128, 224"):
        named("pneumoniamnist").sources(100)
    with pytest.raises(DataError, match="one size"):
        named("mnist").sources(28)


def test_a_missing_file_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_named("pneumoniamnist", tmp_path, 64)
    for words in ("pneumoniamnist_64.npz", "zenodo.org", "8f4eceb4ccffa70c672198ea285246c6", str(tmp_path), "by hand"):
        assert words in str(caught.value)
    with pytest.raises(DataError, match="volumes with masks"):
        open_named("msd-liver", tmp_path)


def test_another_file_of_that_name_is_refused(tmp_path: Path) -> None:
    (tmp_path / "medmnist").mkdir()
    path = tmp_path / "medmnist" / "breastmnist.npz"
    path.write_bytes(b"something else")
    with pytest.raises(DataError, match=r"breastmnist\.npz is not the file that was published"):
        open_named("breastmnist", tmp_path)


@pytest.mark.parametrize("name", ["pneumoniamnist", "breastmnist", "retinamnist"])
def test_real_sets_have_their_checksums(real_data: Path | None, name: str) -> None:
    if real_data is None:
        return
    opened = open_named(name, real_data)
    assert list(opened.splits) == ["train", "val", "test"] and bool(opened.notices) == (name == "retinamnist")
    assert opened.splits["train"].classes == SETS[name].classes


def test_real_digits_with_part_of_the_training_set(real_data: Path | None) -> None:
    if real_data is None:
        return
    entry = SETS["mnist"]
    for source in entry.sources()[2:]:
        path = find(entry, source, real_data)
        assert path is not None
        check(path, source)
    opened = open_named("mnist", real_data)
    assert {split: len(data) for split, data in opened.splits.items()} == {"train": 10000, "test": 10000}
    assert "mnist_train10k.npz" in opened.notices[0] and "10000 of 60000" in opened.notices[0]
    assert opened.splits["train"].images.shape == (10000, 1, 28, 28) and opened.splits["train"].images.max() == 1


def test_a_substitute_that_is_none(tmp_path: Path) -> None:
    images, labels = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    wrong = (
        {"train_images": images},
        {"train_images": images.astype(float), "train_labels": labels},
        {"train_images": images, "train_labels": labels[:3]},
        {"train_images": images, "train_labels": labels + 7},
    )
    for arrays in wrong:
        np.savez(tmp_path / "mnist_train10k.npz", **arrays)
        with pytest.raises(DataError, match="mnist_train10k"):
            open_named("mnist", tmp_path)
    np.savez(tmp_path / "mnist_train10k.npz", train_images=images, train_labels=labels)
    with pytest.raises(DataError, match="t10k-images"):
        open_named("mnist", tmp_path)
    (tmp_path / "train-images-idx3-ubyte.gz").write_bytes(digits(3)[0])
    (tmp_path / "train-labels-idx1-ubyte.gz").write_bytes(digits(3)[1])
    with pytest.raises(DataError, match=r"train-images-idx3-ubyte\.gz is not the file"):
        open_named("mnist", tmp_path)


def test_what_to_fetch_by_hand_names_every_file() -> None:
    told = by_hand(SETS["mnist"].sources(None), Path("/here"))
    assert told.count("https://") == told.count("MD5") == 4 and "into /here" in told
