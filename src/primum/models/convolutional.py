"""Two convolutional networks without normalisation: they train privately, and compile for encrypted inference.

Normalisation mixes examples (batch norm) or needs a square root of a secret (group norm, layer norm). Here filters are
standardised instead (`normfree.py`), and fixed scales keep signals at deviation 1 from layer to layer. Both networks
are made of convolution, ReLU, pooling, sum and one linear layer; the scales fold into the weights.

| | |
|---|---|
| g = `RELU_GAIN` | 1 / deviation of max(z, 0), z standard normal: what a convolution behind a ReLU multiplies by |
| alpha | how much a residual branch adds to the sum |
| beta | the deviation of what comes into a block, by which its branch divides |

    x <- s + alpha f(g relu(x) / beta)      beta <- sqrt(beta^2 + alpha^2)

s is x, or in the first block of a later stage a convolution of g relu(x) / beta, after which beta is 1 before the
update. Source: Brock, De and Smith, "Characterizing signal propagation to close the performance gap in unnormalized
ResNets", ICLR 2021, sections 3 and 4.
"""

import math
from collections.abc import Sequence
from typing import Final, Literal, get_args

from torch import Tensor, nn

from primum.errors import ModelError
from primum.models.normfree import RELU_GAIN, ScaledConvolution

Pooling = Literal["max", "average"]
_MOST_PLACES: Final = 4  # a side, that the linear layer of the small network sees
BEFORE: Final = {"max": 1.0, "average": math.sqrt(2)}
"""What a convolution before 2 x 2 pooling multiplies by: of neighbours of correlation 1/3 the mean has half the variance."""


class SmallNetwork(nn.Sequential):
    """Convolution, 2 x 2 pooling, ReLU, once for each of `widths`; an average over places; one linear layer.

    Images float [n, channels, size, size], standardised (mean about 0, deviation about 1) -> float [n, outputs]. Each
    stage halves the side, and the linear layer sees 4 x 4 to 7 x 7 places, or fewer where fewer are left. Maxima are of
    the most use on small images and dearest under encryption; averages cost nothing there. ModelError where `size` does
    not bear that many stages.
    """

    def __init__(
        self,
        channels: int,
        size: int,
        outputs: int,
        widths: Sequence[int] = (16, 32, 32),
        kernel: int = 3,
        pooling: Pooling = "max",
    ) -> None:
        refuse(channels, outputs, widths, pooling)
        refuse_stages(size, kernel, len(widths))
        layers: list[nn.Module] = []
        for inputs, width in zip((channels, *widths), widths, strict=False):
            scale = (RELU_GAIN if layers else 1.0) * BEFORE[pooling]
            layers += [ScaledConvolution(inputs, width, kernel, scale=scale), pool(pooling), nn.ReLU()]
        side = size >> len(widths)
        window = max(1, side // _MOST_PLACES)
        super().__init__(
            *layers, nn.AvgPool2d(window), nn.Flatten(), nn.Linear(widths[-1] * (side // window) ** 2, outputs)
        )


class ResidualNetwork(nn.Module):
    """A ResNet-18 without normalisation, or one of other `widths` and `blocks` a stage.

    Images float [n, channels, height, width], standardised (mean about 0, deviation about 1) -> float [n, outputs].
    Sides may have any length; with four stages those under 32 leave the last one a single place. Blocks begin with a
    ReLU (He et al., "Identity mappings in deep residual networks", ECCV 2016), so that the sum itself is never cut. A
    7 x 7 convolution of stride 2 and 2 x 2 pooling come before, the mean over places and a linear layer after.
    """

    def __init__(
        self,
        channels: int,
        outputs: int,
        widths: Sequence[int] = (64, 128, 256, 512),
        blocks: int = 2,
        alpha: float = 0.2,
        pooling: Pooling = "max",
    ) -> None:
        refuse(channels, outputs, widths, pooling)
        if blocks < 1 or not 0 < alpha <= 1:
            raise ModelError(
                f"{blocks} blocks a stage with alpha {alpha:g}.",
                "Take one block or more, and alpha above 0, at most 1.",
            )
        super().__init__()
        self.stem = nn.Sequential(ScaledConvolution(channels, widths[0], 7, 2, BEFORE[pooling]), pool(pooling))
        self.body = nn.Sequential(*_stages(widths, blocks, alpha))
        self.head = nn.Sequential(nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], outputs))

    def forward(self, images: Tensor) -> Tensor:
        """Float [n, outputs]."""
        result: Tensor = self.head(self.body(self.stem(images)))
        return result


class Block(nn.Module):
    """shortcut + alpha f(relu(x) g / beta), f two 3 x 3 convolutions with a ReLU between."""

    def __init__(self, inputs: int, outputs: int, stride: int, alpha: float, beta: float) -> None:
        super().__init__()
        self.relu, self.between = nn.ReLU(), nn.ReLU()
        self.first = ScaledConvolution(inputs, outputs, 3, stride, RELU_GAIN / beta)
        self.second = ScaledConvolution(outputs, outputs, 3, 1, RELU_GAIN * alpha)
        same = stride == 1 and inputs == outputs
        self.shortcut = None if same else ScaledConvolution(inputs, outputs, 1, stride, RELU_GAIN / beta)

    def forward(self, x: Tensor) -> Tensor:
        """Float [n, outputs, height / stride, width / stride]."""
        active = self.relu(x)
        branch: Tensor = self.second(self.between(self.first(active)))
        return branch + (x if self.shortcut is None else self.shortcut(active))


def _stages(widths: Sequence[int], blocks: int, alpha: float) -> list[nn.Module]:
    """Every block with the deviation that its input has."""
    made: list[nn.Module] = []
    inputs, variance = widths[0], 1.0
    for stage, width in enumerate(widths):
        for number in range(blocks):
            stride = 2 if stage and not number else 1
            made.append(Block(inputs, width, stride, alpha, math.sqrt(variance)))
            starts_anew = stride == 2 or inputs != width
            variance = (1.0 if starts_anew else variance) + alpha**2
            inputs = width
    return made


def pool(pooling: Pooling) -> nn.Module:
    """2 x 2, to half the side."""
    return nn.MaxPool2d(2) if pooling == "max" else nn.AvgPool2d(2)


def refuse(channels: int, outputs: int, widths: Sequence[int], pooling: Pooling) -> None:
    """ModelError for what cannot be built."""
    if pooling not in get_args(Pooling):
        raise ModelError(f"unknown pooling {pooling!r}.", f"Known here: {', '.join(get_args(Pooling))}.")
    if not widths or min(channels, outputs, *widths) < 1 or min(widths) < 2:
        raise ModelError(
            f"{channels} channels, {outputs} outputs and widths {tuple(widths)}.",
            "Take one channel and one output or more, and at least one width, each 2 or more.",
        )


def refuse_stages(size: int, kernel: int, stages: int) -> None:
    """ModelError for images that cannot be halved so often, and for kernels without a middle."""
    if size < 1 << stages:
        raise ModelError(
            f"images of {size} pixels a side cannot be halved {stages} times.",
            "Give fewer `widths`, or a larger `size`.",
        )
    if kernel < 3 or kernel % 2 == 0:
        raise ModelError(f"the kernel is {kernel}.", "Take 3, 5 or another odd number.")
