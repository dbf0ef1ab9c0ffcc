"""Windows of one size that overlap and cover a whole: squares over a picture, boxes of voxels over a volume.

| symbol | meaning |
|---|---|
| grid | sides of the whole; one that is shorter than the window's is bordered with black to it |
| s | a side of the window |
| w(i, j, ..) | weight of a window at its pixel: Gaussian about its middle, deviation s / 8, at least `LEAST_WEIGHT` |
| blend(p) | sum of w z over sum of w, over the windows that show p; z is a logit, or 1 where a window votes for a class |

Source: Isensee et al., "nnU-Net", Nature Methods 18, 2021 (Gaussian weights); MONAI's SlidingWindowInferer (s / 8, 1/4).
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, reduce
from itertools import product
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from primum.errors import DataError
from primum.imaging.image import Pixels

OVERLAP: Final = 0.25
"""The least share of its side that a window has in common with the next. A quarter is what MONAI takes: below it borders
fall where both windows see little around them; a half would mean four times the pixels of a picture instead of 1.8, to
be kept by a node and to be paid for in an encrypted diagnosis."""
LEAST_WEIGHT: Final = 1e-3
_NARROW: Final = 0.125

Mask = npt.NDArray[np.uint8]
Values = npt.NDArray[np.floating[Any]]
Sides = tuple[int, ...]


@dataclass(frozen=True)
class Cover:
    """Windows of the sides `window` over a whole of the sides `grid`, as many axes each, in the order of their corners:
    of a picture row by row from the top left, of a volume slice by slice."""

    grid: Sides
    window: Sides

    @property
    def corners(self) -> tuple[Sides, ...]:
        """Where each window begins, in the whole as it was bordered."""
        return tuple(product(*self._starts))

    def __len__(self) -> int:
        return math.prod(map(len, self._starts))

    def cut(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """[k, *grid] -> [k, windows, *window]; 0 outside of the whole."""
        whole = np.pad(whole, ((0, 0), *self._border))
        return np.stack([whole[(slice(None), *part)] for part in self._parts()], axis=1)

    def joined(self, masks: Mask) -> Mask:
        """What `cut` made back in one piece: [windows, *window] -> [*grid]."""
        whole = np.zeros(self._bordered, np.uint8)
        for part, mask in zip(self._parts(), masks, strict=True):
            whole[part] = mask
        return self._inside(whole)

    def blended(self, logits: Values) -> Values:
        """Float32 [*grid, classes] of [windows, *window, classes]: the weighted mean of what windows say."""
        weights = window_weights(self.window)
        whole = np.zeros((*self._bordered, logits.shape[-1]), np.float32)
        total = np.zeros((*self._bordered, 1), np.float32)
        for part, window in zip(self._parts(), logits, strict=True):
            whole[part] += weights * window
            total[part] += weights
        blended: Values = self._inside(whole / total)
        return blended

    def mask(self, logits: Values) -> Mask:
        """Uint8 [*grid]: the most probable class by the blended logits [windows, *window, classes]."""
        classes: Mask = self.blended(logits).argmax(-1).astype(np.uint8)
        return classes

    @property
    def _starts(self) -> tuple[Sides, ...]:
        return tuple(_starts(side, size) for side, size in zip(self.grid, self.window, strict=True))

    @property
    def _bordered(self) -> Sides:
        return tuple(map(max, self.grid, self.window))

    @property
    def _border(self) -> tuple[tuple[int, int], ...]:
        missing = [bordered - side for bordered, side in zip(self._bordered, self.grid, strict=True)]
        return tuple((each // 2, each - each // 2) for each in missing)

    def _parts(self) -> Iterator[tuple[slice, ...]]:
        """Where each window lies in the whole as it was bordered."""
        for corner in self.corners:
            yield tuple(slice(first, first + size) for first, size in zip(corner, self.window, strict=True))

    def _inside(self, whole: npt.NDArray[Any]) -> npt.NDArray[Any]:
        border = zip(self._border, self.grid, strict=True)
        return whole[tuple(slice(before, before + side) for (before, _), side in border)]


@cache
def window_weights(window: Sides) -> Pixels:
    """Float32 [*window, 1], the largest in the middle."""
    along = [np.exp(-0.5 * ((np.arange(size) - (size - 1) / 2) / (_NARROW * size)) ** 2) for size in window]
    weights: Pixels = np.maximum(reduce(np.multiply.outer, along), LEAST_WEIGHT).astype(np.float32)[..., None]
    return weights


def covers_of(grids: Sequence[Sides], window: Sides) -> list[Cover]:
    """One cover for each whole, of `grids` that say of each window, in order, which whole it was cut from.

    DataError where they are not whole covers.
    """
    found, place = [], 0
    while place < len(grids):
        cover = Cover(tuple(grids[place]), window)
        if tuple(grids[place : place + len(cover)]) != (grids[place],) * len(cover):
            raise DataError("windows of a picture are missing", "Take all windows of a picture, in their order.")
        found.append(cover)
        place += len(cover)
    return found


def _starts(side: int, size: int) -> Sides:
    """Where windows begin along one side, evenly: each has at least `OVERLAP` of its side in common with the next."""
    if side <= size:
        return (0,)
    furthest = size - int(np.ceil(OVERLAP * size))
    steps = -(-(side - size) // furthest)
    return tuple(place * (side - size) // steps for place in range(steps + 1))
