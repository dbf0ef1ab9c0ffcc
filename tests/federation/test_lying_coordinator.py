"""A coordinator that lies, played against real hospitals: each lie is refused by name, by a hospital, before a sum opens."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, get_args

import pytest
from flwr.app import ConfigRecord, Message, RecordDict
from tests.federation.playing import World, make_study

from primum import wire
from primum.errors import PeerError, PrimumError
from primum.federation.aggregation import Replies
from primum.federation.messages import (
    TRAIN,
    Consent,
    Failure,
    JournalHead,
    OpeningAnswer,
    Order,
    PairOrder,
    Reply,
    RoundOrder,
    StudyOrder,
    Tagged,
    UnmaskOrder,
    VectorAnswer,
    agreement,
)
from primum.federation.participant import model_digest
from primum.federation.records import content_of
from primum.federation.rounds import Rounds
from primum.federation.runs import Run
from primum.keys.agreement import KeyPair
from primum.keys.identity import Identity
from primum.secagg.messages import Context, KeyOffer, RoundStart, Signed, UnmaskRequest, open_signed, sign
from primum.study import Study, sign_study

Lie = Callable[[int, Order], Order]


@dataclass
class Liar:
    """The exchange of a coordinator that changes orders on their way to the hospitals."""

    world: World
    lie: Lie
    refused: list[tuple[int, str]] = field(default_factory=list)

    def __call__(self, orders: Mapping[int, Order], deadline: float) -> Replies:
        told = {place: self.lie(place, order) for place, order in orders.items()}
        replies = self.world.wires(told, deadline)
        for place, reply in replies.by_place.items():
            if isinstance(reply, Failure):
                self.refused.append((place, reply.message))
        return replies


def play(world: World, lie: Lie, study: Study | None = None) -> tuple[Run, list[tuple[int, str]]]:
    """A run whose coordinator lies; who refused what, in which words."""
    liar = Liar(world, lie)
    run = world.submit(study or make_study(world.members))
    with pytest.raises(PrimumError):
        Rounds(run, world.coordinator, liar, world.said.append).run_all()
    return run, liar.refused


@pytest.fixture(autouse=True)
def gives_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("primum.federation.rounds._MOST_FAILURES", 2)


def nothing_opened(world: World) -> bool:
    return not world.wires.of(OpeningAnswer)


def changed(world: World, envelope: Signed, kind: type[Any], **changes: Any) -> Signed:
    """A coordinator's signed word, changed and signed again."""
    message = open_signed(envelope, kind, world.coordinator.public, "the coordinator")
    values = {name: getattr(message, name) for name in message.__struct_fields__}
    return sign(world.coordinator, kind(**{**values, **changes}))


def order_with(order: Order, **changes: Any) -> Any:
    return type(order)(**{**{name: getattr(order, name) for name in order.__struct_fields__}, **changes})


# -- the study ----------------------------------------------------------------------------------------------------------


def test_a_study_changed_between_rounds_is_refused_also_by_a_hospital_that_was_started_again(three: World) -> None:
    study = make_study(three.members)
    worse = study.model_copy(update={"training": study.training.model_copy(update={"clipping_norm": 0.5})})

    def lie(place: int, order: Order) -> Order:
        if isinstance(order, StudyOrder) and three.wires.of(RoundOrder):
            return StudyOrder(order.run, sign_study(worse, three.scientist))  # even with the scientist's own signature
        return order

    liar = Liar(three, lie)
    run = three.submit(study)

    def restart(place: int, order: Order) -> None:
        if isinstance(order, UnmaskOrder) and len(three.wires.of(RoundOrder)) == 6:
            three.hospitals[2].start()

    three.wires.before = restart
    with pytest.raises(PrimumError):
        Rounds(run, three.coordinator, liar, three.said.append).run_all()
    said = {(place, words) for place, words in liar.refused if "changed the study" in words}
    assert {place for place, _ in said} == {1, 2, 3}
    assert len(run.lines("metrics.jsonl")) == 1


