"""Rules for the ONNX operators that compute: layers, activations, pools, arithmetic, and the ends of a model."""

from math import inf
from typing import Any

import numpy as np

from primum.compiler.builder import Builder
from primum.compiler.graph import Edges, Pair
from primum.compiler.onnx_rules import Attributes, Public, as_float, number, required, rule, whole_numbers
from primum.compiler.recorder import Symbol, Unsupported


def _axes(x: Symbol, numbers: Any, default: int) -> Pair:
    """One number for height and one for width; a sequence has width only."""
    flat = [int(one) for one in numbers] if numbers is not None else []
    if len(x.shape) not in (3, 4) or len(flat) not in (0, len(x.shape) - 2):
        raise Unsupported(f"{len(flat)} numbers for the axes of a value of shape {list(x.shape)}")
    if len(x.shape) == 3:
        return (default, flat[0] if flat else default)
    return (flat[0], flat[1]) if len(flat) == 2 else (default, default)


def _padding(x: Symbol, attributes: Attributes, kernel: Pair, stride: Pair, dilation: Pair = (1, 1)) -> Edges:
    """ONNX writes all begins, then all ends; or SAME, by which the output is the input divided by the stride."""
    mode = attributes.get("auto_pad", b"NOTSET").decode()
    if mode == "VALID":
        return (0, 0, 0, 0)
    if mode != "NOTSET":
        rows, columns = x.shape[-2] if len(x.shape) == 4 else 1, x.shape[-1]
        down = _same(rows, kernel[0], stride[0], dilation[0], mode)
        across = _same(columns, kernel[1], stride[1], dilation[1], mode)
        return (*down, *across)
    axes = len(x.shape) - 2
    pads = list(attributes.get("pads", (0, 0) * axes))
    if len(pads) != 2 * axes:
        raise Unsupported(f"{len(pads)} paddings for a value of shape {list(x.shape)}")
    if len(x.shape) == 3:
        return (0, 0, pads[0], pads[1])
    return (pads[0], pads[2], pads[1], pads[3])


