"""Uses of operators that a rule would get wrong, or that would fill memory: refused, and what is like them is read."""

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from tests.compiler.agreement import answers_of, images_for, onnx_answers, onnx_model, require_same, weights_like
from torch import nn
from torch.nn import functional

from primum.compiler.builder import Builder
from primum.compiler.evaluate import evaluate
from primum.compiler.from_onnx import graph_of_bytes
from primum.compiler.from_torch import graph_of_module
from primum.compiler.graph import Convolution, Graph, MaxPool, Rectify, Reshape, Sum
from primum.compiler.recorder import MOST_WEIGHTS, Unsupported
from primum.compiler.simplify import never_negative, simplify
from primum.errors import ModelError

SHAPE = (4, 5, 7)


class Written(nn.Module):
    """A module whose forward is a function of the image."""

    def __init__(self, forward):
        super().__init__()
        self.written, self.weight = forward, nn.Parameter(torch.ones(1))

    def forward(self, x):
        return self.written(x * self.weight)


BIAS, ROW, MATRIX = torch.ones(1).double(), torch.arange(5.0).double()[None], torch.arange(20.0).double().reshape(4, 5)
READ_MODULES = {
    "bilinear by a factor": lambda x: functional.interpolate(x, scale_factor=2.0, mode="bilinear"),
    "nearest by a factor": lambda x: functional.interpolate(x, scale_factor=3, mode="nearest"),
    "bilinear to a size": lambda x: functional.interpolate(x, size=(7, 3), mode="bilinear"),
    "a sequence padded": lambda x: functional.pad(x.flatten(2), (1, 2)),
    "one bias for all outputs": lambda x: torch.addmm(BIAS, x.mean((2, 3)), MATRIX),
    "a linear layer at every place": lambda x: functional.linear(x.permute(0, 2, 3, 1), MATRIX.T).permute(0, 3, 1, 2),
    "rows of all places": lambda x: (x.permute(0, 2, 3, 1).reshape(-1, 4) @ MATRIX + ROW).relu().reshape(-1, 5, 7, 5),
    "a channel shuffle": lambda x: x.reshape(-1, 2, 2, 5, 7).transpose(1, 2).reshape(-1, 4, 5, 7),
    "a row of biases": lambda x: torch.addmm(ROW, x.mean((2, 3)), MATRIX),
}
REFUSED_MODULES = {
    "bilinear by 1.5": lambda x: functional.interpolate(x, scale_factor=1.5, mode="bilinear"),
    "nearest by 2.2": lambda x: functional.interpolate(x, scale_factor=2.2, mode="nearest"),
    "a vector padded": lambda x: functional.pad(x.mean((2, 3)), (1, 1)),
    "channels of a sequence padded": lambda x: functional.pad(x.flatten(2), (1, 1, 0, 1)),
    "channels padded": lambda x: functional.pad(x, (0, 0, 0, 0, 1, 1)),
    "argmax of everything": lambda x: x.argmax().reshape(1),
    "random numbers": lambda x: x + torch.rand(4, 1, 1),
    "normal random numbers": lambda x: x * torch.randn(4, 1, 1),
    "a pixel shuffle": lambda x: functional.pixel_shuffle(x, 2),
    "five axes pooled": lambda x: functional.max_pool3d(x.reshape(-1, 2, 2, 5, 7), 1),
    "softmax twice": lambda x: x.mean((2, 3)).softmax(1).softmax(1),
    "log-softmax of softmax": lambda x: x.mean((2, 3)).softmax(1).log_softmax(1),
    "a fold that cannot be": lambda x: x + torch.ones(3).reshape(3, 1, 1).cholesky_inverse(),
}


@pytest.mark.parametrize("forward", READ_MODULES.values(), ids=READ_MODULES.keys())
def test_modules_that_are_read(forward):
    module, images = Written(forward).double(), images_for(SHAPE)
    require_same(graph_of_module(module, SHAPE), images, answers_of(module, images))


@pytest.mark.parametrize("forward", REFUSED_MODULES.values(), ids=REFUSED_MODULES.keys())
def test_modules_that_are_refused(forward):
    with pytest.raises(ModelError):
        graph_of_module(Written(forward), SHAPE)


