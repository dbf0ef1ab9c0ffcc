"""What a study costs on a slow link, said before it starts."""

import pytest
from tests.federation.playing import make_study

from primum.errors import InputError
from primum.federation.explain import vector_bytes
from primum.federation.link_cost import REACHED, cost_on_link, parse_rate
from primum.study import Study
from primum.study.kinds import ResidualModel
from primum.tasks.plan import Plan

MEMBERS = [bytes([place]) * 32 for place in (1, 2, 3)]


@pytest.fixture(scope="module")
def large() -> Study:
    """11 million weights, 45 MB."""
    model = ResidualModel(kind="residual-network", widths=(64, 128, 256, 512))
    return make_study(MEMBERS, private=False, rounds=40).model_copy(update={"model": model})


@pytest.mark.parametrize(
    ("text", "rate"),
    [("5Mbit/s", 625_000), ("512 kbit/s", 64_000), ("1.5 mbit/s", 187_500), ("1Gbit/s", 125e6), ("800bit/s", 100)],
)
def test_rates_are_read_as_people_write_them(text: str, rate: float) -> None:
    assert parse_rate(text) == rate


@pytest.mark.parametrize("text", ["5", "5MB/s", "-5Mbit/s", "0Mbit/s", "fast", "5Mbit", "1e9Mbit/s"])
def test_what_is_no_rate_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not a link's rate"):
        parse_rate(text)


def test_hours_are_bytes_over_what_the_link_reaches(large: Study) -> None:
    plan = Plan(large)
    moved = 4 * plan.dimension + vector_bytes(plan)
    hours = 40 * moved / 625_000 / REACHED / 3600
    words = cost_on_link(large, 625_000)
    assert "44.7 MB down and 44.7 MB up take 3 min a round" in words
    assert f"{hours:.1f} h in all" in words
    assert "carries 3 times as much" in words
    assert "Too long" not in words


def test_a_link_on_which_no_round_ends_is_said(large: Study) -> None:
    assert "Too long: a round's bytes may take 2.0 h." in cost_on_link(large, 10_000)
