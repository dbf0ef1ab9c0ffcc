"""What both readers write a graph with: one method for each operator of the field, whatever file it came from.

A reader's value is a constant (a float64 array that follows from the weights alone) or a `Symbol`. Shapes here include
the batch, which is 1. An operator that cannot be expressed raises `Unsupported` with the reason; the reader collects
them all before it refuses the model.
"""

from dataclasses import dataclass
from math import prod
from typing import Final

import numpy as np

from primum.compiler.graph import (
    NO_EDGES,
    Affine,
    Array,
    AveragePool,
    Clip,
    Concatenate,
    Convolution,
    Curve,
    Edges,
    Ending,
    Graph,
    Interpolate,
    Leaky,
    MaxPool,
    Multiply,
    Node,
    Pad,
    Pair,
    Permute,
    Rectify,
    Repeat,
    Reshape,
    Shape,
    Slice,
    Sum,
    shape_of,
)
from primum.compiler.windows import counts, padded_size, possible, rounded_up, transposed_edges

MOST_ELEMENTS: Final = 1 << 26
MOST_WEIGHTS: Final = 1 << 28


class Unsupported(Exception):
    """This operator, as it is used here, has no rule; the text says why."""


@dataclass(frozen=True)
class Symbol:
    """A value of the graph as its file sees it: name and full shape, batch included."""

    name: str
    shape: tuple[int, ...]


Value = Symbol | Array


def image_shape(shape: tuple[int, ...]) -> Shape:
    """[1, ...] as [channels, height, width]: missing axes are 1; a sequence [1, c, n] is one row of n."""
    if not shape or shape[0] != 1 or len(shape) > 4:
        raise Unsupported(f"a value has the shape {list(shape)}, not one image's [1, channels, height, width]")
    channels, height, width = {1: (1, 1, 1), 2: (*shape[1:], 1, 1), 3: (*shape[1:2], 1, *shape[2:]), 4: shape[1:]}[
        len(shape)
    ]
    return (channels, height, width)


