"""Class numbers: in the pixels of a picture (PNG, TIFF, BMP or GIF, of 1, 8 or 16 bits, or a palette's places), and
what they mean."""

from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import UnidentifiedImageError

from primum.errors import DataError
from primum.imaging.reader import check_size, decoding, read_head

MOST_CLASSES: Final = 64
"""Classes where nobody says how many there are; a larger value is taken for a grey level by mistake."""
_FORMATS: Final = ("PNG", "TIFF", "BMP", "GIF", "JPEG")
_MAGIC: Final = (b"\x89PNG", b"II*\0", b"MM\0*", b"II+\0", b"MM\0+", b"BM", b"GIF8", b"\xff\xd8\xff")


def is_picture(path: Path) -> bool:
    """Whether a file looks like a picture of a known kind."""
    return read_head(path).startswith(_MAGIC)


def read_mask_picture(path: Path) -> npt.NDArray[np.uint8]:
    """The values of the pixels, uint8 [rows, columns]; raises DataError where they cannot be class numbers."""
    with decoding("a mask"):
        try:
            with Pillow.open(path, formats=_FORMATS) as opened:
                check_size(opened.height, opened.width)
                if opened.format == "JPEG":
                    raise DataError("is a JPEG, which changes the values of a mask", "Save masks as PNG.")
                if opened.getexif().get(0x0112, 1) != 1:
                    raise DataError("is turned by an Orientation tag", "Save the mask upright.")
                if getattr(opened, "n_frames", 1) > 1:
                    raise DataError("holds several pictures", "Save one mask in a file.")
                opened.load()
                return class_numbers(_plane(opened))
        except UnidentifiedImageError as error:
            raise DataError("cannot be decoded as a picture", "Save the mask as PNG.") from error
        except (OSError, SyntaxError, EOFError) as error:
            raise DataError("is damaged or cut off", "Copy or export it again.") from error


def _plane(opened: Pillow.Image) -> npt.NDArray[Any]:
    if opened.mode in ("1", "L", "P", "I", "I;16", "I;16B", "I;16L", "I;16N"):
        return np.asarray(opened)
    if opened.mode not in ("LA", "RGB", "RGBA"):
        raise DataError("holds no class numbers", "Save the mask as a grey PNG.")
    values = np.asarray(opened)
    if opened.mode in ("LA", "RGBA"):
        if (values[..., -1] != 255).any():
            raise DataError("is transparent in parts", "Save the mask as a grey PNG.")
        values = values[..., :-1]
    if (values != values[..., :1]).any():
        raise DataError("is in colour: a mask holds class numbers", "Save the mask as a grey PNG, or with a palette.")
    return values[..., 0]


def class_numbers(values: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """Any numbers as uint8; raises DataError where one is not whole, or not between 0 and 255."""
    whole = values.astype(np.uint8) if values.dtype != np.bool_ else values.view(np.uint8)
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        raise DataError("has values that are not numbers", "Save class numbers only.")
    if values.dtype not in (np.bool_, np.uint8):
        if values.min() < 0 or values.max() > 255 or (np.asarray(values) != np.rint(values)).any():
            raise DataError("has values that are not class numbers from 0 to 255", "Save class numbers only.")
        whole = np.rint(values).astype(np.uint8)
    return whole


def class_places(labels: dict[int, str], classes: tuple[str, ...]) -> dict[int, int]:
    """Which class a number in a file means: number -> place in `classes`; `labels`: the file's names of its numbers.

    By name (capitals do not count) where all names are classes, by number where none is: a name at another number
    would otherwise be learned as something else. Raises DataError where only some are, or a number is no class.
    """
    known = {name.strip().lower(): place for place, name in enumerate(classes)}
    named = {number: known[label.strip().lower()] for number, label in labels.items() if label.strip().lower() in known}
    if len(named) == len(labels):
        return named
    if named or max(labels) >= len(classes):
        raise DataError(
            "has labels that are no classes of the study", f"Name them as the classes are: {', '.join(classes)}."
        )
    return {number: number for number in labels}


def as_classes(values: npt.NDArray[np.uint8], count: int | None) -> npt.NDArray[np.uint8]:
    """Class numbers below `count` (None: as many as there are); 0 and 255 alone are background and class 1.

    Raises DataError that names a value which is no class.
    """
    found = np.flatnonzero(np.bincount(values.ravel(), minlength=256)).tolist()
    if count in (None, 2) and found in ([0, 255], [255]):
        return values // np.uint8(255)
    limit = MOST_CLASSES if count is None else count
    if found[-1] >= limit:
        raise DataError(f"has the value {found[-1]}, which is no class (0 to {limit - 1})", "Save class numbers only.")
    return values
