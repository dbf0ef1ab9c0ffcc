"""Where windows lie: the padding that a file means, and how much of a window lies inside the image."""

from typing import Final

import numpy as np

from primum.compiler.graph import Array, Convolution, Edges, MaxPool, Node, Pad, Pair, Shape, Window, steps

FARTHEST: Final = 1 << 26
"""A stride or dilation beyond all sizes, which PyTorch would not take either."""


def transposed_edges(kernel: Pair, padding: Edges, extra: Pair, dilation: Pair) -> Edges:
    """The padding of the convolution that a transposed one is; `extra` rows and columns at bottom and right."""
    down, across = dilation[0] * (kernel[0] - 1), dilation[1] * (kernel[1] - 1)
    top, bottom, left, right = padding
    return (down - top, down - bottom + extra[0], across - left, across - right + extra[1])


def rounded_up(size: int, kernel: int, stride: int, before: int, after: int) -> int:
    """Padding at the end, so that a last window that is only partly inside counts; none starts in the padding."""
    positions = -((kernel - size - before - after) // stride) + 1
    if (positions - 1) * stride >= size + before:
        positions -= 1
    return max(after, (positions - 1) * stride + kernel - size - before)


def counts(shape: Shape, kernel: Pair, stride: Pair, edges: Edges, counted: Edges) -> Array:
    """How many positions of each window count: [1, 1, rows, columns]."""
    rows, columns = (
        _covered(size, high, step, before, after, (one, two))
        for size, high, step, before, after, one, two in (
            (shape[1], kernel[0], stride[0], edges[0], edges[1], counted[0], counted[1]),
            (shape[2], kernel[1], stride[1], edges[2], edges[3], counted[2], counted[3]),
        )
    )
    return np.outer(rows, columns).astype(np.float64)[None, None]


def _covered(size: int, kernel: int, stride: int, before: int, after: int, counted: Pair) -> list[int]:
    """The same along one axis."""
    starts = [position * stride - before for position in range(steps(size, kernel, stride, before, after))]
    return [min(start + kernel, size + counted[1]) - max(start, -counted[0]) for start in starts]


def possible(node: Node) -> bool:
    """Whether strides and dilations are at least 1 and no overflow, padding is not negative, each maximum sees the image."""
    if isinstance(node, Pad):
        return min(*node.edges, *node.gaps) >= 0
    if not isinstance(node, Window | Convolution):
        return True
    steps_of = (*node.stride, *(node.dilation if isinstance(node, Convolution) else node.kernel))
    top, bottom, left, right = node.padding
    if min(steps_of) < 1 or max(steps_of) > FARTHEST or min(node.padding) < 0:
        return False
    return not isinstance(node, MaxPool) or (max(top, bottom) < node.kernel[0] and max(left, right) < node.kernel[1])


def padded_size(node: Node, shape: Shape) -> int:
    """Elements of the source of a window or a convolution, padding included."""
    if not isinstance(node, Window | Convolution):
        return 0
    top, bottom, left, right = node.padding
    return shape[0] * (shape[1] + top + bottom) * (shape[2] + left + right)
