"""Drawn X-rays: the same for everybody, by patient, in three formats, and learnable but not trivially."""

import hashlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from tests.imaging.samples import KEY, png

from primum.errors import DataError
from primum.imaging import PatientSource, Preparation, assert_disjoint, read_folder
from primum.imaging.phantom import CLASSES, PHANTOM_PATIENT, draw


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw(tmp_path_factory.mktemp("phantom") / "x-rays", 96)


def _digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def test_everybody_draws_the_same(drawn: Path, tmp_path: Path) -> None:
    few = _digests(draw(tmp_path / "few", 20))
    many = _digests(drawn)
    assert {name: many[name] for name in few} == few and len(many) > len(few)


def test_formats_polarities_and_patients(drawn: Path) -> None:
    files = [path for path in drawn.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} == {"", ".jpeg", ".png"}
    datasets = [pydicom.dcmread(path) for path in files if not path.suffix]
    assert {dataset.PhotometricInterpretation for dataset in datasets} == {"MONOCHROME1", "MONOCHROME2"}
    assert all(dataset.PatientID.startswith("P") and "drawing" in dataset.Manufacturer for dataset in datasets)
    assert len({dataset.SOPInstanceUID for dataset in datasets}) == len(datasets)
    assert all(128 <= min(dataset.Rows, dataset.Columns) <= 280 for dataset in datasets)


def test_it_is_read_whole_and_split_by_patient(drawn: Path) -> None:
    source = PatientSource(PHANTOM_PATIENT)
    parts = [
        read_folder(drawn / split, CLASSES, preparation=Preparation(32), patients=source, pseudonym_key=KEY)
        for split in ("train", "test")
    ]
    assert all(part.problems == () and part.formats.keys() == {"DICOM", "JPEG", "PNG"} for part in parts)
    assert [part.dataset.patient_count for part in parts] == [72, 24]
    assert len(parts[0].dataset) > 80
    assert parts[0].patients == {"NORMAL": 36, "PNEUMONIA": 36}
    assert_disjoint(parts[0].dataset, parts[1].dataset)


def test_formats_do_not_tell_the_class(drawn: Path) -> None:
    """Nobody can learn the class from the kind of file or its polarity."""
    source = PatientSource(PHANTOM_PATIENT)
    data = read_folder(drawn / "train", preparation=Preparation(32), patients=source, pseudonym_key=KEY).dataset
    dicom = np.array(["." not in file for file in data.files])
    ill = data.labels.numpy() == 1
    assert abs(dicom[ill].mean() - dicom[~ill].mean()) < 0.3


def test_lungs_are_dark_and_ill_ones_less_so(drawn: Path) -> None:
    source = PatientSource(PHANTOM_PATIENT)
    data = read_folder(drawn / "train", preparation=Preparation(32), patients=source, pseudonym_key=KEY).dataset
    images = data.images[:, 0]
    images = (images - images.mean(dim=(1, 2), keepdim=True)) / images.std(dim=(1, 2), keepdim=True)
    lungs = torch.cat([images[:, 8:20, 6:12], images[:, 8:20, 20:26]], dim=2).mean(dim=(1, 2))
    assert lungs.mean() < images[:, 4:28, 15:17].mean() - 0.5
    well, ill = lungs[data.labels == 0], lungs[data.labels == 1]
    assert ill.mean() > well.mean() + 0.1 and ill.min() < well.max()


def test_bad_targets_are_refused(tmp_path: Path) -> None:
    png(tmp_path / "used" / "x.png")
    with pytest.raises(DataError, match="not empty"):
        draw(tmp_path / "used")
    with pytest.raises(DataError, match="not 3"):
        draw(tmp_path / "new", 3)
    assert not (tmp_path / "new").exists()
