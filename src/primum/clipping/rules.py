"""One rule a function: how it runs with a detached parameter, and what its parameters' gradients need.

Shapes as torch names them. A rule raises `Unruled` where it does not hold; what has no rule at all goes through vmap.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional

from primum.clipping.capture import Capture, Expanded, Function, Rules, Unruled
from primum.clipping.convolution import convolved
from primum.clipping.geometry import Geometry
from primum.clipping.pooling import pooled
from primum.clipping.product import Convolution, Embedding, Linear, Product, SlopeSum
from primum.errors import ModelError

RULES: Final = Rules()

_ELEMENTWISE: Final = [
    *(getattr(torch, name) for name in ("add", "sub", "mul", "div", "true_divide", "maximum", "minimum")),
    *(getattr(Tensor, name) for name in ("add", "sub", "mul", "div", "true_divide", "maximum", "minimum")),
    *(getattr(Tensor, name) for name in ("__add__", "__radd__", "__sub__", "__rsub__", "__mul__", "__rmul__")),
    *(getattr(Tensor, name) for name in ("__truediv__", "__rtruediv__", "add_", "sub_", "mul_", "div_")),
    *(getattr(Tensor, name) for name in ("__iadd__", "__isub__", "__imul__", "__itruediv__")),
]


def _multiplied(
    capture: Capture, product: Product | None, bias: Tensor | None, axis: int, data: Tensor, run: Callable[[], Tensor]
) -> Tensor:
    """run(), with the slope of its output handed to the product and to the bias."""
    watchers: list[Callable[[Tensor], None]] = []
    if product is not None:
        capture.uses.append(product)
        watchers.append(product.seen)
    if capture.is_weight(bias):
        assert bias is not None
        total = SlopeSum(bias, axis, capture.rows)
        capture.uses.append(total)
        watchers.append(total.seen)

    def seen(slopes: Tensor) -> None:
        for watcher in watchers:
            watcher(slopes)

    return capture.run(run, (data,), seen)


def _cut(capture: Capture, weight: Tensor) -> Tensor:
    """Without its slope, which the rule computes; Unruled where it has one of which no rule knows."""
    if weight.requires_grad and not capture.is_weight(weight):
        raise Unruled("a weight that an autograd.Function made, or data")
    return weight.detach()


def _cut_bias(capture: Capture, bias: Tensor | None) -> Tensor | None:
    return None if bias is None else _cut(capture, bias)


def _refuse_weight(capture: Capture, data: object, func: Function) -> None:
    if capture.is_weight(data):
        raise Unruled(f"{func.__name__} of a parameter as data")


@RULES.add(functional.linear)
def linear(capture: Capture, func: Function, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """y = x W^T + b."""
    _refuse_weight(capture, input, func)
    capture.first_axis_is_rows(input, func)
    product = Linear(weight, input, capture.images) if capture.is_weight(weight) else None
    return _multiplied(
        capture,
        product,
        bias,
        -1,
        input,
        lambda: functional.linear(input, _cut(capture, weight), _cut_bias(capture, bias)),
    )


@RULES.add(torch.matmul, Tensor.matmul, Tensor.__matmul__, torch.mm, Tensor.mm)
def matmul(capture: Capture, func: Function, input: Tensor, other: Tensor) -> Tensor:
    """x W, W a matrix: a linear layer with the weight transposed."""
    if capture.is_weight(input) or other.ndim != 2:
        raise Unruled("a product in which the parameter is not a matrix on the right")
    with capture:
        return functional.linear(input, other.t())


def _sizes(value: Any, axes: int) -> tuple[int, ...]:
    return (value,) * axes if isinstance(value, int) else tuple(value) * (axes if len(value) == 1 else 1)


def _convolution(axes: int, func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(
        capture: Capture,
        _: Function,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        steps, apart = _sizes(stride, axes), _sizes(dilation, axes)
        if isinstance(padding, str):
            input, padding = _padded(input, padding, tuple(weight.shape[2:]), apart)
        shape = Geometry(tuple(weight.shape[2:]), steps, _sizes(padding, axes), apart, groups)

        def run() -> Tensor:
            cut, shift = _cut(capture, weight), _cut_bias(capture, bias)
            by_library = partial(func, input, cut, shift, steps, shape.padding, apart, groups)
            return convolved(input, cut, shift, shape, by_library)

        return _convolved(capture, func, shape, input, weight, bias, False, run)

    return rule


def _transposed(axes: int, func: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def rule(
        capture: Capture,
        _: Function,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        dilation: Any = 1,
    ) -> Tensor:
        steps, around, apart = (_sizes(value, axes) for value in (stride, padding, dilation))
        shape = Geometry(tuple(weight.shape[2:]), steps, around, apart, groups)

        def run() -> Tensor:
            return func(
                input, _cut(capture, weight), _cut_bias(capture, bias), steps, around, output_padding, groups, apart
            )

        return _convolved(capture, func, shape, input, weight, bias, True, run)

    return rule


def _convolved(
    capture: Capture,
    func: Function,
    shape: Geometry,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    transposed: bool,
    run: Callable[[], Tensor],
) -> Tensor:
    _refuse_weight(capture, input, func)
    capture.first_axis_is_rows(input, func)
    if input.ndim != weight.ndim:
        raise Unruled(f"{func.__name__} without a batch axis")
    product = None
    if capture.is_weight(weight):
        product = Convolution(weight, input, capture.images, geometry=shape, transposed=transposed)
    return _multiplied(capture, product, bias, 1, input, run)


def _padded(input: Tensor, padding: str, kernel: tuple[int, ...], apart: tuple[int, ...]) -> tuple[Tensor, Any]:
    if padding == "valid":
        return input, 0
    totals = [d * (k - 1) for k, d in zip(kernel, apart, strict=True)]
    if all(total % 2 == 0 for total in totals):
        return input, tuple(total // 2 for total in totals)
    around = [size for total in reversed(totals) for size in (total // 2, total - total // 2)]
    return functional.pad(input, around), 0


for _axes, _one, _other in (
    (1, functional.conv1d, functional.conv_transpose1d),
    (2, functional.conv2d, functional.conv_transpose2d),
    (3, functional.conv3d, functional.conv_transpose3d),
):
    RULES.add(_one)(_convolution(_axes, _one))
    RULES.add(_other)(_transposed(_axes, _other))


@RULES.add_quicker(functional.max_pool2d)
def max_pool2d(
    func: Function,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """The largest of each window."""

    def library(values: Tensor) -> Any:
        return func(values, kernel_size, stride, padding, dilation, ceil_mode, return_indices)

    if dilation not in (1, (1, 1)) or ceil_mode or return_indices:
        return library(input)
    return pooled(input, kernel_size, stride, padding, library)


@RULES.add(functional.embedding)
def embedding(
    capture: Capture,
    func: Function,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """y = W[index]."""
    capture.first_axis_is_rows(input, func)
    if max_norm is not None or scale_grad_by_freq:
        raise Unruled("embedding with max_norm or scale_grad_by_freq")
    padding = -1 if padding_idx is None else padding_idx % len(weight)
    product = Embedding(weight, input, capture.images, padding=padding)
    return _multiplied(capture, product, None, -1, input, lambda: functional.embedding(input, weight.detach()))


def _tiled(capture: Capture, weight: Tensor | None) -> Tensor | None:
    """One copy a row of a channel's scale or shift, [rows * C]; as it is where it is not trained."""
    if weight is None or not capture.is_weight(weight):
        return None if weight is None else _cut(capture, weight).repeat(capture.rows)
    copies = weight.detach().repeat(capture.rows).requires_grad_()
    capture.leaves.append(copies)
    capture.uses.append(Expanded(weight, copies))
    return copies


