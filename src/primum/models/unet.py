"""A U-Net without normalisation: it trains privately, and compiles for encrypted inference.

Filters are standardised (`normfree.py`) and fixed scales keep signals at deviation 1, as in `convolutional.py`. On the
way down each stage halves the side by 2 x 2 maxima; on the way up the nearest pixel is repeated, and what the stage had
on the way down is put beside it. Source: Ronneberger, Fischer and Brox, "U-Net", MICCAI 2015; here with padding, so
that a mask is as large as its image, and without batch norm, which mixes examples.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from primum.errors import ModelError
from primum.models.normfree import RELU_GAIN, ScaledConvolution


class UNet(nn.Module):
    """Images float [n, channels, side, side], standardised (mean about 0, deviation about 1) -> [n, outputs, side, side].

    `widths`: channels of each stage, the last one at the bottom. Sides are multiples of 2 ** (stages - 1); a
    ModelError where `size` is none.
    """

    def __init__(self, channels: int, size: int, outputs: int, widths: Sequence[int] = (16, 32, 64, 128)) -> None:
        super().__init__()
        refuse_halving(channels, size, outputs, widths)
        downs = zip((channels, *widths), widths, strict=False)
        self.down = nn.ModuleList(
            _pair(inputs, width, RELU_GAIN if place else 1.0) for place, (inputs, width) in enumerate(downs)
        )
        self.pool, self.grow = nn.MaxPool2d(2), nn.Upsample(scale_factor=2, mode="nearest")
        self.up = nn.ModuleList(
            _pair(below + here, here, RELU_GAIN)
            for below, here in reversed(list(zip(widths[1:], widths, strict=False)))
        )
        self.head = nn.Conv2d(widths[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Float [n, outputs, side, side]."""
        kept: list[Tensor] = []
        x = images
        for place, stage in enumerate(self.down):
            x = stage(x if place == 0 else self.pool(kept[-1]))
            kept.append(x)
        for place, stage in enumerate(self.up):
            x = stage(torch.cat([self.grow(x), kept[-2 - place]], dim=1))
        result: Tensor = self.head(x)
        return result


def refuse_halving(channels: int, size: int, outputs: int, widths: Sequence[int]) -> None:
    """ModelError for no widths, and for sizes that cannot be halved once for each width but the first."""
    if not widths or min(channels, outputs, *widths) < 1:
        raise ModelError(f"{channels} channels, {outputs} outputs and widths {tuple(widths)}.", "Take 1 or more.")
    step = 1 << (len(widths) - 1)
    if size % step or size < 2 * step:
        raise ModelError(
            f"images of {size} pixels a side cannot be halved {len(widths) - 1} times.",
            f"Give fewer `widths`, or a `size` that is a multiple of {step}, {2 * step} or more.",
        )


def _pair(inputs: int, outputs: int, scale: float) -> nn.Sequential:
    return nn.Sequential(
        ScaledConvolution(inputs, outputs, 3, scale=scale),
        nn.ReLU(),
        ScaledConvolution(outputs, outputs, 3, scale=RELU_GAIN),
        nn.ReLU(),
    )
