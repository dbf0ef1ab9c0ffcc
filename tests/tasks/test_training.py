"""The optimiser: momentum, the average of the last weights, and a restart that changes nothing."""

import numpy as np
import pytest
import torch

from primum.study import Training
from primum.tasks.training import Optimiser


def sums(count: int, dimension: int = 5) -> np.ndarray:
    return np.random.default_rng(7).normal(size=(count, dimension))


@pytest.mark.parametrize(("share", "averaged"), [(0.5, 10), (1.0, 20), (0.667, 14), (0.01, 1)])
def test_the_result_is_the_mean_of_the_last_weights(share: float, averaged: int) -> None:
    optimiser = Optimiser.start(Training(rounds=20, average_last=share), np.zeros(5))
    seen = []
    for total in sums(20):
        optimiser.step(total)
        seen.append(optimiser.weights)
    assert optimiser.averaged == averaged
    assert np.allclose(optimiser.result, np.mean(seen[-averaged:], 0))


def test_before_averaging_the_result_is_the_last_weights() -> None:
    optimiser = Optimiser.start(Training(rounds=20, average_last=0.5), np.zeros(5))
    assert not optimiser.result.any()
    optimiser.step(sums(1)[0])
    assert np.array_equal(optimiser.result, optimiser.weights)


def test_a_restart_changes_nothing() -> None:
    settings = Training(rounds=20, average_last=0.8)
    whole, first = (Optimiser.start(settings, np.zeros(5)) for _ in range(2))
    for total in sums(20):
        whole.step(total)
    for total in sums(20)[:9]:
        first.step(total)
    second = Optimiser.start(settings, np.zeros(5))
    second.restore(first.state())
    for total in sums(20)[9:]:
        second.step(total)
    assert np.array_equal(second.result, whole.result)
    assert second.rounds == 20


def test_the_length_of_the_mean_gradient_is_returned() -> None:
    optimiser = Optimiser.start(Training(), np.zeros(2))
    assert optimiser.step(np.array([3.0, 4.0])) == pytest.approx(5.0)


def test_weights_do_not_print() -> None:
    assert "weights" not in repr(Optimiser.start(Training(), np.zeros(3)))


@pytest.mark.parametrize("schedule", ["constant", "cosine"])
@pytest.mark.parametrize("optimiser", ["momentum", "adam"])
def test_optimisers_and_schedules_are_those_of_torch(optimiser: str, schedule: str) -> None:
    settings = Training(
        rounds=20, learning_rate=0.1, momentum=0.8, optimiser=optimiser, schedule=schedule, average_last=0.01
    )
    first = np.linspace(-1, 1, 5)
    ours, theirs = Optimiser.start(settings, first), torch.tensor(first, requires_grad=True)
    if optimiser == "adam":
        judge: torch.optim.Optimizer = torch.optim.Adam([theirs], lr=0.1, betas=(0.8, 0.999))
    else:
        judge = torch.optim.SGD([theirs], lr=0.1, momentum=0.8)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(judge, 20)
    generator = np.random.default_rng(0)
    for _ in range(20):
        gradient = generator.normal(size=5)
        theirs.grad = torch.tensor(gradient)
        judge.step()
        if schedule == "cosine":
            falling.step()
        ours.step(gradient)
    assert ours.weights == pytest.approx(theirs.detach().numpy(), rel=1e-6)
    again = Optimiser.start(settings, np.zeros(5))
    again.restore(ours.state())
    assert np.array_equal(again.squares, ours.squares)
