"""Alias tables: their law, recomputed from the table, is the Gaussian rounded to whole numbers, exactly."""

import math
from collections.abc import Mapping
from fractions import Fraction

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.dp.laws import BITS, Law, distance, gaussian, law_of

from primum.dp import table
from primum.dp.table import COIN, centred_at_zero, family

VARIANCES = [Fraction(1, 4), Fraction(9), Fraction(37, 2), Fraction(3.7) ** 2, Fraction(100**2), Fraction(170**2)]
DIGITS = [0, 1, 77, 128, 255]


def whole_numbers(exact: Mapping[int, mpmath.mpf], total: int) -> Law:
    """The largest remainder, from the definition."""
    with mpmath.workprec(BITS):
        inside = mpmath.fsum(exact.values())
        shares = {k: chance / inside * total for k, chance in exact.items()}
        law = {k: int(mpmath.floor(share)) for k, share in shares.items()}
        by_remainder = sorted(shares, key=lambda k: law[k] - shares[k])
    for k in by_remainder[: total - sum(law.values())]:
        law[k] += 1
    return {k: chance for k, chance in law.items() if chance}


def row(variance: Fraction, digit: int) -> Law:
    tables = family(variance)
    return law_of(tables.arrays, tables.lowest, slice(128 * digit, 128 * (digit + 1)))


@pytest.mark.parametrize("variance", VARIANCES)
def test_the_law_of_a_table_is_exactly_the_rounded_gaussian(variance: Fraction) -> None:
    built = centred_at_zero(variance)
    law, end = law_of(built.arrays, built.lowest), -built.lowest
    assert end == math.ceil(12 * math.sqrt(variance))
    assert sum(law.values()) == COIN * len(built.arrays[0])
    exact = gaussian(variance, Fraction(0), -end, end)
    expected = whole_numbers(exact, sum(law.values()))
    # of two values that mirror each other one may have the last unit: which, nobody has to know
    assert law.keys() == expected.keys()
    assert all(law[k] + law.get(-k, 0) == expected[k] + expected.get(-k, 0) for k in law)
    assert all(abs(law[k] - expected[k]) <= 1 for k in law)
    true = distance(law, exact)
    assert true <= built.distance <= 1.01 * true
    assert built.distance < 2.0**-106


@pytest.mark.parametrize("digit", DIGITS)
@pytest.mark.parametrize("variance", [Fraction(9), Fraction(4.59) ** 2])
def test_the_law_of_every_digit_is_exactly_the_rounded_gaussian_around_it(variance: Fraction, digit: int) -> None:
    law, lowest = row(variance, digit), family(variance).lowest
    exact = gaussian(variance, Fraction(digit, 256), lowest, 1 - lowest)
    assert sum(law.values()) == COIN * 128
    if digit in (0, 128):  # symmetric: see above
        assert sum(abs(law[k] - chance) for k, chance in whole_numbers(exact, COIN * 128).items()) <= 2
    else:
        assert law == whole_numbers(exact, COIN * 128)
    assert distance(law, exact) <= family(variance).distance < 2.0**-106


def test_neighbouring_digits_differ() -> None:
    means = [sum(k * chance for k, chance in row(Fraction(9), digit).items()) / COIN / 128 for digit in range(256)]
    assert means == pytest.approx(np.arange(256) / 256, abs=1e-12)


@given(
    st.integers(0, 6).flatmap(lambda bits: st.lists(st.integers(0, 2**140), max_size=2**bits).map(lambda x: (bits, x)))
)
def test_any_whole_numbers_are_spread_without_error(case: tuple[int, list[int]]) -> None:
    bits, weights = case
    columns = 1 << bits
    probabilities, _ = (
        table._rounded([*weights, 1], COIN * columns) if len(weights) < columns else ([COIN * columns], 0)
    )
    assert sum(probabilities) == COIN * columns
    thresholds, aliases = table._spread(probabilities, columns)
    assert all(0 <= threshold < COIN for threshold in thresholds)
    law = law_of((*table._halves(thresholds), np.array(aliases)), 0)
    assert law == {k: chance for k, chance in enumerate(probabilities) if chance}


@pytest.mark.parametrize("square", [Fraction(1, 4), Fraction(9), Fraction(10), Fraction(3.3) ** 2, Fraction(10**12, 7)])
def test_the_reach_is_twelve_deviations_rounded_up(square: Fraction) -> None:
    end = table.reach(square)
    assert (end - 1) ** 2 < 144 * square <= end**2


def test_a_family_too_wide_for_its_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="128 columns"):
        family(Fraction(36))
