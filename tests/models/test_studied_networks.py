"""VGG, SqueezeNet, mobile network, MoNet and SegResNet without normalisation: what holds for each of them."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.agreement import images_for
from tests.compiler.test_protocol import rehearsed
from torch import Tensor, nn
from torch.nn import functional

from primum.clipping import Clipper, validate
from primum.clipping.factors import MARGIN
from primum.compiler import Wish, compile_module, drawn_images
from primum.errors import ModelError
from primum.models.learned import Learned, first_weights, settings_of, weight_count
from primum.models.mobile import MobileNetwork
from primum.models.monet import MoNet
from primum.models.segresnet import SegResNet
from primum.models.squeeze import SqueezeNetwork
from primum.models.vgg import Vgg
from primum.rng import Stream
from primum.study import Study
from primum.tasks.plan import Plan

SMALL: dict[str, Learned] = {
    kind: settings_of({"kind": kind, **more})
    for kind, more in {
        "vgg": {"widths": (3, 4), "blocks": (1, 2), "pooling": "average"},
        "squeeze-network": {"widths": (4, 5)},
        "mobile-network": {"widths": (3, 4), "blocks": 1, "expansion": 2},
        "mo-net": {"widths": (3, 4)},
        "seg-resnet": {"widths": (3, 4), "blocks": (1, 1)},
    }.items()
}
MASKS = ("mo-net", "seg-resnet")
FULL: dict[str, Callable[[], nn.Module]] = {
    "vgg": lambda: Vgg(1, 64, 1),
    "squeeze-network": lambda: SqueezeNetwork(1, 64, 1),
    "mobile-network": lambda: MobileNetwork(1, 1),
    "mo-net": lambda: MoNet(1, 64, 1),
    "seg-resnet": lambda: SegResNet(1, 64, 1),
}
SIZES = (8, 15, 16, 20, 31, 32, 100)
SMALLEST = {"vgg": 32, "squeeze-network": 16, "mobile-network": 8, "mo-net": 8, "seg-resnet": 16}
STEP = {"mo-net": 4, "seg-resnet": 8}


def by_default(kind: str) -> Learned:
    """What a study asks for that names the kind alone."""
    about = {
        "name": "a",
        "purpose": "b",
        "classes": ("c", "d"),
        "task": "segmentation" if kind in MASKS else "classification",
    }
    return Plan(
        Study.model_validate({"study": about, "model": {"kind": kind}, "hospitals": {}, "aggregation": {}})
    ).learned


def drawn(name: str, size: int, outputs: int) -> nn.Module:
    """A small network at weights of which none is zero, and whose answers differ."""
    module = SMALL[name].module((1, size, size), outputs)
    first_weights(module, name)
    stream = Stream.public(f"moved {name}")
    with torch.no_grad():
        for value in module.parameters():
            value += 0.3 * (torch.from_numpy(stream.uniform(tuple(value.shape))).float() - 0.5)
        list(module.parameters())[-2].mul_(10)
    return module


def loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of each picture."""
    each = functional.cross_entropy(outputs, targets, reduction="none")
    return each.flatten(1).mean(1) if each.ndim > 1 else each


def single_gradients(module: nn.Module, inputs: Tensor, targets: Tensor) -> Tensor:
    """Each example's gradient by itself, float64 [n, weights]."""
    rows = []
    for row in range(len(inputs)):
        value = loss(module(inputs[row : row + 1]), targets[row : row + 1]).sum()
        parts = torch.autograd.grad(value, list(module.parameters()))
        rows.append(torch.cat([part.flatten() for part in parts]).double())
    return torch.stack(rows)


