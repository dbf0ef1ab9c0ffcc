"""A study that asks what the hospitals' patients are like: one sum before the first round, charged as a look."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.federation.playing import PATTERN, Killed, World, make_study, once
from tests.federation.test_lying_coordinator import order_with, play
from tests.federation.test_rounds import charges

from primum.dp.ledger import EVALUATION, TRAINING
from primum.errors import ModelError, Unavailable
from primum.federation.evaluation import as_surveyed, finished_weights, study_of
from primum.federation.messages import SURVEY, TRAIN, Order, RoundOrder, UnmaskOrder
from primum.federation.runs import Run
from primum.imaging import PatientSource, Preparation, read_folder
from primum.journal import read
from primum.models.card import load_model
from primum.models.feature_map import PixelsCard
from primum.report.page import page
from primum.report.run import read_run
from primum.report.verify import verify_run
from primum.study import Study, sign_study


@pytest.fixture(autouse=True)
def gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primum.federation.rounds._MOST_FAILURES", 3)


def study_with(world: World, private: bool, **statistics: Any) -> Study:
    data = make_study(world.members, rounds=2, private=private).model_dump(exclude_none=True)
    data["statistics"] = statistics or {"class_weights": "balanced", "pixels": "hospitals"}
    data["model"] = {"kind": "small-network", "widths": (4, 8)}
    if private:
        data["privacy"] |= {
            "patients": 500,
            "epsilon": 8.0,
            "noise_multiplier": 4.0,
            "evaluation_noise_multiplier": 2.0,
        }
    return Study.model_validate(data)


def ready(world: World) -> World:
    world.allow(without_privacy=True, epsilon_cap=50.0)
    return world


def summary_of(run: Run) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run.folder / "summary.json").read_text())
    return found


def test_without_privacy_sums_are_exact_and_reach_card_and_report(three: World, tmp_path: Path) -> None:
    world = ready(three)
    study = study_with(world, private=False)
    run = world.train(study)
    told = summary_of(run)["statistics"]
    assert told["patients"] == 36 and told["classes"] == {"clear": 18, "shadow": 18}
    assert told["class_weights"] == {"clear": 1, "shadow": 1} and told["noise"] == 0
    preparation, pattern = Preparation(**study.images.model_dump()), PatientSource(PATTERN)
    pictures = [
        read_folder(hospital.folder / "images", preparation=preparation, patients=pattern, pseudonym_key=b"k" * 32)
        for hospital in world.hospitals.values()
    ]
    mean = float(np.mean([float(read.dataset.images.mean()) for read in pictures]))
    assert told["mean"] == pytest.approx([mean], abs=2e-3)
    card = load_model(run.folder).card.front_end
    assert isinstance(card, PixelsCard) and card.mean == tuple(told["mean"])
    assert all(check.holds is not False for check in verify_run(run.folder))
    altered = json.loads((run.folder / "summary.json").read_text())
    altered["statistics"]["classes"]["shadow"] += 1
    (run.folder / "summary.json").write_text(json.dumps(altered))
    assert [check.name for check in verify_run(run.folder) if check.holds is False] == ["Looks"]
    assert "all hospitals" in page(read_run(run.folder))
    orders = [order for _, order in world.wires.of(RoundOrder)]
    assert [order.what for order in orders[:3]] == [SURVEY] * 3 and not orders[0].survey
    assert len({order.survey for order in orders[3:]}) == 1 and orders[3].survey


def test_with_privacy_it_asks_those_who_are_looked_at_and_costs_one_look(three: World) -> None:
    world = ready(three)
    run = world.train(study_with(world, private=True))
    told = summary_of(run)["statistics"]
    assert told["noise"] > 0 and told["patients"] < 36 and told["too_few"]
    assert (told["mean"], told["deviation"]) == ([0.5], [0.25]) and set(told["class_weights"].values()) == {1}
    assert "It told nothing" in page(read_run(run.folder))
    for hospital in world.hospitals.values():
        assert (charges(hospital, EVALUATION), charges(hospital, TRAINING)) == ([1, 4], [2, 3])
        entries = read(hospital.folder / "state" / "journal.jsonl")
        assert [entry["details"]["what"] for entry in entries if entry["kind"] == "vector"] == [
            "survey",
            "train",
            "train",
            "evaluate",
        ]
    lines = [json.loads(line) for line in (run.folder / "ledger.jsonl").read_text().splitlines()]
    assert [line["population"] for line in lines] == ["evaluation", "training", "training", "evaluation"]
    assert all(check.holds is not False for check in verify_run(run.folder))


def test_a_model_that_was_trained_so_is_evaluated_on_the_same_pixels(three: World) -> None:
    world = ready(three)
    study = study_with(world, private=False)
    run = world.train(study)
    with pytest.raises(ModelError, match="not the one that the study describes"):
        finished_weights(run.folder, study)
    known = as_surveyed(study, run.folder)
    weights = finished_weights(run.folder, known)
    looked = study_of(known, weights)
    assert looked.surveys == 0 and looked.statistics and looked.statistics.mean
    looked = looked.model_copy(update={"study": looked.study.model_copy(update={"expires": study.study.expires})})
    again = Run.create(world.folder / "runs", sign_study(looked, world.scientist), "again", weights)
    world.rounds(again).run_all()
    assert summary_of(again)["hospitals_private"]["accuracy"] is not None


def test_a_coordinator_that_dies_after_the_survey_does_not_ask_again(three: World) -> None:
    world = ready(three)
    run = world.submit(study_with(world, private=True))

    def die() -> None:
        raise Killed

    world.wires.before = once(lambda place, order: isinstance(order, RoundOrder) and order.what == TRAIN, die)
    with pytest.raises(Killed):
        world.rounds(run).run_all()
    world.rounds(run).run_all()
    assert len([order for _, order in world.wires.of(RoundOrder) if order.what == SURVEY]) == 3
    assert [line["round"] for line in run.lines("metrics.jsonl")] == [1]  # the attempt that was lost is charged


def test_a_survey_that_fails_is_charged_and_asked_again_from_a_look(three: World) -> None:
    world = ready(three)
    study = study_with(world, private=True)
    failed = once(lambda place, order: isinstance(order, UnmaskOrder), lambda: False)
    world.wires.before = failed
    run = world.train(study)
    lines = run.lines("survey.jsonl")
    assert lines[0]["charged"] and "totals" in lines[1] and len(lines) == 2
    assert summary_of(run)["hospitals_private"] == {"text": "the look at the hospitals' evaluation patients failed"}
    for hospital in world.hospitals.values():
        assert len(charges(hospital, EVALUATION)) == 2


def test_where_no_survey_can_be_had_the_run_ends_in_words(three: World) -> None:
    world = ready(three)
    world.wires.before = lambda place, order: False if isinstance(order, UnmaskOrder) else None
    with pytest.raises(Unavailable, match="no look is left"):
        world.train(study_with(world, private=True))


LIES: dict[str, Callable[[RoundOrder], bytes]] = {
    "missing": lambda order: b"",
    "infinite": lambda order: np.full(5, np.inf).tobytes(),
    "changed in the second round": lambda order: np.frombuffer(order.survey, "<f8")[::-1].tobytes(),
}


@pytest.mark.parametrize("kind", LIES)
def test_a_coordinator_that_lies_about_the_survey_gets_nothing(three: World, kind: str) -> None:
    seen: list[int] = []

    def lie(place: int, order: Order) -> Order:
        if not isinstance(order, RoundOrder) or order.what == SURVEY:
            return order
        seen.append(place)
        if kind.startswith("changed") and len(seen) <= 3:
            return order
        return order_with(order, survey=LIES[kind](order))

    _, refused = play(ready(three), lie, study_with(three, private=True))
    assert {words for _, words in refused if words} == {
        "The coordinator sent a survey that is none."
        if kind == "infinite"
        else "The coordinator sent another survey than the run's."
    }
