"""The one way from a file to the pixels that a model sees: the same code for training and for diagnosis."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from PIL import Image as Pillow

from primum.errors import DataError, ModelError
from primum.imaging import dicom as _dicom  # noqa: F401 - registers its reader
from primum.imaging import photo as _photo  # noqa: F401 - registers its readers
from primum.imaging.image import Image, Picture, Pixels, Provenance
from primum.imaging.intensity import stretch
from primum.imaging.reader import decode

Fit = Literal["squash", "crop", "pad"]
Intensity = Literal["display", "stretch"]

COLOUR_NOISE: Final = 8 / 255
"""A picture whose channels differ by no more is grey: JPEG stores grey as colour with such errors."""


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes `channels` x `size` x `size` pixels.

    `fit`: "squash" changes the aspect to a square, "crop" takes the central square, "pad" adds black to the shorter
    side. `intensity`: "display" keeps the grey levels that a screen would show, "stretch" cuts the darkest and
    brightest 0.5 % of every picture.
    """

    size: int = 64
    channels: int = 1
    fit: Fit = "squash"
    intensity: Intensity = "display"

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096:
            raise DataError(f"images are prepared at 8 to 4096 pixels a side, not {self.size}", "Change `size`.")
        if self.channels not in (1, 3):
            raise DataError(f"images have 1 channel (grey) or 3 (colour), not {self.channels}", "Change `channels`.")
        if self.fit not in get_args(Fit) or self.intensity not in get_args(Intensity):
            raise DataError(
                "unknown preparation", f"`fit` is one of {get_args(Fit)}, `intensity` one of {get_args(Intensity)}."
            )

    def to_card(self) -> dict[str, Any]:
        """For a model card: plain values."""
        return asdict(self)

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> "Preparation":
        """From a model card; a missing or an unknown key is a ModelError that names it."""
        names = set(cls.__dataclass_fields__)
        if set(card) != names:
            wrong = ", ".join(sorted(set(card) ^ names))
            raise ModelError(f"the card's preparation has missing or unknown keys: {wrong}", "Use its own Primum.")
        if not isinstance(card["size"], int) or not isinstance(card["channels"], int):
            raise ModelError("the card's `size` and `channels` must be whole numbers", "Copy the card again.")
        try:
            return cls(**card)
        except DataError as error:
            raise ModelError(f"the card's preparation is wrong: {error.message}", error.hint) from error


def read_image(path: Path, preparation: Preparation) -> Image:
    """One file, prepared exactly as for training; raises DataError that names the file. Its patient is not kept."""
    try:
        picture = decode(path)
        pixels, spacing = prepare(picture, preparation)
    except DataError as error:
        raise DataError(f"{path} {error.message}", error.hint) from error
    return Image(pixels, spacing, None, Provenance(path.name, picture.format, picture.notices))


def prepare(picture: Picture, preparation: Preparation) -> tuple[Pixels, tuple[float, float] | None]:
    """Float32 [channels, size, size] in [0, 1], and mm per prepared pixel (or None).

    Raises DataError where colour meets a model of grey, or where nothing is left to see.
    """
    values = _channels(picture.values, preparation.channels)
    if preparation.intensity == "stretch":
        values = stretch(values.astype(np.float64))
    values = _square(values, preparation.fit)
    rows, columns = values.shape[1:]
    pixels = np.stack([_resize(channel, preparation.size) for channel in values])
    if float(pixels.max()) - float(pixels.min()) < 1e-4:
        raise DataError("shows nothing at this size: all its pixels are equal", "Check the picture.")
    if picture.spacing is None:
        return pixels, None
    row, column = picture.spacing
    return pixels, (row * rows / preparation.size, column * columns / preparation.size)


def _channels(values: Pixels, channels: int) -> Pixels:
    if len(values) == channels:
        return values
    if channels == 3:
        return np.repeat(values, 3, axis=0)
    if float((values.max(axis=0) - values.min(axis=0)).max()) > COLOUR_NOISE:
        raise DataError("is in colour, grey is asked", "Export it in grey, or make a study with 3 channels.")
    grey: Pixels = values.mean(axis=0, keepdims=True, dtype=np.float32)
    return grey


def _square(values: Pixels, fit: Fit) -> Pixels:
    rows, columns = values.shape[1:]
    if fit == "crop":
        side = min(rows, columns)
        top, left = (rows - side) // 2, (columns - side) // 2
        return values[:, top : top + side, left : left + side]
    if fit == "pad":
        side = max(rows, columns)
        top, left = (side - rows) // 2, (side - columns) // 2
        return np.pad(values, ((0, 0), (top, side - rows - top), (left, side - columns - left)))
    return values


def _resize(channel: Pixels, size: int) -> Pixels:
    """Triangle filter over the area that a new pixel covers (no aliasing); bilinear where it enlarges."""
    resized = Pillow.fromarray(np.ascontiguousarray(channel)).resize((size, size), Pillow.Resampling.BILINEAR)
    return np.clip(np.asarray(resized, np.float32), 0, 1)
