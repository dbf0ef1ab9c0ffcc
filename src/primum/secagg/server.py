"""The coordinator's side of secure aggregation: collect, unmask the sum, name who does not fit."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.errors import PeerError, Unavailable
from primum.kernels import packing
from primum.keys.agreement import CIPHERTEXT_BYTES, KeyPair, PublicKeys
from primum.keys.identity import Identity
from primum.secagg import deal, graph, masks, shamir
from primum.secagg.graph import Graph
from primum.secagg.messages import (
    Confirmation,
    ConfirmRequest,
    Context,
    Deal,
    Encapsulated,
    Encapsulations,
    KeyOffer,
    MaskedVector,
    MessageType,
    Opening,
    Reveal,
    RoundStart,
    Settlement,
    Shares,
    Signed,
    UnmaskRequest,
    VectorStatement,
    sign,
)
from primum.secagg.roster import Roster
from primum.secagg.setup import Setup, Shape

_DIGEST_BYTES: Final = 32
_MOST_SUBSETS: Final = 1000


class Blame(PeerError):
    """A message that cannot be what an honest member sends; `places` are whose it may be, one or a pair."""

    def __init__(self, places: Sequence[int], message: str, hint: str = "") -> None:
        super().__init__(message, hint)
        self.places = tuple(places)


@dataclass(frozen=True)
class Aggregate:
    """The sum of the included nodes' vectors: int32 [length], who is in it (places, 1 to n), who gave wrong shares."""

    total: npt.NDArray[np.int32] = field(repr=False)
    included: tuple[int, ...]
    liars: tuple[int, ...] = ()


