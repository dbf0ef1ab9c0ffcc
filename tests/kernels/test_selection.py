"""Cutting and choosing: two servers' shares together against plain integers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.kernels import reference, selection
from primum.rng import Stream

EDGES = (0, 1, 2**20 - 1, 2**39, 2**40 - 1, 2**63, 2**64 - 1)
shares = st.lists(st.sampled_from(EDGES) | st.integers(0, 2**64 - 1), min_size=1, max_size=20)


def cut(share: np.ndarray, bits: int, shift: int, lead: int) -> np.ndarray:
    out = np.empty(len(share), np.uint32)
    selection.cut(share, np.uint64(2**bits - 1), np.uint64(shift), np.uint64(lead), out)
    return out


@given(shares, st.integers(1, 32), st.integers(0, 32), st.integers(0, 1))
def test_a_cut_is_a_quotient_rounded_up_at_a_and_down_at_b(
    values: list[int], target: int, shift: int, lead: int
) -> None:
    bits = target + shift
    found = cut(np.array(values, np.uint64), bits, shift, lead) & np.uint32(2**target - 1)
    assert found.tolist() == [reference.cut(value, bits, shift, bool(lead)) for value in values]


@pytest.mark.parametrize(("bits", "shift"), [(8, 0), (8, 1), (8, 3), (9, 5), (10, 8)])
def test_a_cut_is_the_floor_or_one_more_and_exactly_unbiased(bits: int, shift: int) -> None:
    """Every y and every share of A; the ring that is cut is smaller than that of the shares."""
    ring, target = bits + 2, bits - shift
    share_a = np.arange(1 << ring, dtype=np.uint64)
    for y in range(-(1 << (bits - 1)), 1 << (bits - 1)):
        share_b = (np.uint64(y % (1 << ring)) - share_a) & np.uint64(2**ring - 1)
        quotient = cut(share_a, bits, shift, 1) + cut(share_b, bits, shift, 0)
        error = (quotient - np.uint32((y >> shift) % 2**32)) & np.uint32(2**target - 1)
        assert set(error.tolist()) <= {0, 1}
        assert int(error.sum()) << shift == (y % (1 << shift)) << ring  # mean error is (y mod 2^c) / 2^c


def split(values: list[int], bits: int, stream: Stream) -> list[np.ndarray]:
    whole = np.array([value % 2**64 for value in values], np.uint64)
    one = stream.uint64(len(values))
    return [one, (whole - one) | np.uint64(2**64 - 2**bits)]  # bits above the ring do not count


@given(
    st.integers(5, 21).flatmap(
        lambda bits: st.tuples(
            st.just(bits),
            st.integers(bits + 1, 64),
            st.lists(st.tuples(st.integers(0, 2**bits - 1), st.integers(0, 2**bits - 1), st.booleans()), min_size=1),
        )
    )
)
def test_rectify_and_extend_are_the_larger_of_a_value_and_zero_and_the_value(
    case: tuple[int, int, list[tuple[int, int, bool]]],
) -> None:
    bits, ring, rows = case
    stream, keep = Stream.from_os(), np.uint64(2**ring - 1)
    opened = np.array([row[0] for row in rows], np.uint32)
    rho = np.array([row[1] for row in rows], np.uint32)
    s = np.array([row[2] for row in rows], np.uint8)
    true = [reference.signed(a - b, bits) for a, b, _ in rows]
    sign = np.array([value >= 0 for value in true], np.uint8) ^ s
    dealt_a = tuple(stream.uint64(len(rows)) for _ in range(5))
    dealt_b = tuple(part.copy() for part in dealt_a)
    selection.deal_rectify(rho, s, np.uint64(bits), dealt_b)
    for part, plain in zip(
        zip(dealt_a, dealt_b, strict=True), (s, rho, s * rho, rho >> np.uint32(bits - 1)), strict=False
    ):
        assert np.array_equal(part[0] + part[1], plain.astype(np.uint64))
    rectified, extended = np.zeros(len(rows), np.uint64), np.zeros(len(rows), np.uint64)
    for lead, dealt in ((1, dealt_a), (0, dealt_b)):
        out = np.empty(len(rows), np.uint64)
        selection.rectify(opened, sign, np.uint64(bits), np.uint64(lead), dealt, out)
        rectified += out
        selection.extend(opened, np.uint64(bits), np.uint64(lead), dealt[1], dealt[3], out)
        extended += out
    assert (rectified & keep).tolist() == [max(value, 0) for value in true]
    assert [int(got) for got, value in zip(extended & keep, true, strict=True) if value >= 0] == [
        value for value in true if value >= 0
    ]


@given(
    st.integers(5, 21),
    st.lists(st.tuples(*[st.integers(0, 2**21 - 1)] * 3, st.booleans()), min_size=1, max_size=20),
)
def test_larger_is_the_maximum(bits: int, rows: list[tuple[int, int, int, bool]]) -> None:
    stream, quarter, ring = Stream.from_os(), 1 << (bits - 2), np.uint32(2**bits - 1)
    left = [row[0] % (2 * quarter) - quarter for row in rows]
    right = [row[1] % (2 * quarter) - quarter for row in rows]
    rho, s = np.array([row[2] for row in rows], np.uint32), np.array([row[3] for row in rows], np.uint32)
    difference = (np.array(left, np.int64) - np.array(right, np.int64)).astype(np.uint32)
    opened = (difference + rho) & ring
    sign = (np.array(left) >= np.array(right)).astype(np.uint8) ^ s.astype(np.uint8)
    halves = [stream.uint32(len(rows)) for _ in range(4)]
    wholes = [np.array(right, np.int64).astype(np.uint32), rho, s, s * rho]
    total = np.zeros(len(rows), np.uint32)
    for lead in (1, 0):
        mine = halves if lead else [whole - half for whole, half in zip(wholes, halves, strict=True)]
        out = np.empty(len(rows), np.uint32)
        selection.larger(mine[0], opened, sign, np.uint32(lead), *mine[1:], out)
        total += out
    assert [reference.signed(int(value), bits) for value in total] == [
        max(pair) for pair in zip(left, right, strict=True)
    ]
