"""Who said yes: nothing by default, one no is a no, a yes ends, and where signers are named only signatures count."""

import datetime
import time
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.federation.playing import World, make_study, once
from tests.federation.test_participant import RUN, order_of, put

from primum.federation.aggregation import Halted
from primum.federation.approval import NO, WAITING, YES, Approval, Approvals, signed_answer
from primum.federation.messages import Consent, Failure, KeysOrder, RoundOrder, StudyOrder, UnmaskOrder, agreement
from primum.journal import read
from primum.keys.identity import Identity
from primum.study import sign_study

STUDY = b"s" * 32
TOMORROW = datetime.date.today() + datetime.timedelta(days=1)
FAR = time.time() + 1e6
PEOPLE = [Identity.generate() for _ in range(3)]
KEYS = [person.public.hex() for person in PEOPLE]


@pytest.fixture
def record(tmp_path: Path) -> Approvals:
    return Approvals(tmp_path / "memory.sqlite")


def standing(record: Approvals, signers: list[str] | None = None, needed: int = 1, now: float = 0.0) -> str:
    return record.standing(STUDY, signers, needed, now or time.time()).answer


def test_nothing_is_approved_by_default(record: Approvals) -> None:
    assert standing(record) == WAITING
    assert standing(record, KEYS, 2) == WAITING


def test_answers_are_on_disk_for_the_next_process(record: Approvals, tmp_path: Path) -> None:
    record.answer(STUDY, Approval("ada", YES, 1.0, FAR))
    assert standing(Approvals(tmp_path / "memory.sqlite")) == YES


def test_a_yes_ends(record: Approvals) -> None:
    record.answer(STUDY, Approval("ada", YES, 1.0, 100.0))
    assert standing(record, now=99.0) == YES
    assert standing(record, now=101.0) == NO


@pytest.mark.parametrize("signers", [None, KEYS])
def test_one_no_is_a_no_and_the_same_person_may_think_again(record: Approvals, signers: list[str] | None) -> None:
    for person in PEOPLE:
        record.answer(STUDY, signed_answer(STUDY, YES, TOMORROW, person))
    assert standing(record, signers, 2) == YES
    record.answer(STUDY, Approval("ada", NO, time.time(), FAR))
    assert standing(record, signers, 2) == NO
    record.answer(STUDY, Approval("ada", YES, time.time(), FAR))
    assert standing(record, signers, 2) == YES


def test_two_signers_are_two_people(record: Approvals) -> None:
    for _ in range(2):
        record.answer(STUDY, signed_answer(STUDY, YES, TOMORROW, PEOPLE[0]))
        assert standing(record, KEYS, 2) == WAITING
    record.answer(STUDY, signed_answer(STUDY, YES, TOMORROW, PEOPLE[1]))
    assert standing(record, KEYS, 2) == YES


FORGERIES = {
    "unsigned": lambda good: replace(good, signature=b""),
    "of another study": lambda good: signed_answer(b"t" * 32, YES, TOMORROW, PEOPLE[1]),
    "made to last longer": lambda good: replace(good, until=good.until + 1),
    "a no turned into a yes": lambda good: replace(signed_answer(STUDY, NO, TOMORROW, PEOPLE[1]), answer=YES),
    "of nobody who may sign": lambda good: signed_answer(STUDY, YES, TOMORROW, Identity.generate()),
    "under another's name": lambda good: replace(signed_answer(STUDY, YES, TOMORROW, PEOPLE[2]), who=KEYS[1]),
}


@pytest.mark.parametrize("forgery", FORGERIES)
def test_what_is_not_signed_by_a_signer_does_not_count(record: Approvals, forgery: str) -> None:
    record.answer(STUDY, signed_answer(STUDY, YES, TOMORROW, PEOPLE[0]))
    record.answer(STUDY, FORGERIES[forgery](signed_answer(STUDY, YES, TOMORROW, PEOPLE[1])))
    assert standing(record, KEYS, 2) == WAITING


@given(needed=st.integers(1, 3), who=st.sets(st.integers(0, 2)))
def test_as_many_as_the_policy_says(tmp_path_factory: pytest.TempPathFactory, needed: int, who: set[int]) -> None:
    record = Approvals(tmp_path_factory.mktemp("state") / "memory.sqlite")
    for place in who:
        record.answer(STUDY, signed_answer(STUDY, YES, TOMORROW, PEOPLE[place]))
    assert standing(record, KEYS, needed) == (YES if len(who) >= needed else WAITING)


