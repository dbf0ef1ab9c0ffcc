"""JPEG and PNG, by Pillow: 8 and 16 bit, grey, colour, palettes, transparency, EXIF orientation."""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from primum.errors import DataError
from primum.imaging.image import Picture, Pixels
from primum.imaging.intensity import stretch
from primum.imaging.reader import check_size, reader

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_DEEP: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


@reader("JPEG", lambda head: head.startswith(_JPEG))
def read_jpeg(path: Path) -> Picture:
    """A JPEG file; raises DataError where it is damaged or cut off."""
    return _read(path, "JPEG")


@reader("PNG", lambda head: head.startswith(_PNG))
def read_png(path: Path) -> Picture:
    """A PNG file; a picture of 1 bit per pixel is a mask and is refused."""
    return _read(path, "PNG")


def _read(path: Path, kind: str) -> Picture:
    try:
        with Pillow.open(path, formats=[kind]) as opened:
            check_size(opened.height, opened.width)
            mode = opened.mode
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except UnidentifiedImageError as error:
        raise DataError(f"cannot be decoded as {kind}", "Export it again.") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise DataError(f"is damaged or cut off ({kind})", "Copy or export it again.") from error
    if mode == "1":
        raise DataError("is a mask (1 bit per pixel), not a picture", "Keep masks in another folder.")
    turned = () if upright.size == opened.size and not opened.getexif().get(0x0112, 1) > 1 else ("turned as EXIF says",)
    if mode in _DEEP:
        return Picture(_deep(upright), kind, notices=(*turned, "16 bit: darkest and brightest 0.5 % cut"))
    values, notices = _shallow(upright)
    return Picture(values, kind, notices=turned + notices)


def _deep(opened: Pillow.Image) -> Pixels:
    """More than 8 bits say nothing about which value is white (12 bits in 16 are usual): stretched by percentiles."""
    return stretch(np.asarray(opened, np.float64))[None]


def _shallow(opened: Pillow.Image) -> tuple[Pixels, tuple[str, ...]]:
    notices: tuple[str, ...] = ()
    if opened.has_transparency_data:
        layered = opened.convert("RGBA")
        if layered.getchannel("A").getextrema() != (255, 255):
            notices = ("transparent parts shown black",)
        black = Pillow.new("RGBA", layered.size, (0, 0, 0, 255))
        opened = Pillow.alpha_composite(black, layered).convert("RGB")
    if opened.mode in ("L", "LA"):
        return np.asarray(opened.convert("L"), np.float32)[None] / np.float32(255), notices
    colours = np.asarray(opened.convert("RGB"), np.float32) / np.float32(255)
    return np.ascontiguousarray(colours.transpose(2, 0, 1)), notices
