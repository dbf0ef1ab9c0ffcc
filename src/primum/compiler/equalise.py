"""The channels of a layer brought near one magnitude, by powers of two that the weights behind it undo.

A layer has one binary point, so a channel that is 2^8 times smaller than the largest has 8 bits less. Where nothing but
functions with f(2^k x) = 2^k f(x) stands between the layers that write a channel and those that read it (ReLU, pooling,
padding, sums), it may be multiplied by 2^k and the weights that read it divided by it: the same numbers come out,
exactly, and nobody sees k, which is in secret weights on both sides. Clips pass with their bounds times 2^k, which are
weights then. Channels that are added, or read together, share their k: a group. No round, no byte, no material.
Cross-layer equalisation: Nagel et al., ICCV 2019, with powers of two, and upwards only. Figures: docs/decisions/0016.
"""

from collections import Counter
from dataclasses import replace
from typing import Final, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from primum.compiler.evaluate import apply, batches
from primum.compiler.graph import (
    Affine,
    Array,
    AveragePool,
    Clip,
    Concatenate,
    Convolution,
    Graph,
    Interpolate,
    Leaky,
    MaxPool,
    Node,
    Pad,
    Permute,
    Rectify,
    Repeat,
    Reshape,
    Shape,
    Slice,
    Sum,
    SumPool,
)
from primum.compiler.simplify import by_group, keeps_channels, readers_of

MOST_BITS: Final = 8
MARGIN_BITS: Final = 2
"""A channel stays under a quarter of the layer: on an image unlike those of the calibration it may get larger."""
IMAGES: Final = 8
_SCALING: Final = (Rectify, Leaky, Clip, MaxPool, AveragePool, SumPool, Pad, Repeat, Interpolate)
"""f(2^k x) = 2^k f(x), channel by channel; of a clip, with other bounds."""
_JOINING: Final = (Sum, Concatenate)
Groups = npt.NDArray[np.int64]
OfChannels = TypeVar("OfChannels", Array, Groups)


def equalised(graph: Graph, images: npt.NDArray[np.floating]) -> Graph:
    """`graph`, the same function, with channels near one magnitude wherever weights alone write and read them.

    Magnitudes are those over the first of `images` [n, channels, height, width], which are public.
    """
    groups, found = groups_of(graph), reach_of(graph, peaks(graph, images[:IMAGES]))
    if not all(np.isfinite(peak).all() for peak in found.values()):
        return graph  # refused by layer, later
    factors = 2.0 ** _bits(graph, groups, found)
    return graph.with_nodes(scaled(node, factors, groups) for node in graph.nodes)


def peaks(graph: Graph, images: npt.NDArray[np.floating]) -> dict[str, Array]:
    """The largest magnitude of every channel of every value."""
    found: dict[str, Array] = {}
    for part in batches(images):
        values, left = {graph.input: torch.from_numpy(np.ascontiguousarray(part, np.float64))}, Counter(graph.readers)
        for node in graph.nodes:
            values[node.name] = apply(node, [values[name] for name in node.sources])
            top: Array = values[node.name].abs().amax((0, 2, 3)).numpy()
            found[node.name] = np.maximum(found.get(node.name, top), top)
            for name in node.sources:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
    return found


def reach_of(graph: Graph, found: dict[str, Array]) -> dict[str, Array]:
    """How large every channel gets, and may easily get where its inputs were silent: never less than the peaks `found`.

    A layer's inputs count as independent, as large as the layer before makes them, whether a ReLU let that pass or not.
    A channel behind one that no image woke has nothing but its bias as its peak: made larger, it would leave its range
    when that wakes.
    """
    shapes, reach = graph.shapes, dict[str, Array]()
    given = {graph.input: np.ones(graph.shape[0])}
    for node in graph.nodes:
        made = _reached(node, [given[name] for name in node.sources], shapes)
        reach[node.name] = found[node.name] if made is None else np.maximum(made, found[node.name])
        given[node.name] = found[node.name] if _has_weights(node) else reach[node.name]
    return reach


def _reached(node: Node, read: list[Array], shapes: dict[str, Shape]) -> Array | None:
    """How large the channels of a value may get, from those that `node` reads, where it follows."""
    if isinstance(node, Convolution):
        moved = node.weight * by_group(read[0], node)[:, :, None, None]
        made: Array = np.abs(node.bias) + np.sqrt((moved**2).sum((1, 2, 3)))
        return made
    if isinstance(node, Affine):
        return np.abs(node.shift) + np.abs(node.scale) * read[0]
    passed = _passed(node, read, shapes)
    if passed is not None and isinstance(node, Clip):
        return np.minimum(passed, max(abs(node.low), abs(node.high)))
    return np.max(read, 0) if passed is not None and isinstance(node, Sum) else passed


