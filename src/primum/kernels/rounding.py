"""Real numbers to integers, up or down at random so that the mean is right: floor(x s + u)."""

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

Floats = npt.NDArray[np.float32] | npt.NDArray[np.float64]
Coins = npt.NDArray[np.uint32]
Integers = npt.NDArray[np.int32]


def round_into(values: Floats, scale: float, largest: float, coins: Coins, out: Integers) -> int:
    """Write floor(values * scale + coins / 2^32) into `out` int32 [n], in float64.

    Returns -1; or the index of the first value that is not a number or larger than `largest` in magnitude, and then
    `out` is right only before it. `largest * scale + 1` must be below 2^31.
    """
    if not len(values) == len(coins) == len(out):
        raise ValueError(f"{len(values)} values, {len(coins)} coins and room for {len(out)}")
    if not largest * scale + 1 < 2.0**31:
        raise ValueError("rounded values would not fit into 32 bits")
    return int(_round(values, scale, largest, coins, out))


@compiled
def _round(values: Floats, scale: float, largest: float, coins: Coins, out: Integers) -> int:
    for i in range(len(values)):
        if not abs(values[i]) <= largest:  # also where it is not a number
            return i
        out[i] = np.int32(np.floor(values[i] * scale + coins[i] * 2.0**-32))
    return -1
