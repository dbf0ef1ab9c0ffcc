"""Which module a study or a card learns on what its front end gives: one class of settings a kind.

| kind | on | what |
|---|---|---|
| linear | a vector, or a vector a pixel | one linear layer without bias, or the same at every pixel, with one |
| small-network, residual-network | pixels | `convolutional.py`: a class |
| vgg, squeeze-network, mobile-network | pixels | `vgg.py`, `squeeze.py`, `mobile.py`: a class |
| u-net, mo-net, seg-resnet | pixels | `unet.py` (of patches in 3D `unet3d.py`), `monet.py`, `segresnet.py`: a mask |

A module's weights travel as one vector, its trainable parameters in their order. Its first weights are public: zeros
for one layer, else drawn from a public stream that the study's name and settings name, so that everybody can check them.
"""

import math
from typing import Annotated, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter
from scipy.special import ndtri
from torch import Tensor, nn

from primum.errors import ModelError
from primum.models.convolutional import Pooling, ResidualNetwork, SmallNetwork
from primum.models.linear import LinearHead
from primum.models.mobile import MobileNetwork
from primum.models.monet import MoNet
from primum.models.segresnet import SegResNet
from primum.models.squeeze import SqueezeNetwork
from primum.models.unet import UNet
from primum.models.unet3d import UNet3d
from primum.models.vgg import Vgg
from primum.rng import Stream

Shape = tuple[int, ...]
Weights = npt.NDArray[np.float32]
Widths = Annotated[tuple[Annotated[int, Field(ge=1, le=4096)], ...], Field(min_length=1, max_length=8)]
Blocks = Annotated[tuple[Annotated[int, Field(ge=1, le=64)], ...], Field(min_length=1, max_length=8)]


_OF_PATCHES: Final = 4  # axes of what a module takes: channels, depth, height, width


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Linear(_Settings):
    """`linear.LinearHead` on a vector; on a map a 1 x 1 convolution with bias, which starts at zero too."""

    kind: Literal["linear"] = "linear"

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]."""
        if len(shape) == 1:
            return LinearHead(shape[0], outputs)
        return nn.Conv2d(shape[0], outputs, 1)


class Small(_Settings):
    """`convolutional.SmallNetwork`."""

    kind: Literal["small-network"] = "small-network"
    widths: Widths
    pooling: Pooling = "max"

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]; ModelError where the numbers do not fit each other."""
        channels, size = _picture(shape)
        return SmallNetwork(channels, size, outputs, self.widths, pooling=self.pooling)


class Residual(_Settings):
    """`convolutional.ResidualNetwork`."""

    kind: Literal["residual-network"] = "residual-network"
    widths: Widths
    blocks: int = 2
    pooling: Pooling = "max"

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]; ModelError where the numbers do not fit each other."""
        return ResidualNetwork(_picture(shape)[0], outputs, self.widths, self.blocks, pooling=self.pooling)


class VggSettings(_Settings):
    """`vgg.Vgg`."""

    kind: Literal["vgg"] = "vgg"
    widths: Widths
    blocks: Blocks
    pooling: Pooling = "max"

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]; ModelError where the numbers do not fit each other."""
        channels, size = _picture(shape)
        return Vgg(channels, size, outputs, self.widths, self.blocks, self.pooling)


class Squeeze(_Settings):
    """`squeeze.SqueezeNetwork`."""

    kind: Literal["squeeze-network"] = "squeeze-network"
    widths: Widths
    pooling: Pooling = "max"

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]; ModelError where the numbers do not fit each other."""
        channels, size = _picture(shape)
        return SqueezeNetwork(channels, size, outputs, self.widths, self.pooling)


class Mobile(_Settings):
    """`mobile.MobileNetwork`."""

    kind: Literal["mobile-network"] = "mobile-network"
    widths: Widths
    blocks: int = 2
    expansion: int = 4

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]; ModelError where the numbers do not fit each other."""
        return MobileNetwork(_picture(shape)[0], outputs, self.widths, self.blocks, self.expansion)


