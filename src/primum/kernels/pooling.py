"""The largest number of each window of 2 x 2 or 3 x 3, in steps of 2: eight windows at a time, without a branch.

Which number of a window is the largest cannot be foreseen, and a processor that guesses is wrong every second time.
"""

from typing import Any, Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled
from primum.kernels.emitted import BYTES, LANES, Emitted, Writer, emitted

Floats = npt.NDArray[np.float32]
Marks = npt.NDArray[np.uint8]

SIDES: Final = (2, 3)
STEP: Final = 2


def _eight_windows(side: int) -> Emitted:
    """(from, down, to, marks): the largest of each of eight windows, and its number within the window, row by row.

    The first of equals; a NaN is the largest. Where all are -inf it is the first, be it padding.
    """

    @emitted(4)
    def largest(builder: Any, source: Any, down: Any, to: Any, marks: Any) -> None:
        write = Writer(builder)
        places = write.ir.VectorType(write.ir.IntType(32), LANES)
        best = write.ir.Constant(write.vector, [float("-inf")] * LANES)
        mark = write.ir.Constant(places, [0] * LANES)
        for number in range(side * side):
            row, column = divmod(number, side)
            halves = [write.at(source, (row, down), (column + more, write.constant(BYTES))) for more in (0, LANES)]
            seen = write.shuffled(write.load(halves[0]), write.load(halves[1]), range(0, STEP * LANES, STEP))
            larger = builder.or_(builder.fcmp_ordered(">", seen, best), builder.fcmp_unordered("uno", seen, seen))
            best = builder.select(larger, seen, best)
            mark = builder.select(larger, write.ir.Constant(places, [number] * LANES), mark)
        write.store(best, to)
        write.store(builder.trunc(mark, write.ir.VectorType(write.ir.IntType(8), LANES)), marks)

    return largest


_of_two: Final = _eight_windows(2)
_of_three: Final = _eight_windows(3)


@compiled
def pool(values: Floats, side: int, around: int, out: Floats, marks: Marks) -> None:
    """`out` float32 [n, high, wide] of `values` float32 [n, h, w], and which it is in its window, uint8 [n, high, wide].

    `around`: places of padding on each side, which are never the largest; side 2 or 3, steps of 2.
    """
    high, wide = out.shape[1:]
    step = STEP * LANES
    steps = -(-wide // LANES)
    rows = max(values.shape[1] + 2 * around, STEP * high + side)
    padded = np.full((rows, max(values.shape[2] + 2 * around, step * steps) + step), -np.inf, np.float32)
    line, codes = np.empty(steps * LANES, np.float32), np.empty(steps * LANES, np.uint8)
    to, code = line.ctypes.data, codes.ctypes.data
    for image in range(len(values)):
        for y in range(values.shape[1]):
            for x in range(values.shape[2]):
                padded[around + y, around + x] = values[image, y, x]
        for y in range(high):
            for eight in range(steps):
                source = padded[STEP * y, step * eight :].ctypes.data
                at = to + eight * LANES * BYTES
                if side == 2:
                    _of_two(source, padded.strides[0], at, code + eight * LANES)
                else:
                    _of_three(source, padded.strides[0], at, code + eight * LANES)
            for x in range(wide):
                out[image, y, x] = line[x]
                marks[image, y, x] = codes[x]
                if around and codes[x] == 0 and (y == 0 or x == 0):  # all are -inf: the first that is no padding
                    marks[image, y, x] = (side if y == 0 else 0) + (1 if x == 0 else 0)


@emitted(4)
def _back_from_two(builder: Any, slopes: Any, marks: Any, to: Any, down: Any) -> None:
    """The numbers of eight windows of 2 x 2: the slope at its mark, else 0."""
    write = Writer(builder)
    places = write.ir.VectorType(write.ir.IntType(32), LANES)
    slope = write.load(slopes)
    mark = builder.zext(write.load(marks, write.ir.VectorType(write.ir.IntType(8), LANES)), places)
    nothing = write.ir.Constant(write.vector, [0.0] * LANES)
    here = [builder.icmp_signed("==", mark, write.ir.Constant(places, [number] * LANES)) for number in range(4)]
    found = [builder.select(one, slope, nothing) for one in here]
    for row in range(2):
        for half in range(2):
            both = [place for one in range(4 * half, 4 * half + 4) for place in (one, one + LANES)]
            line = write.shuffled(found[2 * row], found[2 * row + 1], both)
            write.store(line, write.at(to, (row, down), (half, write.constant(LANES * BYTES))))


@compiled
def spread(slopes: Floats, marks: Marks, side: int, around: int, out: Floats) -> None:
    """The slope of `values`, float32 [n, h, w], from that of `pool`'s output: each goes to where its number came from."""
    if side == 2 and around == 0 and slopes.shape[2] >= LANES:
        _spread_apart(slopes, marks, out)
    else:
        _spread_over(slopes, marks, side, around, out)


@compiled
def _spread_apart(slopes: Floats, marks: Marks, out: Floats) -> None:
    """Of windows of 2 x 2 without padding: each number is in one."""
    high, wide = slopes.shape[1:]
    for image in range(len(slopes)):
        for y in range(high):
            slope, mark, to = slopes[image, y].ctypes.data, marks[image, y].ctypes.data, out[image, 2 * y].ctypes.data
            for x in range(0, wide, LANES):
                first = min(x, wide - LANES)  # the last eight overlap
                _back_from_two(slope + first * BYTES, mark + first, to + 2 * first * BYTES, out.strides[1])
        out[image, 2 * high :] = 0
        out[image, :, 2 * wide :] = 0


@compiled
def _spread_over(slopes: Floats, marks: Marks, side: int, around: int, out: Floats) -> None:
    high, wide = slopes.shape[1:]
    across = max(out.shape[2] + 2 * around, STEP * wide + side)
    padded = np.empty(max(out.shape[1] + 2 * around, STEP * high + side) * across, np.float32)
    ways = np.empty(side * side, np.int64)
    for number in range(side * side):
        ways[number] = number // side * across + number % side
    for image in range(len(slopes)):
        padded[:] = 0
        for y in range(high):
            for x in range(wide):
                padded[STEP * (y * across + x) + ways[marks[image, y, x]]] += slopes[image, y, x]
        for y in range(out.shape[1]):
            for x in range(out.shape[2]):
                out[image, y, x] = padded[(around + y) * across + around + x]
