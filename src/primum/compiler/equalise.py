"""The channels of a layer brought near one magnitude, by powers of two that the weights behind it undo.

A layer has one binary point, so a channel that is 2^8 times smaller than the largest has 8 bits less. Where nothing but
functions with f(2^k x) = 2^k f(x) stands between a layer and those that read it (ReLU, pooling, padding), channel c may be
multiplied by 2^k_c and the weights that read it divided by it: the same numbers come out, exactly, and nobody sees k,
which is in secret weights on both sides. No round, no byte, no material. Cross-layer equalisation: Nagel et al., ICCV
2019, with powers of two, and upwards only. Figures: docs/decisions/0016.
"""

from collections import Counter
from dataclasses import replace
from typing import Final

import numpy as np
import numpy.typing as npt
import torch

from primum.compiler.evaluate import apply, batches
from primum.compiler.graph import (
    Array,
    AveragePool,
    Convolution,
    Graph,
    Interpolate,
    Leaky,
    MaxPool,
    Node,
    Pad,
    Rectify,
    Repeat,
    Reshape,
    SumPool,
)
from primum.compiler.simplify import by_group, readers_of

MOST_BITS: Final = 8
MARGIN_BITS: Final = 2
"""A channel stays under a quarter of the layer: on an image unlike those of the calibration it may get larger."""
IMAGES: Final = 8
_SCALING: Final = (Rectify, Leaky, MaxPool, AveragePool, SumPool, Pad, Repeat, Interpolate)
"""f(2^k x) = 2^k f(x), channel by channel."""


def equalised(graph: Graph, images: npt.NDArray[np.floating]) -> Graph:
    """`graph`, the same function, with channels near one magnitude wherever convolutions alone read a convolution.

    Magnitudes are those over the first of `images` [n, channels, height, width], which are public.
    """
    found, readers, nodes = peaks(graph, images[:IMAGES]), readers_of(graph), {node.name: node for node in graph.nodes}
    for name, peak in found.items():
        behind = _behind(graph, name, readers)
        bits = np.log2(peak.max(initial=1e-30) / np.maximum(peak, 1e-30))
        factors = 2.0 ** np.clip(np.floor(bits) - MARGIN_BITS, 0, MOST_BITS)
        if behind and (factors != 1.0).any():
            nodes[name] = _times(nodes[name], factors)
            for reader, places in behind.items():
                nodes[reader] = _divided(nodes[reader], np.repeat(factors, places))
    return graph.with_nodes(nodes[node.name] for node in graph.nodes)


def peaks(graph: Graph, images: npt.NDArray[np.floating]) -> dict[str, Array]:
    """The largest magnitude of every channel of every convolution's result."""
    found: dict[str, Array] = {}
    for part in batches(images):
        values, left = {graph.input: torch.from_numpy(np.ascontiguousarray(part, np.float64))}, Counter(graph.readers)
        for node in graph.nodes:
            values[node.name] = apply(node, [values[name] for name in node.sources])
            if isinstance(node, Convolution):
                top: Array = values[node.name].abs().amax((0, 2, 3)).numpy()
                found[node.name] = np.maximum(found.get(node.name, top), top)
            for name in node.sources:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
    return found


def _behind(graph: Graph, name: str, readers: dict[str, list[Node]]) -> dict[str, int]:
    """The convolutions that alone read `name`, and how often a channel of it stands side by side in what they read.

    None where somebody else reads it, or a function in between does not keep factors.
    """
    shapes, found = graph.shapes, dict[str, int]()
    waiting = [(name, 1)]
    while waiting:
        value, places = waiting.pop()
        for node in readers.get(value, []):
            flat = isinstance(node, Reshape) and node.shape[1:] == (1, 1)
            if isinstance(node, Convolution) and node.name not in found:
                found[node.name] = places
            elif isinstance(node, _SCALING) or flat:
                _, height, width = shapes[value]
                waiting.append((node.name, places * height * width if flat else places))
            else:
                return {}
        if value == graph.output:
            return {}
    return found


def _times(node: Node, factors: Array) -> Node:
    assert isinstance(node, Convolution)
    return replace(node, weight=node.weight * factors[:, None, None, None], bias=node.bias * factors)


def _divided(node: Node, factors: Array) -> Node:
    assert isinstance(node, Convolution)
    return replace(node, weight=node.weight / by_group(factors, node)[:, :, None, None])
