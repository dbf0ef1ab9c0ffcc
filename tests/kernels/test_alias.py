"""Alias tables: the kernels against one value at a time, on tables and words of every kind."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import alias, reference
from primum.rng import Stream

draws = st.fixed_dictionaries(
    {"bits": st.integers(0, 7), "count": st.integers(0, 50), "lowest": st.integers(-99, 99), "seed": st.binary()}
)


def table(stream: Stream, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Any thresholds and aliases; every fourth threshold is 0 or the largest."""
    thresholds = stream.uint64(size)
    thresholds[::8], thresholds[4::8] = 0, 2**64 - 1
    return thresholds, stream.uint32(size).astype(np.uint16)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(case=draws, factor=st.sampled_from([1, 40, -1600]))
def test_values_are_those_of_the_slow_twin(dtype: type, case: dict, factor: int) -> None:
    stream = Stream.public(case["seed"].hex())
    thresholds, aliases = table(stream, 1 << case["bits"])
    indices, coins = stream.uint32(case["count"]).astype(np.uint16), stream.uint64(case["count"])
    coins[::5] = thresholds[indices[::5] % len(thresholds)]  # ties: the coin must be below
    out = stream.uint32(case["count"]).astype(np.int16).astype(dtype)
    expected = [
        start + factor * (case["lowest"] + reference.alias_column(thresholds.tolist(), aliases.tolist(), index, coin))
        for start, index, coin in zip(out.tolist(), indices.tolist(), coins.tolist(), strict=True)
    ]
    alias.add_drawn(out, thresholds, aliases, indices, coins, case["lowest"], factor)
    assert out.tolist() == expected


@given(draws)
def test_digits_are_rounded_as_by_the_slow_twin(case: dict) -> None:
    stream, width = Stream.public(case["seed"].hex()), 1 << case["bits"]
    thresholds, aliases = table(stream, 256 * width)
    aliases = (aliases % width).astype(np.uint8)
    indices, coins = np.empty(case["count"], np.uint8), stream.uint64(case["count"])
    stream.fill(indices)
    numbers = stream.uint64(case["count"]).view(np.int64) >> 11  # negative ones too
    rows = thresholds.reshape(256, width).tolist(), aliases.reshape(256, width).tolist()
    expected = [
        reference.round_digit(number, *rows, index, coin, case["lowest"])
        for number, index, coin in zip(numbers.tolist(), indices.tolist(), coins.tolist(), strict=True)
    ]
    alias.round_digit(numbers, thresholds, aliases, indices, coins, case["lowest"])
    assert numbers.tolist() == expected