def one(operator, *inputs, constants=None, outputs=("answer",), opset=18, **attributes):
    """A model of one operator on the image."""
    node = helper.make_node(operator, ["image", *inputs], list(outputs), "it", **attributes)
    return onnx_model([node], SHAPE, constants, opset)


def resized(scales=None, sizes=None, **attributes):
    constants = {"s": np.array(scales, np.float32)} if scales else {"z": np.array(sizes)}
    return one("Resize", "", *(["s"] if scales else ["", "z"]), constants=constants, **attributes)


REFUSED_FILES = {
    "linear by 1.5": resized((1, 1, 1.5, 1.5), mode="linear"),
    "nearest by 3.3": resized((1, 1, 3.3, 3.3), mode="nearest"),
    "to one pixel": resized(sizes=(1, 4, 1, 1), mode="linear", coordinate_transformation_mode="pytorch_half_pixel"),
    "aspect kept": resized(sizes=(1, 4, 10, 21), mode="linear", keep_aspect_ratio_policy="not_larger"),
    "cast like whole numbers": one("CastLike", "k", constants={"k": np.array([1])}),
    "dropout in training": one("Dropout", "r", "t", constants={"r": np.array(0.5), "t": np.array(True)}),
    "clip by several": one("Clip", "k", constants={"k": np.array([0.1, 0.2])}),
    "power of several": one("Pow", "k", constants={"k": np.array([2.0, 3.0])}),
    "one stride": one("MaxPool", kernel_shape=[2, 2], strides=[2]),
    "one padding": one("MaxPool", kernel_shape=[2, 2], pads=[1, 1]),
    "reshape to fewer": one("Reshape", "k", constants={"k": np.array([1, 24])}),
    "reshape by rest": one("Reshape", "k", constants={"k": np.array([-1, 24])}),
    "indices": one("MaxPool", kernel_shape=[2, 2], outputs=("x", "answer")),
}


@pytest.mark.parametrize("model", REFUSED_FILES.values(), ids=REFUSED_FILES.keys())
def test_files_that_are_refused(model):
    with pytest.raises(ModelError):
        graph_of_bytes(model.SerializeToString())


READ_FILES = {
    "to one pixel": resized(sizes=(1, 4, 1, 1), mode="linear"),
    "linear by 2": resized((1, 1, 2, 2), mode="linear"),
    "cast like a float": one("CastLike", "k", constants={"k": np.array([1.0])}),
    "dropout": one("Dropout", "r", "t", constants={"r": np.array(0.5), "t": np.array(False)}),
    "clip": one("Clip", "k", constants={"k": np.array(0.2)}),
}


@pytest.mark.parametrize("model", READ_FILES.values(), ids=READ_FILES.keys())
def test_files_that_are_read(model):
    images = images_for(SHAPE)
    require_same(graph_of_bytes(model.SerializeToString()), images, onnx_answers(model, images))


@pytest.mark.parametrize("operator", ["MaxPool", "Dropout"])
def test_a_second_result_that_is_used_is_refused(operator):
    how = {"kernel_shape": [2, 2]} if operator == "MaxPool" else {}
    nodes = [
        helper.make_node(operator, ["image"], ["x", "second"], "it", **how),
        helper.make_node("Relu", ["second"], ["answer"]),
    ]
    with pytest.raises(ModelError, match="reads `second`"):
        graph_of_bytes(onnx_model(nodes, SHAPE).SerializeToString())


def test_the_class_of_a_softmax_is_the_class():
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["x"]),
        helper.make_node("Softmax", ["x"], ["s"], axis=1),
        helper.make_node("ArgMax", ["s"], ["answer"], axis=1),
    ]
    graph = graph_of_bytes(onnx_model(nodes, SHAPE).SerializeToString())
    assert graph.ending == "argmax" and len(graph.nodes) == 1
    nodes[2] = helper.make_node("Softmax", ["s"], ["answer"], axis=1)
    with pytest.raises(ModelError, match="softmax of softmax"):
        graph_of_bytes(onnx_model(nodes, SHAPE).SerializeToString())