def _has_weights(node: Node) -> bool:
    return isinstance(node, Convolution) or (isinstance(node, Affine) and not node.public)


def groups_of(graph: Graph) -> dict[str, Groups]:
    """The group of every channel of every value; group 0 keeps its factor 1."""
    shapes, count, same = graph.shapes, 1, list[tuple[Groups, Groups]]()
    found: dict[str, Groups] = {graph.input: np.zeros(graph.shape[0], np.int64)}
    for node in graph.nodes:
        read, channels = [found[name] for name in node.sources], shapes[node.name][0]
        if _has_weights(node):
            found[node.name] = np.arange(count, count + channels)
            count += channels
            continue
        passed = _passed(node, read, shapes)
        if passed is None:
            same += [(groups, np.zeros_like(groups)) for groups in read]
            passed = np.zeros(channels, np.int64)
        elif isinstance(node, _JOINING) and len(passed) == len(read[0]):
            same += [(passed, groups) for groups in read[1:]]
        found[node.name] = passed
    same.append((found[graph.output], np.zeros_like(found[graph.output])))
    ends = [np.concatenate(parts) for parts in zip(*same, strict=True)]
    links = coo_array((np.ones(len(ends[0]), bool), (ends[0], ends[1])), (count, count))
    _, merged = connected_components(links, directed=False)
    fixed = merged[0]
    return {name: np.where(merged[groups] == fixed, 0, merged[groups] + 1) for name, groups in found.items()}


def _passed(node: Node, read: list[OfChannels], shapes: dict[str, Shape]) -> OfChannels | None:
    """What `read` says of the channels that `node` reads, of those that it gives; None where factors do not pass."""
    if isinstance(node, _SCALING):
        return read[0]
    if isinstance(node, Affine):
        return None if node.shift.any() else read[0]
    if isinstance(node, Slice):
        return read[0][node.start[0] : node.stop[0] : node.step[0]]
    if isinstance(node, Concatenate) and node.axis == 0:
        return np.concatenate(read)
    if isinstance(node, _JOINING):
        return read[0] if len({len(groups) for groups in read}) == 1 else None
    if isinstance(node, Reshape) and node.shape[1:] == (1, 1):
        _, height, width = shapes[node.sources[0]]
        return np.repeat(read[0], height * width)
    return read[0] if isinstance(node, Reshape | Permute) and keeps_channels(node, shapes) else None


def _bits(graph: Graph, groups: dict[str, Groups], found: dict[str, Array]) -> Array:
    """k of every group: what all values allow that have a channel in it, 0 to MOST_BITS."""
    readers, largest = readers_of(graph), dict[str, float]()
    bits = np.full(1 + max(int(one.max()) for one in groups.values()), float(MOST_BITS))
    for node in reversed(graph.nodes):
        name, peak, behind = node.name, found[node.name], readers.get(node.name, [])
        if isinstance(node, Rectify | Clip) and all(map(_has_weights, behind)):
            continue  # exact in the full ring, and opened as it is: only what it reads was cut
        joined = all(isinstance(reader, _JOINING) for reader in behind)  # its binary point is that of the sum
        above = [largest[reader.name] for reader in behind] if joined else []
        room = largest[name] = max(float(peak.max()), 1e-30, *above)
        np.minimum.at(bits, groups[name], np.floor(np.log2(room / np.maximum(peak, 1e-30))) - MARGIN_BITS)
    bits[0] = 0.0
    made: Array = np.maximum(bits, 0.0)
    return made


def scaled(node: Node, factors: Array, groups: dict[str, Groups]) -> Node:
    """`node` with what it writes times its factors, and what it reads divided by theirs."""
    after, before = factors[groups[node.name]], factors[groups[node.sources[0]]]
    if (after == 1.0).all() and (before == 1.0).all():
        return node
    if isinstance(node, Convolution):
        weight = node.weight * after[:, None, None, None] / by_group(before, node)[:, :, None, None]
        return replace(node, weight=weight, bias=node.bias * after)
    if isinstance(node, Affine) and not node.public:
        return replace(node, scale=node.scale * after / before, shift=node.shift * after)
    return replace(node, factors=after) if isinstance(node, Clip) else node
