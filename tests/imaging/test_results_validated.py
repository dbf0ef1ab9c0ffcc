"""Result files judged by programs that others wrote: dciodvfy and dcentvfy (dicom3tools), dsrdump (DCMTK), fhir.resources."""

import json
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest
from fhir.resources.R4B.diagnosticreport import DiagnosticReport
from pydantic import ValidationError
from tests.imaging.result_samples import (
    ALGORITHM,
    CR,
    CT,
    DX,
    PATIENT,
    enhanced,
    mask_of,
    radiograph,
    rotation,
    series,
)
from tests.imaging.samples import WHEEL

from primum.imaging.results_diagnosis import diagnosis_json, write_structured_report
from primum.imaging.results_mask import write_segmentation
from primum.imaging.results_overlay import write_overlay_capture
from primum.study import Labels

Make = Callable[[Path], list[Path]]

CLASSES = ("background", "liver", "tumour", "grüne Zone 区")
FOUND = {"NORMAL": 0.125, "PNEUMONIA": 0.75, "Röntgen 肺": 0.125}
OBLIQUE = rotation(0.4, -0.7, 1.1)
TO_STAY = re.compile(
    "Unrecognized defined term = <99PRIMUM>"  # a private scheme, as PS3.16 chapter 8 allows
    "|Laterality.* is only permitted to be empty when actually unknown"  # it is, where the source says none
    "|would be needed to build DICOMDIR"  # elements that an anonymised source lacks
    "|Value is zero|Retired Person Name form"  # carried over from the source as they are
)
"""Warnings, not errors."""
SOURCES: dict[str, Make] = {
    "a straight series": lambda folder: series(folder, np.eye(3))[0],
    "an oblique series": lambda folder: series(folder, OBLIQUE)[0],
    "an anonymised series": lambda folder: series(folder, np.eye(3), **dict.fromkeys(PATIENT))[0],
    "a DX": lambda folder: [radiograph(folder / "dx.dcm", DX)],
    "a CR of one side": lambda folder: [radiograph(folder / "cr.dcm", CR, Laterality="L")],
    "a DX of one side": lambda folder: [radiograph(folder / "dx.dcm", DX, ImageLaterality="R")],
    "a pixel of no mm": lambda folder: [radiograph(folder / "cr.dcm", CR, PixelSpacing=[0, 0])],
    "a frame of reference without a place": lambda folder: [radiograph(folder / "cr.dcm", FrameOfReferenceUID="1.2.3")],
    "names removed, nobody says how": lambda folder: [radiograph(folder / "cr.dcm", PatientIdentityRemoved="YES")],
    "an oblique enhanced CT": lambda folder: [enhanced(folder / "ct.dcm", OBLIQUE)],
    "a real CT": lambda folder: [WHEEL / "CT_small.dcm"],
    "a real MR": lambda folder: [WHEEL / "MR_small.dcm"],
    "a real lossy NM": lambda folder: [WHEEL / "JPEG2000.dcm"],
}


def _said(*command: object) -> list[str]:
    """What a program says is wrong, a line each."""
    ended = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, errors="replace", timeout=60
    )
    lines = (ended.stdout + ended.stderr).splitlines()
    warned = [line for line in lines if line.startswith("Warning") and not TO_STAY.search(line)]
    return [line for line in lines if line.startswith("Error")] + warned


def _shape(files: Sequence[Path]) -> tuple[int, int, int]:
    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    return int(header.get("NumberOfFrames") or 1) * len(files), int(header.Rows), int(header.Columns)


def _results(files: list[Path], folder: Path) -> Iterator[Path]:
    """Every kind of DICOM result about `files`."""
    folder.mkdir()
    mask = mask_of(_shape(files), len(CLASSES))
    for name, drawn in (("mask", mask), ("empty", np.zeros_like(mask))):
        write_segmentation(files, drawn, CLASSES, ALGORITHM, folder / f"{name}.seg.dcm")
        yield folder / f"{name}.seg.dcm"
    if len(mask) == len(files):
        write_overlay_capture(files[0], mask[0], CLASSES, ALGORITHM, folder / "overlay.dcm")
        yield folder / "overlay.dcm"
    kinds: tuple[Labels, ...] = ("one", "ordered", "several")
    for labels in kinds:
        out = folder / f"{labels}.sr.dcm"
        write_structured_report(files, FOUND, ALGORITHM, out, labels=labels)
        yield out


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
@pytest.mark.parametrize("source", SOURCES)
def test_dciodvfy_finds_nothing_wrong(tmp_path: Path, source: str) -> None:
    (tmp_path / "in").mkdir()
    for result in _results(SOURCES[source](tmp_path / "in"), tmp_path / "out"):
        assert _said("dciodvfy", "-new", result) == [], result.name


