"""Features that are computed when they are asked for are those that would be held, and so is all that is made of them."""

import numpy as np
import pytest
import torch
from tests.tasks.test_segmentation import SIZE, discs, masks_study

from primum.models.learned import write_weights
from primum.models.pixel_features import PixelFeatures
from primum.models.pixels import Pixels
from primum.tasks.features import Features, OnDemand, features_of, some
from primum.tasks.learner import Cohort, Learner
from primum.tasks.look import masks_seen
from primum.tasks.plan import Plan, resolve


@pytest.fixture(scope="module")
def plan() -> Plan:
    training = {"rounds": 2, "sampling": 1.0, "clipping": "automatic", "clipping_norm": 0.2}
    return Plan(resolve(masks_study(training=training, settings={"patients": 30})))


def both(plan: Plan, images: torch.Tensor) -> tuple[Features, Features]:
    return features_of(plan.front_end, images), features_of(plan.front_end, images, most=1000)


def test_rows_are_the_same_however_they_are_named(plan: Plan) -> None:
    images, _, _ = discs(6, 1)
    held, asked = both(plan, images)
    assert isinstance(held, torch.Tensor) and isinstance(asked, OnDemand)
    assert len(asked) == len(held) and asked.shape == tuple(held.shape)
    mask = torch.tensor([True, False, True, False, False, True])
    for rows in (slice(None), slice(2, 5), torch.tensor([3, 0, 3]), np.array([1, 2])):
        assert torch.equal(asked[rows], held[rows])
    assert torch.equal(some(asked, mask)[:], some(held, mask)[:])


def test_features_no_larger_than_the_pictures_are_held() -> None:
    images = torch.rand(4, 1, SIZE, SIZE)
    assert isinstance(features_of(Pixels(SIZE, 1), images, most=10), torch.Tensor)
    assert isinstance(features_of(PixelFeatures(SIZE, 1, 2, 2), images, most=10), OnDemand)


def test_a_step_and_a_look_are_the_same(plan: Plan) -> None:
    images, masks, patients = discs(9, 2)
    held, asked = (Cohort(features, masks, patients) for features in both(plan, images))
    weights = np.random.default_rng(0).normal(size=plan.dimension).astype(np.float32)
    sums = [Learner(plan, cohort).gradient(weights) for cohort in (held, asked)]
    assert np.abs(sums[0]).max() > 0 and np.allclose(*sums, rtol=1e-5, atol=1e-7)
    module = plan.module()
    write_weights(module, weights)
    assert all(
        torch.equal(a, b) for a, b in zip(*(masks_seen(module, one).found for one in (held, asked)), strict=True)
    )


def test_filling_up_adds_nothing(plan: Plan) -> None:
    """30 patients are promised in all and 9 are here: the other 21 rows count as nothing, and take the same time."""
    images, masks, patients = discs(9, 2)
    weights = np.random.default_rng(0).normal(size=plan.dimension).astype(np.float32)
    learner = Learner(plan, Cohort(plan.front_end.features(images), masks, patients))
    filled = learner.gradient(weights)  # and the module has these weights from now on
    alone = learner.clipped(plan.front_end.features(images), masks).double().numpy()
    assert plan.largest_batch == 30 and len(masks) == 9
    assert np.allclose(filled, alone, rtol=1e-5, atol=1e-7)
