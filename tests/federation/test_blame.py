"""One member that lies costs the study nothing but that member; and nobody runs another study than the others."""

from collections.abc import Callable
from typing import Any, get_args

import msgspec
import pytest
from tests.federation.playing import Wires, World, make_study

from primum import wire
from primum.federation import rounds
from primum.federation.aggregation import Replies
from primum.federation.messages import (
    Answer,
    DealOrder,
    KeysOrder,
    OpeningAnswer,
    Order,
    PairAnswer,
    PairOrder,
    Reply,
    StudyOrder,
    Tagged,
    UnmaskOrder,
)
from primum.secagg import Encapsulated
from primum.secagg.messages import Deal, Encapsulations, KeyOffer, Shares, Signed, sign
from primum.study import sign_study

LIAR = 1
Change = Callable[[Order, Any, Any], Reply | None]


def changed(envelope: Signed, kind: type[Any], identity: Any, **fields: Any) -> Signed:
    return sign(identity, msgspec.structs.replace(wire.decode(envelope.body, kind, "x"), **fields))


def no_key(order: Order, reply: Any, identity: Any) -> Reply | None:
    if isinstance(order, KeysOrder):
        return Answer(changed(reply.message, KeyOffer, identity, x25519=bytes(32)))
    return None


def other_hashes(order: Order, reply: Any, identity: Any) -> Reply | None:
    if isinstance(order, PairOrder):
        lie = changed(reply.message.statement, Encapsulations, identity, hashes=((1, bytes(32)),))
        return PairAnswer(Encapsulated(lie, reply.message.ciphertexts))
    return None


def no_commitments(order: Order, reply: Any, identity: Any) -> Reply | None:
    if isinstance(order, DealOrder):
        return Answer(changed(reply.message, Deal, identity, commitments=()))
    return None


def false_commitments(order: Order, reply: Any, identity: Any) -> Reply | None:
    if isinstance(order, DealOrder):
        own = wire.decode(reply.message.body, Deal, "x").commitments
        return Answer(changed(reply.message, Deal, identity, commitments=tuple((p, bytes(16)) for p, _ in own)))
    return None


def unsigned_shares(order: Order, reply: Any, identity: Any) -> Reply | None:
    if isinstance(order, UnmaskOrder) and isinstance(reply, OpeningAnswer):
        shares = msgspec.structs.replace(reply.opening.shares, signature=bytes(64))
        return OpeningAnswer(msgspec.structs.replace(reply.opening, shares=shares))
    return None


def wrong_shares(order: Order, reply: Any, identity: Any) -> Reply | None:
    if isinstance(order, UnmaskOrder) and isinstance(reply, OpeningAnswer):
        own = wire.decode(reply.opening.shares.body, Shares, "x").self_keys
        lie = changed(reply.opening.shares, Shares, identity, self_keys=tuple((p, bytes(32)) for p, _ in own))
        return OpeningAnswer(msgspec.structs.replace(reply.opening, shares=lie))
    return None


@pytest.mark.parametrize(
    ("lie", "participants"),
    [
        (no_key, 3),
        (other_hashes, 3),
        (no_commitments, 3),
        (false_commitments, 3),
        (unsigned_shares, 4),
        (wrong_shares, 4),
    ],
)
def test_a_member_that_lies_is_named_and_the_others_learn_their_model(
    four: World, lie: Change, participants: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without its shares the sum is still right, its vector included; without its keys it cannot take part."""
    monkeypatch.setattr(rounds, "_RETRY_PAUSE", 0.01)
    identity = four.hospitals[LIAR].identity

    def spoil(place: int, order: Order, answer: bytes) -> bytes | None:
        if place != LIAR:
            return answer
        tagged = wire.decode(wire.decode(answer, Signed, "x").body, Tagged, "x")
        new = lie(order, wire.decode_one_of(tagged.body, get_args(Reply), "x"), identity)
        return answer if new is None else wire.encode(sign(identity, Tagged(tagged.number, wire.encode(new))))

    four.wires.spoil = spoil
    run = four.train(make_study(four.members, rounds=3, may_vanish=1))
    lines = run.lines("metrics.jsonl")
    assert len(lines) == 3, "no step of the budget was burnt"
    assert not [line for line in run.lines("attempts.jsonl") if line["charged"]]
    assert lines[-1]["participants"] == participants
    assert any(f"hospital {LIAR}" in text for text in four.said), four.said


class TwoStudies(Wires):
    """A coordinator that puts another study before hospital 1 than before the others, under one run."""

    other: Any = None

    def __call__(self, orders: Any, deadline: float) -> Replies:
        told = {
            place: StudyOrder(order.run, self.other) if place == 1 and isinstance(order, StudyOrder) else order
            for place, order in orders.items()
        }
        return super().__call__(told, deadline)


def test_hospitals_that_were_shown_different_studies_share_no_round(four: World) -> None:
    """Else one that was promised epsilon 1 would rely on noise that the others never add."""
    strong = {"epsilon": 1.0, "noise_multiplier": 6.0, "evaluation_noise_multiplier": 8.0, "looks": 0}
    wires = TwoStudies(four.coordinator, four.hospitals)
    wires.other = sign_study(make_study(four.members, rounds=1, may_vanish=1, privacy=strong), four.scientist)
    four.wires = wires
    run = four.train(make_study(four.members, rounds=1, may_vanish=1, privacy={"looks": 0}))
    assert [line["participants"] for line in run.lines("metrics.jsonl")] == [3]
    assert not [message for place, message in wires.of(PairAnswer) if place == 1]
