"""De-identification of DICOM images: what names somebody is removed, emptied or replaced, and what was done is counted.

The Basic Application Level Confidentiality Profile (`confidentiality.py`: DICOM PS3.15 2024b, Table E.1-1), and more:
private and unknown attributes, free texts and dates that the table does not name, comments inside compressed frames,
and short texts that repeat a name or number which was taken away elsewhere. The patient becomes the pseudonym of
`patient.py`; a UID becomes another one by a keyed hash, the same wherever it stands, so that series stay together.
"""

import hashlib
import hmac
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any, Final
from uuid import UUID

import numpy as np
from pydicom import DataElement, Dataset
from pydicom.datadict import dictionary_VR, keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.multival import MultiValue
from pydicom.pixels.utils import get_expected_length
from pydicom.sequence import Sequence as Items
from pydicom.tag import BaseTag
from pydicom.uid import UID

from primum import __version__
from primum.errors import DataError
from primum.imaging.blank import Box, blank
from primum.imaging.codestream import without_comments
from primum.imaging.confidentiality import (
    ACTIONS,
    ALSO,
    BINARY,
    CHARACTERISTICS,
    DUMMIES,
    EDITION,
    FREE_TEXT,
    NEEDED,
)
from primum.imaging.patient import PSEUDONYM_KEY_BYTES, canonical, pseudonym
from primum.imaging.reader import decoding

PRIVATE: Final = "private elements"
UNKNOWN: Final = "elements that no dictionary knows"
OVERLAYS: Final = "overlay planes"
CURVES: Final = "curves"
PADDING: Final = "bytes behind the pixels"
COMMENTS: Final = "comments inside compressed frames"

_SHORTEST: Final = 3
"""Letters or digits of a name or number that is looked for in the texts that stay."""
_SEARCHED: Final = frozenset({"CS", "LO", "LT", "SH", "UC"})
_NEVER_NAMES: Final = frozenset({"Modality", "PhotometricInterpretation", "SpecificCharacterSet"})
_NAMES: Final = re.compile(r"(ID|IDs|Number|Name|Institution|Address|Location)$")
_OFTEN_TEXT: Final = ("US", "ES", "OT", "SC", "XC", "GM")
_CODES: Final = {
    "113100": "Basic Application Confidentiality Profile",
    "113101": "Clean Pixel Data Option",
    "113108": "Retain Patient Characteristics Option",
}


@dataclass(frozen=True)
class Removed:
    """What was taken out of one file or of many: attribute -> how often. Never a value.

    `removed`, `emptied` and `replaced` (a dummy, a pseudonym, another UID) count attributes by their keyword in the
    standard; `blanked` counts rectangles; `notices` counts what a person should look at.
    """

    files: int = 1
    removed: Counter[str] = field(default_factory=Counter)
    emptied: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)
    blanked: int = 0
    notices: Counter[str] = field(default_factory=Counter)

    def __add__(self, other: "Removed") -> "Removed":
        return Removed(
            self.files + other.files,
            self.removed + other.removed,
            self.emptied + other.emptied,
            self.replaced + other.replaced,
            self.blanked + other.blanked,
            self.notices + other.notices,
        )


NOTHING: Final = Removed(files=0)


