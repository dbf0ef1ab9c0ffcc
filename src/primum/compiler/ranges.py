"""How large every value of a graph gets: from public images, from drawn ones, or by interval arithmetic.

Never from hospital images: a range would be a release that no ledger saw.
"""

from functools import singledispatch

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from primum.compiler.curves import CURVES
from primum.compiler.evaluate import apply
from primum.compiler.graph import Affine, Array, Convolution, Curve, Graph, Multiply, Node, Shape, Sum, Winner
from primum.rng import Stream

DRAWN_IMAGES = 32
SCALES = (1, 2, 4, 8, 16)
"""Squares of a drawn image per edge: from even to rough."""


def drawn_images(shape: Shape, count: int = DRAWN_IMAGES, label: str = "calibration") -> npt.NDArray[np.float32]:
    """Public random images [count, channels, height, width] in [0, 1]: smooth fields of several scales and contrasts."""
    stream = Stream.public(f"{label} images")
    total = np.zeros((count, *shape))
    for scale in (*SCALES, max(shape[1:])):
        size = (min(scale, shape[1]), min(scale, shape[2]))
        field = torch.from_numpy(stream.uniform((count, shape[0], *size)) - 0.5)
        strength = stream.uniform((count, 1, 1, 1))
        total += strength * functional.interpolate(field, shape[1:], mode="bilinear").numpy()
    return _stretched(total, stream).astype(np.float32)


def _stretched(fields: Array, stream: Stream) -> Array:
    """Each field to fill a random part of [0, 1], every second all of it."""
    low, high = fields.min((1, 2, 3), keepdims=True), fields.max((1, 2, 3), keepdims=True)
    ends = np.sort(stream.uniform((2, fields.shape[0], 1, 1, 1)), 0)
    ends[:, ::2] = np.array([0.0, 1.0])[:, None, None, None, None]
    made: Array = ends[0] + (ends[1] - ends[0]) * (fields - low) / np.maximum(high - low, 1e-9)
    return made


def bounds(graph: Graph) -> dict[str, float]:
    """A bound of the magnitude of every value over all images with pixels in [0, 1], by interval arithmetic.

    Exact for one linear layer, and growing with depth: for shallow models.
    """
    low = torch.zeros(1, *graph.shape, dtype=torch.float64)
    known: dict[str, Interval] = {graph.input: (low, low + 1.0)}
    for node in graph.nodes:
        known[node.name] = interval(node, [known[name] for name in node.sources])
    return {name: float(torch.maximum(low.abs(), high.abs()).max()) for name, (low, high) in known.items()}


Interval = tuple[Tensor, Tensor]


@singledispatch
def interval(node: Node, sources: list[Interval]) -> Interval:
    """The interval of every element of one node's value; of a growing function unless a rule says otherwise."""
    return apply(node, [low for low, _ in sources]), apply(node, [high for _, high in sources])


@interval.register
def _(node: Convolution, sources: list[Interval]) -> Interval:
    centre, radius = _ball(sources[0])
    size = np.abs(node.weight)
    middle, reach = apply(node, [centre]), _without_bias(node, size, radius)
    return middle - reach, middle + reach


def _without_bias(node: Convolution, weight: Array, value: Tensor) -> Tensor:
    plain = Convolution(
        node.name, node.sources, weight, np.zeros_like(node.bias), node.stride, node.padding, node.dilation, node.groups
    )
    return apply(plain, [value])


def _ball(source: Interval) -> Interval:
    return (source[0] + source[1]) / 2, (source[1] - source[0]) / 2


@interval.register
def _(node: Affine, sources: list[Interval]) -> Interval:
    ends = [apply(node, [end]) for end in sources[0]]
    return torch.minimum(ends[0], ends[1]), torch.maximum(ends[0], ends[1])


@interval.register
def _(node: Sum, sources: list[Interval]) -> Interval:
    ordered = [
        (low, high) if factor > 0 else (high, low) for factor, (low, high) in zip(node.factors, sources, strict=True)
    ]
    return apply(node, [low for low, _ in ordered]), apply(node, [high for _, high in ordered])


@interval.register
def _(node: Multiply, sources: list[Interval]) -> Interval:
    ends = torch.stack([one * two for one in sources[0] for two in sources[1]])
    return ends.amin(0), ends.amax(0)


@interval.register
def _(node: Curve, sources: list[Interval]) -> Interval:
    """SiLU and GELU fall a little before they grow, nowhere below -0.3."""
    low, high = (CURVES[node.kind].exact(end) for end in sources[0])
    dip = -0.3 if node.kind in ("silu", "gelu", "gelu_tanh") else 0.0
    return torch.minimum(low, high) + dip, torch.maximum(low, high)


@interval.register
def _(node: Winner, sources: list[Interval]) -> Interval:
    return torch.zeros_like(sources[0][0]), torch.ones_like(sources[0][0])
