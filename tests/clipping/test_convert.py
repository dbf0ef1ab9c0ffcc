"""The model surgeon: pretrained networks with batch norm become trainable under privacy; weights and outputs kept."""

import copy
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from primum.clipping import Clipper, single
from primum.clipping.convert import changes, compare, convert, groups_for, report
from primum.clipping.factors import MARGIN
from primum.clipping.layers import Folded, FrozenGroupNorm, FrozenNorm, ScaledStdConv2d, standardised
from primum.clipping.validate import validate
from primum.errors import ModelError
from primum.models import normfree

KINDS = ["frozen", "group", "normfree"]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(2)


class Block(nn.Module):
    """A residual block as torchvision has it, activations in place."""

    def __init__(self, channels: int, outputs: int, stride: int, axes: int = 2) -> None:
        super().__init__()
        convolution, norm = (nn.Conv2d, nn.BatchNorm2d) if axes == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.conv1 = convolution(channels, outputs, 3, stride, 1, bias=False)
        self.bn1 = norm(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = convolution(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = norm(outputs)
        self.downsample: nn.Module | None = None
        if stride > 1 or channels != outputs:
            self.downsample = nn.Sequential(convolution(channels, outputs, 1, stride, bias=False), norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        out += shortcut
        return self.relu(out)


class ResNet(nn.Module):
    def __init__(self, axes: int = 2) -> None:
        super().__init__()
        self.conv1 = (nn.Conv2d if axes == 2 else nn.Conv3d)(1, 8, 3, padding=1, bias=False)
        self.bn1 = (nn.BatchNorm2d if axes == 2 else nn.BatchNorm3d)(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(Block(8, 8, 1, axes), Block(8, 16, 2, axes))
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer1(self.relu(self.bn1(self.conv1(x)))).flatten(2).mean(2))


def vgg() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 6, 3),
        nn.BatchNorm2d(6, eps=1e-3),
        nn.ReLU(True),
        nn.AvgPool2d(2),
        nn.Conv2d(6, 16, 3, bias=False),
        nn.BatchNorm2d(16, affine=False),
        nn.ReLU(True),
        nn.ConvTranspose2d(16, 4, 2, 2),
        nn.BatchNorm2d(4),
        nn.ReLU(True),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 10),
        nn.BatchNorm1d(10),
        nn.Tanh(),
        nn.Linear(10, 3),
    )


class PreActivation(nn.Module):
    """Norms with no layer before them; one is used twice, and so is one convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.again = self.norm
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.conv(functional.relu(self.norm(x)))
        x = x + self.conv(functional.relu(self.again(x)))
        return self.head(x.mean((2, 3)))


class Branching(nn.Module):
    """Cannot be traced: its forward looks at values. Its blocks can."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Block(1, 4, 1), Block(4, 4, 2)])
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x) if float(x.detach().abs().sum()) >= 0 else x
        return self.head(x.mean((2, 3)))


def trained(make: Callable[[], nn.Module], axes: int = 2) -> nn.Module:
    """A network whose statistics, scales and shifts are not those of its birth."""
    torch.manual_seed(1)
    model = make()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine:
            nn.init.uniform_(module.weight, -1.5, 1.5)
            nn.init.normal_(module.bias, std=0.5)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.3
    for _ in range(20):
        model.train()(2 * images(24, axes) + 1)
    return model


def images(count: int = 8, axes: int = 2) -> Tensor:
    return torch.randn(count, 1, *[12 if axes == 2 else 6] * axes)


MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "resnet": (ResNet, 2),
    "vgg": (vgg, 2),
    "pre-activation": (PreActivation, 2),
    "branching": (Branching, 2),
    "resnet 3-D": (lambda: ResNet(3), 3),
}


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


