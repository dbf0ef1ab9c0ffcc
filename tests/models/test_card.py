"""Models on disk: what is saved is what is loaded, and nothing else is accepted."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from primum.errors import ModelError
from primum.models import Card, FrontEnd, load_model, save_model
from primum.rng import Stream

FRONT_END = FrontEnd(16, 2, 4)


def _card(**changes: Any) -> Card:
    fields: dict[str, Any] = {
        "classes": ("NORMAL", "PNEUMONIA"),
        "front_end": {"size": 16, "scales": 2, "angles": 4, "channels": 1},
        "preparation": {"size": 16, "channels": 1, "fit": "squash", "intensity": "display"},
        "privacy": {"epsilon": 3.0, "delta": 1e-5, "unit": "patient"},
        "trained": {"study": "chest", "rounds": 40, "hospitals": 3},
    }
    return Card(**{**fields, **changes})


def _weight(outputs: int = 1) -> torch.Tensor:
    return torch.from_numpy(Stream.public("card tests").uniform((outputs, FRONT_END.dimension)) - 0.5).float()


def test_round_trip(tmp_path: Path) -> None:
    save_model(tmp_path / "new", {"weight": _weight()}, _card())
    for path in (tmp_path / "new", tmp_path / "new" / "model.safetensors"):
        model = load_model(path)
        assert model.weight.equal(_weight())
        assert model.front_end == FRONT_END
        assert model.card.model_copy(update={"weights_sha256": ""}) == _card()
    assert sorted(file.name for file in (tmp_path / "new").iterdir()) == ["card.json", "model.safetensors"]


@pytest.mark.parametrize(("classes", "outputs"), [(("a", "b"), 1), (("a", "b", "c"), 3)])
def test_logits_and_probabilities(tmp_path: Path, classes: tuple[str, ...], outputs: int) -> None:
    save_model(tmp_path, {"weight": _weight(outputs)}, _card(classes=classes))
    model = load_model(tmp_path)
    images = torch.from_numpy(Stream.public("images").uniform((4, 1, 16, 16))).float()
    expected = FRONT_END.features(images) @ _weight(outputs).T
    logits = model.logits(images)
    assert logits.shape == (4, len(classes))
    assert torch.allclose(logits[:, -outputs:], expected)
    if outputs == 1:
        assert not logits[:, 0].any()
        assert torch.allclose(model.probabilities(images)[:, 1], torch.sigmoid(expected[:, 0]))
    assert torch.allclose(model.probabilities(images).sum(dim=1), torch.ones(4))


def test_saving_again_replaces_whole_files(tmp_path: Path) -> None:
    save_model(tmp_path, {"weight": _weight()}, _card())
    save_model(tmp_path, {"weight": 2 * _weight()}, _card())
    assert load_model(tmp_path).weight.equal(2 * _weight())
    assert len(list(tmp_path.iterdir())) == 2


def test_a_card_cannot_name_other_classes_twice_or_unknown_keys() -> None:
    for changes in ({"classes": ("a", "a")}, {"classes": ("a",)}, {"classes": ("a", " ")}, {"epsilom": 1}):
        with pytest.raises(ValueError, match=r"classes|epsilom"):
            _card(**changes)


def test_another_shape_is_not_saved(tmp_path: Path) -> None:
    for weight in (_weight(2), _weight()[:, :-1], _weight() * float("nan")):
        with pytest.raises(ModelError, match="weight"):
            save_model(tmp_path / "folder", {"weight": weight}, _card())
    assert not (tmp_path / "folder").exists()


def _change(path: Path, **changes: Any) -> None:
    card = json.loads(path.read_text())
    path.write_text(json.dumps({**card, **changes}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"unknown": 1}, "unknown"),
        ({"format": 2}, "format"),
        ({"weights_sha256": "0" * 64}, "SHA-256"),
        ({"weights_sha256": ""}, "SHA-256"),
        ({"classes": ["a", "b", "c"]}, "weight"),
        ({"front_end": {"size": 4, "scales": 2}}, "4 x 4"),
        ({"front_end": {"kind": "resnet", "size": 16, "scales": 2}}, "front_end.kind"),
        ({"front_end": {"size": 16, "scales": 1}}, "weight"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_an_altered_card_is_refused_by_name(tmp_path: Path, changes: dict[str, Any], named: str) -> None:
    save_model(tmp_path, {"weight": _weight()}, _card())
    _change(tmp_path / "card.json", **changes)
    with pytest.raises(ModelError, match=named) as caught:
        load_model(tmp_path)
    assert str(tmp_path) in caught.value.message


def test_altered_weights_are_refused(tmp_path: Path) -> None:
    save_model(tmp_path, {"weight": _weight()}, _card())
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(ModelError, match="SHA-256"):
        load_model(tmp_path)


def test_files_that_are_no_models(tmp_path: Path) -> None:
    save_model(tmp_path, {"weight": _weight()}, _card())
    path = tmp_path / "model.safetensors"
    for data in (b"", b"not a model", b"\x80\x04\x95pickle", b"\xff" * 64):
        path.write_bytes(data)
        _change(tmp_path / "card.json", weights_sha256=hashlib.sha256(data).hexdigest())
        with pytest.raises(ModelError, match="not a safetensors"):
            load_model(tmp_path)
    save_file({"weight": _weight(), "other": torch.zeros(1)}, path)
    _change(tmp_path / "card.json", weights_sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    with pytest.raises(ModelError, match="other tensors"):
        load_model(tmp_path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"card\.json does not exist"):
        load_model(tmp_path / "nothing")
    save_model(tmp_path, {"weight": _weight()}, _card())
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"model\.safetensors does not exist"):
        load_model(tmp_path)
    (tmp_path / "card.json").write_text("{")
    with pytest.raises(ModelError, match=r"card\.json"):
        load_model(tmp_path)
