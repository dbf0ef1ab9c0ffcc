"""Every layer type: clipped sums agree with the loop over single examples, in every way there is to measure."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrizations

from primum.clipping import (
    Automatic,
    Clipper,
    Flat,
    PerLayer,
    ScaledStdConv2d,
    convolution,
    derived,
    geometry,
    product,
    single,
    small_maps,
    timing,
    winograd,
)
from primum.clipping.factors import MARGIN, Clipping
from primum.clipping.geometry import Geometry

AGREES = 1e-5


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    return (outputs.flatten(1) - targets.flatten(1)).square().mean(1)


def expected(model: nn.Module, inputs: Tensor, targets: Tensor, norm: float, images: int = 1) -> Tensor:
    """The slow twin: one example after another, clipped by hand, in double precision."""
    each = single.by_loop(model, loss, (inputs,), targets)
    flat = torch.cat([value.flatten(1) for value in each.values()], 1).double()
    units = flat.unflatten(0, (-1, images)).sum(1)
    lengths = units.norm(dim=1, keepdim=True)
    return (units * (norm * (1 - MARGIN) / lengths.clamp_min(1e-30)).clamp_max(1)).sum(0)


def agree(
    model: nn.Module, inputs: Tensor, images: int = 1, fast: bool = True, scale: float = 1.0, norm: float | None = None
) -> None:
    with torch.no_grad():
        outputs = model(inputs)
    targets = torch.randn_like(outputs)
    if norm is None:  # so that some are clipped and others are not
        each = single.by_loop(model, loss, (inputs,), targets)
        flat = torch.cat([value.flatten(1) for value in each.values()], 1)
        norm = float(flat.unflatten(0, (-1, images)).sum(1).norm(dim=1).median()) * scale or 1.0
    clipper = Clipper(model, loss, norm, images_per_unit=images)
    clipper.add(inputs, targets)
    wanted = expected(model, inputs, targets, norm, images)
    off = float((clipper.take() - wanted).norm() / wanted.norm())
    assert off < AGREES, off
    assert (clipper.without_rule is None) == fast, clipper.without_rule


SIZES = st.integers(1, 3)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    axes=st.integers(1, 3),
    groups=st.integers(1, 2),
    channels=SIZES,
    outputs=SIZES,
    kernel=SIZES,
    stride=st.integers(1, 2),
    padding=st.integers(0, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    transposed=st.booleans(),
    rows=st.integers(1, 5),
    images=st.integers(1, 2),
)
def test_convolutions(
    axes: int,
    groups: int,
    channels: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    bias: bool,
    transposed: bool,
    rows: int,
    images: int,
) -> None:
    kinds = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if transposed
        else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )
    size = dilation * (kernel - 1) + 1 + 2 * padding + 2
    layer = kinds[axes - 1](
        channels * groups, outputs * groups, kernel, stride, padding, dilation=dilation, groups=groups, bias=bias
    )
    agree(nn.Sequential(layer, nn.Tanh()), torch.randn(rows * images, channels * groups, *[size] * axes), images)


@pytest.mark.parametrize("way", ["products", "groups", "rows", "patches", "turned", "offsets"])
@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("fits", [True, False])
def test_every_way_of_a_convolution(monkeypatch: pytest.MonkeyPatch, way: str, images: int, fits: bool) -> None:
    def only(key: object, ways: list[product.Way], *rest: object) -> product.Way:
        found = [one for one in ways if one.name == way]
        return found[0] if found else ways[0]

    monkeypatch.setattr(product, "choose", only)
    if not fits and way != "products":
        monkeypatch.setattr(product, "ALLOWANCE", 1)
    model = nn.Sequential(nn.Conv2d(4, 6, 3, 2, 1, groups=2), nn.ReLU(), nn.Conv2d(6, 5, (3, 1), padding=(2, 0)))
    agree(model, torch.randn(6, 4, 9, 7), images)


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    axes=st.integers(1, 3),
    channels=SIZES,
    outputs=SIZES,
    kernel=SIZES,
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
    dilation=st.integers(1, 2),
    size=st.integers(1, 6),
    rows=st.integers(1, 4),
    bias=st.booleans(),
)
def test_a_convolution_of_few_positions_is_the_librarys(
    axes: int,
    channels: int,
    outputs: int,
    kernel: int,
    stride: int,
    padding: int,
    dilation: int,
    size: int,
    rows: int,
    bias: bool,
) -> None:
    """Forth, back, and summed over rows."""
    shape = Geometry(*[(value,) * axes for value in (kernel, stride, padding, dilation)])
    positions = shape.out((size,) * axes)
    assume(min(positions) > 0)
    layer = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[axes - 1](
        channels, outputs, kernel, stride, padding, dilation=dilation, bias=bias
    )
    inputs = torch.randn(rows, channels, *[size] * axes, requires_grad=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(timing, "quickest", lambda *_: "offsets")
        found = convolution.convolved(inputs, layer.weight.detach(), layer.bias, shape, lambda: layer(inputs))
    assert tuple(found.shape[2:]) == positions and found.is_contiguous()
    slopes = same_there_and_back(found, layer(inputs), inputs)
    sums = (small_maps.weight_gradient, geometry.weight_gradient)
    fixed = inputs.detach()
    assert_close(sums[0](fixed, slopes, shape), sums[1](fixed.double(), slopes.double(), shape))


def same_there_and_back(found: Tensor, wanted: Tensor, inputs: Tensor) -> Tensor:
    """Outputs and slopes of inputs; the slopes of outputs that were drawn."""
    slopes = torch.randn_like(wanted)
    assert_close(found, wanted)
    assert_close(*(torch.autograd.grad(y, inputs, slopes)[0] for y in (found, wanted)))
    return slopes


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert found.shape == wanted.shape
    assert float((found - wanted).detach().norm()) <= AGREES * float(wanted.detach().norm()) + 1e-7


@pytest.mark.parametrize("name", ["library", "offsets"])
def test_a_network_of_small_maps_agrees_either_way(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    asked = []

    def only(key: timing.Key, ways: dict[str, Callable[[], object]], inputs: Tensor) -> str:
        asked.append(key[0])
        return name if name in ways else next(iter(ways))

    monkeypatch.setattr(timing, "quickest", only)
    model = nn.Sequential(nn.Conv2d(5, 6, 3, 2, 1), nn.Tanh(), nn.Conv2d(6, 7, 3, padding=1), nn.Conv2d(7, 4, 2))
    agree(model, torch.randn(6, 5, 4, 4), 2)
    assert "map" in asked


@settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    channels=st.sampled_from([16, 32]),
    outputs=st.sampled_from([16, 48]),
    padding=st.tuples(*[st.integers(0, 2)] * 2),
    size=st.tuples(*[st.integers(3, 11)] * 2),
    rows=st.integers(1, 40),
    bias=st.booleans(),
    last=st.booleans(),
)
def test_a_convolution_by_tiles_is_the_librarys(
    channels: int,
    outputs: int,
    padding: tuple[int, int],
    size: tuple[int, int],
    rows: int,
    bias: bool,
    last: bool,
) -> None:
    """Forth, back, for each row and summed over rows; however the inputs lie in memory."""
    shape = Geometry((3, 3), (1, 1), padding, (1, 1))
    layer = nn.Conv2d(channels, outputs, 3, padding=padding, bias=bias)
    inputs = torch.randn(rows, channels, *size)
    inputs = (inputs.to(memory_format=torch.channels_last) if last else inputs).requires_grad_()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(winograd, "_LEAST_WORK", 1)
        patch.setattr(timing, "quickest", lambda *_: "tiles")
        found = convolution.convolved(inputs, layer.weight.detach(), layer.bias, shape, lambda: layer(inputs))
    slopes = same_there_and_back(found, layer(inputs), inputs)
    fixed = inputs.detach()
    assert_close(winograd.weight_gradient(fixed, slopes, shape), geometry.weight_gradient(fixed, slopes, shape))
    assert_close(winograd.each_turned(fixed, slopes, shape), geometry.each_turned(fixed, slopes, shape))


@pytest.mark.parametrize(
    "shape",
    [
        Geometry((3, 3), (2, 1), (1, 1), (1, 1)),
        Geometry((3, 3), (1, 1), (1, 3), (1, 1)),
        Geometry((3, 3), (1, 1), (1, 1), (1, 2)),
        Geometry((3, 3), (1, 1), (1, 1), (1, 1), 2),
        Geometry((3, 1), (1, 1), (1, 1), (1, 1)),
        Geometry((3,), (1,), (1,), (1,)),
    ],
)
def test_other_convolutions_are_not_made_by_tiles(monkeypatch: pytest.MonkeyPatch, shape: Geometry) -> None:
    monkeypatch.setattr(winograd, "_LEAST_WORK", 1)
    assert not winograd.possible(torch.zeros(4, 16, *[8] * len(shape.kernel)), 16, shape)


def test_tiles_need_whole_channels_in_float32_and_some_work(monkeypatch: pytest.MonkeyPatch) -> None:
    shape = Geometry((3, 3), (1, 1), (1, 1), (1, 1))
    assert not winograd.possible(torch.zeros(4, 16, 8, 8), 16, shape), "too little to do"
    monkeypatch.setattr(winograd, "_LEAST_WORK", 1)
    assert winograd.possible(torch.zeros(4, 16, 8, 8), 16, shape)
    for inputs, outputs in (
        (torch.zeros(4, 24, 8, 8), 16),
        (torch.zeros(4, 16, 8, 8), 8),
        (torch.zeros(4, 16, 8, 8, dtype=torch.float64), 16),
        (torch.zeros(4, 16, 8, 8, dtype=torch.bfloat16), 16),
        (torch.zeros(0, 16, 8, 8), 16),
    ):
        assert not winograd.possible(inputs, outputs, shape)


@pytest.mark.parametrize("name", ["offsets", "tiles"])
def test_slopes_of_slopes_go_through_ways_of_ours(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(winograd, "_LEAST_WORK", 1)
    monkeypatch.setattr(timing, "quickest", lambda *_: name)
    layer, inputs = nn.Conv2d(16, 16, 3), torch.randn(2, 16, 5, 5, requires_grad=True)
    shape, weight = Geometry((3, 3), (1, 1), (0, 0), (1, 1)), layer.weight.detach()
    found = convolution.convolved(inputs, weight, layer.bias, shape, lambda: layer(inputs))
    second = []
    for y in (found, functional.conv2d(inputs, weight, layer.bias)):
        (slope,) = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        second.append(torch.autograd.grad(slope.square().sum(), inputs)[0])
    assert_close(*second)


@pytest.mark.parametrize("images", [1, 3])
@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("threads", [1, 2])
def test_a_network_by_tiles_agrees(monkeypatch: pytest.MonkeyPatch, images: int, fits: bool, threads: int) -> None:
    """Also with the weight used twice, standardised, and in a transposed convolution."""
    asked = []

    def only(key: timing.Key, ways: dict[str, Callable[[], object]], inputs: Tensor) -> str:
        asked.append((key[0], "tiles" in ways))
        return "tiles" if "tiles" in ways else next(iter(ways))

    def way(key: object, ways: list[product.Way], *rest: object) -> product.Way:
        return next((one for one in ways if one.name == "tiles"), ways[0])

    monkeypatch.setattr(winograd, "_LEAST_WORK", 1)
    monkeypatch.setattr(timing, "quickest", only)
    monkeypatch.setattr(product, "choose", way)
    if not fits:
        monkeypatch.setattr(product, "ALLOWANCE", 1)
    twice = nn.Conv2d(16, 16, 3, padding=1)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.Tanh(), nn.Conv2d(16, 32, 3, padding=1), nn.Tanh(),
        nn.ConvTranspose2d(32, 16, 3, padding=1), nn.Tanh(), twice, nn.Tanh(), twice, ScaledStdConv2d(16, 16, 3),
    )  # fmt: skip
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        agree(model, torch.randn(6, 3, 13, 12), images)
    finally:
        torch.set_num_threads(before)
    assert ("map", True) in asked and (fits or ("sum", True) in asked)


@pytest.mark.parametrize("name", list(product._SUMS))
def test_a_layer_with_few_positions_is_summed_either_way(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setattr(product, "_SUMS", {name: product._SUMS[name]})
    monkeypatch.setattr(winograd, "_LEAST_WORK", 1)
    monkeypatch.setattr(timing, "quickest", lambda key, ways, inputs: name if name in ways else "library")
    model = nn.Sequential(nn.Conv2d(48, 40, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(40, 33, 3, 2, 1))
    agree(model, torch.randn(6, 48, 2, 2), 2)


def test_ways_are_timed_once_for_a_shape() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3))
    agree(model, torch.randn(5, 3, 11, 11))
    before = dict(timing.known)
    agree(model, torch.randn(5, 3, 11, 11))
    assert before == timing.known


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Linear(6, 6)
        self.two = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(torch.tanh(self.one(x)))))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 5, padding_idx=2)

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(torch.tanh(self.table(x)), self.table.weight)


class Standardised(nn.Conv2d):
    def forward(self, x: Tensor) -> Tensor:
        mean = self.weight.mean((1, 2, 3), keepdim=True)
        spread = self.weight.std((1, 2, 3), keepdim=True)
        return functional.conv2d(x, (self.weight - mean) / (spread + 1e-3), self.bias, padding=1)


class Token(nn.Module):
    """A class token, a position and a scale, as a vision transformer has them."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.randn(1, 1, 6))
        self.place = nn.Parameter(torch.randn(1, 5, 6))
        self.scale = nn.Parameter(torch.randn(6))
        self.mix = nn.Linear(6, 6)
        self.out = nn.Parameter(torch.randn(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        x = x + self.scale * torch.tanh(self.mix(x))
        return x[:, 0] @ self.out


class Lora(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base = nn.Linear(6, 5)
        self.base.requires_grad_(False)
        self.down = nn.Linear(6, 2, bias=False)
        self.up = nn.Linear(2, 5, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + 0.5 * self.up(self.down(x))


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 8, 3, 2, 1, bias=False)
        self.norm = nn.GroupNorm(4, 8)
        self.second = nn.Conv2d(8, 8, 3, 1, 1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.norm(self.first(x)))
        x = self.relu(self.second(x) + x)
        return self.head(x.mean((2, 3)))


class VolumeUNet(nn.Module):
    """Down, up and a skip, in three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv3d(1, 4, 3, padding=1), nn.InstanceNorm3d(4, affine=True), nn.LeakyReLU(0.1))
        self.down = nn.Sequential(nn.MaxPool3d(2), nn.Conv3d(4, 6, 3, padding=1), nn.GroupNorm(2, 6), nn.ReLU())
        self.up = nn.ConvTranspose3d(6, 4, 2, 2)
        self.last = nn.Conv3d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.first(x)
        return self.last(torch.cat([kept, self.up(self.down(kept))], 1))


class FrozenStatistics(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.norm = nn.BatchNorm2d(3).eval()
        self.norm.running_mean = torch.randn(3)

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.norm(self.conv(x)))


PICTURES = (6, 2, 8, 8)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "linear": (lambda: nn.Linear(5, 3), (6, 5)),
    "linear of a sequence": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 2)), (6, 7, 5)),
    "linear of a grid": (lambda: nn.Linear(5, 3, bias=False), (6, 2, 3, 5)),
    "used twice": (Twice, (6, 6)),
    "weight standardised": (
        lambda: nn.Sequential(Standardised(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(256, 2)),
        PICTURES,
    ),
    "weight norm": (lambda: parametrizations.weight_norm(nn.Linear(5, 4)), (6, 5)),
    "class token": (Token, (6, 4, 6)),
    "lora": (Lora, (6, 6)),
    "residual": (Residual, PICTURES),
    "frozen statistics": (FrozenStatistics, PICTURES),
    "group norm": (lambda: nn.Sequential(nn.GroupNorm(2, 2), nn.Conv2d(2, 3, 3)), PICTURES),
    "instance norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.InstanceNorm2d(3, affine=True), nn.Tanh()),
        PICTURES,
    ),
    "instance norm of a volume": (lambda: nn.InstanceNorm3d(2, affine=True), (4, 2, 3, 4, 5)),
    "layer norm": (lambda: nn.Sequential(nn.Linear(5, 4), nn.LayerNorm(4), nn.Linear(4, 2)), (6, 3, 5)),
    "prelu": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.PReLU(3)), PICTURES),
    "dropout": (lambda: nn.Sequential(nn.Linear(5, 4), nn.Dropout(0.0), nn.Linear(4, 2)), (6, 5)),
    "same padding": (lambda: nn.Conv2d(2, 3, (3, 5), padding="same"), PICTURES),
    "reflected padding": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"), PICTURES),
    "volume u-net": (VolumeUNet, (4, 1, 4, 6, 4)),
    "volume": (lambda: nn.Sequential(nn.Conv3d(1, 2, 3), nn.ReLU(), nn.ConvTranspose3d(2, 1, 2, 2)), (4, 1, 5, 6, 7)),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("images", [1, 2])
def test_models(name: str, images: int) -> None:
    torch.manual_seed(len(name))
    make, shape = MODELS[name]
    agree(make(), torch.randn(shape), images)


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_same_padding_of_an_even_kernel() -> None:
    agree(nn.Conv2d(2, 3, (3, 4), padding="same"), torch.randn(PICTURES))


@pytest.mark.parametrize("images", [1, 2])
def test_embedding_that_is_also_the_last_layer(images: int) -> None:
    agree(Tied(), torch.randint(0, 7, (6, 4)), images)


def test_embedding_alone() -> None:
    agree(nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(20, 2)), torch.randint(0, 9, (6, 5)))


class Squared(nn.Module):
    """A parameter in a function without a rule."""

    def __init__(self) -> None:
        super().__init__()
        self.matrix = nn.Parameter(torch.randn(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        return torch.einsum("ni,ij,nj->n", x, self.matrix, x).unsqueeze(1)


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRU(3, 4, batch_first=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.cell(x)[0][:, -1]


class TurnedAround(nn.Module):
    """The batch is not the first axis where the weight is used."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.transpose(0, 1)).transpose(0, 1)


@pytest.mark.parametrize(
    ("model", "shape"), [(Squared(), (5, 4)), (Recurrent(), (5, 6, 3)), (TurnedAround(), (5, 5, 5))]
)
def test_without_a_rule_it_is_slower_and_says_so(
    model: nn.Module, shape: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    agree(model, torch.randn(shape), fast=False)
    assert "No fast rule for" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_small_and_large_norms(scale: float) -> None:
    agree(Residual(), torch.randn(PICTURES), scale=scale)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_attention_by_any_way() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    agree(nn.Sequential(layer, nn.Flatten(), nn.Linear(24, 2)), torch.randn(5, 3, 8), fast=False)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(["conv", "norm", "relu", "pool", "deconv"]), min_size=1, max_size=5), st.integers(0, 99)
)
def test_stacks_of_layers(kinds: list[str], seed: int) -> None:
    torch.manual_seed(seed)
    layers: list[nn.Module] = [nn.Conv2d(2, 4, 3, padding=1)]
    for kind in kinds:
        layers.append(
            {
                "conv": lambda: nn.Conv2d(4, 4, 3, padding=1),
                "norm": lambda: nn.GroupNorm(2, 4),
                "relu": lambda: nn.ReLU(inplace=not isinstance(layers[-1], nn.ReLU)),
                "pool": lambda: nn.AvgPool2d(2, 2, ceil_mode=True),
                "deconv": lambda: nn.ConvTranspose2d(4, 4, 2, 2),
            }[kind]()
        )
    agree(nn.Sequential(*layers), torch.randn(4, 2, 6, 6))


@pytest.mark.parametrize("clipping", [Flat(), PerLayer(), Automatic()])
def test_no_unit_counts_more_than_the_norm(clipping: Clipping) -> None:
    torch.manual_seed(1)
    model, norm = Residual(), 0.01
    inputs, targets = torch.randn(PICTURES), torch.randn(6, 3)
    clipper = Clipper(model, loss, norm, clipping=clipping)
    lengths = []
    for row in range(6):
        clipper.add(inputs[row : row + 1], targets[row : row + 1])
        lengths.append(float(clipper.take().norm()))
    assert max(lengths) <= norm
    assert max(lengths) > 0.5 * norm
    clipper.add(inputs, targets)
    whole = clipper.take()
    clipper.add(inputs[1:], targets[1:])
    assert float((whole - clipper.take()).norm()) <= norm


def test_per_layer_is_each_layer_by_itself() -> None:
    torch.manual_seed(2)
    model, inputs, targets = Twice(), torch.randn(5, 6), torch.randn(5, 4)
    clipper = Clipper(model, loss, 0.1, clipping=PerLayer())
    clipper.add(inputs, targets)
    each = single.by_loop(model, loss, (inputs,), targets)
    wanted = []
    for layer in ("one", "two"):
        flat = torch.cat([value.flatten(1) for name, value in each.items() if name.startswith(layer)], 1)
        factors = (0.1 / math.sqrt(2) * (1 - MARGIN) / flat.norm(dim=1, keepdim=True)).clamp_max(1)
        wanted.append((flat * factors).sum(0))
    assert torch.allclose(clipper.take(), torch.cat(wanted), rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("images", [1, 2])
@pytest.mark.parametrize("positions", ["few", "many", "nowhere"])
def test_standardised_filters(monkeypatch: pytest.MonkeyPatch, images: int, positions: str) -> None:
    """By products of positions, by gradients, and a few rows at a time; groups, strides and a filter of one value."""
    if positions == "many":
        monkeypatch.setattr(derived, "_MOST_POSITIONS", 1)
    if positions == "nowhere":
        monkeypatch.setattr(product, "ALLOWANCE", 1)
    torch.manual_seed(4)
    model = nn.Sequential(
        ScaledStdConv2d(4, 6, 3, 2, 1, groups=2), nn.ReLU(), ScaledStdConv2d(6, 5, (3, 2)), nn.Tanh(), nn.Flatten()
    )
    with torch.no_grad():
        model[0].weight[1] = 0.3  # a filter without a deviation of its own
        model[0].weight[2] = 0.3 + 1e-4 * torch.randn(2, 3, 3)  # and one with next to none
        model[0].bias.fill_(0.5)
        for layer in (model[0], model[2]):
            layer.gain.uniform_(0.5, 1.5)
    agree(model, torch.randn(6, 4, 9, 7), images)
