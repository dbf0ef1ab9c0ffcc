"""The graph that a reader writes, node by node: names, shapes, limits, and what stands behind the last layer.

A reader's value is a constant (a float64 array that follows from the weights alone) or a `Symbol`. Shapes here include
the batch, which is 1. An operator that cannot be expressed raises `Unsupported` with the reason; the reader collects
them all before it refuses the model.
"""

from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from primum.compiler.graph import (
    Affine,
    Array,
    Concatenate,
    Convolution,
    Curve,
    Ending,
    Graph,
    Node,
    Shape,
    shape_of,
)
from primum.compiler.windows import padded_size, possible
from primum.errors import ModelError

MOST_ELEMENTS: Final = 1 << 26
MOST_WEIGHTS: Final = 1 << 28


class Unsupported(Exception):
    """This operator, as it is used here, has no rule; the text says why."""


@dataclass(frozen=True)
class Symbol:
    """A value of the graph as its file sees it: name and full shape, batch included.

    Its elements stand in the order of the graph's value. Five axes, or rows of all places [n, channels], are a shape
    too: movements and linear layers take them, other operators see an image (`Builder.as_image`).
    """

    name: str
    shape: tuple[int, ...]


Value = Symbol | Array


def is_image(shape: tuple[int, ...]) -> bool:
    """Whether a file's shape is [1, channels, height, width], or the first of these."""
    return len(shape) <= 4 and shape[:1] == (1,)


def image_shape(shape: tuple[int, ...]) -> Shape:
    """[1, ...] as [channels, height, width]: missing axes are 1; a sequence [1, c, n] is one row of n."""
    if not is_image(shape):
        raise Unsupported(f"a value of shape {list(shape)}, not one image's [1, channels, height, width]")
    channels, height, width = {1: (1, 1, 1), 2: (*shape[1:], 1, 1), 3: (*shape[1:2], 1, *shape[2:]), 4: shape[1:]}[
        len(shape)
    ]
    return (channels, height, width)


class Recorder:
    """Collects the nodes of one graph and knows the shape of every value."""

    def __init__(self, name: str, shape: Shape) -> None:
        self.input = Symbol(name, (1, *shape))
        self.shape = shape
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {name: shape}
        self.endings: dict[str, tuple[Symbol, Ending]] = {}
        self.weights = 0
        self.place = ""
        """The layer that is being read; its nodes are named after it."""

    def finish(self, output: Symbol) -> Graph:
        """The graph that ends in `output`; ModelError where its shape is not that of one image's answer."""
        if not is_image(output.shape):
            raise ModelError(
                f"the answer of this model has the shape {list(output.shape)}.",
                "It must be [1, classes] or [1, channels, height, width].",
            )
        source, ending = self.endings.get(output.name, (output, "none"))
        last = next((node for node in reversed(self.nodes) if node.name == source.name), None)
        if isinstance(last, Curve) and last.kind == "sigmoid" and ending == "none":
            return Graph(self.input.name, self.shape, tuple(self.nodes), last.sources[0], "sigmoid")
        z = self._two_sided(last) if ending == "none" else None
        if z is not None:
            halves = np.array([-0.5, 0.5]).reshape(2, 1, 1, 1)
            self.add(Convolution(f"{source.name}~logits", (z,), halves, np.zeros(2)))
            return Graph(self.input.name, self.shape, tuple(self.nodes), f"{source.name}~logits", "softmax")
        return Graph(self.input.name, self.shape, tuple(self.nodes), source.name, ending)

    def _two_sided(self, last: Node | None) -> str | None:
        """z where `last` is (1 - p, p) with p = sigmoid(z) of one number: the softmax of (-z/2, z/2)."""
        by_name = {node.name: node for node in self.nodes}
        if not isinstance(last, Concatenate) or self.shapes[last.name] != (2, 1, 1) or len(last.sources) != 2:
            return None
        other, curve = (by_name.get(name) for name in last.sources)
        if not isinstance(curve, Curve) or curve.kind != "sigmoid" or not isinstance(other, Affine):
            return None
        turned = other.sources == (curve.name,) and (*other.scale, *other.shift) == (-1.0, 1.0)
        return curve.sources[0] if turned else None

    def name(self) -> str:
        """A name that no value has yet, after the layer that is being read."""
        wanted, number = self.place or "value", 1
        while wanted in self.shapes:
            number += 1
            wanted = f"{self.place or 'value'}#{number}"
        return wanted

    def add(self, node: Node, shape: tuple[int, ...] | None = None) -> Symbol:
        """Append `node`; `shape` where the file's shape is not simply [1, channels, height, width]."""
        if any(name in self.endings for name in node.sources):
            raise Unsupported("softmax, log-softmax and argmax are computed at the very end only")
        if not possible(node):
            raise Unsupported("a window whose stride, dilation or padding makes no sense")
        made = shape_of(node, [self.shapes[name] for name in node.sources])
        if min(made) < 1:
            raise Unsupported(f"its result would be empty ({list(made)})")
        if max(prod(made), padded_size(node, self.shapes[node.sources[0]])) > MOST_ELEMENTS:
            raise Unsupported(f"its values would have more than {MOST_ELEMENTS:,} elements")
        self._count(node)
        self.nodes.append(node)
        self.shapes[node.name] = made
        return Symbol(node.name, shape or (1, *made))

    def _count(self, node: Node) -> None:
        """A weight of the file that many layers read is held once for each of them: a small file could fill memory."""
        if isinstance(node, Convolution):
            self.weights += node.weight.size
        elif isinstance(node, Affine):
            self.weights += 2 * node.scale.size
        if self.weights > MOST_WEIGHTS:
            raise Unsupported(
                f"its model has more than {MOST_WEIGHTS:,} weights, counted for each layer that uses them"
            )

    def stand_in(self, shape: tuple[int, ...]) -> Symbol:
        """A value for one that could not be read, so that what follows is looked at too; the model is refused anyway."""
        made = Symbol(self.name(), shape)
        try:
            self.shapes[made.name] = image_shape(shape)
        except Unsupported:
            self.shapes[made.name] = (1, 1, 1)
        return made

    def end(self, x: Symbol, ending: Ending, axis: int = 1, shape: tuple[int, ...] | None = None) -> Symbol:
        """Softmax, log-softmax or argmax over the classes: what the data owner does with the answer."""
        rank = len(x.shape)
        if x.name in self.endings:
            source, before = self.endings[x.name]
            if ending != "argmax" or before == "argmax" or x.shape != source.shape:
                raise Unsupported(f"{ending} of {before}")
            x = source  # the largest stays the largest
        if axis % rank != 1 and prod(x.shape[1:]) != x.shape[axis % rank]:
            raise Unsupported(f"{ending} along another axis than the classes")
        made = Symbol(self.name(), shape or x.shape)
        self.shapes[made.name] = self.shapes[x.name]
        self.endings[made.name] = (x, ending)
        return made

    def _ranked(self, node: Node, x: Symbol) -> Symbol:
        """Add a node whose result has as many axes as its source in the file."""
        made = self.add(node)
        channels, height, width = self.shapes[made.name]
        return Symbol(made.name, (1, channels, width) if len(x.shape) == 3 else (1, channels, height, width))
