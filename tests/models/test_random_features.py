"""The front end of drawn filters: bounded, fixed, the same as a slow twin that walks over the pixels."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.errors import ModelError
from primum.models.feature_map import RandomCard
from primum.models.random_features import RandomFeatures, drawn_filters
from primum.rng import Stream

SMALL = RandomFeatures(16, filters=8, patch=5, pools=2)


def _images(count: int, size: int, channels: int = 1) -> torch.Tensor:
    stream = Stream.public("random features tests")
    return torch.from_numpy(stream.uniform((count, channels, size, size))).to(torch.float32)


def _slow_row(image: np.ndarray, front_end: RandomFeatures) -> np.ndarray:
    """One place and one filter at a time."""
    filters = drawn_filters(front_end.filters, front_end.channels, front_end.patch).double().numpy()
    image, patch = (image - image.mean()) / image.std(), front_end.patch
    places = front_end.size - patch + 1
    ends = np.arange(front_end.pools + 1) * places
    edges = list(zip(ends[:-1] // front_end.pools, -(-ends[1:] // front_end.pools), strict=True))
    standard, means = [], []
    for sign in (1, -1):
        for one in filters:
            seen = np.zeros((places, places))
            for row, column in np.ndindex(places, places):
                value = (image[:, row : row + patch, column : column + patch] * one).sum() / patch
                seen[row, column] = max(0.0, sign * value - 0.05)
            pooled = np.log1p([seen[a:b, c:d].mean() / 0.01 for a, b in edges for c, d in edges])
            standard.append((pooled - pooled.mean()) / max(pooled.std(), 1e-3))
            means.append(pooled.mean())
    row = np.concatenate([np.concatenate(standard), means])
    return row / np.linalg.norm(row)


@pytest.mark.parametrize(("channels", "pools"), [(1, 2), (3, 1), (1, 5)])
def test_features_are_those_of_the_slow_twin(channels: int, pools: int) -> None:
    front_end = RandomFeatures(16, channels, filters=4, patch=5, pools=pools)
    images = _images(2, 16, channels)
    expected = np.array([_slow_row(image.double().numpy(), front_end) for image in images])
    assert front_end.features(images).shape == (2, front_end.dimension) == expected.shape
    np.testing.assert_allclose(front_end.features(images).numpy(), expected, atol=2e-5)


def test_filters_are_drawn_for_everybody_alike() -> None:
    rows = drawn_filters(64, 3, 4).flatten(1)
    assert rows.mean(1).abs().max() < 1e-7
    assert torch.allclose(rows.norm(dim=1), torch.ones(64))
    assert torch.allclose(rows[0, :3], torch.tensor([0.01333983, -0.36092362, -0.0352415]), atol=1e-6)
    gram = rows @ rows.T - torch.eye(64)
    assert 0.1 < float(gram.std()) < 0.2  # of 47 free directions: 1 / sqrt(47) = 0.146
    assert not torch.equal(drawn_filters(64, 1, 4)[0, 0], drawn_filters(65, 1, 4)[0, 0])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(0, 1, width=32), min_size=256, max_size=256), st.sampled_from([1.0, 1e-3, 1e-6]))
def test_no_row_is_longer_than_1(values: list[float], contrast: float) -> None:
    row = SMALL.features(torch.tensor(values, dtype=torch.float32).view(1, 1, 16, 16) * contrast)
    assert torch.isfinite(row).all()
    assert float(row.double().norm()) <= 1


def test_rows_have_length_nearly_1_and_do_not_depend_on_their_neighbours() -> None:
    front_end = RandomFeatures(64, filters=64)  # more than one piece
    images = _images(40, 64)
    rows = front_end.features(images)
    lengths = rows.double().norm(dim=1)
    assert lengths.max() <= 1
    assert lengths.min() > 1 - 1e-5
    assert torch.allclose(front_end.features(images[37:39]), rows[37:39], atol=1e-5)


def test_contrast_and_brightness_change_nothing() -> None:
    images = _images(2, 16)
    assert torch.allclose(SMALL.features(0.25 * images + 0.5), SMALL.features(images), atol=1e-4)


def test_a_flat_image_gives_zeros_and_no_images_no_rows() -> None:
    assert SMALL.features(torch.full((2, 1, 16, 16), 0.3)).abs().max() == 0
    assert SMALL.features(torch.zeros(0, 1, 16, 16)).shape == (0, SMALL.dimension)


@pytest.mark.parametrize(
    "settings",
    [{"filters": 0}, {"patch": 1}, {"patch": 17}, {"pools": 0}, {"pools": 13}, {"channels": 2}, {"size": 5000}],
)
def test_numbers_that_do_not_fit_are_refused(settings: dict[str, int]) -> None:
    with pytest.raises(ModelError, match="filters of") as caught:
        RandomFeatures(**{"size": 16, "patch": 5, **settings})
    assert caught.value.hint


@pytest.mark.parametrize("shape", [(1, 1, 16, 17), (1, 3, 16, 16), (16, 16), (0, 1, 8, 8)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected images of shape"):
        SMALL.features(torch.zeros(shape))


def test_values_that_are_not_finite_are_refused() -> None:
    image = _images(1, 16)
    image[0, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        SMALL.features(image)


def test_a_card_names_it() -> None:
    card = RandomCard(size=28, filters=16, patch=4, pools=2)
    assert card.feature_map() == RandomFeatures(28, 1, 16, 4, 2)
    assert RandomCard.model_validate_json(card.model_dump_json()) == card
