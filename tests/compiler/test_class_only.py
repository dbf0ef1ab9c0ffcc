"""The class and nothing else: one output has no class, a file that ends in its class, an answer that names none."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator
from tests.compiler.agreement import images_for, onnx_model, weights_like
from torch import nn

from primum.compiler.compiled import Wish, compile_module
from primum.compiler.simulate import simulate
from primum.diagnosis.data_owner import PixelPath
from primum.diagnosis.deployable import Description, open_model
from primum.errors import ModelError, PeerError
from primum.models.card import NetworkCard
from primum.ring import encode
from primum.rng import Stream

SHAPE = (1, 8, 8)


@pytest.mark.parametrize("ending", [nn.Identity(), nn.Sigmoid()])
def test_one_output_has_no_class(ending):
    with pytest.raises(ModelError, match="one output: no class is larger"):
        compile_module(nn.Sequential(nn.Flatten(), nn.Linear(64, 1), ending), SHAPE, Wish(only_class=True))


def _classifier(tmp_path, classes=3, softmax=False):
    nodes = [
        helper.make_node("Flatten", ["image"], ["f"]),
        helper.make_node("Gemm", ["f", "w"], ["l"], transB=1),
        *([helper.make_node("Softmax", ["l"], ["s"], axis=1)] if softmax else []),
        helper.make_node("ArgMax", ["s" if softmax else "l"], ["answer"], axis=1, keepdims=0),
    ]
    model = onnx_model(nodes, SHAPE, {"w": weights_like((classes, 64))}, rank=1)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    path = tmp_path / "class.onnx"
    path.write_bytes(model.SerializeToString())
    return path, model


@pytest.mark.parametrize("softmax", [False, True])
def test_a_file_that_ends_in_its_class_gives_the_class_and_no_logit(tmp_path, softmax):
    path, model = _classifier(tmp_path, softmax=softmax)
    made, images = open_model(path, Description()), images_for(SHAPE, 8)
    way = PixelPath(NetworkCard.model_validate(made.card, strict=False), made.program)
    source = made.program.wire(made.program.input)
    inputs = encode(way.inputs(torch.from_numpy(images)).astype(np.float64), source.fraction, made.program.bits)
    answers = simulate(made.program, made.weights, inputs, Stream.from_os()).reshape(8, 3)
    outputs = np.ldexp(answers.astype(np.float64), -made.program.wire(made.program.output).fraction)
    reference = ReferenceEvaluator(model)
    wanted = [int(reference.run(None, {"image": one[None].astype(np.float64)})[0][0]) for one in images]
    assert made.card["ending"] == "argmax"
    assert set(np.unique(outputs)) == {0.0, 1.0}
    assert way.probabilities(outputs).argmax(1).tolist() == wanted


def test_a_file_with_one_class_is_refused(tmp_path):
    with pytest.raises(ModelError, match="one output: no class is larger"):
        open_model(_classifier(tmp_path, 1)[0], Description())


@settings(max_examples=20)
@given(st.lists(st.floats(-8, 8), min_size=3, max_size=3), st.floats(-0.009, 0.009), st.integers(0, 2))
def test_an_answer_that_names_no_class_is_refused(path, logits, off, place):
    assert path.probabilities(np.eye(3)[[place]] + off).tolist() == np.eye(3)[[place]].tolist()
    whole = [round(one) in (0, 1) and abs(one - round(one)) <= 0.01 for one in logits]
    if not all(whole):
        with pytest.raises(PeerError, match="names no class"):
            path.probabilities(np.array([logits]))


def test_no_class_at_all_and_numbers_that_are_none_are_refused(path):
    for row in ([0.0, 0.0, 0.0], [1.0, np.nan, 0.0], [1.0, 2.0, 0.0], [1.0, -1.0, 0.0], [0.98, 0.0, 0.0]):
        with pytest.raises(PeerError, match="names no class"):
            path.probabilities(np.array([row]))


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    made = open_model(_classifier(tmp_path_factory.mktemp("class"))[0], Description())
    return PixelPath(NetworkCard.model_validate(made.card, strict=False), made.program)