class Server:
    """The coordinator's state in one run. Every method takes the nodes' messages by place and returns what to send.

    A message that does not fit is a PeerError that names the member; the caller leaves that member out and goes on. Where
    the session cannot go on with it, it is a `Blame`: the caller begins another one without whom it names.
    """

    def __init__(self, identity: Identity, members: Sequence[bytes], run: bytes, setup: Setup) -> None:
        self._roster = Roster(members)
        self._identity, self._run, self._setup = identity, run, setup
        self.settlements: tuple[Signed, ...] = ()
        self._shape = Shape(1, 32)
        self._trial = KeyPair.generate()  # agrees with nobody: shows that an offer's keys are keys
        self.begin_session(0, 0)

    def __repr__(self) -> str:
        return f"Server(session {self._session}, round {self._round})"

    @property
    def members(self) -> tuple[bytes, ...]:
        """The members' identities, by place."""
        return self._roster.members

    @property
    def round(self) -> int:
        """The number of the coming or current round."""
        return self._round

    @property
    def dealt(self) -> tuple[int, ...]:
        """Members whose deal for the coming round is here."""
        return tuple(sorted(self._deals))

    # -- session ------------------------------------------------------------------------------------------------

    def begin_session(self, session: int, first_round: int) -> None:
        """Forget everything of the session before; number both upwards, also over restarts."""
        self._session, self._round = session, first_round
        self._offers: dict[int, Signed] = {}
        self._commitments: dict[int, bytes] = {}
        self._reveals: dict[int, Signed] = {}
        self._nonces: dict[int, bytes] = {}
        self._encapsulated: dict[int, Encapsulated] = {}
        self._graph: Graph = graph.complete(self._setup)
        self._story = b""
        self._deals: dict[int, Deal] = {}
        self._start_round((), b"")

    def take_offer(self, place: int, envelope: Signed) -> None:
        """A member's KeyOffer; PeerError unless its keys are such that others can agree with them."""
        message = self._open(place, envelope, KeyOffer, 0)
        if len(message.commitment) != (_DIGEST_BYTES if self._setup.sparse else 0):
            raise Blame((place,), f"member {place} sent a commitment of a wrong length.", "It is left out.")
        self._trial.initiate(PublicKeys(message.x25519, message.mlkem), f"member {place}")
        self._commitments[place] = message.commitment
        self._offers[place] = envelope

    def offers(self) -> tuple[Signed, ...]:
        """What every participant gets: all key offers; Unavailable if they are too few."""
        self._enough(len(self._offers), "keys")
        self._story = masks.offers_digest(self._offers.values())
        return tuple(self._offers[place] for place in sorted(self._offers))

    def take_reveal(self, place: int, envelope: Signed) -> None:
        """A member's nonce for the graph; PeerError where it is not the one that it committed to."""
        message = self._open(place, envelope, Reveal, 0)
        if not graph.opens(message.nonce, self._commitments.get(place, b"")):
            raise Blame((place,), f"member {place} shows another nonce than it committed to.", "It is left out.")
        if message.offers != self._story:
            raise Blame((place,), f"member {place} signed other offers than it was shown.", "It is left out.")
        self._reveals[place], self._nonces[place] = envelope, message.nonce

    def reveals(self) -> tuple[Signed, ...]:
        """Sparse graph: what every participant gets after the offers; Unavailable unless everybody who offered revealed.

        Going on without a nonce would let its owner choose between two graphs.
        """
        missing = sorted(self._offers.keys() - self._reveals.keys())
        if missing:
            raise Unavailable(
                f"{len(missing)} hospitals (member {missing[0]} first) left before showing their nonce.",
                "The session begins again.",
            )
        seed = graph.seed_of(self._story, (self._nonces[place] for place in sorted(self._nonces)))
        self._graph, self._story = graph.drawn(self._setup, seed), graph.story_of(self._story, seed)
        return tuple(self._reveals[place] for place in sorted(self._reveals))

    def take_encapsulated(self, place: int, message: Encapsulated) -> None:
        """A member's ciphertexts; PeerError unless they are for exactly its higher-placed present neighbours."""
        statement = self._open(place, message.statement, Encapsulations, 0)
        expected = [other for other in self._neighbours(place, self._offers) if other > place]
        if [other for other, _ in message.ciphertexts] != expected or [o for o, _ in statement.hashes] != expected:
            raise Blame((place,), f"member {place} sent ciphertexts for the wrong members.", "It is left out.")
        hashes = tuple((other, hashlib.sha256(data).digest()) for other, data in message.ciphertexts)
        if statement.hashes != hashes or any(len(data) != CIPHERTEXT_BYTES for _, data in message.ciphertexts):
            raise Blame((place,), f"member {place} sent other ciphertexts than it signed.", "It is left out.")
        if statement.story != self._story:
            raise Blame((place,), f"member {place} signed another story than it was shown.", "It is left out.")
        self._encapsulated[place] = message

    def encapsulated_for(self, place: int) -> tuple[Encapsulated, ...]:
        """What the member at `place` gets: of each lower-placed neighbour its statement and the one ciphertext."""
        received = []
        for other in self._neighbours(place, self._encapsulated):
            if other < place:
                message = self._encapsulated[other]
                own = tuple(pair for pair in message.ciphertexts if pair[0] == place)
                received.append(Encapsulated(message.statement, own))
        return tuple(received)

    def take_deal(self, place: int, envelope: Signed) -> None:
        """A member's Deal for the coming round."""
        self._deals[place] = self._checked_deal(place, envelope, self._round)

    def _checked_deal(self, place: int, envelope: Signed, round_number: int) -> Deal:
        """A member's Deal; Blame unless it holds one share and one commitment for each present neighbour."""
        made = self._open(place, envelope, Deal, round_number)
        expected = self._neighbours(place, self._offers)
        lengths = {len(data) for _, data in made.shares} | {len(made.sealed_list) - len(expected) * deal.LIST_ENTRY}
        if [other for other, _ in made.shares] != expected or [other for other, _ in made.commitments] != expected:
            raise Blame((place,), f"member {place} dealt for the wrong members.", "It is left out.")
        if lengths != {deal.SEALED_SHARE, deal.SEAL}:
            raise Blame((place,), f"member {place} dealt shares of a wrong length.", "It is left out.")
        return made

    # -- round --------------------------------------------------------------------------------------------------

    def start(self, model: bytes, shape: Shape) -> dict[int, Signed]:
        """Round, exchange 1: for each participant its RoundStart; participants are those whose deal came.

        Compares both ends of every pair first: a pair that disagrees is named (PeerError) before anything is masked.
        """
        self._enough(len(self._deals), "shares")
        self._start_round(self.dealt, model)
        self._shape, self._sum = shape, masks.MaskedSum(shape.length, shape.bits)
        shares = {place: dict(dealt.shares) for place, dealt in self._deals.items()}
        ends = {place: dict(dealt.commitments) for place, dealt in self._deals.items()}
        starts = {}
        for place in self._participants:
            neighbours = self._neighbours(place, self._deals)
            self._compare_commitments(place, neighbours, ends)
            received = tuple((dealer, shares[dealer].get(place, b"")) for dealer in neighbours)
            message = RoundStart(self._context(self._round), self._participants, model, received)
            starts[place] = sign(self._identity, message)
        return starts

    def _start_round(self, participants: tuple[int, ...], model: bytes) -> None:
        self._participants, self._model = participants, model
        self._group = masks.set_digest(participants)
        self._statements: dict[int, Signed] = {}
        self._sum = masks.MaskedSum(0, self._shape.bits)
        self._included: tuple[int, ...] = ()
        self._confirmations: dict[int, Signed] = {}

    def _compare_commitments(
        self, place: int, neighbours: Iterable[int], ends: Mapping[int, Mapping[int, bytes]]
    ) -> None:
        for other in neighbours:
            if place not in ends[other] or ends[place].get(other) != ends[other][place]:
                low, high = sorted((place, other))
                raise Blame(
                    (low, high),
                    f"Members {low} and {high} do not hold the same round key.",
                    "One of them lies or was told something else; the round was not started.",
                )

    def take_vector(self, place: int, message: MaskedVector) -> None:
        """A participant's masked vector."""
        statement = self._open(place, message.statement, VectorStatement, self._round)
        if place not in self._participants:
            raise PeerError(f"member {place} is not in round {self._round}.", "Its vector was not used.")
        if (statement.participants, statement.model) != (self._group, self._model):
            raise PeerError(f"member {place} masked for other participants or another model.", "It is left out.")
        if self._included:
            raise PeerError(f"The vector of member {place} came too late.", "The round goes on without it.")
        if place in self._statements:
            raise PeerError(f"member {place} sent a second vector.", "The first one counts.")
        if not packing.well_packed(message.vector, self._shape.length, self._shape.bits):
            raise PeerError(f"member {place} sent a vector of a wrong length.", "It is left out.")
        if self._sum.add(message.vector) != statement.vector:
            self._sum.take_back(message.vector)
            raise PeerError(f"member {place} sent another vector than it signed.", "It is left out.")
        self._statements[place] = message.statement

    def confirm(self) -> Signed:
        """Where a quorum signs: the ConfirmRequest for those whose vectors came; Unavailable if they are too few."""
        self._fix_included()
        return sign(self._identity, ConfirmRequest(self._context(self._round), self._included))

    def take_confirmation(self, place: int, envelope: Signed) -> None:
        """A member's word on this round's set; kept where it is in the committee."""
        expected = Confirmation(self._context(self._round), self._group, self._model, masks.set_digest(self._included))
        if self._open(place, envelope, Confirmation, self._round) != expected:
            raise PeerError(f"member {place} confirmed another set than it was shown.", "Its word was not used.")
        if place in self._graph.committee:
            self._confirmations[place] = envelope

    def request(self) -> Signed:
        """Round, last exchange: the UnmaskRequest for U; Unavailable if vectors or confirmations are too few."""
        evidence = self._quorum() if self._setup.confirms else self._words()
        return sign(self._identity, UnmaskRequest(self._context(self._round), self._included, evidence))

    def _fix_included(self) -> None:
        self._enough(len(self._statements), "masked vectors")
        self._included = tuple(sorted(self._statements))

    def _words(self) -> tuple[Signed, ...]:
        self._fix_included()
        return tuple(self._statements[place] for place in self._included)

    def _quorum(self) -> tuple[Signed, ...]:
        needed = self._setup.committee.needed
        if len(self._confirmations) < needed:
            raise Unavailable(
                f"{len(self._confirmations)} of the committee signed the set, {needed} are needed.",
                "The model stays as it was; the round is repeated when they are back.",
            )
        return tuple(self._confirmations[place] for place in sorted(self._confirmations)[:needed])

    def finish(self, openings: Mapping[int, Opening]) -> Aggregate:
        """The sum over U from at least t openings of each neighbourhood, and the deals for the next round.

        Everything opened is compared with the hashes left before; wrong shares are found (`shamir.wrong`) and left out.
        """
        opened = self._opened(openings)
        liars: set[int] = set(openings) - set(opened)
        self_keys = {giver: dict(message.self_keys) for giver, message in opened.items()}
        list_keys = {giver: dict(message.list_keys) for giver, message in opened.items()}
        added: list[bytes] = []
        subtracted = [
            masks.self_mask_key(self._recover(place, self_keys, "self", self._deals[place].self_key_hash, liars))
            for place in self._included
        ]
        for vanished in self._participants:
            if vanished not in self._included:
                key = self._recover(vanished, list_keys, "list", self._deals[vanished].list_key_hash, liars)
                plus, minus = self._pair_keys(vanished, key)
                added += plus
                subtracted += minus
        total, included = self._sum.unmask(added, subtracted), self._included
        self._next_round(openings)
        return Aggregate(total, included, tuple(sorted(liars)))

    def _opened(self, openings: Mapping[int, Opening]) -> dict[int, Shares]:
        """The shares of each opening that its member signed for this round."""
        opened = {}
        for place, message in openings.items():
            try:
                opened[place] = self._open(place, message.shares, Shares, self._round)
            except PeerError:
                continue  # the others may be enough
        return opened

    def _recover(
        self, place: int, given: Mapping[int, Mapping[int, bytes]], purpose: str, expected: bytes, liars: set[int]
    ) -> bytes:
        """The key that the shares of `place` open; whoever gave a wrong one is added to `liars` and not asked again."""
        holders = dict(enumerate(self._graph.neighbourhood(place), start=1))
        shares = {}
        for x, giver in holders.items():
            piece = given.get(giver, {}).get(place, b"")
            if giver not in liars and len(piece) == masks.KEY_BYTES:
                shares[x] = piece
        threshold = self._setup.threshold
        if len(shares) < threshold:
            raise Unavailable(
                f"{len(shares)} hospitals gave shares of member {place}, {threshold} are needed.",
                "The round is repeated.",
            )
        for right in islice(_candidates(shares, threshold), _MOST_SUBSETS):
            key = shamir.reconstruct({x: shares[x] for x in right[:threshold]})
            if masks.key_hash(key, purpose) == expected:
                liars.update(holders[x] for x in shares.keys() - right)
                return key
        raise Blame(
            (place,),
            f"The {purpose} key of member {place} cannot be opened from {len(shares)} shares.",
            "It dealt wrong ones, or too many gave wrong ones; the round is repeated without it.",
        )

    def _pair_keys(self, vanished: int, list_key: bytes) -> tuple[list[bytes], list[bytes]]:
        """The streams of the masks that a vanished member shares with U: (to be added, to be subtracted)."""
        dealt = self._deals[vanished]
        keys, committed = deal.open_list(list_key, dealt, vanished), dict(dealt.commitments)
        added: list[bytes] = []
        subtracted: list[bytes] = []
        for other in self._neighbours(vanished, self._included):
            key = keys.get(other, b"")
            if not key or masks.commitment(key) != committed.get(other):
                raise Blame(
                    (vanished,), f"member {vanished} left a false list of round keys.", "The round is repeated."
                )
            stream = masks.pair_mask_key(key, self._group, self._model)
            (subtracted if other < vanished else added).append(stream)
        return added, subtracted

    def _next_round(self, openings: Mapping[int, Opening]) -> None:
        deals, settlements = {}, []
        for place, message in openings.items():
            try:
                self._open(place, message.settlement, Settlement, self._round)
                deals[place] = self._checked_deal(place, message.next_deal, self._round + 1)
                settlements.append(message.settlement)
            except PeerError:
                continue  # its sum stands; it is simply not in the next round
        self._round += 1
        self._deals, self.settlements = deals, tuple(settlements)
        self._start_round((), b"")

    # -- reading --------------------------------------------------------------------------------------------------

    def _neighbours(self, place: int, among: Iterable[int]) -> list[int]:
        present = among if isinstance(among, dict) else set(among)
        return [other for other in self._graph.neighbourhood(place) if other != place and other in present]

    def _context(self, round_number: int) -> Context:
        return Context(self._run, self._session, round_number)

    def _enough(self, count: int, what: str) -> None:
        if count < self._setup.least_included:
            raise Unavailable(
                f"{count} of {self._setup.n} hospitals sent {what}; at least {self._setup.least_included} are needed.",
                "The model stays as it was; the round is repeated when they are back.",
            )

    def _open(self, place: int, envelope: Signed, kind: type[MessageType], round_number: int) -> MessageType:
        return self._roster.open(envelope, kind, self._context(round_number), place)


def _candidates(shares: Mapping[int, bytes], threshold: int) -> Iterator[list[int]]:
    """Places whose shares may all be right: everybody; everybody whose share fits the others; without each, each two.

    The second finds half as many liars as there are shares to spare, the third a few more where there are few to spare.
    """
    places = list(shares)
    yield places
    yield [x for x in places if x not in (shamir.wrong(shares, threshold) or ())]
    for leave in range(1, len(places) - threshold + 1):
        for left_out in combinations(places, leave):
            yield [x for x in places if x not in left_out]
