"""Convolutions of 3 x 3 in float32 with fewer products: their twins' to the last digits, at every edge, image by image."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.kernels import reference, winograd_float
from primum.rng import Stream

CLOSE = 2e-6  # of the largest; float32 itself is 6e-8


def drawn(shape: tuple[int, ...], label: str) -> np.ndarray:
    words = Stream.public(label).uint64(int(np.prod(shape)))
    return ((words >> np.uint64(40)).astype(np.float32) / np.float32(1 << 23) - np.float32(1)).reshape(shape)


def kernel(weight: np.ndarray, turned: bool = False) -> np.ndarray:
    outputs, channels = weight.shape[1::-1] if turned else weight.shape[:2]
    out = np.full((16, outputs // 16, channels, 16), np.nan, np.float32)
    for first in range(0, channels, 10):
        winograd_float.transform(weight, turned, first, min(channels, first + 10), out)
    return out


def close(found: np.ndarray, wanted: np.ndarray) -> bool:
    return bool(abs(found - wanted).max() <= CLOSE * abs(wanted).max())


@st.composite
def layers(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, int], tuple[int, int], int]:
    """Shape of the inputs, corner, size of the outputs, number of outputs."""
    padding = draw(st.tuples(*[st.integers(0, 2)] * 2))
    high, wide = (draw(st.integers(max(1, 3 - 2 * around), 21)) for around in padding)
    channels, outputs = draw(st.sampled_from([16, 32, 48])), draw(st.sampled_from([16, 32]))
    size = high + 2 * padding[0] - 2, wide + 2 * padding[1] - 2
    return (draw(st.integers(1, 3)), channels, high, wide), padding, size, outputs


@given(layers(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_outputs_are_the_twins(layer, seed: int) -> None:  # type: ignore[no-untyped-def]
    shape, corner, size, outputs = layer
    values, weight = drawn(shape, f"values {seed}"), drawn((outputs, shape[1], 3, 3), f"weight {seed}")
    out = np.full((shape[0] + 2, outputs, *size), np.nan, np.float32)
    winograd_float.convolve(values, corner, kernel(weight), out[1:-1])
    assert close(out[1:-1], reference.convolve_floats(values.astype(float), corner, weight.astype(float), size))
    assert np.isnan(out[0]).all() and np.isnan(out[-1]).all(), "nothing beside it"


@given(layers(), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_slopes_of_inputs_are_those_of_the_kernel_turned_round(layer, seed: int) -> None:  # type: ignore[no-untyped-def]
    shape, corner, size, outputs = layer
    slopes, weight = (
        drawn((shape[0], outputs, *size), f"slopes {seed}"),
        drawn((outputs, shape[1], 3, 3), f"weight {seed}"),
    )
    out = np.empty(shape, np.float32)
    back = 2 - corner[0], 2 - corner[1]
    winograd_float.convolve(slopes, back, kernel(weight, turned=True), out)
    turned = weight[:, :, ::-1, ::-1].transpose(1, 0, 2, 3).astype(float)
    assert close(out, reference.convolve_floats(slopes.astype(float), back, turned, shape[2:]))


@given(layers(), st.integers(1, 3), st.integers(0, 99))
@settings(max_examples=60, deadline=None)
def test_slopes_of_weights_are_the_twins(layer, together: int, seed: int) -> None:  # type: ignore[no-untyped-def]
    shape, corner, size, outputs = layer
    values, slopes = drawn(shape, f"values {seed}"), drawn((shape[0], outputs, *size), f"slopes {seed}")
    wanted = reference.weight_slopes(values.astype(float), corner, slopes.astype(float))
    out = np.full((shape[0] + 2, shape[1], 3, 3, outputs), np.nan, np.float32)
    winograd_float.each(values, corner, slopes, out[1:-1])
    assert close(out[1:-1], wanted)
    assert np.isnan(out[0]).all() and np.isnan(out[-1]).all(), "nothing beside it"
    total = np.empty(out.shape[1:], np.float32)
    winograd_float.weights_of(winograd_float.summed(values, corner, slopes, together), total)
    assert close(total, wanted.sum(0))


def test_small_integers_are_exact() -> None:
    """Weights that are multiples of 4: then nothing is rounded anywhere."""
    values = np.round(8 * drawn((2, 16, 9, 13), "values"))
    weight = 4 * np.round(8 * drawn((16, 16, 3, 3), "weight"))
    out = np.empty((2, 16, 9, 13), np.float32)
    winograd_float.convolve(values, (1, 1), kernel(weight), out)
    assert (out == reference.convolve_floats(values, (1, 1), weight, (9, 13))).all()


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38, 1e-42])
@pytest.mark.parametrize("size", [(2, 2), (7, 7), (5, 12)])
def test_an_image_changes_nothing_of_its_neighbours(value: float, size: tuple[int, int]) -> None:
    """Bit for bit, though their tiles lie in one block."""
    values, slopes = drawn((5, 16, *size), "values"), drawn((5, 32, *size), "slopes")
    weight = kernel(drawn((32, 16, 3, 3), "weight"))
    found = []
    for _ in range(2):
        out, weights = np.empty((5, 32, *size), np.float32), np.empty((5, 16, 3, 3, 32), np.float32)
        winograd_float.convolve(values, (1, 1), weight, out)
        winograd_float.each(values, (1, 1), slopes, weights)
        found.append((out, weights))
        values[2], slopes[2] = value, value
    others = [0, 1, 3, 4]
    for one, other in zip(*found, strict=True):
        assert (one[others] == other[others]).all() and not np.array_equal(one[2], other[2])


def test_a_batch_that_fills_several_blocks_and_a_part() -> None:
    values, weight = drawn((1, 16, 47, 31), "values"), drawn((16, 16, 3, 3), "weight")
    assert 3 * winograd_float.TOGETHER < 24 * 16
    out = np.empty((1, 16, 47, 31), np.float32)
    winograd_float.convolve(values, (1, 1), kernel(weight), out)
    assert close(out, reference.convolve_floats(values.astype(float), (1, 1), weight.astype(float), (47, 31)))
