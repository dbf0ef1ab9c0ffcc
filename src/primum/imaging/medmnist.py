"""MedMNIST files (Yang et al., Scientific Data 10, 41, 2023): one npz with train, val and test."""

import zipfile
from pathlib import Path
from typing import Final

import numpy as np
import torch

from primum.errors import DataError
from primum.imaging.dataset import Dataset

SPLITS: Final = ("train", "val", "test")


def read_medmnist(path: Path, classes: tuple[str, ...] | None = None) -> dict[str, Dataset]:
    """Split -> data set; each image counts as its own patient (the files do not say whose it is).

    Images become float32 [n, 1 or 3, side, side] in [0, 1]. `classes` names the labels, else "0", "1", ... Where the
    labels have a column of 0 and 1 for each class (ChestMNIST), an image has several. Raises DataError that names the
    file where it is no such npz. Nothing is unpickled.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            parts = {name: (arrays[f"{name}_images"], arrays[f"{name}_labels"]) for name in SPLITS}
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "Check the path.") from error
    except (KeyError, ValueError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not a MedMNIST file", "It should be an .npz with train, val and test.") from error
    columns = {labels.shape[1:] if labels.dtype.kind in "iu" and len(labels) else () for _, labels in parts.values()}
    if len(columns) > 1 or len(next(iter(columns))) != 1:
        raise DataError(f"{path} does not have the same columns of labels in all parts", "Download it again.")
    width = int(parts["train"][1].shape[1])
    count = width if width > 1 else 1 + max(int(labels.max()) for _, labels in parts.values())
    names = classes or tuple(str(label) for label in range(count))
    return {name: _dataset(path, name, images, labels, names) for name, (images, labels) in parts.items()}


def _dataset(path: Path, split: str, images: np.ndarray, labels: np.ndarray, classes: tuple[str, ...]) -> Dataset:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or len(images) != len(labels):
        raise DataError(
            f"{path}: the images of {split} are not uint8 pictures, one for each label", "Download it again."
        )
    several = labels.shape[1] > 1
    if several and labels.shape[1] != len(classes):
        raise DataError(f"{path}: {labels.shape[1]} columns of labels, {len(classes)} classes", "Name all classes.")
    if int(labels.min()) < 0 or int(labels.max()) >= (2 if several else len(classes)):
        raise DataError(f"{path}: a label of {split} is not one of {len(classes)} classes", "Name all classes.")
    channels = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    names = tuple(f"{split}/{index}" for index in range(len(images)))
    pixels = torch.from_numpy(np.ascontiguousarray(channels)).to(torch.float32) / 255
    told = torch.from_numpy(labels.astype(np.int64))
    return Dataset(pixels, told if several else told[:, 0], names, names, classes)
