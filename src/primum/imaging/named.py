"""Public data sets by name: which files, with which checksums, under which licence; and how they are opened.

MedMNIST (Yang et al. 2023), MNIST (LeCun et al.) and the Medical Segmentation Decathlon (Antonelli et al. 2022). A file
is used only if its MD5 is the published one. `named_fetch.py` downloads, `named_unpack.py` writes folders of PNG.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from primum.errors import DataError
from primum.imaging.dataset import Dataset
from primum.imaging.idx import read_idx
from primum.imaging.medmnist import read_medmnist
from primum.study import Labels

MASKED: Final = "msd"
"""The collection whose sets are volumes with masks, and no images with labels."""
DIGITS: Final = tuple("0123456789")

_ZENODO: Final = "https://zenodo.org/records/10519652/files/"
_MNIST: Final = "https://ossci-datasets.s3.amazonaws.com/mnist/"
_MSD: Final = "https://msd-for-monai.s3-us-west-2.amazonaws.com/"
_FIRST_TRAIN: Final = "mnist_train10k.npz"
"""May stand for the training files of MNIST where these are absent: arrays train_images and train_labels."""


@dataclass(frozen=True)
class Source:
    """One file: its name, where it is published, and its MD5 (32 hex digits) as published."""

    file: str
    url: str
    md5: str


@dataclass(frozen=True)
class Named:
    """A data set that has a name. `files`: size in pixels -> its files; 0 where the set has one size only. `labels`: how
    many classes an image has, or that they are grades."""

    name: str
    about: str
    collection: str
    files: Mapping[int, tuple[Source, ...]]
    classes: tuple[str, ...]
    licence: str
    citation: str
    labels: Labels = "one"

    def sources(self, size: int | None = None) -> tuple[Source, ...]:
        """The files of one size; None takes the smallest. DataError that lists the sizes where there is no such."""
        chosen = min(self.files) if size is None else size
        if chosen not in self.files:
            sizes = ", ".join(str(size) for size in sorted(self.files) if size)
            raise DataError(
                f"{self.name} is not known at {chosen} pixels",
                f"Its sizes are {sizes}." if sizes else "It has one size: leave `--size` out.",
            )
        return self.files[chosen]


@dataclass(frozen=True)
class Opened:
    """A named data set, read: split -> images with labels. `notices`: what is not as published, in words."""

    splits: dict[str, Dataset]
    notices: tuple[str, ...] = ()


_ORGANS: Final = (
    *("bladder", "left femur", "right femur", "heart", "left kidney", "right kidney", "liver", "left lung"),
    *("right lung", "pancreas", "spleen"),
)
_MEDMNIST: Final[tuple[tuple[str, str, tuple[str, ...], dict[int, str]], ...]] = (
    (
        "bloodmnist",
        "blood cells under the microscope, colour",
        (
            *("basophil", "eosinophil", "erythroblast", "immature granulocyte", "lymphocyte", "monocyte"),
            *("neutrophil", "platelet"),
        ),
        {
            28: "7053d0359d879ad8a5505303e11de1dc",
            64: "2b94928a2ae4916078ca51e05b6b800b",
            128: "adace1e0ed228fccda1f39692059dd4c",
            224: "b718ff6835fcbdb22ba9eacccd7b2601",
        },
    ),
    (
        "breastmnist",
        "ultrasound of the breast",
        ("malignant", "normal or benign"),
        {28: "750601b1f35ba3300ea97c75c52ff8f6", 224: "b56378a6eefa9fed602bb16d192d4c8b"},
    ),
    (
        "chestmnist",
        "chest X-rays, any of 14 findings (Wang et al. 2017)",
        (
            *("atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia"),
            *("pneumothorax", "consolidation", "edema", "emphysema", "fibrosis", "pleural", "hernia"),
        ),
        {
            28: "02c8a6516a18b556561a56cbdd36c4a8",
            64: "9de6cd0b934ebb5b7426cfba5efbae16",
            224: "45bd33e6f06c3e8cdb481c74a89152aa",
        },
    ),
    (
        "dermamnist",
        "spots of the skin, colour (HAM10000)",
        (
            *("actinic keratosis", "basal cell carcinoma", "benign keratosis", "dermatofibroma", "melanoma"),
            *("melanocytic nevus", "vascular lesion"),
        ),
        {
            28: "0744692d530f8e62ec473284d019b0c7",
            64: "b70a2f5635c6199aeaa28c31d7202e1f",
            128: "2defd784463fa5243564e855ed717de1",
            224: "8974907d8e169bef5f5b96bc506ae45d",
        },
    ),
    (
        "octmnist",
        "optical coherence tomography of the retina",
        ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        {
            28: "c68d92d5b585d8d81f7112f81e2d0842",
            64: "e229e9440236b774d9f0dfef9d07bdaf",
            128: "0a97e76651ace45c5d943ee3f65b63ae",
            224: "abc493b6d529d5de7569faaef2773ba3",
        },
    ),
    (
        "organamnist",
        "organs in CT, axial",
        _ORGANS,
        {28: "68e3f8846a6bd62f0c9bf841c0d9eacc", 224: "50747347e05c87dd3aaf92c49f9f3170"},
    ),
    ("organcmnist", "organs in CT, coronal", _ORGANS, {28: "b9ceb9546e10131b32923c5bbeaea2b1"}),
    (
        "pathmnist",
        "tissue of the colon under the microscope, colour",
        (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle", "normal colon mucosa"),
            *("cancer-associated stroma", "colorectal adenocarcinoma epithelium"),
        ),
        {
            28: "a8b06965200029087d5bd730944a56c1",
            64: "55aa9c1e0525abe5a6b9d8343a507616",
            128: "ac42d08fb904d92c244187169d1fd1d9",
            224: "2c51a510bcdc9cf8ddb2af93af1eadec",
        },
    ),
    (
        "pneumoniamnist",
        "chest X-rays of children (Kermany et al. 2018)",
        ("normal", "pneumonia"),
        {
            28: "28209eda62fecd6e6a2d98b1501bb15f",
            64: "8f4eceb4ccffa70c672198ea285246c6",
            128: "05b46931834c231683c68f40c47b2971",
            224: "d6a3c71de1b945ea11211b03746c1fe1",
        },
    ),
    (
        "retinamnist",
        "the back of the eye, colour, grades of diabetic retinopathy",
        ("0", "1", "2", "3", "4"),
        {28: "bd4c0672f1bba3e3a89f0e4e876791e4", 224: "eae7e3b6f3fcbda4ae613ebdcbe35348"},
    ),
    (
        "tissuemnist",
        "cells of the kidney under the microscope",
        (
            *("collecting duct", "distal convoluted tubule", "glomerular endothelial cells"),
            *("interstitial endothelial cells", "leukocytes", "podocytes", "proximal tubule", "thick ascending limb"),
        ),
        {28: "ebe78ee8b05294063de985d821c1c34b", 224: "b077128c4a949f0a4eb01517f9037b9c"},
    ),
)
"""Name, about, classes, size -> MD5 (those of the MedMNIST package, each found in two sources). Volumes (the sets named
3D) are left out: nothing here could read them."""
_LABELS: Final[Mapping[str, Labels]] = {"chestmnist": "several", "retinamnist": "ordered"}
"""Of sets whose images do not have one class each."""

_DIGIT_FILES: Final = (
    ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    ("train-labels-idx1-ubyte.gz", "d53e105ee54ea40749a09fcbcd1e9432"),
    ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
    ("t10k-labels-idx1-ubyte.gz", "ec29112dd5afa0611ce80d1b7f02629c"),
)
_TASKS: Final = (
    (
        "msd-braintumour",
        "Task01_BrainTumour",
        "240a19d752f0d9e9101544901065d872",
        ("edema", "non-enhancing tumour", "enhancing tumour"),
    ),
    ("msd-heart", "Task02_Heart", "06ee59366e1e5124267b774dbd654057", ("left atrium",)),
    ("msd-liver", "Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397", ("liver", "tumour")),
    ("msd-hippocampus", "Task04_Hippocampus", "9d24dba78a72977dbd1d2e110310f31b", ("anterior", "posterior")),
    ("msd-prostate", "Task05_Prostate", "35138f08b1efaef89d7424d2bcc928db", ("peripheral", "transitional")),
    ("msd-lung", "Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc", ("tumour",)),
    ("msd-pancreas", "Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4", ("pancreas", "tumour")),
    ("msd-hepaticvessel", "Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c", ("vessel", "tumour")),
    ("msd-spleen", "Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e", ("spleen",)),
    ("msd-colon", "Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0", ("tumour",)),
)


def _table() -> dict[str, Named]:
    """MD5 values: MedMNIST 3, torchvision (MNIST), MONAI (Decathlon)."""
    sets = [_medmnist(*entry) for entry in _MEDMNIST]
    digits = tuple(Source(file, _MNIST + file, md5) for file, md5 in _DIGIT_FILES)
    yann = "LeCun, Cortes, Burges: The MNIST database of handwritten digits"
    sets.append(Named("mnist", "handwritten digits", "mnist", {0: digits}, DIGITS, "CC BY-SA 3.0", yann))
    sets += [_decathlon(*entry) for entry in _TASKS]
    return {entry.name: entry for entry in sets}


def _medmnist(name: str, about: str, classes: tuple[str, ...], md5s: dict[int, str]) -> Named:
    names = {size: f"{name}.npz" if size == 28 else f"{name}_{size}.npz" for size in md5s}
    files = {size: (Source(file, f"{_ZENODO}{file}?download=1", md5s[size]),) for size, file in names.items()}
    licence = "CC BY-NC 4.0" if name == "dermamnist" else "CC BY 4.0"
    paper = "Yang et al., MedMNIST v2, Scientific Data 10, 41 (2023)"
    return Named(name, about, "medmnist", files, classes, licence, paper, _LABELS.get(name, "one"))


def _decathlon(name: str, task: str, md5: str, structures: tuple[str, ...]) -> Named:
    source = Source(f"{task}.tar", f"{_MSD}{task}.tar", md5)
    paper = "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13, 4128 (2022)"
    about = f"volumes with masks of {', '.join(structures)}"
    return Named(name, about, MASKED, {0: (source,)}, ("background", *structures), "CC BY-SA 4.0", paper)


SETS: Final = _table()
"""Name -> data set."""


def named(name: str) -> Named:
    """The data set of this name; a DataError that names the nearest one where there is none."""
    key = name.casefold().replace("_", "-")
    if key not in SETS:
        close = get_close_matches(key, SETS, 1)
        hint = f"Did you mean {close[0]}?" if close else "`primum data list` names them all."
        raise DataError(f"there is no data set named {name!r}", hint)
    return SETS[key]


def unpacking(file: str) -> str | None:
    """How images get out of `file`, a file's name as MedMNIST, MNIST or the Decathlon publish them; None of others."""
    published = {source.file: entry.name for entry in SETS.values() for each in entry.files.values() for source in each}
    name = published.get(file, "mnist" if file == _FIRST_TRAIN else None)
    if name is None and not file.lower().endswith((".npz", "-ubyte", "-ubyte.gz")):
        return None
    return f"Many images in one file: `primum data unpack {name or 'NAME'} --from ... --to ...` makes folders of it."


