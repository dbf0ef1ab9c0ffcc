"""Pictures changed at random: the same for picture and mask, every change by its key, and one unit for the clipper."""

import numpy as np
import pytest
import torch
from tests.tasks.test_segmentation import SIZE, discs, masks_study

from primum.errors import StudyError
from primum.models.pixels import FARTHEST, standardised
from primum.rng import Stream
from primum.study import Augmentation, Study
from primum.tasks.augmentation import Augmenter
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


def test_fixed_features_cannot_be_augmented() -> None:
    with pytest.raises(
        ValueError, match=r"take small-network, residual-network, vgg, squeeze-network, mobile-network, u-net"
    ):
        masks_study(augmentation={"rotation": 10})


def test_an_empty_sample_stays_empty() -> None:
    augmenter = Augmenter(Augmentation(rotation=10), (SIZE, SIZE), False, Stream.from_os())
    images, labels = augmenter(torch.zeros(0, 1, SIZE, SIZE), torch.zeros(0, dtype=torch.int64))
    assert len(images) == len(labels) == 0


def test_unknown_changes_are_named() -> None:
    text = masks_study(model=NETWORK, augmentation={"rotation": 10}).text().replace("rotation", "rotations")
    with pytest.raises(StudyError, match=r"Did you mean augmentation\.rotation"):
        Study.parse(text, "study.toml")
