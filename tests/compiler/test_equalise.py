"""Channels of very different magnitude: the same function, and the logits of a model whose channels are alike."""

import numpy as np
import pytest
import torch
from bench import channels
from bench.published import PUBLISHED
from tests.compiler.agreement import images_for, require_fixed, settled, weights_like
from torch import nn

from primum.compiler import equalise
from primum.compiler.compiled import Wish, compile_graph
from primum.compiler.equalise import equalised, peaks
from primum.compiler.evaluate import evaluate
from primum.compiler.from_onnx import graph_of_bytes
from primum.compiler.from_torch import graph_of_module
from primum.compiler.graph import Clip, Concatenate, Convolution, Graph, Rectify, Sum
from primum.compiler.ranges import drawn_images
from primum.compiler.simplify import simplify
from primum.errors import ModelError
from primum.mpc.check import cost
from primum.mpc.program import Add, Bias

SHAPE = (3, 12, 12)
WISH = Wish(images=drawn_images(SHAPE, 8))


def depthwise(activation=nn.ReLU):
    return (
        *(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), activation()),
        *(nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), activation()),
        *(nn.Conv2d(8, 6, 1, bias=False), nn.BatchNorm2d(6), activation(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(54, 3)),
    )


def apart(layers, bits):
    """Channels times 2^-bits to 2^bits behind batch norms, undone by the weights behind."""
    made = settled(nn.Sequential(*layers), SHAPE)
    weighted = [layer for layer in made if hasattr(layer, "weight")]
    for norm, behind in zip(weighted[1::2], weighted[2::2], strict=True):
        factors = 2.0 ** torch.linspace(-bits, bits, len(norm.weight), dtype=torch.float64)
        norm.weight.data *= factors
        norm.bias.data *= factors
        if isinstance(behind, nn.Linear):
            behind.weight.data /= factors.repeat_interleave(9)
        else:
            behind.weight.data /= factors.reshape((-1, 1, 1) if behind.groups == 1 else (-1, 1, 1, 1))
    return graph_of_module(made, SHAPE)


def test_the_same_function_with_channels_near_one_magnitude():
    torch.manual_seed(0)
    graph, images = simplify(apart(depthwise(), 4)), images_for(SHAPE)
    made = equalised(graph, WISH.images)
    np.testing.assert_allclose(evaluate(made, images), evaluate(graph, images), rtol=1e-12, atol=1e-12)
    before, after = (peaks(one, WISH.images) for one in (graph, made))
    inner = [node.name for node in graph.nodes if isinstance(node, Convolution)][:-1]
    assert len(inner) == 3
    for name in inner:
        assert before[name].max() / before[name].min() > 2.0**6
        assert after[name].max() / after[name].min() < 2.0 ** (equalise.MARGIN_BITS + 2)
        assert after[name].max() == before[name].max()


def test_a_model_that_no_ring_was_precise_enough_for_compiles(monkeypatch):
    torch.manual_seed(0)
    graph = apart(depthwise(), 9)
    compiled = compile_graph(graph, WISH)
    assert compiled.program.bits == 40 and compiled.agreement.error < 2e-3
    monkeypatch.setattr("primum.compiler.compiled.equalised", lambda graph, images: graph)
    with pytest.raises(ModelError, match="a logit differs"):
        compile_graph(graph, Wish(images=WISH.images, tolerance=compiled.agreement.error * 4))


def test_nothing_passes_what_does_not_keep_factors():
    torch.manual_seed(0)
    graph = simplify(apart(depthwise(nn.SiLU), 6))
    assert equalised(graph, WISH.images).nodes == graph.nodes


@pytest.mark.parametrize("activation", [nn.ReLU6, lambda: nn.Hardtanh(-0.5, 0.5)], ids=["ReLU6", "Hardtanh"])
def test_clips_pass_with_a_secret_bound_for_each_channel(activation):
    """Also bounds that no value reaches; at the same cost, and no bound of a channel stands in the program."""
    torch.manual_seed(0)
    graph, images = simplify(apart(depthwise(activation), 4)), images_for(SHAPE)
    made = equalised(graph, WISH.images)
    np.testing.assert_allclose(evaluate(made, images), evaluate(graph, images), rtol=1e-12, atol=1e-12)
    clips = [node for node in made.nodes if isinstance(node, Clip)]
    assert len(clips) == 3 and all(len(set(node.factors)) > 2 for node in clips)
    assert all("factors" not in repr(node) for node in clips)
    compiled = require_fixed(graph, images, 1e-3)
    lower = any(node.low for node in clips)
    assert sum(isinstance(step, Bias) for step in compiled.program.operations) == 3 * (3 if lower else 1)
    assert not any(isinstance(step, Add) and step.constant for step in compiled.program.operations)
    assert cost(compiled.program) == cost(without(graph).program)


