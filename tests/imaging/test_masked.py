"""Folders of images with masks: layouts, what becomes of volumes, and what is set aside by name."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image as Pillow
from tests.imaging.samples import KEY, dicom, grey, png
from tests.imaging.volumes import AFFINE, body, enhanced, nifti, organ, segmentation, series

from primum.errors import DataError
from primum.imaging import (
    Intake,
    PatientSource,
    Preparation,
    assert_disjoint,
    holds_masks,
    read_masked_folder,
    split_patients,
)

BY_NAME = PatientSource(r"^(p\d+)")
EACH = PatientSource(one_image_per_patient=True)


def _read(folder: Path, patients: PatientSource = BY_NAME, **options: Any) -> Intake:
    options = {"preparation": Preparation(16), "pseudonym_key": KEY, **options}
    return read_masked_folder(folder, patients=patients, **options)


def _reasons(intake: Intake) -> dict[str, str]:
    return {problem.file: problem.reason for problem in intake.problems}


def drawn(
    path: Path, label: str = "", top: int = 1, mode: str | None = None, shape: tuple[int, int] = (24, 20)
) -> Path:
    """A mask: a rectangle of value `top`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.zeros(shape, np.uint8)
    values[5:15, 4 : 10 + len(label) % 5] = top
    picture = Pillow.fromarray(values)
    (picture.convert(mode) if mode else picture).save(path)
    return path


def pictures(folder: Path, count: int = 6, **mask: Any) -> Path:
    for number in range(count):
        png(folder / "images" / f"p{number}_a.png", f"masked {number}")
        drawn(folder / "masks" / f"p{number}_a.png", **mask)
    return folder


def volumes(folder: Path, count: int = 5, images: str = "images", masks: str = "labels") -> Path:
    for number in range(count):
        nifti(folder / images / f"p{number}.nii.gz", body(f"v{number}"))
        nifti(folder / masks / f"p{number}.nii.gz", organ())
    return folder


@pytest.mark.parametrize(
    "mask", [{"top": 255}, {"top": 1}, {"mode": "1", "top": 255}, {"mode": "P"}, {"mode": "RGB"}, {"mode": "RGBA"}],
    ids=str,
)  # fmt: skip
def test_pictures_with_masks_however_they_are_stored(tmp_path: Path, mask: dict[str, Any]) -> None:
    intake = _read(pictures(tmp_path, **mask))
    data = intake.dataset
    assert data.masked and data.images.shape == (6, 1, 16, 16) and data.labels.shape == (6, 16, 16)
    assert data.labels.dtype == torch.uint8 and data.classes == ("background", "class 1")
    assert data.files[0] == "images/p0_a.png" and data.patient_count == 6
    assert intake.problems == () and intake.formats == {"PNG": 6}
    assert intake.classes == {"background": 6, "class 1": 6} == intake.patients
    box = data.labels[0].nonzero()
    assert box.min(0).values.tolist() == [round(5 * 16 / 24), round(4 * 16 / 20)]


def test_real_lungs(real_data: Path | None) -> None:
    if real_data is None:
        return
    intake = _read(real_data / "lungs_montgomery", EACH, classes=("background", "lung"))
    assert len(intake.dataset) == 138 and intake.problems == () and intake.formats == {"JPEG": 138}
    share = (intake.dataset.labels == 1).float().mean().item()
    dark = intake.dataset.images[:, 0][intake.dataset.labels == 1].mean()
    assert 0.15 < share < 0.4 and dark < intake.dataset.images.mean()


def test_real_hippocampus(real_data: Path | None) -> None:
    if real_data is None:
        return
    intake = _read(real_data / "hippocampus", EACH, preparation=Preparation(32, 3, context=1))
    data = intake.dataset
    assert data.patient_count == 40 and intake.problems == () and data.classes == ("background", "class 1", "class 2")
    assert data.images.shape[1:] == (3, 32, 32) and intake.patients == dict.fromkeys(data.classes, 40)
    assert intake.notices == (f"40 volumes cut into {len(data)} axial slices",)
    ours = data.select(np.array(data.files) == data.files[0])
    assert len(ours) == 38 and torch.equal(ours.images[1:, 1], ours.images[:-1, 2])
    anterior, posterior = ((data.labels == label).nonzero()[:, 1].float().mean() for label in (1, 2))
    assert anterior < posterior  # rows run from front to back


