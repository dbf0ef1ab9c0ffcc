"""Movements that follow each other: the same elements, in as few nodes as they need."""

from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from tests.compiler.agreement import images_for, onnx_answers, onnx_model, require_fixed, require_same, weights_like

from primum.compiler.curves import CURVES
from primum.compiler.evaluate import evaluate
from primum.compiler.from_onnx import graph_of_bytes
from primum.compiler.graph import Convolution, Graph, Permute, Rectify, Repeat, Reshape
from primum.compiler.movements import Movement, move_once
from primum.compiler.simplify import simplify
from primum.errors import ModelError

SHAPE = (4, 6, 5)
SHAPES = {(4, 6, 5), (2, 12, 5), (1, 24, 5), (6, 4, 5), (24, 5, 1), (120, 1, 1), (3, 8, 5), (20, 1, 6), (1, 1, 120)}


@st.composite
def chains(draw):
    """Up to six movements, some of which somebody else reads too."""
    nodes, shape = [], SHAPE
    for number in range(draw(st.integers(1, 6))):
        source = nodes[-1].name if nodes else "image"
        way = draw(st.integers(0, 2))
        if way == 0:
            more = prod(shape) // 120
            shape = draw(st.sampled_from(sorted(SHAPES | {SHAPE})))
            shape = tuple(length * (more if at == draw(st.integers(0, 2)) else 1) for at, length in enumerate(shape))
            if prod(shape) != 120 * more:
                shape = (120 * more, 1, 1)
            nodes.append(Reshape(f"n{number}", (source,), shape))
        elif way == 1:
            axes = tuple(draw(st.permutations(range(3))))
            shape = tuple(shape[axis] for axis in axes)
            nodes.append(Permute(f"n{number}", (source,), axes))
        else:
            times = draw(st.sampled_from([(2, 1), (1, 2), (2, 3), (3, 2)]))
            shape = (shape[0], shape[1] * times[0], shape[2] * times[1])
            nodes.append(Repeat(f"n{number}", (source,), times))
    outer = draw(st.sets(st.sampled_from(nodes[:-1] or nodes), max_size=2))
    ends = [Rectify(f"{node.name}.end", (node.name,)) for node in outer]
    return Graph("image", SHAPE, (*nodes, *ends), draw(st.sampled_from([nodes[-1], *ends])).name)


@settings(max_examples=200)
@given(chains())
def test_any_chain_of_movements_moves_the_same_elements(graph):
    image = np.arange(120.0).reshape(1, *SHAPE) - 60
    made = move_once(graph)
    np.testing.assert_array_equal(evaluate(made, image), evaluate(graph, image))
    for node in graph.nodes[-2:]:  # what somebody else reads is still there
        if isinstance(node, Rectify):
            np.testing.assert_array_equal(
                *(evaluate(one.with_nodes(one.nodes, node.name), image) for one in (made, graph))
            )
    small = simplify(graph)
    np.testing.assert_array_equal(evaluate(small, image), evaluate(graph, image))
    counts = [sum(isinstance(node, Movement) for node in one.nodes) for one in (small, simplify(small), graph)]
    assert counts[0] == counts[1] <= counts[2]


def read(nodes, constants=None, shape=SHAPE, opset=17, rank=4, allowed=2e-3):
    """The simplified graph, after comparing the graph and its program with onnx's reference implementation."""
    model = onnx_model(nodes, shape, constants, opset, rank)
    graph, images = graph_of_bytes(model.SerializeToString()), images_for(shape, 2)
    require_same(graph, images, onnx_answers(model, images))
    return require_fixed(graph, images, allowed).graph


def kinds(graph):
    return [type(node).__name__ for node in graph.nodes]


def node(kind, *sources, to, **attributes):
    return helper.make_node(kind, list(sources), [to], **attributes)


