"""Convolutions of 3 x 3 with a quarter of the products, exact in Z_2^l: Winograd's F(4 x 4, 3 x 3).

| symbol | meaning |
|---|---|
| d | a tile of the input, 6 x 6, for each channel; its 4 x 4 outputs are known from it alone |
| g | the kernel, 3 x 3, for each channel and output |
| U = G g G^T, V = B^T d B | both transformed, 6 x 6; M = sum over channels of U V, place by place |
| A^T M A | 64 times the 4 x 4 outputs |

Winograd's matrices hold thirds and powers of two below 1. A third is a number in Z_2^l (3 is odd). The powers of two are
gathered: 8 in A for each side, so that what comes out is 64 times too large, and right modulo 2^(l+6) if everything
before was; divided by 64 it is right modulo 2^l. U and V are therefore cut into limbs of l + 6 bits, and the 36
products a tile are matrix products as in limbs.py.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, section 4.3, points 0, 1, -1, 2,
-2 and infinity.
"""

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled
from primum.kernels.digits import Ring, add_shifted, longest_sum

Floats = npt.NDArray[np.float64]
Share = Callable[[Callable[[int], None], Sequence[int]], None]

EXTRA_BITS: Final = 6
"""By so many bits transformed values are longer: 64 = 2^6."""
PLACES: Final = 36
_STEP: Final = 4  # outputs of a tile, a side
_SIDE: Final = 6
_FEWEST_TILES: Final = 16  # with fewer the weights, four times as many, are longer to read than products are to make
_FEWEST_CHANNELS: Final = 16
_BLOCK_BYTES: Final = 1 << 22
_FEWEST_ROWS: Final = 16
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
"""G, its rows times 4, 2, 2, 8, 8 and 1, which `_outputs` makes good."""


def pays(kernel: tuple[int, int], channels: int, outputs: int, size: tuple[int, int]) -> bool:
    """Whether a convolution without stride and dilation, of so many places (`size`, of the output), is quicker so."""
    tiles = -(-size[0] // _STEP) * -(-size[1] // _STEP)
    return kernel == (3, 3) and min(channels, outputs) >= _FEWEST_CHANNELS and tiles >= _FEWEST_TILES


def transformed(weight: Ring) -> Ring:
    """U of weight uint64 [3, 3, channels, outputs]: uint64 [36, channels, outputs], modulo 2^64."""
    matrix = (_KERNEL % (1 << 64)).astype(np.uint64)
    rows: Ring = np.einsum("ai,ijco->ajco", matrix, weight)
    both: Ring = np.einsum("bj,ajco->abco", matrix, rows)
    return both.reshape(PLACES, *weight.shape[2:])


def convolve(
    values: Ring, corner: tuple[int, int], size: tuple[int, int], limbs: Floats, width: int, share: Share
) -> Ring:
    """uint64 [n, *size, outputs], right modulo 2^(bits of the limbs - 6).

    `values` uint64 [n, h, w, channels], of which the first stands `corner` places below and right of where the kernel
    begins. `limbs` float64 [36, count x channels, outputs]: U's limbs of `width` bits, the highest first. `share(task,
    items)` calls the task for each item.
    """
    import torch

    images, channels = len(values), values.shape[3]
    outputs, count = limbs.shape[2], limbs.shape[1] // channels
    high, wide = (-(-side // _STEP) for side in size)
    padded = np.zeros((images, _STEP * high + 2, _STEP * wide + 2, channels), np.uint64)
    top, left = corner
    # places beyond the last window are of no output
    seen = values[:, : padded.shape[1] - top, : padded.shape[2] - left]
    padded[:, top : top + seen.shape[1], left : left + seen.shape[2]] = seen
    out = np.empty((images, *size, outputs), np.uint64)
    tiles, right = images * high * wide, torch.from_numpy(limbs)
    step = min(tiles, max(_FEWEST_ROWS, _BLOCK_BYTES // (PLACES * count * channels * 8)))
    most = longest_sum(width)

    def block(start: int) -> None:
        rows = min(step, tiles - start)
        which = np.array([start, rows, high, wide], np.int64)
        cut, sums = np.empty((PLACES, rows, count * channels)), np.zeros((PLACES * rows, outputs), np.uint64)
        _inputs(padded, which, width, cut.reshape(PLACES, rows, count, channels))
        ours = torch.from_numpy(cut)
        for limb in range(count):
            first, length = (count - 1 - limb) * channels, (limb + 1) * channels
            for begin in range(0, length, most):
                end = min(begin + most, length)
                product = torch.bmm(ours[:, :, begin:end], right[:, first + begin : first + end])
                add_shifted(product.view(-1, outputs).numpy(), np.uint64(width * limb), sums)
        _outputs(sums.reshape(PLACES, rows, outputs), which, out)

    share(block, range(0, tiles, step))
    return out


@compiled
def _inputs(padded: Ring, which: npt.NDArray[np.int64], width: int, out: Floats) -> None:
    """V of some tiles, cut into limbs, the lowest first: [36, tiles, count, channels]."""
    start, rows, high, wide = which
    channels, count = padded.shape[3], out.shape[2]
    half = np.uint64(1) << np.uint64(width - 1)
    mask = (half << np.uint64(1)) - np.uint64(1)
    bias = np.uint64(0)
    for limb in range(count):
        bias += half << np.uint64(width * limb)
    lines = np.empty((_SIDE, _SIDE, channels), np.uint64)
    both = np.empty((_SIDE, channels), np.uint64)
    for row in range(rows):
        image, rest = (start + row) // (high * wide), (start + row) % (high * wide)
        top, left = rest // wide * _STEP, rest % wide * _STEP
        tile = padded[image, top : top + _SIDE, left : left + _SIDE]
        for b in range(_SIDE):
            _forward(tile[0, b], tile[1, b], tile[2, b], tile[3, b], tile[4, b], tile[5, b], lines[b])
        for a in range(_SIDE):
            _forward(lines[0, a], lines[1, a], lines[2, a], lines[3, a], lines[4, a], lines[5, a], both)
            for b in range(_SIDE):
                line = both[b]
                for limb in range(count):
                    shift, to = np.uint64(width * limb), out[_SIDE * a + b, row, limb]
                    for k in range(channels):
                        digit = ((line[k] + bias) >> shift) & mask
                        to[k] = np.float64(np.int64(digit) - np.int64(half))


@compiled
def _forward(a: Ring, b: Ring, c: Ring, d: Ring, e: Ring, f: Ring, out: Ring) -> None:
    """B^T on six lines: [6, channels]."""
    one, two = np.uint64(1), np.uint64(2)
    for k in range(len(a)):
        out[0, k] = (a[k] << two) - (c[k] << two) - c[k] + e[k]
        even, odd = e[k] - (c[k] << two), d[k] - (b[k] << two)
        out[1, k] = even + odd
        out[2, k] = even - odd
        even, odd = e[k] - c[k], (d[k] - b[k]) << one
        out[3, k] = even + odd
        out[4, k] = even - odd
        out[5, k] = (b[k] << two) - (d[k] << two) - d[k] + f[k]


@compiled
def _outputs(sums: Ring, which: npt.NDArray[np.int64], out: Ring) -> None:
    """The outputs of some tiles from their M [36, tiles, outputs]."""
    start, rows, high, wide = which
    outputs = sums.shape[2]
    scale = np.uint64(EXTRA_BITS)
    lines = np.empty((_SIDE, _STEP, outputs), np.uint64)
    both = np.empty((_STEP, outputs), np.uint64)
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
                for k in range(outputs):
                    to[k] = line[k] >> scale


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