def clipped_by_hand(model: nn.Module, inputs: Tensor, targets: Tensor, norm: float) -> Tensor:
    each = single.by_loop(model, loss, (inputs,), targets)
    flat = torch.cat([value.flatten(1) for value in each.values()], 1).double()
    return (flat * (norm * (1 - MARGIN) / flat.norm(dim=1, keepdim=True)).clamp_max(1)).sum(0)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_trains_under_privacy(name: str, kind: str) -> None:
    make, axes = MODELS[name]
    before = trained(make, axes)
    with pytest.raises(ModelError, match="batch normalisation"):
        Clipper(before, loss, 1.0)
    model, inputs, targets = convert(before, kind), images(6, axes), torch.randint(0, 3, (6,))  # type: ignore[arg-type]
    assert validate(model.train(), inputs) == []
    clipper = Clipper(model, loss, 1.0)
    optimiser = torch.optim.SGD(model.parameters(), 0.05)
    losses = []
    for _ in range(3):
        wanted = clipped_by_hand(model, inputs, targets, 1.0)
        losses.append(loss(model(inputs), targets).mean().item())
        clipper.add(inputs, targets)
        total = clipper.take()
        assert float((total - wanted).norm()) <= 1e-4 * float(wanted.norm())
        clipper.write(total / 6)
        optimiser.step()
    assert losses[-1] < losses[0]
    assert clipper.without_rule is None or name == "branching"


@pytest.mark.parametrize("name", MODELS)
def test_frozen_outputs_are_those_of_the_model_in_eval(name: str) -> None:
    make, axes = MODELS[name]
    before = trained(make, axes)
    inputs = 2 * images(axes=axes) + 1
    after, wanted = convert(before, "frozen"), copy.deepcopy(before).eval()(inputs).detach()
    for mode in (True, False):
        assert torch.allclose(after.train(mode)(inputs), wanted, rtol=1e-5, atol=1e-5 * float(wanted.abs().max()))


def test_batch_norm_is_folded_where_it_can_be() -> None:
    assert not [m for m in convert(trained(ResNet), "frozen").modules() if isinstance(m, FrozenNorm)]
    assert sum(isinstance(m, Folded) for m in convert(trained(vgg), "frozen").modules()) == 4
    assert sum(isinstance(m, Folded) for m in convert(trained(Branching), "frozen").modules()) == 6
    kept = convert(trained(PreActivation), "frozen")
    assert isinstance(kept.norm, FrozenNorm)
    assert kept.norm is kept.again


def test_the_original_stays_as_it_is() -> None:
    before = trained(ResNet)
    state = copy.deepcopy(before.state_dict())
    for kind in KINDS:
        convert(before, kind)  # type: ignore[arg-type]
    assert all(torch.equal(value, state[name]) for name, value in before.state_dict().items())
    assert isinstance(before.bn1, nn.BatchNorm2d)


@pytest.mark.parametrize("kind", KINDS)
def test_frozen_weights_stay_frozen_and_mode_stays(kind: str) -> None:
    before = trained(ResNet).eval()
    before.requires_grad_(False).fc.requires_grad_(True)
    after = convert(before, kind)  # type: ignore[arg-type]
    assert [name for name, value in after.named_parameters() if value.requires_grad] == ["fc.weight", "fc.bias"]
    assert not any(module.training for module in after.modules())


def test_group_norm_keeps_more_of_a_pretrained_network_with_frozen_statistics() -> None:
    before = trained(ResNet)
    inputs = 2 * images(64) + 1
    kept, own = (compare(before, convert(before, "group", statistics=s), inputs) for s in ("frozen", "own"))  # type: ignore[arg-type]
    assert kept.difference < 0.7 * own.difference
    assert torch.equal(convert(before, "group").bn1.weight, before.bn1.weight)
    assert isinstance(convert(before, "group").bn1, FrozenGroupNorm)


def test_filters_without_mean_are_the_same_after_normfree() -> None:
    before = trained(ResNet)
    with torch.no_grad():
        for module in before.modules():
            if isinstance(module, nn.Conv2d):
                module.weight -= module.weight.mean((1, 2, 3), keepdim=True)
    after = convert(before, "normfree")
    assert compare(before, after, images(16)).difference < 1e-5
    assert isinstance(after.layer1[0].conv1, ScaledStdConv2d)


