"""Convolutions for networks without normalisation: standardised weights with a learned gain, and a fixed scale.

They live with the model surgeon (`primum.clipping.layers`), which turns pretrained convolutions into them; residual
branches want a He-scaled sum, which is the network's own affair (Brock et al., ICLR 2021).
"""

import math
from typing import Final

from torch import Tensor, nn

from primum.clipping.layers import ScaledStdConv1d, ScaledStdConv2d, ScaledStdConv3d

__all__ = [
    "RELU_GAIN",
    "DepthwiseConvolution",
    "ScaledConvolution",
    "ScaledStdConv1d",
    "ScaledStdConv2d",
    "ScaledStdConv3d",
]

RELU_GAIN: Final = math.sqrt(2 / (1 - 1 / math.pi))
"""1 / deviation of max(z, 0), z standard normal: what a convolution behind a ReLU multiplies by."""


class ScaledConvolution(ScaledStdConv2d):
    """Odd kernel, edges padded with zeros; the result times a fixed `scale`, bias too."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int, stride: int = 1, scale: float = 1.0, dilation: int = 1
    ) -> None:
        super().__init__(inputs, outputs, kernel, stride, dilation * (kernel // 2), dilation)
        self.scale = scale
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Float [n, outputs, ...]."""
        return super().forward(input) * self.scale

    def extra_repr(self) -> str:
        """With the scale, for print(model)."""
        return f"{super().extra_repr()}, scale={self.scale:.3g}"  # type: ignore[no-untyped-call]


class DepthwiseConvolution(nn.Conv2d):
    """One 3 x 3 filter for each channel, behind a ReLU, edges padded with zeros.

    Not standardised: filters of nine values and sum 0 are blind to what is smooth. Weights of variance 1 / 9 and a scale
    of sqrt(2) keep the mean square of max(z, 0), z standard normal, at 1 (He et al., "Delving deep into rectifiers",
    ICCV 2015), however alike neighbours are.
    """

    def __init__(self, channels: int, stride: int = 1) -> None:
        super().__init__(channels, channels, 3, stride, 1, groups=channels)

    def forward(self, input: Tensor) -> Tensor:
        """Float [n, channels, height / stride, width / stride]."""
        return super().forward(input) * math.sqrt(2)
