"""Split by patient, never by image, with a keyed hash: stable when images are added, unknown to those without the key."""

import csv
import hashlib
import hmac
import os
import shutil
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.errors import DataError
from primum.imaging import dicom as _dicom  # noqa: F401 - registers its reader
from primum.imaging import photo as _photo  # noqa: F401 - registers its readers
from primum.imaging.labels_csv import LABELS, Listed, classes_of
from primum.imaging.listing import Listing, list_folder
from primum.imaging.patient import PatientSource
from primum.imaging.reader import patient_inside

_BITS: Final = 64


def split_patients(patients: tuple[str, ...], share: float, key: bytes) -> npt.NDArray[np.bool_]:
    """Boolean [n]: true for the images of about `share` of the patients (all images of a patient alike).

    A patient's side depends on the pseudonym, the key and the share alone, and grows with the share.
    """
    if not 0 <= share <= 1:
        raise ValueError("a share is between 0 and 1")
    bound = round(share * (1 << _BITS))
    return np.array([_place(b"split", patient, key) < bound for patient in patients], np.bool_)


def deal(
    folder: Path,
    targets: tuple[Path, ...],
    key: bytes,
    *,
    patients: PatientSource,
    classes: tuple[str, ...] | None = None,
) -> dict[Path, int]:
    """Deal the images of `folder` to the folders `targets` by a keyed hash of the patient; returns files per target.

    Each target gets the class folders (or its part of labels.csv), as hard links where the disk can, else as copies.
    All images of a patient go to one target. Files without a patient are dealt one by one; nothing is decoded.
    Raises DataError where a target exists and is not empty, or the folder is unusable.
    """
    for target in targets:
        if target.exists() and (not target.is_dir() or any(target.iterdir())):
            raise DataError(f"{target} is not empty", "Deal into new folders.")
    listing = list_folder(folder, classes)
    dealt: dict[Path, list[Listed]] = {target: [] for target in targets}
    for listed in listing.entries:
        who = patients.patient(listed.file, listed.patient, patient_inside(folder / listed.file)) or listed.file
        target = targets[_place(b"deal", who, key) % len(targets)]
        _link(folder / listed.file, target / listed.file)
        dealt[target].append(listed)
    for target, entries in dealt.items():
        target.mkdir(parents=True, exist_ok=True)
        if listing.source is not None:
            _write_labels(target / LABELS, entries, listing)
        else:
            for name in listing.classes:
                (target / name).mkdir(exist_ok=True)
    return {target: len(entries) for target, entries in dealt.items()}


def _place(purpose: bytes, patient: str, key: bytes) -> int:
    digest = hmac.new(key, b"primum " + purpose + b"\0" + patient.encode(), hashlib.sha256).digest()
    return int.from_bytes(digest[: _BITS // 8], "big")


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


def _write_labels(path: Path, entries: list[Listed], listing: Listing) -> None:
    """Of several classes a column for each: a part in which no image has two of them says so too."""
    several = listing.labels == "several"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("file", *(listing.classes if several else ("label",)), "patient"))
        for entry in entries:
            found = classes_of(entry.label, listing.labels)
            told = [int(name in found) for name in listing.classes] if several else [entry.label]
            writer.writerow((entry.file, *told, entry.patient or ""))
