"""Masks: loss and Dice against slow twins, and three hospitals that learn them, with privacy and without."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.tasks.studies import study

from primum.errors import ModelError, StudyError
from primum.models import Card, load_model, save_model
from primum.models.learned import write_weights
from primum.rng import Stream
from primum.study import Loss, Study
from primum.tasks import simulation
from primum.tasks.learner import Cohort
from primum.tasks.look import look, outputs_of
from primum.tasks.masks import dice, masks_of, volume_errors
from primum.tasks.plan import Plan, resolve
from primum.tasks.segmentation import Segmentation, mask_figures
from primum.tasks.windows import Wholes

SIZE = 16
NAMES = ("none", "liver", "spleen", "kidney")


def discs(count: int, seed: int, images: int = 1) -> tuple[torch.Tensor, torch.Tensor, tuple[str, ...]]:
    """Bright discs on noise, and their masks; so many images a patient."""
    generator = np.random.default_rng(seed)
    y, x = np.mgrid[:SIZE, :SIZE]
    pictures, masks = [], []
    for _ in range(count):
        cy, cx, r = [*generator.uniform(5, 11, 2).tolist(), generator.uniform(2.5, 5)]
        mask = (y - cy) ** 2 + (x - cx) ** 2 < r**2
        pictures.append(0.25 + 0.5 * mask + generator.normal(0, 0.08, mask.shape))
        masks.append(mask)
    names = tuple(f"{seed}-{place // images}" for place in range(count))
    pixels = np.clip(np.array(pictures, np.float32), 0, 1)[:, None]
    return torch.from_numpy(pixels), torch.from_numpy(np.array(masks, np.uint8)), names


def masks_study(**changes: object) -> Study:
    plain = study(**{"epsilon": 8.0, "patients": 180, **changes.pop("settings", {})})  # type: ignore[arg-type, dict-item]
    about = {**plain.study.model_dump(), "task": "segmentation", "classes": ("background", "disc")}
    training = plain.training.model_dump() | changes.pop("training", {})  # type: ignore[operator]
    data = plain.model_dump() | {
        "study": about,
        "images": {"size": SIZE},
        "model": {"kind": "pixel-linear", "scales": 2, "places": 2},
        "training": training,
        **changes,
    }
    return Study.model_validate({key: value for key, value in data.items() if value is not None})


def cohorts(plan: Plan, patients: int) -> list[Cohort]:
    made = [discs(patients, seed) for seed in (1, 2, 3)]
    return [Cohort(plan.front_end.features(images), masks, names) for images, masks, names in made]


def mean_dice(plan: Plan, weights: np.ndarray) -> float:
    images, masks, names = discs(40, 9)
    return simulation.quality(plan, weights, plan.front_end.features(images), masks, names).accuracy


def test_three_hospitals_learn_masks_with_privacy_and_look_at_them_privately() -> None:
    training = {"rounds": 12, "sampling": 0.5, "clipping": "automatic", "clipping_norm": 0.2, "learning_rate": 3.0}
    plan = Plan(resolve(masks_study(training=training)))
    plan.check()
    weights = simulation.train(plan, cohorts(plan, 60), 180)
    assert mean_dice(plan, weights) > 0.8
    looks = sum(look(plan, cohort, weights, Stream.from_os()) for cohort in cohorts(plan, 40))
    counts = plan.evaluation.restore(np.asarray(looks)).reshape(plan.task.table)
    figures = plan.task.figures(counts, plan.evaluation.restored_sigma(3))
    assert figures["dice"] == pytest.approx(mean_dice(plan, weights), abs=0.12)
    assert figures["dice_low"] < figures["dice"]
    assert figures["dice"] < figures["dice_high"] or figures["dice"] == 1  # where noise put it above its bound


def test_three_hospitals_learn_masks_with_a_small_network() -> None:
    training = {"rounds": 30, "sampling": 0.5, "clipping_norm": 1.0, "optimiser": "adam", "learning_rate": 0.02}
    plain = masks_study(
        training={**training, "schedule": "cosine", "average_last": 0.1},
        model={"kind": "u-net", "widths": (4, 8)},
        privacy=None,
    )
    plan = Plan(plain)
    weights = simulation.train(plan, cohorts(plan, 30), 90)
    assert mean_dice(plan, weights) > 0.85


def test_several_slices_of_a_patient_are_one_unit() -> None:
    plan = Plan(resolve(masks_study(training={"sampling": 1.0, "images_a_patient": 2})))
    images, masks, _ = discs(12, 1)
    features = plan.front_end.features(images)
    few = Cohort(features, masks, tuple(f"p{place // 4}" for place in range(12)))
    learner = simulation.Learner(plan, few)
    weights = plan.first_weights()
    assert learner.images == 3
    assert np.linalg.norm(learner.gradient(weights)) <= 3 * plan.study.training.clipping_norm * (1 + 1e-6)


@given(st.integers(2, 4), st.integers(0, 2**31))
def test_the_loss_is_what_a_loop_over_pixels_gives(classes: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    outputs = torch.randn(2, 1 if classes == 2 else classes, 4, 4, generator=generator)
    masks = torch.randint(0, classes, (2, 4, 4), generator=generator).to(torch.uint8)
    expected = []
    for image in range(2):
        logits = outputs[image].double()
        logits = torch.cat([torch.zeros(1, 4, 4), logits]) if classes == 2 else logits
        p = torch.exp(logits) / torch.exp(logits).sum(0)
        entropy = -sum(float(torch.log(p[int(masks[image, i, j]), i, j])) for i in range(4) for j in range(4)) / 16
        soft = 0.0
        for kind in range(1, classes):
            there = (masks[image] == kind).double()
            soft += float((2 * (p[kind] * there).sum() + 1) / (p[kind].sum() + there.sum() + 1)) / (classes - 1)
        expected.append(entropy + 1 - soft)
    assert Segmentation(NAMES[:classes]).loss(outputs, masks).tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("kind", ["dice-cross-entropy", "dice-focal", "dice", "cross-entropy", "focal"])
def test_each_loss_is_what_its_name_says(kind: Loss) -> None:
    outputs = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(3))
    masks = torch.randint(0, 3, (2, 4, 4), generator=torch.Generator().manual_seed(4)).to(torch.uint8)
    right = torch.softmax(outputs, 1).gather(1, masks.long()[:, None]).flatten(1)
    weights = torch.tensor([0.5, 1.0, 3.0])[masks.long()].flatten(1)
    dice_alone = Segmentation(NAMES[:3], "dice").loss(outputs, masks)
    expected = torch.zeros(2)
    if "focal" in kind:
        expected = (-weights * (1 - right) ** 2 * right.log()).mean(1)
    elif "cross" in kind:
        expected = (-weights * right.log()).mean(1)
    expected = expected + dice_alone if kind.startswith("dice") else expected
    assert torch.allclose(Segmentation(NAMES[:3], kind, (0.5, 1.0, 3.0)).loss(outputs, masks), expected, atol=1e-5)
    chosen = masks_study().model_dump(exclude_none=True)
    chosen["training"] |= {"loss": kind}
    assert Plan(Study.model_validate(chosen)).task.kind == kind


@given(st.integers(2, 4), st.integers(0, 2**31))
def test_dice_is_of_all_pixels_of_a_patient(classes: int, seed: int) -> None:
    generator = np.random.default_rng(seed)
    found, truth = (generator.integers(0, classes, (5, 3, 3)).astype(np.uint8) for _ in range(2))
    patients = [[0, 3], [1], [2, 4]]
    result = dice(torch.from_numpy(found), torch.from_numpy(truth), classes, patients)
    for place, images in enumerate(patients):
        for kind in range(1, classes):
            a = {(i, *at) for i in images for at in np.argwhere(found[i] == kind).tolist() for at in [tuple(at)]}
            b = {(i, *at) for i in images for at in np.argwhere(truth[i] == kind).tolist() for at in [tuple(at)]}
            expected = 2 * len(a & b) / (len(a) + len(b)) if a or b else 1.0
            assert result[place, kind - 1] == pytest.approx(expected)


def test_figures_of_masks_name_each_class() -> None:
    truth = torch.zeros(3, 4, 4, dtype=torch.uint8)
    truth[:, :2] = 1
    found = truth.clone()
    found[2, 1] = 0  # half of one patient's organ is missed: Dice 2/3
    told = mask_figures(found, truth, ("background", "liver", "spleen"), ("a", "b", "c"))
    assert told["by_class"]["liver"]["dice"] == pytest.approx((1 + 1 + 2 / 3) / 3)
    assert told["by_class"]["liver"]["volume_error"] == pytest.approx(-1 / 6)
    nothing = {"surface_distance": None, "hausdorff_95": None, "one_sided": 0}
    spleen = told["by_class"]["spleen"]
    bounds = {"dice_low": spleen["dice_low"], "dice_high": 1.0}
    assert spleen == {"dice": 1.0, **bounds, "volume_error": None, **nothing} and 0.3 < spleen["dice_low"] < 0.6
    liver = told["by_class"]["liver"]
    half = 4.302653 * np.std([1, 1, 2 / 3], ddof=1) / math.sqrt(3)  # Student's t of two degrees of freedom
    assert (liver["dice_low"], liver["dice_high"]) == pytest.approx((liver["dice"] - half, 1.0))
    assert told["surface_unit"] == "pixels"
    assert told["dice_low"] < told["dice"] < told["dice_high"]
    assert (told["images"], told["patients"]) == (3, 3)
    assert volume_errors(found, truth, 3, [[0, 1, 2]])[0, 0] == pytest.approx(-4 / 24)


def test_a_patient_is_one_cell_of_the_table() -> None:
    task = Segmentation(NAMES[:2])
    truth = torch.ones(4, 4, 4, dtype=torch.uint8)
    outputs = torch.full((4, 1, 4, 4), 3.0)
    outputs[3] = -3.0
    seen = Wholes(list(masks_of(outputs)), list(truth), ("a", "a", "b", "c"), (), ())
    rows, columns = task.cells(seen)
    assert rows.tolist() == [[0], [0], [0]]
    assert columns.tolist() == [[15], [15], [0]]
    assert masks_of(outputs)[3].sum() == 0


def test_task_and_model_must_fit_each_other() -> None:
    for model in ({"kind": "scattering-linear"}, {"kind": "small-network"}):
        with pytest.raises(ValueError, match=r"does not go with task = \"segmentation\": take pixel-linear, u-net"):
            masks_study(model=model)
    text = masks_study().text().replace('task = "segmentation"', 'task = "classification"')
    with pytest.raises(StudyError, match="pixel-linear"):
        Study.parse(text, "study.toml")


MODELS: tuple[dict[str, object], ...] = (
    {"kind": "pixel-linear", "scales": 2},
    {"kind": "u-net", "widths": (2, 4)},
    {"kind": "mo-net", "widths": (2, 4)},
    {"kind": "seg-resnet", "widths": (2, 4), "blocks": (1, 2)},
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model["kind"])
def test_a_saved_model_gives_the_same_masks(tmp_path: Path, model: dict[str, object]) -> None:
    plan = Plan(masks_study(privacy=None, model=model))
    module = plan.module()
    write_weights(module, np.random.default_rng(0).normal(size=plan.dimension).astype(np.float32))
    images, _, _ = discs(3, 5)
    card = Card(
        task="segmentation",
        classes=("background", "disc"),
        front_end=plan.front_end_card,
        learned=plan.learned,
        preparation={},
        privacy={},
        trained={},
    )
    save_model(tmp_path, module.state_dict(), card)
    loaded = load_model(tmp_path)
    expected = masks_of(outputs_of(module, plan.front_end.features(images)))
    assert torch.equal(loaded.logits(images).argmax(1).to(torch.uint8), expected)
    with pytest.raises(ModelError, match="not one linear layer"):
        _ = loaded.weight
