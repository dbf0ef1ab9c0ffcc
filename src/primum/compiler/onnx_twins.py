"""Three operators of ONNX written anew with PyTorch, where onnx's own reference implementation is wrong or slow.

It pads pools wrongly where their sides differ or their windows are rounded up, leaves out what a transposed
convolution says of its output's shape, and takes seconds for a pool of an image. Written from the operators'
specification and not from the readers' rules, so that a model that was read wrongly says something else here.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from onnx.reference.op_run import OpRun
from torch import Tensor
from torch.nn import functional

Values = npt.NDArray[Any]
Ends = tuple[int, int]


class MaxPool(OpRun):
    """The largest of each window."""

    op_domain = ""

    def _run(
        self, x: Values, auto_pad: Any = None, ceil_mode: Any = None, dilations: Any = None, kernel_shape: Any = None,
        pads: Any = None, storage_order: Any = None, strides: Any = None,
    ) -> tuple[Values]:  # fmt: skip
        window = _Window(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
        padded = functional.pad(_image(x), window.around(), value=-torch.inf)
        made = functional.max_pool2d(padded, window.kernel, window.stride, 0, window.dilation)
        return (_as(x, made, len(x.shape)),)


class AveragePool(OpRun):
    """The mean of each window: of all positions but those that rounding up added, with or without the padding."""

    op_domain = ""

    def _run(
        self, x: Values, auto_pad: Any = None, ceil_mode: Any = None, count_include_pad: Any = None,
        dilations: Any = None, kernel_shape: Any = None, pads: Any = None, strides: Any = None,
    ) -> tuple[Values]:  # fmt: skip
        window = _Window(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode)
        inside = functional.pad(torch.ones_like(_image(x)), window.around(False), value=float(count_include_pad or 0))
        total, counted = (
            functional.avg_pool2d(functional.pad(one, more), window.kernel, window.stride, divisor_override=1)
            for one, more in ((_image(x), window.around()), (inside, window.beyond()))
        )
        if window.dilation != [1, 1]:
            raise NotImplementedError("an average pool with dilation")
        return (_as(x, total / counted, len(x.shape)),)


class ConvTranspose(OpRun):
    """Each element times the kernel, added up, cut to the padding or to the shape that the output shall have."""

    op_domain = ""

    def _run(
        self, x: Values, w: Values, b: Values | None = None, auto_pad: Any = None, dilations: Any = None,
        group: Any = None, kernel_shape: Any = None, output_padding: Any = None, output_shape: Any = None,
        pads: Any = None, strides: Any = None,
    ) -> tuple[Values]:  # fmt: skip
        axes = len(x.shape) - 2
        stride, dilation = _two(strides, axes, 1), _two(dilations, axes, 1)
        weight = torch.from_numpy(np.array(w, np.float64)).reshape(*w.shape[:2], *_two(w.shape[2:], axes, 1))
        full = functional.conv_transpose2d(_image(x), weight, None, stride, 0, 0, group or 1, dilation)
        full = functional.pad(full, (0, _two(output_padding, axes, 0)[1], 0, _two(output_padding, axes, 0)[0]))
        wanted = list(output_shape) if output_shape is not None else None
        if wanted is None and auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            wanted = [size * step for size, step in zip(_image(x).shape[2:], stride, strict=True)]
        if wanted is None:
            first, last = _split(pads, axes)
        else:
            total = [size - one for size, one in zip(full.shape[2:], _two(wanted[-axes:], axes, 1), strict=True)]
            half = [one // 2 for one in total] if auto_pad == "SAME_UPPER" else [one - one // 2 for one in total]
            first, last = half, [one - two for one, two in zip(total, half, strict=True)]
        made = functional.pad(full, (-first[1], -last[1], -first[0], -last[0]))
        made = made if b is None else made + torch.from_numpy(np.array(b, np.float64))[:, None, None]
        return (_as(x, made, len(x.shape)),)


class _Window:
    """Where the windows of a pool lie: kernel, stride, dilation, padding, and what rounding up adds at the ends."""

    def __init__(
        self, x: Values, kernel: Any, strides: Any, dilations: Any, pads: Any, auto_pad: Any, ceil_mode: Any
    ) -> None:
        axes = len(x.shape) - 2
        self.kernel, self.stride = _two(kernel, axes, 1), _two(strides, axes, 1)
        self.dilation = _two(dilations, axes, 1)
        self.first, self.last = _split(pads if auto_pad in (None, "", "NOTSET") else None, axes)
        self.more = [0, 0]
        for at, size in enumerate(_image(x).shape[2:]):
            reach = (self.kernel[at] - 1) * self.dilation[at] + 1
            if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
                total = max(0, (-(-size // self.stride[at]) - 1) * self.stride[at] + reach - size)
                lower = auto_pad == "SAME_LOWER"
                self.first[at], self.last[at] = (total + lower) // 2, (total + 1 - lower) // 2
            if ceil_mode:
                self.more[at] = self._rounded(at, size + self.first[at] + self.last[at] - reach, size)

    def _rounded(self, at: int, room: int, size: int) -> int:
        """Positions beyond the padding that a last window needs which begins before the padding at the end does."""
        begin = -(-room // self.stride[at]) * self.stride[at]
        begin -= self.stride[at] if begin >= size + self.first[at] else 0
        return max(0, begin - room)

    def around(self, rounded: bool = True) -> tuple[int, int, int, int]:
        """Left, right, top, bottom."""
        more = self.more if rounded else [0, 0]
        return (self.first[1], self.last[1] + more[1], self.first[0], self.last[0] + more[0])

    def beyond(self) -> tuple[int, int, int, int]:
        """The part of it that rounding up added."""
        return (0, self.more[1], 0, self.more[0])


def _two(numbers: Sequence[int] | None, axes: int, default: int) -> list[int]:
    """One number for height and one for width; a sequence is an image of height 1."""
    if axes not in (1, 2):
        raise NotImplementedError(f"{axes} axes")
    given = [default] * axes if numbers is None else [int(one) for one in numbers]
    return [default, *given] if axes == 1 else given


def _split(pads: Sequence[int] | None, axes: int) -> tuple[list[int], list[int]]:
    """What is padded before and after height and width."""
    whole = [0] * (2 * axes) if pads is None else list(pads)
    return _two(whole[:axes], axes, 0), _two(whole[axes:], axes, 0)


def _image(x: Values) -> Tensor:
    value = torch.from_numpy(np.array(x, np.float64))
    return value[:, :, None] if value.ndim == 3 else value


def _as(x: Values, made: Tensor, rank: int) -> Values:
    values: Values = (made[:, :, 0] if rank == 3 else made).numpy().astype(x.dtype)
    return values


TWINS: Final = (MaxPool, AveragePool, ConvTranspose)
