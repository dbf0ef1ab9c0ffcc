"""`Clipper` at the edges: what it refuses, what does not change a result, what it leaves alone."""

import copy
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from primum.clipping import Clipper, product, single, timing
from primum.errors import ModelError


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def network() -> nn.Module:
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(24, 3)
    )


def batch(rows: int = 12) -> tuple[Tensor, Tensor]:
    torch.manual_seed(rows)
    return torch.randn(rows, 1, 8, 8), torch.randint(0, 3, (rows,))


def close(one: Tensor, other: Tensor) -> bool:
    return float((one - other).norm()) <= 1e-5 * float(other.norm())


def summed(model: nn.Module, inputs: Tensor, targets: Tensor, norm: float = 0.5, **settings: object) -> Tensor:
    clipper = Clipper(model, cross_entropy, norm, **settings)  # type: ignore[arg-type]
    clipper.add(inputs, targets)
    return clipper.take()


@pytest.mark.parametrize("rows", [1, 3, 5, 12, 100])
def test_physical_batches_change_nothing(rows: int) -> None:
    inputs, targets = batch()
    assert close(summed(network(), inputs, targets, rows=rows), summed(network(), inputs, targets, rows=12))


def test_more_batches_than_are_added_at_once() -> None:
    inputs, targets = batch(40)
    assert close(summed(network(), inputs, targets, rows=1), summed(network(), inputs, targets, rows=40))


def test_padding_changes_nothing() -> None:
    inputs, targets = batch(5)
    clipper = Clipper(network(), cross_entropy, 0.5)
    clipper.add(inputs, targets, padded_to=9)
    assert close(clipper.take(), summed(network(), inputs, targets))


def test_no_examples_are_zeros() -> None:
    inputs, targets = batch()
    clipper = Clipper(network(), cross_entropy, 0.5)
    clipper.add(inputs[:0], targets[:0])
    assert not clipper.take().any()
    clipper.add(inputs[:0], targets[:0], padded_to=4)
    assert not clipper.take().any()
    assert clipper.within == 0


def test_an_average_as_loss_is_taken_for_each_example() -> None:
    inputs, targets = batch()
    clipper = Clipper(network(), functional.cross_entropy, 0.5)
    clipper.add(inputs, targets)
    assert close(clipper.take(), summed(network(), inputs, targets))


