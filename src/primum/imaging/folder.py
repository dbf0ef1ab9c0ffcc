"""A hospital's folder -> what its node offers: a data set by patient, and every file that it cannot use, by name."""

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import torch
from torch import Tensor

from primum.errors import DataError
from primum.imaging.archive import Unpacked, unpacked
from primum.imaging.cache import Found, Outcome
from primum.imaging.dataset import Dataset
from primum.imaging.file_spacing import FileSpacing
from primum.imaging.image import FolderError, Problem, naming
from primum.imaging.labels_csv import Listed, classes_of
from primum.imaging.listing import Listing, list_folder
from primum.imaging.manifest import Manifest, Record
from primum.imaging.patient import NoPatient, PatientSource, canonical, pseudonym, whose
from primum.imaging.prepare import Preparation, prepare
from primum.imaging.reader import decode
from primum.imaging.reading import Job, Read, Reading, identifiers
from primum.study import Labels

FEWEST_PATIENTS: Final = 5
"""A folder with fewer patients is refused: nothing can be hidden among so few."""
MOST_IN_TWO_CLASSES: Final = 0.1
"""If more of the patients are in two classes, the source of patients is wrong, and the folder is refused."""

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Intake:
    """What was read from a folder. `formats`: files per format (a DICOM series is one); `notices`: what readers decided, with counts.

    All counts are those of the manifest, from which the data set was made too.
    """

    dataset: Dataset
    problems: tuple[Problem, ...] = field(repr=False)
    notices: tuple[str, ...]
    formats: dict[str, int]
    manifest: Manifest | None = field(default=None, repr=False)

    @classmethod
    def of(cls, manifest: Manifest, images: Tensor, masks: Tensor | None = None) -> "Intake":
        """`images`, and `masks` where they are the labels, in the order of the records that are used."""
        used, classes = manifest.used, manifest.classes
        labels = masks if masks is not None else _numbers([record.label for record in used], classes, manifest.labels)
        patients = tuple(record.patient for record in used for _ in range(record.images))
        files = tuple(record.file for record in used for _ in range(record.images))
        spacing = () if masks is None else tuple(record.spacing for record in used for _ in range(record.images))
        grids = tuple(record.grid for record in used if record.grid for _ in range(record.images))
        dataset = Dataset(images, labels, patients, files, classes, spacing, grids)
        return cls(dataset, manifest.problems, manifest.notices, manifest.formats, manifest)

    @property
    def classes(self) -> dict[str, int]:
        """Images per class."""
        return self.manifest.by_class if self.manifest else self.dataset.by_class()

    @property
    def patients(self) -> dict[str, int]:
        """Patients per class; with masks: patients of whom a pixel is of it."""
        if self.manifest:
            return self.manifest.patients
        data = self.dataset
        return {
            name: len({data.patients[place] for place in shown.nonzero()[:, 0].tolist()})
            for name, shown in zip(data.classes, data.shows(), strict=True)
        }

    @property
    def spacing(self) -> FileSpacing:
        """Mm of the files' own pixels, of those that are used."""
        return FileSpacing.of(self.manifest.used if self.manifest else ())

    @property
    def labels(self) -> Labels:
        """How many classes an image has."""
        return self.manifest.labels if self.manifest else ("several" if self.dataset.several else "one")


def _numbers(named: Sequence[str], classes: tuple[str, ...], labels: Labels) -> Tensor:
    """Int64 [n], the place of each image's class; of several 0 or 1 for each, [n, classes]."""
    if labels != "several":
        return torch.tensor([classes.index(label) for label in named], dtype=torch.int64)
    found = [[name in classes_of(label, labels) for name in classes] for label in named]
    return torch.tensor(found, dtype=torch.int64).reshape(len(named), len(classes))


@dataclass(frozen=True)
class _File(Job):
    """One file with one picture."""

    folder: Path
    file: str
    preparation: Preparation
    meaning = ""

    def parts(self) -> tuple[str, ...]:
        return (self.file,)

    def found(self) -> Found:
        path = self.folder / self.file
        try:
            picture = decode(path)
        except DataError as error:
            return Found.aside(error)
        known: dict[str, Any] = {"format": picture.format, "notices": picture.notices, "patient": picture.patient or ""}
        known |= {"file_spacing": picture.spacing or ()}
        known |= identifiers(path) if picture.format == "DICOM" else {}
        try:
            pixels, _ = prepare(picture, self.preparation)
        except DataError as error:
            return Found.aside(error, **known)
        return Found(images=pixels[None], **known)


