"""The loops around a comparison: cutting a product, and choosing by a public bit between two shares.

Notation as in `primum.mpc`: T^ = T + rho opened in Z_2^t, m = msb(rho), q = 1 - msb(T^), d^ the public sign, s its
mask. Shares are uint64 of which the lowest l bits count. `lead` is 1 at server A and 0 at B.
"""

import numpy as np
import numpy.typing as npt

from primum.kernels.compiled import compiled

Ring = npt.NDArray[np.uint64]
Words = npt.NDArray[np.uint32]
Bits = npt.NDArray[np.uint8]


@compiled
def cut(share: Ring, mask: np.uint64, shift: np.uint64, lead: np.uint64, out: Words) -> None:
    """out = (share & mask) / 2^shift, rounded up at A and down at B: the share of a quotient in a ring of up to 32 bits.

    The sum is floor(y / 2^shift) and 1 more with probability (y mod 2^shift) / 2^shift where the shares are uniform.
    """
    up = (lead << shift) - lead
    for i in range(len(share)):
        out[i] = np.uint32(((share[i] & mask) + up) >> shift)


@compiled
def extend(opened: Words, bits: np.uint64, lead: np.uint64, rho: Ring, top: Ring, out: Ring) -> None:
    """out = lead T^ - [rho] + q 2^t [m]: the share of T >= 0 in the larger ring."""
    for i in range(len(opened)):
        value = np.uint64(opened[i])
        wrap = (np.uint64(1) - (value >> (bits - np.uint64(1)))) << bits
        out[i] = lead * value - rho[i] + wrap * top[i]


@compiled
def rectify(
    opened: Words,
    sign: Bits,
    bits: np.uint64,
    lead: np.uint64,
    dealt: tuple[Ring, Ring, Ring, Ring, Ring],
    out: Ring,
) -> None:
    """out = d^ X + (1 - 2 d^) S with X = lead T^ - [rho] + q 2^t [m] and S = T^ [s] - [s rho] + q 2^t [s m]."""
    s, rho, s_rho, top, s_top = dealt
    for i in range(len(opened)):
        value = np.uint64(opened[i])
        wrap = (np.uint64(1) - (value >> (bits - np.uint64(1)))) << bits
        masked = value * s[i] - s_rho[i] + wrap * s_top[i]
        plain = lead * value - rho[i] + wrap * top[i]
        d = np.uint64(sign[i])
        out[i] = d * (plain - masked) + (np.uint64(1) - d) * masked


@compiled
def larger(
    right: Words, difference: Words, sign: Bits, lead: np.uint32, mask: Words, s: Words, s_mask: Words, out: Words
) -> None:
    """out = right + d^ D + (1 - 2 d^) S with D = lead delta^ - rho_i, S = delta^ [s] - [s rho]: a share of the maximum.

    `right`: the share of v where delta = u - v; `mask`: rho_i. All in the ring of delta.
    """
    for i in range(len(right)):
        masked = difference[i] * s[i] - s_mask[i]
        plain = lead * difference[i] - mask[i]
        d = np.uint32(sign[i])
        out[i] = right[i] + d * (plain - masked) + (np.uint32(1) - d) * masked


@compiled
def deal_rectify(rho: Words, s: Bits, bits: np.uint64, dealt: tuple[Ring, Ring, Ring, Ring, Ring]) -> None:
    """Dealer: turn A's shares of s, rho, s rho, m and s m into B's corrections, in place; rho < 2^bits."""
    share_s, share_rho, share_s_rho, share_top, share_s_top = dealt
    for i in range(len(rho)):
        value, bit = np.uint64(rho[i]), np.uint64(s[i])
        top = value >> (bits - np.uint64(1))
        share_s[i] = bit - share_s[i]
        share_rho[i] = value - share_rho[i]
        share_s_rho[i] = bit * value - share_s_rho[i]
        share_top[i] = top - share_top[i]
        share_s_top[i] = bit * top - share_s_top[i]
