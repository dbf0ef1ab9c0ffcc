"""Kernels of 3 x 3 with a quarter of the products: the same convolution, bit for bit, in every ring and at every edge."""

from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.kernels import limbs, reference, winograd
from primum.rng import Stream


@pytest.fixture(autouse=True, scope="module")
def always() -> Iterator[None]:
    """As on a processor without VNNI, and however few tiles there are."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limbs, "in_floats", lambda: True)
        patch.setattr(winograd, "_FEWEST_TILES", 1)
        patch.setattr(winograd, "_FEWEST_CHANNELS", 1)
        yield


def drawn(shape: tuple[int, ...], label: str) -> np.ndarray:
    return Stream.public(label).uint64(int(np.prod(shape))).reshape(shape)


def both(
    values: np.ndarray, weight: np.ndarray, bits: int, padding: tuple[int, int, int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """By tiles, and by limbs of every window; modulo 2^bits. The upper bits of what goes in are anything."""
    window, ring = limbs.Window(padding=padding), np.uint64((1 << bits) - 1)
    tiled, plain = limbs.prepare(weight, 1, bits, values.shape[1:3], window), limbs.prepare(weight, 1, bits)
    assert len(tiled.places) and not len(plain.places)
    return limbs.convolve(values, tiled, window) & ring, limbs.convolve(values, plain, window) & ring


@st.composite
def layers(draw: st.DrawFn) -> tuple[tuple[int, ...], tuple[int, ...], int, tuple[int, int, int, int]]:
    padding = draw(st.tuples(*[st.integers(0, 3)] * 4))
    high, wide = (draw(st.integers(max(1, 3 - a - b), 12)) for a, b in (padding[:2], padding[2:]))
    channels, outputs = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    bits = draw(st.sampled_from([1, 8, 24, 32, 40, 41, 46, 47, 52, 58]))
    return (draw(st.integers(1, 3)), high, wide, channels), (3, 3, channels, outputs), bits, padding


@given(layers(), st.integers(0, 99))
@settings(max_examples=150)
def test_tiles_say_what_windows_say(layer, seed: int) -> None:  # type: ignore[no-untyped-def]
    shape, kernel, bits, padding = layer
    found, wanted = both(drawn(shape, f"values {seed}"), drawn(kernel, f"weight {seed}"), bits, padding)
    assert found.shape == wanted.shape and np.array_equal(found, wanted)


def test_tiles_say_what_the_definition_says() -> None:
    values, weight, padding = drawn((2, 9, 6, 3), "values"), drawn((3, 3, 3, 2), "weight"), (1, 1, 1, 1)
    found, _ = both(values, weight, 40, padding)
    assert found.tolist() == reference.convolve(values, weight, 40, padding=padding)


@pytest.mark.parametrize("value", [0, 1, (1 << 40) - 1, 1 << 39, (1 << 63) + 5])
def test_equal_values_at_the_ends_of_the_ring(value: int) -> None:
    values, weight = np.full((1, 8, 8, 5), value, np.uint64), np.full((3, 3, 5, 4), value, np.uint64)
    found, wanted = both(values, weight, 40, (1, 1, 1, 1))
    assert np.array_equal(found, wanted)


def test_long_sums_wrap_as_the_ring_does() -> None:
    found, wanted = both(drawn((1, 4, 5, 300), "wide"), drawn((3, 3, 300, 3), "wide weight"), 58, (1, 1, 1, 1))
    assert np.array_equal(found, wanted)


@pytest.mark.parametrize("block", [1, 20_000, 1 << 30])
@pytest.mark.parametrize("threads", [1, 3])
def test_blocks_and_threads_change_nothing(monkeypatch: pytest.MonkeyPatch, block: int, threads: int) -> None:
    monkeypatch.setattr(winograd, "_BLOCK_BYTES", block)
    limbs.use_threads(threads)
    try:
        found, wanted = both(drawn((2, 13, 17, 4), "blocks"), drawn((3, 3, 4, 5), "blocks weight"), 40, (1, 1, 1, 1))
    finally:
        limbs.use_threads(1)
    assert np.array_equal(found, wanted)


def test_other_kernels_strides_and_rings_go_the_usual_way() -> None:
    plain = limbs.Window(padding=(1, 1, 1, 1))
    for shape, groups, bits, window in (
        ((5, 5, 4, 4), 1, 40, plain), ((3, 3, 2, 4), 2, 40, plain), ((3, 3, 4, 4), 1, 60, plain),
        ((3, 3, 4, 4), 1, 40, limbs.Window((2, 2))), ((3, 3, 4, 4), 1, 40, limbs.Window(dilation=(1, 2))),
    ):  # fmt: skip
        assert not len(limbs.prepare(drawn(shape, "other"), groups, bits, (20, 20), window).places)
    tiled = limbs.prepare(drawn((3, 3, 4, 4), "other"), 1, 40, (20, 20), plain)
    with pytest.raises(ValueError, match="another window"):
        limbs.convolve(drawn((1, 20, 20, 4), "values"), tiled, limbs.Window((2, 2)))
