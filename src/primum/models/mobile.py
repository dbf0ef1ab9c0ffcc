"""A small network of depthwise separable convolutions, in the manner of EfficientNet, without normalisation.

Inverted residuals (Sandler et al., "MobileNetV2", CVPR 2018), stacked in stages that halve the side and widen (Tan and
Le, "EfficientNet", ICML 2019); ReLU, and no squeeze-and-excitation, which costs a product and a sigmoid of secrets (as
in EfficientNet-Lite). Residuals are scaled as in `convolutional.py`, with its alpha and beta.
"""

import math
from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from primum.errors import ModelError
from primum.models.convolutional import refuse
from primum.models.normfree import RELU_GAIN, DepthwiseConvolution, ScaledConvolution

_ALPHA: Final = 0.5  # how much a branch adds; there are few blocks
_HEAD: Final = 4  # channels before the mean, for one of the last stage


class MobileNetwork(nn.Sequential):
    """A 3 x 3 convolution of stride 2, `blocks` inverted residuals for each of `widths`, a mean over places, one linear layer.

    Images float [n, channels, height, width], standardised (mean about 0, deviation about 1) -> float [n, outputs].
    Sides of any length; each stage but the first halves them. A block widens `expansion` times. By default 109,041
    weights for one channel and one output.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        widths: Sequence[int] = (16, 24, 40, 64),
        blocks: int = 2,
        expansion: int = 4,
    ) -> None:
        refuse(channels, outputs, widths, "max")
        if blocks < 1 or expansion < 1:
            raise ModelError(f"{blocks} blocks a stage that widen {expansion} times.", "Take 1 or more of both.")
        layers: list[nn.Module] = [ScaledConvolution(channels, widths[0], 3, 2)]
        inputs, variance = widths[0], 1.0
        for stage, width in enumerate(widths):
            for number in range(blocks):
                stride = 2 if stage and not number else 1
                layers.append(InvertedResidual(inputs, width, stride, expansion, math.sqrt(variance)))
                variance = variance + _ALPHA**2 if stride == 1 and inputs == width else 1.0
                inputs = width
        wide = _HEAD * inputs
        layers += [ScaledConvolution(inputs, wide, 1, scale=1 / math.sqrt(variance)), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(wide, outputs))


class InvertedResidual(nn.Module):
    """x + alpha f(x / beta), f: 1 x 1 filters that widen, one 3 x 3 filter a channel, 1 x 1 filters that narrow.

    ReLU behind the first two. f alone, without alpha, where it changes the side or the number of channels.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, beta: float) -> None:
        super().__init__()
        self.adds = stride == 1 and inputs == outputs
        self.branch = nn.Sequential(
            ScaledConvolution(inputs, expansion * inputs, 1, scale=1 / beta),
            nn.ReLU(),
            DepthwiseConvolution(expansion * inputs, stride),
            nn.ReLU(),
            ScaledConvolution(expansion * inputs, outputs, 1, scale=RELU_GAIN * (_ALPHA if self.adds else 1.0)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, outputs, height / stride, width / stride]."""
        result: Tensor = self.branch(x)
        return x + result if self.adds else result
