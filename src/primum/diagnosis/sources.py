"""What is diagnosed: a picture, or a volume whose slices are; and its mask back on the pixels of its file."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum.errors import DataError
from primum.imaging import Preparation, Volume, read_image, read_volume
from primum.imaging.reader import decode
from primum.imaging.restore import restore_mask, restore_volume
from primum.imaging.slices import prepare_volume
from primum.imaging.volume import volume_format

Mask = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Source:
    """One image of the data owner: `images` float32 [n, channels, size, size], one for a picture, a volume's slices."""

    path: Path
    images: Tensor = field(repr=False)
    volume: Volume | None = field(default=None, repr=False)


def is_volume(path: Path) -> bool:
    """Whether `path` is a folder of one DICOM series, or a NIfTI or NRRD file. DataError where it cannot be opened."""
    return path.is_dir() or volume_format(path) in ("NIfTI", "NRRD")


def open_source(path: Path, preparation: Preparation, masks: bool) -> Source:
    """Prepared exactly as for training; DataError that names the path, also for a volume where no masks are drawn."""
    try:
        volume = is_volume(path)
    except DataError as error:
        raise DataError(f"{path} {error.message}", error.hint) from error
    if not volume:
        return Source(path, torch.from_numpy(read_image(path, preparation).pixels)[None])
    if not masks:
        raise DataError(f"{path} is a volume, and the model tells classes of single pictures.", "Give it pictures.")
    try:
        found = read_volume(path)
        pixels, _ = prepare_volume(found, preparation)
    except DataError as error:
        raise DataError(f"{path} {error.message}", error.hint) from error
    return Source(path, torch.from_numpy(pixels), found)


def restored(source: Source, mask: Mask, preparation: Preparation) -> Mask:
    """A mask as it was drawn, [size, size] or [slices, size, size], on the pixels of its file.

    Uint8 [rows, columns] of a picture, [slices, rows, columns] of a volume in canonical order.
    """
    if source.volume is not None:
        return restore_volume(mask, source.volume, preparation)
    picture = decode(source.path)
    rows, columns = picture.values.shape[1:]
    return restore_mask(mask, rows, columns, preparation.placement(rows, columns, picture.spacing))
