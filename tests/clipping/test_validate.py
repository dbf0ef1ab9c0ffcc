"""What stands in the way of private training is found before it starts, by name, with what to use instead."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, spectral_norm

from primum.clipping import Clipper
from primum.clipping.validate import Finding, validate
from primum.errors import ModelError


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(2)


def images(count: int = 4) -> Tensor:
    return torch.randn(count, 3, 8, 8)


def found(model: nn.Module, inputs: Tensor | None = None) -> list[tuple[str, str, str]]:
    return [(finding.layer, finding.kind, finding.matter) for finding in validate(model, inputs)]


def test_nothing_is_found_in_a_private_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(True), nn.Flatten(), nn.LayerNorm(288))
    assert validate(model) == validate(model, images()) == []


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (nn.BatchNorm2d(3), "batch normalisation"),
        (nn.BatchNorm2d(3, track_running_stats=False).eval(), "batch normalisation"),
        (nn.SyncBatchNorm(3), "batch normalisation over several machines"),
        (nn.InstanceNorm2d(3, track_running_stats=True), "instance normalisation with running statistics"),
    ],
)
def test_what_mixes_by_kind(layer: nn.Module, kind: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), layer)
    layer.training = layer.training and True
    (finding,) = validate(model)
    assert (finding.layer, finding.kind, finding.matter) == ("1", kind, "privacy")
    assert "convert" in finding.instead
    assert validate(model, images()) == [finding]
    with pytest.raises(ModelError) as caught:
        Clipper(model, lambda outputs, targets: outputs.flatten(1).sum(1), 1.0)
    assert caught.value.message == f"Layer 1 is {kind}: {finding.problem}"
    assert caught.value.hint == finding.instead


def test_frozen_batch_norm_and_plain_instance_norm_pass() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.InstanceNorm2d(4)).eval()
    assert validate(model, images()) == []


@pytest.mark.parametrize("norm", [parametrizations.spectral_norm, spectral_norm])
def test_a_power_iteration_that_goes_on(norm: object) -> None:
    model = nn.Sequential(norm(nn.Conv2d(3, 4, 3)))  # type: ignore[operator]
    (finding,) = validate(model)
    assert (finding.kind, finding.matter, finding.refused) == ("spectral normalisation", "repeatable", True)
    with pytest.raises(ModelError, match=r"spectral normalisation.*eval\(\)"):
        Clipper(model, lambda outputs, targets: outputs.flatten(1).sum(1), 1.0)
    assert not [finding for finding in validate(model.eval(), images()) if finding.refused]
    Clipper(model, lambda outputs, targets: outputs.flatten(1).sum(1), 1.0).add(images(), torch.zeros(4))


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0)


class CentredWithin(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x - x.mean(0))


def test_what_mixes_without_a_name_is_found_by_trying() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Centred())
    assert found(model) == []
    assert found(model, images()) == [("1", "Centred", "privacy")]
    assert found(CentredWithin(), images())[0][2] == "privacy"


@pytest.mark.parametrize(("groups", "erased"), [(4, True), (2, True), (1, False)])
def test_group_norm_of_single_values_erases_data(groups: int, erased: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 8), nn.GroupNorm(groups, 4), nn.Flatten(), nn.Linear(4, 2))
    assert found(model) == []
    assert found(model, images()) == ([("1", "GroupNorm", "accuracy")] if erased else [])
    if groups == 4:
        assert model[:2](images()).abs().max() < 1e-3  # it does
        with pytest.raises(ModelError, match="a single value in each group"):
            Clipper(model, lambda outputs, targets: outputs.sum(1), 1.0).add(images(), torch.zeros(4))


def test_a_group_of_one_channel_with_many_places_is_well() -> None:
    assert validate(nn.Sequential(nn.GroupNorm(3, 3), nn.Conv2d(3, 4, 3)), images()) == []


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.inner = nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.inner(x.flatten(1, 2))
        return self.attention(x, x, x, need_weights=False)[0]


def test_layers_without_a_fast_rule_are_named_but_not_refused() -> None:
    model = Attending()
    for inputs in (None, images()):
        (finding,) = validate(model, inputs)
        assert (finding.layer, finding.kind, finding.matter) == ("attention", "MultiheadAttention", "speed")
        assert not finding.refused
    model.attention.requires_grad_(False)
    assert validate(model) == []


class Cubed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, data: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(data)
        return data**3 * weight

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[None, Tensor]:
        (data,) = ctx.saved_tensors
        return None, (slope * data**3).sum()


class Cube(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, data: Tensor) -> Tensor:
        return Cubed.apply(data, self.weight)  # type: ignore[no-untyped-call,no-any-return]


def test_a_function_of_ones_own_is_named_but_not_refused() -> None:
    (finding,) = validate(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), Cube()), images())
    assert (finding.layer, finding.kind, finding.matter) == ("2", "Cube", "speed")
    assert "weight in an autograd.Function of the model's own" in finding.problem and not finding.refused


def test_the_model_stays_as_it_is() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(), nn.ReLU(True))
    state, inputs = copy.deepcopy(model.state_dict()), images()
    kept, before = inputs.clone(), torch.get_rng_state()
    validate(model, inputs)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert torch.equal(inputs, kept)
    assert torch.equal(before, torch.get_rng_state())
    assert not model[0]._forward_pre_hooks


def test_too_few_rows_and_how_a_finding_reads() -> None:
    with pytest.raises(ValueError, match="at least 3"):
        validate(nn.Linear(2, 2), torch.ones(2, 2))
    assert str(Finding("a", "b", "It mixes.", "Use c.")) == "a (b): It mixes. Use c."
