"""Networks without normalisation: signals keep their size, gradients are those of single examples, nothing mixes."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional

from primum.clipping import Clipper, ScaledStdConv2d, validate
from primum.clipping.factors import MARGIN
from primum.errors import ModelError
from primum.models.convolutional import RELU_GAIN, Pooling, ResidualNetwork, SmallNetwork

POOLINGS: list[Pooling] = ["max", "average"]
ENCRYPTABLE = {"conv2d", "relu", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "add", "mul", "flatten", "linear"}
Build = Callable[[Pooling], nn.Module]


def small(pooling: Pooling = "max") -> nn.Module:
    torch.manual_seed(1)
    return SmallNetwork(1, 28, 3, pooling=pooling)


def residual(pooling: Pooling = "max") -> nn.Module:
    torch.manual_seed(2)
    return ResidualNetwork(1, 3, (8, 12, 16), blocks=2, pooling=pooling)


BUILDS = [small, residual]


def pictures(count: int, channels: int = 1, size: int = 28, places: int = 8) -> Tensor:
    """Smooth, mean 0, deviation 1."""
    coarse = torch.randn(count, channels, places, places)
    smooth = functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return smooth / smooth.std()


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return functional.cross_entropy(outputs, targets, reduction="none")


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 4),
    outputs=st.integers(1, 5),
    widths=st.lists(st.integers(2, 9), min_size=1, max_size=3),
    extra=st.integers(0, 40),
    kernel=st.sampled_from([3, 5]),
    pooling=st.sampled_from(POOLINGS),
)
def test_small_network_takes_any_channels_sizes_and_outputs(
    channels: int, outputs: int, widths: list[int], extra: int, kernel: int, pooling: Pooling
) -> None:
    size = (1 << len(widths)) + extra
    model = SmallNetwork(channels, size, outputs, widths, kernel, pooling)
    assert model(torch.randn(2, channels, size, size)).shape == (2, outputs)


@settings(max_examples=25, deadline=None)
@given(
    channels=st.integers(1, 4),
    outputs=st.integers(1, 5),
    widths=st.lists(st.integers(2, 9), min_size=1, max_size=4),
    blocks=st.integers(1, 3),
    sides=st.tuples(st.integers(3, 70), st.integers(3, 70)),
    pooling=st.sampled_from(POOLINGS),
)
def test_residual_network_takes_any_channels_sizes_and_outputs(
    channels: int, outputs: int, widths: list[int], blocks: int, sides: tuple[int, int], pooling: Pooling
) -> None:
    model = ResidualNetwork(channels, outputs, widths, blocks, pooling=pooling)
    assert model(torch.randn(2, channels, *sides)).shape == (2, outputs)


def test_the_residual_network_is_a_resnet18() -> None:
    """17 convolutions 3 x 3 or 7 x 7, three of 1 x 1, one linear layer."""
    kernels = [layer.kernel_size for layer in ResidualNetwork(3, 10).modules() if isinstance(layer, nn.Conv2d)]
    assert (kernels.count((7, 7)), kernels.count((3, 3)), kernels.count((1, 1))) == (1, 16, 3)


def test_relu_gain_is_one_over_the_deviation_behind_a_relu() -> None:
    values = torch.linspace(-8, 8, 200_001, dtype=torch.float64)
    density = torch.exp(-values.square() / 2) / math.sqrt(2 * math.pi)
    first, second = (torch.trapezoid(values.relu() ** power * density, values) for power in (1, 2))
    assert pytest.approx(float(second - first**2) ** -0.5, rel=1e-6) == RELU_GAIN


def variances(model: nn.Module, inputs: Tensor, *kinds: str) -> list[float]:
    """Of the outputs of layers of these kinds, in order."""
    found: list[float] = []
    for layer in model.modules():
        if type(layer).__name__ in kinds:
            layer.register_forward_hook(lambda _layer, _inputs, output: found.append(float(output.var())))
    with torch.no_grad():
        model(inputs)
    return found


@pytest.mark.parametrize("pooling", POOLINGS)
def test_variance_of_the_residual_network_stays_within_two(pooling: Pooling) -> None:
    """Through 8 blocks, on smooth pictures."""
    torch.manual_seed(3)
    model = ResidualNetwork(3, 10, (32, 48, 64, 96), pooling=pooling)
    found = variances(model, pictures(16, 3, 64), "Block")
    assert len(found) == 8 and all(0.5 < value < 2 for value in found), found


@pytest.mark.parametrize("pooling", POOLINGS)
def test_variance_of_the_small_network_stays_within_four(pooling: Pooling) -> None:
    torch.manual_seed(4)
    found = variances(SmallNetwork(1, 28, 10, pooling=pooling), pictures(64, places=14), "ScaledConvolution")
    assert len(found) == 3 and all(0.25 < value < 4 for value in found), found


def test_a_block_adds_alpha_squared_to_the_variance() -> None:
    """Signals of mean 0 and the deviation that the block was built for; stages begin again at 1."""
    alpha = 0.5
    torch.manual_seed(5)
    model = ResidualNetwork(3, 10, (32, 64), blocks=3, alpha=alpha)
    expected = 1.0
    for number, block in enumerate(model.body):
        inputs = math.sqrt(expected) * torch.randn(8, 32 if number < 4 else 64, 24, 24)
        expected = (1.0 if number == 3 else expected) + alpha**2
        with torch.no_grad():
            assert float(block(inputs).var()) == pytest.approx(expected, rel=0.1)


def one_by_one(model: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Each example's gradient, float64 [n, parameters]."""
    rows = []
    for row in range(len(inputs)):
        value = loss(model(inputs[row : row + 1]), targets[row : row + 1]).sum()
        parts = torch.autograd.grad(value, list(model.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]).double())
    return torch.stack(rows)


