"""A fixed front end for strict privacy: several scatterings side by side, seen from the average of drawn noise.

Nothing is learned from a patient, so it costs no privacy; nothing is shipped, so it can be computed anywhere.
Under differential privacy a linear model's noise grows with the length of the features, and the length is bounded:
what all pictures share is length without meaning. So, for each picture,

1. the scatterings of `scales`, each as in `scattering.py`, the channels' means counted `_MEANS` times, each of length 1;
2. averaged over `views`: the picture alone ("one"); moved by one pixel up, down, left and right ("shift"); a tenth
   larger and smaller, wider and taller ("zoom"), for pictures whose crop and aspect differ from camera to camera; or
   these four and what they are in a mirror ("mirror"), where left and right say the same: whatever noise the weights got
   that tells the two sides apart then changes nothing;
3. less the mean of the same features of noise pictures, and multiplied by (1 + C/t)^(-1/4), C their covariance and t its
   mean eigenvalue: directions in which any picture varies much count less (a partial whitening, power -1/2 of the
   features' deviations);
4. shortened to length 1.

The noise pictures have the 1/f spectrum of natural images (Field, J. Opt. Soc. Am. A 4, 2379, 1987), and come from a
public stream: everybody has the same. The factor is a smooth function of C, so that rounding does not turn it.

| symbol | here | meaning |
|---|---|---|
| C | `Reference` | covariance of the noise pictures' features: m of them, rank below m |
| t | `_spread` | trace(C) / dimension |
"""

import math
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final, Literal, get_args

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, pad

from primum.errors import ModelError
from primum.models.scattering import FrontEnd
from primum.rng import Stream, normal_for_pictures

Views = Literal["one", "shift", "zoom", "mirror"]

_MEANS: Final = 3.0  # weight of a channel's mean against its standardised places
_PICTURES: Final = 400  # of noise, at most
_FEWEST: Final = 16  # of noise, however long the features are
_VALUES: Final = 1 << 25  # of all noise pictures' features together: what is kept of them is 128 MiB
_POWER: Final = -0.25  # of the covariance: -1/2 would be full whitening, which amplifies what says nothing
_BELOW_ONE: Final = 1 - 2.0**-20  # rounding to float32 moves a norm by less than 2^-23
_EMPTY: Final = 1e-6  # features of length 1 are averaged: a shorter mean is a flat picture's
_ZOOMS: Final = ((0.9, 0.9), (1.1, 1.1), (0.92, 1.08), (1.08, 0.92))
"""Shares of the picture's height and width that "zoom" sees; beyond the border its pixels are repeated."""
_PIECE: Final = 64  # pictures at once


@dataclass(frozen=True)
class Reference:
    """From where features are seen: `mean` float32 [dimension], and the shrinking of directions.

    `directions`: orthonormal float32 [dimension, rank]; `factors`: float32 [rank], what to add to each of them.
    """

    mean: Tensor = field(repr=False)
    directions: Tensor = field(repr=False)
    factors: Tensor = field(repr=False)

    def seen(self, rows: Tensor) -> Tensor:
        """Rows [n, dimension] less the mean, times the power of the covariance."""
        centred = rows - self.mean
        return centred + ((centred @ self.directions) * self.factors) @ self.directions.T


@dataclass(frozen=True)
class MultiScale:
    """Images -> feature vectors of length at most 1. Fixed and public: `scales` are the J of its scatterings.

    Raises ModelError where the image is smaller than two windows of the largest scale, or where a scale stands twice.
    """

    size: int
    scales: tuple[int, ...] = (1, 2, 3)
    angles: int = 8
    channels: int = 1
    views: Views = "zoom"

    def __post_init__(self) -> None:
        if not self.scales or len(set(self.scales)) != len(self.scales):
            raise ModelError(
                f"`scales` names one scale or several different ones, got {self.scales}", "Set it to [1, 2, 3]."
            )
        if self.views not in get_args(Views):
            raise ModelError(f"unknown views {self.views!r}", f"`views` is one of {', '.join(get_args(Views))}.")
        _ = self.parts  # each checks its own numbers

    @property
    def parts(self) -> tuple[FrontEnd, ...]:
        """One scattering for each scale."""
        return tuple(FrontEnd(self.size, scale, self.angles, self.channels) for scale in self.scales)

    @property
    def dimension(self) -> int:
        """Length of a feature vector: all parts' together."""
        return sum(part.dimension for part in self.parts)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what one image gives."""
        return (self.dimension,)

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, dimension], each row of L2 norm at most 1; a flat image gives a row of zeros.

        `images`: float32 [n, channels, size, size] in [0, 1]. Memory does not grow with n beyond the result; the first
        call draws the noise pictures once. Raises ValueError on another shape or on values that are not finite.
        """
        seen_from, out = reference(self), torch.empty(len(images), self.dimension)
        with torch.no_grad():
            for start in range(0, len(images), _PIECE):
                rows = self.averaged(images[start : start + _PIECE])
                flat = rows.norm(dim=1, keepdim=True) < _EMPTY
                out[start : start + _PIECE] = _shortened(seen_from.seen(rows).masked_fill(flat, 0.0))
        return out if len(images) else self.averaged(images)

    def averaged(self, images: Tensor) -> Tensor:
        """Mean over the views of the parts' features, float32 [n, dimension]: steps 1 and 2 above."""
        if self.views == "one" or images.ndim != 4 or not len(images):  # the parts say what is wrong, if anything
            return self._together(images)
        moved = _shifted(images) if self.views == "shift" else _zoomed(images)
        if self.views == "mirror":
            moved += [view.flip(-1) for view in moved]
        total = torch.zeros(len(images), self.dimension)
        for view in moved:
            total += self._together(view)
        return total / len(moved)

    def _together(self, images: Tensor) -> Tensor:
        parts = [_weighted(part, part.features(images)) for part in self.parts]
        return torch.cat(parts, dim=1) / math.sqrt(len(parts))


