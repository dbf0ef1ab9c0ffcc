"""Privacy losses of one step, all at once, against dp_accounting's point by point."""

import dp_accounting
import numpy as np
import pytest
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from hypothesis import given
from hypothesis import strategies as st

from primum.dp import account
from primum.dp.account import Steps
from primum.dp.losses import added_delta, removed_delta

Q, SIGMA = st.floats(1e-4, 0.999), st.floats(0.3, 50)


@given(q=Q, sigma=SIGMA, scale=st.floats(1e-3, 10))
def test_deltas_are_those_of_dp_accounting(q: float, sigma: float, scale: float) -> None:
    losses = np.linspace(-3, 3, 25) * scale
    for kind, ours in ((AdjacencyType.REMOVE, removed_delta), (AdjacencyType.ADD, added_delta)):
        edge = np.log1p(-q) if kind is AdjacencyType.REMOVE else -np.log1p(-q)
        asked = losses[np.abs(losses - edge) > 1e-6]  # at the edge itself it refuses some
        theirs = GaussianPrivacyLoss(sigma, sampling_prob=q, adjacency_type=kind).get_delta_for_epsilon(asked)
        assert np.allclose(ours(q, sigma, asked), theirs, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize(
    ("steps", "delta"), [(Steps(60, 0.5, 4.1), 1e-3), (Steps(300, 0.02, 1.0), 1e-5), (Steps(1, 0.9, 0.8), 1e-9)]
)
@pytest.mark.parametrize("replace", [False, True])
def test_epsilon_is_that_of_its_accountant(steps: Steps, delta: float, replace: bool) -> None:
    relation = dp_accounting.NeighboringRelation
    accountant = PLDAccountant(
        relation.REPLACE_ONE if replace else relation.ADD_OR_REMOVE_ONE, value_discretization_interval=1e-3
    )
    accountant.compose(account.event(steps))
    ours = account.epsilon(steps, delta, replace, interval=1e-3)
    assert ours == pytest.approx(accountant.get_epsilon(delta), rel=1e-7)
