"""Distances between the borders of masks: against a slow twin, and for shapes whose distances are known."""

import math
from itertools import product

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.tasks.segmentation import mask_figures
from primum.tasks.surface import pieces_of, surface_distances, surfaces

MM = (2.0, 0.5, 0.7)


def edge(mask: np.ndarray) -> list[tuple[int, ...]]:
    """Places of the mask with a neighbour across a side that is not of it, or is outside."""
    places = {tuple(at) for at in np.argwhere(mask).tolist()}
    steps = [tuple(sign * (axis == one) for one in range(mask.ndim)) for axis in range(mask.ndim) for sign in (1, -1)]
    return [
        at for at in sorted(places) if any(tuple(map(sum, zip(at, step, strict=True))) not in places for step in steps)
    ]


def one_way(ours: np.ndarray, theirs: np.ndarray, spacing: tuple[float, ...]) -> list[float]:
    """The slow twin: every pair."""
    return [min(math.dist(np.multiply(a, spacing), np.multiply(b, spacing)) for b in edge(theirs)) for a in edge(ours)]


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), share=st.floats(0.05, 0.95), axes=st.sampled_from([2, 3]))
def test_distances_are_those_of_every_pair(seed: int, share: float, axes: int) -> None:
    generator = np.random.default_rng(seed)
    ours, theirs = generator.random((2, *(5, 6, 4)[:axes])) < share
    ours[(0,) * axes] = theirs[(-1,) * axes] = True
    there, back = surface_distances(ours, theirs, MM[:axes])
    assert sorted(there) == pytest.approx(sorted(one_way(ours, theirs, MM[:axes])))
    assert sorted(back) == pytest.approx(sorted(one_way(theirs, ours, MM[:axes])))


def volume(*starts: int) -> np.ndarray:
    """A cube of 4 voxels a side that begins at `starts`, in 12 slices of 12 x 12."""
    mask = np.zeros((12, 12, 12), np.uint8)
    mask[tuple(slice(start, start + 4) for start in starts)] = 1
    return mask


def figures_of(found: np.ndarray, truth: np.ndarray, spacing: tuple[float, ...], patients: tuple[str, ...] = ()):
    """As a report tells them, of one volume."""
    count = len(truth)
    mm = (spacing,) * count if spacing else ()
    names = patients or ("p",) * count
    return mask_figures(torch.from_numpy(found), torch.from_numpy(truth), ("no", "yes"), names, ("v",) * count, mm)


def test_a_cube_shifted_along_one_axis() -> None:
    """By three voxels: the far face of each is three away, the near one's voxels lie in the other cube or beside it."""
    told = figures_of(volume(4, 4, 7), volume(4, 4, 4), MM)
    assert (told["surface_unit"], told["surface_of"]) == ("mm", "volumes")
    assert told["by_class"]["yes"]["hausdorff_95"] == pytest.approx(3 * MM[2])
    there = one_way(volume(4, 4, 7), volume(4, 4, 4), MM)
    assert told["by_class"]["yes"]["surface_distance"] == pytest.approx(np.mean(there))
    along_slices = figures_of(volume(7, 4, 4), volume(4, 4, 4), MM)
    assert along_slices["by_class"]["yes"]["hausdorff_95"] == pytest.approx(3 * MM[0])


def test_equal_masks_are_at_distance_zero() -> None:
    told = figures_of(volume(0, 8, 4), volume(0, 8, 4), MM)["by_class"]["yes"]
    assert (told["surface_distance"], told["hausdorff_95"], told["one_sided"]) == (0.0, 0.0, 0)


def test_without_millimetres_each_slice_is_measured_in_pixels() -> None:
    told = figures_of(volume(4, 4, 7), volume(4, 4, 4), ())
    assert (told["surface_unit"], told["surface_of"]) == ("pixels", "images")
    assert told["by_class"]["yes"]["hausdorff_95"] == pytest.approx(3)


def test_one_image_that_does_not_say_its_millimetres_makes_all_pixels() -> None:
    measured = pieces_of(3, ("v", "v", "w"), ((1.0, 1.0, 1.0), (1.0, 1.0, 1.0), ()))
    assert measured.unit == "pixels" and measured.kind == "images" and len(measured.pieces) == 3


def test_volumes_and_pictures_of_one_folder_are_measured_as_what_they_are() -> None:
    measured = pieces_of(4, ("v", "v", "w", "x"), (MM, MM, MM, (0.5, 0.5)))
    assert [piece.images for piece in measured.pieces] == [(0, 1), (2,), (3,)]
    assert [piece.spacing for piece in measured.pieces] == [MM, MM, (0.5, 0.5)]
    assert (measured.unit, measured.kind) == ("mm", "volumes and images")


def test_masks_without_the_class_are_left_out_and_counted() -> None:
    empty = np.zeros((12, 12, 12), np.uint8)
    missed = figures_of(empty, volume(4, 4, 4), MM)["by_class"]["yes"]
    assert (missed["surface_distance"], missed["hausdorff_95"], missed["one_sided"]) == (None, None, 1)
    neither = figures_of(empty, empty, MM)["by_class"]["yes"]
    assert (neither["surface_distance"], neither["hausdorff_95"], neither["one_sided"]) == (None, None, 0)
    slices = figures_of(volume(4, 4, 4), volume(5, 4, 4), ())["by_class"]["yes"]
    assert (slices["surface_distance"], slices["one_sided"]) == (0.0, 2)  # the first and the last slice


def test_a_patient_is_one_mean_however_many_images_there_are() -> None:
    """Two of three images are of the first patient, with distances 1 and 3; the second's is 0."""
    truth, found = np.zeros((2, 3, 8, 8), np.uint8)
    truth[:, 2, 2] = 1
    for image, columns in enumerate((1, 3, 0)):
        found[image, 2, 2 + columns] = 1
    told = surfaces(found, truth, 1, [[0, 1], [2]], pieces_of(3))
    assert told.each[:, 0].tolist() == [2, 0] and told.told()["surface_distance"] == pytest.approx((2 + 0) / 2)
    assert told.told()["hausdorff_95"] == pytest.approx(np.percentile([1, 3], 95) / 2)


@pytest.mark.parametrize("shape", list(product((3, 9), repeat=2)))
def test_masks_that_touch_the_edge_of_the_image_have_a_border_there(shape: tuple[int, int]) -> None:
    full, corner = np.ones(shape, bool), np.zeros(shape, bool)
    corner[0, 0] = True
    there, back = surface_distances(full, corner, (1.0, 1.0))
    assert there.max() == pytest.approx(math.hypot(shape[0] - 1, shape[1] - 1)) and back.tolist() == [0.0]