def test_volumes_become_slices_in_order(tmp_path: Path) -> None:
    intake = _read(volumes(tmp_path), preparation=Preparation(16, axis="coronal"))
    data = intake.dataset
    assert data.images.shape == (25, 1, 16, 16)
    assert data.files == tuple(f"images/p{number}.nii.gz" for number in range(5) for _ in range(5))
    assert data.patient_count == 5 and intake.formats == {"NIfTI": 5}
    assert intake.notices == ("5 volumes cut into 25 coronal slices",)


@pytest.mark.parametrize(
    ("axis", "settings", "spacing"),
    [
        ("axial", {"fit": "squash"}, (3.0, 2.0 * 12 / 16, 1.5 * 10 / 16)),
        ("axial", {"fit": "crop", "spacing": 1.25}, (3.0, 1.25, 1.25)),
        ("coronal", {"fit": "squash"}, (2.0, 3.0 * 5 / 16, 1.5 * 10 / 16)),
        ("sagittal", {"fit": "pad", "spacing": 1.5}, (1.5, 1.5, 1.5)),
    ],
)
def test_each_slice_says_its_millimetres_from_the_cache_too(
    tmp_path: Path, axis: Any, settings: dict[str, Any], spacing: tuple[float, float, float]
) -> None:
    """Volumes of 3 mm from foot to head, 2 from front to back, 1.5 from right to left."""
    for number in range(5):
        nifti(tmp_path / "images" / f"p{number}.nii.gz", body(f"v{number}", (12, 10, 5)))
        nifti(tmp_path / "labels" / f"p{number}.nii.gz", organ((12, 10, 5)))
    options = {"preparation": Preparation(16, axis=axis, **settings), "cache": tmp_path.parent / "cache"}
    for _ in ("decoded", "from the cache"):
        data = _read(tmp_path, **options).dataset
        assert len(data.spacing) == len(data)
        assert all(each == pytest.approx(spacing) for each in data.spacing)
    assert data.select(place < 3 for place in range(len(data))).spacing == data.spacing[:3]
    with pytest.raises(ValueError, match="spacing is of each image"):
        replace(data, spacing=data.spacing[1:])


def test_pictures_that_do_not_say_their_millimetres_have_none(tmp_path: Path) -> None:
    assert set(_read(pictures(tmp_path)).dataset.spacing) == {()}


def test_slices_of_a_patient_are_never_in_train_and_test(tmp_path: Path) -> None:
    volumes(tmp_path, 12)
    for number in range(12):  # a second volume of each patient
        nifti(tmp_path / "images" / f"p{number}_b.nii.gz", body(f"second {number}"))
        nifti(tmp_path / "labels" / f"p{number}_b.nii.gz", organ())
    data = _read(tmp_path).dataset
    assert data.patient_count == 12
    test = split_patients(data.patients, 0.4, KEY)
    assert 0 < test.sum() < len(data)
    assert_disjoint(data.select(test), data.select(~test))
    sides = {who: {bool(s) for s, w in zip(test, data.patients, strict=True) if w == who} for who in data.patients}
    assert all(len(side) == 1 for side in sides.values())


def _describe(folder: Path, **changed: Any) -> None:
    described = {
        "labels": {"0": "background", "1": "front", "2": "back"},
        "modality": {"0": "CT"},
        "training": [
            {"image": f"./imagesTr/p{number}.nii.gz", "label": f"./labelsTr/p{number}.nii.gz"} for number in range(5)
        ],
        **changed,
    }
    (folder / "dataset.json").write_text(json.dumps(described))


def test_a_decathlon_folder(tmp_path: Path) -> None:
    volumes(tmp_path, 6, "imagesTr", "labelsTr")
    _describe(tmp_path)
    intake = _read(tmp_path, preparation=Preparation(16, window="soft-tissue"))
    assert intake.dataset.classes == ("background", "front", "back") and intake.dataset.patient_count == 5
    _describe(tmp_path, modality={"0": "MRI"})
    with pytest.raises(DataError, match=r"no image in .*p0\.nii\.gz has no Hounsfield values"):
        _read(tmp_path, preparation=Preparation(16, window="soft-tissue"))