NEAREST = {"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
CONSTANTS = {
    "w": weights_like((2, 4, 3, 3)),
    "three": np.array([3]),
    "five": np.array([5]),
    "by rows": np.array([1, 1, 1, 2, 1]),
    "by both": np.array([1, 1, 1, 2, 1, 3]),
    "wider": np.array([1, 4, 6, 2, 5]),
    "rows": np.array([1, 4, 12, 5]),
    "columns": np.array([1, 4, 6, 15]),
    "both": np.array([1, 4, 12, 15]),
    "last rows": np.array([1, 12, 5, 4]),
    "last both": np.array([1, 12, 10, 4]),
    "tall": np.array([1, 1, 1, 2, 1], np.float32),
    "last twice": np.array([1, 2, 2, 1], np.float32),
}
CONV = node("Conv", "up", "w", to="answer")
FORMS = {
    "six axes at once": (
        [
            node("Unsqueeze", "image", "three and five", to="a"),
            node("Tile", "a", "by both", to="b"),
            node("Reshape", "b", "both", to="up"),
        ],
        (2, 3),
    ),
    "tiled, channels turned last and first again, as tf2onnx writes Keras": (
        [
            node("Unsqueeze", "image", "three", to="a"),
            node("Tile", "a", "by rows", to="b"),
            node("Transpose", "b", to="c", perm=[0, 2, 3, 4, 1]),
            node("Reshape", "c", "last rows", to="d"),
            node("Unsqueeze", "d", "three", to="e"),
            node("Tile", "e", "by rows", to="f"),
            node("Reshape", "f", "last both", to="g"),
            node("Transpose", "g", to="up", perm=[0, 3, 1, 2]),
        ],
        (2, 2),
    ),
    "expanded": (
        [
            node("Unsqueeze", "image", "three", to="a"),
            node("Expand", "a", "wider", to="b"),
            node("Reshape", "b", "rows", to="up"),
        ],
        (2, 1),
    ),
    "joined with itself": (
        [
            node("Unsqueeze", "image", "minus one", to="a"),
            node("Concat", "a", "a", "a", to="b", axis=4),
            node("Reshape", "b", "columns", to="up"),
        ],
        (1, 3),
    ),
    "resized over five axes": (
        [
            node("Unsqueeze", "image", "three", to="a"),
            node("Resize", "a", "", "tall", to="b", **NEAREST),
            node("Reshape", "b", "rows", to="up"),
        ],
        (2, 1),
    ),
    "resized with channels last": (
        [
            node("Transpose", "image", to="a", perm=[0, 2, 3, 1]),
            node("Resize", "a", "", "last twice", to="b", **NEAREST),
            node("Transpose", "b", to="up", perm=[0, 3, 1, 2]),
        ],
        (2, 2),
    ),
    "by a ReLU between the copies": (
        [
            node("Unsqueeze", "image", "three", to="a"),
            node("Tile", "a", "by rows", to="b"),
            node("Relu", "b", to="c"),
            node("Reshape", "c", "rows", to="up"),
        ],
        (2, 1),
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS.keys())
def test_nearest_upsampling_in_every_form_is_one_repetition(form):
    nodes, times = form
    constants = {**CONSTANTS, "three and five": np.array([3, 5]), "minus one": np.array([-1])}
    graph = read([*nodes, CONV], constants)
    assert [one.times for one in graph.nodes if isinstance(one, Repeat)] == [times]
    assert [kind for kind in kinds(graph) if kind != "Rectify"] == ["Repeat", "Convolution"]


def test_a_whole_axis_tiled_is_not_a_resizing_and_is_computed():
    graph = read([node("Tile", "image", "times", to="up"), CONV], {**CONSTANTS, "times": np.array([1, 1, 2, 1])})
    assert kinds(graph) == ["Reshape", "Repeat", "Reshape", "Convolution"]


def test_a_channel_shuffle_is_one_permutation():
    constants = {**CONSTANTS, "split": np.array([1, 2, 2, 6, 5]), "whole": np.array([1, 4, 6, 5])}
    nodes = [
        node("Reshape", "image", "split", to="a"),
        node("Transpose", "a", to="b", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "b", "whole", to="up"),
    ]
    assert kinds(read([*nodes, CONV], constants)) == ["Reshape", "Permute", "Reshape", "Convolution"]


def test_what_is_computed_of_each_element_comes_before_copies():
    constants = {**CONSTANTS, "gain": weights_like((2, 1, 1), "gain")}
    nodes = [
        node("Conv", "image", "w", to="a"),
        node("Resize", "a", "", "scales", to="b", **NEAREST),
        node("Mul", "b", "gain", to="c"),
        node("Relu", "c", to="answer"),
    ]
    graph = read(nodes, {**constants, "scales": np.array([1, 1, 2, 2], np.float32)})
    assert kinds(graph) == ["Convolution", "Rectify", "Repeat"]


REFUSED = {
    "five axes at the end": ([node("Unsqueeze", "image", "three", to="answer")], r"shape \[1, 4, 6, 1, 5\]"),
    "rows at the end": ([node("Reshape", "image", "places", to="answer")], r"shape \[24, 5\]"),
    "a pool of five axes": (
        [node("Unsqueeze", "image", "three", to="a"), node("MaxPool", "a", to="answer", kernel_shape=[1, 1, 1])],
        r"MaxPool .a value of shape \[1, 4, 6, 1, 5\]",
    ),
    "different values side by side": (
        [
            node("Relu", "image", to="r"),
            node("Unsqueeze", "image", "three", to="a"),
            node("Unsqueeze", "r", "three", to="b"),
            node("Concat", "a", "b", to="c", axis=3),
            node("Reshape", "c", "rows", to="answer"),
        ],
        "Concat .a concatenation of different values",
    ),
    "several images": ([node("Tile", "image", "images", to="answer")], "Tile .2 copies along axis 0"),
    "no copy": ([node("Tile", "image", "none", to="answer")], "Tile .0 copies along axis 3"),
    "four axes turned": (
        [
            node("Reshape", "image", "parts", to="a"),
            node("Transpose", "a", to="b", perm=[0, 4, 3, 2, 1]),
            node("Reshape", "b", "rows", to="answer"),
        ],
        "Transpose .a transposition of .* which moves 4 axes",
    ),
    "five axes times a constant of five": (
        [
            node("Unsqueeze", "image", "three", to="a"),
            node("Mul", "a", "deep", to="b"),
            node("Reshape", "b", "rows", to="answer"),
        ],
        "Mul .a constant of shape",
    ),
    "a resizing to the next element": (
        [node("Resize", "image", "", "last twice", to="answer", mode="nearest", nearest_mode="ceil")],
        "Resize .nearest resizing by half_pixel and ceil",
    ),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_such_movement_is_named(case):
    nodes, said = case
    constants = {
        **CONSTANTS,
        "places": np.array([24, 5]),
        "images": np.array([2, 1, 1, 1]),
        "none": np.array([1, 1, 1, 0]),
        "parts": np.array([1, 2, 2, 6, 5]),
        "deep": weights_like((4, 1, 1, 5)),
    }
    with pytest.raises(ModelError, match=said):
        graph_of_bytes(onnx_model(nodes, SHAPE, constants).SerializeToString())


MATRIX, MORE = weights_like((3, 4)).T, weights_like((2, 3)).T
PLACES = {
    "maps": ([node("MatMul", "last", "m", to="d")], (1, 6, 5, 3)),
    "rows of all places, and back": (
        [
            node("Reshape", "last", "places", to="a"),
            node("Gemm", "a", "m", "bias", to="b"),
            node("Reshape", "b", "back", to="d"),
        ],
        (1, 6, 5, 3),
    ),
    "rows, a sum, a ReLU": (
        [
            node("Reshape", "last", "places", to="a"),
            node("MatMul", "a", "m", to="b"),
            node("Add", "b", "bias", to="c"),
            node("Relu", "c", to="e"),
            node("Reshape", "e", "back", to="d"),
        ],
        (1, 6, 5, 3),
    ),
    "a sequence": (
        [
            node("Reshape", "last", "sequence", to="a"),
            node("MatMul", "a", "m", to="b"),
            node("Add", "b", "bias", to="c"),
            node("Reshape", "c", "back", to="d"),
        ],
        (1, 6, 5, 3),
    ),
}


@pytest.mark.parametrize("case", PLACES.values(), ids=PLACES.keys())
def test_a_linear_layer_at_every_place_is_a_convolution_of_one_place(case):
    nodes, _ = case
    whole = [
        node("Transpose", "image", to="last", perm=[0, 2, 3, 1]),
        *nodes,
        node("Transpose", "d", to="first", perm=[0, 3, 1, 2]),
        node("Conv", "first", "k", to="answer"),
    ]
    constants = {
        "m": MATRIX,
        "bias": weights_like((3,), "bias"),
        "k": weights_like((2, 3, 3, 3)),
        "places": np.array([-1, 4]),
        "sequence": np.array([1, 30, 4]),
        "back": np.array([1, 6, 5, 3]),
    }
    graph = read(whole, constants)
    assert [kind for kind in kinds(graph) if kind not in ("Rectify", "Reshape")] == ["Convolution", "Convolution"]
    first = next(one for one in graph.nodes if isinstance(one, Convolution))
    assert first.weight.shape == (3, 4, 1, 1)


def test_two_linear_layers_on_channels_last_and_the_answer_there():
    nodes = [
        node("Transpose", "image", to="last", perm=[0, 2, 3, 1]),
        node("MatMul", "last", "m", to="d"),
        node("Tanh", "d", to="t"),
        node("MatMul", "t", "n", to="answer"),
    ]
    spline = CURVES["tanh"].error * abs(MORE).sum(0).max()
    graph = read(nodes, {"m": MATRIX, "n": MORE}, allowed=spline + 2e-3)
    assert kinds(graph) == ["Convolution", "Curve", "Convolution", "Permute"]


def test_a_matrix_for_another_axis_is_refused():
    with pytest.raises(ModelError, match=r"MatMul .a linear layer on a value of shape \[1, 4, 6, 5\]"):
        graph_of_bytes(
            onnx_model([node("MatMul", "image", "m", to="answer")], SHAPE, {"m": MATRIX}).SerializeToString()
        )
