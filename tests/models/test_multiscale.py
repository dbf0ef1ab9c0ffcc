"""The front end of several scales: bounded, fixed, the same as a slow twin that forms the whole covariance."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.errors import ModelError
from primum.models.multiscale import MultiScale, noise_pictures, pictures_for, reference
from primum.models.scattering import FrontEnd
from primum.rng import Stream

SMALL = MultiScale(16, scales=(1, 2), angles=2)


def _images(count: int, size: int, channels: int = 1, label: str = "multiscale tests") -> torch.Tensor:
    return torch.from_numpy(Stream.public(label).uniform((count, channels, size, size))).to(torch.float32)


def _stretched(grey: np.ndarray, high: float, wide: float) -> np.ndarray:
    """Bilinear, pixel by pixel; beyond the border its pixels are repeated."""
    size = len(grey)
    out = np.zeros_like(grey)
    for row, column in np.ndindex(out.shape):
        y = min(max((row + 0.5 - size / 2) * high + size / 2 - 0.5, 0), size - 1)
        x = min(max((column + 0.5 - size / 2) * wide + size / 2 - 0.5, 0), size - 1)
        top, left = min(int(y), size - 2), min(int(x), size - 2)
        for r, c in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            out[row, column] += grey[r, c] * (1 - abs(y - r)) * (1 - abs(x - c))
    return out


def _slow_rows(images: torch.Tensor, front_end: MultiScale) -> np.ndarray:
    """Steps 1 and 2, one picture, one view and one scale at a time."""
    out = []
    for image in images.numpy():
        views = [image]
        if front_end.views == "shift":
            wide = np.pad(image, ((0, 0), (1, 1), (1, 1)), mode="edge")
            views = [np.roll(wide, move, (1, 2))[:, 1:-1, 1:-1] for move in ((1, 0), (-1, 0), (0, 1), (0, -1))]
        if front_end.views in ("zoom", "mirror"):
            zooms = ((0.9, 0.9), (1.1, 1.1), (0.92, 1.08), (1.08, 0.92))
            views = [np.stack([_stretched(grey, *zoom) for grey in image]) for zoom in zooms]
        if front_end.views == "mirror":
            views += [view[:, :, ::-1] for view in views]
        rows = []
        for view in views:
            parts = []
            for scale in front_end.scales:
                part = FrontEnd(front_end.size, scale, front_end.angles, front_end.channels)
                row = part.features(torch.from_numpy(view.copy())[None])[0].double().numpy()
                row[-part.paths * part.channels :] *= 3
                parts.append(row / np.linalg.norm(row))
            rows.append(np.concatenate(parts) / np.sqrt(len(parts)))
        out.append(np.mean(rows, axis=0))
    return np.array(out)


@pytest.mark.parametrize("views", ["one", "shift", "zoom", "mirror"])
def test_features_are_those_of_the_slow_twin(views: str) -> None:
    """Whole covariance, whole eigenbasis, float64."""
    front_end = MultiScale(16, scales=(1, 2), angles=2, views=views)  # type: ignore[arg-type]
    pictures = noise_pictures(400, 16, 1)
    noise = _slow_rows(pictures, MultiScale(16, scales=(1, 2), angles=2, views="one"))
    mean = noise.mean(0)
    covariance = (noise - mean).T @ (noise - mean) / len(noise)
    values, vectors = np.linalg.eigh(covariance)
    powers = (1 + np.maximum(values, 0) / values.mean()) ** -0.25
    images = _images(3, 16)
    expected = (_slow_rows(images, front_end) - mean) @ (vectors * powers) @ vectors.T
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(front_end.features(images).numpy(), expected, atol=2e-5)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(0, 1, width=32), min_size=256, max_size=256),
    st.sampled_from([1.0, 1e-3, 1e-6]),
)
def test_no_row_is_longer_than_1(values: list[float], contrast: float) -> None:
    image = torch.tensor(values, dtype=torch.float32).view(1, 1, 16, 16) * contrast
    row = SMALL.features(image)
    assert torch.isfinite(row).all()
    assert float(row.double().norm()) <= 1


def test_rows_have_length_nearly_1_and_do_not_depend_on_their_neighbours() -> None:
    images = _images(70, 16)  # more than one piece
    rows = SMALL.features(images)
    lengths = rows.double().norm(dim=1)
    assert lengths.max() <= 1
    assert lengths.min() > 1 - 1e-5
    assert torch.allclose(SMALL.features(images[66:68]), rows[66:68], atol=1e-6)


def test_contrast_and_brightness_change_nothing() -> None:
    images = _images(2, 16)
    assert torch.allclose(SMALL.features(0.25 * images + 0.5), SMALL.features(images), atol=1e-4)


def test_a_flat_image_gives_zeros() -> None:
    assert SMALL.features(torch.full((2, 1, 16, 16), 0.3)).abs().max() == 0


def test_noise_pictures_cancel_out() -> None:
    """Seen from their own average they have no direction in common, unlike before."""
    front_end = MultiScale(16, scales=(1, 2), angles=2, views="one")
    pictures = noise_pictures(400, 16, 1)
    assert front_end.features(pictures).mean(0).norm() < 0.1
    assert front_end.averaged(pictures).mean(0).norm() > 0.4


def test_directions_are_orthonormal_and_only_shrink() -> None:
    seen_from = reference(SMALL)
    gram = seen_from.directions.T @ seen_from.directions
    assert torch.allclose(gram, torch.eye(len(gram)), atol=1e-4)
    assert (seen_from.factors < 0).all()
    assert (seen_from.factors > -1).all()


def test_long_features_are_seen_from_fewer_pictures() -> None:
    """So that the directions of large images stay within memory."""
    assert pictures_for(MultiScale(64, scales=(2, 3)).dimension) == 400
    assert pictures_for(10_000_000) == 16
    for size in (128, 224, 512):
        dimension = MultiScale(size, scales=(2, 3)).dimension
        assert pictures_for(dimension) * dimension <= 1 << 26
    assert reference(SMALL).directions.shape[1] < 400


def test_noise_pictures_are_always_the_same_and_have_the_spectrum_of_natural_images() -> None:
    pictures = noise_pictures(60, 32, 1)
    assert torch.equal(pictures, noise_pictures(60, 32, 1))
    assert float(pictures.min()) == 0
    assert float(pictures.max()) == 1
    window = torch.hann_window(32, periodic=False)
    power = torch.fft.fft2((pictures - pictures.mean()) * window * window[:, None]).abs().square().mean((0, 1))
    octaves = power[2, 2].sqrt() / power[4, 4].sqrt(), power[4, 4].sqrt() / power[8, 8].sqrt()
    assert all(1.5 < float(ratio) < 2.7 for ratio in octaves)


def test_colour_pictures_and_the_dimension() -> None:
    front_end = MultiScale(16, scales=(2, 1), angles=2, channels=3, views="one")
    rows = front_end.features(_images(2, 16, 3))
    assert rows.shape == (2, front_end.dimension)
    assert front_end.dimension == sum(FrontEnd(16, scale, 2, 3).dimension for scale in (1, 2))


def test_in_a_mirror_left_and_right_say_the_same() -> None:
    front_end, images = MultiScale(16, scales=(1, 2), angles=2, views="mirror"), _images(3, 16)
    assert torch.allclose(front_end.features(images), front_end.features(images.flip(-1)), atol=2e-6)


@pytest.mark.parametrize("views", ["one", "shift", "zoom", "mirror"])
def test_no_images_give_no_rows(views: str) -> None:
    front_end = MultiScale(16, scales=(1, 2), angles=2, views=views)  # type: ignore[arg-type]
    assert front_end.features(torch.zeros(0, 1, 16, 16)).shape == (0, SMALL.dimension)


@pytest.mark.parametrize("scales", [(), (1, 1), (0,), (7,), (1, 4)])
def test_scales_that_do_not_fit_are_refused(scales: tuple[int, ...]) -> None:
    with pytest.raises(ModelError):
        MultiScale(16, scales=scales)


def test_unknown_views_are_refused_by_name() -> None:
    with pytest.raises(ModelError, match="unknown views 'blur'"):
        MultiScale(16, views="blur")  # type: ignore[arg-type]


@pytest.mark.parametrize("shape", [(1, 1, 16, 17), (1, 3, 16, 16), (16, 16), (0, 1, 8, 8)])
def test_images_of_another_shape_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="expected images of shape"):
        SMALL.features(torch.zeros(shape))


def test_values_that_are_not_finite_are_refused() -> None:
    image = _images(1, 16)
    image[0, 0, 3, 3] = torch.nan
    with pytest.raises(ValueError, match="not finite"):
        SMALL.features(image)
