"""The plainest front end: pixels, standardised. What a network that learns all by itself sees.

Each picture by itself, or all with the mean and deviation of the pixels of all hospitals (tasks/survey.py).

Windows of a picture (imaging/windows.py) and patches of a volume come standardised as one, as numbers about 1/2: that alone is undone.
A pixel further than `FARTHEST` deviations from the mean is cut: a network under encryption is made for a range.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from primum.errors import ModelError
from primum.models.scattering import refuse_other_images

FARTHEST: Final = 6.0
_FLAT: Final = 1e-6  # a picture with a smaller standard deviation than this is flat


@dataclass(frozen=True)
class Pixels:
    """Images -> the same with mean 0 and deviation 1 over all pixels and channels, cut; a flat one gives zeros.

    `mean`, `deviation`: of each channel, of all images together; None: each image has its own.
    `deviations`: of images that were standardised before they came: 0 and 1 mean so many deviations below and above the
    mean. None: each image is standardised by itself. `depth`: of patches of volumes, which have so many slices.
    """

    size: int
    channels: int = 1
    deviations: float | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None
    depth: int | None = None

    def __post_init__(self) -> None:
        if not 8 <= self.size <= 4096 or not 1 <= self.channels <= 64:
            raise ModelError(f"images of {self.channels} x {self.size} pixels", "Take 8 to 4096 pixels a side.")
        if self.depth is not None and not 4 <= self.depth <= 1024:
            raise ModelError(f"patches of {self.depth} slices", "Take 4 to 1024.")
        if self.deviations is not None and not 1 <= self.deviations <= FARTHEST:
            raise ModelError(f"images of {self.deviations} deviations", f"Take 1 to {FARTHEST:g}, or none.")
        if self.mean is not None or self.deviation is not None:
            self._check_channels()

    def _check_channels(self) -> None:
        mean, deviation = self.mean or (), self.deviation or ()
        if not len(mean) == len(deviation) == self.channels or min(deviation) <= 0 or self.deviations is not None:
            raise ModelError(
                f"a mean of {len(mean)} and a deviation of {len(deviation)} channels do not standardise {self.channels}",
                "Give a mean and a deviation above 0 for each channel, and no `deviations`.",
            )

    @property
    def shape(self) -> tuple[int, ...]:
        """[channels, size, size], or of patches [channels, depth, size, size]."""
        depth = () if self.depth is None else (self.depth,)
        return self.channels, *depth, self.size, self.size

    @property
    def dimension(self) -> int:
        """How many values one image gives."""
        return math.prod(self.shape)

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, *shape]. ValueError on another shape or on values that are not finite."""
        refuse_other_images(images, self.channels, self.size, self.depth)
        if self.mean is not None and self.deviation is not None:
            return standardised_by(images, self.mean, self.deviation)
        if self.deviations is None:
            return standardised(images)
        return (images - 0.5) * (2 * self.deviations)


def standardised_by(images: Tensor, mean: Sequence[float], deviation: Sequence[float]) -> Tensor:
    """Float32: all images less the `mean` of a channel, over its `deviation`, cut at `FARTHEST`."""
    middle, spread = (torch.tensor(values).view(-1, 1, 1) for values in (mean, deviation))
    return ((images - middle) / spread).clamp(-FARTHEST, FARTHEST)


def standardised(images: Tensor) -> Tensor:
    """Float32: each image by itself at mean 0 and deviation 1, cut at `FARTHEST`."""
    rows = images.flatten(1)
    centred = rows - rows.mean(dim=1, keepdim=True)
    deviation = centred.double().square().mean(dim=1, keepdim=True).sqrt().float()
    scaled = centred / deviation.clamp(min=_FLAT)
    return torch.where(deviation < _FLAT, 0.0, scaled).clamp(-FARTHEST, FARTHEST).view_as(images)
