"""The clipped sum: bounded per patient, summed and never averaged, equal to the slow loop over single examples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from primum.clipping import Clipper
from primum.clipping.factors import MARGIN
from primum.clipping.single import Loss
from primum.errors import ModelError

FEATURES = 12


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    return nn.functional.cross_entropy(logits, target)


def clipped_sum(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, norm: float, padded_to: int = 0
) -> Tensor:
    clipper = Clipper(model, loss, norm, rows=4096)
    clipper.add(inputs, targets, padded_to=padded_to)
    return clipper.take().double()


def network(seed: int, normalised: bool = False) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    middle: list[nn.Module] = [nn.GroupNorm(2, 8)] if normalised else []
    model = nn.Sequential(nn.Linear(FEATURES, 8), *middle, nn.Tanh(), nn.Linear(8, 3))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


def examples(count: int, seed: int, size: float = 1.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(count, FEATURES, generator=generator) * size
    return inputs, torch.randint(0, 3, (count,), generator=generator)


def one_by_one(model: nn.Module, inputs: Tensor, targets: Tensor, norm: float) -> Tensor:
    """The slow twin: backward for each example alone, clipped, added."""
    total = torch.zeros(sum(p.numel() for p in model.parameters()), dtype=torch.float64)
    for example, target in zip(inputs, targets, strict=True):
        model.zero_grad()
        cross_entropy(model(example[None]), target[None]).backward()
        gradient = torch.cat([p.grad.reshape(-1) for p in model.parameters() if p.grad is not None]).double()
        total += gradient * min(1.0, norm * (1 - MARGIN) / float(gradient.norm()))
    model.zero_grad()
    return total


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), count=st.integers(0, 9), norm=st.sampled_from([1e-3, 0.25, 1.0, 100.0]))
def test_clipped_sum_equals_the_slow_loop_over_single_examples(seed: int, count: int, norm: float) -> None:
    model = network(seed, normalised=seed % 2 == 0)
    inputs, targets = examples(count, seed + 1)
    fast, slow = clipped_sum(model, cross_entropy, inputs, targets, norm), one_by_one(model, inputs, targets, norm)
    assert fast.dtype == torch.float64
    assert float((fast - slow).norm()) <= 1e-5 * (1e-3 + norm * count)


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31), size=st.sampled_from([1e-6, 1e-3, 1.0, 1e3, 1e6, 1e12, 1e30]))
def test_removing_one_patient_changes_the_clipped_sum_by_at_most_c(seed: int, size: float) -> None:
    """Over tiny, ordinary and overflowing gradients: the computed sum has the sensitivity, not only the formula."""
    model, norm = network(seed), 0.25
    inputs, targets = examples(6, seed + 1)
    inputs[2] *= size
    with_patient = clipped_sum(model, cross_entropy, inputs, targets, norm)
    kept = torch.arange(6) != 2
    without = clipped_sum(model, cross_entropy, inputs[kept], targets[kept], norm)
    assert torch.isfinite(with_patient).all()
    assert float((with_patient - without).norm()) <= norm


def test_removing_one_patient_from_many_in_float32_worst_cases() -> None:
    """Ten thousand coordinates of one size, norms just above and below C, 500 patients, each removed once."""
    model = nn.Linear(10_000, 1, bias=False)
    with torch.no_grad():
        model.weight.zero_()
    norm, count = 0.1, 500
    generator = torch.Generator().manual_seed(5)
    signs = torch.randint(0, 2, (count, 10_000), generator=generator) * 2.0 - 1
    inputs = signs * torch.linspace(0.999, 1.001, count)[:, None] * norm / 100

    def linear(outputs: Tensor, target: Tensor) -> Tensor:
        return outputs.sum()

    targets = torch.zeros(count, dtype=torch.int64)
    whole = clipped_sum(model, linear, inputs, targets, norm)
    for gone in range(0, count, 25):
        kept = torch.arange(count) != gone
        without = clipped_sum(model, linear, inputs[kept], targets[kept], norm)
        assert float((whole - without).norm()) <= norm


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_gradient_that_is_not_finite_counts_as_zero(bad: float) -> None:
    model = network(1)
    inputs, targets = examples(4, 2)
    inputs[3, 0] = bad
    whole = clipped_sum(model, cross_entropy, inputs, targets, 1.0)
    assert torch.allclose(whole, clipped_sum(model, cross_entropy, inputs[:3], targets[:3], 1.0), atol=1e-6)


def test_the_sum_never_depends_on_batch_size() -> None:
    """Twice the patients, twice the sum: nothing divides by how many came, so noise and sum keep their ratio."""
    model = network(3)
    inputs, targets = examples(7, 4)
    once = clipped_sum(model, cross_entropy, inputs, targets, 0.5)
    twice = clipped_sum(model, cross_entropy, inputs.repeat(2, 1), targets.repeat(2), 0.5)
    assert torch.allclose(twice, 2 * once, rtol=1e-5, atol=1e-7)
    parts = sum(clipped_sum(model, cross_entropy, inputs[i : i + 1], targets[i : i + 1], 0.5) for i in range(7))
    assert torch.allclose(once, torch.as_tensor(parts), rtol=1e-5, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(count=st.integers(0, 5), padded=st.integers(0, 12))
def test_padding_changes_nothing(count: int, padded: int) -> None:
    model = network(3)
    inputs, targets = examples(count, 4)
    plain = clipped_sum(model, cross_entropy, inputs, targets, 0.5)
    assert torch.allclose(plain, clipped_sum(model, cross_entropy, inputs, targets, 0.5, padded), atol=1e-6)


def test_an_empty_batch_works() -> None:
    model = network(3)
    for padded in (0, 5):
        total = clipped_sum(
            model, cross_entropy, torch.zeros(0, FEATURES), torch.zeros(0, dtype=torch.int64), 1, padded
        )
        assert total.shape == (sum(value.numel() for value in model.parameters()),)
        assert not total.any()


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.SyncBatchNorm(8)])
def test_batch_norm_is_refused_by_name(layer: nn.Module) -> None:
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.Sequential(layer), nn.Linear(8, 3))
    with pytest.raises(ModelError, match=r"1\.0.*batch normalisation.*group normalisation"):
        clipped_sum(model, cross_entropy, *examples(3, 1), 1.0)
