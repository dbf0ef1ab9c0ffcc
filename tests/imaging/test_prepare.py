"""From a picture to pixels: one way for training and diagnosis."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.imaging.samples import KEY, png, two_classes

from primum.errors import DataError, ModelError
from primum.imaging import CHEST_XRAY_PATIENT, PatientSource, Picture, Preparation, read_folder, read_image
from primum.imaging.prepare import prepare


def _picture(rows: int, columns: int, channels: int = 1) -> Picture:
    ramp = np.linspace(0, 1, rows * columns * channels, dtype=np.float32).reshape(channels, rows, columns)
    return Picture(ramp, "PNG", spacing=(1.0, 2.0))


@given(
    rows=st.integers(1, 90),
    columns=st.integers(2, 90),
    size=st.integers(8, 40),
    channels=st.sampled_from([1, 3]),
    fit=st.sampled_from(["squash", "crop", "pad"]),
    intensity=st.sampled_from(["display", "stretch"]),
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


@pytest.mark.parametrize(
    "change",
    [{"fit": "stretch"}, {"size": 0}, {"size": "64"}, {"channels": 2}, {"extra": 1}, {"intensity": None}],
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
