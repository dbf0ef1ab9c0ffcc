"""A named data set as folders that a node can read: class folders of PNG with labels.csv, or volumes with masks.

With several hospitals the training part is dealt to them: evenly, or skewed by label, so that hospitals differ as real
ones do. Who gets what is a public permutation, the same for everybody.
"""

import csv
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from primum.errors import DataError, MachineError
from primum.imaging.cases import DESCRIPTION
from primum.imaging.dataset import Dataset
from primum.imaging.labels_csv import LABELS
from primum.imaging.named import MASKED, Named, Opened, open_named, present
from primum.rng import Stream

Progress = Callable[[int, int], None]
Places = npt.NDArray[np.int64]

SKEW: Final = 0.7
"""By label: class c has this share of its images in hospital c modulo the number of hospitals, the rest evenly."""
MOST_HOSPITALS: Final = 100
ALL: Final = "images"
"""The folder of images that have several classes."""

_PARTS: Final = {"imagesTr": "images", "labelsTr": "labels"}
_LONGEST: Final = 1 << 24
_VOLUME: Final = (".nii.gz", ".nii")


def unpack(
    entry: Named,
    folder: Path,
    to: Path,
    size: int | None = None,
    *,
    hospitals: int = 1,
    by_label: bool = False,
    progress: Progress | None = None,
) -> tuple[dict[str, int], tuple[str, ...]]:
    """Write the data set (its files are in `folder`) to the new folder `to`; returns images per part, and notices.

    Parts: `train` (or `hospital-1`, ... with several hospitals), `val` and `test` where the set has them. A part of
    images has class folders of PNG (one folder where an image has several classes) and a labels.csv in which each image
    is its own patient; a part of volumes has `images` and `labels` with files of the same names, and a dataset.json that
    names the classes. `to` is whole or not there.

    Raises DataError where `to` exists, a file is missing or not as published, or the hospitals cannot be dealt to.
    """
    if not 1 <= hospitals <= MOST_HOSPITALS:
        raise DataError(f"1 to {MOST_HOSPITALS} hospitals, not {hospitals}", "Choose another number.")
    if by_label and hospitals == 1:
        raise DataError("one hospital cannot be skewed by label", "Give `--hospitals 3`, say.")
    with _new_folder(to) as begun:
        if entry.collection == MASKED:
            if by_label:
                raise DataError("volumes with masks have no label to deal by", "Leave `--by label` out.")
            return _volumes(entry, folder, begun, size, hospitals, progress), ()
        opened = open_named(entry, folder, size)
        counts = unpack_images(opened, begun, entry.name, hospitals, by_label=by_label, progress=progress)
        return counts, opened.notices


@contextmanager
def _new_folder(to: Path) -> Iterator[Path]:
    """A folder that is renamed to `to` at the end, or removed."""
    if to.exists() or to.is_symlink():
        raise DataError(f"{to} exists already", "Unpack into a new folder.")
    begun = to.with_name(f".{to.name}.{os.getpid()}.part")
    try:
        begun.mkdir(parents=True)
        yield begun
        begun.rename(to)
    except OSError as error:
        raise MachineError(
            f"{to} cannot be written: {error.strerror}.", "Free some space, or choose another."
        ) from error
    finally:
        shutil.rmtree(begun, ignore_errors=True)


def unpack_images(
    opened: Opened, to: Path, name: str, hospitals: int, *, by_label: bool = False, progress: Progress | None = None
) -> dict[str, int]:
    """Images to `to`/PART/CLASS/*.png, with `to`/PART/labels.csv; returns images per part.

    DataError, before anything is written, where a hospital would have no image of a class, or images with several are
    to be dealt by one.
    """
    if by_label and any(data.several for data in opened.splits.values()):
        raise DataError("images with several classes have no label to deal by", "Leave `--by label` out.")
    parts = [
        (split, data, part, chosen)
        for split, data in opened.splits.items()
        for part, chosen in _parts(name, split, data, hospitals, by_label).items()
    ]
    total, done = sum(len(chosen) for *_, chosen in parts), 0
    for split, data, part, chosen in parts:
        for _ in _write_part(to / part, split, data, chosen):
            done += 1
            if progress is not None:
                progress(done, total)
    return {part: len(chosen) for *_, part, chosen in parts}


def _parts(name: str, split: str, data: Dataset, hospitals: int, by_label: bool) -> dict[str, Places]:
    if split != "train" or hospitals == 1:
        return {split: np.arange(len(data))}
    places = deal_places(data.labels.numpy() if by_label else np.zeros(len(data), np.int64), hospitals, name)
    _check_every_class(data, places)
    return {f"hospital-{number}": chosen for number, chosen in enumerate(places, 1)}


def deal_places(labels: npt.NDArray[np.int64], hospitals: int, name: str) -> list[Places]:
    """Which images each hospital gets, in order; `labels`: int64 [n], all 0 to deal evenly.

    With several labels, label c goes to hospital c modulo `hospitals` with the share `SKEW`, the rest evenly to all
    others. A public permutation named by `name`; every image is dealt once.
    """
    kinds = np.unique(labels)
    dealt: list[list[Places]] = [[] for _ in range(hospitals)]
    for kind in kinds:
        places = np.flatnonzero(labels == kind)
        places = places[Stream.public(f"hospitals {name} {kind}").permutation(len(places))]
        shares = np.full(hospitals, 1 / hospitals)
        if len(kinds) > 1:
            shares[:] = (1 - SKEW) / (hospitals - 1)
            shares[int(kind) % hospitals] = SKEW
        cuts = np.rint(np.cumsum(shares)[:-1] * len(places)).astype(np.int64)
        for part, given in zip(dealt, np.split(places, cuts), strict=True):
            part.append(given)
    return [np.sort(np.concatenate(part)) for part in dealt]


