"""JPEG, PNG, TIFF, BMP and WebP, by Pillow: 8, 16 and 32 bit, grey, colour, palettes, transparency, orientation.

Colours of 16 bits a channel are read at 8 (Pillow has no more). Of several pages or frames the first is taken.
"""

from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image as Pillow
from PIL import ImageOps, UnidentifiedImageError

from primum.errors import DataError
from primum.imaging.image import Picture, Pixels
from primum.imaging.intensity import stretch
from primum.imaging.reader import check_size, reader

TURNED: Final = "turned as EXIF says"

_JPEG: Final = b"\xff\xd8\xff"
_PNG: Final = b"\x89PNG\r\n\x1a\n"
_TIFF: Final = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_BMP_HEADERS: Final = (12, 40, 52, 56, 64, 108, 124)
_ORIENTATION: Final = 0x0112
_LYING: Final = (5, 6, 7, 8)  # Pillow 13.0 mixes up rows and columns of such a TIFF if it is not compressed
_PHOTOMETRIC: Final = 262
_DEEP: Final = ("I", "I;16", "I;16B", "I;16L", "I;16N", "F")


@reader("JPEG", lambda head: head.startswith(_JPEG))
def read_jpeg(path: Path) -> Picture:
    """A JPEG file; raises DataError where it is damaged or cut off."""
    return _read(path, "JPEG")


@reader("PNG", lambda head: head.startswith(_PNG))
def read_png(path: Path) -> Picture:
    """A PNG file; a picture of 1 bit per pixel is a mask and is refused."""
    return _read(path, "PNG")


@reader("TIFF", lambda head: head.startswith(_TIFF))
def read_tiff(path: Path) -> Picture:
    """The first page of a TIFF file; a picture of 1 bit per pixel is a mask and is refused."""
    return _read(path, "TIFF")


@reader("BMP", lambda head: head.startswith(b"BM") and int.from_bytes(head[14:18], "little") in _BMP_HEADERS)
def read_bmp(path: Path) -> Picture:
    """A BMP file; a picture of 1 bit per pixel is a mask and is refused."""
    return _read(path, "BMP")


@reader("WebP", lambda head: head.startswith(b"RIFF") and head[8:12] == b"WEBP")
def read_webp(path: Path) -> Picture:
    """The first frame of a WebP file."""
    return _read(path, "WebP")


def _read(path: Path, kind: str) -> Picture:
    try:
        with Pillow.open(path, formats=[kind]) as opened:
            check_size(opened.height, opened.width)
            mode = opened.mode
            orientation = opened.getexif().get(_ORIENTATION, 1)
            if kind == "TIFF" and orientation in _LYING:
                raise DataError("is a TIFF turned by its Orientation tag", "Save it upright.")
            turned = (TURNED,) if orientation in range(2, 9) else ()
            frames = int(getattr(opened, "n_frames", 1))
            white_is_low = kind == "TIFF" and getattr(opened, "tag_v2", {}).get(_PHOTOMETRIC) == 0
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except Pillow.DecompressionBombError as error:
        raise DataError("is too large: more pixels than a picture has", "Export it smaller.") from error
    except UnidentifiedImageError as error:
        raise DataError(f"cannot be decoded as {kind}", "Export it again.") from error
    except (OSError, SyntaxError, EOFError) as error:
        raise DataError(f"is damaged or cut off ({kind})", "Copy or export it again.") from error
    if mode == "1":
        raise DataError("is a mask (1 bit per pixel), not a picture", "Keep masks in another folder.")
    notices = (*turned, f"first of {frames} frames") if frames > 1 else turned
    if mode in _DEEP:
        bits = 32 if mode in ("I", "F") and kind == "TIFF" else 16
        shown = _deep(upright)
        shown = np.float32(1) - shown if white_is_low else shown
        return Picture(shown, kind, notices=(*notices, f"{bits} bit: darkest and brightest 0.5 % cut"))
    values, more = _shallow(upright)
    return Picture(values, kind, notices=notices + more)


def _deep(opened: Pillow.Image) -> Pixels:
    """More than 8 bits say nothing about which value is white (12 bits in 16 are usual): stretched by percentiles."""
    values = np.asarray(opened, np.float64)
    if not np.isfinite(values).all():
        raise DataError("has pixels that are no numbers (infinite or NaN)", "Export it again.")
    return stretch(values)[None]


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
