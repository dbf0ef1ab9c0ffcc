"""A run, from consent to model, in one process: real hospitals, real messages, through bytes."""

import json
from collections import Counter

import numpy as np
import pytest
from tests.federation.playing import Hospital, Killed, World, make_study, once

from primum.dp.ledger import EVALUATION, TRAINING, Ledger
from primum.errors import Refused, Unavailable
from primum.federation.messages import (
    EVALUATE,
    TRAIN,
    Consent,
    DealOrder,
    KeysOrder,
    Order,
    PairOrder,
    RoundOrder,
    StudyOrder,
    UnmaskOrder,
    VectorAnswer,
)
from primum.federation.policy import Policy
from primum.federation.runs import Run
from primum.models.card import load_model

STAGES = (StudyOrder, KeysOrder, PairOrder, DealOrder, RoundOrder, UnmaskOrder)


def ledger(hospital: Hospital) -> Ledger:
    policy = Policy.read(hospital.state.folder / "policy.toml")
    assert policy is not None
    return Ledger(hospital.state.folder / "ledger.sqlite", policy.cap)


def charges(hospital: Hospital, population: str = TRAINING) -> list[int]:
    return [entry.round for entry in ledger(hospital).entries() if entry.population == population]


def finished_rounds(run: Run) -> list[int]:
    return [line["round"] for line in run.lines("metrics.jsonl")]


def charged(run: Run) -> int:
    summary = json.loads((run.folder / "summary.json").read_text())
    return int(summary["privacy"]["steps"])


def test_three_hospitals_learn_a_model(three: World) -> None:
    run = three.train(make_study(three.members))
    assert finished_rounds(run) == [1, 2, 3]
    assert load_model(run.folder).card.classes == ("clear", "shadow")
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["pinned"]
    assert {line["population"] for line in run.lines("ledger.jsonl")} == {"training", "evaluation"}


def test_a_round_costs_two_exchanges_and_a_session_is_made_once(three: World) -> None:
    three.train(make_study(three.members))
    counted = Counter(type(message).__name__ for way, _, message in three.wires.carried if way == "order")
    assert counted["KeysOrder"] == counted["PairOrder"] == counted["DealOrder"] == 3
    assert counted["RoundOrder"] == counted["UnmaskOrder"] == 3 * (3 + 1)  # three rounds and one look


def test_the_aggregate_reaches_the_hospitals(three: World) -> None:
    run = three.submit(make_study(three.members))
    after: list[bytes] = [np.zeros(195, "<f4").tobytes()]
    seen: list[bytes] = []

    def before(place: int, order: Order) -> None:
        if isinstance(order, RoundOrder) and order.what == TRAIN:
            checkpoint = run.last_checkpoint()
            if checkpoint is not None:
                after.append(checkpoint["weights"].astype("<f4").tobytes())
            seen.append(order.weights)
            assert order.weights == after[-1]

    three.wires.before = before
    three.rounds(run).run_all()
    assert len(seen) == 9
    assert len(set(seen)) == 3, "every round starts from another model, and all hospitals from the same"


def test_each_hospital_charges_exactly_the_attempts_and_the_report_says_so(three: World) -> None:
    run = three.train(make_study(three.members))
    for hospital in three.hospitals.values():
        assert charges(hospital) == [1, 2, 3]
        assert charges(hospital, EVALUATION) == [4]
    assert charged(run) == 3


def test_with_four_hospitals_the_noise_that_was_there_is_charged(four: World) -> None:
    four.train(make_study(four.members, may_vanish=1))
    for hospital in four.hospitals.values():
        entries = [entry for entry in ledger(hospital).entries() if entry.population == TRAINING]
        assert all(entry.settled is not None and entry.settled < 0.75 * entry.reserved for entry in entries)


def test_with_three_hospitals_settling_changes_nothing(three: World) -> None:
    three.train(make_study(three.members))
    for hospital in three.hospitals.values():
        entries = [entry for entry in ledger(hospital).entries() if entry.population == TRAINING]
        assert [entry.settled for entry in entries] == [entry.reserved for entry in entries]