def test_several_losses() -> None:
    class TwoHeads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 3), nn.Linear(4, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            x = torch.tanh(self.body(x))
            return self.one(x), self.two(x)

    def loss(outputs: tuple[Tensor, Tensor], targets: tuple[Tensor, Tensor]) -> Tensor:
        return cross_entropy(outputs[0], targets[0]) + (outputs[1][:, 0] - targets[1]).square()

    torch.manual_seed(0)
    model, inputs, targets = TwoHeads(), torch.randn(6, 4), (torch.randint(0, 3, (6,)), torch.randn(6))
    clipper = Clipper(model, loss, 1e6)
    clipper.add(inputs, targets)
    each = single.by_loop(model, lambda o, t: loss(o, t).sum(), (inputs,), targets)
    assert close(clipper.take(), torch.cat([value.sum(0).flatten() for value in each.values()]).double())


def test_units_are_clipped_once() -> None:
    """Three images of a patient: the sum of their gradients, not each of them."""
    inputs, targets = batch()
    clipper = Clipper(network(), cross_entropy, 0.01, images_per_unit=3)
    clipper.add(inputs[:3], targets[:3])
    assert float(clipper.take().norm()) <= 0.01


def test_weights_leave_places_empty() -> None:
    inputs, targets = batch(6)
    weights = torch.tensor([1.0, 1, 0, 1, 0, 0])
    clipper = Clipper(network(), cross_entropy, 1e6, images_per_unit=3)
    clipper.add(inputs, targets, weights)
    assert close(clipper.take(), summed(network(), inputs[[0, 1, 3]], targets[[0, 1, 3]], 1e6))


def test_rows_that_fill_no_unit() -> None:
    inputs, targets = batch(5)
    with pytest.raises(ModelError, match="5 rows are not a multiple of 2"):
        Clipper(network(), cross_entropy, 1.0, images_per_unit=2).add(inputs, targets)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_counts_as_zero(value: float) -> None:
    inputs, targets = batch()
    spoilt = inputs.clone()
    spoilt[4, 0, 2, 2] = value
    others = torch.arange(len(inputs)) != 4
    assert close(summed(network(), spoilt, targets), summed(network(), inputs[others], targets[others]))


def test_within_counts_what_was_not_clipped() -> None:
    inputs, targets = batch()
    clipper = Clipper(network(), cross_entropy, 1e6)
    clipper.add(inputs, targets)
    assert clipper.within == len(inputs)
    clipper.take()
    clipper.clipping_norm = 1e-9
    clipper.add(inputs, targets)
    assert clipper.within == 0


def test_the_model_stays_what_it_is() -> None:
    model, (inputs, targets) = network(), batch()
    before, kind = copy.deepcopy(model.state_dict()), type(model)
    summed(model, inputs, targets)
    assert type(model) is kind and list(model.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(value.grad is None for value in model.parameters())
    assert not any(module._forward_hooks or module._backward_hooks for module in model.modules())


def test_frozen_parameters_have_no_part() -> None:
    model, (inputs, targets) = network(), batch()
    model[0].requires_grad_(False)
    clipper = Clipper(model, cross_entropy, 0.5)
    assert clipper.dimension == 6 + 6 + 75
    clipper.add(inputs, targets)
    assert clipper.take().shape == (87,) and model[0].weight.grad is None


@pytest.mark.parametrize("noise", [True, False])
def test_what_a_frozen_parameter_has_left_moves_nothing(noise: bool) -> None:
    """Trained in clear, frozen, then given to an optimiser with the rest: its last gradient would be taken every step."""
    model, (inputs, targets) = network(), batch()
    cross_entropy(model(inputs), targets).mean().backward()
    model[0].requires_grad_(False)
    clipper, optimiser = Clipper(model, cross_entropy, 0.5), torch.optim.SGD(model.parameters(), 1.0)
    before = model[0].weight.clone()
    clipper.add(inputs, targets)
    if noise:
        clipper.write(clipper.take())
    else:
        clipper.write_without_noise(12)
    optimiser.step()
    assert torch.equal(model[0].weight, before)


def test_write_sets_gradients_for_any_optimiser() -> None:
    model, (inputs, targets) = network(), batch()
    clipper = Clipper(model, cross_entropy, 0.5)
    optimiser = torch.optim.AdamW(model.parameters())
    before = copy.deepcopy(model.state_dict())
    clipper.add(inputs, targets)
    clipper.write(clipper.take() / len(inputs))
    optimiser.step()
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_norm_that_is_none(norm: float) -> None:
    with pytest.raises(ModelError, match="clipping norm"):
        Clipper(network(), cross_entropy, norm)


def test_nothing_to_train() -> None:
    with pytest.raises(ModelError, match="No parameter"):
        Clipper(network().requires_grad_(False), cross_entropy, 1.0)


def test_batch_norm_is_refused_by_name() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
    with pytest.raises(ModelError, match="Layer 1 is batch normalisation"):
        Clipper(model, cross_entropy, 1.0)


def test_running_statistics_are_refused() -> None:
    with pytest.raises(ModelError, match="running statistics"):
        Clipper(nn.Sequential(nn.InstanceNorm2d(2, affine=True, track_running_stats=True)), cross_entropy, 1.0)


class Centred(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0, keepdim=True)


def test_a_layer_of_ones_own_that_mixes_examples_is_found() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Centred(), nn.Linear(4, 3))
    with pytest.raises(ModelError, match="changes with the other examples") as raised:
        summed(model, torch.randn(6, 4), torch.randint(0, 3, (6,)))
    assert "layer 1 (Centred)" in raised.value.hint


def test_functional_batch_norm_is_found() -> None:
    class Hidden(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return functional.batch_norm(self.layer(x), None, None, training=True)

    with pytest.raises(ModelError, match="changes with the other examples"):
        summed(Hidden(), torch.randn(6, 4), torch.randint(0, 3, (6,)))


@pytest.mark.parametrize("share", [1.0, 1e-6])
def test_a_parameter_in_the_loss_is_refused_however_small_its_part(share: float) -> None:
    """As with adapters that hide from hooks: the loss falls, the epsilon grows, and the gradients are wrong."""
    model = nn.Linear(4, 3)

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs, targets) + share * model.weight.square().sum()

    clipper = Clipper(model, loss, 1.0)
    for _ in range(2):  # and again, however often it is tried
        with pytest.raises(ModelError, match="The loss uses parameters by itself"):
            clipper.add(torch.randn(6, 4), torch.randint(0, 3, (6,)))


def test_a_loss_may_change_the_outputs_in_place() -> None:
    torch.manual_seed(4)
    model, inputs, targets = nn.Linear(4, 3), torch.randn(6, 4), torch.arange(6) % 3
    sums = []
    for loss in (lambda o, t: cross_entropy(o.mul_(0.5), t), lambda o, t: cross_entropy(o * 0.5, t)):
        clipper = Clipper(model, loss, 100.0)
        clipper.add(inputs, targets)
        sums.append(clipper.take())
    assert close(*sums)


def test_a_loss_may_take_slopes_of_the_outputs() -> None:
    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        values = cross_entropy(outputs, targets)
        (slopes,) = torch.autograd.grad(values.sum(), outputs, create_graph=True)
        return values + slopes.square().sum(1)

    torch.manual_seed(4)
    model, inputs, targets = nn.Linear(4, 3), torch.randn(6, 4), torch.arange(6) % 3
    clipper = Clipper(model, loss, 100.0)
    clipper.add(inputs, targets)
    each = single.by_loop(model, lambda o, t: loss(o, t).sum(), (inputs,), targets)
    assert close(clipper.take(), torch.cat([value.flatten(1).sum(0) for value in each.values()]))


class Mixing(nn.Module):
    """Layers about a function of a batch."""

    def __init__(self, mix: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.last, self.mix = nn.Linear(5, 4), nn.Linear(4, 3), mix

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(self.mix(self.first(inputs)))
        return outputs


MIXES: dict[str, Callable[[Tensor], Tensor]] = {
    "mean": lambda x: x - x.mean(0),
    "deviation": lambda x: (x - x.mean(0)) / x.std(0),
    "largest": lambda x: x / x.abs().max(),
    "neighbour": lambda x: x + 0.5 * x.roll(1, 0),
    "count": lambda x: x * len(x),
    "by chance": lambda x: 0.7 * x + 0.3 * x[torch.randperm(len(x))],
    "now and then": lambda x: x - x.mean(0) if torch.rand(()) < 0.5 else x,
}


@pytest.mark.parametrize("mix", MIXES.values(), ids=MIXES)
@pytest.mark.parametrize("rows", [[0], [0, 0], [0, 1, 2, 3, 4, 5], []], ids=["one", "equal", "six", "none, padded"])
def test_mixing_is_refused_whatever_the_first_batch_holds(mix: Callable[[Tensor], Tensor], rows: list[int]) -> None:
    """Equal examples have the mean of one: a first sample of a single example once opened the door to all that follow."""
    torch.manual_seed(3)
    clipper = Clipper(Mixing(mix), cross_entropy, 0.1)
    inputs, targets = torch.randn(6, 5), torch.randint(0, 3, (6,))
    with pytest.raises(ModelError, match="changes with the other examples"):
        clipper.add(inputs[rows], targets[rows], padded_to=0 if rows else 4)


@pytest.mark.parametrize("least", [3, 4, 9, 16])
def test_mixing_that_begins_with_larger_batches_is_refused_when_they_come(least: int) -> None:
    clipper = Clipper(Mixing(lambda x: x - x.mean(0) if len(x) >= least else x), cross_entropy, 0.1)
    inputs, targets = torch.randn(40, 5), torch.randint(0, 3, (40,))
    if least > 3:
        clipper.add(inputs[:2], targets[:2])
    with pytest.raises(ModelError, match="changes with the other examples"):
        clipper.add(inputs, targets)


@pytest.mark.parametrize("rows", [[0], [0, 0], [0, 1, 2, 3, 4, 5]], ids=["one", "equal", "six"])
def test_a_loss_that_mixes_is_refused_whatever_the_first_batch_holds(rows: list[int]) -> None:
    clipper = Clipper(nn.Linear(5, 3), lambda o, t: (o.sum(1) - o.sum(1).mean()).square(), 0.1)
    with pytest.raises(ModelError, match="depends on other examples"):
        clipper.add(torch.randn(6, 5)[rows], torch.zeros(6)[rows])


def test_a_model_that_draws_random_numbers_for_each_example_is_no_mixing() -> None:
    model = Mixing(lambda x: x + 0.1 * torch.randn_like(x))
    clipper = Clipper(model, cross_entropy, 0.1)
    before = torch.get_rng_state()
    clipper.add(torch.randn(6, 5, generator=torch.Generator().manual_seed(1)), torch.arange(6) % 3)
    assert 0 < float(clipper.take().norm()) <= 0.6
    assert not torch.equal(before, torch.get_rng_state()), "the step itself draws"


@pytest.mark.parametrize(
    ("add", "words"),
    [
        (lambda c, x, y: c.add(x, y[:4]), "6 examples, but targets hold 4 rows"),
        (lambda c, x, y: c.add(x, y, torch.ones(7)), "6 examples, but weights hold 7 rows"),
        (lambda c, x, y: c.add(x, y, counting=torch.tensor(1.0)), "6 examples, but counting hold a single number"),
        (lambda c, x, y: c.add((x, x[:2]), y), "6 examples, but inputs hold 2 rows"),
        (lambda c, x, y: c.add(x.numpy(), y), "The inputs hold no tensor"),
    ],
)
def test_what_has_not_one_row_an_example_is_refused(add: Callable[..., None], words: str) -> None:
    """Targets were once filled up with zeros: a private training on wrong labels, without a word."""
    clipper = Clipper(nn.Linear(5, 3), cross_entropy, 0.1)
    with pytest.raises(ModelError, match=words):
        add(clipper, torch.randn(6, 5), torch.arange(6) % 3)
    assert clipper.units == 0


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"clipping": "flat"}, r"It is Flat\(\), PerLayer\(\) or Automatic\(\)"),
        ({"images_per_unit": 0}, "images_per_unit is 0"),
        ({"images_per_unit": 1.5}, "images_per_unit is 1.5"),
        ({"rows": -1}, "rows is -1"),
        ({"precision": "float16"}, "It is one of float32, bfloat16"),
        ({"clipping_norm": "1"}, "The clipping norm is '1'"),
    ],
)
def test_wrong_settings_are_named_when_the_clipper_is_made(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ModelError, match=words):
        Clipper(nn.Linear(5, 3), cross_entropy, **{"clipping_norm": 0.1, **settings})


