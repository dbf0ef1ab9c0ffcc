"""Convolutions over few positions by one product a weight of the kernel.

At 2 x 2 positions more than half of what a 3 x 3 kernel sees is padding, which these products leave out. One group.
"""

import math
from typing import Final

import torch
from torch import Tensor

from primum.clipping.geometry import Geometry, Sizes

FEW: Final = 64  # positions up to which padding is much of what a kernel sees


def possible(inputs: Tensor, outputs: int, geometry: Geometry) -> bool:
    """Whether a convolution of `inputs` [rows, C, *space] is one over few positions."""
    positions = math.prod(geometry.out(tuple(inputs.shape[2:])))
    return geometry.groups == 1 and 0 < positions <= FEW


def output(inputs: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The convolution, [rows, O, *out], and the weight as [weights of the kernel, C, O]."""
    parts = weight.flatten(2).permute(2, 1, 0).contiguous()
    space = tuple(inputs.shape[2:])
    out, x = geometry.out(space), _places_first(inputs)
    y = x.new_zeros(*out, len(inputs), parts.shape[2])
    for part, offset in zip(parts, geometry.offsets(), strict=True):
        seen, at = geometry.inside(offset, space, out)
        y[at] += torch.mm(x[seen].flatten(0, -2), part).view_as(y[at])
    return _rows_first(y), parts


def input_slopes(slopes: Tensor, parts: Tensor, geometry: Geometry, space: Sizes) -> Tensor:
    """The slope of the input, [rows, C, *space], from that of the output."""
    out, g = tuple(slopes.shape[2:]), _places_first(slopes)
    x = g.new_zeros(*space, len(slopes), parts.shape[1])
    for part, offset in zip(parts, geometry.offsets(), strict=True):
        seen, at = geometry.inside(offset, space, out)
        x[seen] += torch.mm(g[at].flatten(0, -2), part.t()).view_as(x[seen])
    return _rows_first(x)


def weight_gradient(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """The weight's gradient summed over rows, [O, C, *kernel]."""
    space, out = tuple(inputs.shape[2:]), tuple(slopes.shape[2:])
    x, g = _places_first(inputs), _places_first(slopes)
    parts = inputs.new_zeros(math.prod(geometry.kernel), slopes.shape[1], inputs.shape[1])
    for part, offset in zip(parts, geometry.offsets(), strict=True):
        seen, at = geometry.inside(offset, space, out)
        torch.mm(g[at].flatten(0, -2).t(), x[seen].flatten(0, -2), out=part)
    return parts.permute(1, 2, 0).reshape(slopes.shape[1], inputs.shape[1], *geometry.kernel)


def _places_first(tensor: Tensor) -> Tensor:
    return tensor.permute(*range(2, tensor.ndim), 0, 1).contiguous()


def _rows_first(tensor: Tensor) -> Tensor:
    return tensor.permute(-2, -1, *range(tensor.ndim - 2)).contiguous()