def test_the_evaluation_uses_its_own_patients_and_its_own_charge(three: World) -> None:
    three.train(make_study(three.members))
    orders = [order.what for _, order in three.wires.of(RoundOrder)]
    assert orders == [TRAIN] * 9 + [EVALUATE] * 3


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_one_of_four_vanishes_at_any_stage_and_returns(four: World, stage: type) -> None:
    # it is away for one order in the middle of the run, its process gone; then it is started again
    gone: list[int] = []
    victim = four.hospitals[2]

    def before(place: int, order: Order) -> bool | None:
        late = isinstance(order, RoundOrder | UnmaskOrder)
        begun = len(four.wires.of(RoundOrder)) > 4 if late else True
        if place == 2 and not gone and begun and isinstance(order, stage):
            gone.append(1)
            victim.start()
            return False
        return None

    four.wires.before = before
    run = four.train(make_study(four.members, rounds=4, may_vanish=1))
    assert gone, "the stage was met"
    lines = run.lines("metrics.jsonl")
    assert [line["round"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) + sum(line["charged"] for line in run.lines("attempts.jsonl")) == 4
    assert lines[-1]["participants"] == 4, "whoever comes back is in the next rounds"
    assert charged(run) == 4


def test_three_hospitals_cannot_lose_one_the_round_is_repeated(three: World) -> None:
    victim = three.hospitals[3]

    def condition(place: int, order: Order) -> bool:
        return place == 3 and isinstance(order, UnmaskOrder)

    def die() -> bool:
        victim.start()
        return False

    three.wires.before = once(condition, die)
    run = three.train(make_study(three.members, rounds=3))
    assert [line["charged"] for line in run.lines("attempts.jsonl")] == [True]
    assert finished_rounds(run) == [1, 2], "what failed counts too: no more steps than were promised"
    assert charged(run) == 3
    for hospital in three.hospitals.values():
        assert charges(hospital) == [1, 2, 3]


def test_a_single_round_that_fails_is_no_model(three: World) -> None:
    three.wires.before = once(
        lambda place, order: place == 3 and isinstance(order, UnmaskOrder),
        lambda: False,
    )
    run = three.submit(make_study(three.members, rounds=1))
    with pytest.raises(Unavailable, match="No round came to its end"):
        three.rounds(run).run_all()
    assert not (run.folder / "model.safetensors").exists()


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.__name__)
def test_a_coordinator_that_is_killed_goes_on_after_its_last_round(three: World, stage: type) -> None:
    late = issubclass(stage, RoundOrder | UnmaskOrder)

    def die() -> bool:
        raise Killed

    def condition(place: int, order: Order) -> bool:
        return place == 2 and isinstance(order, stage) and (not late or len(three.wires.of(RoundOrder)) > 3)

    three.wires.before = once(condition, die)
    run = three.submit(make_study(three.members, rounds=3))
    with pytest.raises(Killed):
        three.rounds(run).run_all()
    done = len(run.lines("metrics.jsonl"))
    three.rounds(run).run_all()
    lines = run.lines("metrics.jsonl")
    assert done == (1 if late else 0)
    assert [line["round"] for line in lines] == list(range(1, len(lines) + 1))
    attempts = [line["attempt"] for line in lines]
    assert attempts == sorted(set(attempts))
    if late:
        assert any("Going on after round 1" in text for text in three.said)
        assert len(lines) == 2, "the attempt that was cut off is charged: vectors had left"
    else:
        assert len(lines) == 3
    assert charged(run) == 3
    for hospital in three.hospitals.values():
        assert len(charges(hospital)) <= 3
        assert len(set(charges(hospital))) == len(charges(hospital)), "a round number is used once"


@pytest.mark.parametrize("cut", ["metrics.jsonl", "ledger.jsonl"])
def test_a_coordinator_killed_between_checkpoint_and_metrics_still_counts_the_round(three: World, cut: str) -> None:
    run = three.submit(make_study(three.members, rounds=3))

    class Cut(Run):
        def append(self, file: str, line: dict[str, object]) -> None:
            if file == cut:
                raise Killed
            super().append(file, line)

    with pytest.raises(Killed):
        three.rounds(Cut(run.folder)).run_all()
    three.rounds(run).run_all()
    assert [line["round"] for line in run.lines("metrics.jsonl")] == [1, 2, 3]
    assert [line["population"] for line in run.lines("ledger.jsonl")].count("training") == 3
    assert charged(run) == 3
    assert all(len(charges(hospital)) == 3 for hospital in three.hospitals.values())


def test_the_look_is_tried_again_where_nothing_had_left(three: World) -> None:
    victim = three.hospitals[1]
    seen: list[int] = []

    def before(place: int, order: Order) -> bool | None:
        if isinstance(order, RoundOrder) and order.what == EVALUATE and len(seen) < 3:
            seen.append(place)
            victim.start()
            return False  # nobody got the order
        return None

    three.wires.before = before
    run = three.train(make_study(three.members))
    assert len(seen) == 3
    figures = json.loads((run.folder / "summary.json").read_text())["hospitals_private"]
    assert "too_few" in figures, "a look was taken, whatever its noise lets one say"
    assert [line["population"] for line in run.lines("ledger.jsonl")].count("evaluation") == 1


def test_a_hospital_that_refuses_ends_a_study_of_three_with_its_reason(three: World) -> None:
    three.hospitals[2].allow(epsilon_cap=1.0)
    with pytest.raises(Refused, match=r"hospital 2: .*\(epsilon_cap\)"):
        three.train(make_study(three.members))
    assert not three.wires.of(RoundOrder)
    assert all(not hospital.state.folder.joinpath("ledger.sqlite").exists() or not charges(hospital)
               for hospital in three.hospitals.values())  # fmt: skip


def test_a_reason_that_several_hospitals_have_is_told_once(three: World) -> None:
    for place in (1, 2, 3):
        three.hospitals[place].allow(epsilon_cap=1.0)
    with pytest.raises(Refused, match="hospital 1, hospital 2, hospital 3: ") as caught:
        three.train(make_study(three.members))
    assert caught.value.message.count("epsilon_cap") == 1


