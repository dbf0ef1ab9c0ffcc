"""The clipping norm finds the quantile through noise, and costs the noise that it says."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.dp.quantile import QuantileNorm
from primum.errors import InputError

NORM = QuantileNorm(1.0)


@pytest.mark.parametrize("quantile", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("start", [0.05, 60.0])
def test_it_converges_to_the_quantile_through_noise(quantile: float, start: float) -> None:
    """1000 units with log-normal norms, a tenth of them a step, noise of multiplier 1: sigma of b is 0.05."""
    random = np.random.default_rng(7)
    norms = np.exp(random.normal(0.7, 0.6, 1000))
    rule = QuantileNorm(start, quantile)
    norm, last = rule.start, []
    for step in range(400):
        drawn = norms[random.random(1000) < 0.1]
        coordinate = rule.coordinate(norm, int((drawn <= norm).sum()), len(drawn))
        norm = rule.next(norm, coordinate + random.normal() * rule.sensitivity(norm), 100.0)
        if step >= 200:
            last.append((norms <= norm).mean())
    assert rule.share_sigma(1.0, 100.0) == pytest.approx(0.0502, abs=1e-4)
    assert np.mean(last) == pytest.approx(quantile, abs=0.03)


@given(
    norm=st.floats(1e-3, 1e3),
    kappa=st.floats(0.01, 1.0),
    length=st.floats(0.0, 50.0),
    count=st.tuples(st.integers(0, 30), st.integers(0, 30)).map(sorted),
)
def test_no_unit_moves_sum_and_coordinate_further_than_the_sensitivity(
    norm: float, kappa: float, length: float, count: list[int]
) -> None:
    rule = QuantileNorm(1.0, kappa=kappa)
    inside = length <= norm
    without = rule.coordinate(norm, count[0], count[1])
    with_ = rule.coordinate(norm, count[0] + inside, count[1] + 1)
    moved = math.hypot(min(length, norm), with_ - without)
    assert moved <= rule.sensitivity(norm) * (1 + 1e-9)
    assert abs(with_ - without) == pytest.approx(kappa * norm, rel=1e-6)


@given(sigma=st.floats(0.3, 20), kappa=st.floats(0.01, 1.0))
def test_the_cost_is_that_of_the_papers_theorem(sigma: float, kappa: float) -> None:
    """Andrew et al. 2021, theorem 1: z_Delta = (z^-2 - (2 sigma_b)^-2)^(-1/2), sigma_b the noise of the count."""
    rule = QuantileNorm(1.0, kappa=kappa)
    of_the_count = sigma * rule.sensitivity(1.0) / (2 * kappa)
    assert (sigma**-2 - (2 * of_the_count) ** -2) ** -0.5 == pytest.approx(sigma * rule.cost, rel=1e-6)
    assert rule.share_sigma(sigma, 50.0) == pytest.approx(of_the_count / 50)


def test_at_the_usual_kappa_it_costs_half_a_percent_of_noise() -> None:
    assert pytest.approx(1.005, abs=1e-4) == NORM.cost


def test_without_noise_the_coordinate_says_the_share() -> None:
    assert NORM.next(2.0, NORM.coordinate(2.0, 25, 50), 50.0) == pytest.approx(2.0)  # half: where it should be
    assert NORM.next(2.0, NORM.coordinate(2.0, 50, 50), 50.0) == pytest.approx(2.0 * math.exp(-0.1))
    assert NORM.next(2.0, NORM.coordinate(2.0, 0, 50), 50.0) == pytest.approx(2.0 * math.exp(0.1))
    assert NORM.coordinate(2.0, 0, 0) == 0  # an empty sample says nothing
    assert NORM.next(2.0, 0.0, 50.0) == pytest.approx(2.0)


@given(st.floats(1e-3, 1e3), st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2))
def test_more_unclipped_units_never_raise_the_norm_and_it_stays_within_its_bounds(
    norm: float, coordinates: list[float]
) -> None:
    rule = QuantileNorm(1.0, least=1e-3, most=1e3)
    low, high = sorted(coordinates)
    after = [rule.next(norm, coordinate, 10.0) for coordinate in (low, high)]
    assert 1e-3 <= after[1] <= after[0] <= 1e3


@pytest.mark.parametrize(
    "wrong",
    [
        {"start": 0.0},
        {"start": 1e9},
        {"start": math.nan},
        {"quantile": 1.0},
        {"rate": 0.0},
        {"kappa": 0.0},
        {"kappa": 1.5},
    ],
    ids=str,
)
def test_wrong_settings_are_refused_by_name(wrong: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(wrong))):
        QuantileNorm(**{"start": 1.0, **wrong})


def test_impossible_values_are_refused() -> None:
    with pytest.raises(ValueError, match="cannot be"):
        NORM.coordinate(1.0, 3, 2)
    with pytest.raises(ValueError, match="not a finite number"):
        NORM.next(1.0, math.nan, 10.0)


def test_the_norm_survives_json_and_belongs_to_its_settings() -> None:
    saved = json.loads(json.dumps(NORM.state(0.37)))
    assert NORM.restore(saved) == 0.37
    with pytest.raises(InputError, match=r"saved norm has kappa = 0\.1, this study 0\.2"):
        QuantileNorm(1.0, kappa=0.2).restore(saved)
    for wrong in (None, "1", -1.0, math.nan, 1e9):
        with pytest.raises(InputError, match="saved norm is"):
            NORM.restore({**saved, "norm": wrong})
