"""Smooth functions of one number: exactly, and as the spline that is computed under encryption.

A spline is constant + sum_j (a_j r_j^2 + b_j r_j) with r_j = max(x - c_j, 0). Each r_j is exact in the ring, so are
its square and the sum: left of the first knot and right of the last the function is its asymptote, however large x is,
because the terms cancel. The knots are symmetric, the coefficients minimise the largest error (linear programming,
rounded one after the other), and `error` is what tests/compiler/test_curves.py measures over [-100, 100].
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

SQUARE_FRACTION: Final = 12
SLOPE_FRACTION: Final = 16


@dataclass(frozen=True)
class Spline:
    """A smooth function and its spline: a_j = squares_j / 2^12, b_j = slopes_j / 2^16, abs(spline - exact) <= error."""

    exact: Callable[[Tensor], Tensor]
    knots: tuple[float, ...]
    squares: tuple[int, ...]
    slopes: tuple[int, ...]
    constant: float
    error: float

    def approximate(self, value: Tensor) -> Tensor:
        """The spline in floating point."""
        total = torch.full_like(value, self.constant)
        for knot, square, slope in zip(self.knots, self.squares, self.slopes, strict=True):
            above = (value - knot).clamp(min=0.0)
            total = total + (square * 2.0**-SQUARE_FRACTION * above + slope * 2.0**-SLOPE_FRACTION) * above
        return total

    def stretched(self, exact: Callable[[Tensor], Tensor], inner: int, outer: int, constant: float) -> "Spline":
        """The spline of outer f(inner x) + constant, for powers of two."""
        return Spline(
            exact,
            tuple(knot / inner for knot in self.knots),
            tuple(outer * inner * inner * square for square in self.squares),
            tuple(outer * inner * slope for slope in self.slopes),
            outer * self.constant + constant,
            outer * self.error,
        )


def bent(
    exact: Callable[[Tensor], Tensor], knots: tuple[float, ...], squares: tuple[int, ...], slopes: tuple[int, ...],
    error: float,
) -> Spline:  # fmt: skip
    """A function that is 0 far left and x far right, f(x) - x/2 even; the slope at 0 follows from the others."""
    each = zip(knots, squares, slopes, strict=True)
    more = 1 << (SLOPE_FRACTION - SQUARE_FRACTION)
    middle = (1 << SLOPE_FRACTION) + sum(round(4 * more * knot * square) - 2 * slope for knot, square, slope in each)
    return _mirrored(exact, knots, squares, slopes, (-1, 1), (0, middle), error)


def stepped(
    exact: Callable[[Tensor], Tensor], knots: tuple[float, ...], squares: tuple[int, ...], slopes: tuple[int, ...],
    error: float,
) -> Spline:  # fmt: skip
    """A function that is 0 far left and 1 far right, f(x) - 1/2 odd; the square at 0 makes all squares cancel."""
    return _mirrored(exact, knots, squares, slopes, (1, -1), (-2 * sum(squares), 0), error)


def _mirrored(
    exact: Callable[[Tensor], Tensor], knots: tuple[float, ...], squares: tuple[int, ...], slopes: tuple[int, ...],
    signs: tuple[int, int], middle: tuple[int, int], error: float,
) -> Spline:  # fmt: skip
    return Spline(
        exact,
        (*(-knot for knot in reversed(knots)), 0.0, *knots),
        (*(signs[0] * square for square in reversed(squares)), middle[0], *squares),
        (*(signs[1] * slope for slope in reversed(slopes)), middle[1], *slopes),
        0.0,
        error,
    )


SIGMOID: Final = stepped(
    torch.sigmoid, (0.875, 2.375, 3.5, 5.0, 7.875), (-86, 89, 64, 25, 3), (-661, 151, 68, -42, -10), 5.0e-4
)
HALF_ERF: Final = stepped(
    lambda value: 0.5 + 0.5 * torch.erf(value),
    (0.3125, 0.90625, 1.375, 1.8125, 2.46875),
    (-563, 223, 406, 250, 48),
    (202, -966, 195, -30, -6),
    3.4e-4,
)
CURVES: Final = {
    "sigmoid": SIGMOID,
    "tanh": SIGMOID.stretched(torch.tanh, 2, 2, -1.0),
    "erf": HALF_ERF.stretched(torch.erf, 1, 2, -1.0),
    "silu": bent(
        functional.silu,
        (0.875, 1.5, 2.25, 4.25, 6.125, 9.625),
        (-402, -358, -208, 31, 26, 4),
        (-265, 29, 168, -634, -264, -10),
        9.0e-4,
    ),
    "gelu": bent(
        functional.gelu,
        (0.5625, 1.0, 1.4375, 2.75, 3.6875),
        (-619, -621, -418, 151, 37),
        (-2, -487, -195, 89, -21),
        5e-4,
    ),
    "gelu_tanh": bent(
        lambda value: functional.gelu(value, approximate="tanh"),
        (0.5625, 1.0, 1.4375, 2.75, 3.6875),
        (-617, -629, -414, 148, 41),
        (-61, -465, -79, 98, 72),
        5e-4,
    ),
}
