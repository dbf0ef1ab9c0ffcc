"""What was read is compared with the module or the file that it was read from."""

import numpy as np
import pytest
import torch
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