def _same(size: int, kernel: int, stride: int, dilation: int, mode: str) -> Pair:
    total = max(0, (-(-size // stride) - 1) * stride + dilation * (kernel - 1) + 1 - size)
    return (total // 2, total - total // 2) if mode == "SAME_UPPER" else (total - total // 2, total // 2)


@rule("Conv")
def _(b: Builder, a: Attributes, x: Symbol, weight: Any, bias: Any = None) -> Symbol:
    stride, dilation = _axes(x, a.get("strides"), 1), _axes(x, a.get("dilations"), 1)
    kernel = _axes(x, None if isinstance(weight, Symbol) else weight.shape[2:], 1)
    edges = _padding(x, a, kernel, stride, dilation)
    return b.convolution(x, required(weight), as_float(bias), stride, edges, dilation, a.get("group", 1))


@rule("ConvTranspose")
def _(b: Builder, a: Attributes, x: Symbol, weight: Any, bias: Any = None) -> Symbol:
    stride, dilation = _axes(x, a.get("strides"), 1), _axes(x, a.get("dilations"), 1)
    extra = _axes(x, a.get("output_padding"), 0)
    edges = _cut_off(x, a, weight, (stride, dilation, extra))
    return b.transposed(x, required(weight), as_float(bias), stride, edges, extra, dilation, a.get("group", 1))


def _cut_off(x: Symbol, a: Attributes, weight: Any, window: tuple[Pair, Pair, Pair]) -> Edges:
    """What a transposed convolution leaves out: given as padding, or by the shape that it shall have."""
    mode = a.get("auto_pad", b"NOTSET").decode()
    if mode == "VALID" or (mode == "NOTSET" and "output_shape" not in a):
        return _padding(x, a, (1, 1), window[0])
    if len(x.shape) != 4 or np.ndim(weight) != 4:
        raise Unsupported("a transposed convolution in one dimension that is given its output's shape")
    sizes, kernel = x.shape[2:], weight.shape[2:]
    wanted = a.get("output_shape", [size * step for size, step in zip(sizes, window[0], strict=True)])
    edges = list[int]()
    for size, length, side, step, by, more in zip(sizes, wanted, kernel, *window, strict=True):
        total = step * (size - 1) + more + (side - 1) * by + 1 - length
        first = total // 2 if mode == "SAME_UPPER" else total - total // 2
        edges += [first, total - first]
    if min(edges) < 0:
        raise Unsupported("a transposed convolution whose output is larger than its windows reach")
    return (edges[0], edges[1], edges[2], edges[3])


@rule("Gemm", takes="any")
def _(b: Builder, a: Attributes, x: Symbol, weight: Any, bias: Any = None) -> Symbol:
    if isinstance(weight, Symbol) or not isinstance(x, Symbol) or a.get("transA", 0):
        raise Unsupported("a product of two computed matrices")
    flat = np.asarray(weight, np.float64) * a.get("alpha", 1.0)
    outputs = flat.shape[0] if a.get("transB", 0) else flat.shape[1]
    offset = None if bias is None else np.broadcast_to(required(bias) * a.get("beta", 1.0), (1, outputs))[0]
    return b.linear(x, flat if a.get("transB", 0) else flat.T, offset)


@rule("MatMul", takes="any")
def _(b: Builder, a: Attributes, x: Any, weight: Any) -> Symbol:
    if isinstance(weight, Symbol) or not isinstance(x, Symbol) or np.ndim(weight) != 2:
        raise Unsupported("a product of two computed matrices")
    return b.linear(x, np.asarray(weight, np.float64).T, None)


@rule("BatchNormalization")
def _(b: Builder, a: Attributes, x: Symbol, weight: Any, bias: Any, mean: Any, variance: Any) -> Symbol:
    if a.get("training_mode", 0):
        raise Unsupported("batch norm in training mode; export the model in evaluation mode")
    parts = [required(one) for one in (weight, bias, mean, variance)]
    return b.batch_norm(x, parts[0], parts[1], parts[2], parts[3], a.get("epsilon", 1e-5))


@rule("Relu", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.rectify(x)


@rule("LeakyRelu", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.leaky(x, a.get("alpha", 0.01))


@rule("PRelu")
def _(b: Builder, a: Attributes, x: Symbol, slope: Any) -> Symbol:
    slopes = required(slope)
    if isinstance(slopes, Symbol):
        raise Unsupported("computed slopes")
    return b.parametric(x, slopes.reshape((1,) * (len(x.shape) - slopes.ndim) + slopes.shape))


@rule("Clip", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol, low: Any = None, high: Any = None) -> Symbol:
    return b.clip(x, number(low, -inf), number(high, inf))


@rule("HardSigmoid", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.hard_sigmoid(x, a.get("alpha", 0.2), a.get("beta", 0.5))


@rule("HardSwish", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.hard_swish(x)


@rule("Sigmoid", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.curve(x, "sigmoid")


@rule("Tanh", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.curve(x, "tanh")


@rule("Erf", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.curve(x, "erf")


@rule("Gelu", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.curve(x, "gelu_tanh" if a.get("approximate", b"none") == b"tanh" else "gelu")


@rule("Swish", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    slope = a.get("alpha", 1.0)
    inner = b.curve(b.public_affine(x, slope, 0.0), "silu")
    return b.public_affine(inner, 1.0 / slope, 0.0)


@rule("MaxPool")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    kernel, stride, dilation = _window(x, a)
    edges = _padding(x, a, kernel, stride, dilation)
    return b.max_pool(x, kernel, stride, edges, dilation, bool(a.get("ceil_mode", 0)))


@rule("AveragePool")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    kernel, stride, dilation = _window(x, a)
    if dilation != (1, 1):
        raise Unsupported("an average pool with dilation")
    edges = _padding(x, a, kernel, stride)
    return b.average_pool(x, kernel, stride, edges, bool(a.get("ceil_mode", 0)), bool(a.get("count_include_pad", 0)))


def _window(x: Symbol, a: Attributes) -> tuple[Pair, Pair, Pair]:
    return tuple(_axes(x, a.get(name), 1) for name in ("kernel_shape", "strides", "dilations"))  # type: ignore[return-value]


@rule("GlobalAveragePool")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.mean(x, tuple(range(2, len(x.shape))), True)


@rule("GlobalMaxPool")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    size = (x.shape[2] if len(x.shape) == 4 else 1, x.shape[-1])
    return b.max_pool(x, size, (1, 1), (0, 0, 0, 0), (1, 1), False)


@rule("ReduceMean")
def _(b: Builder, a: Attributes, x: Symbol, axes: Any = None) -> Symbol:
    chosen = a.get("axes") if axes is None else whole_numbers(axes)
    if chosen is None:
        raise Unsupported("a mean over something else than height and width")
    return b.mean(x, tuple({one % len(x.shape) for one in chosen}), bool(a.get("keepdims", 1)))


@rule("Add", takes="elements")
def _(b: Builder, a: Attributes, left: Any, right: Any) -> Symbol:
    for x, other in ((left, right), (right, left)):
        if isinstance(other, Public):
            return b.public_affine(x, 1.0, number(other))
    return b.sum(required(left), required(right))


@rule("Sub", takes="elements")
def _(b: Builder, a: Attributes, left: Any, right: Any) -> Symbol:
    if isinstance(right, Public):
        return b.public_affine(left, 1.0, -number(right))
    if isinstance(left, Public):
        return b.public_affine(right, -1.0, number(left))
    return b.sum(required(left), required(right), -1)


@rule("Mul", takes="elements")
def _(b: Builder, a: Attributes, left: Any, right: Any) -> Symbol:
    for x, other in ((left, right), (right, left)):
        if isinstance(other, Public):
            return b.public_affine(x, number(other), 0.0)
    return b.product(required(left), required(right))


@rule("Div", takes="elements")
def _(b: Builder, a: Attributes, left: Any, right: Any) -> Symbol:
    if isinstance(right, Symbol):
        raise Unsupported("a division by a computed value")
    if isinstance(right, Public):
        return b.public_affine(left, 1.0 / number(right), 0.0)
    return b.product(left, 1.0 / np.asarray(right, np.float64))


@rule("Neg", takes="elements")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.public_affine(x, -1.0, 0.0)


@rule("Pow", takes="elements")
def _(b: Builder, a: Attributes, x: Any, exponent: Any) -> Symbol:
    if not isinstance(x, Symbol) or number(exponent) != 2.0:
        raise Unsupported("a power other than the square")
    return b.product(x, x)


@rule("Sum", takes="elements")
def _(b: Builder, a: Attributes, first: Any, *rest: Any) -> Any:
    total = required(first)
    for one in rest:
        other = required(one)
        total = b.sum(total, other) if isinstance(total, Symbol) or isinstance(other, Symbol) else total + other
    return total


@rule("Identity", takes="any")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return x


@rule("Dropout", takes="any")
def _(b: Builder, a: Attributes, x: Symbol, ratio: Any = None, training: Any = None) -> Symbol:
    if training is not None and (isinstance(training, Symbol) or np.any(training)):
        raise Unsupported("dropout in training mode; export the model in evaluation mode")
    return x


@rule("Cast", takes="any")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    whole = b.endings.get(x.name, (x, "none"))[1] == "argmax" and a.get("to") in (6, 7)
    if a.get("to", 1) not in (1, 10, 11, 16) and not whole:
        raise Unsupported("a cast to something else than floating point")
    return x


@rule("CastLike", takes="any")
def _(b: Builder, a: Attributes, x: Any, like: Any) -> Symbol:
    real = isinstance(like, Symbol) or np.asarray(like).dtype.name in ("float16", "float32", "float64", "bfloat16")
    if not isinstance(x, Symbol) or not real:
        raise Unsupported("a cast to something else than floating point")
    return x


@rule("Softmax")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.end(x, "softmax", a.get("axis", -1))


@rule("LogSoftmax")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    return b.end(x, "log_softmax", a.get("axis", -1))


@rule("ArgMax")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    if a.get("select_last_index", 0):
        raise Unsupported("an argmax that takes the last of equals")
    axis = a.get("axis", 0) % len(x.shape)
    keep = a.get("keepdims", 1)
    left = tuple(1 if at == axis else length for at, length in enumerate(x.shape) if keep or at != axis)
    return b.end(x, "argmax", axis, left)
