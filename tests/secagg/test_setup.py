"""Which set-ups are safe, and the random graph of many members."""

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from primum.errors import StudyError
from primum.secagg import Setup, Shape, graph
from primum.secagg.setup import FAILURE, MOST_COMPLETE


def more_than(most: int, others: int, marked: int, drawn: int) -> Fraction:
    """P(more than `most` of `drawn` others are marked), exactly: the slow twin of SciPy's tail."""
    ways = sum(math.comb(marked, k) * math.comb(others - marked, drawn - k) for k in range(most + 1, drawn + 1))
    return Fraction(ways, math.comb(others, drawn))


@pytest.mark.parametrize(
    ("n", "share", "degree", "threshold"), [(255, 0.10, 96, 72), (1000, 0.05, 94, 69), (1000, 0.10, 176, 126)]
)
def test_the_parameters_of_the_design_page(n: int, share: float, degree: int, threshold: int) -> None:
    setup = Setup(n, int(n * share), int(n * share))
    assert (setup.degree, setup.threshold) == (degree, threshold)


@settings(max_examples=25, deadline=None)
@given(n=st.integers(129, 1500), collude=st.floats(0, 0.1), vanish=st.floats(0, 0.12))
def test_graph_and_committee_fail_with_probability_below_two_to_the_minus_40(
    n: int, collude: float, vanish: float
) -> None:
    """Exact fractions; the server chooses who is absent, chance only who colludes and where."""
    setup = Setup(n, int(n * collude), int(n * vanish))
    c, d, group, committee = setup.colluding, setup.may_vanish, setup.neighbourhood, setup.committee
    degree = group.size - 1
    secret = n * more_than(group.colluding, n - 1, c, degree)  # somebody's shares are opened by colluders
    answers = n * more_than(group.size - group.needed, n - 1, d, degree)  # somebody's cannot be opened at all
    # at the end of an arc: itself, degree / 2 on one side, and the colluders of the other
    end = 2 * n * more_than(group.needed - 1 - 1 - degree // 2, n - 1, c, degree // 2)
    two_quorums = more_than(committee.colluding, n, c, committee.size)
    silent = more_than(committee.size - committee.needed, n, d, committee.size)
    assert secret + answers + end + two_quorums + silent <= FAILURE
    for found in (group, committee):
        assert 2 * found.needed > found.size + found.colluding  # two quorums share an honest member
        assert found.needed > found.colluding
    assert degree % 2 == 0


@pytest.mark.parametrize("n", [*range(3, 40), 64, 100, 128])
def test_of_complete_graphs(n: int) -> None:
    for c in range(n):
        for d in range(n):
            try:
                setup = Setup(n, c, d)
            except StudyError:
                continue
            assert not setup.sparse
            assert (setup.degree, setup.threshold) == (n - 1, n - d)
            assert 2 * (setup.threshold - c) > n - c  # nobody's two secrets are both opened
            assert setup.confirms == (d > 0 and d * d >= n - d - c)
            assert setup.k_min == n - c - d
            assert d == 0 or n - d >= max(3, c + 2)  # else nobody could be missing after all
            if setup.confirms:
                assert n - d >= setup.committee.needed > (n + c) / 2
                assert setup.settling == c + 1
            else:
                assert setup.settling == setup.threshold


@pytest.mark.parametrize("seed", [bytes(32), b"\1" * 32])
def test_the_random_graph_is_regular_symmetric_and_the_same_for_all(seed: bytes) -> None:
    setup = Setup(200, 10, 10)
    drawn = graph.drawn(setup, seed)
    again = graph.drawn(setup, seed)
    assert drawn == again
    for place in range(1, 201):
        around = drawn.neighbourhood(place)
        assert len(around) == setup.degree + 1
        assert place in around
        assert list(around) == sorted(set(around))
        assert all(place in drawn.neighbourhood(other) for other in around)
    assert len(drawn.committee) == setup.committee.size
    assert drawn.committee <= set(range(1, 201))


def test_other_seeds_give_other_graphs_and_every_neighbour_is_as_likely() -> None:
    setup = Setup(150, 7, 7)
    counts = [0] * 151
    for number in range(400):
        for other in graph.drawn(setup, number.to_bytes(32, "big")).neighbourhood(1):
            counts[other] += 1
    assert counts[1] == 400
    expected = 400 * setup.degree / 149
    spread = math.sqrt(expected * (1 - setup.degree / 149))
    assert max(abs(count - expected) for count in counts[2:]) < 6 * spread


def test_what_is_left_of_a_graph_is_connected() -> None:
    """With every colluder and every missing member gone, the honest ones left still hang together."""
    setup = Setup(300, 30, 30)
    drawn = graph.drawn(setup, b"\7" * 32)
    left = set(range(61, 301))
    reached, waiting = {61}, [61]
    while waiting:
        for other in drawn.neighbourhood(waiting.pop()):
            if other in left and other not in reached:
                reached.add(other)
                waiting.append(other)
    assert reached == left


def test_sparse_from_129_members_on() -> None:
    assert not Setup(MOST_COMPLETE, 5, 2).sparse
    assert Setup(MOST_COMPLETE + 1, 5, 2).sparse
    assert Setup(MOST_COMPLETE + 1, 5, 2).confirms


def test_a_neighbourhood_that_cannot_be_safe_is_refused() -> None:
    with pytest.raises(StudyError, match="no neighbourhood is safe"):
        Setup(1000, 300, 300)


def test_the_seed_depends_on_every_nonce_and_on_what_was_shown() -> None:
    nonces = [bytes([number]) * 32 for number in range(5)]
    seed = graph.seed_of(b"story", nonces)
    assert seed != graph.seed_of(b"other", nonces)
    for number in range(5):
        changed = [*nonces]
        changed[number] = b"x" * 32
        assert graph.seed_of(b"story", changed) != seed


@pytest.mark.parametrize(("length", "bits"), [(0, 24), (5, 7), (5, 33)])
def test_vectors_that_are_none_are_refused(length: int, bits: int) -> None:
    with pytest.raises(StudyError, match="8 to 32"):
        Shape(length, bits)
