"""A member that lies, and messages that were mutated: a named error or an exact sum, never anything else."""

from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.secagg.playing import MODEL, RUN, Federation, build

from primum import wire
from primum.errors import PeerError, Unavailable
from primum.secagg import Blame, Encapsulated, MaskedVector, Opening, Signed, masks
from primum.secagg import deal as dealing
from primum.secagg.messages import (
    Confirmation,
    ConfirmRequest,
    Context,
    Deal,
    Encapsulations,
    KeyOffer,
    RoundStart,
    Settlement,
    Shares,
    UnmaskRequest,
    VectorStatement,
    sign,
)

Build = Callable[..., Federation]
BITS = 20


def opened(envelope: Signed, kind: type[Any]) -> Any:
    return wire.decode(envelope.body, kind, "x")


def relying(built: Federation, place: int, message: wire.Message) -> Signed:
    """`message` as the member at `place` would sign it: a lie of its own."""
    return sign(built.identities[place - 1], message)


# -- lies that the server names --------------------------------------------------------------------------------------


def started(build_: Build, n: int = 4, may_vanish: int = 1) -> tuple[Federation, dict[int, Signed]]:
    built = build_(n, may_vanish=may_vanish, bits=BITS)
    built.begin()
    return built, built.server.start(MODEL, built.shape)


def test_a_commitment_that_does_not_match_names_the_pair(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    built.begin()
    deal = built.server._deals[2]
    lies = tuple((place, bytes(16) if place == 3 else data) for place, data in deal.commitments)
    built.server.take_deal(2, relying(built, 2, msgspec.structs.replace(deal, commitments=lies)))
    with pytest.raises(PeerError, match="Members 2 and 3 do not hold the same round key"):
        built.server.start(MODEL, built.shape)
    left_out = msgspec.structs.replace(deal, commitments=deal.commitments[1:])
    with pytest.raises(Blame, match="member 2 dealt for the wrong members") as caught:
        built.server.take_deal(2, relying(built, 2, left_out))
    assert caught.value.places == (2,)
    for changed in ({"sealed_list": deal.sealed_list[1:]}, {"shares": ((1, b""), *deal.shares[1:])}):
        with pytest.raises(Blame, match="member 2 dealt shares of a wrong length"):
            built.server.take_deal(2, relying(built, 2, msgspec.structs.replace(deal, **changed)))


def test_ciphertexts_for_the_wrong_members(federation: Build) -> None:
    built = federation(3)
    built.server.begin_session(1, 1)
    for place, node in built.nodes.items():
        built.server.take_offer(place, node.offer(1, 1))
    message = built.nodes[1].encapsulate(built.server.offers())
    with pytest.raises(PeerError, match="member 1 sent ciphertexts for the wrong members"):
        built.server.take_encapsulated(1, Encapsulated(message.statement, message.ciphertexts[:1]))
    statement = opened(message.statement, Encapsulations)
    fewer = relying(built, 1, msgspec.structs.replace(statement, hashes=statement.hashes[:1]))
    with pytest.raises(PeerError, match="wrong members"):
        built.server.take_encapsulated(1, Encapsulated(fewer, message.ciphertexts))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"participants": bytes(32)}, "other participants or another model"),
        ({"model": bytes(32)}, "other participants or another model"),
        ({"vector": bytes(32)}, "another vector than it signed"),
        ({"context": Context(RUN, 1, 2)}, "round 2 came in session 1, round 1"),
        ({"context": Context(RUN, 2, 1)}, "session 2"),
        ({"context": Context(b"x" * 16, 1, 1)}, "another run"),
    ],
)
def test_statements_that_do_not_fit(federation: Build, changed: dict[str, Any], says: str) -> None:
    built, starts = started(federation)
    built.nodes[1].start(starts[1])
    masked = built.nodes[1].mask(np.arange(8), BITS)
    lie = msgspec.structs.replace(opened(masked.statement, VectorStatement), **changed)
    with pytest.raises(PeerError, match=says):
        built.server.take_vector(1, MaskedVector(relying(built, 1, lie), masked.vector))


@pytest.mark.parametrize("change", ["longer", "shorter", "padding"])
def test_vectors_of_another_length(federation: Build, change: str) -> None:
    built = federation(4, may_vanish=1, length=7, bits=9)
    built.begin()
    built.nodes[1].start(built.server.start(MODEL, built.shape)[1])
    masked = built.nodes[1].mask(np.zeros(7, int), 9)
    vector = {
        "longer": bytes(masked.vector) + b"\0",
        "shorter": masked.vector[:-1],
        "padding": bytes(masked.vector[:-1]) + bytes([masked.vector[-1] | 0x80]),
    }[change]
    statement = opened(masked.statement, VectorStatement)
    lie = msgspec.structs.replace(statement, vector=masks.vector_digest(vector))
    with pytest.raises(PeerError, match="member 1 sent a vector of a wrong length"):
        built.server.take_vector(1, MaskedVector(relying(built, 1, lie), vector))


