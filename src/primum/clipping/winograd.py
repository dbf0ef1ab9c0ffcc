"""Convolutions of 3 x 3 with 4 products for 9, on tensors: the kernels of `kernels.winograd_float`, on all threads."""

import math
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from torch import Tensor

from primum.clipping.geometry import Geometry, Sizes
from primum.clipping.threads import share
from primum.clipping.timing import rows_about
from primum.kernels import winograd_float
from primum.kernels.winograd_float import Floats

_LEAST_WORK: Final = 1 << 27  # products: what takes the library a millisecond gains nothing
_STEP_BY_STEP: Final = Geometry((3, 3), (1, 1), (0, 0), (1, 1))
_CHANNELS: Final = 64  # whose weights are transformed together


def possible(inputs: Tensor, outputs: int, geometry: Geometry) -> bool:
    """Whether a convolution of `inputs` [rows, C, *space] is one of 3 x 3 step by step, and worth it."""
    alike = replace(geometry, padding=(0, 0)) == _STEP_BY_STEP and max(geometry.padding) <= 2
    if not alike or inputs.device.type != "cpu" or inputs.dtype != torch.float32 or not len(inputs):
        return False
    rows, channels = rows_about(inputs)[:2]
    positions = math.prod(geometry.out(tuple(inputs.shape[2:])))
    whole = channels % winograd_float.WIDE == outputs % winograd_float.WIDE == 0
    return whole and rows * positions * channels * outputs * 9 >= _LEAST_WORK


def output(inputs: Tensor, weight: Tensor, geometry: Geometry) -> tuple[Tensor, Tensor]:
    """The convolution, [rows, O, *out], and the weight."""
    out = geometry.out(tuple(inputs.shape[2:]))
    return _convolved(inputs, weight, geometry.padding, out, turned=False), weight


def input_slopes(slopes: Tensor, weight: Tensor, geometry: Geometry, space: Sizes) -> Tensor:
    """The slope of the input, [rows, C, *space], from that of the output."""
    return _convolved(slopes, weight, tuple(2 - size for size in geometry.padding), space, turned=True)


def _convolved(values: Tensor, weight: Tensor, corner: Sizes, size: Sizes, turned: bool) -> Tensor:
    x, kernel = _floats(values), _transformed(_floats(weight), turned)
    out = values.new_empty(len(values), kernel.shape[1] * winograd_float.WIDE, *size)
    y = out.numpy()
    top, left = corner

    def some(rows: slice) -> None:
        winograd_float.convolve(x[rows], (top, left), kernel, y[rows])

    step = _together(len(x), size)
    share(some, [slice(first, first + step) for first in range(0, len(x), step)])
    return out


def _floats(tensor: Tensor) -> Floats:
    values: Floats = tensor.detach().float().contiguous().numpy()
    return values


def _transformed(weight: Floats, turned: bool) -> Floats:
    outputs, channels = weight.shape[1::-1] if turned else weight.shape[:2]
    wide = winograd_float.WIDE
    kernel = np.empty((16, outputs // wide, channels, wide), np.float32)

    def some(first: int) -> None:
        winograd_float.transform(weight, turned, first, min(first + _CHANNELS, channels), kernel)

    share(some, range(0, channels, _CHANNELS))
    return kernel


def each_turned(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """Each row's weight gradient, turned as by `geometry.each_turned`: [rows, 1, C * 9, O]."""
    x, g = _floats(inputs), _floats(slopes)
    found = inputs.new_empty(len(x), 1, x.shape[1] * 9, g.shape[1])
    out = found.view(len(x), x.shape[1], 3, 3, g.shape[1]).numpy()
    top, left = geometry.padding

    def some(rows: slice) -> None:
        winograd_float.each(x[rows], (top, left), g[rows], out[rows])

    share(some, [slice(row, row + 1) for row in range(len(x))])
    return found


def weight_gradient(inputs: Tensor, slopes: Tensor, geometry: Geometry) -> Tensor:
    """The weight's gradient summed over rows, [O, C, 3, 3]."""
    x, g = _floats(inputs), _floats(slopes)
    threads, (top, left) = torch.get_num_threads(), geometry.padding
    together, each = _together(len(x), tuple(g.shape[2:])), -(-len(x) // threads)
    found: dict[int, Floats] = {}

    def some(first: int) -> None:
        rows = slice(first, first + each)
        found[first] = winograd_float.summed(x[rows], (top, left), g[rows], together)

    share(some, range(0, len(x), each))
    total = found.pop(0)
    for first in sorted(found):  # always in the same order
        total += found[first]
    out = inputs.new_empty(x.shape[1], 3, 3, g.shape[1])
    winograd_float.weights_of(total, out.numpy())
    return out.permute(3, 0, 1, 2).contiguous()


def _together(rows: int, size: Sizes) -> int:
    """Rows of a piece: with a block of tiles or more, and as many pieces for each thread."""
    threads = torch.get_num_threads()
    tiles = -(-size[0] // 2) * -(-size[1] // 2)
    pieces = rows * tiles // winograd_float.TOGETHER // threads * threads
    return -(-rows // max(threads, pieces))
