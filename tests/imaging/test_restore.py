"""Masks back on the pixels of their files."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.imaging.geometry import place_mask
from primum.imaging.prepare import Preparation
from primum.imaging.restore import restore_mask, restore_volume
from primum.imaging.slices import prepare_mask
from primum.imaging.volume import Volume

SIZE = 16


@given(
    rows=st.integers(16, 70),
    columns=st.integers(16, 70),
    fit=st.sampled_from(["squash", "crop", "pad"]),
    spacing=st.sampled_from([None, 0.5, 1.0, 1.7]),
    seed=st.integers(0, 999),
)
def test_what_the_model_saw_is_what_it_drew(
    rows: int, columns: int, fit: str, spacing: float | None, seed: int
) -> None:
    """A mask that is made larger and seen again at the model's size is the same, wherever the picture reaches."""
    preparation = Preparation(size=SIZE, fit="crop" if fit == "pad" and spacing else fit, spacing=spacing)  # type: ignore[arg-type]
    where = preparation.placement(rows, columns, (0.5, 0.5) if spacing else None)
    drawn = np.random.default_rng(seed).integers(1, 4, (SIZE, SIZE)).astype(np.uint8)
    back = restore_mask(drawn, rows, columns, where)
    again, shown = place_mask(back, where), place_mask(np.ones((rows, columns), np.uint8), where)
    there = (again > 0) & (shown > 0)
    coarser = all(
        sampling.rows < 0.99 * (sampling.box[3] - sampling.box[1])
        and sampling.columns < 0.99 * (sampling.box[2] - sampling.box[0])
        for sampling in where.samplings
    )
    if coarser:  # each pixel of the square holds the middle of one of the picture; at equal sizes it may be a tie
        assert (again[there] == drawn[there]).mean() > 0.97
        assert there.sum() >= 0.9 * (shown > 0).sum()
    assert set(np.unique(back).tolist()) <= {0, 1, 2, 3}


@pytest.mark.parametrize("fit", ["squash", "crop", "pad"])
def test_a_disc_comes_back_where_it_was(fit: str) -> None:
    y, x = np.mgrid[:90, :120]
    disc = ((y - 50) ** 2 + (x - 70) ** 2 < 20**2).astype(np.uint8)
    where = Preparation(size=64, fit=fit).placement(90, 120, None)  # type: ignore[arg-type]
    back = restore_mask(place_mask(disc, where), 90, 120, where)
    assert 2 * (back & disc).sum() / (back.sum() + disc.sum()) > 0.95


@pytest.mark.parametrize("axis", ["axial", "coronal", "sagittal"])
def test_a_volume_gets_its_mask_back_along_every_axis(axis: str) -> None:
    z, y, x = np.mgrid[:24, :30, :36]
    ball = ((z - 10) ** 2 + (y - 16) ** 2 + (x - 20) ** 2 < 8**2).astype(np.uint8)
    volume = Volume(ball.astype(np.float32), np.diag([1.0, 1.0, 1.0, 1.0])[[2, 1, 0, 3]], "drawn")
    preparation = Preparation(size=48, fit="pad", axis=axis)  # type: ignore[arg-type]
    seen = prepare_mask(ball, volume, preparation)
    back = restore_volume(seen, volume, preparation)
    assert back.shape == ball.shape
    assert 2 * (back & ball).sum() / (back.sum() + ball.sum()) > 0.97
