"""A private step in a plain loop: noise at its scale, once for each charged draw, divided by what is public."""

import copy
import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from primum.dp import Accountant, Budget, Clipper, PatientSampler, PoissonSampler, QuantileNorm, privatize
from primum.errors import BudgetError, InputError

IMAGES = 300


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(outputs[:, 0], targets, reduction="none")


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(20, 16), nn.Tanh(), nn.Linear(16, 1))


def data() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    images = torch.randn(IMAGES, 20)
    return images, (images[:, :5].sum(1) > 0).float()


def accountant(network: nn.Module, steps: int = 40, sampling: float = 0.2, extra: int = 0, **more: float) -> Accountant:
    dimension = sum(value.numel() for value in network.parameters()) + extra
    return Accountant(Budget(8.0, 1e-5), sampling=sampling, steps=steps, dimension=dimension, **more)  # type: ignore[arg-type]


def gradient(network: nn.Module) -> Tensor:
    return torch.cat([value.grad.reshape(-1) for value in network.parameters() if value.grad is not None])


def test_noise_is_accepted_at_its_scale_and_rejected_at_two_thirds_and_three_halves() -> None:
    network, (images, labels) = model(), data()
    clipper, account = Clipper(network, loss, 0.7), accountant(network, sampling=1.0, steps=20)
    sampler, steps = PoissonSampler(IMAGES, account), []
    clipper.add(images, labels)
    truth = clipper.take() / IMAGES
    for chosen in sampler:
        clipper.add(images[chosen], labels[chosen])
        privatize(clipper, sampler)
        steps.append(gradient(network).double() - truth)
    noise = torch.stack(steps).numpy()
    width = account.noise_multiplier * 0.7 / IMAGES
    for factor, accepted in ((1.0, True), (2 / 3, False), (3 / 2, False)):
        statistic = float((noise**2).sum()) / (factor * width) ** 2
        tail = min(stats.chi2.cdf(statistic, noise.size), stats.chi2.sf(statistic, noise.size))
        assert bool(2 * tail > 1e-6) is accepted
    assert len({row.tobytes() for row in noise}) == len(noise)


def test_an_empty_sample_is_a_step_of_noise_alone() -> None:
    network, (images, labels) = model(), data()
    clipper, sampler = Clipper(network, loss, 1.0), PoissonSampler(IMAGES, accountant(network))
    next(iter(sampler))
    clipper.add(images[:0], labels[:0])
    privatize(clipper, sampler)
    width = sampler.accountant.noise_multiplier / sampler.expected_batch
    assert float(gradient(network).std()) == pytest.approx(width, rel=0.2)


def test_a_step_is_released_once_and_never_without_a_draw() -> None:
    network, (images, labels) = model(), data()
    clipper, sampler = Clipper(network, loss, 1.0), PoissonSampler(IMAGES, accountant(network, sampling=1.0))
    clipper.add(images, labels)
    with pytest.raises(BudgetError, match="second noisy sum"):
        privatize(clipper, sampler)
    next(iter(sampler))
    privatize(clipper, sampler)
    clipper.add(images, labels)
    with pytest.raises(BudgetError, match="second noisy sum"):
        privatize(clipper, sampler)
    assert clipper.units == IMAGES  # nothing was taken


def test_an_accountant_of_fewer_coordinates_is_refused() -> None:
    network = model()
    sampler = PoissonSampler(IMAGES, Accountant(Budget(8.0, 1e-5), sampling=0.2, steps=40, dimension=10))
    next(iter(sampler))
    with pytest.raises(InputError, match="10 coordinates, a step releases 353"):
        privatize(Clipper(network, loss, 1.0), sampler)


def test_training_learns_and_stops_at_the_budget() -> None:
    network, (images, labels) = model(), data()
    account = accountant(network)
    clipper, sampler = Clipper(network, loss, 1.0), PoissonSampler(IMAGES, account)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for chosen in sampler:
        clipper.add(images[chosen], labels[chosen])
        privatize(clipper, sampler)
        optimiser.step()
    assert account.left == 0 and account.epsilon() <= 8.0
    assert float(((network(images)[:, 0] > 0) == (labels > 0.5)).float().mean()) > 0.8
    with pytest.raises(BudgetError):
        account.charge()


