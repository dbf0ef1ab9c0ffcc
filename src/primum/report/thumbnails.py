"""Small pictures inside a page: JPEG in a data URI, so that nothing is fetched and nothing else is written."""

import base64
from collections.abc import Sequence
from io import BytesIO
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw

Float32 = npt.NDArray[np.float32]

_QUALITY: Final = 82
_MARK: Final = (240, 80, 20)
_TINT: Final = 0.45
_COLOURS: Final = ((0, 0, 0), (230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (204, 121, 167))
"""Of masks: class 0 is not painted; Okabe and Ito (2008), begun again after the fifth."""


def picture(
    values: Float32,
    side: int,
    *,
    boxes: Sequence[tuple[int, int, int, int]] = (),
    mask: npt.NDArray[np.uint8] | None = None,
) -> str:
    """An `img` element at most `side` pixels wide and high; its text names nothing.

    `values`: float32 [1 or 3, rows, columns] in [0, 1]. `boxes`: (top, left, bottom, right) in its pixels, framed.
    `mask`: uint8 [rows, columns], painted over it. JPEG without any of the file's own information.
    """
    shown = _rgb(values, mask)
    longest = max(shown.size)
    if boxes:
        _frame(shown, boxes, max(2, round(2 * longest / side)))
    if longest > side:
        shown.thumbnail((side, side), Pillow.Resampling.BOX if not boxes else Pillow.Resampling.LANCZOS)
    buffer = BytesIO()
    shown.save(buffer, "JPEG", quality=_QUALITY)
    data = base64.b64encode(buffer.getvalue()).decode()
    return f'<img alt="" width="{shown.width}" height="{shown.height}" src="data:image/jpeg;base64,{data}">'


def cut_out(values: Float32, box: tuple[int, int, int, int]) -> Float32:
    """The part of a picture around a row of letters: room for six more at both ends, and for half a line beside it."""
    top, left, bottom, right = box
    high, wide = bottom - top, right - left
    down, across = (high // 2 + 2, 6 * high) if wide >= high else (6 * wide, wide // 2 + 2)
    return values[:, max(0, top - down) : bottom + down, max(0, left - across) : right + across]


def _rgb(values: Float32, mask: npt.NDArray[np.uint8] | None) -> Pillow.Image:
    if len(values) not in (1, 3):
        values = values[len(values) // 2][None]  # a slice between its neighbours
    colours = np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0) * np.float32(255)
    if mask is not None:
        colours = colours.copy()
        for number in range(1, int(mask.max()) + 1):
            colour = np.asarray(_COLOURS[1 + (number - 1) % (len(_COLOURS) - 1)], np.float32)
            colours[mask == number] = (1 - _TINT) * colours[mask == number] + _TINT * colour
    return Pillow.fromarray(np.ascontiguousarray(colours.clip(0, 255).round().astype(np.uint8)))


def _frame(shown: Pillow.Image, boxes: Sequence[tuple[int, int, int, int]], width: int) -> None:
    draw = ImageDraw.Draw(shown)
    for top, left, bottom, right in boxes:
        draw.rectangle((left - 2 * width, top - 2 * width, right + 2 * width, bottom + 2 * width), None, _MARK, width)
