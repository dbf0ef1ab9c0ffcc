"""A diagnosis as files: what they say of whose it is, and that none is written where one of them cannot be."""

import json
from pathlib import Path

import pydicom
import pytest
import torch
from tests.imaging.result_samples import radiograph
from tests.imaging.samples import png

from primum.diagnosis.diagnosis import Diagnosis
from primum.diagnosis.results import refuse_existing_results, write_results
from primum.diagnosis.sources import Source
from primum.errors import DataError, InputError

FOUND = Diagnosis(("NORMAL", "PNEUMONIA"), (0.25, 0.75), (0.0, 1.1), 1, 0.1, 10, "cd" * 32)


def source(path: Path) -> Source:
    return Source(path, torch.zeros(1, 1, 8, 8))


def test_reports_of_a_dicom_image_name_its_patient_and_study(tmp_path: Path) -> None:
    path = radiograph(tmp_path / "chest.dcm", PatientID="P-17")
    header = pydicom.dcmread(path)
    fhir, report = write_results(source(path), FOUND, {}, tmp_path / "out")
    told, read = json.loads(fhir.read_text()), pydicom.dcmread(report)
    assert told["subject"]["identifier"]["value"] == "P-17" == read.PatientID
    assert told["imagingStudy"][0]["identifier"]["value"] == f"urn:oid:{header.StudyInstanceUID}"
    assert read.StudyInstanceUID == header.StudyInstanceUID


def test_the_report_of_a_picture_names_nobody(tmp_path: Path) -> None:
    (fhir,) = write_results(source(png(tmp_path / "a.png")), FOUND, {}, tmp_path / "out")
    assert not {"subject", "imagingStudy"} & json.loads(fhir.read_text()).keys()


def test_nothing_is_written_where_a_report_cannot_refer_to_the_image(tmp_path: Path) -> None:
    path = radiograph(tmp_path / "chest.dcm")
    stripped = pydicom.dcmread(path)
    del stripped.StudyInstanceUID
    stripped.save_as(path)
    with pytest.raises(DataError, match="lacks StudyInstanceUID"):
        write_results(source(path), FOUND, {}, tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_two_images_whose_results_would_have_one_name_are_refused_before_anything_is_asked(tmp_path: Path) -> None:
    pictures = [source(tmp_path / "one" / "lung.png"), source(tmp_path / "two" / "lung.dcm")]
    with pytest.raises(InputError, match=r"lung\.png and .*lung\.dcm would be written under the same names"):
        refuse_existing_results(pictures, tmp_path / "out")
    refuse_existing_results([pictures[0], source(tmp_path / "other.png"), pictures[0]], tmp_path / "out")