@pytest.mark.parametrize("pooling", POOLINGS)
@pytest.mark.parametrize("build", BUILDS)
def test_clipped_gradients_are_those_of_single_examples(build: Build, pooling: Pooling) -> None:
    """With a norm that some examples exceed and others do not."""
    model = build(pooling)
    inputs, targets = pictures(5), torch.tensor([0, 1, 2, 0, 1])
    rows = one_by_one(model, inputs, targets)
    norm = float(rows.norm(dim=1).sort().values[2:4].mean())
    clipper = Clipper(model, loss, norm)
    clipper.add(inputs, targets)
    wanted = (rows * (norm * (1 - MARGIN) / rows.norm(dim=1, keepdim=True)).clamp_max(1)).sum(0)
    assert clipper.within == 3
    assert float((clipper.take() - wanted).norm()) <= 1e-5 * float(wanted.norm())
    assert clipper.without_rule is None
    assert validate(model, inputs) == []


@pytest.mark.parametrize("build", BUILDS)
def test_an_image_is_judged_alone_and_always_alike(build: Build) -> None:
    model, images = build("max"), pictures(4)
    with torch.no_grad():
        trained, judged = model.train()(images), model.eval()(images)
        alone = torch.cat([model(image[None]) for image in images])
    assert torch.equal(trained, judged) and torch.equal(judged, model(images))
    assert torch.allclose(alone, judged, atol=1e-5)


@pytest.mark.parametrize("build", BUILDS)
def test_a_few_private_steps_tell_stripes_apart(build: Build) -> None:
    """Clipped gradients alone, of drawn images: stripes that lie, that stand, and noise."""
    torch.manual_seed(6)
    targets = torch.arange(24) % 3
    wave = torch.sin(torch.arange(28) * 1.2)
    drawn = torch.stack([wave[:, None].expand(28, 28), wave[None].expand(28, 28), torch.zeros(28, 28)])
    images = drawn[targets].unsqueeze(1) + 0.5 * torch.randn(24, 1, 28, 28)
    model = build("max")
    clipper, optimiser = Clipper(model, loss, 1.0), torch.optim.SGD(model.parameters(), 0.2, momentum=0.9)
    before = float(loss(model(images), targets).mean().detach())
    for _ in range(12):
        clipper.add(images, targets)
        clipper.write_without_noise(len(images))
        optimiser.step()
    after = model(images)
    assert float(loss(after, targets).mean().detach()) < before / 2
    assert float((after.argmax(1) == targets).float().mean()) > 0.9


def operators(model: nn.Module) -> set[str]:
    """Of what depends on the image; what follows from the weights alone is a constant once the model is trained."""
    graph = torch.export.export(model.eval(), (pictures(1),)).graph
    known: set[torch.fx.Node] = {[node for node in graph.nodes if node.op == "placeholder"][-1]}
    names = set()
    for node in graph.nodes:
        if node.op == "call_function" and known & set(node.all_input_nodes):
            known.add(node)
            names.add(str(node.target).split(".")[1])
    return names


@pytest.mark.parametrize("build", BUILDS)
def test_only_what_can_be_computed_under_encryption(build: Build) -> None:
    model = build("max").requires_grad_(False)
    names = operators(model)
    assert {"conv2d", "relu", "linear"} <= names <= ENCRYPTABLE, names


def test_weights_can_be_scaled_and_shifted_without_effect() -> None:
    """Filters are standardised: what training did to their length and mean is not seen."""
    model, images = small(), pictures(4)
    with torch.no_grad():
        before = model(images)
        for layer in model.modules():
            if isinstance(layer, ScaledStdConv2d):
                layer.weight.mul_(3).add_(0.7)
        assert torch.allclose(model(images), before, atol=1e-4)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: SmallNetwork(1, 7, 2), "7 pixels a side cannot be halved 3 times"),
        (lambda: SmallNetwork(1, 28, 2, kernel=4), "kernel is 4"),
        (lambda: SmallNetwork(0, 28, 2), "0 channels"),
        (lambda: SmallNetwork(1, 28, 2, pooling="median"), "unknown pooling 'median'"),  # type: ignore[arg-type]
        (lambda: ResidualNetwork(1, 2, ()), r"widths \(\)"),
        (lambda: ResidualNetwork(1, 2, (1, 4)), r"widths \(1, 4\)"),
        (lambda: ResidualNetwork(1, 2, blocks=0), "0 blocks"),
        (lambda: ResidualNetwork(1, 2, alpha=1.5), "alpha 1.5"),
    ],
)
def test_what_cannot_be_built_is_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        build()
