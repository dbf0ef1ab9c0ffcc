"""The one way from a file to the pixels that a model sees: the same code for training and for diagnosis."""

from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np

from primum.errors import DataError, ModelError
from primum.imaging import dicom as _dicom  # noqa: F401 - registers its reader
from primum.imaging import photo as _photo  # noqa: F401 - registers its readers
from primum.imaging.geometry import Fit, Placement, placement
from primum.imaging.image import Image, Picture, Pixels, Provenance
from primum.imaging.intensity import Preset, clahe, preset_window, stretch
from primum.imaging.reader import decode
from primum.imaging.volume import Axis
from primum.imaging.windows import Layout, Windows, place_levels, windows

Intensity = Literal["display", "stretch", "clahe"]

IN_COLOUR: Final = "is in colour, grey is asked"
"""Why a picture in colour is set aside where images have one channel."""

COLOUR_NOISE: Final = 8 / 255
"""A picture whose channels differ by no more is grey: JPEG stores grey as colour with such errors."""


_CHOICES: Final = {"fit": Fit, "intensity": Intensity, "window": Preset, "axis": Axis}
_MOST_CONTEXT: Final = 3
_FINEST, _COARSEST = 0.001, 1000.0
_SMALLEST_DEPTH, _LARGEST_DEPTH = 4, 1024
_AXES: Final = 3
_CONTRAST: Final = 1e-4
_FIRST_KEYS: Final = ("size", "channels", "fit", "intensity")


