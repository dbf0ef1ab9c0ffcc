"""A server that lies, played against real nodes: each lie is refused by the node, by name."""

from collections.abc import Callable

import networkx
import numpy as np
import pytest
from tests.secagg.playing import MODEL, RUN, Federation

from primum import wire
from primum.errors import PeerError, StudyError, Unavailable
from primum.keys.identity import Identity
from primum.secagg import Encapsulated, MaskedVector, Node, Setup, Signed
from primum.secagg.messages import Confirmation, ConfirmRequest, Context, KeyOffer, RoundStart, UnmaskRequest, sign

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
        "evidence": tuple(sent[place].statement for place in included if place in sent),
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
        built.nodes[1].open(ask(built, sent, included, evidence=statements))


def test_a_set_whose_vectors_were_not_signed(federation: Build) -> None:
    built, sent = started(federation)
    with pytest.raises(PeerError, match="not those of the set"):
        built.nodes[1].open(ask(built, sent, (1, 2, 3, 4), evidence=tuple(sent[p].statement for p in (1, 2, 3))))


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


def offered(built: Federation) -> dict[int, Signed]:
    built.server.begin_session(1, 1)
    offers = {place: node.offer(1, 1) for place, node in built.nodes.items()}
    for place, offer in offers.items():
        built.server.take_offer(place, offer)
    return offers


def test_keys_of_somebody_who_is_no_member(federation: Build) -> None:
    built, stranger = federation(3), Identity.generate()
    offers = offered(built)
    forged = sign(stranger, wire.decode(offers[2].body, KeyOffer, "x"))
    with pytest.raises(PeerError, match="not a member"):
        built.nodes[1].encapsulate((offers[1], forged, offers[3]))


def test_keys_signed_for_somebody_else(federation: Build) -> None:
    """The server puts keys of its own under member 2's name."""
    built = federation(3)
    offers = offered(built)
    keys = wire.decode(offers[3].body, KeyOffer, "x")
    forged = Signed(wire.encode(keys), offers[2].signer, offers[2].signature)
    with pytest.raises(PeerError, match="signature of member 2"):
        built.nodes[1].encapsulate((offers[1], forged, offers[3]))


def test_this_nodes_own_keys_changed(federation: Build) -> None:
    """The server shows a node an offer that its own identity signed, but in another process."""
    built = federation(3)
    offers = offered(built)
    twin = Node(built.identities[0], built.nodes[1].members, built.coordinator.public, RUN, built.setup, 0)
    with pytest.raises(PeerError, match="changed this node's own keys"):
        built.nodes[1].encapsulate((twin.offer(1, 1), offers[2], offers[3]))


def test_pair_secrets_depend_on_all_that_was_shown(federation: Build) -> None:
    """Also where nobody compares digests, two stories give two secrets."""
    built = federation(3)
    built.begin()
    session = built.nodes[1]._session
    assert session is not None
    agreed = session._pair_secret(b"raw", 2)
    assert agreed == session._pair_secret(b"raw", 2) != session._pair_secret(b"raw", 3)
    session._story = bytes(32)
    assert session._pair_secret(b"raw", 2) != agreed


def test_two_stories_about_the_keys(federation: Build) -> None:
    """Member 2 runs two processes, the server shows each hospital another one: whoever compares sees it."""
    built = federation(3)
    offers = offered(built)
    twin = Node(built.identities[1], built.nodes[1].members, built.coordinator.public, RUN, built.setup, 0)
    other = {**offers, 2: twin.offer(1, 1)}
    first = built.nodes[1].encapsulate(tuple(offers.values()))
    twin.encapsulate(tuple(other.values()))
    built.nodes[3].encapsulate(tuple(other.values()))
    second = twin  # the story of member 2 is the other one
    with pytest.raises(PeerError, match="member 1 was shown other keys"):
        second.deal((first,))


