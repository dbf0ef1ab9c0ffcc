"""Convolutions of 3 x 3 with a quarter of the products, exact in Z_2^l: Winograd's F(4 x 4, 3 x 3).

| symbol | meaning |
|---|---|
| d | a tile of the input, 6 x 6, for each channel; its 4 x 4 outputs are known from it alone |
| g | the kernel, 3 x 3, for each channel and output |
| U = G g G^T, V = B^T d B | both transformed, 6 x 6; M = sum over channels of U V, place by place |
| A^T M A | 64 times the 4 x 4 outputs |

Winograd's matrices hold thirds and powers of two below 1. A third is a number in Z_2^64 (3 is odd). The powers of two are
gathered: 8 in A for each side, so that what comes out is 64 times too large, and right modulo 2^(l+6) if everything
before was; divided by 64 it is right modulo 2^l. All of it is arithmetic modulo 2^64, which wraps by itself.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.3, points 0, 1, -1, 2,
-2 and infinity.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled
from primum.kernels.digits import Ring

Share = Callable[[Callable[[int], None], Sequence[int]], None]

MOST_BITS: Final = 58
"""Of a ring: 64 = 2^6, by which is divided in the end."""
_PLACES: Final = 36
_STEP: Final = 4  # outputs of a tile, a side
_SIDE: Final = 6
_FEWEST_TILES: Final = 4  # tiles are multiplied four at a time
_FEWEST_CHANNELS: Final = 16
_BLOCK_BYTES: Final = 1 << 21
_THIRD: Final = pow(3, -1, 1 << 64)
_KERNEL: Final = np.array(
    [
        [1, 0, 0],
        [-_THIRD, -_THIRD, -_THIRD],
        [-_THIRD, _THIRD, -_THIRD],
        [_THIRD, 2 * _THIRD, 4 * _THIRD],
        [_THIRD, -2 * _THIRD, 4 * _THIRD],
        [0, 0, 1],
    ],
    dtype=object,
)
"""G, its rows times 4, 2, 2, 8, 8 and 1, which `_backward` makes good."""


def pays(kernel: tuple[int, int], channels: int, outputs: int, size: tuple[int, int]) -> bool:
    """Whether a convolution without stride and dilation, of so many places (`size`, of the output), is quicker so."""
    tiles = -(-size[0] // _STEP) * -(-size[1] // _STEP)
    return kernel == (3, 3) and min(channels, outputs) >= _FEWEST_CHANNELS and tiles >= _FEWEST_TILES


def transformed(weight: Ring) -> Ring:
    """U of weight uint64 [3, 3, channels, outputs]: uint64 [36, channels, outputs]."""
    matrix = (_KERNEL % (1 << 64)).astype(np.uint64)
    rows: Ring = np.einsum("ai,ijco->ajco", matrix, weight)
    both: Ring = np.einsum("bj,ajco->abco", matrix, rows)
    return both.reshape(_PLACES, *weight.shape[2:])


def convolve(values: Ring, corner: tuple[int, int], size: tuple[int, int], kernel: Ring, share: Share) -> Ring:
    """uint64 [n, *size, outputs], right modulo 2^58 where `values` and `kernel` are right modulo 2^64, and so on down.

    `values` uint64 [n, h, w, channels], of which the first stands `corner` places below and right of where the kernel
    begins. `kernel`: U, uint64 [36, channels, outputs]. `share(task, items)` calls the task for each item.
    """
    images, channels, outputs = len(values), values.shape[3], kernel.shape[2]
    high, wide = (-(-side // _STEP) for side in size)
    padded = np.zeros((images, _STEP * high + 2, _STEP * wide + 2, channels), np.uint64)
    top, left = corner
    # places beyond the last window are of no output
    seen = values[:, : padded.shape[1] - top, : padded.shape[2] - left]
    padded[:, top : top + seen.shape[1], left : left + seen.shape[2]] = seen
    out = np.empty((images, *size, outputs), np.uint64)
    tiles = images * high * wide
    step = _in_fours(min(tiles, _BLOCK_BYTES // (_PLACES * 8 * max(channels, outputs))))

    def block(start: int) -> None:
        rows = min(step, tiles - start)
        which = np.array([start, rows, high, wide], np.int64)
        ours = np.zeros((_PLACES, _in_fours(rows), channels), np.uint64)
        sums = np.zeros((_PLACES, _in_fours(rows), outputs), np.uint64)
        _inputs(padded, which, ours)
        _multiply(ours, kernel, sums)
        _outputs(sums, which, out)

    share(block, range(0, tiles, step))
    return out


def _in_fours(rows: int) -> int:
    return max(4, -(-rows // 4) * 4)


@compiled
def _inputs(padded: Ring, which: npt.NDArray[np.int64], out: Ring) -> None:
    """V of some tiles: [36, tiles, channels]."""
    start, rows, high, wide = which
    channels = padded.shape[3]
    lines = np.empty((_SIDE, _SIDE, channels), np.uint64)
    for row in range(rows):
        image, rest = (start + row) // (high * wide), (start + row) % (high * wide)
        top, left = rest // wide * _STEP, rest % wide * _STEP
        tile = padded[image, top : top + _SIDE, left : left + _SIDE]
        for b in range(_SIDE):
            _forward(
                tile[0, b], tile[1, b], tile[2, b], tile[3, b], tile[4, b], tile[5, b],
                lines[0, b], lines[1, b], lines[2, b], lines[3, b], lines[4, b], lines[5, b],
            )  # fmt: skip
        for a in range(_SIDE):
            _forward(
                lines[a, 0], lines[a, 1], lines[a, 2], lines[a, 3], lines[a, 4], lines[a, 5],
                out[6 * a, row], out[6 * a + 1, row], out[6 * a + 2, row], out[6 * a + 3, row], out[6 * a + 4, row],
                out[6 * a + 5, row],
            )  # fmt: skip


@compiled
def _forward(
    a: Ring, b: Ring, c: Ring, d: Ring, e: Ring, f: Ring, o: Ring, p: Ring, q: Ring, r: Ring, s: Ring, t: Ring
) -> None:
    """B^T on six lines: six lines."""
    one, two = np.uint64(1), np.uint64(2)
    for k in range(len(a)):
        o[k] = (a[k] << two) - (c[k] << two) - c[k] + e[k]
        even, odd = e[k] - (c[k] << two), d[k] - (b[k] << two)
        p[k] = even + odd
        q[k] = even - odd
        even, odd = e[k] - c[k], (d[k] - b[k]) << one
        r[k] = even + odd
        s[k] = even - odd
        t[k] = (b[k] << two) - (d[k] << two) - d[k] + f[k]


@compiled
def _multiply(ours: Ring, kernel: Ring, sums: Ring) -> None:
    """sums += ours times kernel at each place; [36, tiles, channels], [36, channels, outputs], tiles in fours.

    Four tiles at a time, so that each weight is read once for them: these are more than a cache holds.
    """
    for place in range(ours.shape[0]):
        for row in range(0, ours.shape[1], 4):
            first, second, third, fourth = (
                sums[place, row], sums[place, row + 1], sums[place, row + 2], sums[place, row + 3],
            )  # fmt: skip
            for channel in range(ours.shape[2]):
                a, b, c, d = (
                    ours[place, row, channel], ours[place, row + 1, channel], ours[place, row + 2, channel],
                    ours[place, row + 3, channel],
                )  # fmt: skip
                weights = kernel[place, channel]
                for k in range(len(weights)):
                    weight = weights[k]
                    first[k] += a * weight
                    second[k] += b * weight
                    third[k] += c * weight
                    fourth[k] += d * weight


@compiled
def _outputs(sums: Ring, which: npt.NDArray[np.int64], out: Ring) -> None:
    """The outputs of some tiles from their M [36, tiles, outputs]."""
    start, rows, high, wide = which
    lines = np.empty((_SIDE, _STEP, sums.shape[2]), np.uint64)
    both = np.empty((_STEP, sums.shape[2]), np.uint64)
    for row in range(rows):
        image, rest = (start + row) // (high * wide), (start + row) % (high * wide)
        top, left = rest // wide * _STEP, rest % wide * _STEP
        for b in range(_SIDE):
            _backward(
                sums[b, row], sums[6 + b, row], sums[12 + b, row], sums[18 + b, row], sums[24 + b, row],
                sums[30 + b, row], lines[b],
            )  # fmt: skip
        for a in range(min(_STEP, out.shape[1] - top)):
            _backward(lines[0, a], lines[1, a], lines[2, a], lines[3, a], lines[4, a], lines[5, a], both)
            for b in range(min(_STEP, out.shape[2] - left)):
                to, line = out[image, top + a, left + b], both[b]
                for k in range(len(to)):
                    to[k] = line[k] >> np.uint64(6)


@compiled
def _backward(a: Ring, b: Ring, c: Ring, d: Ring, e: Ring, f: Ring, out: Ring) -> None:
    """8 A^T on six lines, each of them divided by what its row of G was taken times: [4, outputs]."""
    one, two, three = np.uint64(1), np.uint64(2), np.uint64(3)
    for k in range(len(a)):
        near, apart = b[k] + c[k], b[k] - c[k]
        far, wider = d[k] + e[k], d[k] - e[k]
        out[0, k] = (a[k] << one) + (near << two) + far
        out[1, k] = (apart << two) + (wider << one)
        out[2, k] = (near + far) << two
        out[3, k] = (apart << two) + ((wider + f[k]) << three)
