"""Studies in which a quorum signs each round's set: six hospitals that may lose two, and a hundred and thirty."""

import json
from collections import Counter
from collections.abc import Callable

import pytest
from tests.federation.playing import World, make_study

from primum.federation.messages import ConfirmOrder, Order, PairOrder, RevealOrder, RoundOrder, UnmaskOrder

STAGES = (RoundOrder, ConfirmOrder, UnmaskOrder)


def test_six_hospitals_may_lose_two(world: Callable[..., World]) -> None:
    six = world(6)
    six.wires.before = lambda place, order: False if place in (2, 5) and isinstance(order, STAGES[0]) else None
    run = six.train(make_study(six.members, rounds=2, may_vanish=2, privacy={"patients": 72}))
    assert {line["participants"] for line in run.lines("metrics.jsonl")} == {4}
    assert json.loads((run.folder / "summary.json").read_text())["privacy"]["k_min"] == 3


def test_a_round_costs_three_exchanges(world: Callable[..., World]) -> None:
    six = world(6)
    six.train(make_study(six.members, rounds=2, may_vanish=2, privacy={"patients": 72}))
    counted = Counter(type(message).__name__ for way, _, message in six.wires.carried if way == "order")
    assert counted["RoundOrder"] == counted["ConfirmOrder"] == counted["UnmaskOrder"] == 6 * (2 + 1)


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_two_of_six_vanish_at_any_stage_and_return(world: Callable[..., World], stage: type) -> None:
    six = world(6)
    gone: set[int] = set()

    def before(place: int, order: Order) -> bool | None:
        if place in (1, 4) and place not in gone and isinstance(order, stage):
            gone.add(place)
            six.hospitals[place].start()
            return False
        return None

    six.wires.before = before
    run = six.train(make_study(six.members, rounds=3, may_vanish=2, privacy={"patients": 72}))
    lines = run.lines("metrics.jsonl")
    assert gone == {1, 4}
    assert len(lines) + sum(line["charged"] for line in run.lines("attempts.jsonl")) == 3
    assert lines[0]["participants"] == (4 if stage is RoundOrder else 6)  # later, the vectors had come already
    assert lines[-1]["participants"] == 6, "whoever comes back is in the next rounds"


def test_a_hundred_and_thirty_hospitals_over_a_random_graph(world: Callable[..., World]) -> None:
    many = world(130)
    study = make_study(many.members, rounds=1, may_vanish=3, privacy={"looks": 0})
    many.wires.before = lambda place, order: False if place == 77 and isinstance(order, RoundOrder) else None
    run = many.train(study)
    assert [line["participants"] for line in run.lines("metrics.jsonl")] == [129]
    assert len(many.wires.of(RevealOrder)) == len(many.wires.of(PairOrder)) == 130
