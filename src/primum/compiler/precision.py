"""Where the binary point of every value stands, before any operation is written.

| name | of a value |
|---|---|
| magnitude m | abs(x) < 2^m, from its range and the spare bits |
| settled f | fractional bits once it is cut to be compared, opened or joined; equal for all that are concatenated |
| most F | fractional bits that an exact sum of products may have, so that it and all exact sums of it fit the ring |

A convolution's weights get all bits that are left: f_w = F of its result - f of its source.
"""

from collections.abc import Callable
from dataclasses import dataclass
from math import ceil, log2, prod
from typing import Final

from primum.compiler.curves import CURVES
from primum.compiler.graph import (
    AveragePool,
    Clip,
    Concatenate,
    Curve,
    Graph,
    Leaky,
    MaxPool,
    Node,
    Pad,
    Permute,
    Rectify,
    Repeat,
    Reshape,
    Slice,
    Sum,
    SumPool,
    Window,
)

SPARE_BITS: Final = 2
SETTLED_FRACTION: Final = 15
COMPARED_FRACTION: Final = 15
COMPARED_BITS: Final = 19
"""Magnitude and fraction of a value that is compared, or is one of a maximum, have at most so many bits together."""
EXTENDED_BITS: Final = 30
"""Magnitude and fraction of a value that goes on without a ReLU have at most so many bits together."""
LEAST_SUMMED_FRACTION: Final = 9
"""A sum of n values is log2 n bits larger; fewer fractional bits leave the weights (or the 1/n) behind it as many as ever."""
LEAST_MAGNITUDE: Final = -8


@dataclass(frozen=True)
class Precision:
    """The table above, for every value of one graph in the ring Z_2^bits."""

    bits: int
    magnitude: dict[str, int]
    settled: dict[str, int]
    most: dict[str, int]


def magnitude_of(largest: float, spare: int) -> int:
    """The smallest m with `spare` bits to spare over a magnitude `largest`."""
    return max(LEAST_MAGNITUDE, ceil(log2(largest)) + spare) if largest > 0 else LEAST_MAGNITUDE


def precision_of(graph: Graph, largest: dict[str, float], bits: int, spare: int = SPARE_BITS) -> Precision:
    """The binary points of `graph`, whose values have the magnitudes `largest`, in the ring Z_2^bits."""
    magnitude = {name: magnitude_of(value, spare) for name, value in largest.items()}
    return Precision(bits, magnitude, _settled(graph, magnitude), _most(graph, magnitude, bits))


def compared_magnitude(node: Node, magnitude: dict[str, int]) -> int:
    """The magnitude of what `node` compares."""
    at = magnitude[node.sources[0]]
    if isinstance(node, Clip):
        bound = magnitude_of(max(abs(node.low), abs(node.high)), 0)
        at = (max(at, bound) if node.factors is None else at) + 1  # bounds by channel end where the values do
    if isinstance(node, Curve):
        at = max(at, magnitude_of(max(CURVES[node.kind].knots), 0)) + 1
    if isinstance(node, MaxPool) and node.lifted:
        at += 1
    return at


def _settled(graph: Graph, magnitude: dict[str, int]) -> dict[str, int]:
    """One fraction for each set of values that are joined or only moved."""
    roots = {name: name for name in magnitude}

    def root(name: str) -> str:
        while roots[name] != name:
            name = roots[name]
        return name

    readers = graph.readers
    for node in graph.nodes:
        alone = isinstance(node, SumPool) and readers[node.sources[0]] == 1
        if alone or isinstance(node, Concatenate | Slice | Pad | Reshape | Permute | Repeat):
            for source in node.sources:
                roots[root(source)] = root(node.name)
    least: dict[str, int] = {}
    own = {node.name: _own_fraction(node, magnitude) for node in graph.nodes}
    for node in graph.nodes:
        if isinstance(node, AveragePool) and readers[node.sources[0]] == 1:
            own[node.sources[0]] = min(own.get(node.sources[0], SETTLED_FRACTION), _summed_fraction(node))
    for name in magnitude:
        at = root(name)
        least[at] = min(least.get(at, COMPARED_FRACTION), own.get(name, SETTLED_FRACTION))
    return {name: least[root(name)] for name in magnitude}


def _own_fraction(node: Node, magnitude: dict[str, int]) -> int:
    if isinstance(node, Rectify | MaxPool | Clip | Leaky):
        return min(COMPARED_FRACTION, COMPARED_BITS - compared_magnitude(node, magnitude))
    if isinstance(node, SumPool):
        return _summed_fraction(node)
    return min(SETTLED_FRACTION, EXTENDED_BITS - magnitude[node.name])


def _summed_fraction(node: Window) -> int:
    """Fractional bits of a value that is summed over a window: what is behind it needs the others."""
    return max(LEAST_SUMMED_FRACTION, SETTLED_FRACTION + 1 - prod(node.kernel).bit_length())


def _most(graph: Graph, magnitude: dict[str, int], bits: int) -> dict[str, int]:
    """From the output backwards: a source of an exact sum has no more fractional bits than the sum may have."""
    readers: dict[str, list[Node]] = {name: [] for name in magnitude}
    for node in graph.nodes:
        for source in node.sources:
            readers[source].append(node)
    most: dict[str, int] = {}
    for name in (*(node.name for node in reversed(graph.nodes)), graph.input):
        compared = all(isinstance(reader, Rectify) for reader in readers[name])
        widest = max([magnitude[name], *(compared_magnitude(one, magnitude) for one in readers[name])])
        most[name] = bits - (1 if compared else 2) - widest
        for reader in readers[name]:
            most[name] = min(most[name], _passed(reader)(most[reader.name], most[name]))
    return most


def _passed(reader: Node) -> Callable[[int, int], int]:
    """What a reader that may have `after` bits leaves to its source, that may have `own`."""
    if isinstance(reader, Sum | Concatenate | Slice | Pad | Reshape | Permute | Repeat | SumPool):
        return lambda after, own: after
    size = prod(reader.kernel) if isinstance(reader, AveragePool) else 0
    if size and not size & (size - 1):
        return lambda after, own: after - size.bit_length() + 1
    return lambda after, own: own
