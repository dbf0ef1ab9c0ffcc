"""Masks as DICOM SEG and NIfTI: the same voxels at the same places, read back by other libraries."""

import stat
import warnings
from itertools import pairwise
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.imaging.result_samples import (
    ALGORITHM,
    CR,
    DX,
    PATIENT,
    by_source,
    enhanced,
    mask_of,
    radiograph,
    rotation,
    series,
)
from tests.imaging.samples import WHEEL, png

from primum.errors import DataError
from primum.imaging import read_segmentation, read_volume
from primum.imaging.results_files import Algorithm
from primum.imaging.results_mask import on_source_grid, write_nifti_mask, write_segmentation

CLASSES = ("background", "liver", "tumour", "grüne Zone 区")
OBLIQUE = rotation(0.4, -0.7, 1.1)


@pytest.mark.parametrize("backwards", [False, True])
def test_an_oblique_series_has_the_same_voxels(tmp_path: Path, backwards: bool) -> None:
    files, _ = series(tmp_path, OBLIQUE)
    if backwards:
        files.reverse()
    mask = mask_of((5, 10, 12), len(CLASSES))
    out = tmp_path / "mask.dcm"
    write_segmentation(files, mask, CLASSES, ALGORITHM, out)
    headers = [pydicom.dcmread(file) for file in files]
    masks = by_source(out)
    for header, wanted in zip(headers, mask, strict=True):
        np.testing.assert_array_equal(masks[header.SOPInstanceUID], wanted)
    read = hd.seg.segread(out)
    got = read.get_pixels_by_source_instance([h.SOPInstanceUID for h in headers], combine_segments=True)
    np.testing.assert_array_equal(got, mask)
    assert (
        read.SeriesInstanceUID != headers[0].SeriesInstanceUID and read.StudyInstanceUID == headers[0].StudyInstanceUID
    )
    assert read.FrameOfReferenceUID == headers[0].FrameOfReferenceUID


def test_the_voxels_lie_at_the_same_places(tmp_path: Path) -> None:
    files, affine = series(tmp_path, OBLIQUE)
    mask = mask_of((5, 10, 12), 2)
    write_segmentation(files, mask, ("nothing", "lung"), ALGORITHM, tmp_path / "mask.dcm")
    volume = hd.seg.segread(tmp_path / "mask.dcm").get_volume(combine_segments=True)
    into = np.linalg.inv(affine) @ volume.affine
    for index in np.argwhere(volume.array >= 0)[::7]:
        place = into @ [*index, 1]
        np.testing.assert_allclose(place, place.round(), atol=1e-4)
        assert volume.array[tuple(index)] == mask[tuple(place.round().astype(int)[:3])]


@pytest.mark.parametrize("spacing", [{}, {"PixelSpacing": [0.2, 0.2]}], ids=["no spacing", "spacing"])
@pytest.mark.parametrize("sop_class", [CR, DX])
def test_a_single_radiograph(tmp_path: Path, sop_class: str, spacing: dict[str, Any]) -> None:
    file = radiograph(tmp_path / "chest.dcm", sop_class, **spacing)
    mask = mask_of((40, 30), 3)
    write_segmentation([file], mask, CLASSES[:3], ALGORITHM, tmp_path / "mask.dcm")
    np.testing.assert_array_equal(next(iter(by_source(tmp_path / "mask.dcm").values())), mask)
    uid = pydicom.dcmread(file).SOPInstanceUID
    read = hd.seg.segread(tmp_path / "mask.dcm").get_pixels_by_source_instance([uid], combine_segments=True)
    np.testing.assert_array_equal(read[0], mask)


