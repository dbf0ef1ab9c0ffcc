"""Folding and reordering: what is left, and that it computes the same."""

import numpy as np
import pytest
from onnx import helper
from tests.compiler.agreement import images_for, onnx_model, weights_like

from primum.compiler.evaluate import evaluate
from primum.compiler.from_onnx import graph_of_bytes
from primum.compiler.graph import Concatenate, Convolution, MaxPool, Rectify
from primum.compiler.simplify import simplify

SHAPE = (3, 8, 8)


def kinds(nodes, constants, shape=SHAPE):
    """The kinds of nodes that are left, in order, after checking that they compute the same."""
    model = onnx_model(nodes, shape, constants)
    graph = graph_of_bytes(model.SerializeToString())
    small, images = simplify(graph), images_for(shape)
    np.testing.assert_allclose(evaluate(small, images), evaluate(graph, images), atol=1e-12)
    return [type(node).__name__ for node in small.nodes]


def conv(source, target, weight="w", **more):
    return helper.make_node("Conv", [source, weight], [target], **more)


W = {"w": weights_like((3, 3, 3, 3)), "s": weights_like((3, 1, 1), "s"), "t": weights_like((3, 1, 1), "t")}


def test_affine_maps_fold_into_the_convolution_before_them():
    nodes = [
        conv("image", "x"),
        helper.make_node("Mul", ["x", "s"], ["y"]),
        helper.make_node("Add", ["y", "t"], ["z"]),
        helper.make_node("Relu", ["z"], ["answer"]),
    ]
    assert kinds(nodes, W) == ["Convolution", "Rectify"]


@pytest.mark.parametrize(("pads", "left"), [([0] * 4, ["Convolution"]), ([1] * 4, ["Affine", "Convolution"])])
def test_a_shift_folds_forward_only_where_there_is_no_padding(pads, left):
    nodes = [helper.make_node("Add", ["image", "t"], ["x"]), conv("x", "answer", pads=pads)]
    assert kinds(nodes, W) == left


def test_a_scale_folds_forward_over_padding_and_into_groups():
    nodes = [helper.make_node("Mul", ["image", "s"], ["x"]), conv("x", "answer", "d", pads=[1] * 4, group=3)]
    assert kinds(nodes, {**W, "d": weights_like((6, 1, 3, 3))}) == ["Convolution"]


def test_a_value_that_somebody_else_reads_is_left_alone():
    nodes = [
        conv("image", "x"),
        helper.make_node("Mul", ["x", "s"], ["y"]),
        helper.make_node("Add", ["y", "x"], ["answer"]),
    ]
    assert kinds(nodes, W) == ["Convolution", "Affine", "Sum"]


def test_padding_folds_into_the_convolution():
    nodes = [helper.make_node("Pad", ["image", "p"], ["x"]), conv("x", "answer", pads=[1, 0, 0, 2])]
    assert kinds(nodes, {**W, "p": np.array([0, 0, 1, 2, 0, 0, 3, 0])}) == ["Convolution"]


def test_relu_goes_behind_max_pooling_and_concatenation():
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1, 1, 1, 1]}
    nodes = [
        conv("image", "a"),
        conv("image", "b"),
        helper.make_node("Relu", ["a"], ["c"]),
        helper.make_node("Relu", ["b"], ["d"]),
        helper.make_node("Concat", ["c", "d"], ["e"], axis=1),
        helper.make_node("MaxPool", ["e"], ["answer"], **pool),
    ]
    assert kinds(nodes, W) == ["Convolution", "Convolution", "Concatenate", "MaxPool", "Rectify"]


def test_relu_stays_where_its_value_has_another_reader():
    nodes = [
        conv("image", "a"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MaxPool", ["b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["b", "c"], ["answer"]),
    ]
    assert kinds(nodes, W) == ["Convolution", "Rectify", "MaxPool", "Sum"]


def test_only_maxima_of_values_of_both_signs_are_lifted():
    pool = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    for operator, lifted in (("Relu", False), ("Neg", True)):
        nodes = [
            conv("image", "a"),
            helper.make_node(operator, ["a"], ["b"]),
            helper.make_node("MaxPool", ["b"], ["c"], **pool),
            helper.make_node("Add", ["b", "c"], ["answer"]),
        ]
        graph = simplify(graph_of_bytes(onnx_model(nodes, SHAPE, W).SerializeToString()))
        assert [node.lifted for node in graph.nodes if isinstance(node, MaxPool)] == [lifted]


def test_the_divisor_of_an_average_goes_into_the_layer_behind_it():
    nodes = [
        conv("image", "a"),
        helper.make_node("GlobalAveragePool", ["a"], ["b"]),
        helper.make_node("Flatten", ["b"], ["c"]),
        helper.make_node("Gemm", ["c", "k"], ["d"]),
        helper.make_node("Reshape", ["d", "shape"], ["answer"]),
    ]
    constants = {**W, "k": weights_like((3, 2)), "shape": np.array([1, 2, 1, 1])}
    assert kinds(nodes, constants) == ["Convolution", "SumPool", "Convolution"]


def test_dead_nodes_are_dropped_and_relus_counted_once():
    nodes = [
        conv("image", "a"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Sigmoid", ["a"], ["dead"]),
        helper.make_node("Relu", ["b"], ["answer"]),
    ]
    assert kinds(nodes, W) == [kind.__name__ for kind in (Convolution, Rectify)]
    assert Concatenate.__name__ not in kinds(nodes, W)
