"""Features of a hospital's pictures: held, or computed when they are asked for where they would fill the memory.

A linear layer at every pixel of 64 x 64 sees 5.6 MB of a picture, and a CT volume is hundreds of pictures.
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum.clipping.memory import free_bytes
from primum.models.feature_map import FeatureMap

_SHARE: Final = 0.25  # of the memory that is free may be filled with features
_BYTES: Final = 4

Rows = slice | Tensor | npt.NDArray[np.int64]


@dataclass(frozen=True)
class OnDemand:
    """`front_end` of `images` [n, ...], indexed by rows like the tensor [n, *shape] that it stands for."""

    front_end: FeatureMap
    images: Tensor = field(repr=False)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, rows: Rows) -> Tensor:
        return self.front_end.features(self.images[rows])

    @property
    def shape(self) -> tuple[int, ...]:
        """[n, *shape]."""
        return (len(self.images), *self.front_end.shape)


Features = Tensor | OnDemand


def features_of(front_end: FeatureMap, images: Tensor, most: int | None = None) -> Features:
    """Features of all `images`, held if they take at most `most` bytes (a quarter of what is free), or no more than the images."""
    values = math.prod(front_end.shape)
    most = int(_SHARE * free_bytes(torch.device("cpu"))) if most is None else most
    if _BYTES * len(images) * values <= most or values <= math.prod(images.shape[1:]):
        return front_end.features(images)
    return OnDemand(front_end, images)


def some(features: Features, chosen: Tensor) -> Features:
    """The rows where `chosen` (bool [n]) is true, held or on demand as they were."""
    return OnDemand(features.front_end, features.images[chosen]) if isinstance(features, OnDemand) else features[chosen]
