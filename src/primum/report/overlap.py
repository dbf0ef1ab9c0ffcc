"""What two folders share that must share nothing, as training and test images: pictures, and patients.

The same picture is one whose prepared pixels are equal, whatever the file's format or name. Nearly the same are pictures
as suspects.py finds them. A patient is in both where both folders name one in the same way; images of which nobody says
whose they are but that each is a patient's only one (`--one-image-per-patient`) name none.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

import torch

from primum.imaging import Dataset, Intake, pseudonym
from primum.imaging.patient import only_image
from primum.report.pair_figure import flat_pictures
from primum.report.suspects import MOST, Near, near_across

ADVICE: Final = (
    "A model must not be tested on what it has seen. Move all images of such a patient to one side, and keep one of two"
    " equal pictures. Look at those that are nearly the same: it is a suspicion. Folders that number their patients anew"
    " (1, 2, 3) share numbers and no patients."
)
NOTHING: Final = "Nothing that is here was found there."
NO_PATIENTS: Final = "Patients were not compared: at least one of the folders names none."
TOO_MANY: Final = f"Pictures that are nearly the same were not looked for: more than {MOST * MOST // 2:,} pairs."
_FLAT: Final = 1e-6

Places = tuple[int, int]
Files = tuple[str, ...]


@dataclass(frozen=True)
class Overlap:
    """What `one` folder and the `other` share. Of two files with several images each (slices, windows) one pair is told.

    `same`: places of equal pictures. `near`: of pictures that are nearly the same; None if there are too many to compare.
    `patients`: of each patient who is in both the files here and there; None where a folder names no patient.
    """

    one: Dataset
    other: Dataset
    same: tuple[Places, ...] = field(repr=False)
    near: tuple[Near, ...] | None = field(repr=False)
    patients: tuple[tuple[Files, Files], ...] | None = field(repr=False)

    @property
    def nothing(self) -> bool:
        """Whether nothing was found."""
        return not (self.same or self.near or self.patients)

    def files(self, places: Places) -> tuple[str, str]:
        """The files of a pair, here and there."""
        return self.one.files[places[0]], self.other.files[places[1]]


def whose(found: Overlap, pair: Near) -> str:
    """Whose two pictures are said to be, in words; empty where patients are not compared."""
    if found.patients is None:
        return ""
    one = found.one.patients[pair.first] == found.other.patients[pair.second]
    return "of one patient" if one else "of two patients"


def overlap(one: Intake, other: Intake, key: bytes) -> Overlap:
    """Compare two folders that were read with the same preparation and the same pseudonym `key`."""
    ours, theirs = one.dataset, other.dataset
    same = _same(ours, theirs)
    equal = {(ours.files[first], theirs.files[second]) for first, second in same}
    return Overlap(ours, theirs, same, _near(ours, theirs, equal), _in_both(ours, theirs, key))


def _same(ours: Dataset, theirs: Dataset) -> tuple[Places, ...]:
    """The first pair of equal pictures of each two files; slices that show nothing (air) are none."""
    there: dict[bytes, dict[str, int]] = defaultdict(dict)
    for place, digest in _digests(theirs):
        there[digest].setdefault(theirs.files[place], place)
    found: dict[tuple[str, str], Places] = {}
    for place, digest in _digests(ours):
        for file, second in there.get(digest, {}).items():
            found.setdefault((ours.files[place], file), (place, second))
    return tuple(found.values())


def _digests(data: Dataset) -> Iterator[tuple[int, bytes]]:
    """Place and SHA-256 of each picture that shows something; grey is the same in one channel and in three."""
    for place, image in enumerate(data.images):
        first, last = torch.aminmax(image)
        if float(last - first) > _FLAT:
            pixels = image[:1] if bool((image == image[:1]).all()) else image
            yield place, hashlib.sha256(pixels.contiguous().numpy().tobytes()).digest()


def _near(ours: Dataset, theirs: Dataset, equal: set[tuple[str, str]]) -> tuple[Near, ...] | None:
    """Of each two files the pair that is most alike, those that are `equal` left out; the most alike first."""
    if 2 * len(ours) * len(theirs) > MOST * MOST:
        return None
    found: dict[tuple[str, str], Near] = {}
    pairs = near_across(flat_pictures(ours), flat_pictures(theirs))
    for pair in sorted(pairs, key=lambda pair: -pair.correlation):
        files = ours.files[pair.first], theirs.files[pair.second]
        if files not in equal:
            found.setdefault(files, pair)
    return tuple(found.values())


def _in_both(ours: Dataset, theirs: Dataset, key: bytes) -> tuple[tuple[Files, Files], ...] | None:
    here, there = _named(ours, key), _named(theirs, key)
    if not here or not there:
        return None
    return tuple((tuple(files), tuple(there[who])) for who, files in here.items() if who in there)


def _named(data: Dataset, key: bytes) -> dict[str, dict[str, None]]:
    """Pseudonym -> files of it, in order, of patients whom somebody named."""
    found: dict[str, dict[str, None]] = defaultdict(dict)
    for who, file in zip(data.patients, data.files, strict=True):
        if who != pseudonym(only_image(file), key):
            found[who][file] = None
    return found
