"""More than 128 members: the graph that nobody could choose, sums over it, and who lies about it."""

import msgspec
import numpy as np
import pytest
from tests.secagg.playing import MODEL, RUN, Federation, build

from primum import wire
from primum.errors import PeerError, Unavailable
from primum.secagg import Node, Signed, graph, masks
from primum.secagg.messages import Context, KeyOffer, Reveal, UnmaskRequest, sign
from primum.secagg.setup import MOST_GRAPHS

N = 130


@pytest.fixture(scope="module")
def many() -> Federation:
    """130 members of whom 3 may collude and 4 vanish, before any session."""
    return build(N, colluding=3, may_vanish=4, bits=20)


class Numbers:
    """Sessions and rounds of the shared federation, each used once."""

    session = 0


def begin(built: Federation) -> tuple[int, int]:
    Numbers.session += 1
    first = max(node.used_round for node in built.nodes.values()) + 1
    built.begin(Numbers.session, first)
    return Numbers.session, first


def offered(built: Federation) -> dict[int, Signed]:
    Numbers.session += 1
    first = max(node.used_round for node in built.nodes.values()) + 1
    built.server.begin_session(Numbers.session, first)
    offers = {place: node.offer(Numbers.session, first) for place, node in built.nodes.items()}
    for place, offer in offers.items():
        built.server.take_offer(place, offer)
    built.server.offers()
    return offers


def test_sums_are_exact_whoever_vanishes_when(many: Federation) -> None:
    begin(many)
    draw = np.random.default_rng(5)
    vectors = {place: draw.integers(-3000, 3000, 8) for place in many.nodes}
    gone = {"vector": [3, 77], "confirmation": [20], "shares": [130]}
    result = many.round(vectors, gone["vector"], gone["shares"], gone["confirmation"])
    assert result.included == tuple(place for place in vectors if place not in gone["vector"])
    assert np.array_equal(result.total, sum(vectors[place] for place in result.included))
    again = many.round(vectors)
    assert set(again.included) == set(vectors) - {3, 77, 20, 130}
    assert np.array_equal(again.total, sum(vectors[place] for place in again.included))
    with pytest.raises(Unavailable, match="125 of 130"):
        many.round(vectors, [1])


def test_everybody_draws_the_same_graph_and_another_one_each_session(many: Federation) -> None:
    begin(many)
    graphs = {node._session.graph for node in many.nodes.values() if node._session}
    assert graphs == {many.server._graph}
    begin(many)
    assert many.server._graph not in graphs


def test_another_nonce_than_the_one_committed_to(many: Federation) -> None:
    offers = tuple(offered(many).values())
    reveals = [node.reveal(offers) for node in many.nodes.values()]
    message = wire.decode(reveals[4].body, Reveal, "x")
    lie = sign(many.identities[4], msgspec.structs.replace(message, nonce=bytes(32)))
    with pytest.raises(PeerError, match="member 5 shows another nonce"):
        many.server.take_reveal(5, lie)
    with pytest.raises(PeerError, match="member 5 shows another nonce"):
        many.nodes[1].encapsulate((*reveals[:4], lie, *reveals[5:]))


def test_a_nonce_with_another_story_is_refused_by_the_server(many: Federation) -> None:
    offers = tuple(offered(many).values())
    message = wire.decode(many.nodes[5].reveal(offers).body, Reveal, "x")
    lie = sign(many.identities[4], msgspec.structs.replace(message, offers=bytes(32)))
    with pytest.raises(PeerError, match="member 5 signed other offers than it was shown"):
        many.server.take_reveal(5, lie)


def test_a_nonce_left_out_ends_the_session(many: Federation) -> None:
    """Going on without it would let its owner, or the server, choose between two graphs."""
    offers = tuple(offered(many).values())
    reveals = {place: node.reveal(offers) for place, node in many.nodes.items()}
    for place, message in reveals.items():
        if place != 9:
            many.server.take_reveal(place, message)
    with pytest.raises(Unavailable, match=r"1 hospitals .member 9 first. left before showing their nonce"):
        many.server.reveals()
    with pytest.raises(PeerError, match="left out a participant's nonce"):
        many.nodes[1].encapsulate(tuple(reveals[place] for place in reveals if place != 9))


def test_a_node_shows_its_nonce_for_one_list_of_offers(many: Federation) -> None:
    offers = tuple(offered(many).values())
    many.nodes[1].reveal(offers)
    with pytest.raises(PeerError, match="when this node is revealed"):
        many.nodes[1].reveal(offers[:-1])


def test_two_lists_of_offers_are_noticed_by_neighbours(many: Federation) -> None:
    """The server swaps in other keys of member 2 for half of the members, with a nonce it knows."""
    offers = offered(many)
    members = [identity.public for identity in many.identities]
    twin = Node(many.identities[1], members, many.coordinator.public, RUN, many.setup, 0)
    other = {**offers, 2: twin.offer(Numbers.session, 1)}
    shown = {place: tuple((offers if place % 2 else other).values()) for place in offers}
    reveals = {place: node.reveal(shown[place]) for place, node in many.nodes.items() if place != 2}
    reveals[2] = many.nodes[2].reveal(tuple(offers.values()))
    refused = 0
    for node in many.nodes.values():
        try:
            node.encapsulate(tuple(reveals[p] for p in sorted(reveals)))
        except PeerError as error:
            refused += "was shown other keys" in error.message or "another nonce" in error.message
    assert refused == N


