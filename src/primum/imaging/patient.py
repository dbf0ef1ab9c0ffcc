"""Who an image is of: found in a csv, by a pattern on the file's name, or in the file; kept only as a pseudonym."""

import hashlib
import hmac
import re
import unicodedata
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from primum.errors import DataError

PSEUDONYM_KEY_BYTES: Final = 32

CHEST_XRAY_PATIENT: Final = r"^(person\d+|NORMAL2-IM-\d+|IM-\d+)"
"""Patients of the chest X-rays of Kermany et al. (Cell 172, 2018) in their file names: person1020_virus_1710.jpeg."""


@dataclass(frozen=True)
class PatientSource:
    """Where the patient of an image is found. In this order:

    1. the column `patient` of labels.csv; 2. `pattern`, a regular expression with one group, searched in the file's
    name (without folders); 3. PatientID inside the file (DICOM); 4. with `one_image_per_patient`, the image itself.

    What the data owner says explicitly goes before what an export wrote into the file (PatientID is often a counter or
    one word for all after anonymisation). Raises DataError where the pattern is no regular expression with one group.
    """

    pattern: str | None = None
    one_image_per_patient: bool = False

    def __post_init__(self) -> None:
        if self.pattern is not None and self._expression.groups != 1:
            raise DataError(
                f"the patient pattern has {self._expression.groups} groups, not one",
                r"Put the part that names the patient in parentheses, as in '^(person\d+)_'.",
            )

    @cached_property
    def _expression(self) -> re.Pattern[str]:
        try:
            return re.compile(self.pattern or "")
        except re.error as error:
            raise DataError(f"the patient pattern is not a regular expression: {error}", "Correct it.") from error

    def named(self, file: str) -> str | None:
        """The patient that the name of `file` gives by the pattern, or None."""
        if self.pattern is None:
            return None
        found = self._expression.search(file.replace("\\", "/").rsplit("/", 1)[-1])
        return found.group(1) or None if found else None

    def patient(self, file: str, listed: str | None, inside: str | None) -> str | None:
        """The patient of `file`: `listed` in a csv, named by the pattern, `inside` the file, or the file itself."""
        for found in (listed, self.named(file), inside):
            if found is not None and canonical(found):
                return canonical(found)
        return only_image(file) if self.one_image_per_patient else None


def only_image(file: str) -> str:
    """Who the patient of `file` is where nobody names one, and each image is its patient's only one."""
    return f"the only image {file}"


class NoPatient(DataError):
    """An image of which nobody says whose it is."""

    def __init__(self) -> None:
        super().__init__(
            "does not say whose it is",
            "Give a pattern for file names, a column `patient` in labels.csv, or say that each image is its own patient"
            " (--patient REGEX or --one-image-per-patient).",
        )


def whose(
    patients: PatientSource, file: str, listed: str | None, inside: str | None, key: bytes
) -> tuple[str, tuple[str, ...]]:
    """The pseudonym of the patient of `file`, and what had to be decided; raises NoPatient.

    `listed`: the patient in a csv, `inside`: the one that the file names; None where there is none.
    """
    who = patients.patient(file, listed, inside)
    if who is None:
        raise NoPatient
    named = patients.named(file)
    if listed is None and named and inside and pseudonym(named, key) != pseudonym(inside, key):
        return pseudonym(who, key), ("the pattern names another patient than PatientID; the pattern was used",)
    return pseudonym(who, key), ()


def canonical(patient: str) -> str:
    """One spelling of one patient: Unicode NFKC, no padding (DICOM pads with spaces and zeros), case kept."""
    return unicodedata.normalize("NFKC", patient).strip(" \t\r\n\0")


def pseudonym(patient: str, key: bytes) -> str:
    """HMAC-SHA256 of the patient under the node's own key: 32 hex digits, the same from whichever source.

    Without the key nobody can find the patient by trying all numbers; the key never leaves the node.
    """
    if len(key) != PSEUDONYM_KEY_BYTES:
        raise ValueError(f"a pseudonym key has {PSEUDONYM_KEY_BYTES} bytes")
    return hmac.new(
        key, b"primum patient\0" + canonical(patient).encode(errors="surrogateescape"), hashlib.sha256
    ).hexdigest()[:32]