def test_what_the_file_says(tmp_path: Path) -> None:
    files, _ = series(tmp_path, OBLIQUE)
    out = tmp_path / "mask.dcm"
    write_segmentation(files, mask_of((5, 10, 12), 4), CLASSES, ALGORITHM, out)
    found = pydicom.dcmread(out)
    assert found.SOPClassUID == pydicom.uid.SegmentationStorage and found.SegmentationType == "BINARY"
    assert [item.SegmentLabel for item in found.SegmentSequence] == list(CLASSES[1:])
    made_by = found.SegmentSequence[0].SegmentationAlgorithmIdentificationSequence[0]
    assert (made_by.AlgorithmName, made_by.AlgorithmVersion) == ("Chest net", "1.2")
    assert ALGORITHM.digest in made_by.AlgorithmParameters
    assert {item.SegmentAlgorithmType for item in found.SegmentSequence} == {"AUTOMATIC"}
    kinds = [item.SegmentedPropertyTypeCodeSequence[0] for item in found.SegmentSequence]
    assert [(kind.CodeValue, kind.CodingSchemeDesignator) for kind in kinds] == [
        ("10200004", "SCT"),
        ("108369006", "SCT"),
        ("CLASS-3", "99PRIMUM"),
    ]
    assert "NOT FOR DIAGNOSIS" in found.SeriesDescription
    for name in ("PatientName", "PatientID", "AccessionNumber", "StudyDate"):
        assert str(found[name].value) == PATIENT[name]
    assert stat.S_IMODE(out.stat().st_mode) == 0o600


def test_an_empty_mask_and_an_anonymised_source(tmp_path: Path) -> None:
    files, _ = series(tmp_path, np.eye(3), **dict.fromkeys(PATIENT))
    write_segmentation(files, np.zeros((5, 10, 12), np.uint8), CLASSES, ALGORITHM, tmp_path / "mask.dcm")
    masks = by_source(tmp_path / "mask.dcm")
    assert len(masks) == 5 and not any(mask.any() for mask in masks.values())
    assert not pydicom.dcmread(tmp_path / "mask.dcm").PatientName


@pytest.mark.parametrize("name", ["CT_small.dcm", "MR_small.dcm"])
def test_real_slices(tmp_path: Path, name: str) -> None:
    header = pydicom.dcmread(WHEEL / name)
    mask = mask_of((header.Rows, header.Columns), 2)
    write_segmentation([WHEEL / name], mask, ("background", "x"), ALGORITHM, tmp_path / "mask.dcm")
    np.testing.assert_array_equal(by_source(tmp_path / "mask.dcm")[header.SOPInstanceUID], mask)


def test_a_file_of_several_frames(tmp_path: Path) -> None:
    file, mask = enhanced(tmp_path / "ct.dcm", OBLIQUE), mask_of((4, 10, 12), 3)
    write_segmentation([file], mask, CLASSES[:3], ALGORITHM, tmp_path / "mask.dcm")
    uid = pydicom.dcmread(file).SOPInstanceUID
    read = hd.seg.segread(tmp_path / "mask.dcm").get_pixels_by_source_frame(uid, [1, 2, 3, 4], combine_segments=True)
    np.testing.assert_array_equal(read, mask)
    two = np.stack([mask_of((100, 100), 2), mask_of((100, 100), 2, seed=1)])
    with pytest.raises(DataError, match="several frames"):
        write_segmentation([WHEEL / "SC_rgb_rle_2frame.dcm"], two, CLASSES[:2], ALGORITHM, tmp_path / "other.dcm")


def test_a_volume_in_one_file_comes_back_as_one(tmp_path: Path) -> None:
    file = enhanced(tmp_path / "ct.dcm", OBLIQUE)
    volume = read_volume(file)
    mask = mask_of(volume.values.shape, 3)
    write_segmentation([file], on_source_grid([file], volume.affine, mask), CLASSES[:3], ALGORITHM, tmp_path / "m.dcm")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "m.dcm", volume, CLASSES[:3]), mask)


@pytest.mark.parametrize("said", [None, ""])
@pytest.mark.parametrize("count", [1, 5])
def test_slices_that_do_not_say_how_thick_they_are(tmp_path: Path, count: int, said: str | None) -> None:
    files, _ = series(tmp_path / "series", OBLIQUE)
    for number, file in enumerate(files):
        header = pydicom.dcmread(file)
        header.SliceThickness = said
        if said is None:
            del header.SliceThickness
        header.save_as(file) if number < count else file.unlink()
    volume = read_volume(tmp_path / "series")
    mask, used = mask_of(volume.values.shape, 3), files[:count]
    write_segmentation(used, on_source_grid(used, volume.affine, mask), CLASSES[:3], ALGORITHM, tmp_path / "m.dcm")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "m.dcm", volume, CLASSES[:3]), mask)
    measures = pydicom.dcmread(tmp_path / "m.dcm").SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert min(abs(float(measures.SliceThickness) - side) for side in volume.spacing) < 1e-3