def test_a_vector_of_somebody_outside_the_round(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    built.begin(absent=[4])
    built.server.start(MODEL, built.shape)
    statement = VectorStatement(Context(RUN, 1, 1), bytes(32), MODEL, bytes(32))
    with pytest.raises(PeerError, match="member 4 is not in round 1"):
        built.server.take_vector(4, MaskedVector(relying(built, 4, statement), b""))


def one_round(built: Federation, vanish: tuple[int, ...] = ()) -> dict[int, Opening]:
    """A round up to the openings, with vectors of ones."""
    for place, message in built.server.start(MODEL, built.shape).items():
        if place not in vanish:
            built.nodes[place].start(message)
            built.server.take_vector(place, built.nodes[place].mask(np.ones(8, int), BITS))
    request = built.server.request()
    return {place: node.open(request) for place, node in built.nodes.items() if place not in vanish}


def with_shares(built: Federation, place: int, opening: Opening, **changed: Any) -> Opening:
    lie = msgspec.structs.replace(opened(opening.shares, Shares), **changed)
    return Opening(relying(built, place, lie), opening.settlement, opening.next_deal)


def test_one_wrong_share_is_found_by_trying_another_subset(federation: Build) -> None:
    built = federation(5, may_vanish=1, bits=BITS)
    built.begin()
    openings = one_round(built)
    own = opened(openings[1].shares, Shares)
    wrong = tuple((place, bytes(32)) for place, _ in own.self_keys)
    openings[1] = with_shares(built, 1, openings[1], self_keys=wrong)
    assert built.server.finish(openings).total.tolist() == [5] * 8


def test_shares_that_are_left_out_or_too_short_do_not_count(federation: Build) -> None:
    built = federation(5, may_vanish=1, bits=BITS)
    built.begin()
    openings = one_round(built)
    openings[1] = with_shares(built, 1, openings[1], self_keys=((1, b"short"),))
    assert built.server.finish(openings).total.tolist() == [5] * 8


def test_too_many_wrong_shares_are_an_error_that_names_the_key(federation: Build) -> None:
    built = federation(5, may_vanish=1, bits=BITS)
    built.begin()
    openings = one_round(built)
    for liar in (1, 2):
        own = opened(openings[liar].shares, Shares)
        wrong = tuple((place, bytes(32)) for place, _ in own.self_keys)
        openings[liar] = with_shares(built, liar, openings[liar], self_keys=wrong)
    with pytest.raises(PeerError, match="The self key of member 1 cannot be opened from 5 shares"):
        built.server.finish(openings)


def test_too_few_shares_are_unavailable(federation: Build) -> None:
    built = federation(5, may_vanish=1, bits=BITS)
    built.begin()
    openings = one_round(built)
    with pytest.raises(Unavailable, match="3 hospitals gave shares of member 1, 4 are needed"):
        built.server.finish({place: openings[place] for place in (1, 2, 3)})


@pytest.mark.parametrize("lie", ["sealed", "keys"])
def test_a_false_list_of_somebody_who_vanished(federation: Build, lie: str) -> None:
    """A member leaves a list that does not open, or with other keys, and vanishes: named when it is opened."""
    built = federation(5, may_vanish=1, bits=BITS)
    key, secret = b"k" * 32, b"s" * 32
    original = dealing.make

    def false_deal(context: Any, place: int, secrets: Any, positions: Any, threshold: int, stream: Any) -> Any:
        deal, kept = original(context, place, secrets, positions, threshold, stream)
        if place != 2:
            return deal, kept
        pieces = dealing.shamir.share(secret + key, sorted(positions.values()), threshold, stream)
        sealed = tuple(
            (
                other,
                dealing._seal(
                    masks.share_key(secrets[other], 1, 2, other), pieces[positions[other]], context, 2, other
                ),
            )
            for other in sorted(secrets)
        )
        false = {other: bytes(32) for other in secrets}
        data = {
            "sealed": bytes(len(deal.sealed_list)),
            "keys": dealing._seal(key, dealing._pack_list(false), context, 2, 0),
        }[lie]
        changed = msgspec.structs.replace(
            deal, shares=sealed, sealed_list=data, list_key_hash=masks.key_hash(key, "list")
        )
        return changed, kept

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dealing, "make", false_deal)
        built.begin()
    openings = one_round(built, vanish=(2,))
    with pytest.raises(PeerError, match=r"member 2 left a (list that cannot be read|false list of round keys)"):
        built.server.finish(openings)


