"""Windows cover a picture at its own resolution, show it as one, and give a mask of the whole of it back."""

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.imaging.samples import KEY, grey, png
from tests.imaging.volumes import AFFINE, body, nifti, organ

from primum.errors import DataError
from primum.imaging import Dataset, PatientSource, Preparation, Volume, read_folder, read_masked_folder
from primum.imaging.cover import OVERLAP, Cover, window_weights
from primum.imaging.geometry import place_mask
from primum.imaging.image import Picture
from primum.imaging.prepare import prepare_layout
from primum.imaging.restore import restore_mask, restore_volume
from primum.imaging.slices import prepare_mask, prepare_volume, slice_layout
from primum.imaging.windows import DEVIATIONS, place_classes
from primum.models.pixels import FARTHEST

SIDES = st.integers(1, 150)
SIZES = st.sampled_from([8, 16, 21, 32])
CUT = Preparation(16, fit="windows")


def _random(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 4, shape).astype(np.uint8)


def _votes(masks: np.ndarray) -> np.ndarray:
    """1 for the class of each pixel, of four."""
    return np.eye(4, dtype=np.float32)[masks]


@given(rows=SIDES, columns=SIDES, size=SIZES)
def test_windows_cover_every_pixel_and_overlap(rows: int, columns: int, size: int) -> None:
    cover = Cover((rows, columns), (size, size))
    shown = cover.cut(np.ones((1, rows, columns), np.uint8))
    assert shown.shape == (1, len(cover), size, size) and len(cover.corners) == len(cover)
    seen = cover.blended(shown[0][..., None].astype(np.float32))
    assert seen.shape == (rows, columns, 1) and np.allclose(seen, 1)
    for axis, side in enumerate((rows, columns)):
        starts = sorted({corner[axis] for corner in cover.corners})
        assert starts[0] == 0 and starts[-1] + size == max(side, size)
        assert all(size - (after - before) >= OVERLAP * size for before, after in pairwise(starts))
        assert (
            len(starts) == 1 or (len(starts) - 2) * int((1 - OVERLAP) * size) < side - size
        )  # no more than are needed


@given(rows=SIDES, columns=SIDES, size=SIZES, seed=st.integers(0, 999))
def test_a_mask_that_is_cut_and_blended_is_the_same(rows: int, columns: int, size: int, seed: int) -> None:
    cover, mask = Cover((rows, columns), (size, size)), _random((rows, columns), seed)
    windows = cover.cut(mask[None])[0]
    assert (cover.joined(windows) == mask).all()
    assert (cover.mask(_votes(windows)) == mask).all()
    constant = cover.blended(_votes(np.full((len(cover), size, size), 2, np.uint8)))
    assert (constant.argmax(-1) == 2).all() and np.allclose(constant[..., 2], 1)


def test_the_middle_of_a_window_counts_more_than_its_border() -> None:
    weights = window_weights((32, 32))[..., 0]
    assert weights.min() > 0 and weights.max() < 1 + 1e-6
    assert (weights == weights.T).all() and (weights == weights[::-1]).all()
    assert weights[16, 16] > 100 * weights[16, 2]
    said = np.zeros((2, 32, 32, 2), np.float32)  # two windows of 32 over 32 x 56: they have 8 columns in common
    said[0, ..., 0], said[1, ..., 1] = 1, 1
    blended = Cover((32, 56), (32, 32)).blended(said)
    assert blended.argmax(-1)[16].tolist() == [0] * 28 + [1] * 28