@given(
    axes=st.permutations(range(3)),
    turned=st.tuples(*[st.booleans()] * 3),
    order=st.permutations(range(5)),
    turns=st.tuples(*[st.floats(-3, 3)] * 3),
)
@settings(max_examples=15)
def test_the_mask_of_a_volume_goes_back_to_its_files(
    tmp_path_factory: pytest.TempPathFactory,
    axes: list[int],
    turned: tuple[bool, bool, bool],
    order: list[int],
    turns: tuple[float, float, float],
) -> None:
    files, affine = series(tmp_path_factory.mktemp("series"), rotation(*turns))
    mask = mask_of((5, 10, 12), 4)
    volume, world = mask.transpose(axes), affine[:, [*axes, 3]].copy()
    for axis in range(3):
        if turned[axis]:
            volume = np.flip(volume, axis)
            world[:, 3] += world[:, axis] * (volume.shape[axis] - 1)
            world[:, axis] *= -1
    found = on_source_grid([files[place] for place in order], world, volume)
    np.testing.assert_array_equal(found, mask[order])


@pytest.mark.parametrize("turns", [(0.0, 0.0, 0.0), (0.4, -0.7, 1.1), (2.0, 0.3, -1.2)])
def test_what_was_read_as_a_volume_comes_back_as_one(tmp_path: Path, turns: tuple[float, float, float]) -> None:
    files, _ = series(tmp_path / "series", rotation(*turns))
    volume = read_volume(tmp_path / "series")
    mask = mask_of(volume.values.shape, 3)
    found = on_source_grid(files, volume.affine, mask)
    write_segmentation(files, found, CLASSES[:3], ALGORITHM, tmp_path / "mask.dcm")
    np.testing.assert_array_equal(read_segmentation(tmp_path / "mask.dcm", volume, CLASSES[:3]), mask)
    write_nifti_mask(volume.affine, mask, tmp_path / "mask.nii.gz")
    read = read_volume(tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(read.values, mask)
    np.testing.assert_allclose(read.affine, volume.affine, atol=1e-3)


def test_a_mask_of_another_grid_does_not_go_back(tmp_path: Path) -> None:
    files, affine = series(tmp_path, OBLIQUE)
    mask, shifted = mask_of((5, 10, 12), 2), affine.copy()
    shifted[:3, 3] += affine[:3, 0] * 0.3
    for world, labels in ((shifted, mask), (affine, mask[:4]), (np.zeros((4, 4)), mask)):
        with pytest.raises(DataError):
            on_source_grid(files, world, labels)
    with pytest.raises(DataError, match="where it lies"):
        on_source_grid([radiograph(tmp_path / "chest.dcm")], affine, mask)


@pytest.mark.parametrize(
    "name", ["rtdose.dcm", "badVR.dcm", "liver_1frame.dcm", "examples_ybr_color.dcm", "693_J2KI.dcm"]
)
def test_whatever_is_in_a_header_ends_in_one_kind_of_error(tmp_path: Path, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(WHEEL / name, stop_before_pixels=True)
        frames = header.get("NumberOfFrames", 1) if name != "badVR.dcm" else 1
    shape = (int(frames or 1), int(header.get("Rows", 5)), int(header.get("Columns", 5)))
    with pytest.raises(DataError, match=name) as caught:
        write_segmentation([WHEEL / name], mask_of(shape, 2), ("background", "x"), ALGORITHM, tmp_path / "mask.dcm")
    assert str(header.get("PatientName") or "no name") not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_what_does_not_belong_together_is_refused(tmp_path: Path) -> None:
    files, _ = series(tmp_path / "a", OBLIQUE)
    other, _ = series(tmp_path / "b", OBLIQUE)
    mask, out = mask_of((5, 10, 12), 2), tmp_path / "mask.dcm"
    two = ("background", "lung")
    cases = [
        (files[:4], mask, two, "5 x 10 x 12 pixels, its sources have 4 x 10 x 12"),
        (files, mask[:, :9], two, "5 x 9 x 12"),
        (files[:4] + files[:1], mask, two, "twice"),
        (files[:4] + other[:1], mask, two, "no DICOM result can be made"),
        (files, mask * 2, two, "none of 2 classes"),
        (files, mask.astype(np.int64), two, "uint8"),
        (files, mask, ("background",), "1 classes"),
        (files, mask, ("background", "a" * 65), "DICOM cannot hold"),
        ([], mask, two, "no source files"),
        ([tmp_path / "gone.dcm"], mask[:1], two, "gone.dcm cannot be read"),
        ([png(tmp_path / "picture.png")], mask[0], two, "picture.png lacks"),
        ([WHEEL / "reportsi.dcm"], mask[0], two, "lacks Rows"),
    ]
    for sources, labels, classes, words in cases:
        with pytest.raises(DataError, match=words):
            write_segmentation(sources, labels, classes, ALGORITHM, out)
        assert not out.exists()
    out.write_text("mine")
    with pytest.raises(DataError, match="exists already"):
        write_segmentation(files, mask, two, ALGORITHM, out)
    assert out.read_text() == "mine"


def test_an_algorithm_is_named_properly() -> None:
    for name, version, digest in (("", "1", "a" * 64), ("n" * 65, "1", "a" * 64), ("a\\b", "1", "a" * 64)):
        with pytest.raises(DataError, match="the model's name"):
            Algorithm(name, version, digest)
    with pytest.raises(DataError, match="SHA-256"):
        Algorithm("n", "1", "A" * 64)
    same, other = Algorithm("n", "2", "ab" * 32), Algorithm("n", "1", "cd" * 32)
    assert ALGORITHM.device_uid == same.device_uid != other.device_uid
    assert pydicom.uid.UID(other.device_uid).is_valid


@settings(max_examples=20)
@given(
    turns=st.tuples(*[st.floats(-3, 3)] * 3),
    shape=st.tuples(*[st.integers(1, 7)] * 3),
    spacing=st.tuples(*[st.floats(0.3, 9)] * 3),
    ending=st.sampled_from([".nii", ".nii.gz"]),
)
def test_nifti_has_the_same_voxels_at_the_same_places(
    tmp_path_factory: pytest.TempPathFactory,
    turns: tuple[float, float, float],
    shape: tuple[int, int, int],
    spacing: tuple[float, float, float],
    ending: str,
) -> None:
    affine = np.eye(4)
    affine[:3, :3] = rotation(*turns) * spacing
    affine[:3, 3] = 5, -70, 300
    mask = mask_of(shape, 5)
    out = tmp_path_factory.mktemp("nifti") / f"mask{ending}"
    write_nifti_mask(affine, mask, out)
    read = nibabel.load(out)
    assert read.get_data_dtype() == np.uint8
    data = np.asarray(read.dataobj)
    np.testing.assert_array_equal(data, mask.transpose(2, 1, 0))
    for slice_, row, column in ((0, 0, 0), tuple(length - 1 for length in shape)):
        x, y, z, _ = affine @ [slice_, row, column, 1]
        np.testing.assert_allclose((read.affine @ [column, row, slice_, 1])[:3], (-x, -y, z), atol=1e-2)


def test_nifti_refuses_what_is_none(tmp_path: Path) -> None:
    mask, eye = mask_of((2, 3, 4), 2), np.eye(4)
    flat = np.diag([1.0, 1, 0, 1])
    for affine, labels, name in (
        (flat, mask, "a.nii"),
        (np.eye(3), mask, "a.nii"),
        (eye, mask[0], "a.nii"),
        (eye, mask, "a.img"),
    ):
        with pytest.raises(DataError):
            write_nifti_mask(affine, labels, tmp_path / name)
    write_nifti_mask(eye, mask, tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="exists"):
        write_nifti_mask(eye, mask, tmp_path / "a.nii.gz")
    first = (tmp_path / "a.nii.gz").read_bytes()
    write_nifti_mask(eye, mask, tmp_path / "b.nii.gz")
    assert first == (tmp_path / "b.nii.gz").read_bytes(), "no time, no name of a file stands in it"
    assert list(pairwise(sorted(path.name for path in tmp_path.iterdir()))) == [("a.nii.gz", "b.nii.gz")]
