"""A clipping norm that follows the gradients, through consent, rounds, a killed coordinator, a liar and the report."""

import json
from typing import Any

import numpy as np
import pytest
from tests.federation.playing import Killed, World, make_study, once
from tests.federation.test_lying_coordinator import order_with, play

from primum.federation.explain import explain
from primum.federation.messages import Order, RoundOrder, UnmaskOrder, VectorAnswer
from primum.models.card import load_model
from primum.models.learned import weight_count
from primum.report.page import page
from primum.report.run import read_run
from primum.report.verify import verify_run
from primum.study import Study
from primum.tasks.plan import Plan


@pytest.fixture(autouse=True)
def gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primum.federation.rounds._MOST_FAILURES", 2)


def adaptive(world: World, rounds: int = 3, **training: Any) -> Study:
    return make_study(
        world.members,
        rounds=rounds,
        training={"rounds": rounds, "clipping": "adaptive", "clipping_norm": 0.5, **training},
    )


def test_each_round_is_clipped_to_the_norm_that_the_round_before_left(three: World) -> None:
    study = adaptive(three)
    run, plan = three.train(study), Plan(study)
    norms = [line["clipping_norm"] for line in run.lines("metrics.jsonl")]
    sent = [np.frombuffer(order.weights, "<f4") for place, order in three.wires.of(RoundOrder) if place == 1]
    assert norms == [float(weights[-1]) for weights in sent[:3]]
    assert norms[0] == 0.5 and len(set(norms)) == 3
    assert [len(weights) for weights in sent] == [plan.dimension + 1] * 3 + [plan.dimension], "a look needs no norm"
    assert weight_count(load_model(run.folder).module) == plan.dimension
    assert all(check.holds is not False for check in verify_run(run.folder))
    assert "0.500 at first, then the 0.500 quantile" in page(read_run(run.folder))
    assert json.loads((run.folder / "summary.json").read_text())["privacy"]["clipping_quantile"] == 0.5


def test_the_norm_survives_a_killed_coordinator(three: World) -> None:
    def die() -> bool:
        raise Killed

    def condition(place: int, order: Order) -> bool:
        return place == 2 and isinstance(order, UnmaskOrder) and len(three.wires.of(RoundOrder)) > 6

    three.wires.before = once(condition, die)
    run = three.submit(adaptive(three))
    with pytest.raises(Killed):
        three.rounds(run).run_all()
    before = [order.weights for place, order in three.wires.of(RoundOrder) if place == 1]
    assert len(run.lines("metrics.jsonl")) == 2
    again = three.rounds(run)
    checkpoint = run.last_checkpoint()
    assert checkpoint is not None
    again._optimiser.restore(checkpoint)
    assert again._optimiser.sent.tobytes() == before[-1]


@pytest.mark.parametrize("norm", [0.0, -0.5, 1e5, 1e-6])
def test_a_norm_out_of_bounds_is_refused(three: World, norm: float) -> None:
    def lie(place: int, order: Order) -> Order:
        if not isinstance(order, RoundOrder):
            return order
        return order_with(order, weights=order.weights[:-4] + np.float32(norm).tobytes())

    _, refused = play(three, lie, adaptive(three))
    assert {place for place, _ in refused} == {1, 2, 3}
    assert all("sent a clipping norm of" in words and "the study allows 5e-05 to 5000" in words for _, words in refused)
    assert not three.wires.of(VectorAnswer)


def test_a_norm_that_was_not_signed_is_refused(three: World) -> None:
    def lie(place: int, order: Order) -> Order:
        if not isinstance(order, RoundOrder):
            return order
        return order_with(order, weights=order.weights[:-4] + np.float32(0.25).tobytes())

    _, refused = play(three, lie, adaptive(three))
    assert refused and all("another model than it signed" in words for _, words in refused)


def test_what_it_costs_is_explained_before_anybody_agrees(three: World) -> None:
    told = explain(adaptive(three, clipping_quantile=0.8))
    assert "begins at 0.5 and follows the 0.8 quantile" in told and "0.5% more noise" in told
    assert "quantile" not in explain(make_study(three.members))
