"""A SqueezeNet without normalisation: it trains privately, and compiles for encrypted inference.

Filters are standardised and fixed scales keep signals at deviation 1, as in `convolutional.py`. Source: Iandola et al.,
"SqueezeNet: AlexNet-level accuracy with 50x fewer parameters and < 0.5 MB model size", 2016; the order of pools and the
widths are those of its version 1.1.
"""

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor, nn

from primum.models.convolutional import BEFORE, Pooling, pool, refuse, refuse_stages
from primum.models.normfree import RELU_GAIN, ScaledConvolution

_EXPANDED: Final = 4  # of each kind of filter, for one squeezed channel
_POOLED: Final = (1, 2)  # levels before which the side is halved


class SqueezeNetwork(nn.Sequential):
    """A 3 x 3 convolution of stride 2 and a pool; two fire modules for each of `widths`; a mean over places, one linear layer.

    Images float [n, channels, size, size], standardised (mean about 0, deviation about 1) -> float [n, outputs].
    `widths`: to how many channels the fire modules of each level squeeze; they then expand to eight times as many. By
    default SqueezeNet 1.1: 724,801 weights for one channel and one output. Pools are 2 x 2, and the last convolution and
    its mean are a mean and a linear layer, without the ReLU that would cut logits at 0. ModelError where `size` cannot
    be halved so often.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        outputs: int,
        widths: Sequence[int] = (16, 32, 48, 64),
        pooling: Pooling = "max",
    ) -> None:
        refuse(channels, outputs, widths, pooling)
        refuse_stages(size, 3, 2 + sum(level < len(widths) for level in _POOLED))
        inputs = _EXPANDED * widths[0]
        stem = ScaledConvolution(channels, inputs, 3, 2, BEFORE[pooling])
        layers: list[nn.Module] = [stem, pool(pooling), nn.ReLU()]
        for level, width in enumerate(widths):
            pooled = level + 1 in _POOLED and level + 1 < len(widths)
            wide = 2 * _EXPANDED * width
            layers += [Fire(inputs, width), nn.ReLU(), Fire(wide, width, BEFORE[pooling] if pooled else 1.0)]
            layers += [*([pool(pooling)] if pooled else []), nn.ReLU()]
            inputs = wide
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, outputs))


class Fire(nn.Module):
    """1 x 1 filters to `width` channels and a ReLU; 1 x 1 and 3 x 3 filters to four times as many each, side by side."""

    def __init__(self, inputs: int, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.squeeze, self.relu = ScaledConvolution(inputs, width, 1, scale=RELU_GAIN), nn.ReLU()
        self.points = ScaledConvolution(width, _EXPANDED * width, 1, scale=RELU_GAIN * scale)
        self.surroundings = ScaledConvolution(width, _EXPANDED * width, 3, scale=RELU_GAIN * scale)

    def forward(self, active: Tensor) -> Tensor:
        """Of what comes from a ReLU: float [n, 8 width, height, width], before one."""
        squeezed = self.relu(self.squeeze(active))
        return torch.cat([self.points(squeezed), self.surroundings(squeezed)], dim=1)
