"""Ring products and masked weights of a linear layer.

Cost of the online product: inputs * outputs ring multiply-adds an image, about 0.4 ns each on one core.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from primum.mpc.program import Linear, Program
from primum.mpc.share import ROLES, Role, draw
from primum.ring import Ring, encode, mask


def product(rows: Ring, weight: Ring, bits: int) -> Ring:
    """rows [m, d] times weight [c, d], transposed: [m, c] modulo 2^bits.

    uint64 arithmetic wraps modulo 2^64, of which 2^bits is a divisor: the result is exact.
    """
    out: Ring = np.einsum("md,cd->mc", rows, weight)
    return out & mask(bits)


def product_slowly(rows: Sequence[Sequence[int]], weight: Sequence[Sequence[int]], bits: int) -> list[list[int]]:
    """The same with Python's integers, which have no width: the twin that the tests compare with."""
    return [
        [sum(int(x) * int(w) for x, w in zip(row, line, strict=True)) % (1 << bits) for line in weight] for row in rows
    ]


def encode_weight(program: Program, weight: npt.NDArray[np.floating]) -> Ring:
    """W in the ring, [outputs, dimension]."""
    return encode(weight, program.layer.fraction, program.bits)


def encode_features(program: Program, features: npt.NDArray[np.floating]) -> Ring:
    """x in the ring, [n, dimension]."""
    return encode(features, program.wire(program.input).fraction, program.bits)


def weight_mask(program: Program, layer: Linear, model: bytes, seed: bytes) -> Ring:
    """R_i [outputs, dimension]: a server's share of the weight mask, bound to this model and this program.

    Another version of the model under the same mask would reveal W2 - W1; the digests in the label make that
    impossible even if a seed were used again.
    """
    shape = (program.wire(layer.target).length, program.wire(layer.source).length)
    return draw(seed, ("weight mask", model, program.digest(), layer.name), shape, program.bits)


def mask_weight(program: Program, weight: npt.NDArray[np.floating], model: bytes, seeds: dict[Role, bytes]) -> Ring:
    """W^ = W + R_A + R_B: what both servers get, once per deployment. `model`: 32 bytes that name the weights."""
    masks = [weight_mask(program, program.layer, model, seeds[role]) for role in ROLES]
    return (encode_weight(program, weight) + masks[0] + masks[1]) & mask(program.bits)
