"""Integers drawn from alias tables with random words that the caller brings (Walker 1977).

A table has 2^k columns. The lowest k bits of an index word choose a column, and a coin of 64 bits of its own chooses
between the column's own number, where the coin is below the column's threshold, and its alias. Where it is equal, a
spare word decides by the threshold's other 64 bits: as if every coin had 128. Two reads and no branch taken a value,
about a nanosecond. Numbers drawn are secret; a table is small, but which of its cache lines are read
depends on them, as with every table: nobody else may run on the computer that draws.
"""

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

Whole = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Words = npt.NDArray[np.uint64]
Columns = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Tables = tuple[Words, Words, Columns]  # thresholds, their other 64 bits, and aliases


@compiled
def add_drawn(
    out: Whole, table: Tables, indices: Columns, coins: Words, spare: np.uint64, lowest: int, factor: int
) -> int:
    """Add factor (lowest + column) to each of `out` int32 or int64 [n], by `indices` uint16 [n] and `coins` uint64 [n].

    `table` is thresholds uint64 [2^k], their other 64 bits, and aliases uint16 [2^k]. Returns how many of `out` are
    done: all, or those up to the first that took the spare word, which nobody may take twice.
    """
    thresholds, rest, aliases = table
    mask = np.uint64(len(thresholds) - 1)
    for i in range(len(out)):
        own = np.uint64(indices[i]) & mask
        other = np.int64(aliases[own])
        if coins[i] == thresholds[own]:
            out[i] += factor * (lowest + (np.int64(own) if spare < rest[own] else other))
            return i + 1
        column = np.int64(own) if coins[i] < thresholds[own] else other
        out[i] += factor * (lowest + column)
    return len(out)


@compiled
def round_digit(
    centres: npt.NDArray[np.int64], tables: Tables, indices: Columns, coins: Words, spare: np.uint64, lowest: int
) -> int:
    """Replace each of `centres` int64 [n] by an integer around a 256th of it, drawn from the table of its last digit.

    256 tables of 2^k columns each stand one after another in `tables`, each array [256 2^k] and the aliases uint8:
    number m becomes (m >> 8) + lowest + a column of table m & 255, by `indices` uint8 [n] and `coins` uint64 [n].
    Returns how many are done, as `add_drawn` does.
    """
    thresholds, rest, aliases = tables
    width = np.uint64(len(thresholds) // 256)
    mask = width - np.uint64(1)
    for i in range(len(centres)):
        first = np.uint64(centres[i] & 255) * width
        own = np.uint64(indices[i]) & mask
        other = np.int64(aliases[first + own])
        if coins[i] == thresholds[first + own]:
            centres[i] = (centres[i] >> 8) + lowest + (np.int64(own) if spare < rest[first + own] else other)
            return i + 1
        column = np.int64(own) if coins[i] < thresholds[first + own] else other
        centres[i] = (centres[i] >> 8) + lowest + column
    return len(centres)
