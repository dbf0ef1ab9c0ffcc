"""Splines: the stated error holds everywhere, and no smaller one does; far away they are their asymptotes."""

import pytest
import torch

from primum.compiler.curves import CURVES, SLOPE_FRACTION, SQUARE_FRACTION

EVERYWHERE = torch.linspace(-100, 100, 400_001, dtype=torch.float64)


@pytest.mark.parametrize("kind", CURVES)
def test_the_stated_error_holds_and_is_not_exaggerated(kind):
    curve = CURVES[kind]
    error = float((curve.approximate(EVERYWHERE) - curve.exact(EVERYWHERE)).abs().max())
    assert 0.9 * curve.error < error <= curve.error


@pytest.mark.parametrize("kind", CURVES)
def test_squares_and_slopes_cancel_exactly_far_away(kind):
    """In whole numbers: otherwise a large x would be wrong by x squared."""
    curve = CURVES[kind]
    assert sum(curve.squares) == 0
    doubled = [round(2**16 * knot) for knot in curve.knots]
    slope = sum(curve.slopes) * 2**16 * 2**SQUARE_FRACTION
    slope -= 2 * sum(square * knot for square, knot in zip(curve.squares, doubled, strict=True)) * 2**SLOPE_FRACTION
    straight = kind in ("silu", "gelu", "gelu_tanh")
    assert slope == straight * 2 ** (16 + SQUARE_FRACTION + SLOPE_FRACTION)


def test_knots_are_exact_in_eight_fractional_bits():
    for curve in CURVES.values():
        assert all(knot * 2**8 == round(knot * 2**8) for knot in curve.knots)
