"""ONNX files: each operator against onnx's own reference implementation, and what is refused."""

import io

import numpy as np
import onnx
import pytest
import torch
from bench.published import PUBLISHED
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from tests.compiler.agreement import (
    EXACT,
    answers_of,
    images_for,
    onnx_answers,
    onnx_model,
    require_fixed,
    require_same,
    settled,
    weights_like,
)
from tests.compiler.test_from_torch import MODULES
from torch.nn import functional

from primum.compiler.compiled import Wish, compile_graph, compile_onnx
from primum.compiler.evaluate import evaluate
from primum.compiler.from_onnx import graph_of_bytes, graph_of_onnx
from primum.errors import ModelError

few = settings(max_examples=25)
SHAPE = (4, 9, 8)
CONV = helper.make_node("Conv", ["image", "w"], ["x"], "first", kernel_shape=[3, 3])
"""Comes before an operator, so that its source has both signs: x has the shape [4, 7, 6]."""


def checked(nodes, constants=None, *, opset=17, rank=4, shape=SHAPE, allowed=EXACT, fixed=True):
    """Read, compare with the reference, lower and compare again."""
    model = onnx_model(nodes, shape, constants, opset, rank)
    graph, images = graph_of_bytes(model.SerializeToString()), images_for(shape, 2)
    require_same(graph, images, onnx_answers(model, images), allowed)
    return require_fixed(graph, images) if fixed else graph


def behind_conv(operator, *inputs, constants=None, rank=4, **attributes):
    """The convolution, then one node with x and `inputs`."""
    opset = attributes.pop("opset", 17)
    nodes = [CONV, helper.make_node(operator, ["x", *inputs], ["answer"], "second", **attributes)]
    return nodes, {"w": weights_like((4, 4, 3, 3)), **(constants or {})}, {"opset": opset, "rank": rank}


def inside(pads, kernel):
    """Padding that is smaller than the kernel."""
    return [min(pad, size - 1) for pad, size in zip(pads, (*kernel, *kernel), strict=True)]