def find(entry: Named, source: Source, folder: Path) -> Path | None:
    """Where `source` lies: in `folder`, or in its folder for the collection (medmnist, mnist, msd); else None."""
    places = (folder / source.file, folder / entry.collection / source.file)
    return next((path for path in places if path.is_file()), None)


def check(path: Path, source: Source) -> None:
    """Raise DataError unless the file has the published MD5."""
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Check its permissions.") from error
    if found != source.md5:
        raise DataError(
            f"{path} is not the file that was published: its MD5 is {found}, not {source.md5}",
            "It is damaged or another version: remove it and get it again.",
        )


def by_hand(sources: Sequence[Source], folder: Path) -> str:
    """What to do where these files cannot be fetched."""
    if len(sources) == 1:
        (source,) = sources
        return f"Fetch {source.url} by hand (MD5 {source.md5}) and put it into {folder} as {source.file}."
    listed = "".join(f"\n  {source.file}: {source.url} (MD5 {source.md5})" for source in sources)
    return f"Fetch these by hand and put them into {folder}:{listed}"


def open_named(name: str | Named, folder: Path, size: int | None = None) -> Opened:
    """The data set `name`, or one that is not in the table, from its files in `folder`, checked: split -> images with labels.

    Each image counts as its own patient: these sets do not say whose it is. MNIST has no validation split. Raises
    DataError that names a file which is missing (with what to do) or not as published; or where the set is one of
    volumes with masks, which are read as a folder after `primum data unpack`.
    """
    entry = named(name) if isinstance(name, str) else name
    if entry.collection == MASKED:
        raise DataError(
            f"{entry.name} holds volumes with masks, no images with labels", f"`primum data unpack {entry.name}` first."
        )
    sources = entry.sources(size)
    if entry.collection == "mnist":
        return _digits(entry, sources, folder)
    return Opened(read_medmnist(present(entry, sources[0], folder), entry.classes), _told(entry))


