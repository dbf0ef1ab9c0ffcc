"""The privacy losses of one step over a Poisson sample with Gaussian noise, on a grid that never says too little.

dp_accounting composes them and reads epsilon off; it also makes them, point by point, which takes a quarter of a second.
Here all points are computed at once, by the same formulas:

| neighbour | larger law against smaller | loss at x | delta(e) |
|---|---|---|---|
| one more, removed | (1-q) N(0) + q N(1) against N(0) | log(1 - q + q exp((2x - 1) / 2 s^2)) | (1 - q - exp(e)) P(z > x/s) + q P(z > (x-1)/s) |
| one less, added | N(0) against (1-q) N(0) + q N(1) | minus that | P(z < x/s) (1 - (1-q) exp(e)) - q exp(e) P(z < (x-1)/s) |

with the x whose loss is e, and z standard normal. Source: Doroshenko et al., "Connect the dots", PoPETs 2022, algorithm 1.
"""

import math
from functools import lru_cache
from typing import Final

import numpy as np
import numpy.typing as npt
from dp_accounting import NeighboringRelation
from dp_accounting.pld import pld_pmf, privacy_loss_distribution
from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from scipy.special import log_ndtr, ndtr

Reals = npt.NDArray[np.float64]
_KEPT: Final = 16


@lru_cache(maxsize=_KEPT)
def one_step(q: float, sigma: float, replace: bool, interval: float) -> PrivacyLossDistribution:
    """Of one step with sampling probability q below 1 and noise multiplier sigma; pessimistic on a grid of `interval`.

    The last ones are kept: a study asks for many numbers of steps of one kind.
    """
    if replace:
        return privacy_loss_distribution.from_gaussian_mechanism(
            sigma,
            value_discretization_interval=interval,
            sampling_prob=q,
            neighboring_relation=NeighboringRelation.REPLACE_ONE,
        )
    removed, added = (_on_grid(q, sigma, kind, interval) for kind in (AdjacencyType.REMOVE, AdjacencyType.ADD))
    return PrivacyLossDistribution(removed, added)


def _on_grid(q: float, sigma: float, kind: AdjacencyType, interval: float) -> pld_pmf.PLDPmf:
    bounds = GaussianPrivacyLoss(sigma, sampling_prob=q, adjacency_type=kind).connect_dots_bounds()
    low, high = math.floor(bounds.epsilon_lower / interval), math.ceil(bounds.epsilon_upper / interval)
    losses = np.arange(low, high + 1) * interval
    deltas = removed_delta(q, sigma, losses) if kind is AdjacencyType.REMOVE else added_delta(q, sigma, losses)
    return pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap(interval, low, high, deltas)


def removed_delta(q: float, sigma: float, losses: Reals) -> Reals:
    """The smallest delta at each epsilon in `losses` where a unit is removed; float64, the same shape."""
    deltas = -np.expm1(losses)
    there = losses > math.log1p(-q)
    e = losses[there]
    x = _place(q, sigma, e)
    far, near = ndtr(-x / sigma), ndtr((1 - x) / sigma)
    deltas[there] = (1 - q) * far + q * near - np.exp(e + log_ndtr(-x / sigma))
    return np.clip(deltas, 0, 1)


def added_delta(q: float, sigma: float, losses: Reals) -> Reals:
    """The same where a unit is added."""
    deltas = np.zeros_like(losses)
    there = losses < -math.log1p(-q)
    e = losses[there]
    x = _place(q, sigma, -e)
    smaller = np.logaddexp(math.log1p(-q) + log_ndtr(x / sigma), math.log(q) + log_ndtr((x - 1) / sigma))
    deltas[there] = ndtr(x / sigma) - np.exp(e + smaller)
    return np.clip(deltas, 0, 1)


def _place(q: float, sigma: float, loss: Reals) -> Reals:
    """x with log(1 - q + q exp((2x - 1) / 2 sigma^2)) = loss."""
    with np.errstate(divide="ignore"):  # a loss of log(1 - q) is nowhere: x = -infinity
        return sigma**2 * np.log1p(np.expm1(loss) / q) + 0.5
