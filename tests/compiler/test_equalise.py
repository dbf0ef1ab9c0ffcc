"""Channels of very different magnitude: the same function, and the logits of a model whose channels are alike."""

import numpy as np
import pytest
import torch
from tests.compiler.agreement import images_for, settled
from torch import nn

from primum.compiler import equalise
from primum.compiler.compiled import Wish, compile_graph
from primum.compiler.equalise import equalised, peaks
from primum.compiler.evaluate import evaluate
from primum.compiler.from_torch import graph_of_module
from primum.compiler.graph import Convolution
from primum.compiler.ranges import drawn_images
from primum.compiler.simplify import simplify
from primum.errors import ModelError

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


@pytest.mark.parametrize("activation", [nn.ReLU6, nn.SiLU])
def test_nothing_passes_what_does_not_keep_factors(activation):
    torch.manual_seed(0)
    graph = simplify(apart(depthwise(activation), 6))
    assert equalised(graph, WISH.images).nodes == graph.nodes


def test_nothing_passes_a_sum_and_the_answer_stays_what_it_is():
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
