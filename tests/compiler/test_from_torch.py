"""Modules through torch.export: what is read says what the module says, and so does the program."""

import numpy as np
import pytest
import torch
from tests.compiler.agreement import answers_of, images_for, require_fixed, require_same, settled
from torch import nn
from torch.nn import functional

from primum.compiler.from_torch import graph_of_module
from primum.errors import ModelError

SHAPE = (3, 14, 14)


class Written(nn.Module):
    """A module whose forward is a function of its parts and the image."""

    def __init__(self, forward, *parts):
        super().__init__()
        self.written, self.parts = forward, nn.ModuleList(parts)

    def forward(self, x):
        return self.written(self.parts, x)


class Standardised(nn.Module):
    """A convolution whose weights are standardised on the way, with a gain: constants, when exported."""

    def __init__(self):
        super().__init__()
        self.weight, self.gain = nn.Parameter(torch.randn(6, 3, 3, 3)), nn.Parameter(torch.ones(6, 1, 1, 1))

    def forward(self, x):
        mean, deviation = self.weight.mean((1, 2, 3), keepdim=True), self.weight.std((1, 2, 3), keepdim=True)
        return functional.relu(functional.conv2d(x, self.gain * (self.weight - mean) / deviation, padding=1))


def conv(inputs, outputs, kernel=3, **more):
    return nn.Conv2d(inputs, outputs, kernel, **more)


def gated(parts, x):
    y = parts[0](x)
    gate = torch.sigmoid(parts[2](functional.relu(parts[1](functional.adaptive_avg_pool2d(y, 1)))))
    return parts[3](y * gate)


def in_place(parts, x):
    y = parts[0](x)
    y.relu_()
    y += 1.0
    return parts[1](y) - parts[1](-y)


MODULES = {
    "stride and dilation": lambda: nn.Sequential(
        conv(3, 6, stride=2, padding=1), nn.ReLU(), conv(6, 4, dilation=2), nn.Flatten(), nn.Linear(36, 5)
    ),
    "depthwise, ReLU6, same": lambda: nn.Sequential(
        conv(3, 6),
        nn.BatchNorm2d(6),
        conv(6, 6, groups=6, bias=False),
        nn.ReLU6(),
        conv(6, 6, 3, groups=2, padding="same"),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(6, 3),
    ),
    "transposed": lambda: nn.Sequential(
        conv(3, 6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3, 2, 1, 1, groups=2), nn.ReLU(), conv(4, 2)
    ),
    "axes in another order": lambda: Written(
        lambda p, x: p[1](p[0](x).permute(0, 2, 3, 1).relu().transpose(1, 2).flatten(1)), conv(3, 2), nn.Linear(288, 3)
    ),
    "leaky and parametric": lambda: nn.Sequential(conv(3, 6), nn.LeakyReLU(0.1), conv(6, 4), nn.PReLU(4), conv(4, 2)),
    "clip": lambda: nn.Sequential(conv(3, 6), nn.Hardtanh(-0.3, 0.2), conv(6, 4)),
    "hard swish and sigmoid": lambda: nn.Sequential(
        conv(3, 6), nn.Hardswish(), conv(6, 4), nn.Hardsigmoid(), conv(4, 2)
    ),
    "curves": lambda: nn.Sequential(conv(3, 4), nn.SiLU(), conv(4, 4), nn.GELU(), conv(4, 3), nn.Tanh(), conv(3, 2)),
    "pools": lambda: nn.Sequential(
        conv(3, 6),
        nn.MaxPool2d(3, 2, 1, ceil_mode=True),
        conv(6, 4),
        nn.ReLU(),
        nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False),
        conv(4, 3, 1),
        nn.AvgPool2d(3, 1, 1),
    ),
    "sums and scalars": lambda: Written(
        lambda m, x: m[1](m[0](x) * 0.5 - 2.0 * m[2](m[0](x).mean((2, 3), keepdim=True)).relu() + 1.25),
        conv(3, 6),
        conv(6, 2),
        conv(6, 6, 1),
    ),
    "squeeze and excitation": lambda: Written(gated, conv(3, 6), conv(6, 3, 1), conv(3, 6, 1), conv(6, 2)),
    "concatenation and slices": lambda: Written(
        lambda m, x: m[1](torch.cat([m[0](x).relu(), functional.max_pool2d(m[0](x), 3, 1, 1), m[0](x)[:, ::2]], 1)),
        conv(3, 6),
        conv(15, 2),
    ),
    "split and chunk": lambda: Written(
        lambda m, x: torch.cat([m[1](part) for part in m[0](x).relu().chunk(2, 1)], 1), conv(3, 6), conv(3, 2)
    ),
    "resizing": lambda: Written(
        lambda m, x: m[1](
            functional.interpolate(m[0](x), scale_factor=2, mode="bilinear").relu()
            + functional.interpolate(m[0](x), scale_factor=2)
        ),
        conv(3, 6),
        conv(6, 2),
    ),
    "resizing to corners": lambda: Written(
        lambda m, x: m[1](functional.interpolate(m[0](x).relu(), size=(23, 21), mode="bilinear", align_corners=True)),
        conv(3, 6),
        conv(6, 2),
    ),
    "padding and cropping": lambda: Written(
        lambda m, x: functional.pad(m[1](functional.pad(m[0](x), (1, 2, 0, 1)).relu()), (-1, 1, 2, 0)),
        conv(3, 6),
        conv(6, 2),
    ),
    "product": lambda: Written(lambda m, x: m[1](m[0](x) * m[0](x).relu()), conv(3, 6), conv(6, 2)),
    "in place": lambda: Written(in_place, conv(3, 6), conv(6, 2)),
    "batch norm alone": lambda: nn.Sequential(
        nn.BatchNorm2d(3),
        nn.ReLU(),
        conv(3, 4, padding=1),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(4),
        conv(4, 2, padding=1),
        nn.Dropout(),
    ),
    "standardised weights": lambda: nn.Sequential(Standardised(), conv(6, 2)),
    "flat batch norm": lambda: nn.Sequential(
        nn.Flatten(), nn.Linear(588, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3), nn.LogSoftmax(1)
    ),
    "constants for every place": lambda: Written(
        lambda m, x: m[0](x + torch.linspace(0, 1, 196, dtype=x.dtype).reshape(14, 14)), conv(3, 2)
    ),
}


