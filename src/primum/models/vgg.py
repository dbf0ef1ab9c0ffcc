"""A VGG without normalisation: it trains privately, and compiles for encrypted inference.

Filters are standardised and fixed scales keep signals at deviation 1, as in `convolutional.py`. Source: Simonyan and
Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015, table 1, column A (VGG-11).
"""

from collections.abc import Sequence

from torch import nn

from primum.errors import ModelError
from primum.models.convolutional import BEFORE, Pooling, pool, refuse, refuse_stages
from primum.models.normfree import RELU_GAIN, ScaledConvolution


class Vgg(nn.Sequential):
    """Stages of `blocks` 3 x 3 convolutions each, with 2 x 2 pooling after each stage; a mean over places, one linear layer.

    Images float [n, channels, size, size], standardised (mean about 0, deviation about 1) -> float [n, outputs]. By
    default VGG-11 at an eighth of its width: eight convolutions, 144,825 weights for one channel and one output. Its
    three dense layers, which hold most of the published weights, are one here. ModelError where `size` does not bear
    that many stages, or `blocks` are not one number for each of `widths`.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        outputs: int,
        widths: Sequence[int] = (8, 16, 32, 64, 64),
        blocks: Sequence[int] = (1, 1, 2, 2, 2),
        pooling: Pooling = "max",
    ) -> None:
        refuse(channels, outputs, widths, pooling)
        refuse_blocks(widths, blocks)
        refuse_stages(size, 3, len(widths))
        layers: list[nn.Module] = []
        inputs = channels
        for width, count in zip(widths, blocks, strict=True):
            for number in range(count):
                last = number == count - 1
                scale = (RELU_GAIN if layers else 1.0) * (BEFORE[pooling] if last else 1.0)
                layers += [
                    ScaledConvolution(inputs, width, 3, scale=scale),
                    *([pool(pooling)] if last else []),
                    nn.ReLU(),
                ]
                inputs = width
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs))


def refuse_blocks(widths: Sequence[int], blocks: Sequence[int]) -> None:
    """ModelError unless each width has a number of blocks, 1 or more."""
    if len(widths) != len(blocks) or min(blocks) < 1:
        raise ModelError(
            f"blocks {tuple(blocks)} for widths {tuple(widths)}.", "Give one number, 1 or more, for each width."
        )
