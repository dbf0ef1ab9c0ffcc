"""Rows of uniform bytes, read as integers of 1 to 4 bytes, added to a total: four rows for one reading and writing of it.

A row of n integers of 1, 2 or 4 bytes is those integers; of 3 bytes it is n low halves (2 bytes each), then n high
bytes: machines add such rows four times as fast as integers of 3 bytes side by side. Little-endian.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

ROWS: Final = 4

Values = npt.NDArray[np.uint32]
Bytes = npt.NDArray[np.uint8]
Words = npt.NDArray[np.unsignedinteger]

_WORDS: Final = {1: "u1", 2: "<u2", 4: "<u4"}


def add_rows(total: Values, rows: Sequence[Bytes], width: int, subtract: bool) -> None:
    """Add (or subtract) each of four `rows` uint8 [width * n] to `total` uint32 [n], in place, modulo 2^32."""
    count = len(total)
    if not 1 <= width <= 4 or [len(row) for row in rows] != [width * count] * ROWS:
        raise ValueError(f"{len(rows)} rows, integers of {width} bytes and a total of {count}")
    if width == 3:
        a, b, c, d = (row[: 2 * count].view("<u2") for row in rows)
        e, f, g, h = (row[2 * count :] for row in rows)
        _four_split(total, a, b, c, d, e, f, g, h, subtract)
    else:
        a, b, c, d = (row.view(_WORDS[width]) for row in rows)
        _four(total, a, b, c, d, subtract)


@compiled
def _four(total: Values, a: Words, b: Words, c: Words, d: Words, subtract: bool) -> None:
    for i in range(len(total)):
        four = np.uint32(a[i]) + np.uint32(b[i]) + np.uint32(c[i]) + np.uint32(d[i])
        total[i] += -four if subtract else four


@compiled
def _four_split(
    total: Values, a: Words, b: Words, c: Words, d: Words, e: Bytes, f: Bytes, g: Bytes, h: Bytes, subtract: bool
) -> None:
    for i in range(len(total)):
        low = np.uint32(a[i]) + np.uint32(b[i]) + np.uint32(c[i]) + np.uint32(d[i])
        high = np.uint32(e[i]) + np.uint32(f[i]) + np.uint32(g[i]) + np.uint32(h[i])
        four = low + (high << np.uint32(16))
        total[i] += -four if subtract else four
