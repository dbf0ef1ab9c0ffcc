"""What is diagnosed: a picture, or a volume whose slices are; and its mask back on the pixels of its file.

A model that draws window by window is asked for all windows of an image, filled up with blank ones to a power of two: the
servers see how many images they are asked for, and an exact count would nearly tell the size of the picture.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum.errors import DataError
from primum.imaging import Preparation, Volume, read_volume
from primum.imaging.cover import Cover
from primum.imaging.image import Pixels
from primum.imaging.patches import patches, prepare_patches
from primum.imaging.prepare import prepare_layout
from primum.imaging.reader import decode
from primum.imaging.restore import restore_mask, restore_volume
from primum.imaging.series import is_stack
from primum.imaging.slices import prepare_volume, slice_layout
from primum.imaging.volume import cut, volume_format
from primum.imaging.windows import Layout, Windows, shown_nothing

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """One image of the data owner: `images` float32 [n, channels, size, size], one for a picture, a volume's slices.

    Where the model draws window by window `cover` says which windows of a picture they are, or of slice after slice;
    blank ones follow. Of a model in 3D they are the patches of a whole volume, without blank ones: nobody else sees how
    many there are. `slices`: how many a volume has that is drawn slice by slice, else 0. `notices`: what the reader had
    to decide.
    """

    path: Path
    images: Tensor = field(repr=False)
    volume: Volume | None = field(default=None, repr=False)
    cover: Cover | None = None
    slices: int = 0
    notices: tuple[str, ...] = ()


def is_volume(path: Path) -> bool:
    """Whether `path` is a folder of one DICOM series, or a NIfTI or NRRD file. DataError where it cannot be opened."""
    return path.is_dir() or volume_format(path) in ("NIfTI", "NRRD")


def open_source(path: Path, preparation: Preparation, masks: bool) -> Source:
    """Prepared exactly as for training; DataError that names the path, also for a volume where no masks are drawn."""
    try:
        volume = is_volume(path)
        if volume and not masks:
            raise DataError("is a volume, and the model tells classes of single pictures.", "Give it pictures.")
        volume = volume or (
            masks and is_stack(path)
        )  # a node reads all its frames where masks are drawn, else the first
        return _volume(path, preparation) if volume else _picture(path, preparation)
    except DataError as error:
        raise DataError(f"{path} {error.message}", error.hint) from error


def _picture(path: Path, preparation: Preparation) -> Source:
    picture = decode(path)
    rows, columns = picture.values.shape[1:]
    layout = preparation.layout(rows, columns, picture.spacing)
    source = _source(path, prepare_layout(picture, preparation, layout), layout)
    return replace(source, notices=picture.notices)


def _volume(path: Path, preparation: Preparation) -> Source:
    volume = read_volume(path)
    if preparation.fit == "patches":
        boxes, cover = prepare_patches(volume, preparation), patches(volume, preparation).cover
        return Source(path, torch.from_numpy(boxes), volume, cover)
    slices = cut(volume.values, preparation.axis).shape[0]
    return _source(path, prepare_volume(volume, preparation)[0], slice_layout(volume, preparation), volume, slices)


def _source(path: Path, pixels: Pixels, layout: Layout, volume: Volume | None = None, slices: int = 0) -> Source:
    if not isinstance(layout, Windows):
        return Source(path, torch.from_numpy(pixels), volume, None, slices)
    blank = shown_nothing(power_of_two(len(pixels)) - len(pixels), *pixels.shape[1:3])
    return Source(path, torch.from_numpy(np.concatenate([pixels, blank])), volume, layout.cover, slices)


def power_of_two(count: int) -> int:
    """The least power of two that is no less than `count`."""
    return 1 << (count - 1).bit_length()


def restored(source: Source, mask: Mask, preparation: Preparation) -> Mask:
    """A mask as it was drawn, [size, size] or [slices, size, size], or as it was blended, on the pixels of its file.

    Uint8 [rows, columns] of a picture, [slices, rows, columns] of a volume in canonical order.
    """
    if source.volume is not None:
        return restore_volume(mask, source.volume, preparation)
    picture = decode(source.path)
    rows, columns = picture.values.shape[1:]
    return restore_mask(mask, rows, columns, preparation.layout(rows, columns, picture.spacing))