def deidentify(
    dataset: Dataset, key: bytes, *, keep_characteristics: bool = False, boxes: Sequence[Box] = ()
) -> Removed:
    """Take out of `dataset` what names somebody, in place, its file meta information and preamble too.

    `key`: 32 bytes that stay at the node. `keep_characteristics`: age, sex, size, weight and the like stay (PS3.15
    E.3.6). `boxes`: rectangles of the picture that are blanked (`blank.py`); the file is then stored uncompressed.

    Guarantee: no attribute of the profile keeps its value, no private, unknown or free-text attribute stays, and no
    text that stays holds a word of the patient's names and numbers. Not covered: what the pixels themselves show
    (a file that says that text is burned in is refused unless `boxes` are given; a face in a head scan can be drawn).
    Raises DataError where PatientID is empty, text is burned in, a UID is missing, or it is damaged. The data set is
    then half done and must not be used.
    """
    if len(key) != PSEUDONYM_KEY_BYTES:
        raise ValueError(f"a pseudonym key has {PSEUDONYM_KEY_BYTES} bytes")
    with decoding("DICOM"):
        _refuse_burned_in(dataset, boxes)
        patient = canonical(str(dataset.get("PatientID") or ""))
        if not patient:
            raise DataError("has no PatientID: it does not say whose it is", "Have the sender fill it in.")
        syntax = _identify(dataset)
        walk = _Walk(key, keep_characteristics, identifying_words(dataset), "SharedFunctionalGroupsSequence" in dataset)
        del dataset.PatientID
        notices = _notices(dataset, bool(boxes))
        _clear_overlay_bits(dataset)
        walk.removed[PADDING] += _cut_padding(dataset)
        walk.removed[COMMENTS] += without_comments(dataset)
        blanked = blank(dataset, boxes) if boxes else 0
        walk.clean(dataset)
        dataset.PatientID = pseudonym(patient, key)
        walk.replaced["PatientID"] += 1
        _say_so(dataset, blanked, keep_characteristics)
        _new_meta(dataset, UID(str(dataset.file_meta.TransferSyntaxUID)) if blanked else syntax)
    return Removed(1, +walk.removed, walk.emptied, walk.replaced, blanked, notices)


def pseudonymous_uid(uid: str, key: bytes) -> str:
    """Another UID for `uid`: HMAC-SHA256 under the node's key as a UUID (PS3.5 B.2); UIDs of the standard stay."""
    known = UID(uid)
    if not uid or known.name != uid:
        return uid
    digest = hmac.new(key, b"primum uid\0" + uid.encode(), hashlib.sha256).digest()
    return f"2.25.{UUID(bytes=digest[:16], version=5).int}"


@dataclass
class _Walk:
    """One pass over a data set and its sequences. `typed`: an enhanced object, in which times and names that others may
    lack are Type 1C: they get dummies."""

    key: bytes = field(repr=False)
    keep_characteristics: bool
    words: re.Pattern[str] | None = field(repr=False)
    typed: bool
    removed: Counter[str] = field(default_factory=Counter)
    emptied: Counter[str] = field(default_factory=Counter)
    replaced: Counter[str] = field(default_factory=Counter)

    def clean(self, dataset: Dataset) -> None:
        """Apply the profile to every element of `dataset`, and to those of the sequences that stay."""
        for tag in list(dataset.keys()):
            name, code = self._action(dataset, BaseTag(tag))
            if code == "X":
                del dataset[tag]
                self.removed[name] += 1
            elif code == "Z":
                dataset[tag] = DataElement(tag, dictionary_VR(tag), None)
                self.emptied[name] += 1
            elif code == "D":
                dataset[tag] = DataElement(tag, dictionary_VR(tag), DUMMIES.get(dictionary_VR(tag), "REMOVED"))
                self.replaced[name] += 1
            elif code == "U":
                self._replace_uids(dataset, BaseTag(tag), name)
            elif code == "walk":
                for item in dataset[tag].value:
                    self.clean(item)

    def _action(self, dataset: Dataset, tag: BaseTag) -> tuple[str, str]:
        """What the element is counted as, and X, Z, D, U, "walk" or "keep"."""
        group = _whole_group(tag)
        if group:
            return group, "X"
        name = keyword_for_tag(tag)
        try:
            given, value = dataset[tag].VR, dataset[tag].value
        except Exception:  # what cannot be read cannot be looked at
            return name, "X"
        code = self._chosen(name, tag, given)
        if code == "keep" and self._names_somebody(name, given, value):
            code = "X"
        return name, code

    def _chosen(self, name: str, tag: BaseTag, given: str) -> str:
        standard = dictionary_VR(tag)
        if self.keep_characteristics and name in CHARACTERISTICS:
            return "keep"
        code = ACTIONS.get(name)
        if code is None:
            return _beyond(name, standard, given)
        if code == "X/Z/U*":
            return "walk" if given == "SQ" else "X"
        dummy = self.typed and "D" in code
        code = {
            "X/Z": "Z",
            "Z/D": "D" if dummy else "Z",
            "X/D": "D" if dummy else "X",
            "X/Z/D": "D" if dummy else "Z",
        }.get(code, code)
        return "X" if code == "D" and (standard == "SQ" or standard in BINARY) else code

    def _names_somebody(self, name: str, given: str, value: Any) -> bool:
        if self.words is None or given not in _SEARCHED or name in _NEVER_NAMES:
            return False
        return any(self.words.search(str(one)) for one in _values(value))

    def _replace_uids(self, dataset: Dataset, tag: BaseTag, name: str) -> None:
        before = [str(one) for one in _values(dataset[tag].value)]
        after = [pseudonymous_uid(uid, self.key) for uid in before]
        dataset[tag] = DataElement(tag, "UI", after if len(after) != 1 else after[0])
        self.replaced[name] += before != after


