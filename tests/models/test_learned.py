"""What is learned on a front end: weights as one vector, public first weights, masks as large as their images."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from primum.compiler import drawn_images
from primum.errors import ModelError
from primum.models.learned import (
    Learned,
    Linear,
    Residual,
    Small,
    UNetSettings,
    first_weights,
    read_weights,
    settings_of,
    weight_count,
    write_weights,
)
from primum.models.pixel_features import PixelFeatures
from primum.models.pixels import FARTHEST, Pixels
from primum.models.unet import UNet

KINDS: tuple[Learned, ...] = (
    Linear(),
    Small(widths=(4, 8)),
    Residual(widths=(4, 8), blocks=1),
    UNetSettings(widths=(4, 8)),
    *(settings_of({"kind": kind, "widths": (4, 8)}) for kind in ("squeeze-network", "mobile-network", "mo-net")),
    *(settings_of({"kind": kind, "widths": (4, 8), "blocks": (1, 2)}) for kind in ("vgg", "seg-resnet")),
)


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.kind)
def test_weights_travel_as_one_vector(settings: Learned) -> None:
    module = settings.module((1, 16, 16), 3)
    vector = np.random.default_rng(0).normal(size=weight_count(module)).astype(np.float32)
    write_weights(module, vector)
    assert np.array_equal(read_weights(module), vector)
    names = [name for name, _ in module.named_parameters()]
    flat = torch.cat([module.state_dict()[name].reshape(-1) for name in names])
    assert np.array_equal(flat.numpy(), vector)
    with pytest.raises(ValueError, match="weights are needed"):
        write_weights(module, vector[1:])


@pytest.mark.parametrize("settings", KINDS, ids=lambda settings: settings.kind)
def test_everybody_begins_at_the_same_weights_and_another_study_elsewhere(settings: Learned) -> None:
    torch.manual_seed(1)
    first = first_weights(settings.module((1, 16, 16), 1), "lungs")
    torch.manual_seed(2)
    assert np.array_equal(first, first_weights(settings.module((1, 16, 16), 1), "lungs"))
    other = first_weights(settings.module((1, 16, 16), 1), "livers")
    assert np.array_equal(first, other) == (settings.kind == "linear")
    assert np.isfinite(first).all()


def test_signals_keep_their_size_at_the_first_weights_and_the_answer_is_zero() -> None:
    module = UNetSettings(widths=(16, 32, 64)).module((1, 32, 32), 2)
    first_weights(module, "lungs")
    found: list[float] = []
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d) and layer is not list(module.modules())[-1]:
            layer.register_forward_hook(lambda layer, inputs, output: found.append(float(output.detach().std())))
    pictures = torch.randn(8, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    assert not module(pictures).any()
    assert 0.4 < min(found[:-1]) <= max(found[:-1]) < 2.5


@pytest.mark.parametrize(("size", "widths"), [(16, (2, 4)), (48, (4, 4, 8, 8)), (20, (2, 2, 2))])
def test_a_mask_is_as_large_as_its_image(size: int, widths: tuple[int, ...]) -> None:
    assert UNet(3, size, 4, widths)(torch.zeros(2, 3, size, size)).shape == (2, 4, size, size)


@pytest.mark.parametrize(("size", "widths"), [(50, (2, 4, 8)), (4, (2, 4, 8)), (16, ())])
def test_sizes_that_cannot_be_halved_are_refused(size: int, widths: tuple[int, ...]) -> None:
    with pytest.raises(ModelError):
        UNet(1, size, 1, widths)


def test_a_network_is_refused_what_is_no_picture() -> None:
    with pytest.raises(ModelError, match="square pictures"):
        Small(widths=(4,)).module((195,), 1)


@given(gain=st.floats(0.01, 1), offset=st.floats(0, 0.5))
def test_pixels_are_the_same_at_any_brightness_and_contrast(gain: float, offset: float) -> None:
    images = torch.from_numpy(drawn_images((1, 16, 16))[:4]).float()
    seen = Pixels(16).features(images)
    assert torch.allclose(seen, Pixels(16).features(images * gain / 2 + offset), atol=2e-3)
    assert float(seen.abs().max()) <= FARTHEST
    assert not Pixels(16).features(torch.full((1, 1, 16, 16), 0.3)).any()


def test_pixel_features_know_their_surroundings_and_their_place() -> None:
    front_end = PixelFeatures(32, scales=2, places=4)
    images = torch.from_numpy(drawn_images((1, 32, 32))[:2]).float()
    seen = front_end.features(images)
    assert seen.shape == (2, *front_end.shape)
    assert front_end.dimension == seen[0].numel()
    where = seen[0, : front_end.places**2]
    assert torch.equal(where, seen[1, : front_end.places**2])
    assert torch.allclose(where.sum(0), where.sum(0).mean().expand(32, 32), atol=1e-5)  # bumps add up to a constant
    moved = front_end.features(torch.roll(images, 4, dims=3))
    local = slice(front_end.places**2, front_end.places**2 + 6)
    assert torch.allclose(moved[:, local, 12:20, 16:20], seen[:, local, 12:20, 12:16], atol=1e-4)
    parts = torch.cat([front_end.features(images[place : place + 1]) for place in range(2)])
    assert torch.allclose(parts, seen, atol=1e-5)


@pytest.mark.parametrize("wrong", [{"scales": 7}, {"places": 0}, {"size": 16, "scales": 4}])
def test_pixel_features_that_do_not_fit_are_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ModelError):
        PixelFeatures(**{"size": 64, **wrong})
