"""Volumes: one orientation whatever the file's, slices as a screen shows them."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import DataError
from primum.imaging import Volume
from primum.imaging.volume import canonical, check_volume, cut, cut_spacing, guessed_hounsfield, same_grid

VALUES = np.arange(2 * 3 * 4, dtype=np.float32).reshape(2, 3, 4)
CANONICAL = np.array([[0, 0, 1.5, -7], [0, 2, 0, 5], [3, 0, 0, 90], [0, 0, 0, 1]], np.float64)


def _volume(values: np.ndarray = VALUES, affine: np.ndarray = CANONICAL) -> Volume:
    return Volume(values, affine, "made")


def _stored(order: tuple[int, ...], turned: tuple[bool, ...], affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The same volume with exchanged and turned axes."""
    values = np.transpose(VALUES, order)
    change = np.zeros((4, 4))
    change[3, 3] = 1
    for new, old in enumerate(order):
        change[old, new] = -1 if turned[new] else 1
        change[old, 3] = VALUES.shape[old] - 1 if turned[new] else 0
    return values[tuple(slice(None, None, -1 if back else 1) for back in turned)], affine @ change


@given(st.sampled_from(list(permutations(range(3)))), st.tuples(*[st.booleans()] * 3), st.floats(-35, 35))
def test_every_order_of_the_axes_gives_one_volume(
    order: tuple[int, ...], turned: tuple[bool, ...], degrees: float
) -> None:
    """An oblique volume too: the values come back exactly and every voxel keeps its place in the patient."""
    turn = np.deg2rad(degrees)
    tip = np.eye(4)
    tip[1:3, 1:3] = [[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]
    values, affine = canonical(*_stored(order, turned, tip @ CANONICAL))
    assert np.array_equal(values, VALUES) and values.flags.c_contiguous and values.dtype == np.float32
    assert np.allclose(affine, tip @ CANONICAL)


@pytest.mark.parametrize("broken", ["zero", "nan", "flat"])
def test_a_grid_that_is_none_is_refused(broken: str) -> None:
    affine = CANONICAL.copy()
    affine[:3, 0] = {"zero": 0, "nan": np.nan, "flat": affine[:3, 1]}[broken]
    with pytest.raises(DataError, match="does not say where its voxels lie"):
        canonical(VALUES, affine)


def test_slices_as_a_screen_shows_them() -> None:
    """Head above in coronal and sagittal cuts, the patient's right at the left, the front at the left of a sagittal."""
    marked = np.zeros((4, 5, 6), np.float32)
    marked[3, 0, 1] = 1  # near the head, in front, to the right
    for axis, index, row, column in (("axial", 3, 0, 1), ("coronal", 0, 0, 1), ("sagittal", 1, 0, 0)):
        stack = cut(marked, axis)  # type: ignore[arg-type]
        assert stack[index, row, column] == 1 and stack.sum() == 1
    volume = _volume()
    assert volume.spacing == (3, 2, 1.5)
    assert [cut_spacing(volume, axis) for axis in ("axial", "coronal", "sagittal")] == [(2, 1.5), (3, 1.5), (3, 2)]  # type: ignore[arg-type]
    assert [cut(VALUES, axis).shape for axis in ("axial", "coronal", "sagittal")] == [(2, 3, 4), (3, 2, 4), (4, 2, 3)]  # type: ignore[arg-type]


def test_two_grids_are_one_within_a_tenth_of_a_voxel() -> None:
    moved = CANONICAL.copy()
    moved[0, 3] += 0.14
    assert same_grid(_volume(), _volume(VALUES + 1, moved))
    moved[0, 3] += 0.02
    assert not same_grid(_volume(), _volume(VALUES, moved))
    stretched = CANONICAL.copy()
    stretched[2, 0] += 0.2
    assert not same_grid(_volume(), _volume(VALUES, stretched))
    assert not same_grid(_volume(), _volume(VALUES[:, :, :3]))


def test_a_volume_prints_its_shape_and_nothing_else() -> None:
    volume = Volume(VALUES, CANONICAL, "made", patient="Anna^Secret")
    assert repr(volume) == "Volume(2 x 3 x 4, made)"


def test_a_volume_checks_itself() -> None:
    with pytest.raises(ValueError, match="float32"):
        _volume(VALUES.astype(np.float64))
    with pytest.raises(ValueError, match="affine"):
        _volume(VALUES, np.eye(3))
    for shape, words in (((100_000, 100_000, 1), "claims"), ((3, 0, 3), "no voxels")):
        with pytest.raises(DataError, match=words):
            check_volume(shape)


@pytest.mark.parametrize(("lowest", "said"), [(-1024, True), (-3024, True), (-3, False), (0, False), (-19595, False)])
def test_which_values_are_taken_as_hounsfield(lowest: float, said: bool) -> None:
    assert guessed_hounsfield(np.array([lowest, 100], np.float32)) is said
