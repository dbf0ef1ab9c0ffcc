"""A MoNet without normalisation: it trains privately, and compiles for encrypted inference.

A U-Net that halves the side only twice, and sees far by dilated convolutions instead: each block repeats them with
falling dilation, around which its input is added. Source: Knolle, Kaissis et al., "Efficient, high-performance semantic
segmentation using multi-scale feature extraction", PLOS ONE 16, 2021 (the idea; the arrangement is our own). Filters are
standardised and fixed scales keep signals at deviation 1, as in `convolutional.py`.
"""

import math
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from primum.models.normfree import RELU_GAIN, ScaledConvolution
from primum.models.unet import refuse_halving

_DILATIONS: Final = (4, 3, 2, 1)


class MoNet(nn.Module):
    """Images float [n, channels, side, side], standardised (mean about 0, deviation about 1) -> [n, outputs, side, side].

    `widths`: channels of each stage, the last one at the bottom; by default 386,601 weights for one channel and one
    output. Sides are multiples of 2 ** (stages - 1); a ModelError where `size` is none.
    """

    def __init__(self, channels: int, size: int, outputs: int, widths: Sequence[int] = (20, 40, 80)) -> None:
        super().__init__()
        refuse_halving(channels, size, outputs, widths)
        self.stem = ScaledConvolution(channels, widths[0], 3)
        self.down = nn.ModuleList(
            DilatedBlock(inputs, width) for inputs, width in zip((widths[0], *widths), widths, strict=False)
        )
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")
        pairs = reversed(list(zip(widths[1:], widths, strict=False)))
        self.up = nn.ModuleList(DilatedBlock(below + here, here) for below, here in pairs)
        self.relu, self.head = nn.ReLU(), nn.Conv2d(widths[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Float [n, outputs, side, side]."""
        x = self.stem(images)
        kept: list[Tensor] = []
        for place, block in enumerate(self.down):
            x = block(x if place == 0 else self.pool(x))
            kept.append(x)
        for place, block in enumerate(self.up):
            x = block(torch.cat([self.grow(x), kept[-2 - place]], dim=1))
        result: Tensor = self.head(self.relu(x))
        return result


class DilatedBlock(nn.Module):
    """(x + f(x)) / sqrt(2), f four 3 x 3 convolutions of dilation 4, 3, 2 and 1, a ReLU before each.

    x goes through 1 x 1 filters where the number of channels changes.
    """

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.relu = nn.ReLU()
        self.shortcut = None if inputs == width else ScaledConvolution(inputs, width, 1, scale=RELU_GAIN)
        self.branch = nn.ModuleList(
            ScaledConvolution(width if place else inputs, width, 3, scale=RELU_GAIN, dilation=dilation)
            for place, dilation in enumerate(_DILATIONS)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, width, ...], before a ReLU."""
        active: Tensor = self.relu(x)
        branch = active
        for place, layer in enumerate(self.branch):
            branch = layer(self.relu(branch) if place else branch)
        return (branch + (x if self.shortcut is None else self.shortcut(active))) * math.sqrt(0.5)
