"""Two pictures side by side on a page, with what makes them suspect."""

from pathlib import Path
from typing import Final

import numpy as np

from primum.errors import DataError
from primum.imaging import Dataset
from primum.imaging.reader import decode
from primum.report.thumbnails import picture

_LARGE: Final = 220
_OF_PATCHES: Final = 5  # axes of images


def pair_figure(seen: tuple[str, str], words: str) -> str:
    """`seen`: two `img` elements; `words`: HTML."""
    return (
        f'<figure class="suspect"><div class="seen two">{"".join(seen)}</div><figcaption>{words}</figcaption></figure>'
    )


def file_picture(data: Dataset, folder: Path, place: int) -> str:
    """The file of the picture at `place` as it is; as prepared where it cannot be opened alone (a slice of a volume)."""
    try:
        return picture(decode(folder / data.files[place]).values, _LARGE)
    except DataError:
        return picture(flat_pictures(data)[place], _LARGE)


def flat_pictures(data: Dataset) -> np.ndarray:
    """Float32 [n, channels, size, size]: the pictures; of patches of volumes the slice in the middle."""
    pixels: np.ndarray = data.images.numpy()
    return pixels if pixels.ndim < _OF_PATCHES else pixels[:, :, pixels.shape[2] // 2]