@RULES.add(functional.group_norm)
def group_norm(
    capture: Capture,
    func: Function,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Rows laid side by side as channels of one row, with a copy of scale and shift each: exact, and no more work."""
    _refuse_weight(capture, input, func)
    capture.first_axis_is_rows(input, func)
    if input[0].numel() == num_groups:
        raise ModelError(
            "Group normalisation with a single value in each group makes it 0: it erases what the network computed.",
            "Use fewer groups, with 8 values or more each (primum.clipping.validate finds such layers).",
        )
    side_by_side = input.reshape(1, capture.rows * input.shape[1], *input.shape[2:])
    scale, shift = _tiled(capture, weight), _tiled(capture, bias)
    return functional.group_norm(side_by_side, capture.rows * num_groups, scale, shift, eps).view(input.shape)


@RULES.add(functional.instance_norm)
def instance_norm(
    capture: Capture,
    func: Function,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Rows laid side by side as channels of one row, whose batch is that row: as the library itself does it.

    Not as a group norm: where slopes nearly cancel, the library's group norm is 1,000 times less exact.
    """
    if running_mean is not None:
        raise ModelError(
            "Instance normalisation with running statistics writes what it saw of patients into the model.",
            "Set track_running_stats=False.",
        )
    _refuse_weight(capture, input, func)
    capture.first_axis_is_rows(input, func)
    side_by_side = input.reshape(1, capture.rows * input.shape[1], *input.shape[2:])
    scale, shift = _tiled(capture, weight), _tiled(capture, bias)
    return functional.batch_norm(side_by_side, None, None, scale, shift, True, 0.0, eps).view(input.shape)


@RULES.add(functional.layer_norm)
def layer_norm(
    capture: Capture,
    func: Function,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalised, then scaled and shifted by a copy a row."""
    return _scaled(capture, func, input, functional.layer_norm(input, normalized_shape, None, None, eps), weight, bias)


def _scaled(
    capture: Capture, func: Function, input: Tensor, normal: Tensor, weight: Tensor | None, bias: Tensor | None
) -> Tensor:
    _refuse_weight(capture, input, func)
    capture.first_axis_is_rows(input, func)
    for parameter, apply in ((weight, torch.mul), (bias, torch.add)):
        if parameter is not None:
            trained = capture.is_weight(parameter)
            normal = apply(normal, capture.copies(parameter, normal.ndim) if trained else parameter)
    return normal


@RULES.add(functional.batch_norm)
def batch_norm(
    capture: Capture,
    func: Function,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """With frozen statistics: a scale and a shift for each channel. With a batch's: refused."""
    if training:
        raise ModelError(
            "Batch normalisation mixes the patients of a batch.",
            "Use group normalisation or none (primum.clipping.convert does it), or freeze its statistics with eval().",
        )
    normal = functional.batch_norm(input, running_mean, running_var, None, None, False, momentum, eps)
    if weight is not None:
        normal = normal * _channels(capture, weight, input.ndim)
    return normal if bias is None else normal + _channels(capture, bias, input.ndim)


def _channels(capture: Capture, parameter: Tensor, axes: int) -> Tensor:
    """A copy a row, [rows, C, 1, ...]; as it is, [C, 1, ...], where it is not trained."""
    if not capture.is_weight(parameter):
        return parameter.view(-1, *[1] * (axes - 2))
    return capture.copies(parameter, 2).view(capture.rows, -1, *[1] * (axes - 2))


@RULES.add(functional.prelu)
def prelu(capture: Capture, func: Function, input: Tensor, weight: Tensor) -> Tensor:
    """max(0, x) + a min(0, x), a for each channel."""
    _refuse_weight(capture, input, func)
    capture.first_axis_is_rows(input, func)
    return torch.where(input > 0, input, input * _channels(capture, weight, max(2, input.ndim)))


@RULES.add(*_ELEMENTWISE)
def elementwise(capture: Capture, func: Function, *args: Any, **kwargs: Any) -> Any:
    """A parameter without a batch axis, broadcast over rows: one copy a row."""
    places = [place for place, value in enumerate(args[:2]) if capture.is_weight(value)]
    if len(places) != 1 or len(args) < 2 or any(capture.is_weight(value) for value in kwargs.values()):
        raise Unruled(f"{func.__name__} of these arguments")
    data, weight = args[1 - places[0]], args[places[0]]
    if not isinstance(data, Tensor) or weight.ndim > data.ndim:
        raise Unruled(f"{func.__name__} of a parameter with more axes than the data")
    capture.first_axis_is_rows(data, func)
    if weight.ndim == data.ndim and weight.shape[0] != 1:
        raise Unruled(f"{func.__name__} of a parameter with a batch axis of its own")
    copies = _one_a_row(capture, weight) if weight.ndim == data.ndim else capture.copies(weight, data.ndim)
    return func(*(copies if place == places[0] else value for place, value in enumerate(args)), **kwargs)


def _one_a_row(capture: Capture, weight: Tensor) -> Tensor:
    """Copies of a parameter whose first axis has length 1, along that axis."""
    copies = weight.detach().expand(capture.rows, *weight.shape[1:]).clone().requires_grad_()
    capture.leaves.append(copies)
    capture.uses.append(Expanded(weight, copies))
    return copies


@RULES.add_expansion(Tensor.expand, Tensor.repeat, Tensor.broadcast_to, torch.broadcast_to)
def expansion(capture: Capture, func: Function, weight: Tensor, *sizes: Any) -> Tensor | None:
    """A parameter [1, ...] or [...] copied once a row (a class token); None where that is not what happens."""
    result: Tensor = func(weight.detach(), *sizes)
    once = weight.ndim == result.ndim and weight.shape[0] == 1 and result.shape[1:] == weight.shape[1:]
    fresh = weight.ndim == result.ndim - 1 and result.shape[1:] == weight.shape
    if result.shape[0] != capture.rows or not (once or fresh):
        return None
    return _one_a_row(capture, weight) if once else capture.copies(weight, result.ndim)