def test_an_evaluation_only_study_cannot_be_turned_into_training(three: World) -> None:
    from primum.federation.evaluation import finished_weights, study_of
    from primum.tasks.plan import resolve

    study = make_study(three.members)
    three.allow(epsilon_cap=50.0)
    weights = finished_weights(three.train(study).folder, study)
    looked = resolve(study_of(study, weights)).model_copy(update={"study": study.study})

    def lie(place: int, order: Order) -> Order:
        return order_with(order, what=TRAIN) if isinstance(order, RoundOrder) else order

    liar = Liar(three, lie)
    run = three.submit(looked)
    (run.folder / "weights.bin").write_bytes(weights)
    with pytest.raises(PrimumError):
        Rounds(run, three.coordinator, liar, three.said.append).run_all()
    assert {words for _, words in liar.refused} == {"The coordinator trains in a study that trains nothing."}


# -- the cohort ---------------------------------------------------------------------------------------------------------


def test_a_node_of_its_own_is_refused_by_every_hospital(three: World) -> None:
    spy = Identity.generate()

    def lie(place: int, order: Order) -> Order:
        if not isinstance(order, PairOrder):
            return order
        context = open_signed(order.shown[0], KeyOffer, order.shown[0].signer, "a member").context
        keys = KeyPair.generate().public
        return PairOrder(order.run, (*order.shown, sign(spy, KeyOffer(context, keys.x25519, keys.mlkem, b""))))

    _, refused = play(three, lie)
    assert {place for place, _ in refused} == {1, 2, 3}
    assert all("member" in words for _, words in refused)
    assert nothing_opened(three)


def test_a_cohort_that_shrinks_is_refused(three: World) -> None:
    def lie(place: int, order: Order) -> Order:
        if isinstance(order, RoundOrder):
            start = open_signed(order.start, RoundStart, three.coordinator.public, "the coordinator")
            fewer = tuple(p for p in start.participants if p in (place, place % 3 + 1))
            return order_with(order, start=changed(three, order.start, RoundStart, participants=tuple(sorted(fewer))))
        return order

    _, refused = play(three, lie)
    assert {words for _, words in refused} == {"The coordinator starts a round with 2 of 3 members."}
    assert nothing_opened(three)


def statements(world: World) -> tuple[Signed, ...]:
    """What each hospital signed with its last vector, by place."""
    last = {place: answer.vector.statement for place, answer in world.wires.of(VectorAnswer)}
    return tuple(last[place] for place in sorted(last))


def unmask_all(world: World, order: UnmaskOrder) -> UnmaskOrder:
    """Asks for everybody's shares, whatever they were told in the round."""
    evidence = statements(world)
    every = tuple(range(1, len(evidence) + 1))
    return UnmaskOrder(order.run, changed(world, order.request, UnmaskRequest, included=every, evidence=evidence))


@pytest.mark.parametrize("what", ["participants", "model"])
def test_different_words_for_different_hospitals_are_found_before_any_share_is_given(four: World, what: str) -> None:
    def lie(place: int, order: Order) -> Order:
        if isinstance(order, RoundOrder) and place == 1:
            other = order.weights[:-4] + b"\0\0\x80\x3f"
            model = model_digest(order.what, other)
            word: dict[str, Any] = {"participants": (1, 2, 3)} if what == "participants" else {"model": model}
            start = changed(four, order.start, RoundStart, **word)
            return order_with(order, start=start, weights=order.weights if what == "participants" else other)
        return unmask_all(four, order) if isinstance(order, UnmaskOrder) else order

    _, refused = play(four, lie, make_study(four.members, may_vanish=1))
    honest = {words for place, words in refused if place != 1}
    assert honest == {"member 1 was told other participants or another model than this node."}
    assert nothing_opened(four)


# -- unmasking ----------------------------------------------------------------------------------------------------------


def test_a_second_unmasking_is_refused_for_another_set_and_for_the_same(four: World) -> None:
    run = four.submit(make_study(four.members, may_vanish=1))
    asked: list[UnmaskOrder] = []

    def lie(place: int, order: Order) -> Order:
        if isinstance(order, UnmaskOrder):
            asked.append(order)
        return order

    liar = Liar(four, lie)
    Rounds(run, four.coordinator, liar, four.said.append).run_all()
    request = open_signed(asked[0].request, UnmaskRequest, four.coordinator.public, "the coordinator")
    for included in (request.included, request.included[:3]):
        again = UnmaskRequest(request.context, included, request.evidence[: len(included)])
        replies = four.wires({1: UnmaskOrder(run.token, sign(four.coordinator, again))}, 1.0)
        assert isinstance(replies.by_place[1], Failure)


