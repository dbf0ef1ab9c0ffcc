"""Alias tables: the kernels against one value at a time, on tables and words of every kind."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import alias, reference
from primum.rng import Stream

draws = st.fixed_dictionaries(
    {"bits": st.integers(0, 7), "count": st.integers(0, 50), "lowest": st.integers(-99, 99), "seed": st.binary()}
)


def table(stream: Stream, size: int) -> alias.Tables:
    """Any thresholds and aliases; every fourth threshold is 0 or the largest."""
    thresholds, rest = stream.uint64((2, size))
    thresholds[::8] = rest[::8] = 0
    thresholds[4::8] = rest[4::8] = 2**64 - 1
    return thresholds, rest, stream.uint32(size).astype(np.uint16)


def whole(thresholds: np.ndarray, rest: np.ndarray) -> list[int]:
    return [(first << 64) + last for first, last in zip(thresholds.tolist(), rest.tolist(), strict=True)]


def run_whole(kernel: Callable[..., int], out: np.ndarray, arrays: alias.Tables, words: list, *numbers: int) -> None:
    """As long as it takes: a new spare word each time one was taken."""
    indices, coins, spares = words
    done = 0
    for spare in spares:
        done += kernel(out[done:], arrays, indices[done:], coins[done:], spare, *numbers)
        if done == len(out):
            return
    raise AssertionError("more spare words taken than there are ties")


def with_spares(coins: np.ndarray, ties: np.ndarray, spares: np.ndarray) -> list[int]:
    """The coins of 128 bits: where the first 64 tie, the next spare word follows."""
    rest = iter(spares.tolist())
    return [(coin << 64) + (next(rest) if tie else 77) for coin, tie in zip(coins.tolist(), ties.tolist(), strict=True)]


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
@given(case=draws, factor=st.sampled_from([1, 40, -1600]))
def test_values_are_those_of_the_slow_twin(dtype: type, case: dict, factor: int) -> None:
    stream = Stream.public(case["seed"].hex())
    thresholds, rest, aliases = arrays = table(stream, 1 << case["bits"])
    indices, coins = stream.uint32(case["count"]).astype(np.uint16), stream.uint64(case["count"])
    chosen = indices % len(thresholds)
    coins[::5] = thresholds[chosen[::5]]
    spares = stream.uint64(case["count"] + 1)
    spares[::3] = rest[chosen[0]] if case["count"] else 0  # equal in all 128 bits: the coin must be below
    long_coins = with_spares(coins, coins == thresholds[chosen], spares)
    out = stream.uint32(case["count"]).astype(np.int16).astype(dtype)
    expected = [
        start
        + factor * (case["lowest"] + reference.alias_column(whole(thresholds, rest), aliases.tolist(), index, coin))
        for start, index, coin in zip(out.tolist(), indices.tolist(), long_coins, strict=True)
    ]
    run_whole(alias.add_drawn, out, arrays, [indices, coins, spares], case["lowest"], factor)
    assert out.tolist() == expected


@given(draws)
def test_digits_are_rounded_as_by_the_slow_twin(case: dict) -> None:
    stream, width = Stream.public(case["seed"].hex()), 1 << case["bits"]
    thresholds, rest, aliases = table(stream, 256 * width)
    aliases = (aliases % width).astype(np.uint8)
    indices, coins = np.empty(case["count"], np.uint8), stream.uint64(case["count"])
    stream.fill(indices)
    numbers = stream.uint64(case["count"]).view(np.int64) >> 11  # negative ones too
    chosen = (numbers & 255) * width + indices % width
    coins[::5] = thresholds[chosen[::5]]
    spares = stream.uint64(case["count"] + 1)
    long_coins = with_spares(coins, coins == thresholds[chosen], spares)
    flat = whole(thresholds, rest)
    rows = [flat[i : i + width] for i in range(0, len(flat), width)], aliases.reshape(256, width).tolist()
    expected = [
        reference.round_digit(number, *rows, index, coin, case["lowest"])
        for number, index, coin in zip(numbers.tolist(), indices.tolist(), long_coins, strict=True)
    ]
    run_whole(alias.round_digit, numbers, (thresholds, rest, aliases), [indices, coins, spares], case["lowest"])
    assert numbers.tolist() == expected
