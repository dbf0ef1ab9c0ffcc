"""Every kind of model that a study may ask for: from TOML to a front end, and back from a card."""

import hashlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import save
from tests.tasks.studies import study

from primum.errors import ModelError, StudyError
from primum.federation.explain import explain, model_in_words
from primum.models import Card, load_model, save_model
from primum.models.backbone import Backbone, shapes
from primum.models.learned import write_weights
from primum.models.random_features import RandomFeatures
from primum.study import Study
from primum.tasks.plan import Plan


def _asking(model: str, size: int = 32) -> Study:
    text = study(privacy=None).text()  # accounting takes seconds, and is the same for every kind
    start, end = text.index("[model]"), text.index("[training]")
    changed = text[:start] + f"[model]\n{model}\n" + text[end:]
    return Study.parse(changed.replace("size = 16", f"size = {size}"), "study.toml")


@pytest.fixture
def weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    data = save({key: torch.zeros(shape) for key, shape in shapes().items()})
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / f"{digest}.safetensors").write_bytes(data)
    monkeypatch.setenv("PRIMUM_BACKBONES", str(tmp_path))
    return digest


def test_random_filters() -> None:
    asked = _asking('kind = "random-linear"\nfilters = 16\npatch = 5\npools = 2')
    assert Plan(asked).front_end == RandomFeatures(32, 1, 16, 5, 2)
    assert Plan(asked).dimension == 2 * 16 * 5
    assert Study.parse(asked.text(), "again") == asked
    assert model_in_words(asked) == "16 fixed random filters of 5 x 5 pixels"
    assert "160 weights on 16 fixed random filters" in explain(asked)


def test_a_backbone(weights: str) -> None:
    asked = _asking(f'kind = "backbone-linear"\nbackbone = "resnet18"\nweights = "{weights}"')
    assert Plan(asked).front_end == Backbone(32, 1, "resnet18", weights)
    assert Plan(asked).dimension == 768
    assert Study.parse(asked.text(), "again") == asked
    assert f"768 weights on a frozen resnet18 (file {weights[:12]}" in explain(asked)


def test_a_backbone_whose_file_is_not_there(weights: str) -> None:
    asked = _asking(f'kind = "backbone-linear"\nbackbone = "resnet18"\nweights = "{"0" * 64}"')
    with pytest.raises(ModelError, match=f"{'0' * 64}.safetensors does not exist"):
        explain(asked)


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ('kind = "random-linear"\npatches = 5', r"unknown key model\.patches.*Did you mean model\.patch\?"),
        ('kind = "random-linear"\npools = 0', r"model\.pools: must be at least 1"),
        ('kind = "random-linear"\nscales = 2', r"unknown key model\.scales"),
        ('kind = "backbone-linear"\nbackbone = "resnet18"', r"model\.weights is missing"),
        ('kind = "backbone-linear"\nbackbone = "resnet18"\nweights = "../x"', r"model\.weights: must be text like"),
        ('kind = "backbone-linear"\nbackbone = "vit"\nweights = "x"', r"model\.backbone: must be 'resnet18'"),
        ('kind = "resnet"', r"model\.kind = 'resnet' is none of .*random-linear, backbone-linear"),
    ],
)
def test_what_is_wrong_is_named(model: str, says: str) -> None:
    with pytest.raises(StudyError, match=says):
        _asking(model)


def test_a_model_on_random_filters_is_saved_and_loaded(tmp_path: Path) -> None:
    plan = Plan(_asking('kind = "random-linear"\nfilters = 4\npatch = 5\npools = 2'))
    card = Card(classes=("a", "b"), front_end=plan.front_end_card, preparation={}, privacy={}, trained={})
    weight = torch.linspace(-1, 1, plan.dimension)[None]
    save_model(tmp_path, {"weight": weight}, card)
    loaded = load_model(tmp_path)
    assert loaded.front_end == plan.front_end
    assert torch.equal(loaded.weight, weight)


@pytest.mark.parametrize(
    ("model", "weights", "words"),
    [
        ('kind = "vgg"\nwidths = [2, 4]\nblocks = [1, 2]', 259, "a VGG of 2, 4 channels"),
        ('kind = "squeeze-network"\nwidths = [2]', 545, "a SqueezeNet of 2 channels"),
        ('kind = "mobile-network"\nwidths = [4]\nexpansion = 2', 493, "a mobile network of 4 channels"),
    ],
)
def test_a_network_is_asked_for_explained_saved_and_loaded(
    tmp_path: Path, model: str, weights: int, words: str
) -> None:
    plan = Plan(_asking(model))
    assert f"{weights} weights on {words}, learned as a whole" in explain(plan.study)
    assert Study.parse(plan.study.text(), "again") == plan.study
    card = Card(
        classes=("a", "b"), front_end=plan.front_end_card, learned=plan.learned, preparation={}, privacy={}, trained={}
    )
    module = plan.module()
    write_weights(module, torch.linspace(-1, 1, weights).numpy())
    save_model(tmp_path, module.state_dict(), card)
    loaded, images = load_model(tmp_path), torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(loaded.logits(images)[:, 1:], module.eval()(plan.front_end.features(images)))


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ('kind = "vgg"\nblocks = [1, 2]', r"blocks \(1, 2\) for widths \(8, 16, 32, 64, 64\)"),
        ('kind = "vgg"\nwidths = [2, 2, 2, 2, 2, 2]\nblocks = [1, 1, 1, 1, 1, 1]', "cannot be halved 6 times"),
    ],
)
def test_a_network_whose_keys_contradict_each_other_is_refused(model: str, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        explain(_asking(model))


def test_a_model_on_a_backbone_needs_its_file(tmp_path: Path, weights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan(_asking(f'kind = "backbone-linear"\nbackbone = "resnet18"\nweights = "{weights}"'))
    card = Card(classes=("a", "b"), front_end=plan.front_end_card, preparation={}, privacy={}, trained={})
    save_model(tmp_path / "model", {"weight": torch.zeros(1, 768)}, card)
    assert load_model(tmp_path / "model").logits(torch.rand(2, 1, 32, 32)).shape == (2, 2)
    monkeypatch.setenv("PRIMUM_BACKBONES", str(tmp_path / "elsewhere"))
    with pytest.raises(ModelError, match=rf"{weights}.safetensors does not exist.*Ask whoever"):
        load_model(tmp_path / "model")
