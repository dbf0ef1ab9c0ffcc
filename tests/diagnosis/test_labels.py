"""What a data owner is told by a model of several classes, or of grades: of deployed files, without their processes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.diagnosis.conftest import Cluster, images, make_model
from tests.diagnosis.networks import CLASSES, residual_onnx

from primum.cli.diagnose import _show
from primum.compiler.simulate import simulate
from primum.diagnosis.data_owner import FeaturePath, ImagePath, PixelPath, _diagnoses
from primum.diagnosis.deployable import Description, deployable_model, open_model
from primum.diagnosis.diagnosis import Diagnosis
from primum.errors import InputError, ModelError
from primum.models.card import Card, NetworkCard, TrainedModel
from primum.ring import encode
from primum.rng import Stream
from primum.study import Labels

GRADES = ("none", "mild", "severe", "worst")


def diagnosed(folder: Path, labels: Labels, batch: torch.Tensor) -> tuple[TrainedModel, list[Diagnosis]]:
    """The answers of the deployed program, computed in the ring as the two servers do."""
    model = make_model(folder / "model", GRADES, labels=labels)
    made = deployable_model(model)
    public = Cluster.make(folder / "deployed", network=made).public
    path = ImagePath.of(public)
    source, output = made.program.wire(made.program.input), made.program.wire(made.program.output)
    inputs = encode(path.inputs(batch).astype(np.float64), source.fraction, made.program.bits)
    answers = simulate(made.program, made.weights, inputs, Stream.from_os())
    outputs = np.ldexp(answers.astype(np.float64), -output.fraction).reshape(len(batch), 1, 1, -1)
    return model, _diagnoses(outputs, path, public, 1, 0.1, 1000)


def test_several_classes_have_a_probability_each(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = images(12)
    model, found = diagnosed(tmp_path, "several", batch)
    plain = torch.sigmoid(model.logits(batch))
    assert torch.allclose(model.probabilities(batch), plain)
    assert np.allclose([one.probabilities for one in found], plain.numpy(), atol=0.01)
    assert any(abs(sum(one.probabilities) - 1) > 0.2 for one in found)
    for one in found:
        assert one.called == tuple(name for name, p in zip(GRADES, one.probabilities, strict=True) if p > 0.5)
    _show(["a.png"] * 12, found, True)
    assert [row["diagnosis"] for row in json.loads(capsys.readouterr().out)] == [list(one.called) for one in found]
    _show(["a.png"], found[:1], False)
    assert "an image may have several" in capsys.readouterr().out
    with pytest.raises(ModelError, match="not ordered"):
        model.grades(batch)


def test_grades_are_those_of_the_plain_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    batch = images(12)
    model, found = diagnosed(tmp_path, "ordered", batch)
    clear = (model.logits(batch).abs() > 0.02).all(1)
    grades = [GRADES[grade] for grade in model.grades(batch).tolist()]
    assert [one.called[0] for one, yes in zip(found, clear, strict=True) if yes] == [
        grade for grade, yes in zip(grades, clear, strict=True) if yes
    ]
    assert np.allclose([one.probabilities for one in found], model.probabilities(batch).numpy(), atol=0.01)
    assert np.allclose(np.sum([one.probabilities for one in found], 1), 1)
    _show(["a.png"] * 12, found, True)
    rows = json.loads(capsys.readouterr().out)
    assert set(rows[0]["logits"]) == {"mild or higher", "severe or higher", "worst or higher"}
    assert [row["diagnosis"] for row in rows] == [one.best for one in found]


@pytest.mark.parametrize("labels", ["several", "ordered"])
def test_one_class_alone_is_refused_of_a_model_that_has_none(tmp_path: Path, labels: Labels) -> None:
    make_model(tmp_path, GRADES, labels=labels)
    reason = "name one and hide the others" if labels == "several" else "largest of them is no grade"
    with pytest.raises(InputError, match=reason):
        open_model(tmp_path, Description(only_class=True))


def test_a_card_whose_labels_are_others_does_not_fit_its_program(tmp_path: Path) -> None:
    made = deployable_model(make_model(tmp_path, GRADES, labels="ordered"))
    for other in ("one", "several"):
        card = Card.model_validate({**made.card, "labels": other}, strict=False)
        with pytest.raises(ModelError, match="contradict each other"):
            FeaturePath(card, made.program)


def test_a_network_of_several_classes_is_never_given_a_softmax(tmp_path: Path) -> None:
    ends = open_model(residual_onnx(tmp_path / "sigmoid.onnx", "Sigmoid"), Description())
    said = open_model(residual_onnx(tmp_path / "logits.onnx"), Description(several=True))
    logits = np.array([[3.0] * len(CLASSES)])
    for made in (ends, said):
        path = PixelPath(NetworkCard.model_validate(made.card, strict=False), made.program)
        assert path.labels == "several" and path.probabilities(logits).min() > 0.95
    with pytest.raises(InputError, match="hide the others"):
        open_model(tmp_path / "sigmoid.onnx", Description(only_class=True))
    with pytest.raises(InputError, match="ends in softmax: it tells one class"):
        open_model(residual_onnx(tmp_path / "softmax.onnx", "Softmax"), Description(several=True))
    with pytest.raises(InputError, match="has one output: it tells one class"):
        open_model(residual_onnx(tmp_path / "one.onnx", outputs=1), Description(several=True))
