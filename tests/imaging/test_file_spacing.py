"""Mm of the files' own pixels: counted once for each file, whatever a study makes of it, from the cache too."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.imaging.samples import KEY, dicom, png, two_classes
from tests.imaging.test_patches import CUT, hospital

from primum.imaging import PatientSource, Preparation, read_folder, read_masked_folder
from primum.imaging.file_spacing import FEW, FileSpacing, Spacings
from primum.imaging.manifest import Record

MM = st.floats(0.01, 30)


def _mixed(folder: Path) -> Path:
    """Two classes of PNG that say nothing, and DICOM of three sizes of pixels."""
    two_classes(folder, 3)
    for number, mm in enumerate([(0.2, 0.3), (0.143, 0.143), (0.143, 0.143)]):
        dicom(folder / "A" / f"a1{number}_0.dcm", PixelSpacing=list(mm))
    dicom(folder / "B" / "b10_0.dcm", ImagerPixelSpacing=[0.143, 0.143])
    dicom(folder / "B" / "b11_0.dcm", PixelSpacing=[0, 0])
    return folder


def test_pictures_of_a_folder_of_classes_and_again_from_the_cache(tmp_path: Path) -> None:
    folder = _mixed(tmp_path / "data")
    for _ in range(2):
        intake = read_folder(
            folder,
            preparation=Preparation(size=16),
            patients=PatientSource(r"(\w+)_"),
            pseudonym_key=KEY,
            cache=tmp_path / "cache",
        )
        found = intake.spacing
        assert found.groups == (Spacings("pictures", ("row", "column"), (((0.143, 0.143), 3), ((0.2, 0.3), 1))),)
        assert found.silent == 7, "six PNG, and one DICOM whose pixels have no size"
    assert found.rows() == [
        ("pictures, row x column", "0.143 x 0.143", "3"),
        ("pictures, row x column", "0.2 x 0.3", "1"),
        ("not said", "", "7"),
    ]


def test_volumes_as_they_are_and_not_as_a_study_samples_them(tmp_path: Path) -> None:
    patients, asked = PatientSource(r"^(p\d+)"), replace(CUT, spacing=(2.5, 2.5, 2.5))
    folder = hospital(tmp_path / "data")
    read = read_masked_folder(folder, preparation=asked, patients=patients, pseudonym_key=KEY)
    assert set(read.dataset.spacing) == {(2.5, 2.5, 2.5)} and len(read.dataset) > 6
    wanted = Spacings("volumes", ("slice", "row", "column"), (((3.0, 2.0, 1.5), 6),))
    assert read.spacing == FileSpacing((wanted,), 0), "NIfTI, NRRD and a DICOM series, each counted once"


@given(st.lists(st.one_of(st.just(()), st.tuples(MM, MM), st.tuples(MM, MM, MM)), max_size=30))
def test_every_file_is_counted_once_and_figures_are_numpys(said: list[tuple[float, ...]]) -> None:
    records = [Record(f"{number}", "used", file_spacing=mm, images=number) for number, mm in enumerate(said)]
    found = FileSpacing.of(records)
    assert found.silent + sum(group.files for group in found.groups) == len(said)
    for group in found.groups:
        sides = np.array([mm for mm in said if len(mm) == len(group.axes)])
        for place in range(len(group.axes)):
            along = sides[:, place]
            wanted = along.min(), np.median(along), along.max()
            assert group.along(place) == pytest.approx(wanted, rel=1e-3)
    told = json.loads(json.dumps(found.plain()))
    assert told["not_said"] == found.silent and set(told) == {"not_said", *(group.kind for group in found.groups)}
    shown = sum(len(group.sizes) if group.few else len(group.axes) for group in found.groups)
    assert len(found.rows()) == shown + bool(found.silent)


def test_many_sizes_are_told_by_smallest_median_and_largest() -> None:
    records = [Record(f"{n}", "used", file_spacing=(0.1 * n, 1.0)) for n in range(1, FEW + 2)]
    assert FileSpacing.of(records).rows() == [
        ("pictures, row", f"0.1 to {0.1 * (FEW + 1):g}, median 0.4", f"{FEW + 1}"),
        ("pictures, column", "1", f"{FEW + 1}"),
    ]
    assert FileSpacing.of([]).rows() == [] and FileSpacing.of(records).plain()["pictures"]["sizes"] == []


def test_what_is_set_aside_counts_nowhere(tmp_path: Path) -> None:
    folder = two_classes(tmp_path / "data")
    dicom(folder / "A" / "a20_0.dcm", np.full((9, 9), 7, np.uint16), PixelSpacing=[9, 9])
    png(folder / "A" / "nobody.png")
    read = read_folder(folder, preparation=Preparation(), patients=PatientSource(r"(\w+)_"), pseudonym_key=KEY)
    assert read.spacing == FileSpacing((), 12)
