"""A U-Net of volumes with group norm, of MONAI's blocks: it trains privately, and is not computed under encryption.

Two convolutions a stage, each followed by group norm and a leaky ReLU; the way down halves by strides, the way up doubles
by transposed convolutions. Group norm looks at one example at a time, so that clipping bounds a patient's effect. Source:
Isensee et al., "nnU-Net", Nature Methods 18, 2021, as MONAI's DynUNet, whose own module has as many weights under two
names; with the groups of Wu and He, "Group normalization", ECCV 2018, instead of instance norm.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any, Final

from torch import Tensor, nn

from primum.clipping.convert import groups_for
from primum.models.unet import refuse_halving

_AXES: Final = 3
_SLOPE: Final = 0.01


class UNet3d(nn.Module):
    """Patches float [n, channels, *sides], standardised (mean about 0, deviation about 1) -> [n, outputs, *sides].

    `widths`: channels of each stage, the last one at the bottom. Sides are multiples of 2 ** (stages - 1); a ModelError
    where one is none.
    """

    def __init__(self, channels: int, sides: Sequence[int], outputs: int, widths: Sequence[int] = (16, 32, 64)) -> None:
        super().__init__()
        for side in sides:
            refuse_halving(channels, side, outputs, widths)
        blocks: Any = import_module("monai.networks.blocks.dynunet_block")  # seconds: only where it is asked for
        self.down = nn.ModuleList(
            blocks.UnetBasicBlock(_AXES, inputs, width, 3, 2 if stage else 1, *_norm(width))
            for stage, (inputs, width) in enumerate(zip((channels, *widths), widths, strict=False))
        )
        self.up = nn.ModuleList(
            blocks.UnetUpBlock(_AXES, below, here, 3, 1, 2, *_norm(here))
            for below, here in reversed(list(zip(widths[1:], widths, strict=False)))
        )
        self.head = nn.Conv3d(widths[0], outputs, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Float [n, outputs, *sides]."""
        kept: list[Tensor] = []
        x = images
        for stage in self.down:
            x = stage(x)
            kept.append(x)
        for place, stage in enumerate(self.up):
            x = stage(x, kept[-2 - place])
        result: Tensor = self.head(x)
        return result


def _norm(width: int) -> tuple[Any, Any]:
    return ("group", {"num_groups": groups_for(width)}), ("leakyrelu", {"negative_slope": _SLOPE})
