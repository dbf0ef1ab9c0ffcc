"""A hospital's folder -> what its node offers: a data set by patient, and every file that it cannot use, by name."""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import torch

from primum.errors import DataError
from primum.imaging.archive import unpacked
from primum.imaging.dataset import Dataset
from primum.imaging.image import Pixels, Problem
from primum.imaging.listing import Listed, Listing, list_folder
from primum.imaging.patient import NoPatient, PatientSource, whose
from primum.imaging.prepare import Preparation, prepare
from primum.imaging.reader import decode

FEWEST_PATIENTS: Final = 5
"""A folder with fewer patients is refused: nothing can be hidden among so few."""
MOST_IN_TWO_CLASSES: Final = 0.1
"""If more of the patients are in two classes, the source of patients is wrong, and the folder is refused."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Intake:
    """What was read from a folder. `formats`: images per format; `notices`: what readers decided, with counts."""

    dataset: Dataset
    problems: tuple[Problem, ...] = field(repr=False)
    notices: tuple[str, ...]
    formats: dict[str, int]

    @property
    def classes(self) -> dict[str, int]:
        """Images per class."""
        return self.dataset.by_class()

    @property
    def patients(self) -> dict[str, int]:
        """Patients per class; with masks: patients of whom a pixel is of it."""
        seen = {name: set[str]() for name in self.dataset.classes}
        for labels, patient in zip(self.dataset.labels, self.dataset.patients, strict=True):
            for label in labels.unique().tolist():
                seen[self.dataset.classes[label]].add(patient)
        return {name: len(who) for name, who in seen.items()}


@dataclass(frozen=True)
class _Read:
    listed: Listed
    pixels: Pixels = field(repr=False)
    format: str
    notices: tuple[str, ...]
    patient: str = field(repr=False)


def read_folder(
    folder: Path,
    classes: tuple[str, ...] | None = None,
    *,
    preparation: Preparation,
    patients: PatientSource,
    pseudonym_key: bytes,
    progress: Progress | None = None,
) -> Intake:
    """Read every image of `folder` (class folders, or labels.csv) at the prepared size; archives are unpacked first.

    What cannot be used is set aside by name and reason, and the reading goes on: unreadable, empty, truncated or flat
    files, masks, colour where grey is asked, exact copies, images without a patient, and all images of a patient who is
    in two classes (each image is meant to show one class; such files have usually been sorted wrongly).
    `classes`: those of a study, else the ones found, sorted. `progress(done, total)` is called after each file.

    Raises DataError where the folder, a class or the number of patients makes it unusable as a whole.
    """
    with unpacked(folder) as opened:
        listing = list_folder(opened.folder, classes)
        problems = [*opened.problems, *listing.problems]
        reads: list[_Read] = []
        nameless = 0
        for done, listed in enumerate(listing.entries, 1):
            try:
                reads.append(_read(opened.folder, listed, preparation, patients, pseudonym_key))
            except DataError as error:
                nameless += isinstance(error, NoPatient)
                problems.append(Problem(listed.file, error.message, error.hint))
            if progress is not None:
                progress(done, len(listing.entries))
    if nameless and not reads:
        raise DataError(f"no image in {folder} says whose it is", NoPatient().hint)
    reads = _drop_copies(reads, problems)
    reads = _drop_two_classes(folder, reads, problems)
    _check_enough(folder, listing, reads, problems)
    notices = (*opened.notices, *listing.notices, *_count_notices(reads))
    formats = dict(sorted(Counter(read.format for read in reads).items()))
    return Intake(_dataset(reads, listing.classes), tuple(problems), notices, formats)


def _read(folder: Path, listed: Listed, preparation: Preparation, patients: PatientSource, key: bytes) -> _Read:
    picture = decode(folder / listed.file)
    who, notices = whose(patients, listed.file, listed.patient, picture.patient, key)
    pixels, _ = prepare(picture, preparation)
    return _Read(listed, pixels, picture.format, picture.notices + notices, who)


def _drop_copies(reads: list[_Read], problems: list[Problem]) -> list[_Read]:
    """Set aside the same picture under a second name: one patient would count twice, or stand on both sides."""
    first: dict[bytes, str] = {}
    kept = []
    for read in reads:
        digest = hashlib.sha256(read.pixels.tobytes()).digest()
        if digest in first:
            problems.append(Problem(read.listed.file, f"is the same picture as {first[digest]}", "Keep one of them."))
        else:
            first[digest] = read.listed.file
            kept.append(read)
    return kept


def _drop_two_classes(folder: Path, reads: list[_Read], problems: list[Problem]) -> list[_Read]:
    labels: dict[str, set[str]] = defaultdict(set)
    for read in reads:
        labels[read.patient].add(read.listed.label)
    torn = {patient for patient, found in labels.items() if len(found) > 1}
    wrong = [read.listed.file for read in reads if read.patient in torn]
    if len(torn) > max(1, MOST_IN_TWO_CLASSES * len(labels)):
        raise DataError(
            f"{len(torn)} of {len(labels)} patients in {folder} are in two classes: {', '.join(wrong[:4])}, ...",
            "The patients are probably named wrongly: check the pattern, PatientID or the csv.",
        )
    problems += [
        Problem(file, "its patient is in two classes", "Keep the patient's images of one class only.") for file in wrong
    ]
    return [read for read in reads if read.patient not in torn]


def _check_enough(folder: Path, listing: Listing, reads: list[_Read], problems: list[Problem]) -> None:
    used = {read.listed.label for read in reads}
    for name in listing.classes:
        if name not in used:
            labels = {entry.file: entry.label for entry in listing.entries}
            first = next((problem for problem in problems if labels.get(problem.file) == name), None)
            why = f": {first.file} {first.reason}" if first else ""
            raise DataError(f"no image of class {name} in {folder} can be used{why}", "See `primum inspect`.")
    require_patients(folder, len({read.patient for read in reads}))


def require_patients(folder: Path, count: int) -> None:
    """Raise DataError where `folder` has fewer than `FEWEST_PATIENTS` patients."""
    if count < FEWEST_PATIENTS:
        raise DataError(
            f"{folder} has usable images of {count} patient{'' if count == 1 else 's'}; at least {FEWEST_PATIENTS} are"
            " needed",
            "Nothing can be hidden among so few. If they should be more, check where patients are taken from.",
        )


def _count_notices(reads: list[_Read]) -> list[str]:
    counts = Counter(notice for read in reads for notice in read.notices)
    return [f"{count} x {notice}" for notice, count in sorted(counts.items())]


def _dataset(reads: list[_Read], classes: tuple[str, ...]) -> Dataset:
    return Dataset(
        torch.from_numpy(np.stack([read.pixels for read in reads])),
        torch.tensor([classes.index(read.listed.label) for read in reads], dtype=torch.int64),
        tuple(read.patient for read in reads),
        tuple(read.listed.file for read in reads),
        classes,
    )
