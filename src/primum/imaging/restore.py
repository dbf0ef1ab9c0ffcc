"""From the square that a model sees back to the picture or volume itself: a mask on the pixels that the file has."""

from dataclasses import replace

import numpy as np
import numpy.typing as npt

from primum.imaging.geometry import Placement, offset
from primum.imaging.patches import patches
from primum.imaging.prepare import Preparation
from primum.imaging.slices import slice_layout
from primum.imaging.volume import Volume, cut
from primum.imaging.windows import Layout, Windows

Mask = npt.NDArray[np.uint8]


def restore_mask(mask: Mask, rows: int, columns: int, where: Layout) -> Mask:
    """Uint8 [size, size], or blended from windows [grid rows, grid columns] -> [rows, columns].

    What the mask says nearest to each pixel; 0 where it shows none. The inverse of `place_mask` as far as there is one:
    pixels that were cut away are background.
    """
    axes = _axes(rows, columns, where) if isinstance(where, Windows) else (where, where)
    down, right = (_positions(side, axes[axis], axis) for axis, side in enumerate((rows, columns)))
    inside = (down >= 0)[:, None] & (right >= 0)[None, :]
    found: Mask = np.where(inside, mask[np.maximum(down, 0)[:, None], np.maximum(right, 0)[None, :]], 0).astype(
        np.uint8
    )
    return found


def _axes(rows: int, columns: int, where: Windows) -> tuple[Placement, Placement]:
    """The picture that windows cover, as a placement for its rows and one for its columns: it need not be square."""
    whole = Placement((0, 0, rows, columns), (where.sampling,), where.grid[0], where.spacing)
    return whole, replace(whole, size=where.grid[1])


def _positions(side: int, where: Placement, axis: int) -> npt.NDArray[np.int64]:
    """For each pixel of one side of the picture, the place in the square that shows it; -1 where none does."""
    middles = np.arange(side) + 0.5 - where.cut[axis]
    length = where.cut[2 + axis]
    there = (middles > 0) & (middles < length)
    for sampling in where.samplings:
        low, high = sampling.box[1 - axis], sampling.box[3 - axis]
        length = sampling.columns if axis else sampling.rows
        middles = (middles - low) / (high - low) * length
        there &= (middles > 0) & (middles < length)
    places = np.floor(middles).astype(np.int64) - offset(length, where.size)
    return np.where(there & (places >= 0) & (places < where.size), places, -1)


def restore_volume(masks: Mask, volume: Volume, preparation: Preparation) -> Mask:
    """Masks of the slices of `volume`, in order, [n, size, size] or blended, or one mask blended from its patches -> uint8
    on its grid, [slices, rows, columns]."""
    if preparation.fit == "patches":
        return patches(volume, preparation).restored(masks)
    rows, columns = cut(volume.values, preparation.axis).shape[1:]
    where = slice_layout(volume, preparation)
    restored = np.zeros(volume.values.shape, np.uint8)
    cut(restored, preparation.axis)[...] = np.stack([restore_mask(mask, rows, columns, where) for mask in masks])
    return restored
