"""One rule for each operator of ATen that torch.export leaves: f(builder, *arguments), as PyTorch calls them."""

from itertools import pairwise
from math import inf
from typing import Any, Final

import numpy as np

from primum.compiler.builder import Builder
from primum.compiler.graph import Edges, Pair
from primum.compiler.recorder import Symbol, Unsupported, Value
from primum.compiler.rules import Rules

RULES: Final = Rules()
rule = RULES.rule


def _pair(item: Any, default: Pair = (1, 1)) -> Pair:
    """PyTorch's int, one number or two, as (vertical, horizontal)."""
    numbers = [item] if isinstance(item, int) else list(item or [])
    if not numbers:
        return default
    if len(numbers) > 2:
        raise Unsupported("three dimensions")
    return (int(numbers[0]), int(numbers[-1]))


def _row_pair(item: Any, x: Symbol, default: int = 1) -> Pair:
    """As `_pair`; on a sequence the one number is horizontal."""
    if len(x.shape) == 3:
        return (default, _pair(item, (default, default))[1])
    return _pair(item, (default, default))


def _edges(padding: Pair) -> Edges:
    return (padding[0], padding[0], padding[1], padding[1])


@rule("conv2d", "conv1d")
def _(b: Builder, x: Symbol, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
      dilation: Any = 1, groups: int = 1) -> Symbol:  # fmt: skip
    spread = _row_pair(dilation, x)
    if isinstance(padding, str):
        edges = _same(weight, spread) if padding == "same" else (0, 0, 0, 0)
    else:
        edges = _edges(_row_pair(padding, x, 0))
    return b.convolution(x, weight, bias, _row_pair(stride, x), edges, spread, groups)


