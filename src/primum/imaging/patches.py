"""A volume at the voxels of a study, covered by patches that overlap: boxes of voxels, for masks in 3D.

| symbol | meaning |
|---|---|
| D x H x W | the volume in canonical order (volume.py), sampled to voxels of `images.spacing` mm |
| d x s x s | a patch: `images.depth` slices of `images.size` x `images.size` voxels; cover.py says where patches lie |

Sampled is axis by axis as pictures are (geometry.py): a triangle over what a new voxel covers, so that fine structure is
averaged and not skipped; masks by the nearest voxel. Grey levels are standardised over the whole volume before it is cut,
as for windows (windows.py): a patch of air stays air.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from primum.errors import DataError
from primum.imaging.cover import Cover
from primum.imaging.image import Pixels
from primum.imaging.prepare import Preparation, require_contrast
from primum.imaging.slices import volume_levels
from primum.imaging.volume import LARGEST_VOLUME, Volume
from primum.imaging.windows import whole_levels

Mask = npt.NDArray[np.uint8]
Span = tuple[float, float]
_HALF: Final = 0.5
_WHOLE: Final = 1e-6  # of a voxel: what rounding of mm may take away


@dataclass(frozen=True)
class Patches:
    """How a volume is shown patch by patch: of each axis the part `spans` (in its voxels) becomes `cover.grid` voxels of
    `spacing` mm, which are then cut."""

    cover: Cover
    spans: tuple[Span, ...]
    spacing: tuple[float, float, float]

    def sampled(self, values: npt.NDArray[Any], how: Pillow.Resampling) -> npt.NDArray[Any]:
        """[slices, rows, columns] of the volume -> [*cover.grid]: every slice, then along the slices."""
        (top, bottom), (left, right) = self.spans[1:]
        depth, rows, columns = self.cover.grid
        planes = np.stack([_resized(plane, rows, columns, (left, top, right, bottom), how) for plane in values])
        flat, (first, last) = planes.reshape(len(planes), -1), self.spans[0]
        return _resized(flat, depth, flat.shape[1], (0, first, flat.shape[1], last), how).reshape(self.cover.grid)

    def restored(self, mask: Mask) -> Mask:
        """A mask [*cover.grid] on the voxels of the volume [slices, rows, columns]: the class nearest to each, and at the
        border, where less than a voxel was left over, that of the border."""
        return mask[np.ix_(*self._nearest)]

    @property
    def _nearest(self) -> list[npt.NDArray[np.int64]]:
        return [
            np.clip(np.floor((np.arange(side) + _HALF - low) / (high - low) * count), 0, count - 1).astype(np.int64)
            for (low, high), count, side in zip(self.spans, self.cover.grid, self._sides, strict=True)
        ]

    @property
    def _sides(self) -> tuple[int, ...]:
        """Of the volume: a span lies in its middle."""
        return tuple(round(low + high) for low, high in self.spans)


def patches(volume: Volume, preparation: Preparation) -> Patches:
    """How `volume` is covered; DataError where it is smaller than a voxel of the study, or would become too large."""
    along = [_along(*axis) for axis in zip(volume.values.shape, volume.spacing, preparation.voxel, strict=True)]
    grid = tuple(count for count, _ in along)
    asked = " x ".join(f"{side:g}" for side in preparation.voxel)
    if min(grid) < 1:
        raise DataError(f"is smaller than one voxel of {asked} mm", "Check its spacing, or ask for a finer one.")
    if float(np.prod(grid, dtype=np.float64)) > LARGEST_VOLUME:
        raise DataError(f"would have more than {LARGEST_VOLUME:,} voxels of {asked} mm", "Ask for a coarser spacing.")
    return Patches(Cover(grid, preparation.shape), tuple(span for _, span in along), preparation.voxel)


def _along(side: int, spacing: float, target: float) -> tuple[int, Span]:
    """How many voxels of `target` mm lie in the middle of `side` voxels of `spacing` mm, and the part that they are."""
    count = int(side * spacing / target + _WHOLE)
    over = max(0.0, side - count * target / spacing) / 2
    return count, (over, side - over)


def prepare_patches(volume: Volume, preparation: Preparation) -> Pixels:
    """Float32 [n, channels, depth, size, size] in [0, 1]: all patches of the volume, in the order of their corners.

    DataError where the window needs Hounsfield values that are not there, or nothing is left to see.
    """
    layout = patches(volume, preparation)
    levels = layout.sampled(volume_levels(volume, preparation), Pillow.Resampling.BILINEAR)
    cut = whole_levels(levels[None], layout.cover).swapaxes(0, 1)
    require_contrast(cut, "volume")
    return cut


def prepare_patch_masks(mask: Mask, volume: Volume, preparation: Preparation) -> Mask:
    """Classes [slices, rows, columns] on the grid of `volume` -> uint8 [n, depth, size, size], voxel on voxel with its
    patches; background outside."""
    layout = patches(volume, preparation)
    masks: Mask = layout.cover.cut(layout.sampled(mask, Pillow.Resampling.NEAREST)[None])[0]
    return masks


def _resized(
    plane: npt.NDArray[Any], rows: int, columns: int, box: tuple[float, float, float, float], how: Pillow.Resampling
) -> npt.NDArray[Any]:
    if plane.shape == (rows, columns) and box == (0, 0, columns, rows):
        return plane
    return np.asarray(Pillow.fromarray(np.ascontiguousarray(plane)).resize((columns, rows), how, box=box))
