"""The inbox: where an object lands, what is set aside, and that nothing half-written or personal stays behind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.imaging.samples import KEY, WHEEL, dicom, grey

from primum.errors import DataError, InputError, MachineError
from primum.imaging import pseudonym
from primum.imaging.deidentify import pseudonymous_uid
from primum.imaging.inbox import Inbox, Rules

CT = WHEEL / "CT_small.dcm"


def _object(tmp_path: Path, **elements: Any) -> bytes:
    standard = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "SOPInstanceUID": "1.2.3", "PatientID": "4711-77"}
    return dicom(tmp_path / "object", **{**standard, **elements}).read_bytes()


def test_an_object_lands_under_pseudonyms_once(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path / "new" / "folder", KEY)
    path = inbox.take(CT.read_bytes())
    assert inbox.take(CT.read_bytes()) == path
    patient, series, name = path.relative_to(tmp_path / "new" / "folder" / "incoming").parts
    uid = "1.3.6.1.4.1.5962.1.1.1.1.1.20040119072730.12322"
    assert (
        patient == pseudonym("1CT1", KEY) and series.startswith("2.25.") and name == f"{pseudonymous_uid(uid, KEY)}.dcm"
    )
    assert (inbox.new, inbox.there, inbox.removed.files) == (1, 1, 1)
    assert inbox.has(uid) and not inbox.has("1.2.3") and Inbox(inbox.folder, KEY).has(uid)
    assert [oct(entry.stat().st_mode & 0o777) for entry in (path, path.parent)] == ["0o600", "0o700"]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    ("value", "folder"),
    [("pneumonia, left", "pneumonia_ left"), ("../../etc", "_.._etc"), ("", "unlabelled"), ("..", "unlabelled"),
     ("normal - Smith", "unlabelled"), ("chest AnnaSmith", "unlabelled"), ("smithanna", "unlabelled"),
     ("thorax 03.02.1947", "unlabelled"), ("thorax 1947-02-03", "unlabelled"), ("3/2/47 thorax", "unlabelled"),
     ("02031947", "unlabelled"), ("thorax 1947", "thorax 1947"), ("thorax 03.02.1948", "thorax 03.02.1948"), ("A/B\\C"[:3], "A_B"), ("é" * 64, "é" * 60)],
)  # fmt: skip
def test_a_class_comes_from_an_attribute_and_never_names_anybody(tmp_path: Path, value: str, folder: str) -> None:
    data = _object(
        tmp_path,
        StudyDescription=value,
        PatientName="SMITH^Anna",
        PatientBirthDate="19470203",
        SpecificCharacterSet="ISO_IR 192",
    )
    inbox = Inbox(tmp_path / "to", KEY, Rules("StudyDescription"))
    assert inbox.take(data).relative_to(tmp_path / "to").parts[0] == folder
    assert inbox.unlabelled == (folder == "unlabelled")


@pytest.mark.parametrize(
    "name",
    ["PatientName", "PatientID", "AccessionNumber", "StudyDate", "Nonsense", "SOPInstanceUID", "PatientComments"],
)
def test_attributes_that_name_somebody_are_no_classes(name: str) -> None:
    with pytest.raises(InputError):
        Rules(class_from=name)


@pytest.mark.parametrize(
    ("name", "reason"),
    [("rtdose.dcm", "dose"), ("test-SR.dcm", "without pixels"), ("image_dfl.dcm", "transfer syntax"), ("SC_rgb_jpeg.dcm", "PatientID"), ("MR_truncated.dcm", "cut off"),
     ("zipMR.gz", "InvalidDicomError"), ("README.txt", "InvalidDicomError")],
)  # fmt: skip
def test_what_is_no_picture_is_set_aside_and_leaves_nothing(tmp_path: Path, name: str, reason: str) -> None:
    inbox = Inbox(tmp_path / "to", KEY)
    with pytest.raises(DataError, match=reason):
        inbox.take((WHEEL / name).read_bytes())
    assert sum(inbox.aside.values()) == 1 and inbox.new == 0 and not (tmp_path / "to").exists()


def test_masks_are_taken_in(tmp_path: Path) -> None:
    assert Inbox(tmp_path, KEY).take((WHEEL / "liver_1frame.dcm").read_bytes()).exists()


def test_text_is_blanked_where_the_detector_finds_it(tmp_path: Path) -> None:
    def find(values: np.ndarray) -> list[tuple[int, int, int, int]]:
        assert values.dtype == np.float32 and values.shape == (1, 24, 20) and values.max() == 1
        return [(0, 0, 4, 20)]

    stored = grey("text", top=4095)
    inbox = Inbox(tmp_path / "to", KEY, Rules(find_text=find, boxes=((20, 0, 24, 5),)))
    data = dicom(
        tmp_path / "x", stored, SOPClassUID="1.2.840.10008.5.1.4.1.1.1", SOPInstanceUID="1.2", PatientID="9", BurnedInAnnotation="YES"
    ).read_bytes()  # fmt: skip
    written = inbox.take(data).read_bytes()
    assert inbox.removed.blanked == 2 and stored[5:20].tobytes() in written and stored[:2].tobytes() not in written


def test_a_disk_that_is_nearly_full_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primum.imaging.inbox.LEAST_FREE", 1 << 62)
    inbox = Inbox(tmp_path, KEY)
    with pytest.raises(MachineError, match="nearly full"):
        inbox.take(CT.read_bytes())
    assert not list(tmp_path.rglob("*.dcm"))


def test_a_folder_that_cannot_be_made_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be made"):
        Inbox(tmp_path / "file" / "below", KEY).take(CT.read_bytes())


def _damaged(at: int, value: int) -> bytes:
    data = bytearray(CT.read_bytes())
    data[at % 6000] ^= value
    return bytes(data)


@given(at=st.integers(128, 6000), value=st.integers(1, 255))
@settings(max_examples=60)
def test_damaged_objects_are_taken_whole_or_set_aside_by_name(
    tmp_path_factory: pytest.TempPathFactory, at: int, value: int
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    try:
        data = Inbox(folder, KEY).take(_damaged(at, value)).read_bytes()
    except DataError:
        assert not [path for path in folder.rglob("*") if path.is_file()]
    else:
        assert b"CompressedSamples" not in data and data[128:132] == b"DICM"
