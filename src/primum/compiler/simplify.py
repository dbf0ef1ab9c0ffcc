"""A graph that computes the same with fewer and cheaper operations.

Folding: affine maps and batch norm into the convolution before or behind them, zeros around an image into the
convolution's padding, 1/n of an average into the weights behind it. Reordering: ReLU behind max pooling and behind
concatenation, and before copies, where nobody else reads it (a 2x2 pool leaves a quarter of the comparisons). Every pass is exact in real
numbers; the tests compare.
"""

from collections.abc import Callable
from dataclasses import replace
from math import prod
from types import UnionType
from typing import Final

import numpy as np

from primum.compiler.graph import (
    Affine,
    Array,
    AveragePool,
    Clip,
    Concatenate,
    Convolution,
    Curve,
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
    Shape,
    Slice,
    Sum,
    SumPool,
    Window,
)
from primum.compiler.movements import Movement, move_once

Pass = Callable[[Graph], Graph]


def simplify(graph: Graph) -> Graph:
    """All passes, until nothing changes any more; dead nodes are dropped."""
    while True:
        before = graph.nodes
        for one in PASSES:
            graph = one(graph)
        if len(graph.nodes) == len(before) and all(a is b for a, b in zip(graph.nodes, before, strict=True)):
            return graph


def without_dead(graph: Graph) -> Graph:
    """Only nodes that the output depends on."""
    needed, kept = {graph.output}, []
    for node in reversed(graph.nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(node.sources)
    return graph if len(kept) == len(graph.nodes) else graph.with_nodes(reversed(kept))


def _replaced(graph: Graph, changes: dict[str, Node | None], aliases: dict[str, str]) -> Graph:
    """`graph` with nodes changed or dropped (None); who read a key of `aliases` reads its value instead."""
    if not changes:
        return graph
    nodes = []
    for node in graph.nodes:
        kept = changes.get(node.name, node)
        if kept is not None:
            sources = tuple(aliases.get(name, name) for name in kept.sources)
            nodes.append(kept if sources == kept.sources else replace(kept, sources=sources))
    return graph.with_nodes(nodes, aliases.get(graph.output, graph.output))


def _pairs(graph: Graph, first: type[Node] | UnionType, second: type[Node] | UnionType) -> list[tuple[Node, Node]]:
    """Neighbours (a, b): b reads a and nothing else, nobody else reads a; no node stands in two of them."""
    by_name, readers, used, found = {node.name: node for node in graph.nodes}, graph.readers, set[str](), []
    for node in graph.nodes:
        before = by_name.get(node.sources[0])
        alone = len(node.sources) == 1 and readers[node.sources[0]] == 1
        if alone and isinstance(node, second) and isinstance(before, first) and not {before.name, node.name} & used:
            used |= {before.name, node.name}
            found.append((before, node))
    return found


def fold_affine_back(graph: Graph) -> Graph:
    """Convolution, then affine (batch norm): into the convolution's weights."""
    changes: dict[str, Node | None] = {}
    aliases: dict[str, str] = {}
    for before, node in _pairs(graph, Convolution, Affine):
        assert isinstance(before, Convolution) and isinstance(node, Affine)
        weight = before.weight * node.scale[:, None, None, None]
        changes |= {
            before.name: replace(before, weight=weight, bias=before.bias * node.scale + node.shift),
            node.name: None,
        }
        aliases[node.name] = before.name
    return _replaced(graph, changes, aliases)


def fold_affine_forward(graph: Graph) -> Graph:
    """Affine, then convolution: into its weights; a shift only where no padding follows (padding is 0, not shifted)."""
    changes: dict[str, Node | None] = {}
    aliases: dict[str, str] = {}
    for before, node in _pairs(graph, Affine, Convolution):
        assert isinstance(before, Affine) and isinstance(node, Convolution)
        if before.shift.any() and any(node.padding):
            continue
        scale, shift = by_group(before.scale, node), by_group(before.shift, node)
        bias = node.bias + (node.weight * shift[:, :, None, None]).sum((1, 2, 3))
        changes |= {
            before.name: None,
            node.name: replace(node, weight=node.weight * scale[:, :, None, None], bias=bias),
        }
        aliases[before.name] = before.sources[0]
    return _replaced(graph, changes, aliases)


def by_group(values: Array, node: Convolution) -> Array:
    """One number for each input channel as [outputs, channels / groups]: what every output sees."""
    outputs = node.weight.shape[0]
    return np.repeat(values.reshape(node.groups, -1), outputs // node.groups, axis=0)


def fold_affine_twice(graph: Graph) -> Graph:
    """Affine of affine; public only if both are."""
    changes: dict[str, Node | None] = {}
    aliases: dict[str, str] = {}
    for before, node in _pairs(graph, Affine, Affine):
        assert isinstance(before, Affine) and isinstance(node, Affine)
        folded = replace(
            node,
            scale=node.scale * before.scale,
            shift=node.scale * before.shift + node.shift,
            public=node.public and before.public,
        )
        changes |= {before.name: None, node.name: folded}
        aliases[before.name] = before.sources[0]
    return _replaced(graph, changes, aliases)


def fold_pad(graph: Graph) -> Graph:
    """Zeros around the image, then a convolution or an average: its own padding."""
    changes: dict[str, Node | None] = {}
    aliases: dict[str, str] = {}
    for kind in (Convolution, AveragePool, SumPool):
        for before, node in _pairs(graph, Pad, kind):
            assert isinstance(before, Pad) and isinstance(node, Convolution | AveragePool | SumPool)
            if before.gaps == (0, 0) and before.name not in changes:
                a, b, c, d = (one + two for one, two in zip(before.edges, node.padding, strict=True))
                changes |= {before.name: None, node.name: replace(node, padding=(a, b, c, d))}
                aliases[before.name] = before.sources[0]
    return _replaced(graph, changes, aliases)


def _swapped(graph: Graph, pairs: list[tuple[Node, Node]]) -> Graph:
    """a then b becomes b then a, under the same names in the same order."""
    changes: dict[str, Node | None] = {}
    for before, node in pairs:
        changes[before.name] = replace(node, name=before.name, sources=before.sources)
        changes[node.name] = replace(before, name=node.name, sources=(before.name,))
    return _replaced(graph, changes, {})


def rectify_after_max(graph: Graph) -> Graph:
    """Max pooling before ReLU: the largest first, then its sign. Padding may count as 0 then: a ReLU follows."""
    return _swapped(graph, _pairs(graph, Rectify, MaxPool))


def rectify_after_concatenate(graph: Graph) -> Graph:
    """One ReLU behind a concatenation instead of one before each of its parts."""
    by_name, readers = {node.name: node for node in graph.nodes}, graph.readers
    for node in graph.nodes:
        parts = [by_name.get(name) for name in node.sources]
        if isinstance(node, Concatenate) and all(isinstance(p, Rectify) and readers[p.name] == 1 for p in parts):
            return _joined(graph, node, [part for part in parts if part is not None])
    return graph


def _joined(graph: Graph, node: Concatenate, parts: list[Node]) -> Graph:
    """`node` reads what its ReLUs read; a ReLU under its own name follows."""
    inner = replace(node, name=f"{node.name}~joined", sources=tuple(part.sources[0] for part in parts))
    gone, nodes = {part.name for part in parts}, list[Node]()
    for one in graph.nodes:
        if one is node:
            nodes += [inner, Rectify(node.name, (inner.name,))]
        elif one.name not in gone:
            nodes.append(one)
    return graph.with_nodes(nodes)


def rectify_once(graph: Graph) -> Graph:
    """A ReLU of a ReLU is one."""
    changes: dict[str, Node | None] = {}
    aliases: dict[str, str] = {}
    by_name = {node.name: node for node in graph.nodes}
    for node in graph.nodes:
        if isinstance(node, Rectify) and isinstance(by_name.get(node.sources[0]), Rectify):
            changes[node.name] = None
            aliases[node.name] = aliases.get(node.sources[0], node.sources[0])
    return _replaced(graph, changes, aliases)


def move_later(graph: Graph) -> Graph:
    """What is computed of each element alone, or by channel, comes before movements: these meet then, and cancel."""
    shapes, changes = graph.shapes, dict[str, Node | None]()
    for before, node in _pairs(graph, Movement, Rectify | Clip | Leaky | Curve | Affine):
        earlier = replace(node, name=before.name, sources=before.sources)
        if isinstance(earlier, Affine) and earlier.public:
            channels = shapes[before.sources[0]][0]
            earlier = replace(
                earlier, scale=np.full(channels, earlier.scale[0]), shift=np.full(channels, earlier.shift[0])
            )
        elif isinstance(earlier, Affine) and not keeps_channels(before, shapes):
            continue
        changes[before.name] = earlier
        changes[node.name] = replace(before, name=node.name, sources=(before.name,))
    return _replaced(graph, changes, {})


def keeps_channels(node: Node, shapes: dict[str, Shape]) -> bool:
    """Whether a movement leaves every element in its channel."""
    if isinstance(node, Permute):
        return node.axes[0] == 0
    return shapes[node.name][0] == shapes[node.sources[0]][0]


def multiply_once(graph: Graph) -> Graph:
    """A linear layer of a linear layer is one, where that has not many more weights: scikit-learn's PCA and what reads it."""
    changes: dict[str, Node | None] = {}
    aliases: dict[str, str] = {}
    for before, node in _pairs(graph, Convolution, Convolution):
        assert isinstance(before, Convolution) and isinstance(node, Convolution)
        first, second = before.weight, node.weight
        if any(before.padding) or graph.shapes[before.sources[0]] != first.shape[1:] or second[0].size != len(first):
            continue
        weight = np.tensordot(second[:, :, 0, 0], first, 1)
        if weight.size <= 2 * (first.size + second.size):
            bias = second[:, :, 0, 0] @ before.bias + node.bias
            changes |= {before.name: None, node.name: replace(before, name=node.name, weight=weight, bias=bias)}
            aliases[before.name] = before.sources[0]
    return _replaced(graph, changes, aliases)


def divide_later(graph: Graph) -> Graph:
    """1/n of an average into the weights of the layers that alone read it."""
    by_reader = readers_of(graph)
    changes: dict[str, Node | None] = {}
    for node in graph.nodes:
        if isinstance(node, AveragePool):
            behind = _linear_readers(node.name, by_reader, graph.output)
            if behind and not any(reader.name in changes for reader in behind):
                summed = SumPool(node.name, node.sources, node.kernel, node.stride, node.padding)
                changes[node.name] = summed
                changes |= {one.name: replace(one, weight=one.weight / prod(node.kernel)) for one in behind}
    return _replaced(graph, changes, {})


def _linear_readers(name: str, by_reader: dict[str, list[Node]], output: str) -> list[Convolution]:
    """The convolutions that read `name`, also through reshapes; none where somebody else reads it too."""
    found: list[Convolution] = []
    for node in by_reader.get(name, []):
        behind = [node] if isinstance(node, Convolution) else None
        if isinstance(node, Reshape | Permute):
            behind = _linear_readers(node.name, by_reader, output)
        if not behind:
            return []
        found += behind
    return [] if name == output or len({one.name for one in found}) != len(found) else found


def flatten_sums(graph: Graph) -> Graph:
    """(a + b) + c is one sum of three, where shapes are equal."""
    changes: dict[str, Node | None] = {}
    shapes = graph.shapes
    for before, node in _pairs_anywhere(graph):
        if shapes[before.name] == shapes[node.name] and not {before.name, node.name} & set(changes):
            changes |= {before.name: None, node.name: _merged(before, node)}
    return _replaced(graph, changes, {})


def _pairs_anywhere(graph: Graph) -> list[tuple[Sum, Sum]]:
    by_name, readers = {node.name: node for node in graph.nodes}, graph.readers
    return [
        (before, node)
        for node in graph.nodes
        if isinstance(node, Sum)
        for before in (by_name.get(name) for name in node.sources)
        if isinstance(before, Sum) and readers[before.name] == 1
    ]


def _merged(before: Sum, node: Sum) -> Sum:
    at = node.sources.index(before.name)
    inner = tuple(node.factors[at] * factor for factor in before.factors)
    return replace(
        node,
        sources=(*node.sources[:at], *before.sources, *node.sources[at + 1 :]),
        factors=(*node.factors[:at], *inner, *node.factors[at + 1 :]),
    )


def name_curves(graph: Graph) -> Graph:
    """x sigmoid(x) is SiLU, x (1 + erf(x / sqrt 2)) is two GELU: one spline instead of a spline and a product."""
    by_name, nodes = {node.name: node for node in graph.nodes}, list[Node]()
    for node in graph.nodes:
        both = (node.sources, node.sources[::-1]) if isinstance(node, Multiply) else ()
        named = [_silu(node, x, by_name.get(gate)) or _gelu(node, x, by_name.get(gate), by_name) for x, gate in both]
        nodes += next((found for found in named if found), [node])
    return graph if all(one is two for one, two in zip(nodes, graph.nodes, strict=False)) else graph.with_nodes(nodes)


def _silu(node: Node, x: str, gate: Node | None) -> list[Node]:
    if isinstance(gate, Curve) and gate.kind == "sigmoid" and gate.sources == (x,):
        return [Curve(node.name, (x,), "silu")]
    return []


def _gelu(node: Node, x: str, gate: Node | None, by_name: dict[str, Node]) -> list[Node]:
    """b x times a (1 + erf(x / sqrt 2)) is 2 a b gelu(x)."""
    outer, factor, public = by_name.get(x), np.ones(1), True
    if isinstance(outer, Affine) and not outer.shift.any():
        x, factor, public = outer.sources[0], outer.scale, outer.public
    curve = by_name.get(gate.sources[0]) if isinstance(gate, Affine) else None
    if not isinstance(gate, Affine) or not isinstance(curve, Curve) or curve.kind != "erf":
        return []
    inner = by_name.get(curve.sources[0])
    if not isinstance(inner, Affine) or inner.sources != (x,) or inner.shift.any():
        return []
    if not np.allclose(inner.scale, np.sqrt(0.5), atol=1e-6) or not np.allclose(gate.scale, gate.shift, atol=1e-6):
        return []
    scale = 2.0 * factor * gate.scale
    bent = Curve(f"{node.name}~gelu", (x,), "gelu")
    return [bent, Affine(node.name, (bent.name,), scale, np.zeros_like(scale), public and gate.public)]


def without_identity(graph: Graph) -> Graph:
    """An affine map that changes nothing is dropped."""
    changes: dict[str, Node | None] = {}
    aliases: dict[str, str] = {}
    for node in graph.nodes:
        if isinstance(node, Affine) and (node.scale == 1.0).all() and not node.shift.any():
            changes[node.name] = None
            aliases[node.name] = aliases.get(node.sources[0], node.sources[0])
    return _replaced(graph, changes, aliases)


def lift_padded_maxima(graph: Graph) -> Graph:
    """Mark the max pools whose padding may not count as 0: no ReLU follows, and values may be negative."""
    positive, behind = never_negative(graph), readers_of(graph)
    changes: dict[str, Node | None] = {}
    for node in graph.nodes:
        if isinstance(node, MaxPool):
            followed = all(isinstance(one, Rectify) for one in behind.get(node.name, [])) and node.name != graph.output
            lifted = any(node.padding) and not followed and node.sources[0] not in positive
            if lifted != node.lifted:
                changes[node.name] = replace(node, lifted=lifted)
    return _replaced(graph, changes, {})


def never_negative(graph: Graph) -> set[str]:
    """The values that are at least 0 by their construction: sources stand before their readers, so one walk does."""
    found = set[str]()
    for node in graph.nodes:
        if isinstance(node, Clip):
            positive = node.low >= 0.0
        elif isinstance(node, Sum) and min(node.factors) < 0:
            positive = False
        elif isinstance(node, Window | Concatenate | Slice | Reshape | Permute | Repeat | Interpolate | Sum | Pad):
            positive = found.issuperset(node.sources)
        else:
            positive = isinstance(node, Rectify)
        if positive:
            found.add(node.name)
    return found


def readers_of(graph: Graph) -> dict[str, list[Node]]:
    """The nodes that read each value."""
    found: dict[str, list[Node]] = {}
    for node in graph.nodes:
        for name in node.sources:
            found.setdefault(name, []).append(node)
    return found


PASSES: Final[tuple[Pass, ...]] = (
    without_dead,
    move_once,
    move_later,
    multiply_once,
    fold_affine_twice,
    fold_affine_back,
    fold_affine_forward,
    fold_pad,
    flatten_sums,
    rectify_once,
    rectify_after_concatenate,
    rectify_after_max,
    divide_later,
    name_curves,
    without_identity,
    lift_padded_maxima,
)