class UNetSettings(_Settings):
    """`unet.UNet`; on patches of volumes `unet3d.UNet3d`."""

    kind: Literal["u-net"] = "u-net"
    widths: Widths

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]; ModelError where the numbers do not fit each other."""
        if len(shape) == _OF_PATCHES:
            return UNet3d(shape[0], shape[1:], outputs, self.widths)
        channels, size = _picture(shape)
        return UNet(channels, size, outputs, self.widths)


class MoNetSettings(_Settings):
    """`monet.MoNet`."""

    kind: Literal["mo-net"] = "mo-net"
    widths: Widths

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]; ModelError where the numbers do not fit each other."""
        channels, size = _picture(shape)
        return MoNet(channels, size, outputs, self.widths)


class SegResNetSettings(_Settings):
    """`segresnet.SegResNet`."""

    kind: Literal["seg-resnet"] = "seg-resnet"
    widths: Widths
    blocks: Blocks

    def module(self, shape: Shape, outputs: int) -> nn.Module:
        """On inputs [n, *shape]; ModelError where the numbers do not fit each other."""
        channels, size = _picture(shape)
        return SegResNet(channels, size, outputs, self.widths, self.blocks)


def _kind_of(settings: Any) -> Any:
    return settings.get("kind", "linear") if isinstance(settings, dict) else getattr(settings, "kind", None)


Learned = Annotated[
    Annotated[Linear, Tag("linear")]
    | Annotated[Small, Tag("small-network")]
    | Annotated[Residual, Tag("residual-network")]
    | Annotated[VggSettings, Tag("vgg")]
    | Annotated[Squeeze, Tag("squeeze-network")]
    | Annotated[Mobile, Tag("mobile-network")]
    | Annotated[UNetSettings, Tag("u-net")]
    | Annotated[MoNetSettings, Tag("mo-net")]
    | Annotated[SegResNetSettings, Tag("seg-resnet")],
    Discriminator(_kind_of),
]


_LEARNED: TypeAdapter[Any] = TypeAdapter(Learned)


def settings_of(values: dict[str, Any]) -> Learned:
    """The settings that `values` name by their `kind`; a study calls them as a card does."""
    found: Learned = _LEARNED.validate_python(values)
    return found


def _picture(shape: Shape) -> tuple[int, int]:
    if len(shape) == _OF_PATCHES:
        raise ModelError("patches of volumes are learned by a u-net only", 'Take model.kind = "u-net".')
    if len(shape) != 3 or shape[1] != shape[2]:
        raise ModelError(f"a network takes square pictures, not inputs of shape {shape}", "Give it pixels.")
    return shape[0], shape[1]


def weight_count(module: nn.Module) -> int:
    """How many values are learned."""
    return sum(value.numel() for value in module.parameters())


def read_weights(module: nn.Module) -> Weights:
    """All parameters in one vector, a copy."""
    flat: Weights = nn.utils.parameters_to_vector(module.parameters()).detach().numpy().copy()
    return flat


def write_weights(module: nn.Module, weights: Weights) -> None:
    """Set all parameters from one vector; ValueError where it has another length."""
    if weights.shape != (weight_count(module),):
        raise ValueError(f"{weight_count(module)} weights are needed, got an array of shape {weights.shape}")
    with torch.no_grad():
        start = 0
        for value in module.parameters():
            value.copy_(torch.from_numpy(weights[start : start + value.numel()]).view_as(value))
            start += value.numel()


def first_weights(module: nn.Module, label: str) -> Weights:
    """Where learning begins, the same for everybody who knows `label`; leaves the module with these weights.

    Zeros for one layer; else filters and layers Gaussian of variance 1 / inputs, gains 1, biases 0, the last layer zeros.
    """
    stream = Stream.public(f"first weights {label}")
    layers = [layer for layer in module.modules() if list(layer.parameters(recurse=False))]
    with torch.no_grad():
        for layer in layers:
            for name, value in layer.named_parameters(recurse=False):
                if name == "gain" or (isinstance(layer, nn.GroupNorm) and name == "weight"):
                    value.fill_(1.0)
                elif value.ndim < 2 or layer is layers[-1]:
                    value.zero_()
                else:
                    value.copy_(_gaussian(stream, value))
    return read_weights(module)


def _gaussian(stream: Stream, like: Tensor) -> Tensor:
    uniform = stream.uniform((like.numel(),))
    values = torch.from_numpy(ndtri(uniform + 2.0**-54)) / math.sqrt(like[0].numel())
    return values.view_as(like).to(torch.float32)