class _Decoded(Protocol):
    @property
    def outcome(self) -> Outcome:
        """What became of an image."""


Kept = TypeVar("Kept", bound=_Decoded)


@dataclass(frozen=True)
class _Read:
    listed: Listed
    content: str = field(repr=False)
    outcome: Outcome
    notices: tuple[str, ...]
    patient: str = field(repr=False)

    def record(self) -> Record:
        found = self.outcome
        return Record(
            self.listed.file, "used", self.listed.label, (self.listed.file,), self.content, self.patient, found.study,
            found.series, found.format, self.notices, found.count, file_spacing=found.file_spacing,
        )  # fmt: skip


def read_folder(
    folder: Path,
    classes: tuple[str, ...] | None = None,
    *,
    preparation: Preparation,
    patients: PatientSource,
    pseudonym_key: bytes,
    progress: Progress | None = None,
    cache: Path | None = None,
    cores: int = 1,
    fewest: int = FEWEST_PATIENTS,
    labels: Labels | None = None,
) -> Intake:
    """Read every image of `folder` (class folders, or labels.csv) at the prepared size; archives are unpacked first.

    What cannot be used is set aside by name and reason, and the reading goes on: unreadable, empty, truncated or flat
    files, masks, colour where grey is asked, exact copies, images without a patient, and where an image has one class all
    images of a patient who is in two (such files have usually been sorted wrongly; of several classes, or of grades, the
    images of a patient may differ).
    `classes`: those of a study, else the ones found, sorted. `progress(done, total)` is called after each file.
    `cache`: a private folder in which prepared images are kept, in clear (cache.py); what did not change is not decoded
    again. `cores`: processes that decode, where there is much to decode. `fewest`: patients that a hospital must have.
    `labels`: as the study says; None: several classes an image where labels.csv has them (`list_folder`), else one.

    Raises DataError where the folder, a class or the number of patients makes it unusable as a whole (FolderError, which
    names what was set aside, once files were read), MachineError where the cache cannot be written.
    """
    with unpacked(folder) as opened, Reading(cache, preparation, "labels", pseudonym_key) as reading:
        listing = list_folder(opened.folder, classes, labels)
        problems = [*opened.problems, *listing.problems]
        reads: list[_Read] = []
        seen: dict[str, Read] = {}
        nameless = 0
        jobs = [_File(opened.folder, listed.file, preparation) for listed in listing.entries]
        for done, (listed, read) in enumerate(zip(listing.entries, reading.each(jobs, cores), strict=True), 1):
            seen[listed.file] = read
            try:
                reads.append(_usable(listed, read, patients, pseudonym_key))
            except DataError as error:
                nameless += isinstance(error, NoPatient)
                problems.append(Problem(listed.file, error.message, error.hint))
            if progress is not None:
                progress(done, len(listing.entries))
        reads = _checked(folder, listing, reads, problems, nameless, fewest)
        records = (*(read.record() for read in reads), *set_aside(problems, seen, _labels(listing)))
        manifest, images, _ = reading.finish(
            opened.folder, listing.classes, records, _all_notices(opened, listing, reads), listing.labels
        )
    return Intake.of(manifest, images)


def _usable(listed: Listed, read: Read, patients: PatientSource, key: bytes) -> _Read:
    outcome = read.outcome
    if not outcome.format:
        raise DataError(outcome.reason, outcome.hint)
    who, notices = known_patient(patients, listed.file, listed.patient, outcome.patient, key)
    if outcome.reason:
        raise DataError(outcome.reason, outcome.hint)
    return _Read(listed, read.content, outcome, outcome.notices + notices, who)


def known_patient(
    patients: PatientSource, file: str, listed: str | None, inside: str, key: bytes
) -> tuple[str, tuple[str, ...]]:
    """As `whose`, where of the patient that the file names only the pseudonym is kept (empty: it names none)."""
    named = patients.named(file)
    told = next((pseudonym(one, key) for one in (listed, named) if one is not None and canonical(one)), None)
    if told is None:
        return (inside, ()) if inside else whose(patients, file, listed, None, key)
    if listed is None and named and inside and told != inside:
        return told, ("the pattern names another patient than PatientID; the pattern was used",)
    return told, ()


