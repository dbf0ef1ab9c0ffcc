"""MedMNIST files."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.imaging.named_samples import findings

from primum.errors import DataError
from primum.imaging import read_medmnist
from primum.rng import Stream


def _arrays(shape: tuple[int, ...] = (28, 28), **changes: Any) -> dict[str, Any]:
    stream = Stream.public("medmnist")
    arrays: dict[str, Any] = {}
    for name, count in (("train", 6), ("val", 3), ("test", 4)):
        arrays[f"{name}_images"] = (stream.uniform((count, *shape)) * 256).astype(np.uint8)
        arrays[f"{name}_labels"] = (np.arange(count, dtype=np.uint8) % 2)[:, None]
    return {**arrays, **changes}


def _save(path: Path, arrays: dict[str, Any]) -> Path:
    np.savez(path, **arrays)
    return path


@pytest.mark.parametrize(("shape", "channels"), [((28, 28), 1), ((28, 28, 3), 3)])
def test_splits(tmp_path: Path, shape: tuple[int, ...], channels: int) -> None:
    arrays = _arrays(shape)
    splits = read_medmnist(_save(tmp_path / "a.npz", arrays))
    assert list(splits) == ["train", "val", "test"]
    data = splits["train"]
    assert data.images.shape == (6, channels, 28, 28) and data.labels.tolist() == [0, 1, 0, 1, 0, 1]
    pixel = data.images[2, channels - 1, 3, 5] * 255
    assert pixel.round() == int(arrays["train_images"][(2, 3, 5) if channels == 1 else (2, 3, 5, 2)])
    assert data.patient_count == 6 and data.classes == ("0", "1")
    assert not set(data.patients) & set(splits["test"].patients)


def test_a_column_for_each_class(tmp_path: Path) -> None:
    (tmp_path / "chest.npz").write_bytes(findings(12, 14))
    splits = read_medmnist(tmp_path / "chest.npz")
    data = splits["train"]
    assert data.several and data.labels.shape == (12, 14) and data.labels.dtype == torch.int64
    assert data.classes == tuple(str(number) for number in range(14))
    assert data.labels[0].sum() == 0 and data.labels[1].nonzero()[:, 0].tolist() == [2, 5, 8, 11]
    with pytest.raises(DataError, match="14 columns of labels, 2 classes"):
        read_medmnist(tmp_path / "chest.npz", ("a", "b"))
    twos = np.full((6, 14), 2, np.uint8)
    arrays = _arrays(train_labels=twos, val_labels=twos[:3], test_labels=twos[:4])
    with pytest.raises(DataError, match="a label of train"):
        read_medmnist(_save(tmp_path / "two.npz", arrays))


def test_real_files(real_data: Path | None) -> None:
    if real_data is None:
        return
    splits = read_medmnist(real_data / "medmnist" / "pneumoniamnist.npz", ("normal", "pneumonia"))
    assert {name: data.by_class() for name, data in splits.items()} == {
        "train": {"normal": 1214, "pneumonia": 3494},
        "val": {"normal": 135, "pneumonia": 389},
        "test": {"normal": 234, "pneumonia": 390},
    }
    assert splits["train"].images.max() <= 1 and splits["train"].images.dtype == torch.float32
    retina = read_medmnist(real_data / "medmnist" / "retinamnist.npz")["val"]
    assert retina.images.shape == (120, 3, 28, 28) and len(retina.classes) == 5


def test_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "text.npz").write_text("no")
    whole = _save(tmp_path / "whole.npz", _arrays()).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    _save(tmp_path / "object.npz", _arrays(train_images=np.array([{"code": "runs"}] * 6, object)))
    missing = {name: value for name, value in _arrays().items() if name != "val_labels"}
    _save(tmp_path / "missing.npz", missing)
    _save(tmp_path / "float.npz", _arrays(train_images=np.zeros((6, 28, 28))))
    _save(tmp_path / "many.npz", _arrays(train_labels=np.zeros((6, 14), np.uint8)))
    for name in ("gone", "text", "cut", "object", "missing", "float", "many"):
        with pytest.raises(DataError, match=name):
            read_medmnist(tmp_path / f"{name}.npz")
    with pytest.raises(DataError, match="not one of 1 classes"):
        read_medmnist(tmp_path / "whole.npz", ("only",))
