"""What must not be readable on a network, in every encoding that we use, and a search for all of it at once."""

import base64
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt
from tests.federation.test_recorded_bytes import packed_form

PATIENT = "Findelkind^Amalie^^Dr."
PLANTED = {
    "PatientName": PATIENT,
    "PatientID": "PAT-7731-0042-XQ",
    "PatientBirthDate": "19310917",
    "InstitutionName": "Spital am Alten Wasserturm",
    "ReferringPhysicianName": "Quittenbaum^Theodor",
    "AccessionNumber": "ACC998877665544",
    "StudyDescription": "Thorax sagittal vor Aufnahme",
}


class Needles:
    """Byte strings of at least eight bytes, found by their first eight; shorter ones are looked for one by one."""

    LEAST = 8

    def __init__(self) -> None:
        self._by_head: dict[int, list[tuple[str, bytes]]] = defaultdict(list)
        self._short: dict[bytes, str] = {}
        self._there: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._there)

    def add(self, kind: str, needle: bytes) -> None:
        """One string; stretches of one or two byte values say nothing and are left out."""
        if needle in self._there or len(set(needle)) < 4:
            return
        self._there.add(needle)
        if len(needle) < self.LEAST:
            self._short[needle] = kind
        else:
            self._by_head[int.from_bytes(needle[: self.LEAST], "little")].append((kind, needle))

    def text(self, kind: str, text: str) -> None:
        """In UTF-8, UTF-16, hex and base64, wherever in a longer text it may stand."""
        data = text.encode()
        for form in (data, text.encode("utf-16-le"), text.encode("utf-16-be"), data.hex().encode()):
            self.add(kind, form)
        self._base64(kind, data)

    def bytes(self, kind: str, data: bytes, step: int) -> None:
        """Stretches of 24 bytes, `step` apart, as they are, in hex and in base64."""
        for start in range(0, len(data) - 24, step):
            part = data[start : start + 24]
            self.add(kind, part)
            self.add(kind, part.hex().encode())
            self._base64(kind, part)

    def _base64(self, kind: str, data: bytes) -> None:
        for shift in range(3):
            coded = base64.b64encode(bytes(shift) + data)
            whole = coded[4 if shift else 0 : len(coded) - 4]
            if len(whole) >= self.LEAST:
                self.add(kind, whole)

    def found_in(self, haystack: bytes) -> dict[str, int]:
        """How many places by kind."""
        counts: dict[str, int] = defaultdict(int)
        heads = np.array(sorted(self._by_head), np.uint64)
        for shift in range(self.LEAST):
            length = (len(haystack) - shift) // self.LEAST
            if length < 1 or not len(heads):
                continue
            words = np.frombuffer(haystack, "<u8", length, shift)
            places = np.minimum(np.searchsorted(heads, words), len(heads) - 1)
            for place in np.flatnonzero(heads[places] == words):
                at = shift + int(place) * self.LEAST
                for kind, needle in self._by_head[int(words[place])]:
                    counts[kind] += haystack[at : at + len(needle)] == needle
        for needle, kind in self._short.items():
            counts[kind] += haystack.count(needle)
        return {kind: count for kind, count in counts.items() if count}


def needles_of(data: Path, kept: Path, classes: Iterable[str]) -> Needles:
    """Of the images in `data`, and of what the processes kept."""
    needles = Needles()
    for name in classes:
        needles.text("class name", name)
    for value in PLANTED.values():
        needles.text("DICOM value", value)
    for part in PATIENT.split("^")[:2]:
        needles.text("DICOM value", part)
    for path in sorted(path for path in data.rglob("*") if path.is_file()):
        needles.text("file name", path.name)
        needles.bytes("image file", path.read_bytes()[700:], 256)
    for path in sorted(kept.glob("*.npy")):
        _add_kept(needles, path.name.partition("-")[0], np.load(path))
    return needles


def _add_kept(needles: Needles, kind: str, array: npt.NDArray[np.generic]) -> None:
    if kind == "patients":
        for patient in array.tolist():
            needles.text("pseudonym", patient)
            if re.fullmatch(r"([0-9a-f]{2})+", patient):
                needles.add("pseudonym", bytes.fromhex(patient))
        return
    if kind == "labels":
        for form in ("u1", "<i4", "<i8"):
            needles.bytes("labels", array.astype(form).tobytes(), 24)
        return
    if kind.startswith("vector"):
        whole = array.astype(np.int64)
        needles.bytes("update vector", packed_form(whole, int(kind.removeprefix("vector"))), 256)
        for form in ("<i4", "<i8", "<f4"):
            needles.bytes("update vector", whole.astype(form).tobytes(), 512)
        return
    for form in ("<f4", "<f8"):
        needles.bytes(kind, array.astype(form).tobytes(), 512)