@pytest.mark.parametrize("build", MODULES.values(), ids=MODULES.keys())
def test_a_module_its_graph_and_its_program_agree(build):
    torch.manual_seed(0)
    module, images = settled(build(), SHAPE), images_for(SHAPE)
    graph = graph_of_module(module, SHAPE)
    require_same(graph, images, answers_of(module, images))
    compiled = require_fixed(graph, images)
    assert compiled.program.bits == 40


@pytest.mark.parametrize(("last", "ending"), [(nn.Softmax(1), "softmax"), (nn.LogSoftmax(1), "log_softmax"), (nn.Sigmoid(), "sigmoid"), (nn.Identity(), "none")])  # fmt: skip
def test_the_ending_is_split_off(last, ending):
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), last).double()
    graph, images = graph_of_module(module, (3, 2, 2)), images_for((3, 2, 2))
    assert graph.ending == ending
    require_same(graph, images, answers_of(module, images))


def test_a_module_stays_as_it_is():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout())
    module[2].eval()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    graph_of_module(module, (1, 5, 5))
    assert [part.training for part in module] == [True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())


def test_an_argument_that_is_left_out_is_not_the_image():
    class Optional(nn.Module):
        def forward(self, x, gain=None, scale=2.0):
            return functional.relu(x) * scale if gain is None else gain

    images = images_for((3, 4, 4))
    require_same(graph_of_module(Optional(), (3, 4, 4)), images, np.maximum(images, 0) * 2.0)


def test_all_that_is_not_supported_is_named_at_once():
    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm, self.group = nn.Conv2d(3, 4, 3), nn.LayerNorm([4, 12, 12]), nn.GroupNorm(2, 4)

        def forward(self, x):
            y = self.group(self.norm(self.first(x)))
            return torch.cumsum(functional.pad(y, (1, 1, 1, 1), mode="reflect").exp(), 1)

    with pytest.raises(ModelError) as caught:
        graph_of_module(Odd(), (3, 14, 14))
    said = str(caught.value)
    for part in ("layer_norm", "group_norm", "reflection", "exp", "cumsum", "norm-free", "at norm", "at group"):
        assert part in said


def test_softmax_in_the_middle_is_refused():
    module = nn.Sequential(nn.Flatten(), nn.Linear(12, 3), nn.Softmax(1), nn.Linear(3, 2))
    with pytest.raises(ModelError, match="very end"):
        graph_of_module(module, (3, 2, 2))


def test_what_cannot_be_exported_or_returns_too_much_is_refused():
    branching = Written(lambda m, x: m[0](x) if x.sum() > 0 else x, nn.Conv2d(3, 3, 1))
    with pytest.raises(ModelError, match="cannot be exported"):
        graph_of_module(branching, (3, 4, 4))
    with pytest.raises(ModelError, match="2 outputs"):
        graph_of_module(Written(lambda m, x: (m[0](x), x), nn.Conv2d(3, 3, 1)), (3, 4, 4))


def test_a_graph_prints_no_weight():
    module = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).eval()
    nn.init.constant_(module[0].weight, 0.123456)
    assert "0.1234" not in repr(graph_of_module(module, (1, 5, 5)))
    assert not np.array_equal(module[0].weight.detach().numpy(), 0)
