"""Compiled models through the protocol itself: dealer, A and B, message by message."""

import numpy as np
import pytest
from bench.published import PUBLISHED
from tests.compiler.agreement import images_for, weights_like
from tests.compiler.test_published import SMALL

from primum.compiler.compiled import Wish, compile_graph, squeezed
from primum.compiler.from_onnx import graph_of_bytes
from primum.compiler.graph import (
    Clip,
    Convolution,
    Curve,
    Graph,
    Interpolate,
    Leaky,
    MaxPool,
    Multiply,
    Pad,
    Rectify,
    Sum,
)
from primum.compiler.ranges import drawn_images
from primum.mpc.rehearsal import Rehearsal
from primum.ring import to_signed


def rehearsed(compiled, images):
    """What the data owner reads."""
    program = compiled.program
    outputs, _ = Rehearsal(program, compiled.weights).run(compiled.encode_input(images))
    whole = to_signed(outputs.astype(np.uint64), program.answer_bits).astype(np.float64)
    return squeezed(np.ldexp(whole, -program.answer_fraction).transpose(0, 3, 1, 2))


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_network_under_encryption(name):
    size, classes, width = SMALL[name]
    graph = graph_of_bytes(PUBLISHED[name](size, classes, width).SerializeToString())
    compiled = compile_graph(graph, Wish(images=drawn_images(graph.shape, 4)))
    images = images_for(graph.shape, 2)
    plain, got = compiled.plain(images), rehearsed(compiled, images)
    np.testing.assert_allclose(got, plain, rtol=0, atol=0.01)


def _everything():
    """One node of each kind that the published networks do not have."""
    weight = weights_like((4, 2, 3, 3))
    nodes = (
        Convolution("c", ("image",), weight, np.zeros(4)),
        MaxPool("max", ("c",), (3, 3), (1, 1), (1, 1, 1, 1)),
        Leaky("leaky", ("max",), 0.1),
        Curve("silu", ("c",), "silu"),
        Clip("clip", ("c",), -0.3, 0.4),
        Clip("bounded", ("c",), -0.1, 0.2, np.array([1.0, 2.0, 4.0, 1.0])),
        Multiply("product", ("silu", "clip")),
        Sum("sum", ("product", "leaky", "c", "bounded"), (1, -1, 1, 1)),
        Interpolate("larger", ("sum",), (9, 11)),
        Pad("padded", ("larger",), (1, 0, 0, 2), (1, 1)),
        Rectify("relu", ("padded",)),
        Convolution("last", ("relu",), weights_like((3, 4, 2, 2)), np.array([0.0, 0.3, 0.6]), (2, 1)),
    )
    return Graph("image", (2, 8, 8), nodes, "last")


@pytest.mark.parametrize("only_class", [False, True])
def test_every_kind_of_node_under_encryption(only_class):
    compiled = compile_graph(_everything(), Wish(only_class=only_class))
    images = images_for((2, 8, 8), 3)
    plain, got = compiled.plain(images), rehearsed(compiled, images)
    if only_class:
        assert (got == plain).all(1).mean() > 0.97
    else:
        np.testing.assert_allclose(got, plain, rtol=0, atol=3e-3)
