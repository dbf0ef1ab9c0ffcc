"""Diagnoses as DICOM SR and FHIR JSON: read back, preliminary, and silent about the patient."""

import json
import stat
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.sr.codedict import codes
from tests.imaging.result_samples import ALGORITHM, PATIENT, radiograph, rotation, series
from tests.imaging.samples import WHEEL

from primum.errors import DataError
from primum.imaging.results_diagnosis import diagnosis_json, write_diagnosis_json, write_structured_report

FOUND = {"NORMAL": 0.125, "PNEUMONIA": 0.75, "Röntgen 肺": 0.125}
NOW = datetime(2026, 3, 4, 5, 6, 7, 89000, tzinfo=timezone(timedelta(hours=2)))


def _walk(item: pydicom.Dataset) -> list[pydicom.Dataset]:
    return [item, *(below for child in item.get("ContentSequence", []) for below in _walk(child))]


def test_a_report_by_pydicom_alone(tmp_path: Path) -> None:
    source = radiograph(tmp_path / "chest.dcm")
    out = tmp_path / "report.dcm"
    write_structured_report([source], FOUND, ALGORITHM, out)
    found, before = pydicom.dcmread(out), pydicom.dcmread(source)
    assert found.SOPClassUID == pydicom.uid.ComprehensiveSRStorage
    assert (found.CompletionFlag, found.VerificationFlag, found.PreliminaryFlag) == (
        "PARTIAL",
        "UNVERIFIED",
        "PRELIMINARY",
    )
    assert "VerifyingObserverSequence" not in found and "NOT FOR DIAGNOSIS" in found.SeriesDescription
    items = _walk(found)
    numbers = [item for item in items if item.get("ValueType") == "NUM"]
    assert [float(item.MeasuredValueSequence[0].NumericValue) for item in numbers] == list(FOUND.values())
    assert {item.ConceptNameCodeSequence[0].CodeValue for item in numbers} == {"122157"}
    named = {item.ConceptNameCodeSequence[0].CodeMeaning: item for item in items if "ConceptNameCodeSequence" in item}
    assert ALGORITHM.device_uid == named["Device Observer UID"].UID
    assert named["Device Observer Name"].TextValue == "Primum"
    assert named["Device Observer Serial Number"].TextValue == ALGORITHM.digest
    assert not any(item.get("ValueType") == "PNAME" for item in items)
    findings = [item for item in items if item.get("ConceptNameCodeSequence", [{}])[0].get("CodeValue") == "121071"]
    assert [item.ConceptCodeSequence[0].CodeMeaning for item in findings] == list(FOUND)
    evidence = found.CurrentRequestedProcedureEvidenceSequence[0].ReferencedSeriesSequence[0].ReferencedSOPSequence
    assert [item.ReferencedSOPInstanceUID for item in evidence] == [before.SOPInstanceUID]
    assert found.StudyInstanceUID == before.StudyInstanceUID and str(found.PatientName) == PATIENT["PatientName"]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_a_report_of_a_series_by_highdicom(tmp_path: Path) -> None:
    files, _ = series(tmp_path, rotation(0.3, 0.2, 0.1))
    write_structured_report(files, FOUND, ALGORITHM, tmp_path / "report.dcm")
    read = hd.sr.srread(tmp_path / "report.dcm")
    assert len(read.get_evidence()) == len(files)
    groups = read.content.get_image_measurement_groups()
    told = {
        group.tracking_identifier: [m.value for m in group.get_measurements(codes.DCM.Probability)] for group in groups
    }
    assert told == {name: [value] for name, value in FOUND.items()}


def test_a_report_refuses(tmp_path: Path) -> None:
    source = radiograph(tmp_path / "chest.dcm")
    out = tmp_path / "report.dcm"
    for wrong in ({"a": 0.5, "b": 0.6}, {"a": 1.5, "b": -0.5}, {"a": float("nan"), "b": 0.5}, {"a": 1.0}, {}):
        with pytest.raises(DataError):
            write_structured_report([source], wrong, ALGORITHM, out)
        with pytest.raises(DataError):
            diagnosis_json(wrong, ALGORITHM, issued=NOW)
    with pytest.raises(DataError, match="twice"):
        write_structured_report([source, source], FOUND, ALGORITHM, out)
    assert not out.exists()
    out.write_text("mine")
    with pytest.raises(DataError, match="exists"):
        write_structured_report([source], FOUND, ALGORITHM, out)


def test_forms_of_old_exports_are_not_carried_on(tmp_path: Path) -> None:
    write_structured_report([WHEEL / "ExplVR_BigEnd.dcm"], FOUND, ALGORITHM, tmp_path / "report.dcm")
    found = pydicom.dcmread(tmp_path / "report.dcm")
    assert not found.StudyTime and found.StudyInstanceUID


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["reference"]] if isinstance(value.get("reference"), str) else []
        return own + [found for inner in value.values() for found in _references(inner)]
    return [found for inner in value for found in _references(inner)] if isinstance(value, list) else []


