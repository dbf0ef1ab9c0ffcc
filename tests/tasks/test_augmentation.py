"""Pictures changed at random: the same for picture and mask, every change by its key, and one unit for the clipper."""

import numpy as np
import pytest
import torch
from tests.tasks.studies import study
from tests.tasks.test_segmentation import SIZE, discs, masks_study
from torch import nn

from primum.errors import StudyError
from primum.models.pixels import FARTHEST, standardised
from primum.rng import Stream
from primum.study import Augmentation, Study
from primum.tasks.augmentation import Augmenter, mixed
from primum.tasks.learner import Cohort, Learner
from primum.tasks.plan import Plan, resolve

NETWORK = {"kind": "u-net", "widths": (2, 4)}
GEOMETRY = (
    {"rotation": 90}, {"scale": 0.4}, {"shear": 0.5}, {"shift": 0.2}, {"flip": "horizontal"}, {"flip": "vertical"},
    {"elastic": 4.0}, {"grid": 0.5},
)  # fmt: skip
GREY = ({"blur": 2.0}, {"gamma": 0.5}, {"contrast": 0.5}, {"noise": 0.3}, {"cutout": 0.4})


def seen(settings: dict[str, object], count: int = 12) -> tuple[torch.Tensor, ...]:
    """(pictures, masks, both changed): two-valued pictures that show exactly their masks."""
    _, masks, _ = discs(count, 1)
    pictures = standardised(masks[:, None].float())
    augmenter = Augmenter(Augmentation(**{"share": 1.0, **settings}), (SIZE, SIZE), True, Stream.from_os())  # type: ignore[arg-type]
    return (pictures, masks, *augmenter(pictures, masks))


@pytest.mark.parametrize("settings", GEOMETRY, ids=str)
def test_a_mask_moves_with_its_picture(settings: dict[str, object]) -> None:
    pictures, masks, moved, moved_masks = seen(settings)
    assert moved.shape == pictures.shape and moved.dtype == torch.float32
    assert moved_masks.shape == masks.shape and moved_masks.dtype == torch.uint8
    assert not torch.equal(moved_masks, masks)
    light = (moved[:, 0] > 0).to(torch.uint8)
    assert float((light == moved_masks).float().mean()) > 0.93


@pytest.mark.parametrize("settings", GREY, ids=str)
def test_grey_levels_change_and_masks_do_not(settings: dict[str, object]) -> None:
    images, masks, _ = discs(12, 1)
    pictures = standardised(images)
    augmenter = Augmenter(Augmentation(share=1.0, **settings), (SIZE, SIZE), True, Stream.from_os())  # type: ignore[arg-type]
    changed, same = augmenter(pictures, masks)
    assert torch.equal(same, masks)
    assert torch.equal(pictures, standardised(images))  # what is trained on next time
    assert not torch.allclose(changed, pictures, atol=1e-3)
    assert float(changed.abs().max()) <= FARTHEST


def test_blur_brings_no_dark_frame_from_beyond_the_border() -> None:
    """A plain picture stays as it is, up to its border."""
    plain = torch.full((4, 1, SIZE, SIZE), 1.5)
    augmenter = Augmenter(Augmentation(share=1.0, blur=3.0), (SIZE, SIZE), False, Stream.from_os())
    changed, _ = augmenter(plain, torch.zeros(4, dtype=torch.int64))
    assert torch.allclose(changed, plain, atol=1e-3)


def test_each_draw_is_another_and_nothing_asked_changes_nothing() -> None:
    _, _, first, _ = seen({"rotation": 90})
    _, _, second, _ = seen({"rotation": 90})
    assert not torch.equal(first, second)
    pictures, masks, same, same_masks = seen({})
    assert torch.equal(pictures, same) and torch.equal(masks, same_masks)


def test_copies_of_a_picture_are_one_unit_whose_mean_gradient_is_clipped_once() -> None:
    """Copies without a change have the gradient of one picture; with changes a unit still moves the sum by the norm."""
    training = {"sampling": 1.0, "clipping_norm": 1e3}
    images, masks, names = discs(6, 1)

    def gradient(**augmentation: object) -> np.ndarray:
        study = masks_study(training=training, model=NETWORK, augmentation=augmentation)
        plan = Plan(resolve(study))
        cohort = Cohort(plan.front_end.features(images), masks, names)
        weights = np.random.default_rng(0).normal(size=plan.dimension).astype(np.float32)
        return Learner(plan, cohort).gradient(weights)

    assert gradient(copies=3) == pytest.approx(gradient(), rel=1e-3, abs=1e-5)
    training["clipping_norm"] = 0.01
    assert np.linalg.norm(gradient(copies=3, rotation=45)) <= 6 * 0.01 * (1 + 1e-6)


def mixup_study(**changes: object) -> Study:
    plain = study(privacy=None, training={"sampling": 1.0, "clipping_norm": 1e3, "learning_rate": 0.1}, **changes)  # type: ignore[arg-type]
    model = {"kind": "small-network", "widths": (2, 4)}
    return Study(**{**plain.model_dump(), "model": model, "augmentation": {"mixup": 0.4, "share": 1.0, "copies": 2}})