@dataclass(frozen=True)
class Preparation:
    """How a picture, or each slice of a volume, becomes `channels` x `size` x `size` pixels; or a volume patches.

    `fit`: "squash" changes the aspect to a square, "crop" takes the central square, "pad" adds black to the shorter
    side, and with "windows" it keeps its resolution and becomes several squares, for masks only (windows.py), as
    numbers about the mean of the whole picture. `intensity`: "display" keeps the grey levels that a screen would show, "stretch" cuts the darkest and
    brightest 0.5 % of every picture, "clahe" equalises what a screen would show, tile by tile; for a volume each is
    decided over the whole volume. `spacing`: mm; the picture is sampled to pixels of this side before the square is
    made, and with "crop" and "pad" they keep it (geometry.py); images that do not say their mm are refused. `window`:
    a radiologist's window on Hounsfield values, before `intensity`; images without such values are refused. `axis`:
    how volumes are cut. With the fit "patches", for masks of volumes, a volume is sampled to voxels of `spacing` mm (one
    number, or slice, row and column) and becomes several boxes of `depth` (else `size`) x `size` x `size` voxels
    (patches.py). `context`: so many neighbouring slices on each side become channels of their own, the slice
    itself in the middle, the last slice repeated at the ends; then `channels` is 2 x context + 1, of grey volumes.
    """

    size: int = 64
    channels: int = 1
    fit: Fit = "squash"
    intensity: Intensity = "display"
    spacing: float | tuple[float, float, float] | None = None
    window: Preset = ""
    axis: Axis = "axial"
    context: int = 0
    depth: int | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096:
            raise DataError(f"images are prepared at 8 to 4096 pixels a side, not {self.size}", "Change `size`.")
        if not 0 <= self.context <= _MOST_CONTEXT:
            raise DataError(f"0 to {_MOST_CONTEXT} neighbouring slices, not {self.context}", "Change `context`.")
        if self.context and self.channels != 2 * self.context + 1:
            raise DataError(
                f"with context {self.context} an image has {2 * self.context + 1} channels, not {self.channels}",
                f"Set `channels` to {2 * self.context + 1}.",
            )
        if not self.context and self.channels not in (1, 3):
            raise DataError(f"images have 1 channel (grey) or 3 (colour), not {self.channels}", "Change `channels`.")
        if not all(isfinite(side) and _FINEST <= side <= _COARSEST for side in self._sides):
            raise DataError(f"pixels of {_FINEST:g} to {_COARSEST:g} mm, not {self.spacing}", "Change `spacing`.")
        for name, kind in _CHOICES.items():
            if getattr(self, name) not in get_args(kind):
                raise DataError("unknown preparation", f"`{name}` is one of {get_args(kind)}.")
        self._check_patches()

    def _check_patches(self) -> None:
        if self.fit != "patches":
            if self.depth is not None or len(self._sides) > 1:
                raise DataError("a depth, and a spacing of three numbers, are for patches", 'Set `fit` to "patches".')
            return
        if not self._sides:
            raise DataError("patches are of voxels of so many mm", "Set `spacing`.")
        if not _SMALLEST_DEPTH <= self.shape[0] <= _LARGEST_DEPTH:
            raise DataError(f"patches have {_SMALLEST_DEPTH} to {_LARGEST_DEPTH} slices", "Change `depth`.")
        if self.channels != 1 or self.context or self.axis != "axial":
            raise DataError("patches are grey and have no axis", "Leave `channels`, `context` and `axis` out.")

    @property
    def _sides(self) -> tuple[float, ...]:
        if self.spacing is None:
            return ()
        return self.spacing if isinstance(self.spacing, tuple) else (self.spacing,)

    @property
    def shape(self) -> tuple[int, ...]:
        """Pixels of what a model sees along each axis: [size, size], or [depth, size, size] of patches."""
        square = self.size, self.size
        return (self.size if self.depth is None else self.depth, *square) if self.fit == "patches" else square

    @property
    def voxel(self) -> tuple[float, float, float]:
        """Mm of a voxel of patches from slice to slice, row to row, column to column."""
        slices, rows, columns = self._sides * (3 // len(self._sides))
        return slices, rows, columns

    @property
    def pixel(self) -> float | None:
        """Mm of a pixel of a square or window, None where nothing is asked."""
        return None if isinstance(self.spacing, tuple) else self.spacing

    def layout(self, rows: int, columns: int, spacing: tuple[float, float] | None) -> Layout:
        """Where a picture of `rows` x `columns` pixels of `spacing` mm lies in the square, or in windows."""
        if self.fit == "patches":
            raise DataError("is a picture, and patches are cut from volumes", "Give volumes, or ask for windows.")
        if self.fit == "windows":
            return self.windows(rows, columns, spacing)
        return self.placement(rows, columns, spacing)

    def windows(self, rows: int, columns: int, spacing: tuple[float, float] | None) -> Windows:
        """How it is covered by windows; raises DataError."""
        return windows(rows, columns, spacing, size=self.size, target=self.pixel)

    def placement(self, rows: int, columns: int, spacing: tuple[float, float] | None) -> Placement:
        """Where it lies in the one square; raises DataError, also where there is no one square."""
        if self.fit in ("windows", "patches"):
            raise DataError(
                f"is cut into {self.fit} only for a mask", "Take squash, crop or pad for one class a picture."
            )
        return placement(rows, columns, spacing, size=self.size, fit=self.fit, target=self.pixel)

    def to_card(self) -> dict[str, Any]:
        """For a model card: plain values; of the keys that first cards did not have, those that are set."""
        standard = Preparation()
        return {
            name: value
            for name, value in asdict(self).items()
            if name in _FIRST_KEYS or value != getattr(standard, name)
        }

    @classmethod
    def from_card(cls, card: dict[str, Any]) -> "Preparation":
        """From a model card; a missing or an unknown key is a ModelError that names it."""
        wrong = {*_FIRST_KEYS} - set(card) | set(card) - set(cls.__dataclass_fields__)
        if wrong:
            named = ", ".join(sorted(wrong))
            raise ModelError(f"the card's preparation has missing or unknown keys: {named}", "Use its own Primum.")
        for name in ("size", "channels", "context", "depth"):
            if type(card.get(name, 0)) is not int:
                raise ModelError(f"the card's `{name}` must be a whole number", "Copy the card again.")
        sides = card.get("spacing", 1.0)
        several = isinstance(sides, (list, tuple)) and len(sides) == _AXES
        if not all(type(side) in (int, float) for side in (sides if several else (sides,))):
            raise ModelError("the card's `spacing` must be a number, or three", "Copy the card again.")
        try:
            return cls(**card | ({"spacing": tuple(sides)} if several else {}))
        except DataError as error:
            raise ModelError(f"the card's preparation is wrong: {error.message} {error.hint}", error.hint) from error


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

    Raises DataError where colour meets a model of grey, where nothing is left to see, or where the picture lacks what
    the preparation needs (mm, Hounsfield values, neighbouring slices); and where it asks for windows.
    """
    rows, columns = picture.values.shape[1:]
    where = preparation.placement(rows, columns, picture.spacing)
    return prepare_layout(picture, preparation, where)[0], where.spacing


def prepare_layout(picture: Picture, preparation: Preparation, layout: Layout) -> Pixels:
    """Float32 [n, channels, size, size] in [0, 1]: one square, or all windows of the picture; DataError as `prepare`."""
    if preparation.context:
        raise DataError("is a single picture without neighbouring slices", "Give volumes, or ask for context 0.")
    values = _channels(_shown(picture, preparation.window), preparation.channels)
    if preparation.intensity == "stretch":
        values = stretch(values.astype(np.float64))
    elif preparation.intensity == "clahe":
        values = _equalised(values)
    pixels = place_levels(values, layout).swapaxes(0, 1)
    require_contrast(pixels, "picture")
    return pixels


def require_contrast(pixels: Pixels, what: str) -> None:
    """DataError where nothing is left to see of a picture or volume (`what`)."""
    if float(pixels.max()) - float(pixels.min()) < _CONTRAST:
        raise DataError("shows nothing at this size: all its pixels are equal", f"Check the {what}.")


def _shown(picture: Picture, preset: str) -> Pixels:
    if not preset:
        return picture.values
    if picture.hounsfield is None:
        raise DataError(
            f"has no Hounsfield values, which the window {preset!r} needs", "Only CT has them: leave `window` empty."
        )
    return preset_window(picture.hounsfield, preset)


def _equalised(values: Pixels) -> Pixels:
    """Each channel alike: the mean of the channels is equalised, and the colours are kept."""
    grey: Pixels = values.mean(axis=0, dtype=np.float32)
    equal = clahe(grey)
    if len(values) == 1:
        return equal[None]
    coloured: Pixels = np.clip(values * (equal / np.maximum(grey, np.float32(1e-6))), 0, 1)
    return coloured


def _channels(values: Pixels, channels: int) -> Pixels:
    if len(values) == channels:
        return values
    if channels == 3:
        return np.repeat(values, 3, axis=0)
    if float((values.max(axis=0) - values.min(axis=0)).max()) > COLOUR_NOISE:
        raise DataError(IN_COLOUR, "Export it in grey, or make a study with 3 channels.")
    grey: Pixels = values.mean(axis=0, keepdims=True, dtype=np.float32)
    return grey