def _labels(listing: Listing) -> dict[str, str]:
    return {entry.file: entry.label for entry in listing.entries}


def set_aside(problems: Sequence[Problem], seen: dict[str, Read], labels: dict[str, str]) -> tuple[Record, ...]:
    """Records of what was set aside, with what is known of it: before it was opened, or after."""
    records = []
    for one in problems:
        record = Record(one.file, "set aside", labels.get(one.file, ""), reason=one.reason, hint=one.hint)
        if (read := seen.get(one.file)) is not None:
            found = read.outcome
            record = replace(
                record, parts=tuple(read.stamps), content=read.content, format=found.format, patient=found.patient,
                study=found.study, series=found.series,
            )  # fmt: skip
        records.append(record)
    return tuple(records)


def _checked(
    folder: Path, listing: Listing, reads: list[_Read], problems: list[Problem], nameless: int, fewest: int
) -> list[_Read]:
    """What is left without copies and patients in two classes; raises DataError where that is not enough."""
    if nameless and not reads:
        others = tuple(problem for problem in problems if problem.reason != NoPatient().message)
        raise FolderError(f"no image in {folder} says whose it is", NoPatient().hint, others)
    with naming(problems):
        reads = drop_copies(reads, lambda read: (read.listed.file, read.listed.label), "picture", problems)
        if listing.labels == "one":
            reads = _drop_two_classes(folder, reads, problems)
        _check_enough(folder, listing, reads, problems, fewest)
    return reads


def drop_copies(
    reads: Sequence[Kept], named: Callable[[Kept], tuple[str, str]], what: str, problems: list[Problem]
) -> list[Kept]:
    """Set aside the same `what` under a second name: one patient would count twice, or stand on both sides.

    `named`: file and label. Where labels contradict each other nobody knows which is right: both are set aside.
    """
    alike: dict[str, list[Kept]] = defaultdict(list)
    for read in reads:
        alike[read.outcome.digest].append(read)
    kept = []
    for copies in alike.values():
        files, labels = zip(*map(named, copies), strict=True)
        aside, hint = files[1:], "Keep one of them."
        if len(set(labels)) > 1:
            aside, hint = files, "Its labels differ from file to file: find out which is right, and keep that one."
        else:
            kept.append(copies[0])
        for file in aside:
            problems.append(Problem(file, f"is the same {what} as {files[file == files[0]]}", hint))
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
            "The patients are probably named wrongly: check the pattern, PatientID or the csv. Where classes are grades, "
            "which may differ from image to image, give --labels ordered.",
        )
    problems += [
        Problem(file, "its patient is in two classes", "Keep the patient's images of one class only.") for file in wrong
    ]
    return [read for read in reads if read.patient not in torn]


def _check_enough(folder: Path, listing: Listing, reads: list[_Read], problems: list[Problem], fewest: int) -> None:
    used = {name for read in reads for name in classes_of(read.listed.label, listing.labels)}
    for name in listing.classes:
        if name not in used:
            whole = {file for file, label in _labels(listing).items() if name in classes_of(label, listing.labels)}
            first = next((problem for problem in problems if problem.file in whole), None)
            why = f": {first.file} {first.reason}" if first else ""
            raise DataError(f"no image of class {name} in {folder} can be used{why}", "See `primum inspect`.")
    require_patients(folder, [read.patient for read in reads], fewest)


def require_patients(folder: Path, patients: Sequence[str], fewest: int) -> None:
    """Raise DataError where fewer than `fewest` patients stand behind the images of `folder`, one name an image."""
    images, count = len(patients), len(set(patients))
    if count < fewest:
        raise DataError(
            f"in {folder} {images} image{'' if images == 1 else 's'} can be used, of {count} "
            f"patient{'' if count == 1 else 's'}; at least {fewest} patients are needed",
            "Nothing can be hidden among so few. If they should be more, check where patients are taken from.",
        )


def _all_notices(opened: Unpacked, listing: Listing, reads: list[_Read]) -> tuple[str, ...]:
    counts = Counter(notice for read in reads for notice in read.notices)
    counted = (f"{count} x {notice}" for notice, count in sorted(counts.items()))
    return (*opened.notices, *listing.notices, *counted)
