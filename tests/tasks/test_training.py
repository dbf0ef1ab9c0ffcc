"""The optimiser: momentum, the average of the last weights, and a restart that changes nothing."""

import numpy as np
import pytest
import torch

from primum.study import Training
from primum.tasks.training import Optimiser


def sums(count: int, dimension: int = 5) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, dimension))


def test_momentum_equals_that_of_pytorch() -> None:
    settings = Training(rounds=30, learning_rate=0.3, momentum=0.9)
    ours = Optimiser.start(settings, 5)
    weight = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    theirs = torch.optim.SGD([weight], lr=0.3, momentum=0.9)
    for total in sums(30):
        ours.step(total)
        weight.grad = torch.from_numpy(total)
        theirs.step()
    assert np.allclose(ours.weights, weight.detach().numpy(), rtol=1e-12)


@pytest.mark.parametrize(("share", "averaged"), [(0.5, 10), (1.0, 20), (0.667, 14), (0.01, 1)])
def test_the_result_is_the_mean_of_the_last_weights(share: float, averaged: int) -> None:
    optimiser = Optimiser.start(Training(rounds=20, average_last=share), 5)
    seen = []
    for total in sums(20):
        optimiser.step(total)
        seen.append(optimiser.weights)
    assert optimiser.averaged == averaged
    assert np.allclose(optimiser.result, np.mean(seen[-averaged:], 0))


def test_before_averaging_the_result_is_the_last_weights() -> None:
    optimiser = Optimiser.start(Training(rounds=20, average_last=0.5), 5)
    assert not optimiser.result.any()
    optimiser.step(sums(1)[0])
    assert np.array_equal(optimiser.result, optimiser.weights)


def test_a_restart_changes_nothing() -> None:
    settings = Training(rounds=20, average_last=0.8)
    whole, first = (Optimiser.start(settings, 5) for _ in range(2))
    for total in sums(20):
        whole.step(total)
    for total in sums(20)[:9]:
        first.step(total)
    second = Optimiser.start(settings, 5)
    second.restore(first.state())
    for total in sums(20)[9:]:
        second.step(total)
    assert np.array_equal(second.result, whole.result)
    assert second.rounds == 20


def test_the_length_of_the_mean_gradient_is_returned() -> None:
    optimiser = Optimiser.start(Training(), 2)
    assert optimiser.step(np.array([3.0, 4.0])) == pytest.approx(5.0)


def test_weights_do_not_print() -> None:
    assert "weights" not in repr(Optimiser.start(Training(), 3))
