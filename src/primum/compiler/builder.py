"""What both readers write a graph with: one method for each operator of the field, whatever file it came from."""

from math import prod

import numpy as np

from primum.compiler.arranger import Arranger
from primum.compiler.graph import (
    NO_EDGES,
    Affine,
    Array,
    AveragePool,
    Clip,
    Convolution,
    Curve,
    Edges,
    Leaky,
    MaxPool,
    Multiply,
    Pad,
    Pair,
    Rectify,
    Shape,
    Sum,
)
from primum.compiler.recorder import Symbol, Unsupported, Value, is_image
from primum.compiler.windows import counts, rounded_up, transposed_edges


class Builder(Arranger):
    """Layers, activations, pools and arithmetic; a method returns the symbol of what it adds."""

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
        """weight [outputs, inputs] on a vector [1, inputs], or on the last axis at every place."""
        flat, offset = _weights(weight, bias)
        if flat.ndim != 2 or x.shape[-1:] != flat.shape[1:]:
            raise Unsupported(f"a linear layer on a value of shape {list(x.shape)}; flatten it first")
        if offset.shape not in ((1,), (flat.shape[0],), (1, 1), (1, flat.shape[0])):
            raise Unsupported(f"a bias of shape {list(offset.shape)} on {flat.shape[0]} outputs")
        offset = _own(np.broadcast_to(offset.reshape(-1), flat.shape[:1]))
        if prod(x.shape) != flat.shape[1]:
            return self._linear_at_places(x, flat, offset)
        source = self.reshape(x, (1, flat.shape[1]))
        node = Convolution(self.name(), (source.name,), flat[:, :, None, None], offset)
        return self.add(node, (*x.shape[:-1], flat.shape[0]))

    def _linear_at_places(self, x: Symbol, weight: Array, bias: Array) -> Symbol:
        """A 1x1 convolution, once the last axis is that of the channels."""
        first = self.permute(self.reshape(x, (1, *self._maps(x))), (0, 3, 1, 2))
        made = self.permute(self.convolution(first, weight[:, :, None, None], bias), (0, 2, 3, 1))
        return Symbol(made.name, (*x.shape[:-1], len(weight)))

    def _maps(self, x: Symbol) -> Shape:
        """[height, width, last axis] with the places of `x`: those of the graph's value where that ends in this axis."""
        known, last = self.shapes[x.name], x.shape[-1]
        return known if known[2] == last else (prod(x.shape) // last, 1, last)

    def as_image(self, x: Symbol) -> Symbol:
        """`x` as [1, ...] with at most four axes, the last one as it is: rows of all places, five axes."""
        return x if is_image(x.shape) else self.reshape(x, (1, *self._maps(x)))

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
        if axis and len(x.shape) in (3, 4):  # channels last: by channel once they are first
            order = (0, axis, *(at for at in range(1, len(x.shape)) if at != axis))
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

    def _edges(self, x: Symbol, kernel: Pair, stride: Pair, padding: Edges, ceil: bool) -> Edges:
        """Padding with what a window that is rounded up needs at the end; PyTorch starts none inside the padding."""
        if not ceil:
            return padding
        _, height, width = self.shapes[x.name]
        bottom = rounded_up(height, kernel[0], stride[0], padding[0], padding[1])
        right = rounded_up(width, kernel[1], stride[1], padding[2], padding[3])
        return (padding[0], bottom, padding[2], right)

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