def test_the_names_of_dataset_json_decide_and_not_its_numbers(tmp_path: Path) -> None:
    volumes(tmp_path, 5, "imagesTr", "labelsTr")
    _describe(tmp_path)
    own = _read(tmp_path).dataset
    turned = _read(tmp_path, classes=("background", "Back", "Front")).dataset
    assert torch.equal(turned.labels, torch.tensor([0, 2, 1], dtype=torch.uint8)[own.labels.int()])
    others = _read(tmp_path, classes=("background", "one", "two")).dataset
    assert torch.equal(others.labels, own.labels) and others.classes == ("background", "one", "two")
    for classes in (("background", "back", "two"), ("background", "one")):
        with pytest.raises(DataError, match=r"dataset\.json has labels that are no classes"):
            _read(tmp_path, classes=classes)


def test_entries_of_a_decathlon_folder_are_checked(tmp_path: Path) -> None:
    volumes(tmp_path, 5, "imagesTr", "labelsTr")
    good = [{"image": f"imagesTr/p{n}.nii.gz", "label": f"labelsTr/p{n}.nii.gz"} for n in range(5)]
    bad = [
        {"image": "../../etc/passwd", "label": "labelsTr/p0.nii.gz"},
        {"image": "/etc/passwd", "label": "labelsTr/p0.nii.gz"},
        {"image": "imagesTr/p9.nii.gz", "label": "labelsTr/p0.nii.gz"},
        {"image": 7},
    ]
    _describe(tmp_path, training=good + bad)
    assert _reasons(_read(tmp_path)) == {
        "../../etc/passwd": "lies outside the folder of dataset.json",
        "/etc/passwd": "lies outside the folder of dataset.json",
        "imagesTr/p9.nii.gz": "is listed in dataset.json but is not there",
        "dataset.json, entry 9": "names no image and label",
    }


def test_a_folder_as_nnu_net_wants_it(tmp_path: Path) -> None:
    volumes(tmp_path, 5, "imagesTr", "labelsTr")
    for path in (tmp_path / "imagesTr").iterdir():
        path.rename(path.with_name(path.name.replace(".nii", "_0000.nii")))
    _describe(tmp_path, labels={"background": 0, "front": 1, "back": 2}, channel_names={"0": "CT"}, training=None)
    intake = _read(tmp_path)
    assert intake.dataset.classes == ("background", "front", "back") and intake.problems == ()


@pytest.mark.parametrize(
    "labels",
    [{"0": "a", "2": "b"}, {"0": "a", "1": "a"}, {"0": "a"}, {"a": 0, "b": [1, 2]}, {"x": "a", "y": "b"}, [], None],
    ids=str,
)
def test_labels_that_are_no_numbering_are_refused(tmp_path: Path, labels: Any) -> None:
    volumes(tmp_path, 5, "imagesTr", "labelsTr")
    _describe(tmp_path, labels=labels)
    with pytest.raises(DataError, match=r"dataset\.json") as caught:
        _read(tmp_path)
    assert caught.value.hint