def test_keys_of_a_neighbour_that_it_did_not_sign(many: Federation) -> None:
    """Signatures are checked of neighbours alone: somebody notices a forged offer, and the session cannot go on."""
    offers = offered(many)
    forged = wire.decode(offers[7].body, KeyOffer, "x")
    offers[7] = Signed(
        wire.encode(msgspec.structs.replace(forged, x25519=bytes(31) + b"\x09")), offers[7].signer, bytes(64)
    )
    shown = tuple(offers[place] for place in sorted(offers))
    reveals = {place: node.reveal(shown) for place, node in many.nodes.items() if place != 7}
    with pytest.raises(PeerError, match="signature of member 7"):
        many.nodes[7].reveal(shown)
    story = masks.offers_digest(shown)
    session = many.nodes[7]._session
    assert session is not None
    reveals[7] = sign(many.identities[6], Reveal(Context(RUN, Numbers.session, 0), story, session._nonce))
    noticed = 0
    for place, node in many.nodes.items():
        if place != 7:
            try:
                node.encapsulate(tuple(reveals[p] for p in sorted(reveals)))
            except PeerError as error:
                noticed += "signature of member 7" in error.message
    assert noticed == many.setup.degree


def test_too_few_neighbours_are_there(many: Federation) -> None:
    """A node whose neighbourhood cannot open its secrets does not deal."""
    offers = tuple(offered(many).values())
    reveals = tuple(node.reveal(offers) for node in many.nodes.values())
    session = many.nodes[1]._session
    assert session is not None
    drawn, _ = session._draw_graph(reveals)
    around = [place for place in drawn.neighbourhood(1) if place != 1]
    gone = set(around[: len(around) - many.setup.threshold + 2])
    left = {place: envelope for place, envelope in session._offers.items() if place not in gone}
    with pytest.raises(PeerError, match=f"Only {many.setup.threshold - 2} neighbours of this node are there"):
        session._read_neighbours(drawn, left)


def test_a_quorum_of_the_committee_and_of_nobody_else(many: Federation) -> None:
    begin(many)
    starts = many.server.start(MODEL, many.shape)
    for place, message in starts.items():
        many.nodes[place].start(message)
        many.server.take_vector(place, many.nodes[place].mask(np.ones(8, int), 20))
    asked = many.server.confirm()
    words = {place: node.confirm(asked) for place, node in many.nodes.items()}
    committee = many.server._graph.committee
    outside = [words[place] for place in words if place not in committee]
    for place, word in words.items():
        if place not in committee:
            many.server.take_confirmation(place, word)
    with pytest.raises(Unavailable, match="0 of the committee signed"):
        many.server.request()
    few = sorted(committee)[: many.setup.committee.needed - 1]
    evidence = (*outside, *(words[place] for place in few))
    assert len(evidence) > many.setup.committee.needed
    context = Context(RUN, Numbers.session, many.server.round)
    request = sign(many.coordinator, UnmaskRequest(context, tuple(starts), evidence))
    with pytest.raises(PeerError, match=f"{len(few)} of the committee signed the set"):
        many.nodes[1].open(request)


def test_a_node_draws_so_many_graphs_and_no_more(many: Federation) -> None:
    """A lying server that has a session fail until it likes the graph gets a bounded number of tries."""
    members = [identity.public for identity in many.identities]
    node = Node(many.identities[0], members, many.coordinator.public, RUN, many.setup, 0)
    node.offer(MOST_GRAPHS, 1)
    with pytest.raises(PeerError, match="more than 1024 graphs"):
        node.offer(MOST_GRAPHS + 1, 1)
    again = Node(many.identities[0], members, many.coordinator.public, RUN, many.setup, 0, used_session=MOST_GRAPHS)
    with pytest.raises(PeerError, match="replays session 7"):
        again.offer(7, 1)  # also after a restart


def test_nobody_at_the_end_of_an_arc_is_opened() -> None:
    """The server calls two windows of the circle absent; members between them share masks with each other alone.

    Those at the ends of the arc are short of shares, so neither their vectors nor the arc's sum come out.
    """
    built = build(500, colluding=2, may_vanish=120, bits=20)
    setup = built.setup
    circle, w = tuple(range(1, 501)), setup.degree // 2
    drawn = graph.Graph(500, setup.degree, circle, frozenset(range(1, 501)))
    for first in (1, 40, 400):
        arc = {circle[(first + w + i) % 500] for i in range(w + 20)}
        colluding_in_gap = {circle[first % 500]}
        end = circle[(first + w) % 500]
        holders = [place for place in drawn.neighbourhood(end) if place in arc | colluding_in_gap]
        assert len(holders) < setup.threshold


def test_a_complete_graph_has_no_nonces() -> None:
    built = build(3)
    offers = tuple(node.offer(1, 1) for node in built.nodes.values())
    with pytest.raises(PeerError, match="asks to reveal when this node is offered"):
        built.nodes[1].reveal(offers)