@few
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    groups=st.sampled_from([1, 2, 4]),
    auto=st.sampled_from(["NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]),
)
def test_convolution(kernel, stride, dilation, pads, groups, auto):
    assume(auto == "NOTSET" or dilation == (1, 1))
    more = {"pads": pads} if auto == "NOTSET" else {"auto_pad": auto}
    node = helper.make_node(
        "Conv", ["image", "w", "b"], ["answer"], kernel_shape=kernel, strides=stride, dilations=dilation, group=groups,
        **more,
    )  # fmt: skip
    checked([node], {"w": weights_like((8, 4 // groups, *kernel)), "b": weights_like((8,))})


@few
@given(
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    extra=st.tuples(st.integers(0, 1), st.integers(0, 1)),
    groups=st.sampled_from([1, 2]),
)
def test_transposed_convolution(kernel, stride, pads, extra, groups):
    pads, extra = inside(pads, kernel), [min(one, step - 1) for one, step in zip(extra, stride, strict=True)]
    node = helper.make_node(
        "ConvTranspose", ["image", "w", "b"], ["answer"], kernel_shape=kernel, strides=stride, pads=pads, group=groups,
        output_padding=extra,
    )  # fmt: skip
    weight, bias = weights_like((4, 3, *kernel)), weights_like((3 * groups,))
    model = onnx_model([node], SHAPE, {"w": weight, "b": bias})
    graph, images = graph_of_bytes(model.SerializeToString()), images_for(SHAPE, 2)
    parts = [torch.from_numpy(part) for part in (images.astype(np.float64), weight, bias)]
    full = functional.conv_transpose2d(*parts, stride, 0, extra, groups).numpy()
    require_same(graph, images, full[:, :, pads[0] : full.shape[2] - pads[2], pads[1] : full.shape[3] - pads[3]])
    require_fixed(graph, images)


@few
@given(
    kind=st.sampled_from(["MaxPool", "AveragePool"]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    pads=st.tuples(*[st.integers(0, 1)] * 4),
    counted=st.integers(0, 1),
)
def test_pools(kind, kernel, stride, pads, counted):
    pads = inside(pads, kernel)
    more = {"count_include_pad": counted} if kind == "AveragePool" else {}
    nodes, constants, _ = behind_conv(kind, kernel_shape=kernel, strides=stride, pads=pads, **more)
    graph = graph_of_bytes(onnx_model(nodes, SHAPE, constants).SerializeToString())
    images = images_for(SHAPE, 2)
    source = functional.conv2d(torch.from_numpy(images).double(), torch.from_numpy(constants["w"]))
    require_same(graph, images, _pooled(kind, source, (kernel, stride, pads), counted).numpy())
    require_fixed(graph, images)


def _pooled(kind, source, window, counted):
    """By PyTorch, which pads both sides alike: padded before (onnx's reference pads wrongly where sides differ)."""
    kernel, stride, (top, left, bottom, right) = window
    edges = (left, right, top, bottom)
    if kind == "MaxPool":
        return functional.max_pool2d(functional.pad(source, edges, value=-torch.inf), kernel, stride)
    total = functional.avg_pool2d(functional.pad(source, edges), kernel, stride)
    inside = functional.avg_pool2d(functional.pad(torch.ones_like(source), edges), kernel, stride)
    return total if counted else total / inside


SIGMOID = [CONV, helper.make_node("Sigmoid", ["x"], ["y"]), helper.make_node("Neg", ["y"], ["answer"])]
"""At the very end it would be split off."""
ALONE = {
    "Sigmoid": (SIGMOID, {"w": weights_like((4, 4, 3, 3))}, {}),
    "Relu": behind_conv("Relu"),
    "LeakyRelu": behind_conv("LeakyRelu", alpha=0.3),
    "PRelu": behind_conv("PRelu", "s", constants={"s": weights_like((4, 1, 1), "slope")}),
    "Clip": behind_conv("Clip", "low", "high", constants={"low": np.array(-0.1), "high": np.array(0.3)}),
    "Clip above": behind_conv("Clip", "", "high", constants={"high": np.array(0.1)}),
    "HardSigmoid": behind_conv("HardSigmoid", alpha=0.4),
    "HardSwish": behind_conv("HardSwish"),
    "Tanh": behind_conv("Tanh"),
    "Erf": behind_conv("Erf"),
    "Gelu": behind_conv("Gelu", opset=20),
    "Gelu tanh": behind_conv("Gelu", opset=20, approximate="tanh"),
    "Swish": behind_conv("Swish", opset=24, alpha=2.0),
    "GlobalAveragePool": behind_conv("GlobalAveragePool"),
    "GlobalMaxPool": behind_conv("GlobalMaxPool"),
    "ReduceMean": behind_conv("ReduceMean", axes=[2, 3], keepdims=0, rank=2),
    "ReduceMean 18": behind_conv("ReduceMean", "axes", opset=18, constants={"axes": np.array([-1, -2])}),
    "Add": behind_conv("Add", "c", constants={"c": weights_like((4, 1, 1))}),
    "Add everywhere": behind_conv("Add", "c", constants={"c": weights_like((1, 4, 7, 6))}),
    "Sub": behind_conv("Sub", "x"),
    "Mul": behind_conv("Mul", "x"),
    "Mul by rows": behind_conv("Mul", "c", constants={"c": weights_like((7, 1))}),
    "Div": behind_conv("Div", "c", constants={"c": np.array([2.0, 3.0, -4.0, 5.0]).reshape(4, 1, 1)}),
    "Sum": behind_conv("Sum", "x", "x"),
    "Pow": behind_conv("Pow", "two", constants={"two": np.array(2.0)}),
    "Concat": behind_conv("Concat", "x", axis=1),
    "Concat rows": behind_conv("Concat", "x", axis=-2),
    "Slice": behind_conv(
        "Slice",
        "a",
        "b",
        "c",
        "d",
        constants={"a": np.array([1, -5]), "b": np.array([99, -1]), "c": np.array([1, 2]), "d": np.array([2, 1])},
    ),
    "Pad": behind_conv("Pad", "pads", constants={"pads": np.array([0, 0, 1, 2, 0, 0, 0, 1])}),
    "Pad 18": behind_conv("Pad", "p", "", "a", opset=18, constants={"p": np.array([1, 2]), "a": np.array([-1])}),
    "Reshape": behind_conv("Reshape", "s", constants={"s": np.array([0, 2, -1, 6])}),
    "Flatten": behind_conv("Flatten", rank=2),
    "Transpose": behind_conv("Transpose", perm=[0, 1, 2, 3]),
    "Dropout": behind_conv("Dropout"),
    "nearest": behind_conv(
        "Resize",
        "",
        "s",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
        mode="nearest",
        constants={"s": np.array([1, 1, 2, 3], np.float32)},
    ),
    "nearest, half pixel": behind_conv(
        "Resize", "", "", "s", mode="nearest", constants={"s": np.array([1, 4, 21, 24])}
    ),
    "bilinear": behind_conv("Resize", "", "s", mode="linear", constants={"s": np.array([1, 1, 2, 1.5], np.float32)}),
    "bilinear, corners": behind_conv(
        "Resize",
        "",
        "",
        "s",
        mode="linear",
        coordinate_transformation_mode="align_corners",
        constants={"s": np.array([1, 4, 10, 13])},
    ),
    "Softmax": behind_conv("Softmax", axis=1),
}


@pytest.mark.parametrize("case", ALONE.values(), ids=ALONE.keys())
def test_one_operator(case):
    nodes, constants, how = case
    checked(nodes, constants, **how)


def test_split():
    nodes = [
        helper.make_node("Split", ["image", "sizes"], ["a", "b"], axis=1),
        helper.make_node("Conv", ["b", "w"], ["answer"]),
    ]
    checked(nodes, {"sizes": np.array([1, 3]), "w": weights_like((2, 3, 3, 3))})


def test_shapes_that_are_computed_and_batch_norm_and_gemm():
    """What exporters write for x.view(x.size(0), -1): a small program on shapes, folded into one reshape."""
    nodes = [
        CONV,
        helper.make_node("BatchNormalization", ["x", "g", "h", "m", "v"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("Shape", ["r"], ["shape"]),
        helper.make_node("Gather", ["shape", "zero"], ["batch"], axis=0),
        helper.make_node("Unsqueeze", ["batch", "axis"], ["first"]),
        helper.make_node("Concat", ["first", "rest"], ["wanted"], axis=0),
        helper.make_node("Reshape", ["r", "wanted"], ["flat"]),
        helper.make_node("Gemm", ["flat", "k", "b"], ["y"], alpha=0.5, beta=2.0),
        helper.make_node("MatMul", ["y", "k2"], ["answer"]),
    ]
    names = {"g": (4,), "h": (4,), "m": (4,), "k": (168, 5), "b": (5,), "k2": (5, 2), "w": (4, 4, 3, 3)}
    constants = {name: weights_like(shape, name) for name, shape in names.items()}
    constants |= {
        "v": np.abs(weights_like((4,), "v")) + 0.5,
        "zero": np.array(0),
        "axis": np.array([0]),
        "rest": np.array([-1]),
    }
    checked(nodes, constants, rank=2)


def test_gelu_and_silu_written_out_are_recognised():
    nodes = [
        CONV,
        helper.make_node("Div", ["x", "root"], ["d"]),
        helper.make_node("Erf", ["d"], ["e"]),
        helper.make_node("Add", ["e", "one"], ["f"]),
        helper.make_node("Mul", ["x", "f"], ["g"]),
        helper.make_node("Mul", ["g", "half"], ["h"]),
        helper.make_node("Mul", ["x", "half"], ["i"]),
        helper.make_node("Mul", ["i", "f"], ["j"]),
        helper.make_node("Sigmoid", ["j"], ["s"]),
        helper.make_node("Mul", ["j", "s"], ["k"]),
        helper.make_node("Add", ["h", "k"], ["answer"]),
    ]
    constants = {"w": weights_like((4, 4, 3, 3)), "root": np.sqrt([[2.0]]), "one": np.ones(1), "half": np.array(0.5)}
    graph = checked(nodes, constants, fixed=False)
    compiled = require_fixed(graph, images_for(SHAPE, 2), 4e-3)
    assert sorted(node.kind for node in compiled.graph.nodes if hasattr(node, "kind")) == ["gelu", "gelu", "silu"]


@pytest.mark.parametrize("opset", range(13, onnx.defs.onnx_opset_version() + 1))
def test_every_opset(opset):
    nodes, constants, _ = behind_conv("Relu")
    model = onnx_model(nodes, SHAPE, constants, 17)
    model.opset_import[0].version = opset
    assert graph_of_bytes(model.SerializeToString()).shape == SHAPE


EXPORTED = ("depthwise, ReLU6, same", "transposed", "hard swish and sigmoid", "curves", "pools", "split and chunk")


@pytest.mark.parametrize("name", EXPORTED)
@pytest.mark.filterwarnings("ignore")
def test_what_pytorchs_exporter_writes(name):
    torch.manual_seed(0)
    module, shape = settled(MODULES[name](), (3, 14, 14)), (3, 14, 14)
    images, file = images_for(shape), io.BytesIO()
    example, batch = (torch.zeros(1, *shape).double(),), {"image": {0: "batch"}}
    torch.onnx.export(module, example, file, dynamo=False, opset_version=17, dynamic_axes=batch, input_names=["image"])
    require_same(graph_of_bytes(file.getvalue(), shape), images, answers_of(module, images))


def _file(model, tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def test_a_file_with_open_sizes_takes_a_shape(tmp_path):
    nodes, constants, how = behind_conv("GlobalAveragePool")
    model = onnx_model(nodes, SHAPE, constants, **how)
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    for axis in (0, 2, 3):
        sizes[axis].dim_param = "any"
    path = _file(model, tmp_path)
    compiled = compile_onnx(path, (4, 6, 7))
    assert compiled.graph.shape == (4, 6, 7)
    assert compiled.encode_input(images_for((4, 6, 7))).shape == (4, 6, 7, 4)
    for shape in (None, (3, 6, 7)):
        with pytest.raises(ModelError, match="takes images"):
            graph_of_onnx(path, shape)


def test_all_that_is_not_supported_is_named_at_once():
    nodes = [
        CONV,
        helper.make_node("LayerNormalization", ["x", "scale"], ["y"], "the norm"),
        helper.make_node("Det", ["y"], ["z"], "the determinant"),
        helper.make_node("TopK", ["x", "k"], ["top", "at"], "the best"),
        helper.make_node("Special", ["top"], ["own"], "own", domain="our.domain"),
        helper.make_node("Conv", ["x", "w2"], ["answer"], kernel_shape=[7, 6]),
        helper.make_node("Softmax", ["answer"], ["s"], axis=3),
    ]
    constants = {
        "w": weights_like((4, 4, 3, 3)),
        "scale": np.ones(6),
        "k": np.array([2]),
        "w2": weights_like((1, 4, 7, 6)),
    }
    model = onnx_model(nodes, SHAPE, constants)
    model.opset_import.append(helper.make_opsetid("our.domain", 1))
    with pytest.raises(ModelError) as caught:
        graph_of_bytes(model.SerializeToString())
    for part in ("LayerNormalization", "the norm", "norm-free", "Det", "TopK", "Special", "our.domain"):
        assert part in str(caught.value)


def test_other_opsets_and_files_that_are_no_models_are_refused(tmp_path):
    nodes, constants, _ = behind_conv("Relu")
    for opset in (12, 999):
        with pytest.raises(ModelError, match=f"opset {opset}|valid ONNX model"):
            graph_of_bytes(onnx_model(nodes, SHAPE, constants, opset).SerializeToString())
    for data in (b"not a model", b"", b"\x80\x04\x95pickle"):
        with pytest.raises(ModelError):
            graph_of_bytes(data)
    with pytest.raises(ModelError, match="cannot be read"):
        graph_of_onnx(tmp_path / "none.onnx")


@given(at=st.integers(0, 10_000), value=st.integers(0, 255))
def test_a_changed_byte_is_read_or_refused(at, value):
    nodes, constants, _ = behind_conv("Relu", constants={"w": weights_like((4, 4, 3, 3))})
    data = bytearray(onnx_model(nodes, SHAPE, constants).SerializeToString())
    data[at % len(data)] = value
    try:
        graph_of_bytes(bytes(data))
    except ModelError as error:
        assert error.message


def test_weights_in_other_files_are_refused():
    nodes, constants, _ = behind_conv("Relu")
    model = onnx_model(nodes, SHAPE, constants)
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    model.graph.initializer[0].external_data.add(key="location", value="../../secret")
    with pytest.raises(ModelError, match="other files"):
        graph_of_bytes(model.SerializeToString())


def test_a_constant_that_would_fill_the_memory_is_refused():
    nodes = [
        CONV,
        helper.make_node("ConstantOfShape", ["huge"], ["c"], "the bomb"),
        helper.make_node("Add", ["x", "c"], ["answer"]),
    ]
    model = onnx_model(nodes, SHAPE, {"w": weights_like((4, 4, 3, 3)), "huge": np.array([1 << 20, 1 << 20])})
    with pytest.raises(ModelError, match="too large"):
        graph_of_bytes(model.SerializeToString())


def test_a_scalar_constant_node_is_public_and_a_weight_never_is():
    half = numpy_helper.from_array(np.array(0.5), "value")
    nodes = [
        CONV,
        helper.make_node("Constant", [], ["half"], value=half),
        helper.make_node("Mul", ["x", "half"], ["y"]),
        helper.make_node("Relu", ["y"], ["z"]),
        helper.make_node("Mul", ["z", "gain"], ["answer"]),
    ]
    model = onnx_model(nodes, SHAPE, {"w": weights_like((4, 4, 3, 3)), "gain": np.array(0.7)})
    graph = graph_of_bytes(model.SerializeToString())
    assert [node.public for node in graph.nodes if hasattr(node, "public")] == [True, False]


@settings(max_examples=40)
@given(st.data())
def test_changed_numbers_in_a_model_are_compiled_or_refused(data):
    """Strides of 0, paddings of 2^40, axes that are not there: a ModelError, and nothing else."""
    model = PUBLISHED["squeezenet"](24, 4, 16)
    node = data.draw(st.sampled_from([one for one in model.graph.node if one.attribute]))
    attribute = data.draw(st.sampled_from(list(node.attribute)))
    value = data.draw(st.sampled_from([-(2**62), -1, 0, 1, 2, 3, 7, 100, 10**6, 2**40]))
    if attribute.ints:
        attribute.ints[data.draw(st.integers(0, len(attribute.ints) - 1))] = value
    else:
        attribute.i = value
    try:
        graph = graph_of_bytes(model.SerializeToString())
        compile_graph(graph, Wish(images=images_for(graph.shape, 1), tolerance=0.5))
    except ModelError as error:
        assert error.message


@pytest.mark.parametrize("weight", [np.arange(1, 5, dtype=np.float32).reshape(4, 1, 1), np.array(0.37, np.float32)])
@pytest.mark.parametrize("operator", ["Mul", "Add"])
def test_a_weight_folded_with_a_number_stays_a_weight(weight, operator):
    """A number of the architecture may be public; what it makes of a weight is neither one number nor public."""
    kernel = np.ones((4, 1, 1, 1), np.float32)
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["c"]),
        helper.make_node("Constant", [], ["two"], value=numpy_helper.from_array(np.array(2.0, np.float32))),
        helper.make_node(operator, ["weight", "two"], ["folded"]),
        helper.make_node("Mul", ["c", "folded"], ["y"]),
    ]
    shapes = [("x", [1, 1, 2, 2]), ("y", [1, 4, 2, 2])]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes]
    constants = [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(kernel, "kernel")]
    model = helper.make_model(
        helper.make_graph(nodes, "folding", ends[:1], ends[1:], constants), opset_imports=[helper.make_opsetid("", 17)]
    )
    graph = graph_of_bytes(model.SerializeToString())
    image = np.ones((1, 1, 2, 2), np.float32)
    expected = ReferenceEvaluator(model).run(None, {"x": image})[0]
    assert np.allclose(evaluate(graph, image), expected)
    assert not any(getattr(node, "public", False) for node in graph.nodes)