@pytest.mark.parametrize(("labels", "classes"), [("one", 3), ("several", 3), ("ordered", 3)])
def test_mixup_is_the_loss_of_a_mixed_label(labels: str, classes: int) -> None:
    """The rows of `mixed` add up to the gradient of soft labels, by hand; and the learner takes them as one unit."""
    plan = Plan(resolve(mixup_study(labels=labels, classes=classes)))
    images, _, names = discs(8, 3)
    images = images[:, :, : plan.front_end.size, : plan.front_end.size]
    truth = torch.tensor([[1, 0, 1], [0, 0, 0]] * 4) if labels == "several" else torch.arange(8) % 3
    settings = plan.study.augmentation
    assert settings is not None
    pictures, told, weights = mixed(images, truth, torch.ones(8), settings, Stream.public("mixup"))
    assert pictures.shape == (16, *images.shape[1:]) and torch.equal(pictures[::2], pictures[1::2])
    assert torch.allclose(weights[::2] + weights[1::2], torch.ones(8)) and torch.equal(told[::2], truth)
    assert float(weights[::2].std()) > 0.05, "parts differ"
    module = plan.module()
    with torch.no_grad():
        found, outputs = (plan.task.loss(module(pictures), told) * weights).sum(), module(pictures[::2])
    hard = {"one": 3, "ordered": 3}.get(labels)
    soft = (nn.functional.one_hot(told, hard) if hard else told).float() * weights.reshape(-1, 1)
    target = soft[::2] + soft[1::2]
    if labels == "one":
        wanted = nn.functional.cross_entropy(outputs, target, reduction="sum")
    elif labels == "several":
        wanted = nn.functional.binary_cross_entropy_with_logits(outputs, target, reduction="none").mean(1).sum()
    else:
        reached = torch.stack([target[:, 1:].sum(1), target[:, 2]], 1)
        wanted = nn.functional.binary_cross_entropy_with_logits(outputs, reached, reduction="sum")
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)
    learner = Learner(plan, Cohort(plan.front_end.features(images), truth, names))
    weights_of = np.random.default_rng(0).normal(size=plan.dimension).astype(np.float32)
    first, second = learner.gradient(weights_of), learner.gradient(weights_of)
    assert np.isfinite(first).all() and not np.allclose(first, second), "each round is mixed anew"


def test_mixup_keeps_a_unit_below_the_norm() -> None:
    """Six times the same picture: nothing to mix, so the sum is six units of the norm, whatever their parts."""
    asked = mixup_study()
    training = {**asked.training.model_dump(), "clipping_norm": 0.01}
    plan = Plan(resolve(Study(**{**asked.model_dump(), "training": training})))
    images, _, names = discs(6, 3)
    cohort = Cohort(plan.front_end.features(images[:1].repeat(6, 1, 1, 1)), torch.ones(6, dtype=torch.int64), names)
    weights = np.random.default_rng(0).normal(size=plan.dimension).astype(np.float32)
    assert np.linalg.norm(Learner(plan, cohort).gradient(weights)) == pytest.approx(6 * 0.01, rel=1e-2)


def test_mixup_takes_the_label_of_the_picture_that_is_mixed_in() -> None:
    """Each picture has a pixel of its own, so a mixed one says of which two it is made."""
    images, labels = torch.eye(6).reshape(6, 1, 2, 3), torch.arange(6)
    settings = Augmentation(mixup=1.0, share=1.0)
    pictures, told, weights = mixed(images, labels, torch.full((6,), 0.5), settings, Stream.public("mixup"))
    parts = torch.zeros(6, 6)
    for row, (label, weight) in enumerate(zip(told, weights, strict=True)):
        parts[row // 2, label] += 2 * weight
    assert torch.allclose(pictures[::2].reshape(6, 6), parts) and int((parts > 0).sum()) > 6
    settings = Augmentation(mixup=1.0, share=1e-9)
    pictures, _, weights = mixed(images, labels, torch.ones(6), settings, Stream.public("mixup"))
    assert torch.equal(pictures[::2], images) and weights.tolist() == [1.0, 0.0] * 6


def test_mixup_is_refused_where_it_would_break_a_promise() -> None:
    with pytest.raises(ValueError, match=r"mixup does not go with \[privacy\].*another patient"):
        masks_study(model=NETWORK, augmentation={"mixup": 0.2})
    with pytest.raises(ValueError, match="between two masks"):
        masks_study(model=NETWORK, augmentation={"mixup": 0.2}, privacy=None)


def test_fixed_features_cannot_be_augmented() -> None:
    with pytest.raises(ValueError, match=r"take u-net, mo-net, seg-resnet"):
        masks_study(augmentation={"rotation": 10})


def test_an_empty_sample_stays_empty() -> None:
    augmenter = Augmenter(Augmentation(rotation=10), (SIZE, SIZE), False, Stream.from_os())
    images, labels = augmenter(torch.zeros(0, 1, SIZE, SIZE), torch.zeros(0, dtype=torch.int64))
    assert len(images) == len(labels) == 0


def test_unknown_changes_are_named() -> None:
    text = masks_study(model=NETWORK, augmentation={"rotation": 10}).text().replace("rotation", "rotations")
    with pytest.raises(StudyError, match=r"Did you mean augmentation\.rotation"):
        Study.parse(text, "study.toml")