def test_a_session_without_this_node_or_with_too_few(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    offers = offered(built)
    with pytest.raises(PeerError, match="2 of 4"):
        built.nodes[1].encapsulate((offers[1], offers[2]))
    with pytest.raises(PeerError, match="this one among them"):
        built.nodes[1].encapsulate((offers[2], offers[3], offers[4]))
    with pytest.raises(PeerError, match="member 2 appears twice"):
        built.nodes[1].encapsulate((offers[1], offers[2], offers[2], offers[3]))


def test_ciphertexts_left_out_or_altered(federation: Build) -> None:
    built = federation(3)
    offered(built)
    offers = built.server.offers()
    for place, node in built.nodes.items():
        built.server.take_encapsulated(place, node.encapsulate(offers))
    received = built.server.encapsulated_for(3)
    with pytest.raises(PeerError, match="left out"):
        built.nodes[3].deal(received[:1])
    place, ciphertext = received[0].ciphertexts[0]
    altered = Encapsulated(received[0].statement, ((place, ciphertext[:-1] + bytes([ciphertext[-1] ^ 1])),))
    with pytest.raises(PeerError, match="ciphertext of member 1 was altered"):
        built.nodes[3].deal((altered, received[1]))
    with pytest.raises(PeerError, match="ciphertext of member 1 was altered"):
        built.nodes[3].deal((Encapsulated(received[0].statement, ()), received[1]))
    built.nodes[3].deal(received)


@pytest.mark.parametrize(
    ("session", "first_round"), [(0, 1), (1, 0), (-5, 1), (1, 2**63), (2**64 - 1, 1), (1, -(2**70))]
)
def test_impossible_numbers(federation: Build, session: int, first_round: int) -> None:
    with pytest.raises(PeerError, match="impossible session or round"):
        federation(3).nodes[1].offer(session, first_round)


def test_members_of_two_set_ups_share_no_secret(federation: Build) -> None:
    """A coordinator that tells one hospital of another may_vanish: its secrets fit nobody's."""
    built = federation(10, may_vanish=1)
    members = [identity.public for identity in built.identities]
    built.nodes[1] = Node(built.identities[0], members, built.coordinator.public, RUN, Setup(10, 1, 2), 0)
    built.begin()
    with pytest.raises(PeerError, match="Members 1 and 2 do not hold the same round key"):
        built.server.start(MODEL, built.shape)


def test_a_refused_message_leaves_the_session_as_it_was(federation: Build) -> None:
    """Member 3's keys are none: refused; without it the session is made as if nothing had been."""
    built = federation(4, may_vanish=1)
    offers = offered(built)
    broken = wire.decode(offers[3].body, KeyOffer, "x")
    broken = type(broken)(broken.context, broken.x25519, b"none", broken.commitment)
    forged = {**offers, 3: sign(built.identities[2], broken)}
    with pytest.raises(PeerError, match="member 3 sent an ML-KEM"):
        built.nodes[1].encapsulate(tuple(forged.values()))
    built.server.begin_session(1, 1)
    for place in (1, 2, 4):
        built.server.take_offer(place, offers[place])
    shown = built.server.offers()
    for place in (1, 2, 4):
        built.server.take_encapsulated(place, built.nodes[place].encapsulate(shown))
    for place in (1, 2, 4):
        built.server.take_deal(place, built.nodes[place].deal(built.server.encapsulated_for(place)))
    assert built.server.dealt == (1, 2, 4)


def test_a_run_replayed(federation: Build) -> None:
    """Messages of another run of the same members are refused, whatever their numbers."""
    built = federation(3)
    offers = offered(built)
    members = [identity.public for identity in built.identities]
    node = Node(built.identities[0], members, built.coordinator.public, b"another run" + bytes(5), built.setup, 0)
    own = node.offer(1, 1)
    with pytest.raises(PeerError, match="another run"):
        node.encapsulate((own, offers[2], offers[3]))


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
                if setup.confirms:
                    continue  # one set a round has a quorum: played below
                left = n - c - most_excluded(n - c, d, setup.threshold - c)
                assert setup.k_min <= left, (n, c, d)
                checked += 1
    assert checked > 30


@pytest.mark.parametrize(
    ("n", "c", "d"),
    [
        (2, 0, 0),
        (3, 1, 1),
        (4, 1, 2),
        (3, 2, 0),
        (2, 0, 0),
        (10_001, 1, 0),
        (200, 80, 80),
        (5, 4, 0),
        (3, 0, -1),
        (3, 0, 1),
    ],
)
def test_unsafe_set_ups_are_refused(n: int, c: int, d: int) -> None:
    with pytest.raises(StudyError):
        Setup(n, c, d)


# -- where a quorum signs the set: six members of whom two may vanish -----------------------------------------------


def masked(build: Build, n: int = 6, may_vanish: int = 2) -> Federation:
    built = build(n, may_vanish=may_vanish)
    assert built.setup.confirms
    built.begin()
    for place, message in built.server.start(MODEL, built.shape).items():
        built.nodes[place].start(message)
        built.server.take_vector(place, built.nodes[place].mask(np.arange(8), 24))
    return built


def confirm(built: Federation, included: tuple[int, ...]) -> Signed:
    return sign(built.coordinator, ConfirmRequest(Context(RUN, 1, 1), included))


def unmask(built: Federation, included: tuple[int, ...], evidence: tuple[Signed, ...]) -> Signed:
    return sign(built.coordinator, UnmaskRequest(Context(RUN, 1, 1), included, evidence))


EVERYBODY = (1, 2, 3, 4, 5, 6)


def test_no_shares_before_a_quorum(federation: Build) -> None:
    built = masked(federation)
    with pytest.raises(PeerError, match="when this node is masked"):
        built.nodes[1].open(unmask(built, EVERYBODY, ()))
    words = {place: built.nodes[place].confirm(confirm(built, EVERYBODY)) for place in EVERYBODY}
    with pytest.raises(PeerError, match="3 of the committee signed the set, 4 are needed"):
        built.nodes[1].open(unmask(built, EVERYBODY, (words[1], words[2], words[3])))
    with pytest.raises(PeerError, match="member 2 appears twice"):
        built.nodes[1].open(unmask(built, EVERYBODY, (words[1], words[2], words[2], words[3])))
    built.nodes[1].open(unmask(built, EVERYBODY, tuple(words[place] for place in (1, 2, 3, 4))))


def test_a_node_signs_one_set_a_round(federation: Build) -> None:
    built = masked(federation)
    built.nodes[1].confirm(confirm(built, EVERYBODY))
    with pytest.raises(PeerError, match="when this node is confirmed"):
        built.nodes[1].confirm(confirm(built, (1, 2, 3, 4)))


def test_two_sets_never_both_have_a_quorum(federation: Build) -> None:
    """Every way of telling six members one of two sets, the colluder signing both: at most one can be unmasked."""
    first, second = EVERYBODY, (1, 2, 3, 4)
    for told in range(2**5):
        signers = {first: {6}, second: {6}}  # member 6 colludes
        for place in range(1, 6):
            chosen = second if told >> (place - 1) & 1 else first
            if place in chosen:
                signers[chosen].add(place)
        assert sum(len(places) >= Setup(6, 1, 2).committee.needed for places in signers.values()) <= 1


def test_another_set_to_unmask_than_was_signed(federation: Build) -> None:
    built = masked(federation)
    words = tuple(built.nodes[place].confirm(confirm(built, (1, 2, 3, 4))) for place in (1, 2, 3, 4))
    with pytest.raises(PeerError, match="another set than it had signed"):
        built.nodes[1].open(unmask(built, EVERYBODY, words))


def test_words_of_members_that_were_told_something_else(federation: Build) -> None:
    built = masked(federation)
    words = [built.nodes[place].confirm(confirm(built, (1, 2, 3, 4))) for place in (1, 2, 3)]
    other = built.nodes[4].confirm(confirm(built, EVERYBODY))
    with pytest.raises(PeerError, match="member 4 was told another set"):
        built.nodes[1].open(unmask(built, (1, 2, 3, 4), (*words, other)))


def test_too_small_or_foreign_sets_are_not_signed(federation: Build) -> None:
    built = masked(federation)
    for included, says in (((1, 2, 3), "3 of 6"), ((2, 3, 4, 5), "without this node"), ((1, 2, 3, 9), "participants")):
        with pytest.raises(PeerError, match=says):
            built.nodes[1].confirm(confirm(built, included))


def test_the_server_refuses_a_word_on_another_set(federation: Build) -> None:
    built = masked(federation)
    asked = built.server.confirm()
    word = wire.decode(built.nodes[1].confirm(asked).body, Confirmation, "x")
    lie = Confirmation(word.context, word.participants, word.model, bytes(32))
    with pytest.raises(PeerError, match="member 1 confirmed another set"):
        built.server.take_confirmation(1, sign(built.identities[0], lie))
    with pytest.raises(Unavailable, match="0 of the committee"):
        built.server.request()


def test_participants_outside_the_session(federation: Build) -> None:
    built = federation(4, may_vanish=1)
    built.begin(absent=[4])
    start = wire.decode(built.server.start(MODEL, built.shape)[1].body, RoundStart, "server")
    more = RoundStart(start.context, (1, 2, 3, 4), start.model, start.shares)
    with pytest.raises(PeerError, match="participants outside the session"):
        built.nodes[1].start(sign(built.coordinator, more))


def test_a_list_of_members_that_is_not_the_studys(federation: Build) -> None:
    built = federation(3)
    members = [identity.public for identity in built.identities]
    for wrong in (members[:2], [*members, members[0]], [members[0], members[0], members[1]]):
        with pytest.raises(PeerError, match="The study names 3 members"):
            Node(built.identities[0], wrong, built.coordinator.public, RUN, built.setup, 0)
    with pytest.raises(PeerError, match="not a member"):
        Node(built.coordinator, members, built.coordinator.public, RUN, built.setup, 0)


def test_nothing_secret_prints(federation: Build) -> None:
    built, sent = started(federation)
    node = built.nodes[1]
    printed = " ".join(
        map(
            repr,
            (
                node,
                node._session,
                node._round,
                node._member,
                sent[1],
                built.server,
                built.server._sum,
                built.identities,
            ),
        )
    )
    assert node._session is not None
    assert node._round is not None
    secrets = node._round.secrets
    for secret in (secrets.self_key, *secrets.round_keys.values(), *node._session.secrets.values()):
        assert repr(secret) not in printed
        assert secret.hex() not in printed
    assert repr(sent[1]) == "MaskedVector()"
    assert repr(node) == "Node(member 1, masked)"
    assert repr(built.server) == "Server(session 1, round 1)"
    assert built.server.members == node.members