@pytest.mark.parametrize("text", ["{", "[]", "[" * 100_000, "\xff"])
def test_a_description_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    volumes(tmp_path, 5, "imagesTr", "labelsTr")
    (tmp_path / "dataset.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match="not the description"):
        _read(tmp_path)


def test_series_with_segmentations_by_label(tmp_path: Path) -> None:
    for number in range(5):
        values = body(f"s{number}")
        series(tmp_path / "images" / f"p{number}" / "export", values, PatientID=f"hospital {number}")
        path = tmp_path / "masks" / (f"p{number}.dcm" if number % 2 else f"p{number}/seg")
        segmentation(path, organ(), labels={1: "spleen", 2: "liver"})
    enhanced(tmp_path / "images" / "p5.dcm", body("s5"))
    segmentation(tmp_path / "masks" / "p5", organ(), labels={1: "spleen", 2: "liver"})
    intake = _read(tmp_path, classes=("background", "liver", "spleen"))
    assert intake.problems == () and intake.dataset.patient_count == 6 and intake.formats == {"DICOM series": 6}
    assert intake.notices[0] == "5 x the pattern names another patient than PatientID; the pattern was used"
    numbers = _read(tmp_path, PatientSource(one_image_per_patient=True)).dataset
    swapped = torch.tensor([0, 2, 1], dtype=torch.uint8)[numbers.labels.int()]
    assert torch.equal(intake.dataset.labels, swapped)
    assert numbers.patients[0] != intake.dataset.patients[0]


def test_several_segmentations_of_one_series(tmp_path: Path) -> None:
    for number in range(5):
        series(tmp_path / "images" / f"p{number}", body(f"s{number}"))
        for place in (1, 2):
            mask = np.where(organ() == place, place, 0)
            segmentation(tmp_path / "masks" / f"p{number}" / str(place), mask, labels={place: f"organ {place}"})
    whole = _read(tmp_path).dataset
    assert set(whole.labels.unique().tolist()) == {0, 1, 2}


def test_x_rays_as_dicom_with_drawn_masks(tmp_path: Path) -> None:
    for number in range(5):
        dicom(tmp_path / "images" / f"{number}.dcm", grey(str(number), top=4095), PatientID=f"P{number}")
        drawn(tmp_path / "masks" / f"{number}.png")
    intake = _read(tmp_path, PatientSource())
    assert intake.formats == {"DICOM": 5} and intake.dataset.patient_count == 5


def test_pictures_that_are_set_aside_by_name(tmp_path: Path) -> None:
    pictures(tmp_path, top=255)
    images, masks = tmp_path / "images", tmp_path / "masks"

    def case(name: str, **mask: Any) -> None:
        png(images / f"{name}.png", name)
        drawn(masks / f"{name}.png", **mask)

    case("p10_value", top=7)
    case("p11_shape", shape=(20, 24))
    case("p12_grey", top=200)
    png(images / "p13_alone.png")
    drawn(masks / "p14_mask.png")
    png(images / "p15_jpeg.png", "p15")
    drawn(masks / "p15_jpeg.jpg")
    png(images / "p16_broken.png", "p16")
    (masks / "p16_broken.png").write_bytes(b"\x89PNG broken")
    (images / "p17_copy.png").write_bytes((images / "p0_a.png").read_bytes())
    drawn(masks / "p17_copy.png", top=255)
    case("nobody", top=255)
    png(images / "p18_twice.png", "p18")
    png(images / "p18_twice.tif", "p18b")
    png(images / "p19_text.png", "p19")
    (masks / "p19_text.txt").write_text("no mask")
    coloured = Pillow.fromarray(np.stack([grey("r"), grey("g")[::-1], grey("b")], -1).astype(np.uint8))
    png(images / "p20_colour.png", "p20")
    coloured.save(masks / "p20_colour.png")
    png(images / "p21_volume.png", "p21")
    nifti(masks / "p21_volume.nii", organ())
    png(images / "p23_text.png", "p23")
    (masks / "p23_text.png").write_text("no mask")
    exif = Pillow.Exif()
    exif[0x0112] = 3
    Pillow.fromarray(grey("turn").astype(np.uint8)).save(images / "p22_turned.jpg", exif=exif)
    drawn(masks / "p22_turned.png")
    intake = _read(tmp_path, classes=("background", "lung"))
    expected = {
        "images/p10_value.png": "its mask masks/p10_value.png has the value 7, which is no class (0 to 1)",
        "images/p11_shape.png": "has 24 x 20 pixels, the image 20 x 24",
        "images/p12_grey.png": "has the value 200, which is no class",
        "images/p13_alone.png": "has no mask",
        "masks/p14_mask.png": "is a mask without an image",
        "images/p15_jpeg.png": "is a JPEG, which changes the values",
        "images/p16_broken.png": "its mask masks/p16_broken.png",
        "images/p17_copy.png": "is the same image as images/p0_a.png",
        "images/nobody.png": "does not say whose it is",
        "images/p18_twice.png": "has the same name as",
        "images/p18_twice.tif": "has the same name as images/p18_twice.png",
        "images/p19_text.png": "has no mask",
        "masks/p19_text.txt": "is a mask without an image",
        "images/p20_colour.png": "is in colour: a mask holds class numbers",
        "images/p21_volume.png": "is no volume",
        "images/p22_turned.jpg": "is turned by EXIF",
        "images/p23_text.png": "its mask masks/p23_text.png is no mask that can be read",
    }
    reasons = _reasons(intake)
    assert reasons.keys() == expected.keys()
    for file, words in expected.items():
        assert words in reasons[file]
    assert all(problem.hint for problem in intake.problems) and len(intake.dataset) == 6


def test_volumes_that_are_set_aside_by_name(tmp_path: Path) -> None:
    volumes(tmp_path)
    images, masks = tmp_path / "images", tmp_path / "labels"
    moved = AFFINE.copy()
    moved[0, 3] += 5
    for number, (mask, affine) in enumerate(
        [(organ(), moved), (organ()[:4], AFFINE), (organ() * 3, AFFINE), (organ() / 2, AFFINE), (organ() * 1.0, AFFINE)]
    ):
        nifti(images / f"p1{number}.nii.gz", body(f"bad {number}"))
        nifti(masks / f"p1{number}.nii", mask.astype(np.float32) if mask.dtype == np.float64 else mask, affine)
    series(images / "p20", body("series"))
    segmentation(masks / "p20.dcm", organ(), corners=np.arange(5)[:, None] * [0, 0, 3.0])
    intake = _read(tmp_path, classes=("background", "a", "b"))
    expected = {
        "images/p10.nii.gz": "its mask labels/p10.nii lies elsewhere than the image (another affine)",
        "images/p11.nii.gz": "voxels, the image",
        "images/p12.nii.gz": "has the value 6, which is no class (0 to 2)",
        "images/p13.nii.gz": "values that are not class numbers",
        "images/p20": "its mask labels/p20.dcm",
    }
    reasons = _reasons(intake)
    assert reasons.keys() == expected.keys()
    for file, words in expected.items():
        assert words in reasons[file]
    assert "images/p14.nii.gz" in intake.dataset.files  # whole numbers stored as float


def test_a_mask_stored_the_other_way_round_fits_its_image(tmp_path: Path) -> None:
    volumes(tmp_path)
    straight = _read(tmp_path).dataset
    turned = AFFINE @ np.array([[-1, 0, 0, 4], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]])
    for path in (tmp_path / "labels").iterdir():
        nifti(path, np.ascontiguousarray(organ()[::-1]), turned)
    assert torch.equal(_read(tmp_path).dataset.labels, straight.labels)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda folder: png(folder / "a.png"), "no folder of images"),
        (lambda folder: png(folder / "images" / "a.png"), "no folder of masks"),
        (lambda folder: (pictures(folder), drawn(folder / "labels" / "a.png")), "masks and labels"),
        (lambda folder: (png(folder / "images" / "a.png"), (folder / "masks").mkdir()), "has no mask"),
        (lambda folder: pictures(folder, 4), "4 patients"),
        (lambda folder: pictures(folder, top=0), "marks anything"),
        (lambda folder: pictures(folder, top=9), "no image in .* has the value 9"),
    ],
    ids=["flat", "no masks", "both", "empty", "few", "background", "none usable"],
)
def test_folders_that_cannot_be_used_as_a_whole(tmp_path: Path, make: Any, words: str) -> None:
    make(tmp_path)
    with pytest.raises(DataError, match=words) as caught:
        _read(tmp_path, classes=("background", "lung"))
    assert caught.value.hint


def test_nobody_says_whose_the_images_are(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="says whose it is"):
        _read(pictures(tmp_path), PatientSource())


def test_which_folders_hold_masks(tmp_path: Path) -> None:
    pictures(tmp_path / "pictures")
    volumes(tmp_path / "volumes", 1, "imagesTr", "labelsTr")
    png(tmp_path / "classes" / "images" / "a.png")
    png(tmp_path / "classes" / "others" / "a.png")
    assert [holds_masks(tmp_path / name) for name in ("pictures", "volumes", "classes")] == [True, True, False]


def test_progress_names_and_hidden_files(tmp_path: Path) -> None:
    pictures(tmp_path)
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "masks" / "._p0_a.png").write_bytes(b"x")
    done: list[tuple[int, int]] = []
    intake = _read(tmp_path, progress=lambda *counts: done.append(counts))
    assert done[-1] == (6, 6) and len(done) == 6 and intake.problems == ()
    assert all(who not in repr(intake) for who in intake.dataset.patients)


def test_a_class_that_nobody_drew_is_said(tmp_path: Path) -> None:
    intake = _read(pictures(tmp_path), classes=("background", "lung", "heart"))
    assert intake.notices == ("no pixel of class heart",)
    assert intake.classes["heart"] == 0
