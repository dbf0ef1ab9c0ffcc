"""Convolutions of 3 x 3 in float32 with 4 products for 9, and their weight's gradients: Winograd's F(2 x 2, 3 x 3).

| symbol | meaning |
|---|---|
| d | a tile of the input, 4 x 4, for each channel; its 2 x 2 outputs y are known from it alone |
| g | the kernel, 3 x 3, for each channel and output |
| U = G g G^T, V = B^T d B | both transformed, 4 x 4; M = sum over channels of U V, place by place; y = A^T M A |
| Z = A y' A^T | of the slopes y' of a tile's outputs: the slope of g is G^T (sum over tiles of V Z) G |

The matrices hold 0, 1, -1 and 1/2: what comes out is as exact as the sum of nine products, and often more. Larger tiles
would need fewer products still, and lose digits.

Everything is eight channels wide, so channels come last inside, and inputs and outputs are transposed on their way. A
block of tiles stays in the cache between its three parts. Products are made 6 x 16 at a time, in registers.

Source: Lavin and Gray, "Fast algorithms for convolutional neural networks", CVPR 2016, sections 4.1 and 4.2.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled
from primum.kernels.emitted import BYTES, LANES, Emitted, Writer, emitted

Floats = npt.NDArray[np.float32]
Sizes = tuple[int, int]

WIDE: Final = 16
"""Channels and outputs come in multiples of so many."""
TOGETHER: Final = 96
"""Tiles of a block, or up to twice as many."""
_PLACES: Final = 16
_ROWS: Final = 6
_B_T: Final = ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))
_A_T: Final = ((1, 1, 1, 0), (0, 1, -1, -1))
_A: Final = ((1, 0), (1, 1), (1, -1), (0, -1))
_G: Final = ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))
_G_T: Final = ((1, 0.5, 0.5, 0), (0, 0.5, -0.5, 0), (0, 0.5, 0.5, 1))


# what kernels are made of


def _both_sides(matrix: Sequence[Sequence[float]]) -> Emitted:
    """(from, down, right, to, to_down, to_right): m x m^T of eight channels; bytes between rows and columns of both."""

    @emitted(6)
    def transform(builder: Any, source: Any, down: Any, right: Any, to: Any, to_down: Any, to_right: Any) -> None:
        write, side = Writer(builder), range(len(matrix[0]))
        x = [[write.load(write.at(source, (i, down), (j, right))) for j in side] for i in side]
        half = [[write.combined(weights, [x[i][j] for i in side]) for j in side] for weights in matrix]
        for a, line in enumerate(half):
            for b, weights in enumerate(matrix):
                write.store(write.combined(weights, line), write.at(to, (a, to_down), (b, to_right)))

    return transform


_of_inputs: Final = _both_sides(_B_T)
_to_outputs: Final = _both_sides(_A_T)
_of_slopes: Final = _both_sides(_A)
_of_weights: Final = _both_sides(_G)
_to_weights: Final = _both_sides(_G_T)


@emitted(9)
def _corner(
    builder: Any, a: Any, a_row: Any, a_step: Any, b: Any, b_step: Any, terms: Any, out: Any, out_row: Any, more: Any
) -> None:
    """out[i, j] = sum over p of a[i a_row + p a_step] b[p b_step + j], 6 x 16; `more`: that is added to what stands there."""
    write, halves = Writer(builder), range(WIDE // LANES)
    width = write.constant(LANES * BYTES)
    before = builder.block
    loop, end, add, put, after = (builder.append_basic_block() for _ in range(5))
    builder.branch(loop)
    builder.position_at_end(loop)
    walking = [(builder.phi(write.number), first, step) for first, step in ((a, a_step), (b, b_step))]
    left = builder.phi(write.number)
    sums = [[builder.phi(write.vector) for _ in halves] for _ in range(_ROWS)]
    factors = [write.load(write.at(walking[1][0], (j, width))) for j in halves]
    found = []
    for i in range(_ROWS):
        one = write.everywhere(write.load(write.at(walking[0][0], (i, a_row)), write.real))
        terms_of = [builder.fmul(one, factor, flags=("contract",)) for factor in factors]
        found.append([builder.fadd(s, t, flags=("contract",)) for s, t in zip(sums[i], terms_of, strict=True)])
    for place, first, step in walking:
        place.add_incoming(first, before)
        place.add_incoming(builder.add(place, step), loop)
    rest = builder.sub(left, write.constant(1))
    left.add_incoming(terms, before)
    left.add_incoming(rest, loop)
    for row, new in zip(sums, found, strict=True):
        for old, value in zip(row, new, strict=True):
            old.add_incoming(write.ir.Constant(write.vector, [0.0] * LANES), before)
            old.add_incoming(value, loop)
    builder.cbranch(builder.icmp_signed(">", rest, write.constant(0)), loop, end)
    builder.position_at_end(end)
    builder.cbranch(builder.icmp_signed("!=", more, write.constant(0)), add, put)
    for block in (add, put):
        builder.position_at_end(block)
        for i, j in ((i, j) for i in range(_ROWS) for j in halves):
            address = write.at(out, (i, out_row), (j, width))
            write.store(builder.fadd(write.load(address), found[i][j]) if block is add else found[i][j], address)
        builder.branch(after)
    builder.position_at_end(after)


@emitted(4)
def _turn_eight(builder: Any, source: Any, down: Any, to: Any, to_down: Any) -> None:
    """Eight by eight numbers transposed; bytes between the rows of both."""
    write = Writer(builder)
    rows = [write.load(write.at(source, (i, down))) for i in range(LANES)]
    for apart in (4, 2, 1):  # rows that lie `apart` exchange half of their blocks of that length
        low = [j if not j & apart else j - apart + LANES for j in range(LANES)]
        high = [j + apart if not j & apart else j + LANES for j in range(LANES)]
        for i in (i for i in range(LANES) if not i & apart):
            one, other = rows[i], rows[i + apart]
            rows[i], rows[i + apart] = write.shuffled(one, other, low), write.shuffled(one, other, high)
    for i, row in enumerate(rows):
        write.store(row, write.at(to, (i, to_down)))


@emitted(2)
def _copy(builder: Any, source: Any, to: Any) -> None:
    """One number."""
    write = Writer(builder)
    write.store(write.load(source, write.real), to)


# the kernels


@compiled
def _transpose(source: int, down: int, rows: int, columns: int, to: int, to_down: int) -> None:
    """[rows, columns] to [columns, rows], rows in eights; bytes between rows. Addresses."""
    for row in range(0, rows, LANES):
        begin, into = source + row * down, to + row * BYTES
        if columns >= LANES:
            for column in range(0, columns, LANES):
                first = min(column, columns - LANES)  # the last eight overlap
                _turn_eight(begin + first * BYTES, down, into + first * to_down, to_down)
        else:
            for column in range(columns):
                for lane in range(LANES):
                    _copy(begin + lane * down + column * BYTES, into + column * to_down + lane * BYTES)


@compiled
def _product(
    a: int, a_row: int, a_step: int, rows: int, b: int, panel: int, b_step: int, columns: int, terms: int,
    out: int, out_row: int, more: bool,
) -> None:  # fmt: skip
    """out [rows, columns], of which rows are made in sixes; b in panels of 16 columns. Addresses and bytes."""
    for column in range(0, columns, WIDE):
        for row in range(0, rows, _ROWS):
            to = out + row * out_row + column * BYTES
            _corner(a + row * a_row, a_row, a_step, b + column // WIDE * panel, b_step, terms, to, out_row, int(more))


@compiled
def _channels_last(values: Floats, corner: Sizes, out: Floats) -> None:
    """[C, h, w] into [H, W, C], from `corner`; what does not fit is left out."""
    channels, high, wide = values.shape
    top, left = corner
    wide = min(wide, out.shape[1] - left)
    for line in range(min(high, out.shape[0] - top)):
        to = out[top + line, left:]
        _transpose(values[0, line].ctypes.data, values.strides[0], channels, wide, to.ctypes.data, out.strides[1])


@compiled
def _tile(number: int, high: int, wide: int) -> tuple[int, int, int]:
    """Image, row and column of a tile."""
    image, rest = number // (high * wide), number % (high * wide)
    return image, rest // wide * 2, rest % wide * 2


@compiled
def _transform(values: Floats, are_slopes: bool, first: int, count: int, places: Floats) -> None:
    """V of some tiles, [16, tiles, channels and more]; of slopes Z, [16, tiles, outputs and more]."""
    rim = 0 if are_slopes else 1
    high, wide = values.shape[1] // 2 - rim, values.shape[2] // 2 - rim
    for tile in range(count):
        image, top, left = _tile(first + tile, high, wide)
        source, to = values[image, top, left:].ctypes.data, places[0, tile:].ctypes.data
        down, right, to_right = values.strides[1], values.strides[2], places.strides[0]
        for byte in range(0, BYTES * values.shape[3], BYTES * LANES):
            if are_slopes:
                _of_slopes(source + byte, down, right, to + byte, 4 * to_right, to_right)
            else:
                _of_inputs(source + byte, down, right, to + byte, 4 * to_right, to_right)


@compiled
def _transform_back(places: Floats, first: int, count: int, out: Floats) -> None:
    """The outputs of some tiles, [images, 2 high, 2 wide, outputs], from M [16, tiles, outputs and more]."""
    high, wide = out.shape[1] // 2, out.shape[2] // 2
    for tile in range(count):
        image, top, left = _tile(first + tile, high, wide)
        source, to = places[0, tile:].ctypes.data, out[image, top, left:].ctypes.data
        for byte in range(0, BYTES * out.shape[3], BYTES * LANES):
            _to_outputs(
                source + byte, 4 * places.strides[0], places.strides[0], to + byte, out.strides[1], out.strides[2]
            )


@compiled
def _padded(values: Floats, corner: Sizes, size: Sizes) -> Floats:
    """[n, C, h, w] with channels last in whole tiles for outputs of `size`, [n, 2 high + 2, 2 wide + 2, C]."""
    images, channels = values.shape[:2]
    out = np.zeros((images, (size[0] + 1) // 2 * 2 + 2, (size[1] + 1) // 2 * 2 + 2, channels), np.float32)
    for image in range(images):
        _channels_last(values[image], corner, out[image])
    return out


@compiled
def _even(slopes: Floats) -> Floats:
    """[n, K, h, w] with channels last in whole tiles, [n, 2 high, 2 wide, K]."""
    images, outputs, high, wide = slopes.shape
    out = np.zeros((images, (high + 1) // 2 * 2, (wide + 1) // 2 * 2, outputs), np.float32)
    for image in range(images):
        _channels_last(slopes[image], (0, 0), out[image])
    return out


@compiled
def transform(weight: Floats, turned: bool, first: int, last: int, out: Floats) -> None:
    """U of weight float32 [outputs, channels, 3, 3], in panels: `out` float32 [16, outputs / 16, channels, 16].

    Of the channels `first` to `last`. `turned`: of the kernel that takes slopes of outputs to those of inputs, whose
    outputs are the channels.
    """
    outputs = out.shape[1] * WIDE
    lines = np.empty((last - first, 9, outputs), np.float32)
    if turned:
        for channel in range(first, last):
            end = lines[channel - first, 8:].ctypes.data
            _transpose(weight[channel].ctypes.data, weight.strides[1], outputs, 9, end, -lines.strides[1])
    else:
        some, to = weight[0, first:].ctypes.data, lines.ctypes.data
        _transpose(some, weight.strides[0], outputs, 9 * (last - first), to, lines.strides[1])
    for panel in range(out.shape[1]):
        for channel in range(first, last):
            for lane in range(0, WIDE, LANES):
                source = lines[channel - first, 0, panel * WIDE + lane :].ctypes.data
                at = out[0, panel, channel, lane:].ctypes.data
                _of_weights(source, 3 * lines.strides[1], lines.strides[1], at, 4 * out.strides[0], out.strides[0])


@compiled
def _block(tiles: int) -> int:
    """Tiles of a block, where there are so many: all blocks about alike."""
    return -(-tiles // max(1, tiles // TOGETHER))


@compiled
def convolve(values: Floats, corner: Sizes, kernel: Floats, out: Floats) -> None:
    """`out` float32 [n, outputs, high, wide] from `values` float32 [n, channels, h, w] and U of `transform`.

    The first value stands `corner` places below and right of where the kernel begins; around it are zeros.
    """
    images, outputs = out.shape[:2]
    channels = values.shape[1]
    padded = _padded(values, corner, out.shape[2:])
    even = np.empty((images, padded.shape[1] - 2, padded.shape[2] - 2, outputs), np.float32)
    tiles = images * (even.shape[1] // 2) * (even.shape[2] // 2)
    block = _block(tiles)
    rows = -(-block // _ROWS) * _ROWS
    # rows of 2 KiB would all lie in the same few places of the cache: some numbers more
    ours = np.zeros((_PLACES, rows, channels + WIDE), np.float32)
    sums = np.empty((_PLACES, rows, outputs + WIDE), np.float32)
    for first in range(0, tiles, block):
        count = min(block, tiles - first)
        _transform(padded, False, first, count, ours)
        for place in range(_PLACES):
            _product(
                ours[place].ctypes.data, ours.strides[1], BYTES, count,
                kernel[place].ctypes.data, kernel.strides[1], kernel.strides[2], outputs, channels,
                sums[place].ctypes.data, sums.strides[1], False,
            )  # fmt: skip
        _transform_back(sums, first, count, even)
    high = out.shape[2]
    for image in range(images):
        for line in range(high):
            _transpose_back(even[image, line], out[image, :, line])


@compiled
def _transpose_back(line: Floats, out: Floats) -> None:
    """[wide and more, outputs] into [outputs, wide]."""
    outputs, wide = out.shape
    source, down, to, to_down = line.ctypes.data, line.strides[0], out.ctypes.data, out.strides[0]
    if wide >= LANES:
        for output in range(0, outputs, LANES):
            for column in range(0, wide, LANES):
                first = min(column, wide - LANES)  # the last eight overlap
                _turn_eight(
                    source + first * down + output * BYTES, down, to + output * to_down + first * BYTES, to_down
                )
    else:
        for output in range(outputs):
            for column in range(wide):
                out[output, column] = line[column, output]


@compiled
def weights_of(places: Floats, out: Floats) -> None:
    """The slope of the kernel, float32 [channels, 3, 3, outputs], from that of U, [16, channels and more, outputs]."""
    for channel in range(out.shape[0]):
        for lane in range(0, out.shape[3], LANES):
            source, to = places[0, channel, lane:].ctypes.data, out[channel, 0, 0, lane:].ctypes.data
            _to_weights(source, 4 * places.strides[0], places.strides[0], to, out.strides[1], out.strides[2])


@compiled
def each(values: Floats, corner: Sizes, slopes: Floats, out: Floats) -> None:
    """Each image's slope of the kernel, float32 [n, channels, 3, 3, outputs]; `values` and `slopes` as in `summed`."""
    for image in range(len(values)):
        weights_of(summed(values[image : image + 1], corner, slopes[image : image + 1], 1), out[image])


