"""What every result file shares: which model made it, the headers that it refers to, and how it is written.

A result is about a patient: it is written with mode 0600, whole or not at all, and never over a file that is there.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import numpy as np
from pydicom import Dataset, dcmread

from primum import __version__
from primum.disk import write
from primum.errors import DataError
from primum.imaging.reader import silence
from primum.rng import Stream

MANUFACTURER: Final = "Primum"
NOT_FOR_DIAGNOSIS: Final = "NOT FOR DIAGNOSIS: made by a model, verified by nobody"
UTF8: Final = "ISO_IR 192"
"""Character set of what is written: a class may have a name in any script."""

_LONGEST_NAME: Final = 64
_NEEDED: Final = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Rows", "Columns")
_MAY_BE_EMPTY: Final = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
    "ReferringPhysicianName",
)
_PLACES: Final = "PerFrameFunctionalGroupsSequence"
_METHODS: Final = ("DeidentificationMethod", "DeidentificationMethodCodeSequence")
_ANY: Final = re.compile(r".*", re.DOTALL)
_DATE: Final = re.compile(r"(\d{8})?")
_FORMS: Final = {
    "PatientBirthDate": _DATE,
    "PatientSex": re.compile(r"[FMO]?"),
    "StudyDate": _DATE,
    "StudyTime": re.compile(r"(\d{2}(\d{2}(\d{2}(\.\d{1,6})?)?)?)?"),
}
"""How these are written (PS3.5 section 6.2); old exports have other forms, which are not carried on."""


@dataclass(frozen=True)
class Algorithm:
    """The model that made a result. `digest`: SHA-256 of the model's file, 64 hex digits.

    Raises DataError where a name is empty or longer than 64 characters (DICOM's LO), or the digest is none.
    """

    name: str
    version: str
    digest: str

    def __post_init__(self) -> None:
        for what, value in (("name", self.name), ("version", self.version)):
            if not 1 <= len(value) <= _LONGEST_NAME or "\\" in value or not value.isprintable():
                raise DataError(
                    f"the model's {what} has {len(value)} characters or a backslash in it",
                    f"A {what} for result files has 1 to {_LONGEST_NAME} printable characters, no backslash.",
                )
        if len(self.digest) != 64 or not set(self.digest) <= set("0123456789abcdef"):
            raise DataError("the model's digest is no SHA-256", "Give 64 hex digits in lower case.")

    @property
    def device_uid(self) -> str:
        """A DICOM UID that names this very model: the same for everybody who has it."""
        return f"2.25.{UUID(bytes=bytes.fromhex(self.digest)[:16], version=5).int}"

    @property
    def software(self) -> Any:
        """For SoftwareVersions (two strings; highdicom's types know one only): Primum's version, and the model's."""
        return (f"Primum {__version__}", self.version)


def new_uid() -> str:
    """A fresh DICOM UID, from the operating system's randomness (PS3.5 section B.2)."""
    return f"2.25.{UUID(bytes=Stream.from_os().bytes(16), version=4).int}"


def check_classes(classes: Sequence[str], fewest: int = 2) -> None:
    """Raise DataError unless there are `fewest` different names that DICOM can hold (1 to 64 printable characters)."""
    if len(classes) < fewest or len(set(classes)) != len(classes):
        raise DataError(f"{len(classes)} classes, or two of one name", f"Give at least {fewest} different names.")
    for name in classes:
        if not 1 <= len(name) <= _LONGEST_NAME or "\\" in name or not name.isprintable():
            raise DataError(
                "a class has a name that DICOM cannot hold", f"1 to {_LONGEST_NAME} printable characters, no backslash."
            )


def read_headers(files: Sequence[Path]) -> list[Dataset]:
    """The headers (no pixels) of the DICOM files that a result refers to, in their order.

    An anonymised file may lack the patient's elements: they are then empty in the result as well. Raises DataError that
    names the file where it is no DICOM image or lacks what a reference needs, or where a file is given twice.
    """
    if not files:
        raise DataError("no source files", "Give the DICOM files that the result is about.")
    headers = [_header(path) for path in files]
    if len({str(header.SOPInstanceUID) for header in headers}) != len(headers):
        raise DataError(f"{files[0]} or another source stands twice among the files", "Give each image once.")
    return headers


def named_by(file: Path) -> dict[str, str | None]:
    """`patient` (PatientID) and `study` (StudyInstanceUID) of a DICOM image; None where it does not say."""
    header = read_headers([file])[0]
    patient, study = (str(header.get(name) or "") or None for name in ("PatientID", "StudyInstanceUID"))
    return {"patient": patient, "study": study}


def _header(path: Path) -> Dataset:
    try:
        with silence():
            header = dcmread(path, force=True, stop_before_pixels=True)
            missing = [name for name in _NEEDED if not header.get(name)]
            _complete(header)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", "Check the path and its permissions.") from error
    except Exception as error:  # decoders raise everything, and their words may quote values
        raise DataError(f"{path} cannot be read as DICOM ({type(error).__name__})", "Export it again.") from error
    if missing:
        raise DataError(
            f"{path} lacks {', '.join(missing)}: a DICOM result cannot refer to it",
            "Give an original DICOM image; for other pictures write PNG, NIfTI or JSON.",
        )
    return header


def orientation(header: Dataset) -> list[str] | None:
    """Patient orientation (PS3.3 C.7.6.1.1.1) of the rows and the columns, None where the source does not say."""
    given = header.get("PatientOrientation")
    if given and len(given) == 2:
        return [str(part) for part in given]
    cosines = header.get("ImageOrientationPatient")
    if not cosines or len(cosines) != 6:
        return None
    letters = (("R", "L"), ("A", "P"), ("F", "H"))
    axes = np.asarray(cosines, np.float64).reshape(2, 3)
    return [letters[(axis := int(np.abs(row).argmax()))][int(row[axis] > 0)] for row in axes]


def _complete(header: Dataset) -> None:
    """Make empty what the library asks for and an anonymised file lacks, or has in a form that is not allowed; take out
    what says nothing and would be wrong in the result."""
    for name in _MAY_BE_EMPTY:
        if name not in header or not _FORMS.get(name, _ANY).fullmatch(str(header[name].value or "").strip()):
            setattr(header, name, None)
    if not header.get("Modality"):
        header.Modality = "OT"
    for name in ("PixelSpacing", "ImagerPixelSpacing"):
        if name in header and not _positive(header[name].value):
            delattr(header, name)
    if "ImagePositionPatient" not in header and _PLACES not in header and "FrameOfReferenceUID" in header:
        del header.FrameOfReferenceUID  # a frame of reference in which it has no place
    if header.get("PatientIdentityRemoved") == "YES" and not any(header.get(name) for name in _METHODS):
        header.DeidentificationMethod = "not said by the source"


def _positive(sides: Any) -> bool:
    try:
        return min(float(side) for side in sides) > 0
    except (TypeError, ValueError):
        return False


@contextmanager
def refers_to(path: Path) -> Iterator[None]:
    """What the library cannot make of the sources becomes a DataError that names the first, without quoting values."""
    try:
        with silence():
            yield
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            f"no DICOM result can be made for {path} ({type(error).__name__})",
            "Its header is incomplete or not of one series: export it again, or write PNG, NIfTI or JSON.",
        ) from error


def encode(dataset: Dataset) -> bytes:
    """A DICOM file as bytes (PS3.10)."""
    buffer = BytesIO()
    dataset.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()


def refuse_existing(out: Path) -> None:
    """Raise DataError where `out` exists, or its folder does not."""
    if out.exists() or out.is_symlink():
        raise DataError(f"{out} exists already", "Results are never overwritten: choose another name.")
    if not out.parent.is_dir():
        raise DataError(f"the folder {out.parent} does not exist", "Make it first.")


def write_new(out: Path, data: bytes) -> None:
    """Write a result: mode 0600, whole or not at all, never over another file."""
    refuse_existing(out)
    write(out, data, private=True)
