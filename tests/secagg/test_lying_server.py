"""A server that lies, played against real nodes: each lie is refused by the node, by name."""

from collections.abc import Callable

import networkx
import numpy as np
import pytest
from tests.secagg.playing import MODEL, RUN, Federation

from primum import wire
from primum.errors import PeerError, StudyError
from primum.keys.identity import Identity
from primum.secagg import MaskedVector, Setup, Signed
from primum.secagg.messages import Context, RoundStart, UnmaskRequest, sign

Build = Callable[..., Federation]


def started(
    build: Build, n: int = 4, may_vanish: int = 1, model: bytes = MODEL
) -> tuple[Federation, dict[int, MaskedVector]]:
    built = build(n, may_vanish=may_vanish)
    built.begin()
    sent = {}
    for place, message in built.server.start(model, built.shape).items():
        built.nodes[place].start(message)
        sent[place] = built.nodes[place].mask(np.arange(8), 24)
        built.server.take_vector(place, sent[place])
    return built, sent


def ask(built: Federation, sent: dict[int, MaskedVector], included: tuple[int, ...], **changed: object) -> Signed:
    fields = {
        "context": Context(RUN, 1, 1),
        "included": included,
        "statements": tuple(sent[place].statement for place in included if place in sent),
    }
    return sign(built.coordinator, UnmaskRequest(**{**fields, **changed}))


def test_shares_twice(federation: Build) -> None:
    built, sent = started(federation)
    built.nodes[1].open(ask(built, sent, (1, 2, 3, 4)))
    with pytest.raises(PeerError, match="when this node is dealt"):
        built.nodes[1].open(ask(built, sent, (1, 2, 3)))


@pytest.mark.parametrize(
    ("included", "says"),
    [
        ((2, 3, 4), "without this node"),
        ((1, 2), "2 of 4"),
        ((1, 2, 3, 9), "not participants"),
        ((1, 1, 2, 3), "not participants"),
    ],
)
def test_a_wrong_set(federation: Build, included: tuple[int, ...], says: str) -> None:
    built, sent = started(federation)
    statements = tuple(sent[place].statement for place in set(included) & set(sent))
    with pytest.raises(PeerError, match=says):
        built.nodes[1].open(ask(built, sent, included, statements=statements))


def test_a_set_whose_vectors_were_not_signed(federation: Build) -> None:
    built, sent = started(federation)
    with pytest.raises(PeerError, match="not those of the set"):
        built.nodes[1].open(ask(built, sent, (1, 2, 3, 4), statements=tuple(sent[p].statement for p in (1, 2, 3))))


def test_another_model_to_another_node(federation: Build) -> None:
    built = federation(3)
    built.begin()
    sent = {}
    for place, model in ((1, b"a" * 32), (2, b"b" * 32), (3, b"a" * 32)):
        built.nodes[place].start(built.server.start(model, built.shape)[place])
        sent[place] = built.nodes[place].mask(np.arange(8), 24)
    with pytest.raises(PeerError, match="member 2 was told other participants or another model"):
        built.nodes[1].open(ask(built, sent, (1, 2, 3)))


