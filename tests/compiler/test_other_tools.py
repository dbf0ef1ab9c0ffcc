"""Files of scikit-learn and Keras, exported by their own tools (`tests/vectors/make_onnx.py`): the same answers."""

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.compiler.agreement import ended, images_for, onnx_model, weights_like
from tests.vectors.make_onnx import FOLDER, images_of

from primum.compiler.compiled import compile_onnx
from primum.compiler.evaluate import evaluate
from primum.compiler.from_onnx import graph_of_bytes, graph_of_onnx
from primum.compiler.graph import Permute
from primum.diagnosis.deployable import Description, open_model
from primum.errors import ModelError

ANSWERS = {
    f"{tool}_{name}": said
    for tool in ("sklearn", "keras")
    for name, said in json.loads((FOLDER / f"{tool}.json").read_text()).items()
}
REFUSED = {
    "forest": "TreeEnsembleClassifier .trees compare a secret",
    "norm": "Normalizer .a norm over the image",
    "kernel": "SVMClassifier .a kernel needs an exponential",
}


@pytest.mark.parametrize("name", ANSWERS)
def test_the_tools_own_answers(name):
    compiled = compile_onnx(FOLDER / f"{name}.onnx")
    images, said = images_of(compiled.graph.shape), np.array(ANSWERS[name])
    for answers, allowed in ((compiled.plain(images), 2e-5), (compiled.fixed(images), 0.01)):
        got = ended(compiled.graph, answers).reshape(len(images), -1)
        np.testing.assert_allclose(got, said.reshape(len(images), -1), rtol=0, atol=allowed)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_computed_is_named(name):
    with pytest.raises(ModelError, match=REFUSED[name]):
        graph_of_onnx(FOLDER / f"sklearn_refused_{name}.onnx")


def test_a_pipeline_of_scikit_learn_and_a_network_of_keras_can_be_deployed():
    names = ("mild", "none", "severe")
    made = open_model(FOLDER / "sklearn_mlp.onnx", Description(classes=names))
    assert made.card["classes"] == list(names)
    assert made.card["preparation"]["channels"] == 1 and made.program.wire(made.program.input).shape == (8, 8, 1)
    made = open_model(FOLDER / "keras_mobile.onnx", Description())
    assert made.program.wire(made.program.input).shape == (12, 12, 3)


def test_pca_and_a_linear_model_are_one_layer():
    nodes = compile_onnx(FOLDER / "sklearn_pca.onnx").graph.nodes
    assert [type(node).__name__ for node in nodes] == ["Reshape", "Affine", "Clip", "Convolution"]


def _row(features, shape=None):
    """A linear model on a row of features."""
    model = onnx_model(
        [helper.make_node("MatMul", ["image", "w"], ["answer"])],
        (features,),
        {"w": weights_like((features, 2))},
        rank=2,
    )
    return graph_of_bytes(model.SerializeToString(), shape)


def test_which_image_a_row_of_features_is():
    assert [_row(count).shape for count in (64, 192, 10)] == [(1, 8, 8), (3, 8, 8), (10, 1, 1)]
    assert _row(16 * 4, (0, 4, 4)).shape == (4, 4, 4)
    with pytest.raises(ModelError, match="another number of pixels"):
        _row(64, (0, 7, 7))


def test_which_axis_channels_are():
    """Last where only the last can be; a shape that the user gives as it stands in the file is taken at its word."""
    shapes = {
        (3, 8, 8): (3, 8, 8),
        (8, 8, 3): (3, 8, 8),
        (8, 8, 1): (1, 8, 8),
        (4, 9, 8): (4, 9, 8),
        (1, 8, 3): (1, 8, 3),
    }
    model = {sizes: onnx_model([helper.make_node("Relu", ["image"], ["answer"])], sizes) for sizes in shapes}
    for sizes, shape in shapes.items():
        assert graph_of_bytes(model[sizes].SerializeToString()).shape == shape
    assert graph_of_bytes(model[8, 8, 3].SerializeToString(), (8, 8, 3)).shape == (8, 8, 3)


def test_any_transposition_of_an_image():
    nodes = [
        helper.make_node("Transpose", ["image"], ["t"], perm=[0, 2, 3, 1]),
        helper.make_node("Mul", ["t", "c"], ["m"]),
        helper.make_node("Relu", ["m"], ["r"]),
        helper.make_node("Transpose", ["r"], ["u"], perm=[0, 2, 1, 3]),
        helper.make_node("Flatten", ["u"], ["f"]),
        helper.make_node("MatMul", ["f", "w"], ["answer"]),
    ]
    shape, weight, scale = (2, 4, 5), weights_like((40, 3)), weights_like((2,), "c") + 1.0
    model = onnx_model(nodes, shape, {"w": weight, "c": scale}, rank=2)
    graph, images = graph_of_bytes(model.SerializeToString()), images_for(shape).astype(np.float64)
    said = np.maximum(images * scale[:, None, None], 0).transpose(0, 3, 2, 1).reshape(len(images), 40) @ weight
    np.testing.assert_allclose(evaluate(graph, images)[:, :, 0, 0], said, atol=1e-9)
    assert sum(isinstance(node, Permute) for node in graph.nodes) == 4


def test_a_label_alone_is_the_class_and_names_of_classes_are_refused():
    """A file whose only output is the label: counted classes are an argmax, names cannot be looked up."""
    counted, named = (onnx.load(FOLDER / f"sklearn_{name}.onnx") for name in ("logistic", "logistic_names"))
    for model in (counted, named):
        del model.graph.output[1]
        model.graph.node.remove(next(node for node in model.graph.node if node.op_type == "ZipMap"))
    assert graph_of_bytes(counted.SerializeToString()).ending == "argmax"
    with pytest.raises(ModelError, match="a second result that has no rule"):
        graph_of_bytes(named.SerializeToString())


def test_two_images_or_two_answers_are_refused():
    nodes = [helper.make_node("Relu", ["image"], ["answer"]), helper.make_node("Neg", ["image"], ["other"])]
    model = onnx_model(nodes, (2, 4, 4))
    model.graph.output.append(helper.make_tensor_value_info("other", TensorProto.DOUBLE, [None] * 4))
    with pytest.raises(ModelError, match="1 inputs and 2 outputs"):
        graph_of_bytes(model.SerializeToString())