class Builder:
    """Collects the nodes of one graph; a method returns the symbol of what it adds."""

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
        """The graph that ends in `output`."""
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

    def convolution(
        self,
        x: Symbol,
        weight: Value,
        bias: Value | None,
        stride: Pair = (1, 1),
        padding: Edges = NO_EDGES,
        dilation: Pair = (1, 1),
        groups: int = 1,
    ) -> Symbol:
        """weight [outputs, channels / groups, height, width], or without height for a sequence."""
        flat, offset = _weights(weight, bias)
        row = flat[:, :, None, :] if flat.ndim == 3 else flat
        if row.ndim != 4:
            raise Unsupported(f"a kernel with {flat.ndim - 2} axes")
        if row.shape[1] * groups != self.shapes[x.name][0] or row.shape[0] % groups or offset.shape != row.shape[:1]:
            raise Unsupported(f"weights {list(flat.shape)} on a value of shape {list(x.shape)}")
        node = Convolution(self.name(), (x.name,), row, offset, stride, padding, dilation, groups)
        return self._ranked(node, x)

    def transposed(
        self,
        x: Symbol,
        weight: Value,
        bias: Value | None,
        stride: Pair,
        padding: Edges,
        extra: Pair,
        dilation: Pair,
        groups: int,
    ) -> Symbol:
        """A transposed convolution is one with flipped weights over the input with zeros between its elements.

        weight [channels, outputs / groups, height, width]; `extra` rows and columns at bottom and right.
        """
        if isinstance(weight, Symbol) or np.ndim(weight) != 4:
            raise Unsupported("a transposed convolution with computed weights, or not in two dimensions")
        channels, outputs, high, wide = weight.shape
        grouped = weight.reshape(groups, channels // groups, outputs, high, wide).transpose(0, 2, 1, 3, 4)
        flipped = grouped.reshape(groups * outputs, channels // groups, high, wide)[:, :, ::-1, ::-1]
        edges = transposed_edges((high, wide), padding, extra, dilation)
        if min(edges) < 0:
            raise Unsupported("a transposed convolution with more padding than kernel")
        spread = self.add(Pad(self.name(), (x.name,), edges, (stride[0] - 1, stride[1] - 1)))
        return self.convolution(spread, flipped.copy(), bias, dilation=dilation, groups=groups)

    def linear(self, x: Symbol, weight: Value, bias: Value | None) -> Symbol:
        """weight [outputs, inputs] on a vector [1, inputs]."""
        flat, offset = _weights(weight, bias)
        if prod(x.shape) != flat.shape[1] or x.shape[-1] != flat.shape[1]:
            raise Unsupported(f"a linear layer on a value of shape {list(x.shape)}; flatten it first")
        if offset.shape not in ((1,), (flat.shape[0],), (1, 1), (1, flat.shape[0])):
            raise Unsupported(f"a bias of shape {list(offset.shape)} on {flat.shape[0]} outputs")
        offset = _own(np.broadcast_to(offset.reshape(-1), flat.shape[:1]))
        source = self.reshape(x, (1, flat.shape[1]))
        node = Convolution(self.name(), (source.name,), flat[:, :, None, None], offset)
        return self.add(node, (*x.shape[:-1], flat.shape[0]))

    def affine(self, x: Symbol, scale: Value, shift: Value) -> Symbol:
        """scale x + shift with weights that broadcast against x."""
        if isinstance(scale, Symbol) or isinstance(shift, Symbol):
            raise Unsupported("normalisation with computed factors")
        channels = self.shapes[x.name][0]
        one, two = (_by_channel(part, x.shape) for part in (scale, shift))
        if one is not None and two is not None:
            by_channel = (_own(np.broadcast_to(one, (channels,))), _own(np.broadcast_to(two, (channels,))))
            return self.add(Affine(self.name(), (x.name,), *by_channel), x.shape)
        axis = _only_axis((scale, shift), x.shape)
        if axis and len(x.shape) == 4:  # channels last: by channel once they are first
            order = (0, axis, *(at for at in range(1, 4) if at != axis))
            turned = self.affine(
                self.permute(x, order), *(_turned(part, order) for part in (np.asarray(scale), np.asarray(shift)))
            )
            return self.permute(turned, _inverse(order))
        return self._elementwise(x, scale, shift)

    def public_affine(self, x: Symbol, scale: float, shift: float) -> Symbol:
        """scale x + shift with numbers of the architecture."""
        if (scale, shift) == (1.0, 0.0):
            return x
        channels = self.shapes[x.name][0]
        return self.add(
            Affine(self.name(), (x.name,), np.full(channels, scale), np.full(channels, shift), True), x.shape
        )

    def batch_norm(
        self, x: Symbol, weight: Value | None, bias: Value | None, mean: Value, variance: Value, epsilon: float
    ) -> Symbol:
        """(x - mean) / sqrt(variance + epsilon) weight + bias, with the recorded mean and variance."""
        if any(isinstance(part, Symbol) for part in (weight, bias, mean, variance)):
            raise Unsupported("batch norm without recorded statistics")
        scale = np.asarray(1.0 if weight is None else weight) / np.sqrt(np.asarray(variance) + epsilon)
        shift = np.asarray(0.0 if bias is None else bias) - np.asarray(mean) * scale
        trailing = (-1, *(1,) * (len(x.shape) - 2))
        return self.affine(x, scale.reshape(trailing), shift.reshape(trailing))

    def rectify(self, x: Symbol) -> Symbol:
        """ReLU."""
        return self.add(Rectify(self.name(), (x.name,)), x.shape)

    def clip(self, x: Symbol, low: float, high: float) -> Symbol:
        """Clip, ReLU6, hard tanh; a missing bound is infinite."""
        if low == 0.0 and high == np.inf:
            return self.rectify(x)
        if low == -np.inf and high == np.inf:
            return x
        if high == np.inf:
            return self.public_affine(self.rectify(self.public_affine(x, 1.0, -low)), 1.0, low)
        if low == -np.inf:
            return self.public_affine(self.rectify(self.public_affine(x, -1.0, high)), -1.0, high)
        if low > high:
            raise Unsupported("a clip whose lower bound is above its upper bound")
        return self.add(Clip(self.name(), (x.name,), float(low), float(high)), x.shape)

    def leaky(self, x: Symbol, slope: float) -> Symbol:
        """Leaky ReLU with a slope of the architecture."""
        return self.add(Leaky(self.name(), (x.name,), float(slope)), x.shape)

    def parametric(self, x: Symbol, slope: Value) -> Symbol:
        """PReLU: slope x + (1 - slope) max(x, 0), slopes are weights."""
        if isinstance(slope, Symbol):
            raise Unsupported("computed slopes")
        slopes = slope.reshape(-1, *(1,) * (len(x.shape) - 2)) if slope.ndim == 1 else slope
        return self.sum(self.scaled(x, slopes), self.scaled(self.rectify(x), 1.0 - slopes))

    def hard_sigmoid(self, x: Symbol, slope: float = 1 / 6, offset: float = 0.5) -> Symbol:
        """min(max(slope x + offset, 0), 1)."""
        return self.clip(self.public_affine(x, slope, offset), 0.0, 1.0)

    def hard_swish(self, x: Symbol) -> Symbol:
        """x times its hard sigmoid."""
        return self.product(x, self.hard_sigmoid(x))

    def curve(self, x: Symbol, kind: str) -> Symbol:
        """A smooth function of `curves.py`."""
        return self.add(Curve(self.name(), (x.name,), kind), x.shape)

    def max_pool(self, x: Symbol, kernel: Pair, stride: Pair, padding: Edges, dilation: Pair, ceil: bool) -> Symbol:
        """The largest of each window."""
        if dilation != (1, 1):
            raise Unsupported("a max pool with dilation")
        edges = self._edges(x, kernel, stride, padding, ceil)
        return self._ranked(MaxPool(self.name(), (x.name,), kernel, stride, edges), x)

    def average_pool(
        self, x: Symbol, kernel: Pair, stride: Pair, padding: Edges, ceil: bool, count_padding: bool
    ) -> Symbol:
        """The mean of each window; where padding does not count, its share is put right position by position."""
        edges = self._edges(x, kernel, stride, padding, ceil)
        pooled = self._ranked(AveragePool(self.name(), (x.name,), kernel, stride, edges), x)
        counted = padding if count_padding else NO_EDGES
        sizes = counts(self.shapes[x.name], kernel, stride, edges, counted)
        if (sizes == prod(kernel)).all():
            return pooled
        return self.scaled(pooled, (prod(kernel) / sizes).reshape(1, *(1,) * (len(x.shape) - 3), *sizes.shape[2:]))

    def mean(self, x: Symbol, axes: tuple[int, ...], keep: bool) -> Symbol:
        """The mean over two axes of an image, or the one of a sequence, whichever they are."""
        rank = len(x.shape)
        left = tuple(at for at in range(rank) if at not in axes)
        if rank < 3 or len(left) != 2 or 0 in axes:
            raise Unsupported("a mean over something else than height and width")
        pooled = self._mean(self.permute(x, (*left, *sorted(axes))), keep)
        return self.permute(pooled, _inverse((*left, *sorted(axes)))) if keep else pooled

    def _mean(self, x: Symbol, keep: bool) -> Symbol:
        """The mean over height and width."""
        _, height, width = self.shapes[x.name]
        pooled = self.add(AveragePool(self.name(), (x.name,), (height, width), (1, 1)))
        return Symbol(pooled.name, (*x.shape[:2], *(1,) * (len(x.shape) - 2)) if keep else x.shape[:2])

    def sum(self, left: Value, right: Value, factor: int = 1) -> Symbol:
        """left + factor right, factor 1 or -1; one of them may be a constant."""
        if isinstance(left, Symbol) and isinstance(right, Symbol):
            one, two = self._aligned(left, right)
            shape = np.broadcast_shapes(left.shape, right.shape)
            return self.add(Sum(self.name(), (one.name, two.name), (1, factor)), shape)
        if isinstance(left, Symbol):
            return self.affine(left, np.array(1.0), factor * np.asarray(right))
        assert isinstance(right, Symbol)
        return self.affine(right, np.array(float(factor)), left)

    def product(self, left: Value, right: Value) -> Symbol:
        """left times right, element by element; one of them may be a constant."""
        if isinstance(left, Symbol) and isinstance(right, Symbol):
            one, two = self._aligned(left, right)
            shape = np.broadcast_shapes(left.shape, right.shape)
            return self.add(Multiply(self.name(), (one.name, two.name)), shape)
        symbol, constant = (left, right) if isinstance(left, Symbol) else (right, left)
        assert isinstance(symbol, Symbol)
        return self.scaled(symbol, constant)

    def scaled(self, x: Symbol, factor: Value) -> Symbol:
        """x times weights that broadcast against it."""
        return self.affine(x, factor, np.array(0.0))

    def concatenate(self, parts: list[Symbol], axis: int) -> Symbol:
        """Side by side along an axis that is not the batch."""
        rank = len(parts[0].shape)
        at = axis % rank
        if at == 0 or any(len(part.shape) != rank for part in parts):
            raise Unsupported("a concatenation along the batch")
        if len({(*part.shape[:at], *part.shape[at + 1 :]) for part in parts}) != 1:
            raise Unsupported("a concatenation of values that do not fit together")
        shape = list(parts[0].shape)
        shape[at] = sum(part.shape[at] for part in parts)
        return self.add(Concatenate(self.name(), tuple(part.name for part in parts), _axis(rank, at)), tuple(shape))

    def slice(self, x: Symbol, axis: int, start: int, stop: int, step: int = 1) -> Symbol:
        """Elements start, start + step, ... before stop along one axis; negative positions count from the end."""
        rank = len(x.shape)
        at = axis % rank
        if step < 1:
            raise Unsupported("a slice that runs backwards")
        first, last, _ = slice(start, stop, step).indices(x.shape[at])
        shape = list(x.shape)
        shape[at] = len(range(first, last, step))
        if shape[at] == x.shape[at]:
            return x
        if at == 0:
            raise Unsupported("a slice of the batch")
        place, whole = _axis(rank, at), self.shapes[x.name]
        starts, stops, jumps = [0, 0, 0], list(whole), [1, 1, 1]
        starts[place], stops[place], jumps[place] = first, last, step
        node = Slice(self.name(), (x.name,), _three(starts), _three(stops), _three(jumps))
        return self.add(node, tuple(shape))

    def pad(self, x: Symbol, edges: Edges, filling: float = 0.0) -> Symbol:
        """Zeros around height and width; a negative edge cuts away."""
        if filling != 0.0:
            raise Unsupported("padding with something else than 0")
        _, height, width = self.shapes[x.name]
        top, bottom, left, right = edges
        if min(edges) < 0:
            start, stop = (0, max(-top, 0), max(-left, 0)), (height + min(bottom, 0), width + min(right, 0))
            x = self.add(Slice(self.name(), (x.name,), start, (self.shapes[x.name][0], *stop)))
        around = (max(top, 0), max(bottom, 0), max(left, 0), max(right, 0))
        return self._ranked(Pad(self.name(), (x.name,), around), x) if any(around) else x

    def permute(self, x: Symbol, order: tuple[int, ...]) -> Symbol:
        """The axes of the file in another order; the batch stays where it is."""
        shape = tuple(x.shape[axis] for axis in order)
        long = [axis for axis in order if x.shape[axis] != 1]
        if long == sorted(long):
            return self.reshape(x, shape)
        if x.name in self.endings or order[0] != 0 or len(shape) not in (3, 4):
            raise Unsupported(f"a transposition of {list(x.shape)} by {list(order)}")
        axes = (2, 1, 0) if len(shape) == 3 else _three([axis - 1 for axis in order[1:]])
        return self.add(Permute(self.name(), (x.name,), axes), shape)

    def reshape(self, x: Symbol, shape: tuple[int, ...]) -> Symbol:
        """The same numbers in the same order."""
        if prod(shape) != prod(x.shape):
            raise Unsupported(f"a reshape of {list(x.shape)} to {list(shape)}, which has another number of elements")
        made = image_shape(shape)
        if made == self.shapes[x.name] or x.name in self.endings:
            return Symbol(x.name, shape)
        return self.add(Reshape(self.name(), (x.name,), made), shape)

    def nearest(self, x: Symbol, size: Pair) -> Symbol:
        """Nearest upsampling to a multiple of the size."""
        _, height, width = self.shapes[x.name]
        times = (size[0] // height, size[1] // width)
        if (times[0] * height, times[1] * width) != size:
            raise Unsupported("nearest resizing by something else than a whole number")
        return self._ranked(Repeat(self.name(), (x.name,), times), x) if times != (1, 1) else x

    def bilinear(self, x: Symbol, size: Pair, align_corners: bool) -> Symbol:
        """Bilinear resizing."""
        return self._ranked(Interpolate(self.name(), (x.name,), size, align_corners), x)

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

    def _edges(self, x: Symbol, kernel: Pair, stride: Pair, padding: Edges, ceil: bool) -> Edges:
        """Padding with what a window that is rounded up needs at the end; PyTorch starts none inside the padding."""
        if not ceil:
            return padding
        _, height, width = self.shapes[x.name]
        bottom = rounded_up(height, kernel[0], stride[0], padding[0], padding[1])
        right = rounded_up(width, kernel[1], stride[1], padding[2], padding[3])
        return (padding[0], bottom, padding[2], right)

    def _aligned(self, left: Symbol, right: Symbol) -> tuple[Symbol, Symbol]:
        """Two values that broadcast in the file, so that they broadcast as [channels, height, width] too."""
        rank = max(len(left.shape), len(right.shape))
        return tuple(self.reshape(x, (1,) * (rank - len(x.shape)) + x.shape) for x in (left, right))  # type: ignore[return-value]

    def _elementwise(self, x: Symbol, scale: Array, shift: Array) -> Symbol:
        """Weights for every position: flatten, one channel an element, and back."""
        length = prod(x.shape)
        flat = self.reshape(x, (1, length))
        one, two = (_own(np.broadcast_to(part, x.shape).reshape(length)) for part in (scale, shift))
        return self.reshape(self.add(Affine(self.name(), (flat.name,), one, two)), x.shape)


def _weights(weight: Value, bias: Value | None) -> tuple[Array, Array]:
    if isinstance(weight, Symbol) or isinstance(bias, Symbol):
        raise Unsupported("computed weights")
    flat = _own(weight)
    return flat, np.zeros(flat.shape[0]) if bias is None else _own(bias)


def _own(values: Array) -> Array:
    """As float64, contiguous and writable: PyTorch warns about arrays that lie in a file's bytes."""
    made = np.require(values, np.float64, ["C", "W"])
    if not np.isfinite(made).all():
        raise Unsupported("weights that are not finite numbers")
    return made


def _by_channel(part: Array, shape: tuple[int, ...]) -> Array | None:
    """`part` as one number for every channel of a value of `shape`, or None where it differs within a channel."""
    if np.size(part) == 1:
        return np.asarray(part, np.float64).reshape(1)
    full = (1,) * (len(shape) - np.ndim(part)) + np.shape(part)
    if len(full) != len(shape) or np.broadcast_shapes(full, shape) != shape:
        raise Unsupported(f"a constant of shape {list(np.shape(part))} with a value of shape {list(shape)}")
    if any(length != 1 for at, length in enumerate(full) if at != 1):
        return None
    return np.asarray(part, np.float64).reshape(-1)


def _only_axis(parts: tuple[Value, Value], shape: tuple[int, ...]) -> int:
    """The one axis along which constants differ, which broadcast against `shape`; 0 where there are none or several."""
    found = set[int]()
    for part in parts:
        full = () if isinstance(part, Symbol) else (1,) * (len(shape) - part.ndim) + part.shape
        found |= {at for at, length in enumerate(full) if length != 1}
    return found.pop() if len(found) == 1 else 0


def _turned(part: Array, order: tuple[int, ...]) -> Array:
    """A constant that broadcasts, with its axes in another order."""
    return part.reshape((1,) * (len(order) - part.ndim) + part.shape).transpose(order)


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    """The order that undoes `order`."""
    return tuple(order.index(axis) for axis in range(len(order)))


def _axis(rank: int, at: int) -> int:
    """Which of channels, height and width the file's axis is."""
    return 2 if rank == 3 and at == 2 else at - 1


def _three(numbers: list[int]) -> Shape:
    return (numbers[0], numbers[1], numbers[2])