def test_a_share_of_a_wrong_length_inside_its_seal(federation: Build) -> None:
    built = federation(3)
    built.begin()
    deal = built.server._deals[2]
    round_ = built.nodes[1]._round
    assert round_ is not None
    sealed = dealing._seal(round_.secrets.share_keys[2], b"short", deal.context, 2, 1)
    start = opened(built.server.start(MODEL, built.shape)[1], RoundStart)
    shares = tuple((place, sealed if place == 2 else data) for place, data in start.shares)
    with pytest.raises(PeerError, match="share of member 2 has a wrong length"):
        built.nodes[1].start(sign(built.coordinator, msgspec.structs.replace(start, shares=shares)))


def test_two_wrong_shares_among_many_are_found_and_named(federation: Build) -> None:
    """Where leaving out every pair would take too long."""
    built = federation(60, colluding=2, may_vanish=5, length=8, bits=BITS)
    built.begin()
    openings = one_round(built)
    for liar in (20, 21):
        own = opened(openings[liar].shares, Shares)
        wrong = tuple((place, bytes(32)) for place, _ in own.self_keys)
        openings[liar] = with_shares(built, liar, openings[liar], self_keys=wrong)
    result = built.server.finish(openings)
    assert result.total.tolist() == [60] * 8
    assert result.liars == (20, 21)


def test_an_opening_that_its_member_did_not_sign_is_not_needed(federation: Build) -> None:
    built = federation(5, may_vanish=1, bits=BITS)
    built.begin()
    openings = one_round(built)
    shares = openings[3].shares
    unsigned = Signed(shares.body, shares.signer, bytes(64))
    openings[3] = Opening(unsigned, openings[3].settlement, openings[3].next_deal)
    result = built.server.finish(openings)
    assert result.total.tolist() == [5] * 8
    assert result.liars == (3,)


