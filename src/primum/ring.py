"""Fixed-point numbers in Z_2^l, held in uint64; `kernels.words` packs them."""

import numpy as np
import numpy.typing as npt

from primum.errors import InputError

Ring = npt.NDArray[np.uint64]


def mask(bits: int) -> np.uint64:
    """2^bits - 1."""
    if not 1 <= bits <= 64:
        raise ValueError(f"a ring has 1 to 64 bits, got {bits}")
    return np.uint64((1 << bits) - 1)


def from_signed(values: npt.NDArray[np.int64], bits: int) -> Ring:
    """Signed integers to ring elements; each must lie in [-2^(bits-1), 2^(bits-1))."""
    half = 1 << (bits - 1)
    if values.size and (values.min() < -half or values.max() > half - 1):
        raise InputError(f"a value does not fit into {bits} bits.", "Use a larger ring or a smaller scale.")
    return values.astype(np.int64).view(np.uint64) & mask(bits)


def require_signed(values: npt.NDArray[np.integer], bits: int) -> npt.NDArray[np.int32]:
    """`values` as int32; InputError unless each is an integer in [-2^(bits-1), 2^(bits-1)), bits at most 32."""
    if values.dtype.kind != "i":
        raise InputError(f"the values are {values.dtype}, not signed integers.", "Round them first.")
    half = 1 << (bits - 1)
    if values.size and (values.min() < -half or values.max() > half - 1):
        raise InputError(f"a value does not fit into {bits} bits.", "Use a larger ring or a smaller scale.")
    return np.ascontiguousarray(values, np.int32)


def to_signed(elements: Ring, bits: int) -> npt.NDArray[np.int64]:
    """Ring elements to the signed integers in [-2^(bits-1), 2^(bits-1)) that they stand for."""
    shift = np.uint64(64 - bits)
    return (elements << shift).view(np.int64) >> np.int64(64 - bits)


def encode(values: npt.NDArray[np.floating], fraction: int, bits: int) -> Ring:
    """Real numbers to fixed point with `fraction` fractional bits, rounded to nearest.

    Not a number and infinity are refused: they would become arbitrary ring elements without a word.
    """
    values = np.asarray(values, np.float64)
    if not np.isfinite(values).all():
        raise InputError("a value is not a finite number.", "Find out where it comes from before it is encoded.")
    scaled = np.rint(np.ldexp(values, fraction))
    if values.size and np.abs(scaled).max() >= 2.0**63:
        raise InputError(f"a value does not fit into {bits} bits.", "Use a larger ring or a smaller scale.")
    return from_signed(scaled.astype(np.int64), bits)


def decode(elements: Ring, fraction: int, bits: int) -> npt.NDArray[np.float64]:
    """Fixed point back to real numbers."""
    return np.ldexp(to_signed(elements, bits).astype(np.float64), -fraction)
