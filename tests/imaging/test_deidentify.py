"""De-identification: nothing of what names somebody is in the bytes that are written, and the picture is the same."""

import re
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import DataElement, Dataset, dcmread
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.encaps import encapsulate, generate_frames
from pydicom.sequence import Sequence
from pydicom.uid import UID, generate_uid
from tests.imaging.samples import KEY, WHEEL, dicom, grey

from primum.errors import DataError
from primum.imaging import pseudonym
from primum.imaging.codestream import strip
from primum.imaging.confidentiality import ACTIONS, CHARACTERISTICS
from primum.imaging.deidentify import (
    COMMENTS,
    OVERLAYS,
    PADDING,
    PRIVATE,
    UNKNOWN,
    Removed,
    deidentify,
    pseudonymous_uid,
)
from primum.imaging.reader import decode
from primum.imaging.results_files import encode

FILES = [
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_implicit.dcm",
    "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm", "693_J2KI.dcm", "JPEG2000.dcm", "JPGExtended.dcm",
    "examples_overlay.dcm", "examples_palette.dcm", "examples_ybr_color.dcm", "examples_rgb_color.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle_16bit.dcm", "dicomdirtests/77654033/CR1/6154",
]  # fmt: skip
SECRET = "Zqx"
TEXTS = {"AE": 16, "LO": 64, "LT": 64, "PN": 64, "SH": 16, "ST": 64, "UC": 64, "UR": 64, "UT": 64}


def _again(dataset: Dataset) -> tuple[bytes, Dataset]:
    data = encode(dataset)
    return data, dcmread(BytesIO(data))


def _values(dataset: Dataset) -> list[tuple[Any, str]]:
    """(element, value) of every text, in sequences and private elements too."""
    found = []
    for element in dataset:
        if element.VR == "SQ":
            found += [pair for item in element.value for pair in _values(item)]
        elif element.VR not in ("OB", "OW", "UN"):
            many = element.value if element.VM > 1 else [element.value]
            found += [(element, str(one)) for one in many if one is not None]
    return found


def _personal(element: Any, value: str) -> bool:
    """By the rules of this test, which know nothing of the table: what must not be found afterwards."""
    if element.VR == "UI":
        return UID(value).name == value
    if element.VR in ("TM", "DS"):  # their digits stand in many a number
        return False
    return len(value) >= 5 and (
        element.VR in ("PN", "DA", "DT", "AE", "LT", "ST", "UT", "UC") or element.tag.group == 0x10
    )


@pytest.mark.parametrize("name", FILES)
def test_no_personal_value_of_a_real_file_is_written_and_the_picture_is_the_same(name: str, tmp_path: Path) -> None:
    before = dcmread(WHEEL / name)
    personal = [value.encode() for element, value in _values(before) if _personal(element, value)]
    dataset = dcmread(WHEEL / name)
    removed = deidentify(dataset, KEY)
    data, after = _again(dataset)
    assert len(personal) >= 4
    assert [value for value in personal if value in data] == []
    assert after.PatientID == pseudonym(str(before.PatientID), KEY)
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID != before.SOPInstanceUID
    assert removed.files == 1 and removed.emptied["PatientName"] == 1 and removed.replaced["PatientID"] == 1
    path = tmp_path / "after.dcm"
    path.write_bytes(data)
    shown, original = decode(path), decode(WHEEL / name)
    assert np.array_equal(shown.values, original.values) and shown.spacing == original.spacing
    assert shown.patient == pseudonym(str(before.PatientID), KEY)


def _full(typed: bool = False) -> Dataset:
    """A picture in which every attribute of the profile that may hold a text, date or UID holds a marked one."""
    dataset = Dataset()
    for number, name in enumerate(sorted(ACTIONS)):
        tag = tag_for_keyword(name)
        kind = dictionary_VR(tag)
        if kind in TEXTS:
            dataset.add(DataElement(tag, kind, f"{SECRET}{number}"))
        elif kind in ("DA", "DT"):
            dataset.add(DataElement(tag, kind, "19470823" + "1122" * (kind == "DT")))
        elif kind == "UI":
            dataset.add(DataElement(tag, kind, f"1.2.3947.{number}"))
        elif kind == "SQ":
            item = Dataset()
            item.PatientName = f"{SECRET}{number}"
            dataset.add(DataElement(tag, kind, Sequence([item])))
    dataset.PatientID = f"{SECRET}ID"
    if typed:
        dataset.SharedFunctionalGroupsSequence = Sequence([Dataset()])
    return dataset


