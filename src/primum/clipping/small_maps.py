"""Convolutions over few positions by one product a weight of the kernel, where that is quicker than the library.

At 2 x 2 positions more than half of what a 3 x 3 kernel sees is padding, which these products leave out. One group.
`convolved` gives weight and bias no slopes: the rules compute them.
"""

import math
from collections.abc import Callable
from typing import Any, Final

import torch
from torch import Tensor

from primum.clipping import timing
from primum.clipping.geometry import Geometry, Sizes

FEW: Final = 64  # positions up to which padding is much of what a kernel sees


def convolved(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, geometry: Geometry, library: Callable[[], Tensor]
) -> Tensor:
    """`library()`, the convolution of `inputs` [rows, C, *space], or the same made here; inputs get their slopes."""
    if not _possible(inputs, weight, geometry):
        return library()
    key = ("map", geometry, timing.rows_about(inputs), len(weight), *timing.place(inputs))
    ways = {
        "library": lambda: _there_and_back_by_library(inputs, weight, geometry, library),
        "offsets": lambda: _there_and_back(inputs, weight, geometry),
    }
    if timing.quickest(key, ways, inputs) == "library":
        return library()
    found: Tensor = _ByOffsets.apply(inputs, weight, geometry)  # type: ignore[no-untyped-call]
    return found if bias is None else found + bias.view(-1, *[1] * (inputs.ndim - 2))


def _possible(inputs: Tensor, weight: Tensor, geometry: Geometry) -> bool:
    kind = inputs.device.type
    plain = inputs.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled(kind)
    fits = geometry.groups == 1 and math.prod(geometry.kernel) > 1 and inputs.requires_grad
    return kind == "cpu" and plain and fits and 0 < math.prod(geometry.out(tuple(inputs.shape[2:]))) <= FEW


class _ByOffsets(torch.autograd.Function):
    """inputs [rows, C, *space], weight [O, C, *kernel] -> [rows, O, *out]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, geometry: Geometry) -> Tensor:
        parts = by_offset(weight)
        ctx.save_for_backward(parts)
        ctx.geometry, ctx.space = geometry, tuple(inputs.shape[2:])
        return output(inputs, parts, geometry)

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None, None]:
        return input_slopes(slopes, ctx.saved_tensors[0], ctx.geometry, ctx.space), None, None


def by_offset(weight: Tensor) -> Tensor:
    """[O, C, *kernel] -> [weights of the kernel, C, O]."""
    return weight.flatten(2).permute(2, 1, 0).contiguous()


def output(inputs: Tensor, parts: Tensor, geometry: Geometry) -> Tensor:
    """The convolution, [rows, O, *out], from `parts` of `by_offset`."""
    space = tuple(inputs.shape[2:])
    out, x = geometry.out(space), _places_first(inputs)
    y = x.new_zeros(*out, len(inputs), parts.shape[2])
    for part, offset in zip(parts, geometry.offsets(), strict=True):
        seen, at = geometry.inside(offset, space, out)
        y[at] += torch.mm(x[seen].flatten(0, -2), part).view_as(y[at])
    return _rows_first(y)


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


def _there_and_back(inputs: Tensor, weight: Tensor, geometry: Geometry) -> None:
    with torch.no_grad():
        parts = by_offset(weight)
        found = output(inputs, parts, geometry)
        input_slopes(found, parts, geometry, tuple(inputs.shape[2:]))


def _there_and_back_by_library(
    inputs: Tensor, weight: Tensor, geometry: Geometry, library: Callable[[], Tensor]
) -> None:
    with torch.no_grad():
        geometry.backward(library(), inputs, weight, (True, False, False))