def test_a_thousand_times_the_noise_destroys_what_is_learned() -> None:
    network, (images, labels) = model(), data()
    account = accountant(network, noise_multiplier=1000.0)
    clipper, sampler = Clipper(network, loss, 1.0), PoissonSampler(IMAGES, account)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    for chosen in sampler:
        clipper.add(images[chosen], labels[chosen])
        privatize(clipper, sampler)
        optimiser.step()
    assert float(torch.cat([value.detach().reshape(-1) for value in network.parameters()]).abs().mean()) > 10


def test_without_privacy_it_is_the_clipped_mean() -> None:
    network, (images, labels) = model(), data()
    dimension = sum(value.numel() for value in network.parameters())
    account = Accountant(Budget(math.inf, 1e-5), sampling=1.0, steps=2, dimension=dimension)
    clipper, sampler = Clipper(network, loss, 0.5), PoissonSampler(IMAGES, account)
    clipper.add(images, labels)
    truth = clipper.take() / IMAGES
    next(iter(sampler))
    clipper.add(images, labels)
    privatize(clipper, sampler)
    assert torch.allclose(gradient(network), truth, rtol=1e-5, atol=1e-9)


def test_physical_batches_get_one_noise() -> None:
    """However a logical batch is cut up, the noise is that of one step."""
    network, (images, labels) = model(), data()
    for pieces in (1, 30):
        account = accountant(network, sampling=1.0, steps=20)
        clipper, sampler = Clipper(network, loss, 1.0), PoissonSampler(IMAGES, account)
        clipper.add(images, labels)
        truth, squares = clipper.take() / IMAGES, []
        for _ in sampler:
            for some, targets in zip(images.chunk(pieces), labels.chunk(pieces), strict=True):
                clipper.add(some, targets)
            privatize(clipper, sampler)
            squares.append(float((gradient(network) - truth).square().mean()))
        assert np.mean(squares) ** 0.5 == pytest.approx(account.noise_multiplier / IMAGES, rel=0.1)


def test_the_norm_follows_a_quantile() -> None:
    network, (images, labels) = model(), data()
    clipper = Clipper(network, loss, 50.0)
    sampler = PoissonSampler(IMAGES, accountant(network, steps=60, sampling=0.5, extra=1))
    quantile = QuantileNorm(start=50.0, quantile=0.5, rate=0.5)
    for chosen in sampler:
        clipper.add(images[chosen], labels[chosen])
        privatize(clipper, sampler, quantile)
    clipper.add(images, labels)
    assert 0.3 < clipper.within / IMAGES < 0.7


def test_patients_with_several_images() -> None:
    network, (images, labels) = model(), data()
    patients = [str(number // 3) for number in range(IMAGES)]
    account = accountant(network, steps=5)
    clipper = Clipper(network, loss, 1.0, images_per_unit=2)
    sampler = PatientSampler(patients, account, images_per_patient=2)
    before = copy.deepcopy(network.state_dict())
    for sample in sampler:
        rows, weights = sample.placed(2)
        clipper.add(images[rows], labels[rows], torch.from_numpy(weights))
        privatize(clipper, sampler)
    assert clipper.units == 0 and all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert gradient(network).isfinite().all()


def test_rows_that_are_put_together_without_the_sampler_are_refused() -> None:
    """Images of an image sampler, two a unit: one image more would move all pairs behind it."""
    network, (images, labels) = model(), data()
    clipper = Clipper(network, loss, 1.0, images_per_unit=2)
    sampler = PoissonSampler(IMAGES, accountant(network, steps=5))
    with pytest.raises(BudgetError, match="fewer units than were drawn"):
        for chosen in sampler:
            even = chosen[: len(chosen) // 2 * 2]
            clipper.add(images[even], labels[even])
            privatize(clipper, sampler)


def test_a_quantile_norm_that_begins_elsewhere_is_refused() -> None:
    network, (images, labels) = model(), data()
    clipper = Clipper(network, loss, 1.0)
    sampler = PoissonSampler(IMAGES, accountant(network, steps=5, extra=1))
    chosen = next(iter(sampler))
    clipper.add(images[chosen], labels[chosen])
    with pytest.raises(InputError, match="The clipper's norm is 1, the quantile norm begins at 7"):
        privatize(clipper, sampler, QuantileNorm(7.0))
