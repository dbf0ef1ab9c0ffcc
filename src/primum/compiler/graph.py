"""A float model as a list of nodes: what both readers write, and what the simplifier, the evaluator and lowering read.

A value is a tensor [channels, height, width] of one image; a vector is [length, 1, 1]. Every node makes one value and
has its name. Weights are float64 and belong to the model owner: they are not printed. Numbers that stand in a node and
are no weights (strides, slopes, bounds, public factors) are architecture, and become public.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]
Shape = tuple[int, int, int]
Pair = tuple[int, int]
Edges = tuple[int, int, int, int]
"""Top, bottom, left, right."""

Ending = Literal["none", "softmax", "log_softmax", "sigmoid", "argmax"]
"""What the data owner does with the answer; `argmax` may also happen under encryption."""

NO_EDGES: Edges = (0, 0, 0, 0)


@dataclass(frozen=True)
class Node:
    """`name` is the node and the value that it makes; `sources` are the values that it reads."""

    name: str
    sources: tuple[str, ...]


@dataclass(frozen=True)
class Convolution(Node):
    """weight [outputs, channels / groups, kernel height, kernel width], bias [outputs]; a linear layer is 1x1."""

    weight: Array = field(repr=False)
    bias: Array = field(repr=False)
    stride: Pair = (1, 1)
    padding: Edges = NO_EDGES
    dilation: Pair = (1, 1)
    groups: int = 1


@dataclass(frozen=True)
class Affine(Node):
    """scale x + shift, one of each for every channel: weights, unless `public`; then the same for all channels."""

    scale: Array = field(repr=False)
    shift: Array = field(repr=False)
    public: bool = False


@dataclass(frozen=True)
class Rectify(Node):
    """max(x, 0)."""


@dataclass(frozen=True)
class Clip(Node):
    """min(max(x, low f), high f): f is 1, or one factor for each channel, which is a weight."""

    low: float
    high: float
    factors: Array | None = field(default=None, repr=False)

    @property
    def bounds(self) -> tuple[Array, Array]:
        """low f and high f, one of each or [channels]."""
        factors = np.ones(1) if self.factors is None else self.factors
        return self.low * factors, self.high * factors


@dataclass(frozen=True)
class Leaky(Node):
    """x where x > 0, else slope x."""

    slope: float


@dataclass(frozen=True)
class Curve(Node):
    """A smooth function of one number, by its name in `curves.py`."""

    kind: str


@dataclass(frozen=True)
class Winner(Node):
    """1 in the channel of the largest value, 0 in all others, at every position: the class, and nothing else."""


@dataclass(frozen=True)
class Window(Node):
    """A window that slides over height and width; padding counts as 0, for a maximum as nothing."""

    kernel: Pair
    stride: Pair
    padding: Edges = NO_EDGES


@dataclass(frozen=True)
class MaxPool(Window):
    """The largest value of each window; `lifted` where padding may not count as 0 (negative values stay negative)."""

    lifted: bool = False


@dataclass(frozen=True)
class AveragePool(Window):
    """The sum of each window, divided by its full size."""


@dataclass(frozen=True)
class SumPool(Window):
    """The sum of each window: an average pool whose divisor went into the weights behind it."""


@dataclass(frozen=True)
class Sum(Node):
    """Sum of factor_i source_i, factors 1 or -1; a size of 1 is repeated."""

    factors: tuple[int, ...]


@dataclass(frozen=True)
class Multiply(Node):
    """The product of two values, element by element; a size of 1 is repeated."""


@dataclass(frozen=True)
class Concatenate(Node):
    """Sources side by side along `axis`: 0 channels, 1 height, 2 width."""

    axis: int


@dataclass(frozen=True)
class Slice(Node):
    """Every step-th element from start to before stop, along channels, height and width; steps are positive."""

    start: Shape
    stop: Shape
    step: Shape = (1, 1, 1)


@dataclass(frozen=True)
class Pad(Node):
    """Zeros around height and width, after `gaps` zeros between neighbours."""

    edges: Edges
    gaps: Pair = (0, 0)


@dataclass(frozen=True)
class Reshape(Node):
    """The same numbers in the same order, channels outermost."""

    shape: Shape


@dataclass(frozen=True)
class Permute(Node):
    """The axes in another order: axis i of the result is axis `axes`[i] of the source."""

    axes: Shape


@dataclass(frozen=True)
class Repeat(Node):
    """Nearest upsampling by whole numbers."""

    times: Pair


@dataclass(frozen=True)
class Interpolate(Node):
    """Bilinear resizing to `size`, with PyTorch's two conventions for the corners."""

    size: Pair
    align_corners: bool = False


