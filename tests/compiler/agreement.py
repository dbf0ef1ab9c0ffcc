"""What the compiler's tests compare with: the model itself, before anything was read."""

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from torch import nn

from primum.compiler.compiled import Compiled, Wish, compile_graph
from primum.compiler.evaluate import evaluate, measure
from primum.compiler.graph import Graph
from primum.compiler.ranges import drawn_images
from primum.compiler.simplify import simplify

EXACT = 1e-6


def images_for(shape, count=4):
    """Test images; others than the ones a model is calibrated with."""
    return drawn_images(shape, count, "test")


def settled(module: nn.Module, shape, seed=0) -> nn.Module:
    """The module in float64 with recorded batch norm statistics, in evaluation mode."""
    with torch.no_grad():
        for number in range(4):
            module.train()(torch.from_numpy(drawn_images(shape, 8, f"statistics {seed} {number}")))
    return module.double().eval()


def answers_of(module: nn.Module, images) -> np.ndarray:
    """What the module says in float64."""
    with torch.no_grad():
        return module(torch.from_numpy(images).double()).numpy()


def ended(graph: Graph, answers: np.ndarray) -> np.ndarray:
    """Answers after the graph's ending."""
    value = torch.from_numpy(answers)
    if graph.ending == "softmax":
        value = torch.softmax(value, 1)
    elif graph.ending == "log_softmax":
        value = torch.log_softmax(value, 1)
    elif graph.ending == "sigmoid":
        value = torch.sigmoid(value)
    return value.numpy()


def largest(graph: Graph, images) -> dict[str, float]:
    """The largest magnitude of every value over the images."""
    return measure(graph, images, graph.output)[1]


def require_same(graph: Graph, images, expected, allowed=EXACT) -> None:
    """The graph, and the graph simplified, say what the model says."""
    for one in (graph, simplify(graph)):
        got = ended(one, evaluate(one, images)).reshape(expected.shape)
        np.testing.assert_allclose(got, expected, rtol=0, atol=allowed)


def require_fixed(graph: Graph, images, allowed=2e-3) -> Compiled:
    """The program on plain integers says what the graph says."""
    compiled = compile_graph(graph, Wish(images=drawn_images(graph.shape, 8)))
    np.testing.assert_allclose(compiled.fixed(images), compiled.plain(images), rtol=0, atol=allowed)
    return compiled


def onnx_model(nodes, shape, constants=None, opset=17, rank=4) -> onnx.ModelProto:
    """A model from nodes that turn `image` [1, *shape] into `answer`, in float64."""
    weights = [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()]
    graph = helper.make_graph(
        nodes,
        "test",
        [helper.make_tensor_value_info("image", TensorProto.DOUBLE, [1, *shape])],
        [helper.make_tensor_value_info("answer", TensorProto.DOUBLE, [None] * rank)],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def onnx_answers(model: onnx.ModelProto, images) -> np.ndarray:
    """What onnx's reference implementation says, image by image."""
    reference = ReferenceEvaluator(model)
    return np.concatenate([reference.run(None, {"image": one[None].astype(np.float64)})[0] for one in images])


def weights_like(shape, label="w") -> np.ndarray:
    """Drawn float64 weights of a variance that keeps values as they are."""
    from primum.rng import Stream

    fan = int(np.prod(shape[1:])) or 1
    return (Stream.public(f"{label} {shape}").uniform(shape) - 0.5) * np.sqrt(12.0 / fan)