@lru_cache(maxsize=4)
def reference(front_end: MultiScale) -> Reference:
    """What `front_end` sees in noise pictures: mean, and directions with (1 + C/t)^(-1/4) - 1.

    The noise pictures are not moved by `views`: the mean over views changes their covariance little, and takes four times
    as long.
    """
    with torch.no_grad():
        pictures = noise_pictures(pictures_for(front_end.dimension), front_end.size, front_end.channels)
        rows = front_end._together(pictures)
        mean = rows.mean(dim=0)
        centred = (rows - mean).double()
        values, vectors = torch.linalg.eigh(centred @ centred.T / len(rows))
        kept = values > values[-1] * 1e-6  # the rest is rounding, and its factor is nearly 0
        values, vectors = values[kept], vectors[:, kept]
        directions = centred.T @ vectors / (values * len(rows)).sqrt()
        spread = _spread(values, front_end.dimension)
        factors = (1 + values / spread) ** _POWER - 1
    return Reference(mean, directions.float(), factors.float())


def _spread(values: Tensor, dimension: int) -> float:
    return float(values.sum()) / dimension


def pictures_for(dimension: int) -> int:
    """How many noise pictures features of this length are seen from: fewer where they are long."""
    return max(_FEWEST, min(_PICTURES, _VALUES // dimension))


def noise_pictures(count: int, size: int, channels: int) -> Tensor:
    """Pictures with amplitude 1/f and random phases, float32 [count, channels, size, size], each from 0 to 1.

    Cut from a torus of twice the side, so that opposite borders do not agree. Always the same for the same numbers.
    """
    frequency = np.fft.fftfreq(2 * size)
    radius = np.maximum(np.hypot(frequency[:, None], frequency[None, :]), 1 / (2 * size))
    stream = Stream.public(f"noise pictures {size} {channels}")
    pictures = np.empty((count, channels, size, size), np.float32)
    for index in range(count):
        spectrum = np.fft.fft2(normal_for_pictures(stream, (channels, 2 * size, 2 * size))) / radius
        spectrum[:, 0, 0] = 0
        pictures[index] = np.fft.ifft2(spectrum).real[:, :size, :size]
    low, high = pictures.min(axis=(1, 2, 3), keepdims=True), pictures.max(axis=(1, 2, 3), keepdims=True)
    return torch.from_numpy((pictures - low) / (high - low))


def _shifted(images: Tensor) -> list[Tensor]:
    """Up, down, left and right by one pixel; the border's pixels are repeated."""
    wide, size = pad(images, (1, 1, 1, 1), mode="replicate"), images.shape[-1]
    starts = ((0, 1), (2, 1), (1, 0), (1, 2))
    return [wide[..., row : row + size, column : column + size] for row, column in starts]


def _zoomed(images: Tensor) -> list[Tensor]:
    """Each of `_ZOOMS`, between pixels linearly."""
    return [_stretched(images, high, wide) for high, wide in _ZOOMS]


def _stretched(images: Tensor, high: float, wide: float) -> Tensor:
    """The middle `high` of the height and `wide` of the width, on as many pixels."""
    window = torch.tensor([[wide, 0.0, 0.0], [0.0, high, 0.0]]).expand(len(images), 2, 3)
    places = affine_grid(window, list(images.shape), align_corners=False)
    return grid_sample(images, places, mode="bilinear", padding_mode="border", align_corners=False)


def _weighted(part: FrontEnd, rows: Tensor) -> Tensor:
    """The channels' means (the last columns) counted `_MEANS` times; length 1 again."""
    means = part.channels * part.paths
    return _shortened(torch.cat([rows[:, :-means], _MEANS * rows[:, -means:]], dim=1))


def _shortened(rows: Tensor) -> Tensor:
    """Of length just below 1; zeros stay zeros."""
    exact = rows.double()
    scaled: Tensor = exact * (_BELOW_ONE / exact.norm(dim=1, keepdim=True).clamp(min=1e-12))
    return scaled.float()
