"""Convolutions for networks without normalisation: standardised weights with a learned gain, and a fixed scale.

They live with the model surgeon (`primum.clipping.layers`), which turns pretrained convolutions into them; residual
branches want a He-scaled sum, which is the network's own affair (Brock et al., ICLR 2021).
"""

import math
from typing import Final

from torch import Tensor, nn

from primum.clipping.layers import ScaledStdConv1d, ScaledStdConv2d, ScaledStdConv3d

__all__ = ["RELU_GAIN", "ScaledConvolution", "ScaledStdConv1d", "ScaledStdConv2d", "ScaledStdConv3d"]

RELU_GAIN: Final = math.sqrt(2 / (1 - 1 / math.pi))
"""1 / deviation of max(z, 0), z standard normal: what a convolution behind a ReLU multiplies by."""


class ScaledConvolution(ScaledStdConv2d):
    """Odd kernel, edges padded with zeros; the result times a fixed `scale`, bias too."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, scale: float = 1.0) -> None:
        super().__init__(inputs, outputs, kernel, stride, kernel // 2)
        self.scale = scale
        assert self.bias is not None
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Float [n, outputs, ...]."""
        return super().forward(input) * self.scale

    def extra_repr(self) -> str:
        """With the scale, for print(model)."""
        return f"{super().extra_repr()}, scale={self.scale:.3g}"  # type: ignore[no-untyped-call]