@pytest.mark.parametrize("name", SMALL)
@settings(max_examples=2, deadline=None)
@given(seed=st.integers(0, 2**31), below=st.integers(0, 4))
def test_clipped_sums_are_those_of_a_loop_over_examples(name: str, seed: int, below: int) -> None:
    """With a norm that `below` of five examples do not reach."""
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(5, 1, 16, 16, generator=generator)
    targets = torch.randint(0, 3, (5, 16, 16) if name in MASKS else (5,), generator=generator)
    module = drawn(name, 16, 3)
    rows = single_gradients(module, inputs, targets)
    norm = float(rows.norm(dim=1).sort().values[below]) * 1.0001
    clipper = Clipper(module, loss, norm)
    clipper.add(inputs, targets)
    wanted = (rows * (norm * (1 - MARGIN) / rows.norm(dim=1, keepdim=True)).clamp_max(1)).sum(0)
    assert float((clipper.take() - wanted).norm()) <= 1e-5 * float(wanted.norm())
    assert clipper.without_rule is None
    assert validate(module, inputs) == []


@pytest.mark.parametrize("name", SMALL)
def test_encrypted_logits_are_the_plain_ones(name: str) -> None:
    module = drawn(name, 8, 2)
    compiled = compile_module(module, (1, 8, 8), Wish(images=drawn_images((1, 8, 8), 4)))
    images = images_for((1, 8, 8), 2)
    with torch.no_grad():
        plain = module(torch.from_numpy(images).float()).numpy()
    np.testing.assert_allclose(rehearsed(compiled, images).reshape(plain.shape), plain, rtol=0, atol=0.01)
    assert float(np.ptp(plain)) > 0.1


@pytest.mark.parametrize("kind", FULL)
def test_the_docstring_counts_the_weights_of_the_default(kind: str) -> None:
    with torch.device("meta"):
        module, asked = FULL[kind](), by_default(kind).module((1, 64, 64), 1)
    text = " ".join((module.__doc__ or "").split())
    counts = re.findall(r"([\d,]+) weights for one channel and one output", text)
    assert type(asked) is type(module)
    assert counts == [f"{weight_count(module):,}"] == [f"{weight_count(asked):,}"]


@pytest.mark.parametrize("kind", FULL)
def test_every_size_gives_an_answer_or_is_refused_by_name(kind: str) -> None:
    settings_, refused = by_default(kind), []
    with torch.device("meta"):
        for size in SIZES:
            try:
                module = settings_.module((3, size, size), 4)
            except ModelError as error:
                assert f"{size} pixels a side cannot be halved" in error.message
                refused.append(size)
                continue
            expected = (2, 4, size, size) if kind in MASKS else (2, 4)
            assert module(torch.empty(2, 3, size, size)).shape == expected
    assert refused == [size for size in SIZES if size < SMALLEST[kind] or size % STEP.get(kind, 1)]


@pytest.mark.parametrize("kind", FULL)
def test_signals_keep_their_size_at_the_first_weights_and_the_answer_is_zero(kind: str) -> None:
    module = by_default(kind).module((1, 64, 64), 2)
    first_weights(module, "lungs")
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    found: list[float] = []
    layers[-1].register_forward_pre_hook(lambda layer, inputs: found.append(float(inputs[0].detach().square().mean())))
    for layer in layers[:-1]:
        layer.register_forward_hook(lambda layer, inputs, output: found.append(float(output.detach().std())))
    pictures = torch.randn(2, 1, 64, 64, generator=torch.Generator().manual_seed(0))
    assert not module(pictures).any()
    assert 0.15 < min(found) <= max(found) < 2.5, found


@pytest.mark.parametrize(
    ("settings_", "says"),
    [
        ({"kind": "vgg", "widths": (4, 8), "blocks": (1,)}, r"blocks \(1,\) for widths \(4, 8\)"),
        ({"kind": "vgg", "widths": (1,), "blocks": (1,)}, r"widths \(1,\)"),
        ({"kind": "seg-resnet", "widths": (4, 8), "blocks": (1, 2, 3)}, r"blocks \(1, 2, 3\) for widths \(4, 8\)"),
        ({"kind": "squeeze-network", "widths": (1, 4)}, r"widths \(1, 4\)"),
        ({"kind": "mobile-network", "widths": (4,), "blocks": 0}, "0 blocks"),
        ({"kind": "mobile-network", "widths": (4,), "expansion": 0}, "widen 0 times"),
    ],
)
def test_what_cannot_be_built_is_refused(settings_: dict[str, object], says: str) -> None:
    with pytest.raises(ModelError, match=says):
        settings_of(settings_).module((1, 32, 32), 2)
