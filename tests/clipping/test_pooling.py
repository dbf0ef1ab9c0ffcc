"""Max pools of ours are the library's, forth and back, and nothing else is taken for one."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from primum.clipping import Clipper, pooling, timing, winograd


@pytest.fixture(autouse=True)
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pooling, "_LEAST", 1)
    monkeypatch.setattr(timing, "quickest", lambda key, ways, inputs: "ours" if "ours" in ways else next(iter(ways)))


def library(_: Tensor) -> Tensor:
    raise AssertionError("ours was to be taken")


@pytest.mark.parametrize("side", [2, 3, (3, 3)])
@pytest.mark.parametrize("around", [0, 1, (1, 1)])
@pytest.mark.parametrize("size", [(3, 4), (8, 8), (17, 40), (24, 9)])
def test_a_pool_is_the_librarys(side: Any, around: Any, size: tuple[int, int]) -> None:
    torch.manual_seed(3)
    inputs = torch.randn(3, 5, *size).relu().requires_grad_()
    found, wanted = pooling.pooled(inputs, side, 2, around, library), functional.max_pool2d(inputs, side, 2, around)
    assert torch.equal(found, wanted)
    slopes = torch.randn_like(wanted)
    assert torch.equal(*(torch.autograd.grad(y, inputs, slopes, retain_graph=True)[0] for y in (found, wanted)))
    second = []
    for y in (found, wanted):
        (slope,) = torch.autograd.grad(y.pow(3).sum(), inputs, create_graph=True)
        second.append(torch.autograd.grad(slope.square().sum(), inputs)[0])
    assert torch.equal(*second)


def test_inputs_that_lie_otherwise_in_memory() -> None:
    inputs = torch.randn(2, 8, 10, 12).to(memory_format=torch.channels_last).requires_grad_()
    found = pooling.pooled(inputs, 2, None, 0, library)
    assert torch.equal(found, functional.max_pool2d(inputs, 2))
    assert torch.equal(
        *(torch.autograd.grad(y.square().sum(), inputs)[0] for y in (found, functional.max_pool2d(inputs, 2)))
    )


@pytest.mark.parametrize(
    ("settings", "inputs"),
    [
        ({"kernel_size": 4, "stride": 2}, torch.randn(2, 3, 8, 8)),
        ({"kernel_size": 2, "stride": 1}, torch.randn(2, 3, 8, 8)),
        ({"kernel_size": (2, 3), "stride": 2}, torch.randn(2, 3, 8, 8)),
        ({"kernel_size": 3, "stride": 2, "dilation": 2}, torch.randn(2, 3, 9, 9)),
        ({"kernel_size": 2, "ceil_mode": True}, torch.randn(2, 3, 7, 7)),
        ({"kernel_size": 3, "stride": 2, "padding": (0, 1)}, torch.randn(2, 3, 8, 8)),
        ({"kernel_size": 2}, torch.randn(2, 3, 8, 8, dtype=torch.float64)),
    ],
)
def test_other_pools_stay_the_librarys(
    monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any], inputs: Tensor
) -> None:
    monkeypatch.setattr(pooling, "_largest", library)
    pool = nn.MaxPool2d(**settings)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), pool, nn.Flatten(), nn.LazyLinear(1)).to(inputs.dtype)
    model(inputs)
    Clipper(model, lambda outputs, _: outputs.square().mean(1), 1.0).add(inputs, torch.zeros(len(inputs)))


def test_a_network_with_pools_agrees_with_single_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    ours = pooling._largest
    monkeypatch.setattr(pooling, "_largest", lambda *given: asked.append(given) or ours(*given))
    torch.manual_seed(4)
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 4, 3), nn.MaxPool2d(3, 2, 1), nn.Flatten(), nn.LazyLinear(2)
    )  # fmt: skip
    inputs, targets = torch.randn(7, 1, 18, 21), torch.randint(2, (7,))
    model(inputs)
    clipper = Clipper(model, lambda y, t: functional.cross_entropy(y, t, reduction="none"), 1e9)
    clipper.add(inputs, targets)
    found = clipper.take()
    assert asked
    model.zero_grad()
    functional.cross_entropy(model(inputs), targets, reduction="sum").backward()
    wanted = torch.cat([parameter.grad.reshape(-1) for parameter in model.parameters() if parameter.grad is not None])
    assert float((found - wanted).norm()) < 1e-5 * float(wanted.norm())


def test_masked_places_at_the_border_are_the_librarys() -> None:
    """-inf in whole windows: slopes, and slopes of slopes, stay in their own picture."""
    torch.manual_seed(3)
    inputs = torch.randn(3, 2, 9, 9)
    inputs[1, :, :5, :5] = -torch.inf
    inputs.requires_grad_()
    found, wanted = pooling.pooled(inputs, 3, 2, 1, library), functional.max_pool2d(inputs, 3, 2, 1)
    slopes = torch.randn_like(wanted)
    for again in (False, True):
        pair = [
            torch.autograd.grad(y, inputs, slopes, retain_graph=True, create_graph=again)[0] for y in (found, wanted)
        ]
        assert torch.equal(*pair)


def test_timing_a_pool_shows_nobody_a_slope(monkeypatch: pytest.MonkeyPatch) -> None:
    """A convolution before it waits for its own; a branch without a part in the loss has none."""
    monkeypatch.undo()
    monkeypatch.setattr(pooling, "_LEAST", 1)
    monkeypatch.setattr(timing, "known", {})
    seen: list[Tensor] = []
    inputs = torch.randn(2, 3, 8, 8, requires_grad=True)
    before = inputs * 2
    before.register_hook(seen.append)
    pooling.pooled(before, 2, None, 0, lambda values: functional.max_pool2d(values, 2))
    assert timing.known and not seen


class Around(nn.Module):
    """A convolution and a pool, called through something of autograd's."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3, padding=1), nn.Linear(16, 2)
        self.kind = kind

    def inner(self, x: Tensor) -> Tensor:
        return functional.max_pool2d(self.second(x), 2)

    def forward(self, x: Tensor) -> Tensor:
        h = torch.tanh(self.first(x))
        if self.kind == "checkpoint":
            return self.last(checkpoint(self.inner, h, use_reentrant=False).mean((2, 3)))
        if self.kind == "dual":
            with forward_ad.dual_level():
                moved = functional.max_pool2d(forward_ad.make_dual(h, torch.ones_like(h)), 2)
                return self.last(sum(forward_ad.unpack_dual(moved)).mean((2, 3)))
        y = functional.max_pool2d(h, 2)
        with torch.enable_grad():
            z = y if y.requires_grad else functional.max_pool2d(h.requires_grad_(), 2)
            many = torch.stack([torch.ones_like(z), 2 * torch.ones_like(z)])
            slopes = torch.autograd.grad(z, h, many, retain_graph=True, is_grads_batched=True)[0]
        return self.last(y.mean((2, 3)) + slopes.sum((0, 3, 4)) / 100)


@pytest.mark.filterwarnings("ignore:`torch.jit.script`:DeprecationWarning")  # torch's own, for dual numbers
@pytest.mark.parametrize("kind", ["checkpoint", "dual", "batched"])
def test_what_autograd_can_do_besides_still_works(monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """And by the quick rules: the library's ways are taken there."""
    monkeypatch.setattr(winograd, "_LEAST_WORK", 1)
    monkeypatch.setattr(
        timing, "quickest", lambda key, ways, inputs: next(n for n in ("ours", "tiles", *ways) if n in ways)
    )
    torch.manual_seed(5)
    model, inputs, targets = Around(kind), torch.randn(6, 3, 10, 10), torch.randint(2, (6,))
    clipper = Clipper(model, lambda y, t: functional.cross_entropy(y, t, reduction="none"), 1e9)
    clipper.add(inputs, targets)
    found = clipper.take()
    model.zero_grad()
    functional.cross_entropy(model(inputs), targets, reduction="sum").backward()
    parameters = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
    wanted = torch.cat([gradient.reshape(-1) for gradient in parameters])
    assert float((found - wanted).norm()) < 1e-5 * float(wanted.norm())
    assert clipper.without_rule is None