@dataclass(frozen=True)
class Graph:
    """A model: from the value `input` of shape `shape`, node by node, to the value `output`, then `ending`."""

    input: str
    shape: Shape
    nodes: tuple[Node, ...]
    output: str
    ending: Ending = "none"

    @property
    def shapes(self) -> dict[str, Shape]:
        """The shape of every value."""
        known = {self.input: self.shape}
        for node in self.nodes:
            known[node.name] = shape_of(node, [known[name] for name in node.sources])
        return known

    @property
    def readers(self) -> Counter[str]:
        """How often every value is read; the output is read once more."""
        counted = Counter(name for node in self.nodes for name in node.sources)
        counted[self.output] += 1
        return counted

    def with_nodes(self, nodes: Iterable[Node], output: str = "") -> "Graph":
        """This graph with other nodes, and another output if one is named."""
        return replace(self, nodes=tuple(nodes), output=output or self.output)


def steps(size: int, kernel: int, stride: int, before: int, after: int, dilation: int = 1) -> int:
    """Positions of a window that slides over one axis."""
    return (size + before + after - dilation * (kernel - 1) - 1) // stride + 1


@singledispatch
def shape_of(node: Node, shapes: list[Shape]) -> Shape:
    """The shape that `node` makes of the shapes of its sources; element by element unless a rule says otherwise."""
    height = np.broadcast_shapes(*shapes)
    return (height[0], height[1], height[2])


@shape_of.register
def _(node: Convolution, shapes: list[Shape]) -> Shape:
    _, height, width = shapes[0]
    outputs, _, high, wide = node.weight.shape
    top, bottom, left, right = node.padding
    return (
        outputs,
        steps(height, high, node.stride[0], top, bottom, node.dilation[0]),
        steps(width, wide, node.stride[1], left, right, node.dilation[1]),
    )


@shape_of.register
def _(node: Window, shapes: list[Shape]) -> Shape:
    channels, height, width = shapes[0]
    top, bottom, left, right = node.padding
    return (
        channels,
        steps(height, node.kernel[0], node.stride[0], top, bottom),
        steps(width, node.kernel[1], node.stride[1], left, right),
    )


@shape_of.register
def _(node: Concatenate, shapes: list[Shape]) -> Shape:
    joined = list(shapes[0])
    joined[node.axis] = sum(shape[node.axis] for shape in shapes)
    return (joined[0], joined[1], joined[2])


@shape_of.register
def _(node: Slice, shapes: list[Shape]) -> Shape:
    first, second, third = (len(range(a, b, c)) for a, b, c in zip(node.start, node.stop, node.step, strict=True))
    return (first, second, third)


@shape_of.register
def _(node: Pad, shapes: list[Shape]) -> Shape:
    channels, height, width = shapes[0]
    top, bottom, left, right = node.edges
    return (
        channels,
        height + (height - 1) * node.gaps[0] + top + bottom,
        width + (width - 1) * node.gaps[1] + left + right,
    )


@shape_of.register
def _(node: Reshape, shapes: list[Shape]) -> Shape:
    return node.shape


@shape_of.register
def _(node: Permute, shapes: list[Shape]) -> Shape:
    one, two, three = (shapes[0][axis] for axis in node.axes)
    return (one, two, three)


@shape_of.register
def _(node: Repeat, shapes: list[Shape]) -> Shape:
    return (shapes[0][0], shapes[0][1] * node.times[0], shapes[0][2] * node.times[1])


@shape_of.register
def _(node: Interpolate, shapes: list[Shape]) -> Shape:
    return (shapes[0][0], *node.size)
