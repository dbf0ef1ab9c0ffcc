"""Where a picture lies in the square that a model sees: the same places for its pixels and for its mask.

A picture of rows x columns is cut or bordered, sampled anew, and bordered with black, as `placement` decides once;
`place` carries it out with a triangle filter (no aliasing), `place_mask` with the nearest pixel (no new classes).
"""

from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow

from primum.errors import DataError
from primum.imaging.image import Pixels
from primum.imaging.reader import check_size

Fit = Literal["squash", "crop", "pad", "windows", "patches"]
"""A square each; "windows" is several of them (windows.py), "patches" boxes of a volume (patches.py)."""
Spacing = tuple[float, float]


@dataclass(frozen=True)
class Sampling:
    """The part of a picture inside `box` (left, top, right, bottom, in pixels) becomes `rows` x `columns` pixels."""

    box: tuple[float, float, float, float]
    rows: int
    columns: int


@dataclass(frozen=True)
class Placement:
    """First `cut` (top, left, rows, columns; may reach outside, which is black), then samplings, then a black border.

    The second and later samplings take the whole of what the one before made.
    `spacing`: (row, column) mm of the pixels of the square, or None where the picture does not say its own.
    """

    cut: tuple[int, int, int, int]
    samplings: tuple[Sampling, ...]
    size: int
    spacing: Spacing | None


def placement(
    rows: int, columns: int, spacing: Spacing | None, *, size: int, fit: Fit, target: float | None = None
) -> Placement:
    """How a picture of `rows` x `columns` pixels of `spacing` mm becomes `size` x `size`.

    Without `target` the whole picture ("squash"), its central square ("crop") or all of it in a black square ("pad")
    becomes the square. With `target` (mm) it is sampled to pixels of that side first: "squash" then squeezes it, "crop"
    keeps the millimetres and takes the centre, black around it where it is smaller, and "pad" does the same but
    refuses to lose anything. Raises DataError where `target` is asked and `spacing` is None, or nothing would be left.
    """
    if target is not None:
        return _to_millimetres(rows, columns, spacing, size, fit, target)
    side = min(rows, columns) if fit == "crop" else max(rows, columns)
    high, wide = (rows, columns) if fit == "squash" else (side, side)
    cut = offset(rows, high), offset(columns, wide), high, wide
    sampling = Sampling((0, 0, wide, high), size, size)
    found = None if spacing is None else (spacing[0] * high / size, spacing[1] * wide / size)
    return Placement(cut, (sampling,), size, found)


def offset(side: int, target: int) -> int:
    """Where a centred part of `target` pixels begins: negative where it is larger than `side`."""
    return (side - target) // 2 if target <= side else -((target - side) // 2)


def _to_millimetres(rows: int, columns: int, spacing: Spacing | None, size: int, fit: Fit, target: float) -> Placement:
    mm = _known(spacing)
    fitting = _fitting(rows, columns, mm, target)
    if fit == "pad" and max(fitting) > size:
        raise DataError(
            f"has {fitting[1]} x {fitting[0]} pixels of {target:g} mm, more than {size}",
            "Ask for a larger `size` or `spacing`, or for fit = crop.",
        )
    high, wide = fitting if fit == "squash" else (min(side, size) for side in fitting)
    samplings = [_central(rows, columns, mm, high, wide, target)]
    found = target, target
    if fit == "squash":
        samplings.append(Sampling((0, 0, wide, high), size, size))
        found = target * high / size, target * wide / size
    return Placement((0, 0, rows, columns), tuple(samplings), size, found)


def whole_in_millimetres(rows: int, columns: int, spacing: Spacing | None, target: float) -> Sampling:
    """The whole picture at pixels of `target` mm; what is left over at its border is less than a pixel.

    Raises DataError where `spacing` is None, or the picture is smaller than a pixel, or would become too large.
    """
    mm = _known(spacing)
    return _central(rows, columns, mm, *_fitting(rows, columns, mm, target), target)


def _known(spacing: Spacing | None) -> Spacing:
    if spacing is None:
        raise DataError("does not say how many mm its pixels have", "Use images with a spacing, or no `spacing`.")
    return spacing


def _fitting(rows: int, columns: int, spacing: Spacing, target: float) -> tuple[int, int]:
    """How many whole pixels of `target` mm there are."""
    fitting = int(rows * spacing[0] / target + 1e-6), int(columns * spacing[1] / target + 1e-6)
    if min(fitting) < 1:
        raise DataError(f"is smaller than one pixel of {target:g} mm", "Check its spacing, or ask for a finer one.")
    return fitting


def _central(rows: int, columns: int, spacing: Spacing, high: int, wide: int, target: float) -> Sampling:
    """The middle of a picture as `high` x `wide` pixels of `target` mm."""
    check_size(high, wide)
    tall, broad = high * target / spacing[0], wide * target / spacing[1]
    top, left = max(0.0, (rows - tall) / 2), max(0.0, (columns - broad) / 2)
    box = left, top, min(float(columns), left + broad), min(float(rows), top + tall)
    return Sampling(box, high, wide)


def place(channel: Pixels, where: Placement) -> Pixels:
    """Float32 [rows, columns] in [0, 1] -> [size, size]: triangle filter over what a new pixel covers, else bilinear."""
    placed: Pixels = np.clip(_place(channel, where, Pillow.Resampling.BILINEAR), 0, 1)
    return placed


def place_mask(mask: npt.NDArray[np.uint8], where: Placement) -> npt.NDArray[np.uint8]:
    """Uint8 [rows, columns] -> [size, size]: the nearest pixel; 0 (background) where there was none.

    Samplings that follow each other are done at once: the nearest of the nearest may be another pixel.
    """
    first, last = where.samplings[0], where.samplings[-1]
    once = replace(where, samplings=(Sampling(first.box, last.rows, last.columns),))
    return _place(mask, once, Pillow.Resampling.NEAREST)


def _place(values: npt.NDArray[Any], where: Placement, how: Pillow.Resampling) -> npt.NDArray[Any]:
    values = _window(values, *where.cut)
    for sampling in where.samplings:
        picture = Pillow.fromarray(np.ascontiguousarray(values))
        values = np.asarray(picture.resize((sampling.columns, sampling.rows), how, box=sampling.box))
    rows, columns = values.shape
    return _window(values, offset(rows, where.size), offset(columns, where.size), where.size, where.size)


def _window(values: npt.NDArray[Any], top: int, left: int, rows: int, columns: int) -> npt.NDArray[Any]:
    """The part of `values` that begins at (top, left), 0 outside of it."""
    high, wide = values.shape
    inside = values[max(0, top) : top + rows, max(0, left) : left + columns]
    before = max(0, -top), max(0, -left)
    after = rows - before[0] - inside.shape[0], columns - before[1] - inside.shape[1]
    if (high, wide) == (rows, columns) and not any(before):
        return values
    return np.pad(inside, ((before[0], after[0]), (before[1], after[1])))