@settings(max_examples=30)
@given(
    rows=st.integers(9, 70), columns=st.integers(9, 70), spacing=st.sampled_from([None, 0.7, 1.0, 1.6]),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_windows_are_the_picture_sampled_once(rows: int, columns: int, spacing: float | None, seed: int) -> None:
    """As one square that is large enough: the same pixels, wherever windows show the picture."""
    cut, mm = replace(CUT, spacing=spacing), (1.0, 0.8) if spacing else None
    layout, mask = cut.windows(rows, columns, mm), _random((rows, columns), seed)
    joined = layout.cover.joined(place_classes(mask[None], layout)[0])
    if spacing is None:
        assert joined.shape == (rows, columns) and (joined == mask).all()
        return
    square = Preparation(128, fit="pad", spacing=spacing).placement(rows, columns, mm)
    top, left = ((128 - side) // 2 for side in joined.shape)
    assert (
        place_mask(mask, square)[top : top + joined.shape[0], left : left + joined.shape[1]] == joined
    ).mean() > 0.999
    assert layout.spacing == (spacing, spacing)
    back = restore_mask(joined, rows, columns, layout)
    assert back.shape == (rows, columns)
    if spacing < 0.8:  # finer than the picture: nothing was lost
        assert (back == mask).mean() > 0.9


def test_a_window_of_air_stays_air() -> None:
    """Standardised over the whole picture: noise of a thousandth is a thousandth, and the models' front end undoes it."""
    random = np.random.default_rng(1)
    values = (0.001 * random.random((1, 64, 64))).astype(np.float32)
    values[:, 40:, 40:] += 0.8 * random.random((24, 24)).astype(np.float32)
    picture = Picture(values, "drawn")
    windows = prepare_layout(picture, CUT, CUT.layout(64, 64, None))
    assert DEVIATIONS == FARTHEST and windows.min() >= 0 and windows.max() <= 1
    levels = (windows - 0.5) * 2 * DEVIATIONS
    assert levels[0].std() < 0.01 < 1 < levels[-1].std()
    whole = Cover((64, 64), (16, 16)).blended(levels[:, 0, ..., None])[..., 0]
    assert np.allclose(whole, (values[0] - values.mean()) / values.std(), atol=1e-4)


def test_what_is_outside_of_a_small_picture_is_black_and_background() -> None:
    values = np.linspace(0.2, 0.6, 120, dtype=np.float32).reshape(1, 10, 12)
    values[0, 5, 5] = 0
    layout = CUT.layout(10, 12, None)
    window = prepare_layout(Picture(values, "drawn"), CUT, layout)[0, 0]
    assert window[0, 0] == window[8, 7] == window.min() > 0  # (5, 5) is at (8, 7)
    assert window[12, 13] == window.max()
    assert place_classes(np.ones((1, 10, 12), np.uint8), layout).sum() == 120
    assert (restore_mask(np.ones((10, 12), np.uint8), 10, 12, layout) == 1).all()


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_volume_is_cut_slice_by_slice_and_gets_its_mask_back(axis: str) -> None:
    shape = (7, 30, 23)
    volume = Volume(body(shape=shape).astype(np.float32), np.diag([3.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]], "drawn")
    cut = replace(CUT, channels=3, context=1, axis=axis)  # type: ignore[arg-type]
    layout, drawn = slice_layout(volume, cut), organ(shape)
    pixels, _ = prepare_volume(volume, cut)
    masks = prepare_mask(drawn, volume, cut)
    slices = len(masks) // len(layout.cover)  # type: ignore[union-attr]
    assert pixels.shape == (len(masks), 3, 16, 16) and slices == shape[("axial", "coronal", "sagittal").index(axis)]
    by_slice = pixels.reshape(slices, -1, 3, 16, 16)
    assert (by_slice[0, :, 0] == by_slice[0, :, 1]).all() and (by_slice[1:, :, 0] == by_slice[:-1, :, 1]).all()
    whole = np.stack([layout.cover.joined(each) for each in masks.reshape(slices, -1, 16, 16)])  # type: ignore[union-attr]
    assert (restore_volume(whole, volume, cut) == drawn).all()


def _pictures(folder: Path) -> Path:
    """Five patients; the pictures of the first are 40 x 24, the others 24 x 20."""
    for number in range(5):
        png(folder / "images" / f"p{number}_a.png", f"windows {number}")
        mask = np.zeros((24, 20), np.uint8)
        mask[6:14, 5 : 9 + number] = 1
        (folder / "masks").mkdir(exist_ok=True)
        if number == 0:
            mask = np.pad(mask, ((0, 16), (0, 4)))
            Pillow.fromarray(grey("large", 40, 24).astype(np.uint8)).save(folder / "images" / "p0_a.png")
        Pillow.fromarray(mask).save(folder / "masks" / f"p{number}_a.png")
    return folder


def _read(folder: Path, cache: Path | None = None) -> Dataset:
    patients = PatientSource(r"^(p\d+)")
    return read_masked_folder(folder, preparation=CUT, patients=patients, pseudonym_key=KEY, cache=cache).dataset


def test_a_folder_becomes_windows_by_patient_from_the_cache_too(tmp_path: Path) -> None:
    folder = _pictures(tmp_path / "data")
    data = _read(folder, tmp_path / "cache")
    assert data.grids == ((40, 24),) * 6 + ((24, 20),) * 16 and data.patient_count == 5
    assert len({who for who, grid in zip(data.patients, data.grids, strict=True) if grid == (40, 24)}) == 1
    again = _read(folder, tmp_path / "cache")
    assert (again.images == data.images).all() and (again.labels == data.labels).all() and again.grids == data.grids
    assert data.select(grid == (40, 24) for grid in data.grids).grids == ((40, 24),) * 6
    truth = Cover((40, 24), (16, 16)).joined(data.labels[:6].numpy())
    assert (truth == np.asarray(Pillow.open(folder / "masks" / "p0_a.png"))).all()


def test_volumes_of_a_folder_become_windows(tmp_path: Path) -> None:
    for number in range(5):
        nifti(tmp_path / "images" / f"p{number}.nii.gz", body(f"v{number}"))
        nifti(tmp_path / "labels" / f"p{number}.nii.gz", organ())
    found = read_masked_folder(
        tmp_path, preparation=replace(CUT, size=8), patients=PatientSource(r"^(p\d+)"), pseudonym_key=KEY
    )
    grid = found.dataset.grids[0]
    assert len(found.dataset) == 5 * len(Cover(grid, (8, 8))) * round(np.prod((5, 12, 10)) / np.prod(grid))
    assert any("5 images cut into" in notice for notice in found.notices)
    assert len(found.dataset.spacing[0]) == 3 and AFFINE.shape == (4, 4)


def test_a_class_of_a_picture_has_no_windows(tmp_path: Path) -> None:
    for number in range(6):
        png(tmp_path / "AB"[number % 2] / f"p{number}.png", f"{number}")
    with pytest.raises(DataError, match="windows only for a mask"):
        read_folder(tmp_path, preparation=CUT, patients=PatientSource(r"^(p\d+)"), pseudonym_key=KEY)
