"""DICOM SEG: the mask comes back on the grid of its volume, whatever the orientation, or is refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from highdicom.seg import Segmentation, SegmentDescription
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from pydicom.sr.codedict import codes
from tests.imaging.volumes import AXIAL, CORONAL, body, flips, grid_of, nifti, oblique, places, segmentation, series

from primum.errors import DataError
from primum.imaging import Volume, read_segmentation, read_volume
from primum.imaging.volume import canonical

TURNS = {"axial": AXIAL, "coronal": CORONAL, "tipped": oblique(), "backwards": (-1, 0, 0, 0, 1, 0)}


def _expected(turn: tuple[float, ...]) -> np.ndarray:
    return canonical(organ_mask().astype(np.float32), grid_of(turn))[0].astype(np.uint8)


def organ_mask() -> np.ndarray:
    mask = np.zeros((5, 12, 10), np.uint8)
    mask[1:4, 4:10, 2:5] = 1
    mask[2:5, 3:6, 5:9] = 2
    return mask


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_round_trip(tmp_path: Path, turn: tuple[float, ...], kind: str) -> None:
    series(tmp_path / "s", body(), turn)
    path = segmentation(tmp_path / "seg", organ_mask(), turn, kind=kind)
    mask = read_segmentation(path, read_volume(tmp_path / "s"))
    assert mask.dtype == np.uint8 and np.array_equal(mask, _expected(turn)) and set(np.unique(mask)) == {0, 1, 2}


@pytest.mark.parametrize("kind", ["BINARY", "FRACTIONAL", "LABELMAP"])
def test_what_highdicom_writes_is_read(tmp_path: Path, kind: str) -> None:
    """The library that viewers and research programs write segmentations with, on a tipped series."""
    elements = dict.fromkeys(("PatientBirthDate", "PatientSex", "StudyTime", "AccessionNumber", "StudyID"), "")
    files = series(
        tmp_path / "s", body(), oblique(), StudyInstanceUID="1.2.8", FrameOfReferenceUID="1.2.7", SliceThickness=3,
        PatientID="P", PatientName="A^B", ReferringPhysicianName="", StudyDate="", SeriesNumber=1, **elements,
    )  # fmt: skip
    described = [
        SegmentDescription(number, f"organ {number}", codes.SCT.Organ, codes.SCT.Liver, "MANUAL") for number in (1, 2)
    ]
    mask = organ_mask()
    drawn = np.stack([mask == 1, mask == 2], -1).astype(np.float32) if kind == "FRACTIONAL" else mask
    written = Segmentation(
        [dcmread(file) for file in files], drawn, kind, described, "1.2.10", 2, "1.2.11", 1, "maker", "model", "1", "1"
    )
    written.save_as(tmp_path / "seg")
    assert np.array_equal(read_segmentation(tmp_path / "seg", read_volume(tmp_path / "s")), _expected(oblique()))


def test_a_mask_drawn_in_another_direction_of_the_same_grid(tmp_path: Path) -> None:
    """Frames that run from head to foot, and rows from back to front, on the grid of an axial series."""
    volume = read_volume(nifti(tmp_path / "a.nii", body(), np.diag([-1, -1, 1, 1]) @ grid_of(AXIAL)))
    corners = places(AXIAL, 5, 3.0)[::-1] + np.array([0, 11 * 2.0, 0])
    path = segmentation(tmp_path / "seg", organ_mask()[::-1, ::-1], (1, 0, 0, 0, -1, 0), corners)
    assert np.array_equal(read_segmentation(path, volume), organ_mask())


def test_classes_by_label_else_by_number(tmp_path: Path) -> None:
    volume = Volume(body().astype(np.float32), grid_of(AXIAL), "made")
    path = segmentation(tmp_path / "a", organ_mask(), labels={1: "Spleen ", 2: "LIVER"})
    swapped = np.array([0, 2, 1], np.uint8)[organ_mask()]
    assert np.array_equal(read_segmentation(path, volume, ("background", "liver", "spleen")), swapped)
    assert np.array_equal(read_segmentation(path, volume, ("background", "a", "b")), organ_mask())
    for others in (("background", "liver"), ("background", "a"), ("background", "heart", "liver")):
        with pytest.raises(DataError, match="no classes of the study"):
            read_segmentation(path, volume, others)


def test_frames_that_are_missing_are_empty(tmp_path: Path) -> None:
    mask = organ_mask()
    mask[3:] = 0
    volume = Volume(body().astype(np.float32), grid_of(AXIAL), "made")
    assert np.array_equal(read_segmentation(segmentation(tmp_path / "a", mask), volume), mask)


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        ([0, 0, 1.0], "another grid"),
        ([0.4, 0, 0], "another grid"),
        ([0, 0, 9.0], "outside its volume"),
        ([-7.5, 0, 0], "outside its volume"),
    ],
)
def test_off_the_grid_and_outside(tmp_path: Path, moved: list[float], words: str) -> None:
    volume = Volume(body().astype(np.float32), grid_of(AXIAL), "made")
    with pytest.raises(DataError, match=words):
        read_segmentation(segmentation(tmp_path / "a", organ_mask(), AXIAL, places(AXIAL, 5, 3.0) + moved), volume)


def test_another_orientation_overlaps_and_what_is_no_seg(tmp_path: Path) -> None:
    volume = Volume(body().astype(np.float32), grid_of(AXIAL), "made")
    with pytest.raises(DataError, match="another grid"):
        read_segmentation(segmentation(tmp_path / "a", organ_mask(), oblique(5)), volume)
    both = np.concatenate([organ_mask(), organ_mask()])
    both[:5][both[:5] == 2] = 1
    corners = np.concatenate([places(AXIAL, 5, 3.0)] * 2)
    with pytest.raises(DataError, match="overlap"):
        read_segmentation(segmentation(tmp_path / "b", both, AXIAL, corners), volume)
    plain = series(tmp_path / "s", body())[0]
    with pytest.raises(DataError, match="no segmentation"):
        read_segmentation(plain, volume)


@pytest.mark.parametrize(
    "change",
    [{"SegmentSequence": None}, {"SharedFunctionalGroupsSequence": None}, {"NumberOfFrames": 10**7}, {"Rows": 0}],
    ids=str,
)
def test_what_is_missing_is_told(tmp_path: Path, change: dict[str, Any]) -> None:
    volume = Volume(body().astype(np.float32), grid_of(AXIAL), "made")
    with pytest.raises(DataError) as caught:
        read_segmentation(segmentation(tmp_path / "a", organ_mask(), **change), volume)
    assert caught.value.hint


def test_real_segmentations_lie_on_a_grid_of_their_own(real_data: Path | None) -> None:
    """The liver of the public samples, drawn on a volume of the place that its own frames name."""
    if real_data is None:
        return
    dataset = dcmread(real_data / "dicom" / "liver.dcm")
    spacing = dataset.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing
    affine = np.eye(4)
    affine[:3, :3] = [[0, 0, spacing[1]], [0, spacing[0], 0], [1, 0, 0]]
    affine[:3, 3] = [-235.2, -226.8, -128.69]
    volume = Volume(np.zeros((3, 512, 512), np.float32), affine, "made")
    mask = read_segmentation(real_data / "dicom" / "liver.dcm", volume, ("background", "liver"))
    assert np.array_equal(mask, dataset.pixel_array) and mask.any(axis=(1, 2)).all()


@settings(max_examples=120)
@given(st.integers(0, 1 << 30), st.integers(1, 10), st.sampled_from(["BINARY", "FRACTIONAL", "LABELMAP"]))
def test_changed_bytes_give_a_mask_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, kind: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / "segs"
    whole = folder / kind
    if not whole.exists():
        segmentation(whole, organ_mask(), kind=kind)
    (folder / "changed").write_bytes(flips(whole.read_bytes(), seed, count))
    volume = Volume(body().astype(np.float32), grid_of(AXIAL), "made")
    try:
        mask = read_segmentation(folder / "changed", volume)
    except DataError as error:
        assert error.hint and "\n" not in error.message
    else:
        assert mask.shape == (5, 12, 10)