def _told(entry: Named) -> tuple[str, ...]:
    """What a study of the set must say, and a node that reads grades."""
    if entry.labels == "one":
        return ()
    start = "; start nodes with --labels ordered" if entry.labels == "ordered" else ""
    return (f'a study of it says labels = "{entry.labels}"{start}',)


def present(entry: Named, source: Source, folder: Path) -> Path:
    """Where `source` lies, as published; DataError that says how to get it."""
    path = find(entry, source, folder)
    if path is None:
        raise DataError(
            f"{folder / source.file} is not there",
            f"`primum data get {entry.name} --to {folder}`. Without a network: {by_hand([source], folder)}",
        )
    check(path, source)
    return path


def _digits(entry: Named, sources: tuple[Source, ...], folder: Path) -> Opened:
    notices: tuple[str, ...] = ()
    places = (folder / _FIRST_TRAIN, folder / entry.collection / _FIRST_TRAIN)
    substitute = next((path for path in places if path.is_file()), None)
    if substitute is not None and any(find(entry, source, folder) is None for source in sources[:2]):
        train = _first_digits(substitute)
        notices = (f"train is {substitute.name}, {len(train[1])} of 60000 digits: no file as published, not checked",)
    else:
        train = _pair(entry, sources[:2], folder)
    splits = {"train": train, "test": _pair(entry, sources[2:], folder)}
    return Opened({split: _dataset(split, *arrays) for split, arrays in splits.items()}, notices)


