"""Fixed point in Z_2^l."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum import ring
from primum.errors import InputError

widths = st.integers(1, 64)


@st.composite
def signed(draw: st.DrawFn) -> tuple[int, np.ndarray]:
    bits = draw(widths)
    half = 1 << (bits - 1)
    return bits, np.array(draw(st.lists(st.integers(-half, half - 1), max_size=40)), np.int64)


@given(signed())
def test_signed_numbers_come_back(case: tuple[int, np.ndarray]) -> None:
    bits, values = case
    elements = ring.from_signed(values, bits)
    assert elements.dtype == np.uint64
    assert [int(e) for e in elements] == [int(v) % (1 << bits) for v in values]
    assert np.array_equal(ring.to_signed(elements, bits), values)


@given(st.integers(1, 63), st.booleans())
def test_a_number_that_does_not_fit_is_refused(bits: int, positive: bool) -> None:
    half = 1 << (bits - 1)
    with pytest.raises(InputError, match="does not fit"):
        ring.from_signed(np.array([half if positive else -half - 1]), bits)


@given(st.lists(st.floats(-1000, 1000), max_size=20), st.integers(0, 40))
def test_fixed_point_is_the_nearest(values: list[float], fraction: int) -> None:
    decoded = ring.decode(ring.encode(np.array(values), fraction, 64), fraction, 64)
    assert np.abs(decoded - np.array(values)).max(initial=0) <= 2.0 ** -(fraction + 1)


@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=9))
def test_sums_wrap_and_come_back(values: list[int]) -> None:
    total = ring.from_signed(np.array(values), 16).sum(dtype=np.uint64) & ring.mask(16)
    assert int(ring.to_signed(np.array([total]), 16)[0]) == sum(values)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_not_a_number_is_refused(bad: float) -> None:
    with pytest.raises(InputError, match="finite"):
        ring.encode(np.array([1.0, bad]), 10, 32)


@pytest.mark.parametrize("value", [2.0**63, -(2.0**63) * 1.5, 1e300])
def test_a_float_beyond_64_bits_is_refused(value: float) -> None:
    with pytest.raises(InputError, match="does not fit"):
        ring.encode(np.array([value]), 0, 64)


@pytest.mark.parametrize("bits", [0, 65, -1])
def test_rings_have_1_to_64_bits(bits: int) -> None:
    with pytest.raises(ValueError, match="1 to 64"):
        ring.mask(bits)