def test_other_participants_to_another_node(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    built.begin()
    messages = built.server.start(MODEL, built.shape)
    sent = {}
    for place, message in messages.items():
        start = wire.decode(message.body, RoundStart, "server")
        if place == 4:
            fewer = RoundStart(start.context, (1, 2, 4), start.model, tuple(s for s in start.shares if s[0] != 3))
            message = sign(built.coordinator, fewer)
        built.nodes[place].start(message)
        sent[place] = built.nodes[place].mask(np.arange(8), 24)
    with pytest.raises(PeerError, match="member 4 was told other participants"):
        built.nodes[1].open(ask(built, sent, (1, 2, 3, 4)))


def test_too_small_a_cohort(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    built.begin()
    start = wire.decode(built.server.start(MODEL, built.shape)[1].body, RoundStart, "server")
    small = RoundStart(start.context, (1, 2), start.model, start.shares)
    with pytest.raises(PeerError, match="2 of 4"):
        built.nodes[1].start(sign(built.coordinator, small))


def test_a_participant_without_its_share(federation: Build) -> None:
    built = federation(3)
    built.begin()
    start = wire.decode(built.server.start(MODEL, built.shape)[1].body, RoundStart, "server")
    missing = RoundStart(start.context, start.participants, start.model, start.shares[:1])
    with pytest.raises(PeerError, match="share of member 3"):
        built.nodes[1].start(sign(built.coordinator, missing))


def test_an_altered_share(federation: Build) -> None:
    built = federation(3)
    built.begin()
    start = wire.decode(built.server.start(MODEL, built.shape)[1].body, RoundStart, "server")
    place, sealed = start.shares[0]
    altered = ((place, sealed[:-1] + bytes([sealed[-1] ^ 1])), *start.shares[1:])
    with pytest.raises(PeerError, match="missing or altered"):
        built.nodes[1].start(
            sign(built.coordinator, RoundStart(start.context, start.participants, start.model, altered))
        )


def test_signed_by_somebody_else(federation: Build) -> None:
    built, sent = started(federation)
    built.coordinator = Identity.generate()
    with pytest.raises(PeerError, match="signed by somebody else"):
        built.nodes[1].open(ask(built, sent, (1, 2, 3, 4)))


def test_an_old_round_again(federation: Build) -> None:
    built = federation(3)
    built.begin()
    old = built.server.start(MODEL, built.shape)
    built.round({place: np.arange(8) for place in built.nodes})
    with pytest.raises(PeerError, match="round 1 came in session 1, round 2"):
        built.nodes[1].start(old[1])
    with pytest.raises(PeerError, match="round 1 again"):
        built.nodes[1].offer(2, 1)
    with pytest.raises(PeerError, match="replays session"):
        built.nodes[1].offer(1, 5)


def test_keys_shown_differently_do_not_agree(federation: Build) -> None:
    """A server in the middle that gives member 1 other keys of member 2 than member 3 sees."""
    built = federation(3)
    other = federation(3)
    built.server.begin_session(1, 1)
    offers = {place: node.offer(1, 1) for place, node in built.nodes.items()}
    forged = {**offers, 2: sign(other.identities[0], wire.decode(offers[2].body, type_of_offer(), "x"))}
    with pytest.raises(PeerError, match="not a member"):
        built.nodes[1].encapsulate(tuple(forged.values()))
    first = built.nodes[1].encapsulate(tuple(offers.values()))
    replayed = {**offers, 3: offers[3]}
    second = built.nodes[2].encapsulate(tuple(replayed.values()))
    third = built.nodes[3].encapsulate(tuple(offers.values()))
    built.nodes[3].deal((first, second, third))  # the same story: fine
    again = federation(3)
    again.server.begin_session(1, 1)
    theirs = {place: node.offer(1, 1) for place, node in again.nodes.items()}
    messages = {place: node.encapsulate(tuple(theirs.values())) for place, node in again.nodes.items()}
    statement = wire.decode(messages[2].body, type_of_encapsulations(), "x")
    lie = type(statement)(statement.context, b"\0" * 32, statement.ciphertexts)
    with pytest.raises(PeerError, match="member 2 was shown other keys"):
        again.nodes[1].deal((messages[1], sign(again.identities[1], lie), messages[3]))


def type_of_offer() -> type:
    from primum.secagg.messages import KeyOffer

    return KeyOffer


def type_of_encapsulations() -> type:
    from primum.secagg.messages import Encapsulations

    return Encapsulations


def most_excluded(h: int, d: int, backers: int) -> int:
    """How many honest nodes a server can have left out, found by maximum flow.

    Leaving a node out opens its list: `backers` other honest nodes must have been told a set without it. A node is told
    one set, which holds itself and misses at most d members.
    """
    for count in range(h, 0, -1):
        graph = networkx.DiGraph()
        for left_out in range(count):
            graph.add_edge("start", ("out", left_out), capacity=backers)
            for told in range(h):
                if told != left_out:
                    graph.add_edge(("out", left_out), ("told", told), capacity=1)
        for told in range(h):
            graph.add_edge(("told", told), "end", capacity=d)
        if networkx.maximum_flow_value(graph, "start", "end") == count * backers:
            return count
    return 0


def test_k_min_is_never_more_than_a_lying_server_leaves() -> None:
    checked = 0
    for n in range(3, 11):
        for c in range(n):
            for d in range(n):
                try:
                    setup = Setup(n, c, d)
                except StudyError:
                    continue
                left = n - c - most_excluded(n - c, d, setup.threshold - c)
                assert setup.k_min <= left, (n, c, d)
                checked += 1
    assert checked > 30


@pytest.mark.parametrize(("n", "c", "d"), [(2, 0, 0), (3, 1, 1), (4, 1, 2), (3, 2, 0), (129, 1, 0), (5, 4, 0)])
def test_unsafe_set_ups_are_refused(n: int, c: int, d: int) -> None:
    with pytest.raises(StudyError):
        Setup(n, c, d)


def test_nothing_secret_prints(federation: Build) -> None:
    built, sent = started(federation)
    printed = repr(built.nodes[1]) + repr(sent[1]) + repr(built.server) + repr(built.identities[0])
    assert "0x" in printed or "MaskedVector()" in printed
    assert repr(sent[1]) == "MaskedVector()"
    assert sent[1].vector.hex()[:16] not in printed