def _elsewhere():
    tensor = TensorProto(name="k", data_type=TensorProto.FLOAT, dims=[4, 1, 1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="secret.bin")
    return tensor


def test_a_constant_nodes_weights_in_other_files_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    constant = helper.make_node("Constant", [], ["k"], value=_elsewhere())
    add = helper.make_node("Add", ["image", "k"], ["answer"])
    with pytest.raises(ModelError, match="other files"):
        graph_of_bytes(onnx_model([constant, add], SHAPE).SerializeToString())
    inner = helper.make_function("own", "f", ["a"], ["b"], [constant, helper.make_node("Add", ["a", "k"], ["b"])], [])
    model = onnx_model([helper.make_node("f", ["image"], ["answer"], domain="own")], SHAPE)
    model.functions.append(inner)
    with pytest.raises(ModelError, match="other files"):
        graph_of_bytes(model.SerializeToString())
    branch = helper.make_graph([constant], "branch", [], [onnx.ValueInfoProto(name="k")])
    model = onnx_model([helper.make_node("If", ["image"], ["answer"], then_branch=branch, else_branch=branch)], SHAPE)
    with pytest.raises(ModelError, match="other files"):
        graph_of_bytes(model.SerializeToString())


def _grown(operator, times, *, first, second=None, **attributes):
    """k0, k1, ...: each made of the one before."""
    reads = [[f"k{n}", second or f"k{n}"] for n in range(times)]
    nodes = [helper.make_node(operator, read, [f"k{n + 1}"], **attributes) for n, read in enumerate(reads)]
    end = [
        helper.make_node("ReduceMax", [f"k{times}"], ["top"], keepdims=0),
        helper.make_node("Add", ["image", "top"], ["answer"]),
    ]
    return nodes + end, {"k0": first}


LARGE = {
    "doubled": _grown("Concat", 9, first=np.ones(1 << 20), axis=0),
    "product of a column and a row": (
        _grown("MatMul", 1, first=np.ones((1 << 14, 1)), second="row")[0],
        {"k0": np.ones((1 << 14, 1)), "row": np.ones((1, 1 << 14))},
    ),
    "sum of a column and a row": (
        _grown("Add", 1, first=None, second="row")[0],
        {"k0": np.ones((1 << 14, 1)), "row": np.ones((1, 1 << 14))},
    ),
    "gathered": (
        _grown("Gather", 1, first=None, second="at")[0],
        {"k0": np.ones((2, 1 << 12)), "at": np.zeros(1 << 16, np.int64)},
    ),
    "many": _grown("Abs", 40, first=np.ones(1 << 22), second=""),
}


@pytest.mark.parametrize("case", LARGE.values(), ids=LARGE.keys())
def test_constants_that_fill_memory_are_refused_before_they_are_made(case):
    nodes, constants = case
    nodes = [helper.make_node(n.op_type, [n.input[0]], n.output) if n.op_type == "Abs" else n for n in nodes]
    with pytest.raises(ModelError, match="too large"):
        graph_of_bytes(onnx_model(nodes, SHAPE, constants).SerializeToString())


def test_weights_count_for_each_layer_that_uses_them():
    builder, weight = Builder("image", (1, 1, 1)), np.ones((1, 1, 1, 1))
    builder.weights = MOST_WEIGHTS - 1
    made = builder.convolution(builder.input, weight, None)
    with pytest.raises(Unsupported, match="weights"):
        builder.convolution(made, weight, None)


def test_a_reshape_keeps_images_apart():
    wrong = Graph("image", SHAPE, (Reshape("r", ("image",), (2, 5, 7)),), "r")
    with pytest.raises(RuntimeError):
        evaluate(wrong, images_for(SHAPE))


def test_what_is_never_negative_is_found_in_one_walk():
    """Each sum reads the one before twice: 2^60 ways back to the image."""
    weight = weights_like((4, 4, 1, 1))
    nodes = [Convolution("c", ("image",), weight, np.zeros(4)), Rectify("s0", ("c",))]
    nodes += [Sum(f"s{n + 1}", (f"s{n}", f"s{n}"), (1, 1)) for n in range(60)]
    nodes += [Sum("less", ("s60", "s0"), (1, -1)), MaxPool("m", ("s60",), (3, 3), (2, 2), (1, 1, 1, 1))]
    graph = Graph("image", SHAPE, tuple(nodes), "m")
    assert never_negative(graph) == {"m", *(f"s{n}" for n in range(61))}
    assert not next(node for node in simplify(graph).nodes if isinstance(node, MaxPool)).lifted