# -- at a node ----------------------------------------------------------------------------------------------------------


def approvals(world: World, place: int = 1) -> Approvals:
    return Approvals(world.hospitals[place].state.folder / "memory.sqlite")


def test_a_node_waits_for_its_signers_and_sends_nobodys_name(three: World) -> None:
    three.hospitals[1].allow(decide="ask", signers=KEYS[:2], signers_needed=2)
    order = order_of(three)
    digest = agreement(RUN, order.study)
    for number, person in enumerate(PEOPLE[:2], start=1):
        reply = put(three, order, number)
        assert isinstance(reply, Consent)
        assert reply.answer == WAITING
        assert person.public.hex()[:8] not in reply.reason
        approvals(three).answer(digest, signed_answer(digest, YES, TOMORROW, person))
    reply = put(three, order, 9)
    assert isinstance(reply, Consent)
    assert (reply.answer, reply.reason) == (YES, "")
    [request] = approvals(three).requests()
    assert (request.study, request.text) == (digest, order.study.text)


def test_a_study_without_an_end_or_past_it_is_refused(three: World) -> None:
    study = make_study(three.members)
    for number, expires in enumerate((None, datetime.date.today() - datetime.timedelta(days=1)), start=1):
        about = study.study.model_copy(update={"expires": expires})
        signed = sign_study(study.model_copy(update={"study": about}), three.scientist)
        reply = put(three, StudyOrder(bytes([number]) * 16, signed), number)
        assert isinstance(reply, Consent)
        assert reply.answer == NO
        assert ("names no day" if expires is None else "ended on") in reply.reason


def withdraw(world: World, place: int) -> None:
    """As `primum consent withdraw` in another process."""
    record = approvals(world, place)
    [request] = record.requests()
    record.answer(request.study, Approval("ada", NO, time.time(), 0.0))


def test_a_withdrawal_takes_effect_before_the_next_round_and_the_model_so_far_is_kept(three: World) -> None:
    def second_round(place: int, order: object) -> bool:
        return isinstance(order, UnmaskOrder) and len(three.wires.of(RoundOrder)) == 6

    three.wires.before = once(second_round, lambda: withdraw(three, 2))
    run = three.submit(make_study(three.members))
    with pytest.raises(Halted, match="hospital 2: declined or withdrawn"):
        three.rounds(run).run_all()
    assert [line["round"] for line in run.lines("metrics.jsonl")] == [1, 2]
    assert (run.folder / "model.safetensors").exists()
    [fault] = run.lines("faults.jsonl")
    assert (fault["hospital"], fault["code"]) == (2, "Refused")
    assert "consent" in fault["message"]
    entries = read(three.hospitals[2].state.folder / "journal.jsonl")
    assert [entry["details"]["round"] for entry in entries if entry["kind"] == "vector"] == [1, 2]


def test_without_a_hospital_that_withdrew_the_others_go_on_if_they_may(four: World) -> None:
    def second_round(place: int, order: object) -> bool:
        return isinstance(order, RoundOrder) and len(four.wires.of(RoundOrder)) == 4

    four.wires.before = once(second_round, lambda: withdraw(four, 3))
    run = four.train(make_study(four.members, rounds=4, may_vanish=1))
    lines = run.lines("metrics.jsonl")
    assert {line["participants"] for line in lines[1:]} == {3}
    entries = read(four.hospitals[3].state.folder / "journal.jsonl")
    assert [entry["details"]["round"] for entry in entries if entry["kind"] == "vector"] == [1]


def test_who_withdrew_gives_no_keys_either(three: World) -> None:
    put(three, order_of(three), 1)
    withdraw(three, 1)
    reply = put(three, KeysOrder(RUN, 1, 1), 2)
    assert isinstance(reply, Failure)
    assert "consent to the study has ended" in reply.message


def test_a_standing_yes_ends_when_too_few_are_left(record: Approvals) -> None:
    now = time.time()
    for person, days in zip(PEOPLE, (-1, 2, 1), strict=True):
        record.answer(STUDY, signed_answer(STUDY, YES, datetime.date.today() + datetime.timedelta(days), person))
    ends = {needed: record.standing(STUDY, KEYS, needed, now).until for needed in (1, 2)}
    assert datetime.date.fromtimestamp(ends[1]) == TOMORROW + datetime.timedelta(1)
    assert datetime.date.fromtimestamp(ends[2]) == TOMORROW
    assert record.standing(STUDY, KEYS, 3, now).until == 0
