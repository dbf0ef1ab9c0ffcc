"""From a picture to pixels: one way for training and diagnosis."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.imaging.samples import KEY, dicom, png, two_classes
from tests.imaging.volumes import CT_IMAGE, body

from primum.errors import DataError, ModelError
from primum.imaging import CHEST_XRAY_PATIENT, PatientSource, Picture, Preparation, read_folder, read_image
from primum.imaging.prepare import prepare
from primum.rng import Stream


def _picture(rows: int, columns: int, channels: int = 1) -> Picture:
    ramp = np.linspace(0, 1, rows * columns * channels, dtype=np.float32).reshape(channels, rows, columns)
    return Picture(ramp, "PNG", spacing=(1.0, 2.0))


@given(
    rows=st.integers(1, 90),
    columns=st.integers(2, 90),
    size=st.integers(8, 40),
    channels=st.sampled_from([1, 3]),
    fit=st.sampled_from(["squash", "crop", "pad"]),
    intensity=st.sampled_from(["display", "stretch", "clahe"]),
)
def test_any_picture_becomes_the_asked_shape(
    rows: int, columns: int, size: int, channels: int, fit: Any, intensity: Any
) -> None:
    if fit == "crop" and rows == 1:
        return  # one pixel is left, which is flat
    pixels, spacing = prepare(_picture(rows, columns), Preparation(size, channels, fit, intensity))
    assert pixels.shape == (channels, size, size) and pixels.dtype == np.float32
    assert pixels.min() >= 0 and pixels.max() <= 1
    assert spacing is not None and spacing[0] > 0


def test_crop_and_pad_keep_the_aspect() -> None:
    values = np.zeros((1, 40, 80), np.float32)
    values[:, 12:32, 28:48] = 1  # a square of 20 pixels in the middle
    picture = Picture(values, "PNG", spacing=(1.0, 1.0))
    for fit, rows, columns, spacing in (("squash", 10, 5, (2, 4)), ("crop", 10, 10, (2, 2)), ("pad", 5, 5, (4, 4))):
        pixels, mm = prepare(picture, Preparation(20, fit=fit))  # type: ignore[arg-type]
        square = pixels[0] > 0.5
        assert (square.any(axis=1).sum(), square.any(axis=0).sum()) == (rows, columns)
        assert mm == spacing


def test_making_smaller_averages_and_does_not_alias() -> None:
    stripes = np.tile(np.array([0, 1], np.float32), (64, 32))[None]
    stripes[0, :32] *= 0.5
    pixels, _ = prepare(Picture(stripes, "PNG"), Preparation(8))
    assert np.allclose(pixels[0, 1:3, 1:-1], 0.25, atol=0.02) and np.allclose(pixels[0, 5:7, 1:-1], 0.5, atol=0.02)


def test_detail_that_vanishes_is_refused(tmp_path: Path) -> None:
    fine = (np.indices((512, 512)).sum(axis=0) % 2).astype(np.uint8) * 255
    Pillow.fromarray(fine).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="shows nothing at this size"):
        read_image(tmp_path / "a.png", Preparation(8))


def test_one_file_is_the_same_for_training_and_diagnosis(real_data: Path | None, tmp_path: Path) -> None:
    folder, pattern = two_classes(tmp_path / "x"), r"(\w+)_"
    if real_data is not None:
        folder, pattern = real_data / "chest" / "test", CHEST_XRAY_PATIENT
    preparation = Preparation(32)
    source = PatientSource(pattern)
    data = read_folder(folder, preparation=preparation, patients=source, pseudonym_key=KEY).dataset
    for index in (0, len(data) // 2, len(data) - 1):
        image = read_image(folder / data.files[index], preparation)
        assert np.array_equal(image.pixels, data.images[index].numpy())


def test_card_round_trip() -> None:
    preparation = Preparation(96, 3, "pad", "stretch")
    assert Preparation.from_card(preparation.to_card()) == preparation


def test_a_card_keeps_its_old_shape_and_old_cards_are_read() -> None:
    """A card without the newer keys is one of an older Primum; one with their standard values is written like it."""
    old = {"size": 64, "channels": 1, "fit": "crop", "intensity": "stretch"}
    assert Preparation.from_card(old) == Preparation(64, 1, "crop", "stretch")
    assert Preparation(64, 1, "crop", "stretch").to_card() == old
    new = Preparation(32, 5, spacing=1.5, window="lung", axis="coronal", context=2)
    card = new.to_card()
    assert {name: card[name] for name in ("spacing", "window", "axis", "context")} == {
        "spacing": 1.5, "window": "lung", "axis": "coronal", "context": 2,
    }  # fmt: skip
    assert Preparation.from_card(card) == new


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"context": 4}, "0 to 3 neighbouring"),
        ({"context": 1}, "has 3 channels, not 1"),
        ({"context": 1, "channels": 5}, "has 3 channels, not 5"),
        ({"channels": 5}, "1 channel"),
        ({"spacing": 0.0}, "not 0.0"),
        ({"spacing": float("nan")}, "not nan"),
        ({"window": "liver"}, "unknown preparation"),
        ({"axis": "oblique"}, "unknown preparation"),
    ],
    ids=str,
)
def test_a_preparation_that_cannot_be_is_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        Preparation(**change)
    assert caught.value.hint


def test_windows_are_for_pictures_of_ct(tmp_path: Path) -> None:
    values = (body(shape=(3, 40, 40))[1] + 1024).astype(np.uint16)
    ct = {"Modality": "CT", "RescaleSlope": 1, "RescaleIntercept": -1024}
    shown = read_image(dicom(tmp_path / "ct", values, **ct), Preparation(40, window="soft-tissue")).pixels
    assert np.allclose(shown[0], np.clip((values - 1024.0 - 40) / 400 + 0.5, 0, 1), atol=1e-6)
    inverted = read_image(
        dicom(tmp_path / "twin", values, PhotometricInterpretation="MONOCHROME1", SOPClassUID=CT_IMAGE, **ct),
        Preparation(40, window="soft-tissue"),
    )
    assert np.array_equal(inverted.pixels, shown)
    others = {"mr": {**ct, "Modality": "MR"}, "bare": {"Modality": "CT"}, "unit": {**ct, "RescaleType": "US"}}
    for name, elements in others.items():
        with pytest.raises(DataError, match=f"{name} has no Hounsfield values, which the window 'lung' needs"):
            read_image(dicom(tmp_path / name, values, **elements), Preparation(window="lung"))
    with pytest.raises(DataError, match="has no Hounsfield values"):
        read_image(png(tmp_path / "a.png"), Preparation(window="bone"))


def test_millimetres_of_pictures(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a", np.arange(40 * 60, dtype=np.uint16).reshape(40, 60), PixelSpacing=[1.0, 0.5])
    image = read_image(path, Preparation(64, fit="crop", spacing=1.0))
    assert image.spacing == (1.0, 1.0)
    assert (image.pixels[0] > 0).any(axis=1).sum() == 40 and (image.pixels[0] > 0).any(axis=0).sum() == 30
    with pytest.raises(DataError, match=r"a\.png does not say how many mm"):
        read_image(png(tmp_path / "a.png"), Preparation(64, spacing=1.0))


def test_a_single_picture_has_no_neighbours(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without neighbouring slices"):
        read_image(png(tmp_path / "a.png"), Preparation(64, 3, context=1))


def test_equalised_pictures_keep_their_colours(tmp_path: Path) -> None:
    faint = 80 + 40 * Stream.public("faint").uniform((64, 64))
    colours = np.stack([faint, faint / 2, faint / 4], -1).astype(np.uint8)
    Pillow.fromarray(colours).save(tmp_path / "a.png")
    Pillow.fromarray(colours[..., 0]).save(tmp_path / "b.png")
    shown, plain = (
        read_image(tmp_path / "a.png", Preparation(64, 3, intensity=how)).pixels for how in ("clahe", "display")
    )  # type: ignore[arg-type]
    assert shown[0].std() > 1.5 * plain[0].std()
    assert np.allclose(shown[1] / shown[0], plain[1] / plain[0], atol=0.03)
    grey = read_image(tmp_path / "b.png", Preparation(64, 3, intensity="clahe")).pixels
    assert np.array_equal(grey[0], grey[2]) and grey.std() > 1.5 * plain[0].std()


@pytest.mark.parametrize(
    "change",
    [
        {"fit": "stretch"},
        {"size": 0},
        {"size": "64"},
        {"channels": 2},
        {"extra": 1},
        {"intensity": None},
        {"context": "1"},
        {"spacing": "1"},
        {"spacing": True},
        {"window": "liver"},
        {"context": 1},
        {"axis": None},
        {"size": True},
    ],
    ids=str,
)
def test_a_wrong_card_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ModelError):
        Preparation.from_card({**Preparation().to_card(), **change})
    with pytest.raises(ModelError, match="fit"):
        Preparation.from_card({"size": 64, "channels": 1, "intensity": "display"})


def test_provenance(tmp_path: Path) -> None:
    image = read_image(png(tmp_path / "a.png"), Preparation(16))
    assert (image.provenance.file, image.provenance.format, image.patient) == ("a.png", "PNG", None)