@pytest.mark.parametrize("trained", [True, False])
def test_what_is_trained_is_settled_when_the_clipper_is_made(trained: bool) -> None:
    model = nn.Sequential(nn.Linear(5, 4), nn.Linear(4, 3))
    model[0].requires_grad_(not trained)
    clipper = Clipper(model, cross_entropy, 0.1)
    clipper.add(torch.randn(6, 5), torch.arange(6) % 3)
    model[0].requires_grad_(trained)
    with pytest.raises(ModelError, match="Other parameters are trained"):
        clipper.add(torch.randn(6, 5), torch.arange(6) % 3)


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner, self.last = nn.Sequential(nn.Linear(5, 8), nn.Tanh()), nn.Linear(8, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.last(checkpoint(self.inner, inputs, use_reentrant=False))
        return outputs


def test_activation_checkpoints_go_the_slow_way() -> None:
    torch.manual_seed(4)
    model, inputs, targets = Checkpointed(), torch.randn(6, 5), torch.arange(6) % 3
    clipper = Clipper(model, cross_entropy, 100.0)
    clipper.add(inputs, targets)
    each = single.by_loop(model, lambda o, t: cross_entropy(o, t).sum(), (inputs,), targets)
    wanted = torch.cat([value.flatten(1) for value in each.values()], 1).sum(0)
    assert float((clipper.take() - wanted).norm()) < 1e-5 * float(wanted.norm())
    assert clipper.without_rule == "activation checkpoints"


class Scaled(torch.autograd.Function):
    """Data times a weight, in torch's old way: vmap cannot look into it."""

    @staticmethod
    def forward(ctx: Any, data: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(data, weight)
        return data * weight

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor, Tensor]:
        data, weight = ctx.saved_tensors
        return slope * weight, (slope * data).sum(0)


class Rounded(torch.autograd.Function):
    """A weight rounded to eighths, whose slope is handed through; vmap can look into it."""

    generate_vmap_rule = True

    @staticmethod
    def forward(weight: Tensor) -> Tensor:
        return (weight * 8).round() / 8

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Tensor:
        return slope


class OwnFunctions(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.last, self.kind = nn.Linear(5, 4), nn.Linear(4, 3), kind
        self.scale = nn.Parameter(torch.linspace(0.5, 2, 4))

    def forward(self, inputs: Tensor) -> Tensor:
        inner: Tensor = self.first(inputs).tanh()
        if "scaled" in self.kind:
            inner = Scaled.apply(inner, self.scale)  # type: ignore[no-untyped-call]
        weight = Rounded.apply(self.last.weight) if "rounded" in self.kind else self.last.weight  # type: ignore[no-untyped-call]
        if "by chance" in self.kind:
            inner = inner + 1e-7 * torch.randn_like(inner)
        return functional.linear(inner, weight, self.last.bias)


@pytest.mark.parametrize("kind", ["scaled", "rounded", "scaled and rounded", "scaled by chance", "rounded by chance"])
@pytest.mark.parametrize("norm", [0.3, 100.0])
def test_parameters_in_functions_of_ones_own_go_the_slow_way(kind: str, norm: float) -> None:
    """Torch does not tell of them: they had no part in the sum, and where a model draws numbers nobody noticed."""
    torch.manual_seed(4)
    model, inputs, targets = OwnFunctions(kind), torch.randn(6, 5), torch.arange(6) % 3
    clipper = Clipper(model, cross_entropy, norm)
    clipper.add(inputs, targets)
    each = single.by_loop(model, lambda o, t: cross_entropy(o, t).sum(), (inputs,), targets)
    rows = torch.cat([value.flatten(1) for value in each.values()], 1)
    wanted = ((norm * 0.999 / rows.norm(dim=1, keepdim=True)).clamp_max(1) * rows).sum(0)
    assert float((clipper.take() - wanted).norm()) < 1e-5 * float(wanted.norm())
    assert "autograd.Function" in (clipper.without_rule or "")


def test_a_loss_of_the_wrong_shape() -> None:
    clipper = Clipper(nn.Conv2d(1, 2, 3), lambda o, t: functional.cross_entropy(o, t, reduction="none"), 1.0)
    with pytest.raises(ModelError, match=r"values of shape \(2, 4, 4\) for 2 examples"):
        clipper.add(torch.randn(6, 1, 6, 6), torch.randint(0, 2, (6, 4, 4)))


def test_dropout_is_no_mixing() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.Linear(8, 3))
    clipper = Clipper(model, cross_entropy, 0.1)
    clipper.add(torch.randn(6, 8), torch.randint(0, 3, (6,)))
    assert 0 < float(clipper.take().norm()) <= 0.6 and clipper.without_rule is None


def test_bfloat16_keeps_the_bound() -> None:
    inputs, targets = batch()
    half = summed(network(), inputs, targets, 0.01, precision="bfloat16")
    full = summed(network(), inputs, targets, 0.01)
    assert float((half - full).norm()) < 0.1 * float(full.norm())
    clipper = Clipper(network(), cross_entropy, 0.01, precision="bfloat16")
    clipper.add(inputs[:1], targets[:1])
    assert float(clipper.take().norm()) <= 0.01


def test_double_precision_stays_double() -> None:
    inputs, targets = batch()
    double = Clipper(network().double(), cross_entropy, 0.5)
    double.add(inputs.double(), targets)
    each = single.by_loop(network().double(), lambda o, t: cross_entropy(o, t).sum(), (inputs.double(),), targets)
    flat = torch.cat([value.flatten(1) for value in each.values()], 1)
    wanted = (flat * (0.5 * 0.999 / flat.norm(dim=1, keepdim=True)).clamp_max(1)).sum(0)
    assert float((double.take() - wanted).norm()) < 1e-10


def test_a_network_on_a_frozen_backbone_costs_no_backbone_gradients() -> None:
    model, (inputs, targets) = network(), batch()
    model[0].requires_grad_(False)
    model[1].requires_grad_(False)
    each = single.by_loop(model, lambda o, t: cross_entropy(o, t).sum(), (inputs,), targets)
    assert set(each) == {"5.weight", "5.bias"}
    wanted = torch.cat([value.sum(0).flatten() for value in each.values()]).double()
    assert close(summed(model, inputs, targets, 1e6), wanted)


def test_memory_finds_a_batch_by_itself(caplog: pytest.LogCaptureFixture) -> None:
    inputs, targets = batch(8)
    with caplog.at_level(logging.WARNING):
        clipper = Clipper(network(), cross_entropy, 0.5)
        clipper.add(inputs, targets)
    assert clipper._rows is not None and clipper._rows >= 1 and not caplog.records


class Jitter(nn.Module):
    """Draws a random number for each example, as stochastic depth does."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 0.1 * torch.rand(len(x), 1))


def test_a_model_that_draws_random_numbers_is_clipped_too() -> None:
    model = nn.Sequential(nn.Linear(4, 4), Jitter(), nn.Linear(4, 3))
    clipper = Clipper(model, cross_entropy, 0.01)
    clipper.add(torch.randn(6, 4), torch.randint(0, 3, (6,)))
    assert 0.01 < float(clipper.take().norm()) <= 0.06


def test_looking_at_a_batch_leaves_the_random_numbers_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 3))
    inputs, targets, found = torch.randn(6, 4), torch.randint(0, 3, (6,)), []
    for _ in range(2):
        clipper = Clipper(model, cross_entropy, 0.1, rows=6)
        torch.manual_seed(7)
        clipper.add(inputs, targets)
        found.append(clipper.take())
    assert torch.equal(*found)


def test_samples_of_any_size_are_timed_together() -> None:
    model, clipper = network(), None
    clipper = Clipper(model, cross_entropy, 0.1, rows=64)
    inputs, targets = batch(32)
    clipper.add(inputs, targets)
    before = len(timing.known)
    for rows in range(17, 32):
        clipper.add(inputs[:rows], targets[:rows])
    assert len(timing.known) == before


def test_a_long_sequence_that_fits_nowhere_is_measured_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(5)
    model, inputs, targets = nn.Linear(5, 3), torch.randn(6, 7, 5), torch.randn(6)

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return (outputs.sum((1, 2)) - wanted).square()

    sums = []
    for allowance in (1 << 26, 1):
        monkeypatch.setattr(product, "ALLOWANCE", allowance)
        timing.known.clear()
        clipper = Clipper(model, loss, 1.0)
        clipper.add(inputs, targets)
        sums.append(clipper.take())
    assert close(sums[1], sums[0])


def test_a_label_that_is_not_finite_spoils_nobody_else() -> None:
    """Its loss is not finite whatever the image: only its own unit counts as zero."""
    torch.manual_seed(5)
    model, inputs, targets = nn.Linear(5, 1), torch.randn(6, 5), torch.randn(6)

    def loss(outputs: Tensor, wanted: Tensor) -> Tensor:
        return (outputs[:, 0] - wanted).square()

    sums = []
    for chosen in ([0, 1, 2, 3, 4, 5], [0, 1, 3, 4, 5]):
        spoilt = targets.clone()
        spoilt[2] = float("nan")
        clipper = Clipper(model, loss, 0.1)
        clipper.add(inputs[chosen], spoilt[chosen])
        assert clipper.units == len(chosen)
        sums.append(clipper.take())
    assert close(*sums) and bool(sums[0].any())


def test_where_memory_ends_pieces_get_smaller(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs, targets = batch(13)
    clipper, seen = Clipper(network(), cross_entropy, 0.5, rows=13), []
    whole = clipper._engine.gradients

    def small_machine(inputs: Any, targets: Any, weights: Tensor) -> Any:
        seen.append(len(weights))
        if len(weights) > 3:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        return whole(inputs, targets, weights)

    monkeypatch.setattr(clipper._engine, "gradients", small_machine)
    clipper.add(inputs, targets)
    assert seen == [13, 6, 3, 3, 3, 3, 1]
    assert close(clipper.take(), summed(network(), inputs, targets))