def test_four_hospitals_go_on_without_one_that_refuses(four: World) -> None:
    four.hospitals[2].allow(epsilon_cap=1.0)
    run = four.train(make_study(four.members, may_vanish=1))
    assert {line["participants"] for line in run.lines("metrics.jsonl")} == {3}
    assert 2 not in {place for place, _ in four.wires.of(VectorAnswer)}


def test_four_hospitals_go_on_without_one_that_is_offline(four: World) -> None:
    four.wires.before = lambda place, order: False if place == 4 else None
    run = four.train(make_study(four.members, may_vanish=1, deadlines={"consent": 1.0}))
    assert {line["participants"] for line in run.lines("metrics.jsonl")} == {3}


def test_too_few_that_answer_end_the_study_by_name(three: World) -> None:
    three.wires.before = lambda place, order: False if place == 1 else None
    with pytest.raises(Refused, match="2 of 3 hospitals agreed, 3 are needed"):
        three.train(make_study(three.members, deadlines={"consent": 0.5}))


@pytest.mark.parametrize(
    ("stage", "garbage"),
    [
        (KeysOrder, b""),
        (PairOrder, b"garbage"),
        (DealOrder, b"\x01\x80"),
        (RoundOrder, bytes(1000)),
        (UnmaskOrder, b"\x01\x80"),
    ],
    ids=["keys: nothing", "pairs: text", "deals: a map", "vectors: zeros", "shares: a map"],
)
def test_garbage_from_a_hospital_leaves_it_out_and_the_others_go_on(four: World, stage: type, garbage: bytes) -> None:
    spoiled: list[int] = []

    def spoil(place: int, order: Order, answer: bytes) -> bytes | None:
        if place == 3 and isinstance(order, stage) and not spoiled:
            spoiled.append(1)
            return garbage
        return answer

    four.wires.spoil = spoil
    run = four.train(make_study(four.members, rounds=2, may_vanish=1))
    assert spoiled
    assert len(run.lines("metrics.jsonl")) + sum(line["charged"] for line in run.lines("attempts.jsonl")) == 2
    assert finished_rounds(run)


def test_a_late_answer_of_an_older_order_does_not_break_a_round(four: World) -> None:
    kept: list[bytes] = []
    played: list[int] = []

    def spoil(place: int, order: Order, answer: bytes) -> bytes | None:
        if place == 1 and isinstance(order, RoundOrder):
            kept.append(answer)
            if len(kept) == 2:
                played.append(1)
                return kept[0]
        return answer

    four.wires.spoil = spoil
    run = four.train(make_study(four.members, rounds=3, may_vanish=1))
    assert played
    assert [line["participants"] for line in run.lines("metrics.jsonl")] == [4, 3, 4]


def test_the_budget_runs_out_in_the_middle_and_the_model_is_what_there_is(three: World) -> None:
    run = three.submit(make_study(three.members, rounds=3))

    def before(place: int, order: Order) -> None:
        if place == 1 and isinstance(order, RoundOrder) and len(three.wires.of(RoundOrder)) == 6:
            # another study has used up the rest meanwhile
            book = ledger(three.hospitals[1])
            book.reserve("other", "00" * 16, 1, TRAINING, book.left(TRAINING))

    three.wires.before = before
    three.rounds(run).run_all()
    assert finished_rounds(run) == [1, 2]
    assert charged(run) == 3, "the other hospitals had sent theirs"
    assert any("privacy budget" in text for text in three.said)
    assert load_model(run.folder)


def test_a_study_that_does_not_fit_the_rest_of_the_budget_is_refused_whole(three: World) -> None:
    for hospital in three.hospitals.values():
        book = ledger(hospital)
        book.reserve("other", "00" * 16, 1, TRAINING, 0.99 * book.left(TRAINING))
    with pytest.raises(Refused, match="privacy budget"):
        three.train(make_study(three.members))
    assert not three.wires.of(VectorAnswer)


def test_a_study_without_privacy_trains_where_all_hospitals_allow_it(three: World) -> None:
    three.allow(without_privacy=True)
    run = three.train(make_study(three.members, private=False))
    assert finished_rounds(run) == [1, 2, 3]
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["privacy"]["epsilon"] is None


def test_consent_names_the_rule_to_the_scientist_and_says_nothing_of_the_data(three: World) -> None:
    three.hospitals[1].allow(delta_max=1e-7)
    with pytest.raises(Refused, match="delta_max"):
        three.train(make_study(three.members))
    [reason] = {c.reason for _, c in three.wires.of(Consent) if c.answer == "no"}
    assert "delta = 1e-05, at most 1e-07 is allowed" in reason


def test_a_resident_hospital_that_restarts_between_two_rounds_is_back_at_once(three: World) -> None:
    three.wires.before = once(
        lambda place, order: place == 1 and isinstance(order, RoundOrder) and len(three.wires.of(RoundOrder)) == 3,
        lambda: three.hospitals[1].start() or None,
    )
    run = three.train(make_study(three.members, rounds=4))
    assert any("was not put before this hospital" in text for text in three.said)
    assert charged(run) == 4
    assert finished_rounds(run) == [1, 2, 3]
