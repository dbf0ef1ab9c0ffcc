"""Products as a graphics card makes them, against Python's integers: on the card where there is one, here in any case."""

from collections.abc import Iterator

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from tests.kernels.test_limbs import computed, expected, filled, layers

from primum.kernels import device, limbs

CARD = pytest.mark.skipif(not torch.cuda.is_available(), reason="no graphics card")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=CARD)])
def on(request: pytest.FixtureRequest) -> Iterator[str]:
    """Products of this process in the device's way, on that device."""
    device.use_device(torch.device(request.param))
    yield request.param
    device.use_device(None)


@given(layer=layers())
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_convolution_is_exact(on, layer) -> None:  # type: ignore[no-untyped-def]
    assert computed(*layer) == expected(*layer)


@pytest.mark.parametrize("shape", [((2, 9, 9, 16), (3, 3, 16, 24), 1), ((1, 6, 6, 12), (2, 3, 4, 30), 3)])
def test_every_bit_is_that_of_the_processor(on, shape, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """Also those above the ring, in tiles of a few rows, and in sums that are cut into parts."""
    values, weight = (filled(size, 64, "random", name) for size, name in zip(shape, "vw", strict=False))
    window = limbs.Window((2, 1), (1, 0, 1, 1), (1, 1))
    prepared = limbs.prepare(weight, shape[2], 40)
    assert prepared.card is not None and prepared.card.device.type == on
    monkeypatch.setattr(device, "_TILE_BYTES", 1 << 14)
    monkeypatch.setattr(limbs, "MOST_TERMS", 100)
    found = limbs.convolve(values, prepared, window)
    device.use_device(None)
    again = limbs.prepare(weight, shape[2], 40)
    assert again.card is None
    ring = np.uint64(2**40 - 1)  # above it limbs of another width say something else
    np.testing.assert_array_equal(found & ring, limbs.convolve(values, again, window) & ring)


def test_a_device_with_wrong_products_is_not_used(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """As on a processor that saturates: said at the start, and nothing is computed there."""
    exact = torch._int_mm
    monkeypatch.setattr(torch, "_int_mm", lambda a, b: exact(a, b).clamp(-(1 << 24), 1 << 24))
    with pytest.raises(RuntimeError, match="not exact"):
        device.use_device(torch.device("cpu"))
    assert device.moved(np.zeros((1, 1, 5, 4), np.int8)) is None