def test_fewer_than_agreed_are_never_unmasked(four: World) -> None:
    def lie(place: int, order: Order) -> Order:
        if isinstance(order, UnmaskOrder):
            request = open_signed(order.request, UnmaskRequest, four.coordinator.public, "the coordinator")
            two = tuple(sorted({place, place % 4 + 1}))
            evidence = tuple(request.evidence[p - 1] for p in two)
            return UnmaskOrder(order.run, changed(four, order.request, UnmaskRequest, included=two, evidence=evidence))
        return order

    _, refused = play(four, lie, make_study(four.members, may_vanish=1))
    assert {words for _, words in refused} == {"The coordinator asks to unmask 2 of 4 members."}
    assert nothing_opened(four)


# -- replays, journals, code --------------------------------------------------------------------------------------------


def test_a_round_that_was_played_is_not_played_again(three: World) -> None:
    seen: list[tuple[int, RoundOrder]] = []

    def lie(place: int, order: Order) -> Order:
        if isinstance(order, RoundOrder):
            first = next((old for old_place, old in seen if old_place == place), None)
            seen.append((place, order))
            return first or order
        return order

    run, refused = play(three, lie)
    assert {place for place, _ in refused} == {1, 2, 3}
    assert len(run.lines("metrics.jsonl")) == 1


def test_a_recorded_order_is_not_carried_out_again_byte_for_byte(three: World) -> None:
    three.train(make_study(three.members))
    recorded = list(three.wires.recorded)
    assert len(recorded) > 20
    for body in recorded:
        for place, hospital in three.hospitals.items():
            try:
                answer = wire.decode(hospital.process.answer(body), Signed, "a test")
            except PeerError:
                continue
            tagged = open_signed(answer, Tagged, three.members[place - 1], "a test")
            reply: Reply = wire.decode_one_of(tagged.body, get_args(Reply), "a test")
            assert isinstance(reply, Failure | Consent)  # an order to another hospital: read, and refused or known


def test_a_head_of_a_journal_that_is_not_its_own_is_refused(three: World) -> None:
    def lie(place: int, order: Order) -> Order:
        if isinstance(order, RoundOrder):
            return order_with(order, journal=sign(Identity.generate(), JournalHead(order.run, bytes(32))))
        return order

    _, refused = play(three, lie)
    assert {words for _, words in refused} == {"A JournalHead of the coordinator is signed by somebody else."}
    assert nothing_opened(three)


@pytest.mark.parametrize("kind", ["train", "query.primum", "system.get_code"])
def test_a_bundle_of_code_is_not_even_opened(three: World, kind: str) -> None:
    records = RecordDict({"fab": ConfigRecord({"hash": "0" * 64, "content": b"import os"})})
    with pytest.raises(PeerError, match="not Primum's"):
        content_of(Message(records, 1, kind), "the coordinator")
    with pytest.raises(PeerError):
        three.hospitals[1].process.answer(b"PK\x03\x04import os")


def test_the_context_of_an_order_is_the_study_that_was_agreed_to(three: World) -> None:
    """A round of another study, signed by the coordinator, is not joined in this one."""
    run = three.submit(make_study(three.members))
    other = agreement(b"o" * 16, run.signed_study())

    def lie(place: int, order: Order) -> Order:
        if isinstance(order, RoundOrder):
            context = open_signed(order.start, RoundStart, three.coordinator.public, "the coordinator").context
            moved = Context(**{**{n: getattr(context, n) for n in context.__struct_fields__}, "run": other})
            return order_with(order, start=changed(three, order.start, RoundStart, context=moved))
        return order

    _, refused = play(three, lie)
    assert {place for place, _ in refused} == {1, 2, 3}
    assert nothing_opened(three)


def test_the_words_for_a_lie_stand_in_the_hospitals_journal(three: World) -> None:
    from primum.journal import read

    def lie(place: int, order: Order) -> Order:
        return order_with(order, what="statistics") if isinstance(order, RoundOrder) else order

    play(three, lie)
    reasons = {
        entry["details"]["reason"]
        for entry in read(three.hospitals[1].state.folder / "journal.jsonl")
        if entry["kind"] == "refused"
    }
    assert reasons == {"The coordinator asks for 'statistics'."}
