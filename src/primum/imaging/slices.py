"""A volume -> prepared slices; a mask -> the same slices of it. The same code for training and for diagnosis."""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from primum.errors import DataError
from primum.imaging.image import Image, Pixels, Provenance
from primum.imaging.intensity import clahe, preset_window, stretch_volume, window
from primum.imaging.prepare import Preparation, require_contrast
from primum.imaging.series import read_volume
from primum.imaging.volume import Volume, cut, cut_spacing
from primum.imaging.windows import Layout, place_classes, place_levels


def read_slices(path: Path, preparation: Preparation) -> tuple[Image, ...]:
    """The slices of a volume (a file, or a folder of one DICOM series), prepared exactly as for training, in order.

    Raises DataError that names the path. The patient is not kept.
    """
    try:
        volume = read_volume(path)
        pixels, spacing = prepare_volume(volume, preparation)
    except DataError as error:
        raise DataError(f"{path} {error.message}", error.hint) from error
    provenance = Provenance(path.name, volume.format, volume.notices)
    return tuple(Image(each, spacing, None, provenance) for each in pixels)


def prepare_volume(volume: Volume, preparation: Preparation) -> tuple[Pixels, tuple[float, float] | None]:
    """Float32 [n, channels, size, size] in [0, 1], one for each slice along `axis`, and mm per prepared pixel.

    With windows all those of a slice follow each other, slice by slice. Grey levels are decided over the whole volume. With context, channel c of slice i is slice i + c - context, the
    first and the last slice repeated at the ends. Raises DataError where the window needs Hounsfield values that are
    not there, the spacing does not fit, or nothing is left to see.
    """
    stack: npt.NDArray[Any] = cut(volume_levels(volume, preparation), preparation.axis)
    where = slice_layout(volume, preparation)
    placed = place_levels(stack, where)
    require_contrast(placed, "volume")
    shape = -1, preparation.channels, preparation.size, preparation.size
    if not preparation.context:
        return np.repeat(placed[:, :, None], preparation.channels, axis=2).reshape(shape), where.spacing
    offsets = np.arange(-preparation.context, preparation.context + 1)
    seen = placed[np.clip(np.arange(len(placed))[:, None] + offsets, 0, len(placed) - 1)]
    return seen.swapaxes(1, 2).reshape(shape), where.spacing


def slice_layout(volume: Volume, preparation: Preparation) -> Layout:
    """Where every slice of `volume` along `preparation.axis` lies in what the model sees; raises DataError."""
    rows, columns = cut(volume.values, preparation.axis).shape[1:]
    return preparation.layout(rows, columns, cut_spacing(volume, preparation.axis))


def prepare_mask(mask: npt.NDArray[np.uint8], volume: Volume, preparation: Preparation) -> npt.NDArray[np.uint8]:
    """Classes [slices, rows, columns] on the grid of `volume` -> uint8 [n, size, size], pixel on pixel with its slices."""
    placed = place_classes(cut(mask, preparation.axis).astype(np.uint8), slice_layout(volume, preparation))
    return placed.reshape(-1, preparation.size, preparation.size)


def volume_levels(volume: Volume, preparation: Preparation) -> Pixels:
    """Grey levels [slices, rows, columns] in [0, 1] of the whole volume."""
    if preparation.window:
        if not volume.hounsfield:
            raise DataError(
                f"has no Hounsfield values, which the window {preparation.window!r} needs",
                "Only CT has them: leave `window` empty.",
            )
        shown = preset_window(volume.values, preparation.window)
        shown = stretch_volume(shown) if preparation.intensity == "stretch" else shown
    else:
        shown = _displayed(volume, preparation.intensity != "stretch")
    return clahe(shown) if preparation.intensity == "clahe" else shown


def _displayed(volume: Volume, by_its_window: bool) -> Pixels:
    """By the window that the file names for all its slices, where it shows something; else by percentiles."""
    shown = window(volume.values, *volume.window) if by_its_window and volume.window else None
    if shown is None or float(shown.max()) - float(shown.min()) < 1e-3:
        shown = stretch_volume(volume.values)
    return np.float32(1) - shown if volume.inverted else shown