Arrays = tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]


def _pair(entry: Named, sources: tuple[Source, ...], folder: Path) -> Arrays:
    images, labels = (present(entry, source, folder) for source in sources)
    return read_idx(images, 3), read_idx(labels, 1)


def _first_digits(path: Path) -> Arrays:
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            images, labels = arrays["train_images"], arrays["train_labels"]
    except Exception as error:  # a damaged npz raises nearly everything
        raise DataError(f"{path} has no train_images and train_labels", "Get the files of MNIST instead.") from error
    if images.dtype != np.uint8 or images.ndim != 3 or labels.shape != (len(images),) or not len(images):
        raise DataError(f"{path} has no uint8 pictures with one label each", "Get the files of MNIST instead.")
    if labels.dtype.kind not in "iu" or int(labels.min()) < 0 or int(labels.max()) > 9:
        raise DataError(f"{path} has a label that is no digit", "Get the files of MNIST instead.")
    return images, labels.astype(np.uint8)


def _dataset(split: str, images: npt.NDArray[np.uint8], labels: npt.NDArray[np.uint8]) -> Dataset:
    if len(images) != len(labels) or int(labels.max()) > 9:
        raise DataError(f"the {split} files of MNIST do not belong together", "Get them again.")
    names = tuple(f"{split}/{index}" for index in range(len(images)))
    pixels = torch.from_numpy(images[:, None].copy()).to(torch.float32) / 255
    return Dataset(pixels, torch.from_numpy(labels.astype(np.int64)), names, names, DIGITS)