def test_a_probe_brings_normfree_outputs_back() -> None:
    for name in ("resnet", "vgg"):
        before = trained(MODELS[name][0])
        probe, others = 2 * images(64) + 1, 2 * images(64) + 1
        blind, fitted = convert(before, "normfree"), convert(before, "normfree", probe=probe)
        assert compare(before, fitted, others).difference < 0.5 * compare(before, blind, others).difference
        assert not any(module._forward_hooks for module in fitted.modules())
        assert fitted.training


def test_a_probe_gives_each_channel_what_batch_norm_gave_it() -> None:
    before = trained(lambda: nn.Sequential(nn.Conv2d(1, 5, 3), nn.BatchNorm2d(5), nn.Flatten()))
    probe = images(32) + 3
    after = convert(before, "normfree", probe=probe)
    channels = after[:2](probe).transpose(0, 1).flatten(1)
    assert torch.allclose(channels.mean(1), before[1].bias, atol=1e-4)
    assert torch.allclose(channels.std(1), before[1].weight.abs(), rtol=1e-3)
    with pytest.raises(ModelError, match=r"probe does nothing.*group"):
        convert(before, "group", probe=probe)


def test_one_by_one_filters_of_one_channel_are_folded() -> None:
    before = trained(lambda: nn.Sequential(nn.Conv2d(1, 5, 1), nn.BatchNorm2d(5), nn.Flatten()))
    after = convert(before, "normfree")
    assert type(after[0]) is nn.Conv2d
    assert compare(before, after, images()).difference < 1e-5
    with pytest.raises(ModelError, match="filter of one value"):
        ScaledStdConv2d(1, 5, 1)


def test_batch_norm_over_several_machines() -> None:
    before = nn.SyncBatchNorm.convert_sync_batchnorm(trained(ResNet))
    assert {finding.kind for finding in validate(before)} == {"batch normalisation over several machines"}
    for kind in KINDS:
        Clipper(convert(before, kind), loss, 1.0).add(images(), torch.zeros(8, dtype=torch.int64))  # type: ignore[arg-type]


def test_a_model_that_is_itself_a_norm_and_one_without_any() -> None:
    assert isinstance(convert(nn.BatchNorm2d(8), "frozen"), FrozenNorm)
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    assert report(plain, convert(plain, "frozen")) == "no layer was changed"


def test_instance_norm_with_running_statistics() -> None:
    before = nn.Sequential(nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, affine=True, track_running_stats=True))
    before(2 * images() + 1)
    assert compare(before, convert(before, "frozen"), images()).difference < 1e-5
    grouped = convert(before, "group")
    assert torch.allclose(grouped(images(1)[:1] * 0 + 1), before.train()(images(1)[:1] * 0 + 1), atol=1e-5)
    assert validate(grouped, images()) == []


def test_a_linear_layer_whose_channels_are_another_axis_is_not_silently_wrong() -> None:
    after = convert(nn.Sequential(nn.Linear(5, 5), nn.BatchNorm1d(5)), "frozen")
    with pytest.raises(ModelError, match="3 axes"):
        after(torch.randn(2, 5, 5))


def test_a_shared_weight_is_not_folded() -> None:
    before = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.Flatten())
    before[2].weight = before[0].weight
    before = trained(lambda: before)
    after = convert(before, "frozen")
    assert compare(before, after, images()).difference < 1e-5
    assert after[0].weight is after[2].weight


def test_an_output_that_somebody_else_reads_is_not_folded() -> None:
    class Read(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return (x + self.norm(x)).flatten(1)

    before = trained(Read)
    assert compare(before, convert(before, "frozen"), images()).difference < 1e-5


def test_an_activation_in_place_is_rewritten_where_it_changes_the_callers_batch() -> None:
    before = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True))
    after = convert(before, "frozen")
    assert not after[0].inplace
    assert after[2].inplace
    assert changes(before, after) == [("0", "ReLU(inplace=True)", "ReLU()")]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 2048))
