"""A fixed front end for masks: at every pixel, what its surroundings look like and where it lies.

Nothing is learned, so it costs no privacy; a linear layer on it, the same at every pixel, is a small model that learns
organs of a known place from few patients. With b_j the standardised picture blurred by a Gaussian of 2^j pixels:

| channels | what |
|---|---|
| 6 a scale | b_j; its two slopes and their length; the picture less b_j; the deviation of the picture around b_j |
| places^2 | bumps over a grid of places, which add up to 1 at every pixel |
| places^2 a scale | each bump times b_j: how bright it has to be just there |

A linear layer on bumps alone is an atlas; on the products it is one whose threshold moves from place to place.
Source of the local channels: Lindeberg, "Feature detection with automatic scale selection", IJCV 30, 1998.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from torch import Tensor
from torch.nn.functional import conv2d, pad

from primum.errors import ModelError
from primum.models.pixels import standardised
from primum.models.scattering import refuse_other_images

_LOCAL: Final = 6
_BUMP: Final = 2.0  # so that bumps weigh about as much as local channels, whatever their number
_REACH: Final = 3.0  # deviations after which a Gaussian is cut
_CHUNK_VALUES: Final = 1 << 23


@dataclass(frozen=True)
class PixelFeatures:
    """Images -> [n, depth, size, size], fixed and public. ModelError where the numbers do not fit each other."""

    size: int
    channels: int = 1
    scales: int = 4
    places: int = 8

    def __post_init__(self) -> None:
        if not 1 <= self.scales <= 6 or not 1 <= self.places <= 16 or not 1 <= self.channels <= 16:
            raise ModelError(
                f"pixel features have 1 to 6 scales and 1 to 16 places, got {self.scales} and {self.places}",
                "Set `scales` to 4 and `places` to 8.",
            )
        if self.size > 4096 or self.size < 1 << (self.scales + 1):
            raise ModelError(f"images of {self.size} pixels do not bear {self.scales} scales", "Use fewer scales.")

    @property
    def depth(self) -> int:
        """Channels of the result."""
        return self.channels * self.scales * (_LOCAL + self.places**2) + self.places**2

    @property
    def shape(self) -> tuple[int, ...]:
        """[depth, size, size]."""
        return self.depth, self.size, self.size

    @property
    def dimension(self) -> int:
        """How many values one image gives."""
        return math.prod(self.shape)

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, depth, size, size]. ValueError on another shape or on values that are not finite."""
        refuse_other_images(images, self.channels, self.size)
        piece = max(1, _CHUNK_VALUES // self.dimension)
        out = torch.empty(len(images), *self.shape)
        with torch.no_grad():
            for start in range(0, len(images), piece):
                out[start : start + piece] = self._piece(images[start : start + piece])
        return out

    def _piece(self, images: Tensor) -> Tensor:
        pictures = standardised(images)
        where = _bumps(self.size, self.places)
        parts = [where.expand(len(images), -1, -1, -1)]
        for scale in range(self.scales):
            blurred = _blur(pictures, 2.0**scale)
            parts += _local(pictures, blurred, 2.0**scale)
            parts.append((blurred.unsqueeze(2) * where).flatten(1, 2))
        return torch.cat(parts, dim=1) / math.sqrt(2 * self.scales + 1)


def _local(pictures: Tensor, blurred: Tensor, width: float) -> list[Tensor]:
    down = pad(blurred[:, :, 1:] - blurred[:, :, :-1], (0, 0, 0, 1)) * width
    right = pad(blurred[..., 1:] - blurred[..., :-1], (0, 1)) * width
    rest = pictures - blurred
    deviation = _blur(rest.square(), width).clamp(min=0).sqrt()
    return [blurred, down, right, torch.hypot(down, right), rest, deviation]


@lru_cache(maxsize=8)
def _bumps(size: int, places: int) -> Tensor:
    """Float32 [places^2, size, size]; over places they add up to a constant."""
    pixels, centres = ((torch.arange(count) + 0.5) / count for count in (size, places))
    bumps = torch.exp(-((pixels[:, None] - centres) ** 2) * places**2)
    bumps = bumps / bumps.sum(1, keepdim=True)
    return torch.einsum("yi,xj->ijyx", bumps, bumps).reshape(-1, size, size) * _BUMP


def _blur(pictures: Tensor, width: float) -> Tensor:
    """Convolved with a Gaussian of `width` pixels; edges are continued."""
    reach = math.ceil(_REACH * width)
    weights = torch.exp(-((torch.arange(2 * reach + 1) - reach) ** 2) / (2 * width**2))
    weights = weights / weights.sum()
    channels = pictures.shape[1]
    padded = pad(pictures, (reach, reach, reach, reach), mode="replicate")
    rows = conv2d(padded, weights.view(1, 1, 1, -1).repeat(channels, 1, 1, 1), groups=channels)
    return conv2d(rows, weights.view(1, 1, -1, 1).repeat(channels, 1, 1, 1), groups=channels)