@pytest.mark.skipif(shutil.which("dciodvfy") is None, reason="dciodvfy (Debian: dicom3tools) is not installed")
def test_dciodvfy_sees_what_is_wrong(tmp_path: Path) -> None:
    out = tmp_path / "mask.dcm"
    write_segmentation(series(tmp_path / "in", OBLIQUE)[0], mask_of((5, 10, 12), 4), CLASSES, ALGORITHM, out)
    broken = pydicom.dcmread(out)
    del broken.SegmentSequence[0].SegmentLabel
    broken.save_as(out)
    assert any("SegmentLabel" in line for line in _said("dciodvfy", "-new", out))


@pytest.mark.skipif(shutil.which("dcentvfy") is None, reason="dcentvfy (Debian: dicom3tools) is not installed")
def test_dcentvfy_finds_results_and_source_to_be_of_one_patient_and_study(tmp_path: Path) -> None:
    """It compares names byte by byte, in whatever character set: an ASCII name here."""
    files, _ = series(tmp_path / "in", OBLIQUE, PatientName="Mueller^Joerg")
    found = _said("dcentvfy", *files, *_results(files, tmp_path / "out"))
    assert not [line for line in found if line.startswith("Error")]
    stranger = series(tmp_path / "other", OBLIQUE, PatientName="Doe^Jane", StudyInstanceUID="1.2.3.4")[0][0]
    stray = pydicom.dcmread(stranger)
    stray.StudyInstanceUID = pydicom.dcmread(files[0]).StudyInstanceUID
    stray.save_as(stranger)
    assert any("PatientName" in line for line in _said("dcentvfy", *files, stranger)), "it can tell"


@pytest.mark.skipif(shutil.which("dsrdump") is None, reason="dsrdump (Debian: dcmtk) is not installed")
@pytest.mark.parametrize("source", ["an oblique series", "a DX", "an anonymised series"])
def test_dcmtk_reads_the_whole_report(tmp_path: Path, source: str) -> None:
    (tmp_path / "in").mkdir()
    files = SOURCES[source](tmp_path / "in")
    write_structured_report(files, FOUND, ALGORITHM, tmp_path / "report.dcm", labels="ordered")
    ended = subprocess.run(
        ["dsrdump", "-Er", "-Ec", "+U8", tmp_path / "report.dcm"], capture_output=True, text=True, timeout=60
    )
    assert ended.returncode == 0 and not re.search("^[EF]: ", ended.stderr, re.MULTILINE), ended.stderr
    for name, value in FOUND.items():
        assert name in ended.stdout and f'"{value:g}"' in ended.stdout
    wrong = pydicom.dcmread(tmp_path / "report.dcm")
    del wrong.ContentSequence[0].RelationshipType
    wrong.save_as(tmp_path / "report.dcm")
    assert subprocess.run(["dsrdump", tmp_path / "report.dcm"], capture_output=True, timeout=60).returncode


@pytest.mark.parametrize("labels", ["one", "several", "ordered"])
@pytest.mark.parametrize("known", [{}, {"patient": "12", "study": "1.2.840.113619.2.1"}])
def test_fhir_resources_reads_the_report_and_all_in_it(labels: Labels, known: dict[str, str]) -> None:
    """R4B: of these resources the same as R4, which the package no longer has."""
    text = diagnosis_json(FOUND, ALGORITHM, issued=datetime.now(UTC), labels=labels, **known)
    read = DiagnosticReport.model_validate_json(text)
    assert [type(inside).__name__ for inside in read.contained] == ["Device"] + ["Observation"] * len(FOUND)
    back, told = json.loads(read.model_dump_json()), json.loads(text)
    assert datetime.fromisoformat(back.pop("issued")) == datetime.fromisoformat(told.pop("issued"))
    assert back == told, "nothing was left out or understood otherwise"
    for key, value in (("status", None), ("issued", "yesterday"), ("result", {"reference": "#class-1"}), ("made", 1)):
        with pytest.raises(ValidationError):
            DiagnosticReport.model_validate({**json.loads(text), key: value})


def test_what_was_compressed_with_loss_is_said_to_be(tmp_path: Path) -> None:
    source, out = WHEEL / "JPEG2000.dcm", tmp_path / "overlay.dcm"
    write_overlay_capture(source, mask_of(_shape([source])[1:], 3), CLASSES[:3], ALGORITHM, out)
    found, before = pydicom.dcmread(out), pydicom.dcmread(source)
    assert found.LossyImageCompression == before.LossyImageCompression == "01"
    assert found.LossyImageCompressionRatio == before.LossyImageCompressionRatio


def test_a_mask_of_a_radiograph_lies_as_the_radiograph_does(tmp_path: Path) -> None:
    source = radiograph(tmp_path / "chest.dcm", CR)
    write_segmentation([source], mask_of((40, 30), 3), CLASSES[:3], ALGORITHM, tmp_path / "mask.dcm")
    assert pydicom.dcmread(tmp_path / "mask.dcm").PatientOrientation == ["L", "F"]
    ct = series(tmp_path / "in", np.eye(3), SOPClassUID=CT)[0]
    write_segmentation(ct, mask_of((5, 10, 12), 3), CLASSES[:3], ALGORITHM, tmp_path / "ct.dcm")
    assert "PatientOrientation" not in pydicom.dcmread(tmp_path / "ct.dcm"), "its planes say it"
