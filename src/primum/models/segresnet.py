"""A SegResNet without normalisation: it trains privately, and compiles for encrypted inference.

Residual blocks between a way down by strided convolutions and a way up that adds what each stage had on the way down.
Source: Myronenko, "3D MRI brain tumor segmentation using autoencoder regularization", BrainLes 2018, without its
autoencoder; widths and blocks are those of MONAI's SegResNet, whose group norm needs a root of a secret and is not
computed under encryption. Residuals are scaled as in `convolutional.py`, with its alpha and beta.
"""

import math
from collections.abc import Sequence

from torch import Tensor, nn

from primum.models.convolutional import Block
from primum.models.normfree import ScaledConvolution
from primum.models.unet import refuse_halving
from primum.models.vgg import refuse_blocks


class SegResNet(nn.Module):
    """Images float [n, channels, side, side], standardised (mean about 0, deviation about 1) -> [n, outputs, side, side].

    `widths`: channels of each stage, the last one at the bottom; `blocks`: residual blocks of each on the way down, on
    the way up it is one. By default 395,313 weights for one channel and one output. Sides are multiples of
    2 ** (stages - 1); a ModelError where `size` is none, or `blocks` are not one number for each of `widths`.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        outputs: int,
        widths: Sequence[int] = (8, 16, 32, 64),
        blocks: Sequence[int] = (1, 2, 2, 4),
        alpha: float = 0.2,
    ) -> None:
        super().__init__()
        refuse_halving(channels, size, outputs, widths)
        refuse_blocks(widths, blocks)
        self.down = nn.ModuleList()
        variances: list[float] = []
        inputs, variance = channels, 1.0
        for stage, (width, count) in enumerate(zip(widths, blocks, strict=True)):
            entry = ScaledConvolution(inputs, width, 3, 2 if stage else 1, 1 / math.sqrt(variance))
            betas = [math.sqrt(1 + number * alpha**2) for number in range(count)]
            self.down.append(nn.Sequential(entry, *(Block(width, width, 1, alpha, beta) for beta in betas)))
            inputs, variance = width, 1 + count * alpha**2
            variances.append(variance)
        self.narrow, self.up = nn.ModuleList(), nn.ModuleList()
        self.grow = nn.Upsample(scale_factor=2, mode="nearest")
        for width, beside in zip(reversed(widths[:-1]), reversed(variances[:-1]), strict=True):
            self.narrow.append(ScaledConvolution(inputs, width, 1, scale=1 / math.sqrt(variance)))
            self.up.append(Block(width, width, 1, alpha, math.sqrt(1 + beside)))
            inputs, variance = width, 1 + beside + alpha**2
        self.relu, self.head = nn.ReLU(), nn.Conv2d(widths[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Float [n, outputs, side, side]."""
        x = images
        kept: list[Tensor] = []
        for stage in self.down:
            x = stage(x)
            kept.append(x)
        for place, (narrow, block) in enumerate(zip(self.narrow, self.up, strict=True)):
            x = block(self.grow(narrow(x)) + kept[-2 - place])
        result: Tensor = self.head(self.relu(x))
        return result