def _check_every_class(data: Dataset, places: list[Places]) -> None:
    for number, chosen in enumerate(places, 1):
        missing = [name for name, shown in zip(data.classes, data.shows(), strict=True) if not shown[chosen].any()]
        if missing:
            raise DataError(f"hospital {number} would have no image of class {missing[0]}", "Take fewer hospitals.")


def _write_part(part: Path, split: str, data: Dataset, chosen: Places) -> Iterator[str]:
    """Write PNG files and labels.csv; yields the name of each image."""
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(("file", *(data.classes if data.several else ("label",)), "patient"))
    for name in (ALL,) if data.several else data.classes:
        (part / name).mkdir(parents=True, exist_ok=True)
    for place in chosen.tolist():
        name = f"{split}-{place:06d}"
        label = ALL if data.several else data.classes[int(data.labels[place])]
        pixels = (data.images[place] * 255).round().byte().numpy()
        shown = pixels[0] if len(pixels) == 1 else pixels.transpose(1, 2, 0)
        Pillow.fromarray(np.ascontiguousarray(shown)).save(part / label / f"{name}.png")
        rows.writerow((f"{label}/{name}.png", *(data.labels[place].tolist() if data.several else (label,)), name))
        yield name
    (part / LABELS).write_text(text.getvalue(), encoding="utf-8", newline="")


def _volumes(
    entry: Named, folder: Path, to: Path, size: int | None, hospitals: int, progress: Progress | None
) -> dict[str, int]:
    """The volumes that have masks, out of the tar file; each is one patient."""
    return unpack_volumes(present(entry, entry.sources(size)[0], folder), to, entry, hospitals, progress)


def unpack_volumes(
    path: Path, to: Path, entry: Named, hospitals: int, progress: Progress | None = None
) -> dict[str, int]:
    """Volumes and masks of a Decathlon tar file to `to`/PART/{images,labels}; returns volumes per part.

    Only regular files named TASK/imagesTr/X.nii.gz and TASK/labelsTr/X.nii.gz are written, under names of our own
    making: nothing in the archive chooses a place on the disk. Beside them stands a dataset.json with the classes, and
    the modality if the archive names it. Raises DataError where the archive is damaged.
    """
    try:
        with tarfile.open(path) as archive:
            everything = list(archive)
            members = {key: member for member in everything if (key := _member(member)) is not None}
            volumes = sorted({file for kind, file in members if kind == "images"})
            if not volumes or {file for kind, file in members if kind == "labels"} != set(volumes):
                raise DataError(f"{path} does not hold volumes with one mask each", "Get it again.")
            parts = _volume_parts(len(volumes), hospitals, entry.name)
            chosen = {volumes[place]: part for part, places in parts.items() for place in places.tolist()}
            for done, ((kind, file), member) in enumerate(members.items(), 1):
                _write_member(archive, member, to / chosen[file] / kind / file)
                if progress is not None:
                    progress(done, len(members))
            description = _description(archive, everything, entry)
    except (tarfile.TarError, EOFError) as error:
        raise DataError(f"{path} is damaged, or no tar file", "Get it again.") from error
    for part in parts:
        (to / part / DESCRIPTION).write_text(description, encoding="utf-8")
    return {part: len(places) for part, places in parts.items()}


def _description(archive: tarfile.TarFile, members: list[tarfile.TarInfo], entry: Named) -> str:
    """JSON with our names of the classes, and the modality (CT or MR decides how grey levels are shown)."""
    told: dict[str, Any] = {"labels": {str(number): name for number, name in enumerate(entry.classes)}}
    found = [member for member in members if member.isfile() and PurePosixPath(member.name).name == DESCRIPTION]
    content = archive.extractfile(found[0]) if found and found[0].size < _LONGEST else None
    if content is not None:
        with content, suppress(ValueError, RecursionError):
            said = json.loads(content.read())
            modality = said.get("modality") if isinstance(said, dict) else None
            if isinstance(modality, dict) and all(isinstance(name, str) for name in modality.values()):
                told["modality"] = modality
    return json.dumps(told, indent=2) + "\n"


def _volume_parts(count: int, hospitals: int, name: str) -> dict[str, Places]:
    if hospitals == 1:
        return {"train": np.arange(count)}
    if count < hospitals:
        raise DataError(f"{count} volumes cannot be dealt to {hospitals} hospitals", "Take fewer hospitals.")
    dealt = deal_places(np.zeros(count, np.int64), hospitals, name)
    return {f"hospital-{number}": places for number, places in enumerate(dealt, 1)}


def _member(member: tarfile.TarInfo) -> tuple[str, str] | None:
    """("images" or "labels", file name) of a volume or mask for training, None for anything else."""
    parts = PurePosixPath(member.name).parts
    file = parts[-1] if parts else ""
    if not member.isfile() or len(parts) < 2 or parts[-2] not in _PARTS or file.startswith("."):
        return None
    return (_PARTS[parts[-2]], file) if file.endswith(_VOLUME) and "\\" not in file else None


def _write_member(archive: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    content = archive.extractfile(member)
    if content is None:
        raise DataError(f"{member.name} cannot be read from the archive", "Get it again.")
    with content, target.open("wb") as file:
        shutil.copyfileobj(content, file)
