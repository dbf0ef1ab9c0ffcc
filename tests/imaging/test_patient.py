"""Patients and their pseudonyms."""

import csv
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.imaging.samples import KEY, dicom, png

from primum.errors import DataError
from primum.imaging import CHEST_XRAY_PATIENT, PatientSource, Preparation, pseudonym, read_folder


def test_the_order_of_sources() -> None:
    source = PatientSource(r"^(p\d+)_", one_image_per_patient=True)
    assert source.patient("A/p7_1.png", "listed", "inside") == "listed"
    assert source.patient("A/p7_1.png", None, "inside") == "p7"
    assert source.patient("A/x.png", None, "inside") == "inside"
    assert source.patient("A/x.png", " ", "\0") == "the only image A/x.png"
    assert PatientSource().patient("A/x.png", None, None) is None


@pytest.mark.parametrize(("pattern", "words"), [("(", "not a regular"), ("p", "0 groups"), ("(p)(q)", "2 groups")])
def test_a_wrong_pattern_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        PatientSource(pattern)


def test_the_pattern_of_the_chest_x_rays_finds_the_patients_of_the_manifest(real_data: Path | None) -> None:
    source = PatientSource(CHEST_XRAY_PATIENT)
    rows = [
        {"file": "test/PNEUMONIA/person1020_virus_1710.jpeg", "patient": "person1020"},
        {"file": "train/NORMAL/IM-0115-0001.jpeg", "patient": "IM-0115"},
        {"file": "train/NORMAL/NORMAL2-IM-0666-0001-0002.jpeg", "patient": "NORMAL2-IM-0666"},
    ]
    if real_data is not None:
        with (real_data / "chest" / "manifest.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 600
    assert [source.named(row["file"]) for row in rows] == [row["patient"] for row in rows]


def test_the_same_patient_has_the_same_pseudonym_from_every_source(tmp_path: Path) -> None:
    for number in range(5):
        dicom(tmp_path / "A" / f"I{number}", PatientID=f"P{number} ")
        png(tmp_path / "B" / f"Q{number}_1.png")
    png(tmp_path / "A" / "P0_1.png")
    by_name = read_folder(
        tmp_path, preparation=Preparation(16), patients=PatientSource(r"^([PQ]\d)_"), pseudonym_key=KEY
    ).dataset
    lines = "".join(f"A/I{n},A,P{n}\nB/Q{n}_1.png,B,Q{n}\n" for n in range(5))
    (tmp_path / "labels.csv").write_text(f"file,label,patient\n{lines}A/P0_1.png,A,P0\n")
    by_csv = read_folder(tmp_path, preparation=Preparation(16), patients=PatientSource(), pseudonym_key=KEY).dataset
    assert dict(zip(by_name.files, by_name.patients, strict=True)) == dict(
        zip(by_csv.files, by_csv.patients, strict=True)
    )
    where = dict(zip(by_csv.files, by_csv.patients, strict=True))
    assert where["A/I0"] == where["A/P0_1.png"] == pseudonym("P0", KEY)


def test_the_pattern_wins_over_patient_id_and_says_so(tmp_path: Path) -> None:
    """Anonymised exports have one PatientID for all; a pattern that the data owner gave says who is who."""
    for label in "AB":
        for number in range(3):
            dicom(tmp_path / label / f"{label}{number}_0.dcm", PatientID="ANONYMOUS")
    intake = read_folder(tmp_path, preparation=Preparation(16), patients=PatientSource(r"^(\w\d)_"), pseudonym_key=KEY)
    assert intake.dataset.patient_count == 6
    assert intake.notices == ("6 x the pattern names another patient than PatientID; the pattern was used",)


@given(st.text(min_size=1, max_size=20))
def test_a_pseudonym_depends_on_the_key_and_hides_the_patient(patient: str) -> None:
    name = pseudonym(patient, KEY)
    assert len(name) == 32 and int(name, 16) >= 0
    assert name == pseudonym(f"  {patient}\0 ", KEY)
    assert name != pseudonym(patient, bytes(32))
    assert name != pseudonym(patient + "x", KEY)


def test_a_short_key_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        pseudonym("p", b"short")