def without(graph):
    """Compiled as the channels are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("primum.compiler.compiled.equalised", lambda graph, images: graph)
        return compile_graph(graph, Wish(images=drawn_images(graph.shape, 8), tolerance=1.0))


class Joined(nn.Module):
    """A trunk of channels of any magnitude, to which a branch is added, or beside which it is read."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.one, self.two = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 1)
        self.last = nn.Conv2d(8 if how == "beside" else 4, 2, 3)
        self.factors = nn.Parameter(2.0 ** torch.tensor([-6.0, 6.0, 0.0, -3.0])[:, None, None])

    def forward(self, x):
        trunk = self.one(x) * self.factors
        branch = self.two((trunk / self.factors).relu()) * self.factors
        if self.how == "squared":
            branch = branch * branch
        if self.how == "of one channel":
            branch = branch[:, :1]
        both = torch.cat([trunk, branch], 1) if self.how == "beside" else trunk - branch
        return self.last(both / (torch.cat([self.factors] * 2) if self.how == "beside" else self.factors))


WAYS = {"added": True, "beside": True, "squared": False, "of one channel": False}


@pytest.mark.parametrize("how", WAYS)
def test_what_is_joined_shares_its_factors(how):
    torch.manual_seed(0)
    graph, images = simplify(graph_of_module(Joined(how).double(), SHAPE)), images_for(SHAPE)
    made = equalised(graph, WISH.images)
    np.testing.assert_allclose(evaluate(made, images), evaluate(graph, images), rtol=1e-10, atol=1e-12)
    before, after = (peaks(one, WISH.images) for one in (graph, made))
    joined = next(node for node in graph.nodes if isinstance(node, Sum | Concatenate))
    spread, less = (found[joined.name].max() / found[joined.name].min() for found in (before, after))
    assert (less < spread / 2**4) == WAYS[how]
    assert after[joined.name].max() <= before[joined.name].max()
    if WAYS[how]:
        assert require_fixed(graph, images, 1e-3).agreement.error < 0.5 * without(graph).agreement.error


def test_mobile_net_with_channels_apart_is_about_as_exact_as_with_channels_alike():
    """Bottlenecks, added and not, times 2^-6 to 2^6, undone behind: the same function."""
    graph = simplify(graph_of_bytes(PUBLISHED["mobilenet"](32, 4, 8, np.float64).SerializeToString()))
    spread, images = channels.apart(graph, 6.0, sums=True, clips=False), images_for(graph.shape, 4)
    np.testing.assert_allclose(evaluate(spread, images), evaluate(graph, images), atol=1e-12)

    def error_of(made):
        """Root mean square of several runs: what is cut off is random, and the largest of a few varies threefold."""
        return np.sqrt(np.mean([np.square(made.fixed(images) - made.plain(images)) for _ in range(5)]))

    error, alike, before = map(error_of, (compile_graph(spread), compile_graph(graph), without(spread)))
    assert error < 3 * alike and error < before / 2


@pytest.mark.parametrize("wakes", [True, False])
def test_a_channel_that_sleeps_on_the_images_keeps_its_room(wakes):
    """Behind a ReLU6 that let nothing pass there is a bias alone; where the weights are small too, it stays small."""
    bias = np.array([-5.0, 0.5, 0.5, 0.5])
    sizes = np.array([1.0 if wakes else 2.0**-9, 1.0, 1.0, 1.0]).reshape(4, 1, 1, 1)
    nodes = (
        Convolution("first", ("image",), weights_like((4, 3, 3, 3)), bias),
        Clip("bounded", ("first",), 0.0, 6.0),
        Convolution(
            "deep", ("bounded",), weights_like((4, 1, 3, 3)) * sizes, np.array([2.0**-9, 0.1, 0.1, 0.1]), groups=4
        ),
        Rectify("relu", ("deep",)),
        Convolution("last", ("relu",), weights_like((2, 4, 3, 3)), np.zeros(2)),
    )
    graph = Graph("image", SHAPE, nodes, "last")
    before, after = (peaks(one, WISH.images)["deep"] for one in (graph, equalised(graph, WISH.images)))
    assert before[0] == 2.0**-9 and (after[0] == before[0]) == wakes


def test_the_answer_stays_what_it_is():
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)

        def forward(self, x):
            y = self.one(x) * torch.tensor([1e-3, 1.0, 1e3])[:, None, None]
            return y + self.two(y.relu())

    torch.manual_seed(0)
    graph = simplify(graph_of_module(Residual().double(), SHAPE))
    assert equalised(graph, WISH.images).nodes == graph.nodes


def test_an_answer_that_a_convolution_reads_too_is_not_scaled():
    torch.manual_seed(0)
    graph = simplify(apart(depthwise(), 6))
    first = next(node.name for node in graph.nodes if isinstance(node, Convolution))
    early = graph.with_nodes(graph.nodes, first)
    np.testing.assert_array_equal(evaluate(equalised(early, WISH.images), WISH.images), evaluate(early, WISH.images))