def test_json_has_what_fhir_asks_for() -> None:
    report = json.loads(diagnosis_json(FOUND, ALGORITHM, issued=NOW, patient="7", study="1.2.3"))
    assert (report["resourceType"], report["status"]) == ("DiagnosticReport", "preliminary")
    assert report["code"]["coding"][0]["code"] == "18748-4"
    assert report["issued"] == "2026-03-04T05:06:07.089+02:00"
    assert "PNEUMONIA (0.750)" in report["conclusion"] and "NOT FOR DIAGNOSIS" in report["conclusion"]
    contained = {item["id"]: item for item in report["contained"]}
    observations = [contained[entry["reference"].removeprefix("#")] for entry in report["result"]]
    assert [item["valueQuantity"]["value"] for item in observations] == list(FOUND.values())
    assert {item["status"] for item in observations} == {"preliminary"}
    assert {item["subject"]["identifier"]["value"] for item in [report, *observations]} == {"7"}
    assert contained["model"]["serialNumber"] == ALGORITHM.digest
    assert report["imagingStudy"][0]["identifier"]["value"] == "urn:oid:1.2.3"
    used = {name.removeprefix("#") for name in _references(report) if name.startswith("#")}
    assert used == set(contained), "what is contained is referred to, and the other way round (FHIR dom-3)"


@given(st.lists(st.floats(1e-6, 1), min_size=2, max_size=8))
def test_json_keeps_the_probabilities(weights: list[float]) -> None:
    total = sum(weights)
    told = {f"class {place}": weight / total for place, weight in enumerate(weights)}
    report = json.loads(diagnosis_json(told, ALGORITHM, issued=NOW))
    values = [item["valueQuantity"]["value"] for item in report["contained"][1:]]
    np.testing.assert_allclose(values, list(told.values()), atol=5.1e-7)
    assert "subject" not in report and "imagingStudy" not in report


def test_json_is_written_once_and_says_nothing_of_a_patient(tmp_path: Path) -> None:
    out = tmp_path / "report.json"
    write_diagnosis_json(FOUND, ALGORITHM, out, issued=NOW)
    text = out.read_text()
    assert stat.S_IMODE(out.stat().st_mode) == 0o600 and "Röntgen 肺" in text
    assert "subject" not in text and "atient" not in text
    with pytest.raises(DataError, match="exists"):
        write_diagnosis_json(FOUND, ALGORITHM, out, issued=NOW)
    with pytest.raises(DataError, match="time zone"):
        diagnosis_json(FOUND, ALGORITHM, issued=datetime(2026, 1, 1))


def test_of_several_classes_each_probability_stands_by_itself(tmp_path: Path) -> None:
    several = {"Mass": 0.9, "Edema": 0.7, "Hernia": 0.1}
    source = radiograph(tmp_path / "chest.dcm")
    write_structured_report([source], several, ALGORITHM, tmp_path / "report.dcm", labels="several")
    numbers = [item for item in _walk(pydicom.dcmread(tmp_path / "report.dcm")) if item.get("ValueType") == "NUM"]
    assert [float(item.MeasuredValueSequence[0].NumericValue) for item in numbers] == list(several.values())
    told = json.loads(diagnosis_json(several, ALGORITHM, issued=NOW, labels="several"))
    assert told["conclusion"].endswith("Classes with a probability above 1/2: Mass (0.900), Edema (0.700).")
    none = json.loads(diagnosis_json({"Mass": 0.2, "Edema": 0.3}, ALGORITHM, issued=NOW, labels="several"))
    assert none["conclusion"].endswith("above 1/2: none.")
    with pytest.raises(DataError, match="with the sum 1"):
        diagnosis_json(several, ALGORITHM, issued=NOW)
    with pytest.raises(DataError, match="not between 0 and 1"):
        diagnosis_json({"Mass": 1.2, "Edema": 0.3}, ALGORITHM, issued=NOW, labels="several")


def test_of_ordered_classes_the_grade_is_told_which_need_not_be_the_most_probable(tmp_path: Path) -> None:
    grades = {"none": 0.4, "mild": 0.25, "severe": 0.35}
    write_structured_report([radiograph(tmp_path / "eye.dcm")], grades, ALGORITHM, tmp_path / "r.dcm", labels="ordered")
    codes_ = [item for item in _walk(pydicom.dcmread(tmp_path / "r.dcm")) if item.get("ValueType") == "CODE"]
    graded = [item for item in codes_ if item.ConceptNameCodeSequence[0].CodeValue == "GRADE"]
    assert [item.ConceptCodeSequence[0].CodeMeaning for item in graded] == ["mild"]
    told = json.loads(diagnosis_json(grades, ALGORITHM, issued=NOW, labels="ordered"))
    assert told["conclusion"].endswith("Grade: mild.")
