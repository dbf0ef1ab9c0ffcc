"""A picture at its own resolution, covered by windows that overlap.

| symbol | meaning |
|---|---|
| H x W | the picture, after it was sampled to `images.spacing` where a study asks for one |
| s | side of a window, `images.size`; cover.py says where windows lie, and how what they say is blended |

A model standardises the picture that it sees, and a window of nothing but air would become amplified noise. So the whole
picture (all slices of a volume together) is standardised here, before it is cut: a grey level of (x - mean) / deviation,
cut at `DEVIATIONS`, becomes a number in [0, 1], 1/2 being the mean. `models.pixels` undoes this and nothing else.
"""

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from primum.imaging.cover import Cover
from primum.imaging.geometry import Placement, Sampling, Spacing, place, place_mask, whole_in_millimetres
from primum.imaging.image import Pixels

DEVIATIONS: Final = 6.0
"""Grey levels this far from the mean of the picture are 0 and 1."""
_FLAT: Final = 1e-4

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Windows:
    """How a picture is shown window by window: `sampling` makes it `cover.grid`, which is then cut.

    `spacing`: (row, column) mm of the pixels, or None where the picture does not say its own.
    """

    cover: Cover
    sampling: Sampling
    spacing: Spacing | None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the picture that is cut."""
        rows, columns = self.cover.grid
        return rows, columns

    def sampled(self, stack: npt.NDArray[Any], how: Pillow.Resampling) -> npt.NDArray[Any]:
        """[k, rows, columns] -> [k, *grid]; the same where nothing is to be sampled."""
        if stack.shape[1:] == self.grid and self.sampling.box == (0, 0, self.grid[1], self.grid[0]):
            return stack
        return np.stack([self._sample(each, how) for each in stack])

    def _sample(self, plane: npt.NDArray[Any], how: Pillow.Resampling) -> npt.NDArray[Any]:
        picture = Pillow.fromarray(np.ascontiguousarray(plane))
        return np.asarray(picture.resize((self.sampling.columns, self.sampling.rows), how, box=self.sampling.box))


Layout = Placement | Windows


def windows(rows: int, columns: int, spacing: Spacing | None, *, size: int, target: float | None) -> Windows:
    """How a picture of `rows` x `columns` pixels of `spacing` mm is covered, with `target` at pixels of so many mm.

    Raises DataError where `target` is asked and `spacing` is None, or nothing would be left.
    """
    if target is None:
        return Windows(Cover((rows, columns), (size, size)), Sampling((0, 0, columns, rows), rows, columns), spacing)
    whole = whole_in_millimetres(rows, columns, spacing, target)
    return Windows(Cover((whole.rows, whole.columns), (size, size)), whole, (target, target))


def place_levels(stack: Pixels, layout: Layout) -> Pixels:
    """Grey levels [k, rows, columns] in [0, 1] -> [k, n, size, size]: a square each, or n windows standardised as one.

    The k planes are the channels of one picture, or the slices of one volume. A flat picture gives flat windows.
    """
    if isinstance(layout, Placement):
        return np.stack([place(each, layout) for each in stack])[:, None]
    return whole_levels(layout.sampled(stack, Pillow.Resampling.BILINEAR), layout.cover)


def whole_levels(levels: Pixels, cover: Cover) -> Pixels:
    """Grey levels [k, *cover.grid] -> [k, windows, *cover.window], standardised as one; flat ones as they are."""
    found = np.clip(levels, 0, 1)
    if float(found.max()) - float(found.min()) < _FLAT:
        return cover.cut(found)
    low, numbers = standardised(found)
    cut: Pixels = cover.cut(numbers - low) + low  # what is outside of the picture is black
    return np.clip(cut, 0, 1)


def place_classes(stack: Mask, layout: Layout) -> Mask:
    """Masks [k, rows, columns] -> [k, n, size, size], pixel on pixel with `place_levels`; background outside."""
    if isinstance(layout, Placement):
        return np.stack([place_mask(each, layout) for each in stack])[:, None]
    return layout.cover.cut(layout.sampled(stack, Pillow.Resampling.NEAREST))


def standardised(levels: Pixels) -> tuple[np.float32, Pixels]:
    """The number that stands for black, and for each level: (x - mean) / deviation, `DEVIATIONS` of them from 1/2 to 1."""
    mean, deviation = levels.mean(dtype=np.float64), levels.std(dtype=np.float64)
    scale = 1 / (2 * DEVIATIONS * max(deviation, _FLAT))
    black = np.float32(max(0.0, 0.5 - mean * scale))
    numbers = levels * np.float32(scale) + np.float32(0.5 - mean * scale)
    return black, np.clip(numbers, 0, 1, out=numbers)


def shown_nothing(count: int, channels: int, size: int) -> Pixels:
    """`count` windows of which every pixel is the mean of a picture: they fill a request up, and say nothing."""
    return np.full((count, channels, size, size), 0.5, np.float32)
