"""The program of a fixed feature map and a linear layer, with a proof of its precision instead of a calibration.

Features have length at most 1, so |w x| <= |w| (Cauchy and Schwarz): interval arithmetic is exact here, no image is
needed. Rounding x to f_x and w to f_w bits changes a logit by at most

    sqrt(d) |w| 2^-(f_x + 1)  +  sqrt(d) (1 + sqrt(d) 2^-(f_x + 1)) 2^-(f_w + 1)

and each of the two parts is held under `TOLERANCE` / 2 for every image and every weight of that length.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.errors import ModelError
from primum.mpc.check import check
from primum.mpc.program import Convolution, Open, Program, Wire
from primum.ring import Ring, encode

TOLERANCE: Final = 0.002
SPARE_BITS: Final = 2
COARSE_FRACTION: Final = 8
RINGS: Final = (40, 48, 56, 64)


def linear_program(weight: npt.NDArray[np.floating], *, coarse: bool = False) -> tuple[Program, Ring]:
    """The program of features (length at most 1) times `weight` [outputs, dimension], and its weights, flat.

    `coarse` cuts answers to 8 fractional bits: full-precision logits help to extract a model (Carlini et al. 2020).
    Ring and fractional bits follow from the dimension and the longest row of `weight`; a model whose range does not
    fit is a ModelError that names the layer.
    """
    outputs, dimension = weight.shape
    magnitude = _magnitude(weight)
    root = math.sqrt(dimension)
    f_x = _fraction(root * 2.0**magnitude)
    f_w = _fraction(root * (1 + root * 2.0 ** -(f_x + 1)))
    needed = 1 + SPARE_BITS + magnitude + f_x + f_w
    ring = next((bits for bits in RINGS if bits >= needed), None)
    if ring is None:
        raise ModelError(
            f"Layer `linear`: logits reach 2^{magnitude}, which needs a ring of {needed} bits; there are {RINGS[-1]}.",
            "Train with weight decay or fewer steps: such a model is certain of everything.",
        )
    program = _program((ring, dimension, outputs), (f_x, f_w, magnitude), coarse)
    check(program)
    flat = encode(np.asarray(weight, np.float64).T, f_w, ring).reshape(-1)
    return program, np.concatenate([flat, np.zeros(outputs, np.uint64)])


def _program(sizes: tuple[int, int, int], precision: tuple[int, int, int], coarse: bool) -> Program:
    ring, dimension, outputs = sizes
    f_x, f_w, magnitude = precision
    wires = (
        Wire("features", (1, 1, dimension), ring, f_x, 0),
        Wire("opened", (1, 1, dimension), ring, f_x, 0),
        Wire("logits", (1, 1, outputs), ring, f_x + f_w, magnitude),
    )
    steps = (Open("open", "features", "opened"), Convolution("linear", "opened", "logits", f_w, (1, 1)))
    answer = min(COARSE_FRACTION, f_x + f_w) if coarse else f_x + f_w
    return Program(ring, wires, steps, "features", "logits", answer)


def _magnitude(weight: npt.NDArray[np.floating]) -> int:
    norms = np.linalg.norm(np.asarray(weight, np.float64), axis=1)
    if not np.isfinite(norms).all():
        raise ModelError("Layer `linear`: a weight is not a finite number.", "Train the model again.")
    return max(0, math.ceil(math.log2(max(float(norms.max()), 1.0))))


def _fraction(error_at_one: float) -> int:
    """The least f for which error_at_one * 2^-(f + 1) <= TOLERANCE / 2."""
    return math.ceil(math.log2(error_at_one / TOLERANCE))
