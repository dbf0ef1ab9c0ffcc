"""One session's keys at a node: from offers to one secret with each neighbour.

The pair secret is HKDF(ss of ML-KEM, X25519, and whatever else the two sites share; label, run, session, n, c, d, both
identities, digest of all that was shown). The digest makes every story told twice a decryption error at the first share.
"""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from primum.errors import PeerError
from primum.keys.agreement import KeyPair, PublicKeys, hkdf
from primum.keys.identity import Identity
from primum.secagg import graph, masks
from primum.secagg.graph import Graph
from primum.secagg.messages import (
    Context,
    Encapsulated,
    Encapsulations,
    KeyOffer,
    Reveal,
    Signed,
    sign,
)
from primum.secagg.roster import Roster
from primum.secagg.setup import Setup


@dataclass(frozen=True)
class Member:
    """Who takes part, at which place, in which run. `shared_secrets`: secrets from elsewhere, by the other's identity."""

    identity: Identity
    roster: Roster
    place: int
    run: bytes
    setup: Setup
    shared_secrets: Mapping[bytes, bytes] = field(repr=False)


class Session:
    """The keys of session `number`; made anew for each, so that nothing of an older one is left."""

    def __init__(self, member: Member, number: int, first_round: int) -> None:
        self.number, self.first_round = number, first_round
        self._member = member
        self._context = Context(member.run, number, 0)
        self._keys: KeyPair | None = KeyPair.generate()
        self._nonce = os.urandom(graph.NONCE_BYTES) if member.setup.sparse else b""
        self._offers: dict[int, Signed] = {}
        self._others: dict[int, PublicKeys] = {}
        self._story = b""
        self.graph: Graph = graph.complete(member.setup)
        self.secrets: dict[int, bytes] = {}  # S_ij of the round that is dealt, by neighbour

    def __repr__(self) -> str:
        return f"Session({self.number})"

    @property
    def participants(self) -> tuple[int, ...]:
        """Members whose offers were shown."""
        return tuple(self._offers)

    def offer(self) -> Signed:
        """Exchange 1: this node's keys, and in a sparse graph the commitment to its nonce."""
        public = self._own_keys.public
        commitment = graph.nonce_commitment(self._nonce) if self._nonce else b""
        return sign(self._member.identity, KeyOffer(self._context, public.x25519, public.mlkem, commitment))

    def reveal(self, offers: Sequence[Signed]) -> Signed:
        """Sparse graph only: the nonce, now that everybody's commitment is here.

        Signatures are checked of neighbours alone, once they are known: everything else is bound by the digest.
        """
        self._offers = self._checked_offers(offers)
        self._story = masks.offers_digest(offers)
        return sign(self._member.identity, Reveal(self._context, self._story, self._nonce))

    def encapsulate(self, shown: Sequence[Signed]) -> Encapsulated:
        """Exchange 2: agree with each higher-placed neighbour. `shown` are the offers; in a sparse graph the reveals.

        What is refused leaves everything as it was.
        """
        if self._member.setup.sparse:
            offers = self._offers
            drawn, story = self._draw_graph(shown)
        else:
            offers = self._checked_offers(shown)
            drawn, story = self.graph, masks.offers_digest(shown)
        others = self._read_neighbours(drawn, offers)
        agreed = {
            place: self._own_keys.initiate(keys, f"member {place}")
            for place, keys in others.items()
            if place > self._member.place
        }
        self._offers, self.graph, self._story, self._others = offers, drawn, story, others
        self.secrets = {place: self._pair_secret(raw, place) for place, (raw, _) in agreed.items()}
        hashes = tuple((place, hashlib.sha256(data).digest()) for place, (_, data) in agreed.items())
        statement = sign(self._member.identity, Encapsulations(self._context, self._story, hashes))
        return Encapsulated(statement, tuple((place, data) for place, (_, data) in agreed.items()))

    def respond(self, received: Sequence[Encapsulated]) -> None:
        """Exchange 3: finish the pair secrets; `received` are those of this node's lower-placed neighbours.

        The keys of the session are then erased: what is in memory in a later round opens nothing of an earlier one.
        """
        place, roster = self._member.place, self._member.roster
        statements = roster.open_all((message.statement for message in received), Encapsulations, self._context)
        ciphertexts = {roster.place(m.statement.signer, "ciphertext"): dict(m.ciphertexts).get(place) for m in received}
        lower = [other for other in self._others if other < place]
        if set(statements) != set(lower):
            raise PeerError("The coordinator left out a participant's ciphertexts.", "The session was not joined.")
        responded: dict[int, bytes] = {}
        for other in lower:
            if statements[other].story != self._story:
                raise PeerError(f"member {other} was shown other keys than this node.", "The session was not joined.")
            data = ciphertexts[other] or b""
            if dict(statements[other].hashes).get(place) != hashlib.sha256(data).digest():
                raise PeerError(f"The ciphertext of member {other} was altered.", "The session was not joined.")
            raw = self._own_keys.respond(self._others[other], data, f"member {other}")
            responded[other] = self._pair_secret(raw, other)
        self.secrets.update(responded)
        self._keys, self._nonce, self._others = None, b"", {}

    def ratchet(self) -> None:
        """The pair secrets of the next round; the old ones are erased."""
        self.secrets = {place: masks.ratchet(secret) for place, secret in self.secrets.items()}

    def positions(self) -> dict[int, int]:
        """The x of each present neighbour's share of this node's secrets, itself included."""
        everybody = self.graph.neighbourhood(self._member.place)
        return {other: x for x, other in enumerate(everybody, start=1) if other in self._offers}

    @property
    def _own_keys(self) -> KeyPair:
        assert self._keys is not None  # erased by respond, after which nothing asks for them
        return self._keys

    def _checked_offers(self, offers: Sequence[Signed]) -> dict[int, Signed]:
        """Offers by place; PeerError where they are too few, or this node's own is not among them as it made it."""
        setup, place = self._member.setup, self._member.place
        placed = self._member.roster.placed(offers, KeyOffer)
        if len(placed) < setup.least_included or place not in placed:
            raise PeerError(
                f"The coordinator starts a session with {len(placed)} of {setup.n} members.",
                f"At least {setup.least_included} are needed, this one among them.",
            )
        own = self._member.roster.open(placed[place], KeyOffer, self._context, place)
        if PublicKeys(own.x25519, own.mlkem) != self._own_keys.public:
            raise PeerError("The coordinator changed this node's own keys.", "The session was not joined.")
        return placed

    def _draw_graph(self, reveals: Sequence[Signed]) -> tuple[Graph, bytes]:
        """The graph of all nonces, and the digest of all that was shown."""
        roster = self._member.roster
        shown = roster.read_all(reveals, Reveal, self._context)
        if tuple(shown) != self.participants:
            raise PeerError("The coordinator left out a participant's nonce.", "The session was not joined.")
        offers = roster.read_all(self._offers.values(), KeyOffer, self._context)
        for place, message in shown.items():
            if not graph.opens(message.nonce, offers[place].commitment):
                raise PeerError(f"member {place} shows another nonce than it committed to.", "The session ends.")
        seed = graph.seed_of(self._story, (message.nonce for message in shown.values()))
        drawn = graph.drawn(self._member.setup, seed)
        envelopes = roster.placed(reveals, Reveal)
        for place in self._present_neighbours(drawn, self._offers):
            if roster.open(envelopes[place], Reveal, self._context, place).offers != self._story:
                raise PeerError(f"member {place} was shown other keys than this node.", "The session was not joined.")
        return drawn, graph.story_of(self._story, seed)

    def _read_neighbours(self, drawn: Graph, offers: Mapping[int, Signed]) -> dict[int, PublicKeys]:
        """The keys of each present neighbour, its signature checked; PeerError where they are too few for t shares."""
        neighbours = self._present_neighbours(drawn, offers)
        if len(neighbours) + 1 < self._member.setup.threshold:
            raise PeerError(
                f"Only {len(neighbours)} neighbours of this node are there.",
                f"{self._member.setup.threshold - 1} are needed; the session was not joined.",
            )
        others = {}
        for place in neighbours:
            offer = self._member.roster.open(offers[place], KeyOffer, self._context, place)
            others[place] = PublicKeys(offer.x25519, offer.mlkem)
        return others

    def _present_neighbours(self, drawn: Graph, offers: Mapping[int, Signed]) -> list[int]:
        own = self._member.place
        return [place for place in drawn.neighbourhood(own) if place != own and place in offers]

    def _pair_secret(self, raw: bytes, place: int) -> bytes:
        member = self._member
        theirs = member.roster.identity(place)
        low, high = sorted((member.identity.public, theirs))
        more, setup = member.shared_secrets.get(theirs, b""), member.setup
        bound = (member.run, self.number, setup.n, setup.colluding, setup.may_vanish, low, high, self._story)
        return hkdf(raw + more, "session", *bound)
