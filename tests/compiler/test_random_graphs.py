"""Graphs that nobody thought of: drawn node by node, simplified, lowered, and run in whole numbers."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.compiler.agreement import images_for, weights_like

from primum.compiler.builder import Builder
from primum.compiler.compiled import Wish, compile_graph
from primum.compiler.evaluate import evaluate
from primum.compiler.ranges import drawn_images
from primum.compiler.recorder import Symbol, Unsupported
from primum.compiler.simplify import simplify

SHAPE = (3, 6, 5)
CHANNELS = 4


def conv(b, x, draw):
    size = draw(st.integers(1, 3))
    groups = draw(st.sampled_from([1, b.shapes[x.name][0]]))
    inputs = b.shapes[x.name][0]
    outputs = inputs if groups > 1 else CHANNELS
    weight = weights_like((outputs, inputs // groups, size, size), f"{b.name()}")
    pads = draw(st.tuples(*[st.integers(0, 1)] * 4))
    stride = draw(st.sampled_from([(1, 1), (2, 1)]))
    return b.convolution(x, weight, weights_like((outputs,), b.name()), stride, pads, (1, 1), groups)


def pool(b, x, draw):
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 2)))
    stride = draw(st.sampled_from([(1, 1), (2, 2)]))
    pads = tuple(min(pad, kernel[at // 2] - 1) for at, pad in enumerate(draw(st.tuples(*[st.integers(0, 1)] * 4))))
    if draw(st.booleans()):
        return b.max_pool(x, kernel, stride, pads, (1, 1), draw(st.booleans()))
    return b.average_pool(x, kernel, stride, pads, draw(st.booleans()), draw(st.booleans()))


def norm(b, x, draw):
    count = b.shapes[x.name][0]
    scale, shift = (weights_like((count, 1, 1), f"{b.name()}{part}") for part in "ab")
    return b.affine(x, 1.0 + 0.3 * scale, 0.5 * shift)


def resized(b, x, draw):
    _, height, width = b.shapes[x.name]
    if draw(st.booleans()):
        return b.nearest(x, (2 * height, width))
    return b.bilinear(x, (draw(st.integers(1, 7)), draw(st.integers(1, 7))), draw(st.booleans()))


def moved(b, x, draw):
    channels, height, width = b.shapes[x.name]
    way = draw(st.integers(0, 3))
    if way == 3:
        return b.permute(x, (0, *draw(st.permutations([1, 2, 3]))))
    if way == 0:
        return b.pad(x, draw(st.tuples(*[st.integers(-1, 2)] * 4)))
    if way == 1:
        return b.slice(x, draw(st.integers(1, 3)), draw(st.integers(0, 1)), 99, draw(st.integers(1, 2)))
    return b.reshape(x, (1, channels, width, height))


def activation(b, x, draw):
    way = draw(st.integers(0, 7))
    if way < 3:
        return b.rectify(x)
    ways = [
        lambda: b.clip(x, -0.2, 0.5),
        lambda: b.leaky(x, 0.2),
        lambda: b.curve(x, draw(st.sampled_from(["silu", "gelu", "sigmoid", "tanh"]))),
        lambda: b.hard_swish(x),
        lambda: b.public_affine(x, draw(st.sampled_from([-1.0, 0.5, 0.3, 2.0])), 0.25),
    ]
    return ways[way - 3]()


def joined(b, x, other, draw):
    if b.shapes[x.name] == b.shapes[other.name]:
        ways = [lambda: b.sum(x, other, draw(st.sampled_from([1, -1]))), lambda: b.product(x, other)]
        ways.append(lambda: b.concatenate([x, other], draw(st.integers(1, 3))))
        return draw(st.sampled_from(ways))()
    return b.concatenate([x, other], 1)


SINGLE = (conv, conv, activation, activation, pool, norm, resized, moved)


@st.composite
def graphs(draw):
    """A graph of up to nine nodes of the builder; values that nobody reads are dropped by the simplifier."""
    b = Builder("image", SHAPE)
    values: list[Symbol] = [conv(b, b.input, draw)]
    for _ in range(draw(st.integers(1, 9))):
        x = draw(st.sampled_from(values[-2:]))
        try:
            if draw(st.integers(0, 3)) == 0:
                values.append(joined(b, x, draw(st.sampled_from(values)), draw))
            else:
                values.append(draw(st.sampled_from(SINGLE))(b, x, draw))
        except (Unsupported, ValueError):
            continue
    return b.finish(values[-1])


@settings(max_examples=60)
@given(graphs())
def test_a_random_graph_its_simplification_and_its_program_agree(graph):
    images = images_for(SHAPE, 3)
    plain = evaluate(graph, images)
    np.testing.assert_allclose(evaluate(simplify(graph), images), plain, rtol=1e-9, atol=1e-9)
    compiled = compile_graph(graph, Wish(images=drawn_images(SHAPE, 8), tolerance=0.05))
    scale = max(1.0, *compiled.ranges.values())
    got = compiled.fixed(images).reshape(plain.shape)
    np.testing.assert_allclose(got, plain, rtol=0, atol=0.01 * scale)
