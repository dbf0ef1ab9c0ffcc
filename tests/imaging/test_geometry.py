"""Where a picture lies in the square: its mask lies there too, and millimetres are kept where they are asked."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import DataError
from primum.imaging.geometry import place, place_mask, placement

FITS = st.sampled_from(["squash", "crop", "pad"])
SIDES = st.integers(1, 70)


def _disc(rows: int, columns: int, spacing: tuple[float, float], radius: float) -> np.ndarray:
    """1 inside a circle of `radius` mm around the middle of the picture."""
    down = (np.arange(rows) + 0.5 - rows / 2) * spacing[0]
    across = (np.arange(columns) + 0.5 - columns / 2) * spacing[1]
    return (np.hypot(down[:, None], across[None]) < radius).astype(np.uint8)


@given(SIDES, SIDES, st.integers(8, 50), FITS, st.sampled_from([None, 0.7, 2.0]))
def test_any_picture_and_its_mask_get_the_asked_shape(
    rows: int, columns: int, size: int, fit: Any, target: float | None
) -> None:
    try:
        where = placement(rows, columns, (1.3, 0.8), size=size, fit=fit, target=target)
    except DataError as error:
        assert target is not None and ("smaller than one pixel" in error.message or fit == "pad")
        return
    values = np.linspace(0, 1, rows * columns, dtype=np.float32).reshape(rows, columns)
    placed, mask = place(values, where), place_mask(np.ones((rows, columns), np.uint8), where)
    assert placed.shape == mask.shape == (size, size)
    assert placed.dtype == np.float32 and mask.dtype == np.uint8
    assert placed.min() >= 0 and placed.max() <= 1 and set(np.unique(mask)) <= {0, 1}
    assert where.spacing is not None and min(where.spacing) > 0
    thin = min(rows * 1.3, columns * 0.8) * size < 2 * max(rows * 1.3, columns * 0.8)  # may lie between two new pixels
    assert mask.any() or thin


@given(st.integers(20, 70), st.integers(20, 70), FITS, st.sampled_from([None, 0.9, 1.4]))
def test_a_mask_stays_on_its_picture(rows: int, columns: int, fit: Any, target: float | None) -> None:
    """A disc drawn as picture and as mask: where the placed picture is clearly inside or outside, so is the mask."""
    disc = _disc(rows, columns, (1.0, 1.0), 8)
    where = placement(rows, columns, (1.0, 1.0), size=96, fit=fit, target=target)
    shown, mask = place(disc.astype(np.float32), where), place_mask(disc, where)
    assert (mask[shown > 0.95] == 1).all() and (mask[shown < 0.05] == 0).all()
    assert mask.any()


@pytest.mark.parametrize("fit", ["crop", "pad"])
def test_millimetres_are_kept_whatever_the_pixels(fit: Any) -> None:
    """The same disc of 20 mm in pictures of other pixels has the same area in pixels of 1 mm."""
    areas = []
    for spacing in ((1.0, 1.0), (0.5, 0.5), (2.0, 0.7), (0.31, 1.9)):
        rows, columns = (round(58 / mm) for mm in spacing)
        where = placement(rows, columns, spacing, size=64, fit=fit, target=1.0)
        assert where.spacing == (1.0, 1.0)
        areas.append(int(place_mask(_disc(rows, columns, spacing, 20), where).sum()))
        high = place_mask(np.ones((rows, columns), np.uint8), where).any(axis=1)
        assert 56 <= high.sum() <= 58 and not high[0] and not high[-1]
    assert np.ptp(areas) < 0.04 * np.pi * 400 and abs(np.mean(areas) - np.pi * 400) < 0.03 * np.pi * 400


def test_a_larger_picture_is_cut_in_its_middle_or_refused() -> None:
    picture = _disc(100, 100, (1, 1), 10).astype(np.float32)
    where = placement(100, 100, (1.0, 1.0), size=32, fit="crop", target=1.0)
    assert np.allclose(place(picture, where), picture[34:66, 34:66])
    with pytest.raises(DataError, match="100 x 100 pixels of 1 mm, more than 32"):
        placement(100, 100, (1.0, 1.0), size=32, fit="pad", target=1.0)


def test_squash_with_millimetres_only_loses_detail() -> None:
    where = placement(40, 80, (1.0, 1.0), size=20, fit="squash", target=4.0)
    assert where.spacing == (2.0, 4.0)
    assert len(where.samplings) == 2 and (where.samplings[0].rows, where.samplings[0].columns) == (10, 20)


@pytest.mark.parametrize(
    ("spacing", "target", "words"),
    [(None, 1.0, "how many mm"), ((0.01, 1.0), 1.0, "smaller than one pixel"), ((1000.0, 1000.0), 0.001, "claims")],
)
def test_what_cannot_be_sampled_is_refused(spacing: Any, target: float, words: str) -> None:
    with pytest.raises(DataError, match=words):
        placement(50, 50, spacing, size=32, fit="squash", target=target)
