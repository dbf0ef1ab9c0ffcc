"""Convolutions in Z_2^l against Python's integers: limbs, their edges, and the way without them."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from primum.kernels import digits, limbs, reference
from primum.rng import Stream

RINGS = (8, 13, 16, 24, 32, 40, 44, 48, 56, 64)
edges = st.sampled_from(["random", "ones", "highest", "halves"])


def filled(shape: tuple[int, ...], bits: int, kind: str, label: str) -> np.ndarray:
    """Ring elements: random, all 2^bits - 1, all 2^(bits-1), or all limbs -128."""
    if kind == "random":
        return Stream.public(label).uint64(shape) & np.uint64(2**bits - 1)
    value = {"ones": 2**bits - 1, "highest": 1 << (bits - 1), "halves": 0x7F7F7F7F7F7F7F80 & (2**bits - 1)}[kind]
    return np.full(shape, value, np.uint64)


@st.composite
def layers(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int, int, limbs.Window]:
    """values, weight, groups, bits, window; every size small, odd ones among them."""
    bits, groups = draw(st.sampled_from(RINGS)), draw(st.integers(1, 3))
    part, each = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    kernel = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    size = draw(st.tuples(st.integers(1, 6), st.integers(1, 6)))
    window = limbs.Window(
        draw(st.tuples(st.integers(1, 3), st.integers(1, 3))),
        draw(st.tuples(*[st.integers(0, 2)] * 4)),
        draw(st.tuples(st.integers(1, 2), st.integers(1, 2))),
    )
    assume(min(window.places(size, kernel)) >= 1)
    values = filled((draw(st.integers(1, 2)), *size, groups * part), bits, draw(edges), "values")
    return values, filled((*kernel, part, groups * each), bits, draw(edges), "weight"), groups, bits, window


def expected(values: np.ndarray, weight: np.ndarray, groups: int, bits: int, window: limbs.Window) -> list:  # type: ignore[type-arg]
    return reference.convolve(values, weight, bits, groups, window.stride, window.padding, window.dilation)


def computed(values: np.ndarray, weight: np.ndarray, groups: int, bits: int, window: limbs.Window) -> list:  # type: ignore[type-arg]
    found = limbs.convolve(values, limbs.prepare(weight, groups, bits), window)
    assert found.dtype == np.uint64 and found.shape[1:3] == window.places(values.shape[1:3], weight.shape[:2])
    return (found & np.uint64(2**bits - 1)).tolist()


@pytest.fixture(params=[False, True], ids=["int8", "float64"], autouse=True, scope="module")
def floats(request: pytest.FixtureRequest) -> Iterator[bool]:
    """Every test once for each kind of limbs, whichever is quicker on this processor."""
    if not (request.param or limbs.limbs_are_exact()):
        pytest.skip("int8 products saturate on this processor")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limbs, "in_floats", lambda: request.param)
        yield request.param


@given(layers())
@settings(max_examples=120)
def test_a_convolution_is_exact(layer) -> None:  # type: ignore[no-untyped-def]
    assert computed(*layer) == expected(*layer)


@given(layers())
def test_bits_above_the_ring_do_not_count(layer) -> None:  # type: ignore[no-untyped-def]
    values, weight, groups, bits, window = layer
    junk = np.uint64(2**64 - 2**bits)
    assert computed(values | junk, weight | junk, groups, bits, window) == expected(*layer)


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.uint32])
@pytest.mark.parametrize("window", [limbs.Window(), limbs.Window(padding=(1, 0, 0, 1))])
@pytest.mark.parametrize("groups", [1, 2])
def test_values_of_smaller_types_are_taken(kind: type, window: limbs.Window, groups: int) -> None:
    bits = np.dtype(kind).itemsize * 8
    values = filled((2, 4, 4, 2), bits, "random", "small values").astype(kind)
    for part in {2 // groups, 1}:
        weight = filled((2, 2, part, 4), bits, "random", "small weight")
        chosen = values[..., : part * groups]
        assert computed(chosen, weight, groups, bits, window) == expected(chosen, weight, groups, bits, window)


@pytest.mark.parametrize("bits", [*RINGS, 1, 20, 21, 41, 60, 61])
@pytest.mark.parametrize(("groups", "part"), [(1, 3), (2, 2), (3, 1)])
def test_any_ring_and_any_groups(bits: int, groups: int, part: int) -> None:
    values = filled((2, 5, 4, groups * part), bits, "random", "slow values")
    weight = filled((3, 2, part, 2 * groups), bits, "random", "slow weight")
    window = limbs.Window((2, 1), (1, 0, 2, 1), (1, 2))
    assert computed(values, weight, groups, bits, window) == expected(values, weight, groups, bits, window)


@pytest.mark.parametrize("bits", RINGS)
@pytest.mark.parametrize("kind", ["random", "ones", "highest", "halves"])
@pytest.mark.parametrize("count", [1, 3])
def test_a_vector_goes_another_way_to_the_same(bits: int, kind: str, count: int) -> None:
    values, weight = filled((count, 1, 1, 7), bits, kind, "vector"), filled((1, 1, 7, 4), bits, "random", "matrix")
    prepared = limbs.prepare(weight, 1, bits, (1, 1))
    assert prepared.lines.size and not prepared.limbs.size
    found = limbs.convolve(values, prepared, limbs.Window()) & np.uint64(2**bits - 1)
    assert found.tolist() == expected(values, weight, 1, bits, limbs.Window())
    grouped = filled((1, 1, 7, 7), bits, kind, "one each")[:, :, :1]
    prepared = limbs.prepare(grouped, 7, bits, (1, 1))
    found = limbs.convolve(values, prepared, limbs.Window()) & np.uint64(2**bits - 1)
    assert found.tolist() == expected(values, grouped, 7, bits, limbs.Window())


@pytest.mark.parametrize("bits", [40, 48, 56, 64])
@pytest.mark.parametrize("kind", ["random", "ones", "highest", "halves"])
def test_a_linear_layer_is_exact_where_every_sum_is_long(bits: int, kind: str) -> None:
    values, weight = filled((2, 1, 1, 5000), bits, kind, "long"), filled((1, 1, 5000, 3), bits, kind, "long weight")
    assert computed(values, weight, 1, bits, limbs.Window()) == expected(values, weight, 1, bits, limbs.Window())


@pytest.fixture(params=[1, 2, 7, 16, 35])
def few_terms(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """As if an int32 held the sum of so few products, and a float64 of about as few."""
    monkeypatch.setattr(limbs, "MOST_TERMS", request.param)
    monkeypatch.setattr(digits, "_MANTISSA", 2 * 19 + request.param.bit_length() - 1)
    yield request.param


def test_sums_longer_than_an_int32_holds_are_made_in_parts(few_terms: int) -> None:
    values, weight = filled((2, 3, 3, 5), 40, "random", "parts"), filled((2, 2, 5, 3), 40, "random", "parts weight")
    assert computed(values, weight, 1, 40, limbs.Window()) == expected(values, weight, 1, 40, limbs.Window())


def test_the_longest_sum_fits_an_int32_and_one_more_does_not_count_as_fitting() -> None:
    assert limbs.MOST_TERMS * 128 * 128 < 1 << 31 <= (limbs.MOST_TERMS + 1) * 128 * 128
    values, weight = np.full((1, 1, 1, limbs.MOST_TERMS + 2), 0x80, np.uint64), 0x80
    product = limbs.convolve(
        values, limbs.prepare(np.full((1, 1, values.size, 2), weight, np.uint64), 1, 8), limbs.Window()
    )
    assert (product & np.uint64(0xFF) == (values.size * 128 * 128) % 256).all()


def test_the_longest_sum_of_the_widest_limbs_fits_a_float64() -> None:
    """All limbs -2^19: 2^15 of their products are 2^53, and the next one is in another sum."""
    longest = 1 << (digits._MANTISSA - 2 * (limbs._WIDEST - 1))
    for terms in (longest, longest + 3):
        value = (-(1 << 19) - (1 << 39)) % 2**40
        weight = np.full((1, 1, terms, 2), value, np.uint64)
        weight[0, 0, 0, 0] -= np.uint64(1)  # odd: the lowest bit is seen
        product = limbs.convolve(
            np.full((1, 1, 1, terms), value, np.uint64), limbs.prepare(weight, 1, 40), limbs.Window()
        )
        wanted = [(terms * value * value - value) % 2**40, terms * value * value % 2**40]
        assert (product & np.uint64(2**40 - 1)).reshape(-1).tolist() == wanted


@pytest.mark.parametrize("bits", RINGS)
@pytest.mark.parametrize("count", [1, 2, 16, 17, 40])
def test_one_term_products_are_exact(bits: int, count: int) -> None:
    """torch._int_mm leaves garbage in the result of a product of one term and one limb."""
    values, weight = filled((count, 1, 1, 1), bits, "random", "one"), filled((1, 1, 1, 3), bits, "random", "term")
    for _ in range(3):
        np.full((count, 3), 7, np.int32)  # memory that is not zero, freed at once
        assert computed(values, weight, 1, bits, limbs.Window()) == expected(values, weight, 1, bits, limbs.Window())


@pytest.mark.parametrize("tile", [1, 200, 1 << 21])
@pytest.mark.parametrize("rows", [1, 15, 16, 17, 33])
def test_tiles_of_any_height(tile: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limbs, "_TILE_BYTES", tile)
    values, weight = filled((1, rows, 1, 3), 40, "random", "tile"), filled((1, 1, 3, 5), 40, "random", "tile weight")
    assert computed(values, weight, 1, 40, limbs.Window()) == expected(values, weight, 1, 40, limbs.Window())


@given(st.lists(st.sampled_from([0, 0x7F, 0x80, 0x7F80, 0x8080808080, 2**64 - 1]) | st.integers(0, 2**64 - 1)))
def test_limbs_are_balanced_digits(values: list[int]) -> None:
    out = np.empty((8, len(values)), np.int8)
    digits.cut(np.array(values, np.uint64), out)
    assert out.T.tolist() == [reference.limbs(value, 8) for value in values]
    reversed_out = np.empty((1, 8, len(values)), np.int8)
    digits.cut_reversed(np.array([values], np.uint64), reversed_out)
    assert np.array_equal(reversed_out[0, ::-1], out)


def test_limbs_say_the_value_again() -> None:
    for bits in RINGS:
        for value in (0, 1, 127, 128, 2**bits - 1, 1 << (bits - 1), 0x7F80 % 2**bits):
            found = reference.limbs(value, limbs.limb_count(bits))
            assert sum(digit << (8 * place) for place, digit in enumerate(found)) % 2**bits == value


def test_weights_print_nothing() -> None:
    assert repr(limbs.prepare(np.full((1, 1, 2, 2), 77, np.uint64), 1, 40)) == "Weights(kernel=(1, 1), bits=40)"


OLDER = """
import numpy as np
from primum.kernels import digits, limbs, reference

