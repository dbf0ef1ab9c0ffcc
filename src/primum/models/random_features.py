"""A fixed front end of random filters: convolution, a threshold on both sides, averages over places, of length at most 1.

Nothing is learned and nothing is shipped: the filters come from a public stream, everybody has the same. A baseline for
the scattering transforms, and of use where texture and colour say more than edges.

1. the picture standardised by itself;
2. convolved with `filters` drawn filters of `patch` x `patch` pixels, all channels together, each of mean 0 and length 1
   (Gaussian, so of every direction alike), and divided by `patch`: a response of 1 is as large as the picture's contrast;
3. max(0, z - t) and max(0, -z - t) (Coates, Lee and Ng, "An analysis of single-layer networks in unsupervised feature
   learning", AISTATS 2011, whose random patches came out close to learned ones);
4. averaged over `pools` x `pools` places, log(1 + a / s), each channel standardised over its places, its mean kept as a
   feature of its own; shortened to length 1.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import torch
from scipy.special import ndtri
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, conv2d

from primum.errors import ModelError
from primum.models.scattering import refuse_other_images
from primum.rng import Stream

_THRESHOLD: Final = 0.05  # t; the median size of a response to a chest X-ray of 28 pixels
_SOFT: Final = 1e-2  # s
_FLAT: Final = 1e-6  # a picture with a smaller standard deviation than this is flat
_CHANNEL_FLAT: Final = 1e-3  # the same for one channel of logarithms
_BELOW_ONE: Final = 1 - 2.0**-20  # rounding to float32 moves a norm by less than 2^-23
_CHUNK_VALUES: Final = 1 << 22  # responses held at once: 16 MiB


@dataclass(frozen=True)
class RandomFeatures:
    """Images -> feature vectors of length at most 1. Fixed and public: the settings name the filters.

    Raises ModelError where the numbers do not fit each other.
    """

    size: int
    channels: int = 1
    filters: int = 256
    patch: int = 6
    pools: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.filters <= 4096 or not 2 <= self.patch <= 32 or self.channels not in (1, 3):
            raise ModelError(
                f"random features have 1 to 4096 filters of 2 to 32 pixels and 1 or 3 channels, got {self.filters}, "
                f"{self.patch} and {self.channels}",
                "Set `filters` to 256 and `patch` to 6.",
            )
        if not 1 <= self.pools <= 64 or self.size > 4096 or self.places < self.pools:
            raise ModelError(
                f"images of {self.size} x {self.size} pixels do not fit filters of {self.patch} and {self.pools} pools",
                "Use larger images (4096 pixels at most), or a smaller `patch` or `pools`.",
            )

    @property
    def places(self) -> int:
        """Where a filter fits, an axis."""
        return self.size - self.patch + 1

    @property
    def dimension(self) -> int:
        """Length of a feature vector: both sides of every filter, at every place and their mean."""
        return 2 * self.filters * (self.pools**2 + 1)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what one image gives."""
        return (self.dimension,)

    def features(self, images: Tensor) -> Tensor:
        """Float32 [n, dimension], each row of L2 norm at most 1; a flat image gives a row of zeros.

        `images`: float32 [n, channels, size, size] in [0, 1]. Works in pieces: memory does not grow with n beyond the
        result. Raises ValueError on another shape or on values that are not finite.
        """
        refuse_other_images(images, self.channels, self.size)
        piece = max(1, _CHUNK_VALUES // (self.places**2 * self.filters))
        out = torch.empty(len(images), self.dimension)
        with torch.no_grad():
            for start in range(0, len(images), piece):
                out[start : start + piece] = self._piece(images[start : start + piece])
        return out

    def _piece(self, images: Tensor) -> Tensor:
        pictures, flat = _standardised(images)
        responses = conv2d(pictures, drawn_filters(self.filters, self.channels, self.patch)) / self.patch
        sides = (adaptive_avg_pool2d((side - _THRESHOLD).relu_(), self.pools) for side in (responses, -responses))
        maps = torch.log1p(torch.cat(list(sides), dim=1).flatten(2).double() / _SOFT)
        mean = maps.mean(dim=2, keepdim=True)
        deviation = (maps - mean).square().mean(dim=2, keepdim=True).sqrt()
        maps = (maps - mean) / deviation.clamp(min=_CHANNEL_FLAT)
        rows = torch.cat([maps.flatten(1), mean.flatten(1)], dim=1).masked_fill(flat, 0.0)
        shortened: Tensor = rows * (_BELOW_ONE / rows.norm(dim=1, keepdim=True).clamp(min=1e-12))
        return shortened.to(torch.float32)


@lru_cache(maxsize=8)
def drawn_filters(count: int, channels: int, patch: int) -> Tensor:
    """Float32 [count, channels, patch, patch], each of mean 0 and length 1; always the same for the same numbers."""
    uniform = Stream.public(f"random filters {count} {channels} {patch}").uniform((count, channels * patch**2))
    rows = torch.from_numpy(ndtri(uniform + 2.0**-54))  # standard normal; the smallest uniform value is 0
    rows = rows - rows.mean(dim=1, keepdim=True)
    rows = rows / rows.norm(dim=1, keepdim=True)
    filters: Tensor = rows.to(torch.float32)
    return filters.view(count, channels, patch, patch)


def _standardised(images: Tensor) -> tuple[Tensor, Tensor]:
    """Each image by itself: mean 0 and deviation 1 over all its pixels and channels; which are flat, [n, 1]."""
    rows = images.flatten(1).double()
    centred = rows - rows.mean(dim=1, keepdim=True)
    deviation = centred.square().mean(dim=1, keepdim=True).sqrt()
    scaled = centred / deviation.clamp(min=_FLAT)
    return scaled.view_as(images).to(torch.float32), deviation < _FLAT