def test_keys_that_are_none_are_refused_at_once_and_not_blamed_on_others(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    built.server.begin_session(1, 1)
    offer = opened(built.nodes[4].offer(1, 1), KeyOffer)
    for changed in ({"x25519": bytes(32)}, {"mlkem": b"short"}, {"x25519": b""}):
        with pytest.raises(PeerError, match="member 4 sent an"):
            built.server.take_offer(4, relying(built, 4, msgspec.structs.replace(offer, **changed)))
    with pytest.raises(Blame, match="commitment of a wrong length"):
        built.server.take_offer(4, relying(built, 4, msgspec.structs.replace(offer, commitment=b"x")))


def test_a_vector_after_the_set_is_named_comes_too_late(federation: Build) -> None:
    built = federation(4, may_vanish=1, bits=BITS)
    built.begin()
    late = None
    for place, message in built.server.start(MODEL, built.shape).items():
        built.nodes[place].start(message)
        masked = built.nodes[place].mask(np.ones(8, int), BITS)
        if place == 4:
            late = masked
        else:
            built.server.take_vector(place, masked)
    request = built.server.request()
    assert late is not None
    with pytest.raises(PeerError, match="member 4 came too late"):
        built.server.take_vector(4, late)
    openings = {place: built.nodes[place].open(request) for place in (1, 2, 3)}
    assert built.server.finish(openings).total.tolist() == [3] * 8


def test_a_second_vector_is_not_added(federation: Build) -> None:
    built, starts = started(federation)
    built.nodes[1].start(starts[1])
    masked = built.nodes[1].mask(np.arange(8), BITS)
    built.server.take_vector(1, masked)
    with pytest.raises(PeerError, match="member 1 sent a second vector"):
        built.server.take_vector(1, masked)


@pytest.mark.parametrize("what", ["next_deal", "settlement"])
def test_who_deals_for_another_round_is_not_in_the_next_one(federation: Build, what: str) -> None:
    built = federation(4, may_vanish=1, bits=BITS)
    built.begin()
    openings = one_round(built)
    body = {
        "next_deal": lambda: msgspec.structs.replace(opened(openings[2].next_deal, Deal), context=Context(RUN, 1, 9)),
        "settlement": lambda: Settlement(Context(RUN, 1, 9), (1, 2, 3, 4)),
    }[what]()
    openings[2] = msgspec.structs.replace(openings[2], **{what: relying(built, 2, body)})
    assert built.server.finish(openings).total.tolist() == [4] * 8
    assert built.server.dealt == (1, 3, 4)
    assert len(built.server.settlements) == 3


# -- mutations: every field of every message, signed by whoever may sign it ----------------------------------------


def mutations(message: Any, draw: st.DrawFn) -> Any:
    """`message` with one field changed: a number, some bytes, an entry of a list."""
    fields = message.__struct_fields__
    name = draw(st.sampled_from(fields))
    return msgspec.structs.replace(message, **{name: mutated(getattr(message, name), draw)})


def mutated(value: Any, draw: st.DrawFn) -> Any:
    if isinstance(value, int):
        return draw(st.integers(-2, 2**40))
    if isinstance(value, bytes):
        kind = draw(st.sampled_from(["flip", "cut", "grow", "random"]))
        if kind == "flip" and value:
            at = draw(st.integers(0, len(value) - 1))
            return value[:at] + bytes([value[at] ^ draw(st.integers(1, 255))]) + value[at + 1 :]
        return {"cut": value[:-1], "grow": value + b"\0"}.get(kind, draw(st.binary(max_size=70)))
    if isinstance(value, tuple):
        kind = draw(st.sampled_from(["drop", "double", "swap", "inside"]))
        at = draw(st.integers(0, len(value) - 1)) if value else 0
        if not value or kind == "drop":
            return value[:at] + value[at + 1 :]
        if kind == "double":
            return value + value[at : at + 1]
        if kind == "swap":
            return value[::-1]
        return (*value[:at], mutated(value[at], draw), *value[at + 1 :])
    return mutations(value, draw)


def conversation(built: Federation, draw: st.DrawFn, stage: str) -> Iterator[str]:
    """One session and round in which one message of `stage` is mutated by its own signer; yields the stages passed."""
    victim = draw(st.sampled_from(sorted(built.nodes)))

    def said(kind: type[Any], envelope: Signed, place: int | None) -> Signed:
        if kind.__name__ != stage or place not in (None, victim):
            return envelope
        signer = built.coordinator if place is None else built.identities[place - 1]
        return sign(signer, mutations(opened(envelope, kind), draw))

    nodes, server = built.nodes, built.server
    server.begin_session(1, 1)
    for place, node in nodes.items():
        server.take_offer(place, said(KeyOffer, node.offer(1, 1), place))
    shown = server.offers()
    for place, node in nodes.items():
        message = node.encapsulate(shown)
        server.take_encapsulated(
            place, Encapsulated(said(Encapsulations, message.statement, place), message.ciphertexts)
        )
    for place, node in nodes.items():
        server.take_deal(place, said(Deal, node.deal(server.encapsulated_for(place)), place))
    yield "session"
    vectors = {place: np.arange(8) * place for place in nodes}
    for place, start in server.start(MODEL, built.shape).items():
        if place == victim and stage == "RoundStart":
            start = said(RoundStart, start, None)
        nodes[place].start(start)
        masked = nodes[place].mask(vectors[place], BITS)
        server.take_vector(place, MaskedVector(said(VectorStatement, masked.statement, place), masked.vector))
    if built.setup.confirms:
        asked = server.confirm()
        for place, node in nodes.items():
            request = said(ConfirmRequest, asked, None) if place == victim else asked
            server.take_confirmation(place, said(Confirmation, node.confirm(request), place))
    request = server.request()
    openings = {}
    for place, node in nodes.items():
        opening = node.open(said(UnmaskRequest, request, None) if place == victim else request)
        openings[place] = Opening(
            said(Shares, opening.shares, place),
            said(Settlement, opening.settlement, place),
            opening.next_deal,
        )
    result = server.finish(openings)
    assert np.array_equal(result.total, sum(vectors[place] for place in result.included))
    yield "round"


STAGES = (
    "KeyOffer", "Encapsulations", "Deal", "RoundStart", "VectorStatement", "ConfirmRequest", "Confirmation",
    "UnmaskRequest", "Shares", "Settlement",
)  # fmt: skip


@settings(max_examples=250, deadline=None)
@given(st.data(), st.sampled_from(STAGES), st.booleans())
def test_a_mutated_message_gives_a_named_error_or_an_exact_sum(data: st.DataObject, stage: str, six: bool) -> None:
    built = build(6 if six else 4, may_vanish=2 if six else 1, bits=BITS)
    try:
        list(conversation(built, data.draw, stage))
    except (PeerError, Unavailable) as error:
        assert error.message
        assert error.hint