def test_groups_divide_and_hold_enough(channels: int) -> None:
    groups = groups_for(channels)
    assert channels % groups == 0
    assert groups == 1 or (groups <= 32 and channels // groups >= 8)
    assert not [g for g in range(groups + 1, 33) if channels % g == 0 and channels // g >= 8]


def test_groups_of_usual_networks() -> None:
    assert [groups_for(channels) for channels in (16, 64, 128, 512, 2048, 17)] == [2, 8, 16, 32, 32, 1]


def test_what_cannot_be_converted_is_refused_by_name() -> None:
    without = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2, track_running_stats=False))
    with pytest.raises(ModelError, match=r"Layer 1 has no running statistics.*group"):
        convert(without, "frozen")
    assert validate(convert(without, "group")) == []
    with pytest.raises(ModelError, match=r"Unknown kind 'layer'.*frozen, group, normfree"):
        convert(without, "layer")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="Unknown statistics"):
        convert(without, "group", statistics="batch")  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="lazy"):
        convert(nn.LazyBatchNorm2d(), "group")


def test_the_report_names_layers_and_accuracy() -> None:
    before = trained(vgg)
    inputs = images(40)
    labels = copy.deepcopy(before).eval()(inputs).argmax(1)
    text = report(before, convert(before, "frozen"), inputs, labels)
    assert "1: BatchNorm2d(6, eps=0.001" in text
    assert "-> Folded()" in text
    assert text.endswith("100.0% of answers are the same, accuracy 100.0% before, 100.0% after")
    assert before.training
    found = compare(before, before, inputs, (labels + 1) % 3)
    assert (found.difference, found.agreeing, found.accuracy_after) == (0, 1, 0)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4), st.integers(2, 30), st.floats(0.1, 10), st.floats(-5, 5))
def test_standardised_filters_have_no_sum_and_their_gain_as_length(
    outputs: int, size: int, scale: float, shift: float
) -> None:
    weight = torch.randn(outputs, 1, size, dtype=torch.float64) * scale + shift
    gain = torch.linspace(-2, 3, outputs, dtype=torch.float64)
    rows = standardised(weight, gain).flatten(1)
    assert rows.sum(1).abs().max() < 1e-9
    long = weight.flatten(1).std(1) > 0.05
    assert torch.allclose(rows.norm(dim=1)[long], gain.abs()[long])
    assert (rows.norm(dim=1) <= gain.abs() * (1 + 1e-9)).all()


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_the_slope_of_standardised_filters_is_that_of_the_formula(scale: float) -> None:
    """Also of filters so short that their length is held."""

    def formula(weight: Tensor, gain: Tensor) -> Tensor:
        rows = weight.flatten(1) - weight.flatten(1).mean(1, keepdim=True)
        length = rows.square().sum(1).clamp(min=1e-4).sqrt()
        return (rows / length.unsqueeze(1) * gain.unsqueeze(1)).view_as(weight)

    weight = (scale * torch.randn(3, 2, 5, dtype=torch.float64)).requires_grad_()
    gain, slope = torch.randn(3, dtype=torch.float64, requires_grad=True), torch.randn(3, 2, 5, dtype=torch.float64)
    for one, other in zip(
        *(torch.autograd.grad(made(weight, gain), (weight, gain), slope) for made in (standardised, formula)),
        strict=True,
    ):
        assert torch.allclose(one, other)
    assert torch.allclose(standardised(weight, gain), formula(weight, gain))


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_model_stays_as_it_is_when_converted_again(kind: str) -> None:
    once = convert(trained(ResNet), kind)  # type: ignore[arg-type]
    again = convert(once, kind)  # type: ignore[arg-type]
    assert changes(once, again) == []
    assert compare(once, again, images()).difference == 0


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_standardised_convolutions_agree_with_single_examples(axes: int) -> None:
    torch.manual_seed(axes)
    kind = getattr(normfree, f"ScaledStdConv{axes}d")
    layer = kind(4, 6, 3, stride=2, padding=1, groups=2)
    nn.init.uniform_(layer.gain, 0.5, 2)
    model = nn.Sequential(layer, nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))
    inputs, targets = torch.randn(5, 4, *[5] * axes), torch.randint(0, 3, (5,))
    model(inputs)
    clipper = Clipper(model, loss, 0.5)
    clipper.add(inputs, targets)
    wanted = clipped_by_hand(model, inputs, targets, 0.5)
    assert float((clipper.take() - wanted).norm()) <= 1e-5 * float(wanted.norm())
    assert clipper.without_rule is None
