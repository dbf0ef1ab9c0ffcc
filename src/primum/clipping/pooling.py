"""Max pools of 2 x 2 and 3 x 3 in steps of 2, where that is quicker than the library: often ten times."""

from collections.abc import Callable
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from primum.clipping import timing
from primum.clipping.capture import is_batched, is_ordinary
from primum.clipping.threads import share
from primum.kernels import pooling
from primum.kernels.pooling import Floats, Marks

_LEAST: Final = 1 << 17  # numbers: of fewer the largest are found in no time
_PIECES: Final = 4  # for each thread

Window = tuple[int, int]
"""Side, and places around."""


def pooled(inputs: Tensor, side: object, step: object, around: object, library: Callable[[Tensor], Tensor]) -> Tensor:
    """`library(inputs)`, the largest of each window of `inputs` [rows, C, h, w], or the same made here."""
    window = _window(side, side if step is None else step, around)
    plain = inputs.device.type == "cpu" and inputs.dtype == torch.float32 and inputs.ndim == 4
    if window is None or not plain or not inputs.requires_grad or inputs.numel() < _LEAST or not is_ordinary():
        return library(inputs)

    def by_library() -> None:
        alone = inputs.detach().requires_grad_()  # whoever waits for the slope of the inputs is not to see this one
        with torch.enable_grad():
            found = library(alone)
            torch.autograd.grad(found, alone, torch.ones_like(found))

    def by_ours() -> None:
        found, marks = _largest(inputs, window)
        _spread(found, marks, window, inputs.shape)

    key = ("pool", window, timing.rows_about(inputs), *timing.place(inputs))
    if timing.quickest(key, {"library": by_library, "ours": by_ours}, inputs) == "library":
        return library(inputs)
    found: Tensor = _Pooled.apply(inputs, window)  # type: ignore[no-untyped-call]
    return found


def _window(side: object, step: object, around: object) -> Window | None:
    both = [
        value[0] if isinstance(value, (tuple, list)) and len(set(value)) == 1 else value
        for value in (side, step, around)
    ]
    if both[0] not in pooling.SIDES or both[1] != pooling.STEP or both[2] not in (0, 1):
        return None
    return int(both[0]), int(both[2])


class _Pooled(torch.autograd.Function):
    """inputs [rows, C, h, w] -> [rows, C, high, wide]."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, window: Window) -> Tensor:
        found, ctx.marks = _largest(inputs, window)
        ctx.window, ctx.shape = window, inputs.shape
        return found

    @staticmethod
    def backward(ctx: Any, slopes: Tensor) -> tuple[Tensor, None]:
        if torch.is_grad_enabled() or is_batched(slopes):  # slopes of this slope, or many at once: the library has them
            return _spread_by_library(slopes, ctx.marks, ctx.window, ctx.shape), None
        return _spread(slopes, ctx.marks, ctx.window, ctx.shape), None


def _largest(inputs: Tensor, window: Window) -> tuple[Tensor, Marks]:
    rows, channels, high, wide = inputs.shape
    side, around = window
    size = [(length + 2 * around - side) // pooling.STEP + 1 for length in (high, wide)]
    found = inputs.new_empty(rows, channels, *size)
    marks = np.empty((rows * channels, *size), np.uint8)
    x, y = _planes(inputs), _planes(found)

    def some(part: slice) -> None:
        pooling.pool(x[part], side, around, y[part], marks[part])

    share(some, _parts(len(x)))
    return found, marks


def _spread(slopes: Tensor, marks: Marks, window: Window, shape: torch.Size) -> Tensor:
    side, around = window
    found = slopes.new_empty(shape)
    g, x = _planes(slopes), _planes(found)

    def some(part: slice) -> None:
        pooling.spread(g[part], marks[part], side, around, x[part])

    share(some, _parts(len(x)))
    return found


def _spread_by_library(slopes: Tensor, marks: Marks, window: Window, shape: torch.Size) -> Tensor:
    side, around = window
    mark = torch.from_numpy(marks).long().view(slopes.shape)
    corners = [torch.arange(length) * pooling.STEP - around for length in slopes.shape[2:]]
    places = (corners[0].unsqueeze(1) + mark // side) * shape[3] + corners[1] + mark % side
    inputs = slopes.new_empty(1).expand(shape)  # its shape is what counts
    both = [[value, value] for value in (side, pooling.STEP, around, 1)]
    found: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(slopes, inputs, *both, False, places)
    return found


def _planes(tensor: Tensor) -> Floats:
    values: Floats = tensor.detach().contiguous().flatten(0, 1).numpy()
    return values


def _parts(planes: int) -> list[slice]:
    step = -(-planes // (_PIECES * torch.get_num_threads()))
    return [slice(first, first + step) for first in range(0, planes, step)]