values, weight = np.full((17, 1, 1, 64), 0x7F, np.uint64), np.full((1, 1, 64, 8), 0x80, np.uint64)
for bits in (8, 40):
    product = limbs.convolve(values, limbs.prepare(weight, 1, bits), limbs.Window()) & np.uint64(2**bits - 1)
    assert product.tolist() == reference.convolve(values, weight, bits), limbs.limbs_are_exact()
print(limbs.limbs_are_exact())
"""


def test_an_older_processor_is_noticed() -> None:
    """oneDNN keeps to what such a processor has, and adds pairs of products with saturation."""
    done = subprocess.run(
        [sys.executable, "-c", OLDER],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() in ("True", "False")


@pytest.mark.parametrize("threads", [2, 5])
@pytest.mark.parametrize(("size", "channels", "outputs", "groups"), [(9, 64, 200, 1), (20, 6, 96, 2), (2, 16, 130, 1)])
def test_any_number_of_threads_gives_the_same(monkeypatch, threads, size, channels, outputs, groups):
    monkeypatch.setattr(limbs, "_TILE_BYTES", 1 << 14)
    random = Stream.from_os()
    values = random.uint64((2, size, size, channels))
    weights = limbs.prepare(random.uint64((3, 3, channels // groups, outputs)), groups, 40)
    window = limbs.Window(padding=(1, 1, 1, 1))
    alone = limbs.convolve(values, weights, window)
    try:
        limbs.use_threads(threads)
        assert (limbs.convolve(values, weights, window) == alone).all()
    finally:
        limbs.use_threads(1)
