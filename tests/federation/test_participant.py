"""A hospital's side: what must hold before anything that depends on the data leaves."""

import io
from typing import get_args

import pytest
from tests.federation.playing import World, make_study

from primum import wire
from primum.errors import PeerError
from primum.federation.messages import Consent, EndOrder, Failure, KeysOrder, Order, Reply, StudyOrder, Tagged
from primum.keys.identity import Identity
from primum.secagg.messages import Signed, open_signed, sign
from primum.study import SignedStudy, sign_study

RUN = b"r" * 16


def put(world: World, order: Order, number: int, signer: Identity | None = None) -> Reply:
    """One order to hospital 1; its opened answer."""
    hospital = world.hospitals[1]
    answer = hospital.process.answer(wire.encode(sign(signer or world.coordinator, Tagged(number, wire.encode(order)))))
    envelope = wire.decode(answer, Signed, "a test")
    tagged = open_signed(envelope, Tagged, hospital.identity.public, "a test")
    assert tagged.number == number
    reply: Reply = wire.decode_one_of(tagged.body, get_args(Reply), "a test")
    return reply


def order_of(world: World) -> StudyOrder:
    return StudyOrder(RUN, sign_study(make_study(world.members), world.scientist))


def test_a_study_within_the_policy_is_agreed_to(three: World) -> None:
    reply = put(three, order_of(three), 1)
    assert isinstance(reply, Consent)
    assert (reply.answer, reply.pinned) == ("yes", True)


def test_an_order_that_was_played_before_is_not_answered(three: World) -> None:
    put(three, order_of(three), 5)
    for number in (5, 4):
        with pytest.raises(PeerError, match="played before"):
            put(three, order_of(three), number)


def test_an_order_of_somebody_else_is_not_answered(three: World) -> None:
    with pytest.raises(PeerError, match="signed by somebody else"):
        put(three, order_of(three), 1, Identity.generate())


def test_a_study_that_was_altered_on_its_way_is_refused(three: World) -> None:
    good = order_of(three).study
    altered = SignedStudy(good.text.replace("epsilon = 3.0", "epsilon = 3.5"), good.asker, good.signature)
    reply = put(three, StudyOrder(RUN, altered), 1)
    assert isinstance(reply, Failure)
    assert "signature of the scientist" in reply.message


def test_a_hospital_that_the_study_does_not_name_says_only_that(three: World) -> None:
    others = [*three.members[1:], Identity.generate().public]
    reply = put(three, StudyOrder(RUN, sign_study(make_study(others), three.scientist)), 1)
    assert isinstance(reply, Failure)
    assert reply.message == "This hospital is not a member of the study."


def test_without_policy_and_terminal_the_answer_is_no(three: World, monkeypatch: pytest.MonkeyPatch) -> None:
    (three.hospitals[1].state.folder / "policy.toml").unlink()
    monkeypatch.setattr("sys.stdin", io.StringIO())
    reply = put(three, order_of(three), 1)
    assert isinstance(reply, Consent)
    assert reply.answer == "no"
    assert "no terminal" in reply.reason


def test_a_session_before_a_study_is_refused(three: World) -> None:
    reply = put(three, KeysOrder(RUN, 1, 1), 1)
    assert isinstance(reply, Failure)
    assert "was not put before this hospital" in reply.message


def test_after_the_end_nothing_goes_on(three: World) -> None:
    put(three, order_of(three), 1)
    put(three, EndOrder(RUN, "finished"), 2)
    assert isinstance(put(three, KeysOrder(RUN, 1, 1), 3), Failure)


def test_another_share_of_evaluation_patients_is_refused(three: World) -> None:
    put(three, order_of(three), 1)
    study = make_study(three.members, privacy={"evaluation_share": 0.4})
    reply = put(three, StudyOrder(b"s" * 16, sign_study(study, three.scientist)), 2)
    assert isinstance(reply, Failure)
    assert "aside for evaluation for ever" in reply.message


def test_a_folder_of_other_classes_is_told_as_that_and_without_their_names(three: World) -> None:
    study = make_study(three.members)
    about = study.study.model_copy(update={"classes": ("cat", "dog")})
    signed = sign_study(study.model_copy(update={"study": about}), three.scientist)
    reply = put(three, StudyOrder(RUN, signed), 1)
    reply = reply if isinstance(reply, Failure) else put(three, KeysOrder(RUN, 1, 1), 2)
    assert isinstance(reply, Failure) and reply.error == "OtherClasses"
    assert not {"clear", "shadow", "images/"} & set(f"{reply.message} {reply.hint}".split())
    said = " ".join(three.hospitals[1].said)
    assert "no folder for class cat and none for class dog" in said and "clear, shadow" in said