@compiled
def summed(values: Floats, corner: Sizes, slopes: Floats, together: int) -> Floats:
    """The slope of U summed over images, float32 [16, channels and more, outputs]; some images `together` at a time.

    `values` float32 [n, channels, h, w] as in `convolve`, `slopes` of its outputs float32 [n, outputs, high, wide].
    """
    channels = -(-values.shape[1] // _ROWS) * _ROWS
    out = np.empty((_PLACES, channels, slopes.shape[1]), np.float32)
    for first in range(0, len(values), together):
        rows = slice(first, first + together)
        _add(values[rows], corner, slopes[rows], out, first > 0)
    return out


@compiled
def _add(values: Floats, corner: Sizes, slopes: Floats, out: Floats, more: bool) -> None:
    """The slope of U of a few images; `more`: added to `out`."""
    images, outputs = slopes.shape[:2]
    channels = values.shape[1]
    padded, even = _padded(values, corner, slopes.shape[2:]), _even(slopes)
    tiles = images * (even.shape[1] // 2) * (even.shape[2] // 2)
    block = _block(tiles)
    ours = np.zeros((_PLACES, block, channels + WIDE), np.float32)
    theirs = np.empty((_PLACES, block, outputs + WIDE), np.float32)
    for first in range(0, tiles, block):
        count = min(block, tiles - first)
        _transform(padded, False, first, count, ours)
        _transform(even, True, first, count, theirs)
        for place in range(_PLACES):
            _product(
                ours[place].ctypes.data, BYTES, ours.strides[1], channels,
                theirs[place].ctypes.data, WIDE * BYTES, theirs.strides[1], outputs, count,
                out[place].ctypes.data, out.strides[1], more or first > 0,
            )  # fmt: skip
