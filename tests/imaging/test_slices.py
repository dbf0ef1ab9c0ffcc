"""Volumes as prepared slices: levels of the whole volume, neighbours, cuts; masks beside them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.imaging.volumes import AXIAL, body, grid_of, nifti, organ, series

from primum.errors import DataError
from primum.imaging import Preparation, Volume, read_slices, read_volume
from primum.imaging.intensity import preset_window
from primum.imaging.slices import prepare_mask, prepare_volume

SHAPE = (6, 16, 16)


def _volume(shape: tuple[int, int, int] = SHAPE) -> Volume:
    return Volume(body(shape=shape).astype(np.float32), grid_of(AXIAL), "made", hounsfield=True)


def test_levels_are_those_of_the_whole_volume() -> None:
    """A slice twice as bright as the others stays brighter: slice by slice both would be stretched alike."""
    values = np.tile(np.linspace(100, 200, 256, dtype=np.float32).reshape(1, 16, 16), (6, 1, 1))
    values[4] *= 2
    for intensity in ("display", "stretch", "clahe"):
        pixels, _ = prepare_volume(Volume(values, grid_of(AXIAL), "made"), Preparation(16, intensity=intensity))  # type: ignore[arg-type]
        assert pixels[4].mean() > pixels[3].mean() + 0.1
        assert np.allclose(pixels[0], pixels[1], atol=0.05)


def test_the_files_own_window_is_displayed_and_a_preset_goes_before_it() -> None:
    volume = replace(_volume(), window=(40.0, 400.0, "LINEAR_EXACT"))
    shown, spacing = prepare_volume(volume, Preparation(16))
    expected = np.clip((volume.values - 40) / 400 + 0.5, 0, 1)
    assert np.allclose(shown[:, 0], expected, atol=1e-6) and spacing == (2.0, 1.5)
    lung, _ = prepare_volume(volume, Preparation(16, window="lung"))
    assert np.allclose(lung[:, 0], preset_window(volume.values, "lung"), atol=1e-6)
    blind = replace(volume, window=(90_000.0, 10.0, "LINEAR"))
    assert np.allclose(prepare_volume(blind, Preparation(16))[0], prepare_volume(_volume(), Preparation(16))[0])


def test_low_values_shown_white() -> None:
    volume = replace(_volume(), window=(40.0, 4000.0, "LINEAR_EXACT"))
    inverted, _ = prepare_volume(replace(volume, inverted=True), Preparation(16))
    assert np.allclose(inverted, 1 - prepare_volume(volume, Preparation(16))[0], atol=1e-6)
    one, other = (
        prepare_volume(replace(volume, inverted=low), Preparation(16, window="bone"))[0] for low in (True, False)
    )
    assert np.array_equal(one, other)


def test_a_window_is_refused_without_hounsfield_values() -> None:
    with pytest.raises(DataError, match="no Hounsfield values, which the window 'lung' needs"):
        prepare_volume(replace(_volume(), hounsfield=False), Preparation(16, window="lung"))


@given(st.integers(1, 3), st.sampled_from(["axial", "coronal", "sagittal"]))
def test_neighbours_are_channels(context: int, axis: str) -> None:
    plain, _ = prepare_volume(_volume(), Preparation(16, axis=axis))  # type: ignore[arg-type]
    pixels, _ = prepare_volume(_volume(), Preparation(16, 2 * context + 1, axis=axis, context=context))  # type: ignore[arg-type]
    assert pixels.shape == (len(plain), 2 * context + 1, 16, 16)
    assert np.array_equal(pixels[:, context], plain[:, 0])
    for offset in range(-context, context + 1):
        rows = np.clip(np.arange(len(plain)) + offset, 0, len(plain) - 1)
        assert np.array_equal(pixels[:, context + offset], plain[rows, 0])


def test_three_channels_without_context_are_equal() -> None:
    pixels, _ = prepare_volume(_volume(), Preparation(16, 3))
    assert np.array_equal(pixels[:, 0], pixels[:, 2]) and pixels.shape[1] == 3


@pytest.mark.parametrize(("axis", "count", "spacing"), [("axial", 6, 1.5), ("coronal", 14, 1.5), ("sagittal", 12, 2.0)])
def test_cuts_have_the_spacing_of_the_volume(axis: str, count: int, spacing: float) -> None:
    volume = _volume((6, 14, 12))
    pixels, mm = prepare_volume(volume, Preparation(16, axis=axis))  # type: ignore[arg-type]
    assert len(pixels) == count and mm is not None and mm[1] > 0
    _, kept = prepare_volume(volume, Preparation(32, axis=axis, spacing=1.0, fit="crop"))  # type: ignore[arg-type]
    assert kept == (1.0, 1.0)


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
@pytest.mark.parametrize(("fit", "spacing"), [("squash", None), ("crop", None), ("pad", None), ("crop", 1.1)])
def test_a_mask_stays_on_its_volume(axis: str, fit: str, spacing: float | None) -> None:
    """The mask shown as a volume of its own is bright exactly where the mask is placed, but for its edges."""
    mask = organ((12, 24, 20))
    volume = Volume(mask.astype(np.float32), grid_of(AXIAL), "made")
    preparation = Preparation(64, fit=fit, axis=axis, spacing=spacing)  # type: ignore[arg-type]
    shown = prepare_volume(volume, preparation)[0][:, 0] * 2
    placed = prepare_mask(mask, volume, preparation)
    assert placed.shape == shown.shape and placed.dtype == np.uint8 and set(np.unique(placed)) == {0, 1, 2}
    assert (placed[shown > 1.95] == 2).all() and (placed[shown < 0.05] == 0).all()
    assert np.mean(np.abs(placed - shown) < 0.05) > 0.7


def test_files_and_series_are_prepared_alike(tmp_path: Path) -> None:
    series(tmp_path / "s", body())
    affine = np.diag([-1, -1, 1, 1]) @ grid_of(AXIAL)
    preparation = Preparation(16, 3, context=1, window="soft-tissue")
    one = read_slices(tmp_path / "s", preparation)
    other = read_slices(nifti(tmp_path / "a.nii.gz", body(), affine), preparation)
    assert len(one) == 5 and all(np.array_equal(a.pixels, b.pixels) for a, b in zip(one, other, strict=True))
    assert repr(one[0]) == "Image(3 x 16 x 16, DICOM series)" and one[0].patient is None
    assert one[0].spacing == pytest.approx((2.0 * 12 / 16, 1.5 * 10 / 16))
    with pytest.raises(DataError, match=r"nothing\.nii does not exist"):
        read_slices(tmp_path / "nothing.nii", preparation)


def test_a_flat_volume_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="shows nothing"):
        read_slices(nifti(tmp_path / "a.nii", np.full((5, 6, 7), 3, np.int16)), Preparation(16))


def test_a_real_ct_in_hounsfield_values(real_data: Path | None) -> None:
    """The liver is grey in a soft tissue window, and lies at the left of an axial slice, where a screen shows it."""
    if real_data is None:
        return
    folder = real_data / "ct_totalsegmentator_example"
    volume, liver = (read_volume(folder / f"{name}.nii.gz") for name in ("example_ct_sm", "seg_liver"))
    preparation = Preparation(96, window="soft-tissue", fit="pad", spacing=4.0)
    pixels, _ = prepare_volume(volume, preparation)
    mask = prepare_mask(liver.values.astype(np.uint8), volume, preparation)
    inside = pixels[:, 0][mask == 1]
    assert 0.4 < np.median(inside) < 0.8 and inside.std() < 0.2
    assert np.nonzero(mask)[2].mean() < 48
    upright, _ = prepare_volume(volume, replace(preparation, axis="coronal"))
    assert len(upright) == 101