def _whole_group(tag: BaseTag) -> str:
    """What an element of a group that goes as a whole is counted as, else nothing."""
    if tag.is_private:
        return PRIVATE
    if tag.group >> 8 == 0x60:
        return OVERLAYS
    if tag.group >> 8 == 0x50:
        return CURVES
    return UNKNOWN if tag.group < 8 or not keyword_for_tag(tag) else ""


def _beyond(name: str, standard: str, given: str) -> str:
    """For an element that the profile does not name."""
    kinds = {given, *standard.split(" or ")}
    if name in NEEDED:
        return "keep"
    if name in ALSO or kinds & FREE_TEXT or given in BINARY or kinds <= BINARY:
        return "X"
    if "SQ" in kinds:
        return "walk" if given == "SQ" else "X"
    return "U" if "UI" in kinds else "keep"


def _values(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, MultiValue | list | tuple) else [value]


def _refuse_burned_in(dataset: Dataset, boxes: Sequence[Box]) -> None:
    if str(dataset.get("BurnedInAnnotation") or "").strip().upper() == "YES" and not boxes:
        raise DataError(
            "says that text is burned into its pixels (BurnedInAnnotation)",
            "Have it blanked (rectangles, or --blank-text), or keep it out.",
        )


def _identify(dataset: Dataset) -> UID:
    """The transfer syntax; SOP class and instance are in the data set afterwards. DataError where one is missing."""
    meta = dataset.file_meta
    for name, other in (("SOPClassUID", "MediaStorageSOPClassUID"), ("SOPInstanceUID", "MediaStorageSOPInstanceUID")):
        found = dataset.get(name) or meta.get(other)
        if not found:
            raise DataError(f"has no {name}", "Export it again: every DICOM object has one.")
        setattr(dataset, name, str(found))
    return UID(str(meta.TransferSyntaxUID))


def identifying_words(dataset: Dataset) -> re.Pattern[str] | None:
    """Finds, in any text, a word of the names and numbers that the profile takes away (`dataset` and its sequences).

    Also a name whose parts are run together, and the date of birth however it is written in figures.
    """
    found: set[str] = set()
    dates: set[str] = set()
    for name, given, value in _texts(dataset):
        whole = [str(one) for one in _values(value)]
        if given == "PN" or name in ("OtherPatientIDs", "PatientBirthDate") or _takes_name(name):
            found.update(whole)
        if given == "PN":
            parts = [re.split(r"[\s^=,;/\\]+", one) for one in whole]
            found.update(part for each in parts for part in each)
            found.update(one + other for each in parts for one, other in permutations(filter(None, each), 2))
        if given == "DA" and name == "PatientBirthDate":
            dates.update(form for one in whole for form in _written(one))
    words = sorted((re.escape(word.strip()) for word in found if len(word.strip()) >= _SHORTEST), key=len, reverse=True)
    forms = [*words, *sorted(dates)]
    return re.compile(r"(?<![^\W_])(?:" + "|".join(forms) + r")(?![^\W_])", re.IGNORECASE) if forms else None


def _written(date: str) -> Iterator[str]:
    """Regular expressions of a DICOM date in figures: year, month and day in the orders of the world."""
    if re.fullmatch(r"\d{8}", date) is None:
        return
    year, month, day = date[:4], f"0?{int(date[4:6])}", f"0?{int(date[6:])}"
    for first, second in ((day, month), (month, day)):
        yield rf"{first}[ ./_-]?{second}[ ./_-]?{year}"
        yield rf"{first}[./_-]{second}[./_-]{year[2:]}"
    yield rf"{year}[ ./_-]?{month}[ ./_-]?{day}"


