"""What was read is compared with the module or the file that it was read from."""

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from tests.compiler.agreement import images_for, onnx_model, weights_like
from torch import nn

from primum.compiler.compiled import Wish, compile_module, compile_onnx, compile_read
from primum.compiler.from_onnx import graph_of_bytes
from primum.compiler.from_torch import graph_of_module
from primum.compiler.original import require_file_says, require_module_says
from primum.errors import InputError, ModelError

SHAPE = (2, 5, 5)
ENDINGS = {
    "none": nn.Identity(),
    "softmax": nn.Softmax(1),
    "log": nn.LogSoftmax(1),
    "sigmoid": nn.Sigmoid(),
}


class Sly(nn.Module):
    """Says one thing while it is exported, another when it runs."""

    def __init__(self, ending):
        super().__init__()
        self.layer, self.ending = nn.Linear(50, 3), ending

    def forward(self, x):
        said = self.layer(x.flatten(1))
        return self.ending(said * 1.002 if torch.compiler.is_exporting() else said)


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.layer, self.wrap = nn.Linear(50, 3), wrap

    def forward(self, x):
        return self.wrap(self.layer(x.flatten(1)))


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_a_module_that_runs_as_something_else_is_refused(ending):
    torch.manual_seed(0)
    with pytest.raises(ModelError, match="what Primum read of this model is not the model"):
        compile_module(Sly(ending), SHAPE)


@pytest.mark.parametrize(
    "wrap",
    [lambda x: (x,), lambda x: {"out": x}, lambda x: x.argmax(1), lambda x: x.softmax(1).argmax(1), lambda x: x],
)
def test_what_a_module_returns_may_be_wrapped(wrap):
    torch.manual_seed(0)
    module = Wrapped(wrap).train()
    require_module_says(graph_of_module(module, SHAPE), module, images_for(SHAPE))
    assert module.training and module.layer.training


def test_another_class_and_another_shape_are_refused():
    torch.manual_seed(0)
    one, two = (Wrapped(lambda x: x.argmax(1)) for _ in range(2))
    two.layer.weight.data, two.layer.bias.data = -one.layer.weight.data, -one.layer.bias.data
    with pytest.raises(ModelError, match="class differs"):
        require_module_says(graph_of_module(one, SHAPE), two, images_for(SHAPE))
    with pytest.raises(ModelError, match=r"\[3\] numbers"):
        require_module_says(graph_of_module(Wrapped(nn.Identity()), SHAPE), nn.Identity(), images_for(SHAPE))


def _file(tmp_path, scale=1.0, kind=TensorProto.FLOAT):
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    nodes = [
        helper.make_node("Conv", ["image", "w"], ["x"]),
        helper.make_node("MaxPool", ["x"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("Softmax", ["f"], ["answer"], axis=1),
    ]
    model = onnx_model(nodes, SHAPE, {"w": (weights_like((3, 2, 4, 4)) * scale).astype(dtype)}, rank=2)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = kind
    path = tmp_path / f"{scale}.onnx"
    path.write_bytes(model.SerializeToString())
    return path, model


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16])
def test_a_file_that_says_something_else_is_refused(tmp_path, kind):
    (_, model), (_, other) = _file(tmp_path, kind=kind), _file(tmp_path, 1.2, kind)
    graph = graph_of_bytes(model.SerializeToString())
    require_file_says(graph, model, images_for(SHAPE))
    with pytest.raises(ModelError, match="is not the model: an answer differs"):
        require_file_says(graph, other, images_for(SHAPE))


def test_compiling_a_file_compares_it(tmp_path):
    (path, model), (other, _) = _file(tmp_path), _file(tmp_path, 1.2)
    assert compile_onnx(path).agreement.error < 0.01
    with pytest.raises(ModelError, match="is not the model"):
        compile_read(other, graph_of_bytes(model.SerializeToString()))


@pytest.mark.parametrize("shape", [(0, *SHAPE), (2, 2, 5, 4), SHAPE])
def test_calibration_without_images_of_the_right_shape_is_refused(shape):
    module = nn.Sequential(nn.Flatten(), nn.Linear(50, 3))
    with pytest.raises(InputError, match="images for calibration"):
        compile_module(module, SHAPE, Wish(images=np.zeros(shape)))


def _one(operator, weight=None, **attributes):
    """One pool or transposed convolution."""
    names = ["image"] if weight is None else ["image", "w"]
    node = helper.make_node(operator, names, ["answer"], **attributes)
    return onnx_model([node], (2, 6, 7), {} if weight is None else {"w": weight})


K = weights_like((2, 3, 3, 2))
POOL = {"kernel_shape": [3, 2], "strides": [2, 2]}
SAID_OTHERWISE = {
    "one side": [_one("MaxPool", **POOL, pads=pads) for pads in ([1, 0, 0, 1], [0, 0, 1, 1])],
    "rounded up": [_one("AveragePool", **POOL, ceil_mode=1, pads=[1, 1, 1, 1], count_include_pad=c) for c in (0, 1)],
    "same": [_one("AveragePool", **POOL, auto_pad=mode) for mode in ("SAME_UPPER", "SAME_LOWER")],
    "transposed": [_one("ConvTranspose", K, strides=[2, 2], pads=pads) for pads in ([0, 1, 1, 0], [1, 0, 0, 1])],
    "of a size": [_one("ConvTranspose", K, strides=[2, 2], auto_pad=a, output_shape=[12, 14]) for a in ("SAME_UPPER", "SAME_LOWER")],
    "in groups": [_one("ConvTranspose", k[:, :1], strides=[2, 2], group=2) for k in (K, K * 1.01)],
}  # fmt: skip


@pytest.mark.parametrize("pair", SAID_OTHERWISE.values(), ids=SAID_OTHERWISE.keys())
def test_pools_and_transposed_convolutions_are_compared_however_they_pad(pair):
    images = images_for((2, 6, 7)) - 0.5
    for at, model in enumerate(pair):
        graph = graph_of_bytes(model.SerializeToString())
        require_file_says(graph, model, images)
        with pytest.raises(ModelError, match="is not the model"):
            require_file_says(graph, pair[1 - at], images)


pads = st.tuples(*[st.integers(0, 1)] * 4)
sizes = st.tuples(st.integers(2, 3), st.integers(2, 3))


@settings(max_examples=40)
@given(
    operator=st.sampled_from(["MaxPool", "AveragePool", "ConvTranspose"]),
    kernel=sizes,
    stride=sizes,
    pads=pads,
    auto=st.sampled_from(["NOTSET", "SAME_UPPER", "SAME_LOWER", "VALID"]),
    ceil=st.integers(0, 1),
    counted=st.integers(0, 1),
)
def test_the_reader_and_the_twin_understand_the_same(operator, kernel, stride, pads, auto, ceil, counted):
    more = {"pads": pads} if auto == "NOTSET" else {"auto_pad": auto}
    more |= {"ceil_mode": ceil if auto == "NOTSET" else 0} if "Pool" in operator else {}
    more |= {"count_include_pad": counted} if operator == "AveragePool" else {}
    assume(
        operator != "ConvTranspose" or "SAME" not in auto or all(k >= s for k, s in zip(kernel, stride, strict=True))
    )
    weight = weights_like((2, 3, *kernel)) if operator == "ConvTranspose" else None
    model = _one(operator, weight, kernel_shape=kernel, strides=stride, **more)
    require_file_says(graph_of_bytes(model.SerializeToString()), model, images_for((2, 6, 7)) - 0.5)