def _same(weight: Value, dilation: Pair) -> Edges:
    """Padding "same": PyTorch puts the odd one at the end."""
    high, wide = (weight.shape[2] if len(weight.shape) == 4 else 1), weight.shape[-1]
    down, across = dilation[0] * (high - 1), dilation[1] * (wide - 1)
    return (down // 2, down - down // 2, across // 2, across - across // 2)


@rule("conv_transpose2d")
def _(b: Builder, x: Symbol, weight: Value, bias: Value | None = None, stride: Any = 1, padding: Any = 0,
      output_padding: Any = 0, groups: int = 1, dilation: Any = 1) -> Symbol:  # fmt: skip
    edges = _edges(_pair(padding, (0, 0)))
    return b.transposed(x, weight, bias, _pair(stride), edges, _pair(output_padding, (0, 0)), _pair(dilation), groups)


@rule("linear", takes="any")
def _(b: Builder, x: Symbol, weight: Value, bias: Value | None = None) -> Symbol:
    return b.linear(x, weight, bias)


@rule("addmm", takes="any")
def _(b: Builder, bias: Value, x: Any, weight: Value, beta: float = 1, alpha: float = 1) -> Symbol:
    if (beta, alpha) != (1, 1) or isinstance(weight, Symbol) or not isinstance(x, Symbol):
        raise Unsupported("a product of two computed matrices")
    return b.linear(x, weight.T, bias)


@rule("matmul", "mm", takes="any")
def _(b: Builder, x: Symbol, weight: Value) -> Symbol:
    if isinstance(weight, Symbol) or weight.ndim != 2:
        raise Unsupported("a product of two computed matrices")
    return b.linear(x, weight.T, None)


@rule("_native_batch_norm_legit_no_training")
def _(b: Builder, x: Symbol, weight: Value, bias: Value, mean: Value, variance: Value, momentum: float,
      epsilon: float) -> list[Symbol]:  # fmt: skip
    return [b.batch_norm(x, weight, bias, mean, variance, epsilon)]


@rule("batch_norm")
def _(b: Builder, x: Symbol, weight: Value, bias: Value, mean: Value, variance: Value, training: bool,
      momentum: float, epsilon: float, cudnn: bool = False) -> Symbol:  # fmt: skip
    if training or mean is None:
        raise Unsupported("batch norm without recorded statistics")
    return b.batch_norm(x, weight, bias, mean, variance, epsilon)


@rule("getitem")
def _(b: Builder, parts: list[Symbol], at: int) -> Symbol:
    return parts[at]


@rule("relu", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.rectify(x)


@rule("relu6", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.clip(x, 0.0, 6.0)


@rule("hardtanh", takes="elements")
def _(b: Builder, x: Symbol, low: float = -1.0, high: float = 1.0) -> Symbol:
    return b.clip(x, low, high)


@rule("clamp", "clip", takes="elements")
def _(b: Builder, x: Symbol, low: float | None = None, high: float | None = None) -> Symbol:
    return b.clip(x, -inf if low is None else low, inf if high is None else high)


@rule("clamp_min", takes="elements")
def _(b: Builder, x: Symbol, low: float) -> Symbol:
    return b.clip(x, low, inf)


@rule("leaky_relu", takes="elements")
def _(b: Builder, x: Symbol, slope: float = 0.01) -> Symbol:
    return b.leaky(x, slope)


@rule("prelu")
def _(b: Builder, x: Symbol, slope: Value) -> Symbol:
    return b.parametric(x, slope)


@rule("hardsigmoid", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.hard_sigmoid(x)


@rule("hardswish", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.hard_swish(x)


@rule("sigmoid", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.curve(x, "sigmoid")


@rule("tanh", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.curve(x, "tanh")


@rule("silu", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.curve(x, "silu")


@rule("gelu", takes="elements")
def _(b: Builder, x: Symbol, approximate: str = "none") -> Symbol:
    return b.curve(x, "gelu_tanh" if approximate == "tanh" else "gelu")


@rule("max_pool2d")
def _(b: Builder, x: Symbol, kernel: Any, stride: Any = (), padding: Any = 0, dilation: Any = 1,
      ceil: bool = False) -> Symbol:  # fmt: skip
    size = _pair(kernel)
    return b.max_pool(x, size, _pair(stride, size), _edges(_pair(padding, (0, 0))), _pair(dilation), ceil)


@rule("max_pool2d_with_indices")
def _(b: Builder, *arguments: Any) -> list[Symbol]:
    made: Symbol = RULES["max_pool2d"](b, *arguments)
    return [made]


@rule("avg_pool2d")
def _(b: Builder, x: Symbol, kernel: Any, stride: Any = (), padding: Any = 0, ceil: bool = False,
      count_padding: bool = True, divisor: int | None = None) -> Symbol:  # fmt: skip
    if divisor is not None:
        raise Unsupported("an average pool with its own divisor")
    size = _pair(kernel)
    return b.average_pool(x, size, _pair(stride, size), _edges(_pair(padding, (0, 0))), ceil, count_padding)


@rule("adaptive_avg_pool2d", "_adaptive_avg_pool2d")
def _(b: Builder, x: Symbol, size: Any) -> Symbol:
    kernel = _adaptive(b, x, size)
    return b.average_pool(x, kernel, kernel, (0, 0, 0, 0), False, True)


@rule("adaptive_max_pool2d")
def _(b: Builder, x: Symbol, size: Any) -> list[Symbol]:
    kernel = _adaptive(b, x, size)
    return [b.max_pool(x, kernel, kernel, (0, 0, 0, 0), (1, 1), False)]


def _adaptive(b: Builder, x: Symbol, size: Any) -> Pair:
    """The window of an adaptive pool; a window that changes its size within the image has no rule."""
    _, height, width = b.shapes[x.name]
    rows, columns = _pair(size)
    if height % rows or width % columns:
        raise Unsupported(f"an adaptive pool from {height}x{width} to {rows}x{columns}, which does not divide it")
    return (height // rows, width // columns)


@rule("mean")
def _(b: Builder, x: Symbol, axes: Any = None, keep: bool = False, dtype: Any = None) -> Symbol:
    return b.mean(x, tuple({axis % len(x.shape) for axis in axes or ()}), keep)


@rule("add", takes="elements")
def _(b: Builder, left: Any, right: Any, alpha: float = 1) -> Symbol:
    return _combined(b, left, right, alpha)


@rule("sub", takes="elements")
def _(b: Builder, left: Any, right: Any, alpha: float = 1) -> Symbol:
    return _combined(b, left, right, -alpha)


@rule("rsub", takes="elements")
def _(b: Builder, left: Any, right: Any, alpha: float = 1) -> Symbol:
    if alpha != 1:
        raise Unsupported("a difference with a factor")
    return _combined(b, right, left, -1)


def _combined(b: Builder, left: Any, right: Any, alpha: float) -> Symbol:
    """left + alpha right; Python's numbers are architecture, tensors are weights."""
    if isinstance(right, int | float):
        return b.public_affine(left, 1.0, alpha * right)
    if isinstance(left, int | float):
        return b.public_affine(right, alpha, float(left))
    if alpha in (1, -1):
        return b.sum(left, right, int(alpha))
    if isinstance(right, Symbol):
        return b.sum(left, b.public_affine(right, float(alpha), 0.0))
    return b.sum(left, alpha * right)


@rule("mul", takes="elements")
def _(b: Builder, left: Any, right: Any) -> Symbol:
    if isinstance(right, int | float):
        return b.public_affine(left, float(right), 0.0)
    if isinstance(left, int | float):
        return b.public_affine(right, float(left), 0.0)
    return b.product(left, right)


@rule("div", takes="elements")
def _(b: Builder, left: Any, right: Any) -> Symbol:
    if isinstance(right, int | float):
        return b.public_affine(left, 1.0 / right, 0.0)
    if isinstance(right, Symbol):
        raise Unsupported("a division by a computed value")
    return b.product(left, 1.0 / np.asarray(right))


@rule("neg", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.public_affine(x, -1.0, 0.0)


@rule("square", takes="elements")
def _(b: Builder, x: Symbol) -> Symbol:
    return b.product(x, x)


@rule("pow", takes="elements")
def _(b: Builder, x: Symbol, exponent: Any) -> Symbol:
    if exponent != 2:
        raise Unsupported("a power other than the square")
    return b.product(x, x)


@rule("cat", "concat")
def _(b: Builder, parts: list[Any], axis: int = 0) -> Symbol:
    if not all(isinstance(part, Symbol) for part in parts):
        raise Unsupported("a concatenation with a constant")
    return b.concatenate(parts, axis)


@rule("slice")
def _(b: Builder, x: Symbol, axis: int = 0, start: int | None = None, stop: int | None = None, step: int = 1) -> Symbol:
    return b.slice(x, axis, start or 0, x.shape[axis] if stop is None else stop, step)


@rule("split", "split_with_sizes")
def _(b: Builder, x: Symbol, sizes: Any, axis: int = 0) -> list[Symbol]:
    length = x.shape[axis]
    parts = [sizes] * -(-length // sizes) if isinstance(sizes, int) else sizes
    starts = np.cumsum([0, *parts]).tolist()
    return [b.slice(x, axis, start, min(stop, length)) for start, stop in pairwise(starts)]


@rule("chunk")
def _(b: Builder, x: Symbol, count: int, axis: int = 0) -> list[Symbol]:
    parts: list[Symbol] = RULES["split"](b, x, -(-x.shape[axis] // count), axis)
    return parts


@rule("pad", "constant_pad_nd")
def _(b: Builder, x: Symbol, widths: list[int], mode: Any = "constant", filling: float | None = None) -> Symbol:
    if isinstance(mode, int | float):
        mode, filling = "constant", float(mode)
    pixels = 2 * (len(x.shape) - 2)  # two numbers for every axis behind the channels, the last axis first
    if mode != "constant" or any(widths[pixels:]):
        raise Unsupported("padding by reflection or repetition, or of something else than height and width")
    widths = list(widths[:pixels])
    left, right, top, bottom = (*widths, *(0,) * (4 - len(widths)))
    return b.pad(x, (top, bottom, left, right), filling or 0.0)


@rule("view", "reshape", "_unsafe_view", takes="any")
def _(b: Builder, x: Symbol, shape: list[int]) -> Symbol:
    known = [length for length in shape if length != -1]
    rest = int(np.prod(x.shape)) // max(1, int(np.prod(known)))
    return b.reshape(x, tuple(rest if length == -1 else length for length in shape))


@rule("flatten", takes="any")
def _(b: Builder, x: Symbol, first: int = 0, last: int = -1) -> Symbol:
    rank = len(x.shape)
    start, stop = first % rank, last % rank
    return b.reshape(x, (*x.shape[:start], int(np.prod(x.shape[start : stop + 1])), *x.shape[stop + 1 :]))


@rule("unsqueeze", takes="any")
def _(b: Builder, x: Symbol, axis: int) -> Symbol:
    at = axis % (len(x.shape) + 1)
    return b.reshape(x, (*x.shape[:at], 1, *x.shape[at:]))


@rule("squeeze", takes="any")
def _(b: Builder, x: Symbol, axes: Any = None) -> Symbol:
    rank = len(x.shape)
    chosen = range(1, rank) if axes is None else [axes % rank] if isinstance(axes, int) else [a % rank for a in axes]
    return b.reshape(x, tuple(length for at, length in enumerate(x.shape) if at not in chosen or length != 1))


@rule("permute", takes="any")
def _(b: Builder, x: Symbol, order: Any) -> Symbol:
    return b.permute(x, tuple(axis % len(x.shape) for axis in order))


@rule("transpose", takes="any")
def _(b: Builder, x: Symbol, one: int, two: int) -> Symbol:
    order = list(range(len(x.shape)))
    order[one], order[two] = order[two], order[one]
    return b.permute(x, tuple(order))


@rule(
    "dropout",
    "alias",
    "clone",
    "contiguous",
    "detach",
    "to",
    "_to_copy",
    "feature_dropout",
    "lift_fresh_copy",
    takes="any",
)
def _(b: Builder, x: Symbol, *arguments: Any, **named: Any) -> Symbol:
    return x


@rule("upsample_nearest2d")
def _(b: Builder, x: Symbol, size: Any, *scales: Any) -> Symbol:
    return b.nearest(x, _resized(b, x, size, scales))


@rule("upsample_bilinear2d")
def _(b: Builder, x: Symbol, size: Any, align_corners: bool = False, *scales: Any) -> Symbol:
    return b.bilinear(x, _resized(b, x, size, scales), align_corners)


def _resized(b: Builder, x: Symbol, size: Any, scales: tuple[Any, ...]) -> Pair:
    """The new size. Where a factor is given, PyTorch samples by it, not by the ratio of the sizes: both must agree."""
    given = [one for part in scales for one in (part if isinstance(part, list | tuple) else [part]) if one is not None]
    lengths = b.shapes[x.name][1:]
    scaled = [length * factor for length, factor in zip(lengths, given, strict=False)]
    if any(not float(one).is_integer() for one in scaled) or len(given) not in (0, 2):
        raise Unsupported(f"resizing of {list(lengths)} by {given}, which gives no whole number")
    made = _pair(size) if size is not None else (int(scaled[0]), int(scaled[1]))
    if scaled and made != tuple(scaled):
        raise Unsupported(f"resizing of {list(lengths)} to {list(made)} by {given}")
    return made


@rule("softmax", "_softmax")
def _(b: Builder, x: Symbol, axis: int, *arguments: Any) -> Symbol:
    return b.end(x, "softmax", axis)


@rule("log_softmax", "_log_softmax")
def _(b: Builder, x: Symbol, axis: int, *arguments: Any) -> Symbol:
    return b.end(x, "log_softmax", axis)


@rule("argmax")
def _(b: Builder, x: Symbol, axis: int | None = None, keep: bool = False) -> Symbol:
    if axis is None and x.shape != (1, int(np.prod(x.shape))):
        raise Unsupported("an argmax over all positions at once")
    at = 1 if axis is None else axis % len(x.shape)
    left = tuple(1 if place == at else length for place, length in enumerate(x.shape) if keep or place != at)
    return b.end(x, "argmax", at, left)
