"""A picture at its own resolution, covered by windows that overlap; and what is said of windows blended into one mask.

| symbol | meaning |
|---|---|
| H x W | the picture, after it was sampled to `images.spacing` where a study asks for one |
| s | side of a window, `images.size`; a side of the picture that is shorter is bordered with black to s |
| w(i, j) | weight of a window at its pixel: Gaussian about its middle, deviation s / 8, at least `LEAST_WEIGHT` |
| blend(p) | sum of w z over sum of w, over the windows that show p; z is a logit, or 1 where a window votes for a class |

A model standardises the picture that it sees, and a window of nothing but air would become amplified noise. So the whole
picture (all slices of a volume together) is standardised here, before it is cut: a grey level of (x - mean) / deviation,
cut at `DEVIATIONS`, becomes a number in [0, 1], 1/2 being the mean. `models.pixels` undoes this and nothing else.
Source: Isensee et al., "nnU-Net", Nature Methods 18, 2021 (Gaussian weights); MONAI's SlidingWindowInferer (s / 8, 1/4).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from primum.errors import DataError
from primum.imaging.geometry import Placement, Sampling, Spacing, place, place_mask, whole_in_millimetres
from primum.imaging.image import Pixels

OVERLAP: Final = 0.25
"""The least share of its side that a window has in common with the next. A quarter is what MONAI takes: below it borders
fall where both windows see little around them; a half would mean four times the pixels of the picture instead of 1.8, to
be kept by a node and to be paid for in an encrypted diagnosis."""
DEVIATIONS: Final = 6.0
"""Grey levels this far from the mean of the picture are 0 and 1."""
LEAST_WEIGHT: Final = 1e-3
_NARROW: Final = 0.125
_FLAT: Final = 1e-4

Mask = npt.NDArray[np.uint8]
Values = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Cover:
    """Windows of `size` over `rows` x `columns` pixels, in the order of their corners: row by row from the top left."""

    rows: int
    columns: int
    size: int

    @property
    def corners(self) -> tuple[tuple[int, int], ...]:
        """(top, left) of each window, in the picture as it was bordered."""
        return tuple((top, left) for top in _starts(self.rows, self.size) for left in _starts(self.columns, self.size))

    def __len__(self) -> int:
        return len(_starts(self.rows, self.size)) * len(_starts(self.columns, self.size))

    def cut(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[k, rows, columns] -> [k, windows, size, size]; 0 outside of the picture."""
        (top, bottom), (left, right) = self._border
        whole = np.pad(whole, ((0, 0), (top, bottom), (left, right)))
        return np.stack([whole[:, i : i + self.size, j : j + self.size] for i, j in self.corners], axis=1)

    def joined(self, masks: Mask) -> Mask:
        """What `cut` made back in one piece: [windows, size, size] -> [rows, columns]."""
        whole = np.zeros(self._bordered, np.uint8)
        for (i, j), mask in zip(self.corners, masks, strict=True):
            whole[i : i + self.size, j : j + self.size] = mask
        return self._inside(whole)

    def blended(self, logits: Values) -> Values:
        """Float32 [rows, columns, classes] of [windows, size, size, classes]: the weighted mean of what windows say."""
        weights = window_weights(self.size)
        whole = np.zeros((*self._bordered, logits.shape[-1]), np.float32)
        total = np.zeros((*self._bordered, 1), np.float32)
        for (i, j), window in zip(self.corners, logits, strict=True):
            whole[i : i + self.size, j : j + self.size] += weights * window
            total[i : i + self.size, j : j + self.size] += weights
        blended: Values = self._inside(whole / total)
        return blended

    @property
    def _bordered(self) -> tuple[int, int]:
        return max(self.rows, self.size), max(self.columns, self.size)

    @property
    def _border(self) -> tuple[tuple[int, int], tuple[int, int]]:
        missing = [bordered - side for bordered, side in zip(self._bordered, (self.rows, self.columns), strict=True)]
        return (missing[0] // 2, missing[0] - missing[0] // 2), (missing[1] // 2, missing[1] - missing[1] // 2)

    def _inside(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        (top, _), (left, _) = self._border
        return whole[top : top + self.rows, left : left + self.columns]


@dataclass(frozen=True)
class Windows:
    """How a picture is shown window by window: `sampling` makes it `cover.rows` x `cover.columns`, which are then cut.

    `spacing`: (row, column) mm of the pixels, or None where the picture does not say its own.
    """

    cover: Cover
    sampling: Sampling
    spacing: Spacing | None

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the picture that is cut."""
        return self.cover.rows, self.cover.columns

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
        return Windows(Cover(rows, columns, size), Sampling((0, 0, columns, rows), rows, columns), spacing)
    whole = whole_in_millimetres(rows, columns, spacing, target)
    return Windows(Cover(whole.rows, whole.columns, size), whole, (target, target))


def place_levels(stack: Pixels, layout: Layout) -> Pixels:
    """Grey levels [k, rows, columns] in [0, 1] -> [k, n, size, size]: a square each, or n windows standardised as one.

    The k planes are the channels of one picture, or the slices of one volume. A flat picture gives flat windows.
    """
    if isinstance(layout, Placement):
        return np.stack([place(each, layout) for each in stack])[:, None]
    found = np.clip(layout.sampled(stack, Pillow.Resampling.BILINEAR), 0, 1)
    if float(found.max()) - float(found.min()) < _FLAT:
        return layout.cover.cut(found)
    low, levels = standardised(found)
    cut: Pixels = layout.cover.cut(levels - low) + low  # what is outside of the picture is black
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


@cache
def window_weights(size: int) -> Pixels:
    """Float32 [size, size, 1], the largest in the middle."""
    along = np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (_NARROW * size)) ** 2)
    return np.maximum(np.outer(along, along), LEAST_WEIGHT).astype(np.float32)[..., None]


def covers_of(grids: Sequence[tuple[int, ...]], size: int) -> list[Cover]:
    """One cover for each picture, of `grids` that say of each window, in order, which picture it was cut from.

    DataError where they are not whole covers.
    """
    found, place = [], 0
    while place < len(grids):
        rows, columns = grids[place]
        cover = Cover(rows, columns, size)
        if tuple(grids[place : place + len(cover)]) != (grids[place],) * len(cover):
            raise DataError("windows of a picture are missing", "Take all windows of a picture, in their order.")
        found.append(cover)
        place += len(cover)
    return found


def _starts(side: int, size: int) -> tuple[int, ...]:
    """Where windows begin along one side, evenly: each has at least `OVERLAP` of its side in common with the next."""
    if side <= size:
        return (0,)
    furthest = size - int(np.ceil(OVERLAP * size))
    steps = -(-(side - size) // furthest)
    return tuple(place * (side - size) // steps for place in range(steps + 1))