def _picture(tmp_path: Path, **elements: Any) -> Dataset:
    standard = {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.1", "SOPInstanceUID": "1.2.3", "PatientID": "4711-77"}
    return dcmread(dicom(tmp_path / "image.dcm", **{**standard, **elements}))


@pytest.mark.parametrize("typed", [False, True])
def test_nothing_of_the_profile_keeps_its_value(tmp_path: Path, typed: bool) -> None:
    dataset = _picture(tmp_path)
    dataset.update(_full(typed))
    dataset.SOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    nested = _full()
    nested.add_new(0x00091001, "LO", f"{SECRET}private")
    dataset.AnatomicRegionSequence = Sequence([nested])
    removed = deidentify(dataset, KEY)
    data, after = _again(dataset)
    assert SECRET.encode() not in data and b"19470823" not in data and b"1.2.3947." not in data
    assert removed.removed["StudyDescription"] == 2 and removed.removed[PRIVATE] == 1
    assert "PatientAddress" not in after and after["PatientName"].value == "" and "PatientName" in after
    assert after.get("SeriesDate") == ("19000101" if typed else None)
    assert after.AnatomicRegionSequence[0]["PatientID"].value == ("REMOVED" if typed else "")


def test_what_stays_of_the_object(tmp_path: Path) -> None:
    dataset = _picture(tmp_path, Manufacturer="ACME", Modality="DX", PatientAge="042Y", PatientSex="F", KVP="80")
    dataset.FrameOfReferenceUID = "1.2.840.10008.1.4.1.1"  # Talairach: a UID of the standard
    kept = _picture(tmp_path, PatientAge="042Y", PatientSex="F")
    deidentify(dataset, KEY)
    deidentify(kept, KEY, keep_characteristics=True)
    assert dataset.Manufacturer == "ACME" and dataset.KVP == 80 and dataset.Modality == "DX"
    assert dataset.FrameOfReferenceUID == "1.2.840.10008.1.4.1.1"
    assert "PatientAge" not in dataset and dataset.PatientSex in (None, "")
    assert kept.PatientAge == "042Y" and kept.PatientSex == "F"
    assert [item.CodeValue for item in dataset.DeidentificationMethodCodeSequence] == ["113100"]
    assert [item.CodeValue for item in kept.DeidentificationMethodCodeSequence] == ["113100", "113108"]
    assert dataset.PatientIdentityRemoved == "YES" and dataset.LongitudinalTemporalInformationModified == "REMOVED"


def test_rows_of_the_standard() -> None:
    """PS3.15 2024b, Table E.1-1, column Basic Prof., as a stored copy of the table has it."""
    rows = {
        "AccessionNumber": "Z", "AcquisitionDate": "X/Z", "AcquisitionDateTime": "X/Z/D", "ContentDate": "Z/D",
        "DeviceSerialNumber": "X/Z/D", "FrameOfReferenceUID": "U", "IconImageSequence": "X", "InstitutionName": "X/Z/D",
        "PatientAge": "X", "PatientBirthDate": "Z", "PatientID": "Z/D", "PatientName": "Z", "PatientSex": "Z",
        "ProtocolName": "X/D", "ReferencedImageSequence": "X/Z/U*", "SeriesDescription": "X", "SOPInstanceUID": "U",
        "StudyDate": "Z", "StudyInstanceUID": "U", "VerifyingObserverName": "D",
    }  # fmt: skip
    assert {name: ACTIONS[name] for name in rows} == rows
    assert len(ACTIONS) == 614 and set(ACTIONS) >= CHARACTERISTICS


def test_a_name_is_found_where_none_belongs(tmp_path: Path) -> None:
    dataset = _picture(
        tmp_path, PatientName="Müller^Jane Amanda", SpecificCharacterSet="ISO_IR 192", AccessionNumber="A-99812"
    )
    dataset.Manufacturer = "made for müller"
    dataset.ManufacturerModelName = "A-99812"
    dataset.SequenceName = "4711-77, twice"
    dataset.SoftwareVersions = ["1.0", "Amandax 2"]
    removed = deidentify(dataset, KEY)
    data, _ = _again(dataset)
    for word in ("müller", "A-99812", "4711-77"):
        assert word.encode() not in data
    assert "Manufacturer" not in dataset and dataset.SoftwareVersions == ["1.0", "Amandax 2"]
    assert removed.removed["ManufacturerModelName"] == 1


def test_overlays_curves_private_and_unknown_elements_go(tmp_path: Path) -> None:
    stored = grey("overlay", top=4095)
    dataset = _picture(tmp_path, BitsStored=12, HighBit=11)
    dataset.PixelData = (stored | (np.arange(stored.size, dtype=np.uint16).reshape(stored.shape) << 12)).tobytes()
    dataset.add_new(0x60000010, "US", stored.shape[0])
    dataset.add_new(0x60000100, "US", 16)
    dataset.add_new(0x60000102, "US", 12)
    dataset.add_new(0x60023000, "OW", b"\1\2")
    dataset.add_new(0x50000020, "CS", "ROI")
    dataset.add_new(0x00110010, "LO", "ACME")
    dataset.add_new(0x000803F9, "LO", "new")
    removed = deidentify(dataset, KEY).removed
    _, after = _again(dataset)
    assert np.array_equal(np.frombuffer(after.PixelData, "<u2").reshape(stored.shape), stored)
    assert (removed[OVERLAYS], removed["curves"], removed[PRIVATE], removed[UNKNOWN]) == (4, 1, 1, 1)
    assert not [
        element
        for element in after
        if element.tag.is_private or (element.tag.group >= 0x5000 and element.tag.group < 0x7FE0)
    ]


def test_text_that_is_burned_in_is_set_aside_or_blanked(tmp_path: Path) -> None:
    dataset = _picture(tmp_path, BurnedInAnnotation="YES")
    with pytest.raises(DataError, match="burned into"):
        deidentify(dataset, KEY)
    dataset = _picture(tmp_path, BurnedInAnnotation="YES")
    before = dataset.pixel_array.copy()
    removed = deidentify(dataset, KEY, boxes=[(2, 3, 6, 9), (20, 18, 90, 90)])
    _, after = _again(dataset)
    kept = np.ones(before.shape, bool)
    kept[2:6, 3:9] = kept[20:, 18:] = False
    assert (after.pixel_array[~kept] == before.min()).all() and np.array_equal(after.pixel_array[kept], before[kept])
    assert removed.blanked == 2 and after.BurnedInAnnotation == "NO"
    assert [item.CodeValue for item in after.DeidentificationMethodCodeSequence] == ["113100", "113101"]


@pytest.mark.parametrize(
    "name", ["MR_small_jpeg_ls_lossless.dcm", "MR_small_RLE.dcm", "SC_rgb_rle_2frame.dcm", "MR_small_bigendian.dcm", "SC_rgb_small_odd.dcm"]
)  # fmt: skip
def test_blanked_pictures_lose_the_box_and_nothing_else(name: str) -> None:
    dataset = dcmread(WHEEL / name)
    before = dataset.pixel_array.copy()
    dataset.PatientID = "x1"
    deidentify(dataset, KEY, boxes=[(1, 1, 3, 2)])
    _, after = _again(dataset)
    values = after.pixel_array
    frames = 2 if "2frame" in name else 1
    shape = (frames, *before.shape[before.ndim - (3 if after.SamplesPerPixel == 3 else 2) :])
    outside = np.ones(shape, bool)
    outside[:, 1:3, 1:2] = False
    values, before = values.reshape(shape), before.reshape(shape)
    assert np.array_equal(values[outside], before[outside]) and len(np.unique(values[~outside])) == 1
    assert not after.file_meta.TransferSyntaxUID.is_compressed


@pytest.mark.parametrize("box", [(3, 1, 3, 2), (-1, 0, 2, 2), (0, 4, 2, 1)])
def test_a_box_that_is_none_is_refused(tmp_path: Path, box: tuple[int, int, int, int]) -> None:
    with pytest.raises(DataError, match="no rectangle"):
        deidentify(_picture(tmp_path), KEY, boxes=[box])


@pytest.mark.parametrize(
    ("name", "marker"), [("SC_rgb_jpeg_dcmtk.dcm", 0xFE), ("SC_rgb_jpeg_dcmtk.dcm", 0xE1), ("JPEG2000.dcm", 0x64)]
)
def test_comments_inside_compressed_frames_go(name: str, marker: int) -> None:
    dataset = dcmread(WHEEL / name)
    dataset.PatientID, note = "x1", SECRET.encode() * 5
    frame = next(generate_frames(dataset.PixelData, number_of_frames=1))
    at = 2 if marker != 0x64 else 4 + int.from_bytes(frame[4:6], "big")  # behind SOI, behind SIZ
    segment = bytes([0xFF, marker]) + (len(note) + 2).to_bytes(2, "big") + note
    clean, _ = strip(frame)
    dataset.PixelData = encapsulate([frame[:at] + segment + frame[at:]])
    before = dataset.pixel_array.copy()
    removed = deidentify(dataset, KEY)
    data, after = _again(dataset)
    assert SECRET.encode() not in data and removed.removed[COMMENTS] >= 1
    assert next(generate_frames(after.PixelData, number_of_frames=1)).rstrip(b"\0") == clean.rstrip(b"\0")
    assert np.array_equal(after.pixel_array, before)


@given(st.binary(max_size=200), st.sampled_from([b"\xff\xd8", b"\xff\x4f", b""]))
def test_any_bytes_can_be_stripped_and_stripping_twice_is_stripping_once(tail: bytes, start: bytes) -> None:
    once, _ = strip(start + tail)
    assert len(once) <= len(start + tail) and strip(once)[0] == once


@given(
    st.from_regex(r"[0-2](\.[1-9][0-9]{0,6}){2,8}", fullmatch=True),
    st.from_regex(r"[0-2](\.[1-9][0-9]{0,6}){2,8}", fullmatch=True),
)
def test_uids_are_replaced_consistently(one: str, other: str) -> None:
    new = pseudonymous_uid(one, KEY)
    assert re.fullmatch(r"2\.25\.[1-9][0-9]{0,38}", new) and UID(new).is_valid
    assert new == pseudonymous_uid(one, KEY) != pseudonymous_uid(one, bytes(32))
    assert (new == pseudonymous_uid(other, KEY)) == (one == other)


def test_references_still_lead_to_their_images(tmp_path: Path) -> None:
    uid = generate_uid()
    image, reference = _picture(tmp_path, SOPInstanceUID=uid), _picture(tmp_path)
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = "1.2.840.10008.5.1.4.1.1.1", uid
    reference.ReferencedImageSequence = Sequence([item])
    deidentify(image, KEY)
    deidentify(reference, KEY)
    assert reference.ReferencedImageSequence[0].ReferencedSOPInstanceUID == image.SOPInstanceUID != uid
    assert reference.ReferencedImageSequence[0].ReferencedSOPClassUID == "1.2.840.10008.5.1.4.1.1.1"


@pytest.mark.parametrize(("name", "word"), [("PatientID", "PatientID"), ("SOPInstanceUID", "SOPInstanceUID")])
def test_what_has_no_patient_or_no_uid_is_set_aside(tmp_path: Path, name: str, word: str) -> None:
    dataset = _picture(tmp_path)
    delattr(dataset, name)
    dataset.file_meta.MediaStorageSOPInstanceUID = ""
    with pytest.raises(DataError, match=word):
        deidentify(dataset, KEY)


def test_counts_of_many_files_add_up_and_hold_no_value(tmp_path: Path) -> None:
    total = Removed(files=0)
    for number in range(3):
        dataset = _picture(tmp_path, PatientName=f"{SECRET}^{number}", StudyDescription=SECRET, Modality="US")
        total = total + deidentify(dataset, KEY)
    assert total.files == 3 and total.removed["StudyDescription"] == 3 and total.emptied["PatientName"] == 3
    assert sum(total.notices.values()) == 3 and SECRET not in repr(total)


def test_bytes_behind_the_pixels_go(tmp_path: Path) -> None:
    dataset = _picture(tmp_path)
    dataset.PixelData += SECRET.encode() * 4
    removed = deidentify(dataset, KEY)
    assert SECRET.encode() not in _again(dataset)[0] and removed.removed[PADDING] == 1


def test_file_meta_information_and_preamble_are_made_anew(tmp_path: Path) -> None:
    dataset = _picture(tmp_path)
    dataset.preamble = (SECRET.encode() * 43)[:128]
    dataset.file_meta.SourceApplicationEntityTitle = f"{SECRET}_CT1"
    dataset.file_meta.SendingApplicationEntityTitle = f"{SECRET}_CT2"
    dataset.file_meta.PrivateInformationCreatorUID = "1.2.3947"
    dataset.file_meta.PrivateInformation = SECRET.encode()
    deidentify(dataset, KEY)
    data, after = _again(dataset)
    assert SECRET.encode() not in data and b"1.2.3947" not in data and data[:128] == bytes(128)
    assert after.file_meta.MediaStorageSOPInstanceUID == after.SOPInstanceUID
