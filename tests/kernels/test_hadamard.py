"""The fast transform against its matrix; its own inverse; norms kept; who mixes with whom."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import hadamard, reference
from primum.rng import Stream


def drawn(count: int) -> np.ndarray:
    return Stream.public("hadamard").uniform(count) - 0.5


def transformed(values: np.ndarray) -> np.ndarray:
    out = values.copy()
    hadamard.transform(out)
    return out


@given(st.lists(st.floats(-1e6, 1e6), max_size=70))
def test_the_transform_is_its_matrix(values: list[float]) -> None:
    assert transformed(np.array(values)) == pytest.approx(np.array(reference.hadamard(values)), abs=1e-8)


def rows_of(size: int, places: list[int]) -> np.ndarray:
    """Rows of the orthonormal matrix of one block."""
    columns = np.arange(size)
    ones = np.array([np.bitwise_count(columns & place) for place in places])
    return np.where(ones & 1, -1.0, 1.0) / np.sqrt(size)


@pytest.mark.parametrize("bits", [12, 13, 14, 19, 20, 21])
def test_long_blocks_are_single_rows_of_it(bits: int) -> None:
    """Around the sizes where the loops change: 2^12 in the cache, 2^20 with one more turn."""
    size = 1 << bits
    values, places = drawn(size), [0, 1, 4095, size // 2, size // 3, size - 1]
    assert transformed(values)[places] == pytest.approx(rows_of(size, places) @ values, abs=1e-10)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 100, 4095, 4096, 8100, 100_000, (1 << 21) + 5])
def test_twice_is_the_vector_itself_and_norms_are_kept(count: int) -> None:
    values = drawn(count)
    once = transformed(values)
    assert np.linalg.norm(once) == pytest.approx(np.linalg.norm(values), rel=1e-13)
    assert np.linalg.norm(transformed(once) - values) <= 2.0**-47 * np.linalg.norm(values)


def test_coordinates_mix_within_their_block_only() -> None:
    assert hadamard.blocks(8100) == [4096, 2048, 1024, 512, 256, 128, 32, 4]
    assert hadamard.blocks(0) == []
    start = 0
    for size in hadamard.blocks(8100):
        spike = np.zeros(8100)
        spike[start + size // 3] = 1
        assert np.flatnonzero(transformed(spike)).tolist() == list(range(start, start + size))
        assert np.abs(transformed(spike)).max() == pytest.approx(1 / np.sqrt(size))
        start += size


@pytest.mark.parametrize(
    "values", [np.zeros(4, np.float32), np.zeros((2, 2)), np.zeros(8)[::2]], ids=["float32", "matrix", "stride"]
)
def test_what_cannot_be_done_in_place_is_refused(values: np.ndarray) -> None:
    with pytest.raises(ValueError, match="in place"):
        hadamard.transform(values)
