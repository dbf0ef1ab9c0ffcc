"""A graph in clear, in float64: the twin that everything else is compared with, and the source of ranges."""

from functools import singledispatch
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from primum.compiler.curves import CURVES
from primum.compiler.graph import (
    Affine,
    Array,
    AveragePool,
    Clip,
    Concatenate,
    Convolution,
    Curve,
    Edges,
    Graph,
    Interpolate,
    Leaky,
    MaxPool,
    Multiply,
    Node,
    Pad,
    Permute,
    Rectify,
    Repeat,
    Reshape,
    Slice,
    Sum,
    SumPool,
    Winner,
)
from primum.errors import InputError

BATCH: Final = 4


def evaluate(graph: Graph, images: npt.NDArray[np.floating]) -> Array:
    """The output for images [n, channels, height, width], before the ending: [n, channels, height, width]."""
    return np.concatenate([_run(graph, part, graph.output)[0] for part in batches(images)])


def measure(graph: Graph, images: npt.NDArray[np.floating], kept: str) -> tuple[Array, dict[str, float]]:
    """(the value `kept`, the largest magnitude of every value) over images [n, channels, height, width], in one go."""
    found = [_run(graph, part, kept) for part in batches(images)]
    ranges = {name: max(part[name] for _, part in found) for name in found[0][1]}
    return np.concatenate([value for value, _ in found]), ranges


def batches(images: npt.NDArray[np.generic]) -> list[npt.NDArray[Any]]:
    """A few images at a time: all values of 32 large ones at once would not fit into memory."""
    return [images[start : start + BATCH] for start in range(0, max(1, len(images)), BATCH)]


def _run(graph: Graph, images: npt.NDArray[np.floating], kept: str) -> tuple[Array, dict[str, float]]:
    """Keeps a value only as long as somebody reads it; `kept` is what is asked for."""
    if images.ndim != 4 or images.shape[1:] != graph.shape:
        raise InputError(f"the images are {images.shape[1:]}.", f"This model takes {graph.shape} each.")
    values = {graph.input: torch.from_numpy(np.ascontiguousarray(images, np.float64))}
    found = {graph.input: float(np.abs(images).max(initial=0.0))}
    left = graph.readers
    left[kept] += 1
    with torch.no_grad():
        for node in graph.nodes:
            made = apply(node, [values[name] for name in node.sources])
            values[node.name] = made
            found[node.name] = _magnitude(made)
            for name in node.sources:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
    return np.asarray(values[kept].numpy(), np.float64), found


def _magnitude(values: Tensor) -> float:
    """The largest magnitude, NaN where one is; without a copy of the values."""
    if not values.numel():
        return 0.0
    low, high = torch.aminmax(values)
    return float(torch.maximum(low.abs(), high.abs()))


def padded(values: Tensor, edges: Edges, filling: float = 0.0) -> Tensor:
    """`values` with edges of `filling` around height and width."""
    top, bottom, left, right = edges
    return functional.pad(values, (left, right, top, bottom), value=filling) if any(edges) else values


@singledispatch
def apply(node: Node, values: list[Tensor]) -> Tensor:
    """The value of one node, from the values of its sources, each [n, channels, height, width]."""
    raise TypeError(f"no rule to evaluate {type(node).__name__}")


@apply.register
def _(node: Convolution, values: list[Tensor]) -> Tensor:
    weight, bias = torch.from_numpy(node.weight), torch.from_numpy(node.bias)
    source = padded(values[0], node.padding)
    return functional.conv2d(source, weight, bias, node.stride, 0, node.dilation, node.groups)


@apply.register
def _(node: Affine, values: list[Tensor]) -> Tensor:
    return values[0] * torch.from_numpy(node.scale)[:, None, None] + torch.from_numpy(node.shift)[:, None, None]


@apply.register
def _(node: Rectify, values: list[Tensor]) -> Tensor:
    return values[0].clamp(min=0.0)


@apply.register
def _(node: Clip, values: list[Tensor]) -> Tensor:
    low, high = (torch.from_numpy(bound)[:, None, None] for bound in node.bounds)
    return values[0].clamp(low, high)


@apply.register
def _(node: Leaky, values: list[Tensor]) -> Tensor:
    return functional.leaky_relu(values[0], node.slope)


@apply.register
def _(node: Curve, values: list[Tensor]) -> Tensor:
    return CURVES[node.kind].exact(values[0])


@apply.register
def _(node: Winner, values: list[Tensor]) -> Tensor:
    classes = values[0].shape[1]
    return functional.one_hot(values[0].argmax(1), classes).movedim(-1, 1).to(values[0].dtype)


@apply.register
def _(node: MaxPool, values: list[Tensor]) -> Tensor:
    return functional.max_pool2d(padded(values[0], node.padding, -torch.inf), node.kernel, node.stride)


@apply.register
def _(node: AveragePool, values: list[Tensor]) -> Tensor:
    return functional.avg_pool2d(padded(values[0], node.padding), node.kernel, node.stride)


@apply.register
def _(node: SumPool, values: list[Tensor]) -> Tensor:
    return functional.avg_pool2d(padded(values[0], node.padding), node.kernel, node.stride, divisor_override=1)


@apply.register
def _(node: Sum, values: list[Tensor]) -> Tensor:
    total = values[0] * node.factors[0]
    for factor, value in zip(node.factors[1:], values[1:], strict=True):
        total = total + factor * value
    return total


@apply.register
def _(node: Multiply, values: list[Tensor]) -> Tensor:
    return values[0] * values[1]


@apply.register
def _(node: Concatenate, values: list[Tensor]) -> Tensor:
    return torch.cat(values, node.axis + 1)


@apply.register
def _(node: Slice, values: list[Tensor]) -> Tensor:
    parts = [slice(first, last, step) for first, last, step in zip(node.start, node.stop, node.step, strict=True)]
    return values[0][:, parts[0], parts[1], parts[2]]


@apply.register
def _(node: Pad, values: list[Tensor]) -> Tensor:
    number, channels, height, width = values[0].shape
    down, across = node.gaps[0] + 1, node.gaps[1] + 1
    wide = values[0].new_zeros(number, channels, (height - 1) * down + 1, (width - 1) * across + 1)
    wide[:, :, ::down, ::across] = values[0]
    return padded(wide, node.edges)


@apply.register
def _(node: Reshape, values: list[Tensor]) -> Tensor:
    return values[0].reshape(len(values[0]), *node.shape)


@apply.register
def _(node: Permute, values: list[Tensor]) -> Tensor:
    return values[0].permute(0, *(axis + 1 for axis in node.axes)).contiguous()


@apply.register
def _(node: Repeat, values: list[Tensor]) -> Tensor:
    return values[0].repeat_interleave(node.times[0], 2).repeat_interleave(node.times[1], 3)


@apply.register
def _(node: Interpolate, values: list[Tensor]) -> Tensor:
    return functional.interpolate(values[0], node.size, mode="bilinear", align_corners=node.align_corners)