def _takes_name(name: str) -> bool:
    return name in ACTIONS and name not in CHARACTERISTICS and _NAMES.search(name) is not None


def _texts(dataset: Dataset) -> Iterator[tuple[str, str, Any]]:
    """Keyword, value representation and value of every text of the standard, in sequences too."""
    for tag in list(dataset.keys()):
        try:
            element = dataset[tag]
        except Exception:  # noqa: S112 - it is removed later, whatever it says
            continue
        if element.VR == "SQ":
            for item in element.value:
                yield from _texts(item)
        elif element.VR in ("AE", "CS", "DA", "LO", "LT", "PN", "SH", "ST", "UC", "UT"):
            yield element.keyword, element.VR, element.value


def _notices(dataset: Dataset, blanked: bool) -> Counter[str]:
    notices: Counter[str] = Counter()
    if str(dataset.get("Modality") or "") in _OFTEN_TEXT and not blanked:
        notices[f"modality {dataset.Modality} often has text in its pixels: look at these"] += 1
    if str(dataset.get("RecognizableVisualFeatures") or "").upper() == "YES":
        notices["can be recognised by its pixels (RecognizableVisualFeatures)"] += 1
    return notices


def _clear_overlay_bits(dataset: Dataset) -> None:
    """Old overlays lie in the unused high bits of the pixels (PS3.5 2004, section 8.1.2): these become zero."""
    tags = [BaseTag(tag) for tag in dataset.keys()]  # noqa: SIM118 - the elements themselves may be unreadable
    inside = [tag for tag in tags if tag.group >> 8 == 0x60 and tag.element == 0x0100]
    if not any(int(dataset[tag].value or 1) > 1 for tag in inside) or "PixelData" not in dataset:
        return
    stored, high, allocated = int(dataset.BitsStored), int(dataset.HighBit), int(dataset.BitsAllocated)
    if UID(str(dataset.file_meta.TransferSyntaxUID)).is_encapsulated or allocated not in (8, 16):
        raise DataError("has an overlay inside its pixels, which cannot be taken out", "Export it without overlays.")
    order = "<" if UID(str(dataset.file_meta.TransferSyntaxUID)).is_little_endian else ">"
    words = np.frombuffer(dataset.PixelData, f"{order}u{allocated // 8}")
    dataset.PixelData = (words & words.dtype.type(((1 << stored) - 1) << (high + 1 - stored))).tobytes()


def _cut_padding(dataset: Dataset) -> int:
    """Cut off what stands behind the last uncompressed pixel; 1 where it was more than one byte."""
    if UID(str(dataset.file_meta.TransferSyntaxUID)).is_encapsulated or "PixelData" not in dataset:
        return 0
    expected = get_expected_length(dataset)
    expected += expected % 2
    if len(dataset.PixelData) < expected - 1:
        raise DataError("is cut off: it holds fewer pixels than it says", "Send or export it again.")
    if len(dataset.PixelData) <= expected:
        return 0
    dataset.PixelData = dataset.PixelData[:expected]
    return 1


def _say_so(dataset: Dataset, blanked: int, keep_characteristics: bool) -> None:
    """PS3.3 C.7.1.1, C.12.1: that, and how, identity was removed."""
    dataset.PatientIdentityRemoved = "YES"
    dataset.DeidentificationMethod = f"Primum {__version__}: {EDITION} Table E.1-1"
    dataset.LongitudinalTemporalInformationModified = "REMOVED"
    codes = ["113100", *["113101"] * bool(blanked), *["113108"] * keep_characteristics]
    items = []
    for code in codes:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = code, "DCM", _CODES[code]
        items.append(item)
    dataset.DeidentificationMethodCodeSequence = Items(items)
    if blanked:
        dataset.BurnedInAnnotation = "NO"


def _new_meta(dataset: Dataset, syntax: UID) -> None:
    """File meta information and preamble made anew: the old one names stations, programs and perhaps more."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = UID(str(dataset.SOPClassUID))
    meta.MediaStorageSOPInstanceUID = UID(str(dataset.SOPInstanceUID))
    meta.TransferSyntaxUID = syntax
    dataset.file_meta = meta
    dataset.preamble = bytes(128)
