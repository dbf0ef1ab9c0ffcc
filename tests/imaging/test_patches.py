"""Patches cover a volume at the voxels of a study, show it as one, and give a mask of the whole of it back."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.imaging.samples import KEY, png
from tests.imaging.test_nrrd import nrrd
from tests.imaging.volumes import body, nifti, organ, segmentation, series

from primum.errors import DataError, ModelError
from primum.imaging import Intake, PatientSource, Preparation, Volume, read_masked_folder
from primum.imaging.cover import OVERLAP, Cover
from primum.imaging.patches import patches, prepare_patch_masks, prepare_patches
from primum.imaging.restore import restore_volume
from primum.imaging.windows import DEVIATIONS

SIDES = st.tuples(*(st.integers(1, 30),) * 3)
CUT = Preparation(16, fit="patches", depth=8, spacing=(3.0, 2.0, 1.5))


def volume(values: np.ndarray, spacing: tuple[float, float, float] = (3.0, 2.0, 1.5)) -> Volume:
    return Volume(values.astype(np.float32), np.diag([*spacing, 1.0])[[2, 1, 0, 3]], "drawn")


@settings(max_examples=40)
@given(sides=SIDES, seed=st.integers(0, 99))
def test_patches_cover_every_voxel_and_give_it_back(sides: tuple[int, int, int], seed: int) -> None:
    cover, mask = Cover(sides, (4, 8, 8)), np.random.default_rng(seed).integers(0, 4, sides).astype(np.uint8)
    cut = cover.cut(mask[None])[0]
    assert cut.shape == (len(cover), 4, 8, 8) and len(cover.corners) == len(cover)
    assert (cover.joined(cut) == mask).all()
    assert (cover.mask(np.eye(4, dtype=np.float32)[cut]) == mask).all()
    for axis, (side, size) in enumerate(zip(sides, (4, 8, 8), strict=True)):
        starts = sorted({corner[axis] for corner in cover.corners})
        assert starts[0] == 0 and starts[-1] + size == max(side, size)
        assert max(np.diff(starts), default=0) <= (1 - OVERLAP) * size


def test_a_volume_of_the_studys_voxels_is_not_sampled() -> None:
    drawn = organ((11, 30, 23))
    whole = volume(body(shape=(11, 30, 23)))
    layout, masks = patches(whole, CUT), prepare_patch_masks(drawn, whole, CUT)
    assert layout.cover.grid == (11, 30, 23) and masks.shape == (len(layout.cover), 8, 16, 16)
    assert (restore_volume(layout.cover.joined(masks), whole, CUT) == drawn).all()
    levels = (prepare_patches(whole, CUT) - 0.5) * 2 * DEVIATIONS
    assert levels.shape == (len(layout.cover), 1, 8, 16, 16)
    joined = layout.cover.blended(levels[:, 0, ..., None])[..., 0]
    assert abs(joined.mean()) < 1e-3 and joined.std() == pytest.approx(1, abs=1e-3)  # as one volume
    shown = joined[drawn == 1].mean() - joined[:, :2, :2].mean()
    assert shown > 0.5  # the body, against the air around it


def test_voxels_of_other_millimetres_lie_where_they_lay() -> None:
    """A ball in a volume of thick slices, at cubes of 1 mm and back; its volume and its middle stay."""
    z, y, x = np.mgrid[:12, :40, :38]
    ball = (3.0 * (z - 6)) ** 2 + (y - 18) ** 2 + (x - 24) ** 2 < 12**2
    whole, cubes = volume(100.0 * ball, (3.0, 1.0, 1.0)), replace(CUT, spacing=1.0, depth=None)
    layout = patches(whole, cubes)
    assert layout.cover.grid == (36, 40, 38) and layout.spacing == (1.0, 1.0, 1.0)
    found = layout.cover.joined(prepare_patch_masks(ball.astype(np.uint8), whole, cubes))
    assert found.sum() == 3 * ball.sum()
    assert np.allclose(np.argwhere(found).mean(0), [3 * 6 + 1, 18, 24], atol=0.1)
    assert (restore_volume(found, whole, cubes) == ball).all()
    light = layout.cover.blended(prepare_patches(whole, cubes)[:, 0, ..., None])[..., 0] > 0.6
    assert 2 * (light & (found > 0)).sum() / (light.sum() + found.sum()) > 0.95
    coarse = replace(cubes, spacing=(5.2, 3.1, 2.3), depth=8)  # no side is so many whole voxels
    again = patches(whole, coarse).cover.joined(prepare_patch_masks(2 * ball.astype(np.uint8), whole, coarse))
    assert again.shape == (6, 12, 16) and set(np.unique(again)) == {0, 2}  # no class between
    back = restore_volume(again, whole, coarse)
    assert np.allclose(np.argwhere(back).mean(0), np.argwhere(ball).mean(0), atol=0.4)
    assert 2 * (back[ball] > 0).sum() / ((back > 0).sum() + ball.sum()) > 0.85
    with pytest.raises(DataError, match="smaller than one voxel of 50 x 50 x 50 mm"):
        patches(whole, replace(cubes, spacing=50.0))
    with pytest.raises(DataError, match=r"more than 400,000,000 voxels of 0\.01 x"):
        patches(whole, replace(cubes, spacing=0.01))


def hospital(folder: Path) -> Path:
    """Six patients: NIfTI, a DICOM series with its SEG, NRRD."""
    for number in range(4):
        nifti(folder / "images" / f"p{number}.nii.gz", body(f"v{number}", (12, 20, 9)))
        nifti(folder / "labels" / f"p{number}.nii.gz", organ((12, 20, 9)))
    series(folder / "images" / "p4", body("v4", (9, 18, 20)))
    segmentation(folder / "labels" / "p4" / "seg.dcm", organ((9, 18, 20)))
    nrrd(folder / "images" / "p5.nrrd", body("v5", (12, 20, 9)))
    nrrd(folder / "labels" / "p5.nrrd", organ((12, 20, 9)))
    return folder


def read(folder: Path, cache: Path | None = None) -> Intake:
    patients = PatientSource(r"^(p\d+)")
    return read_masked_folder(folder, preparation=CUT, patients=patients, pseudonym_key=KEY, cache=cache)


def test_volumes_of_a_folder_become_patches_by_patient_from_the_cache_too(tmp_path: Path) -> None:
    folder = hospital(tmp_path / "data")
    png(folder / "images" / "p9.png", "a picture")
    Pillow.fromarray(np.eye(24, 20, dtype=np.uint8)).save(folder / "labels" / "p9.png")
    found = read(folder, tmp_path / "cache")
    data, problems = found.dataset, {problem.file: problem.reason for problem in found.problems}
    assert data.patient_count == 6 and data.masked and data.images.shape[1:] == (1, 8, 16, 16)
    assert data.labels.shape == (len(data), 8, 16, 16) and set(data.spacing) == {CUT.voxel}
    assert len(data) == sum(
        len(Cover(grid, CUT.shape)) for grid in dict(zip(data.files, data.grids, strict=True)).values()
    )
    assert f"6 volumes cut into {len(data)} patches of 8 x 16 x 16 voxels" in found.notices
    assert list(problems) == ["images/p9.png"] and "patches are cut from volumes" in problems["images/p9.png"]
    again = read(folder, tmp_path / "cache").dataset
    assert (again.images == data.images).all() and (again.labels == data.labels).all() and again.grids == data.grids
    grid = data.grids[0]
    assert data.select(one == grid for one in data.grids).images.shape[1:] == (1, 8, 16, 16)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"spacing": None}, "voxels of so many mm"),
        ({"depth": 2}, "4 to 1024 slices"),
        ({"context": 1, "channels": 3}, "grey and have no axis"),
        ({"axis": "coronal"}, "grey and have no axis"),
        ({"fit": "windows"}, "are for patches"),
        ({"fit": "squash", "depth": None}, "are for patches"),
        ({"spacing": (1.0, 0.0, 1.0)}, "pixels of 0.001 to 1000 mm"),
    ],
    ids=str,
)
def test_what_does_not_go_together_is_refused(changes: dict[str, object], reason: str) -> None:
    with pytest.raises(DataError, match=reason):
        replace(CUT, **changes)  # type: ignore[arg-type]


def test_a_card_keeps_them_and_a_wrong_one_is_refused() -> None:
    for one in (CUT, replace(CUT, spacing=1.0, depth=None)):
        assert Preparation.from_card(json.loads(json.dumps(one.to_card()))) == one
    for spacing in ([1.0, 2.0], [1.0, 2.0, "3"], "fine"):
        with pytest.raises(ModelError, match="`spacing` must be a number, or three"):
            Preparation.from_card(CUT.to_card() | {"spacing": spacing})
