"""The coordinator's side of secure aggregation: collect, unmask the sum, name who does not fit."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations, islice
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from primum import ring, wire
from primum.errors import PeerError, Unavailable
from primum.keys.identity import Identity
from primum.secagg import masks, shamir
from primum.secagg.messages import (
    Context,
    Deal,
    Encapsulations,
    KeyOffer,
    MaskedVector,
    MessageType,
    Opening,
    RoundStart,
    Settlement,
    Shares,
    Signed,
    UnmaskRequest,
    VectorStatement,
    open_signed,
    sign,
)
from primum.secagg.node import unpack_list
from primum.secagg.setup import Setup, Shape

_NONCE: Final = bytes(12)
_MOST_SUBSETS: Final = 1000


@dataclass(frozen=True)
class Aggregate:
    """The sum of the included nodes' vectors: int64 [length], and who is in it (places, 1 to n)."""

    total: npt.NDArray[np.int64] = field(repr=False)
    included: tuple[int, ...]


class Server:
    """The coordinator's state in one run. Every method takes the nodes' messages by place and returns what to send.

    A message that does not fit is a PeerError that names the member; the caller leaves that member out and goes on.
    """

    def __init__(self, identity: Identity, members: Sequence[bytes], run: bytes, setup: Setup) -> None:
        self.members = tuple(sorted(members))
        self._identity, self._run, self._setup = identity, run, setup
        self._session = 0
        self._round = 0
        self._offers: dict[int, Signed] = {}
        self._deals: dict[int, Deal] = {}
        self._participants: tuple[int, ...] = ()
        self._model = b""
        self._shape = Shape(1, 32)
        self._vectors: dict[int, MaskedVector] = {}
        self.settlements: tuple[Signed, ...] = ()

    # -- session ------------------------------------------------------------------------------------------------

    def begin_session(self, session: int, first_round: int) -> None:
        """Forget everything of the session before; number both upwards, also over restarts."""
        self._session, self._round = session, first_round
        self._offers, self._deals, self._participants, self._vectors = {}, {}, (), {}

    def take_offer(self, place: int, envelope: Signed) -> None:
        """A member's KeyOffer."""
        self._open(place, envelope, KeyOffer, 0)
        self._offers[place] = envelope

    def offers(self) -> tuple[Signed, ...]:
        """What every participant gets: all key offers; Unavailable if they are too few."""
        self._enough(len(self._offers), "keys")
        return tuple(self._offers[place] for place in sorted(self._offers))

    def check_encapsulations(self, place: int, envelope: Signed) -> None:
        """Raise unless it is this session's and complete."""
        message = self._open(place, envelope, Encapsulations, 0)
        expected = tuple(other for other in sorted(self._offers) if other > place)
        if tuple(other for other, _ in message.ciphertexts) != expected:
            raise PeerError(f"member {place} sent ciphertexts for the wrong members.", "It is left out.")

    def take_deal(self, place: int, envelope: Signed) -> None:
        """A member's Deal for the coming round."""
        self._deals[place] = self._open(place, envelope, Deal, self._round)

    # -- round --------------------------------------------------------------------------------------------------

    def start(self, model: bytes, shape: Shape) -> dict[int, Signed]:
        """Round, exchange 1: for each participant its RoundStart; participants are those whose deal came.

        Compares both ends of every pair first: a pair that disagrees is named (PeerError) before anything is masked.
        """
        self._enough(len(self._deals), "shares")
        self._participants, self._vectors = tuple(sorted(self._deals)), {}
        self._model, self._shape = model, shape
        self._compare_commitments()
        return {place: self._start_for(place) for place in self._participants}

    def _start_for(self, place: int) -> Signed:
        shares: list[tuple[int, bytes]] = []
        for dealer in self._participants:
            if dealer != place:
                shares.append((dealer, dict(self._deals[dealer].shares).get(place, b"")))
        context = Context(self._run, self._session, self._round)
        return sign(self._identity, RoundStart(context, self._participants, self._model, tuple(shares)))

    def _compare_commitments(self) -> None:
        ends = {place: dict(self._deals[place].commitments) for place in self._participants}
        for low, high in combinations(self._participants, 2):
            if ends[low].get(high) != ends[high].get(low) or high not in ends[low]:
                raise PeerError(
                    f"Members {low} and {high} do not hold the same round key.",
                    "One of them lies or was told something else; the round was not started.",
                )

    def take_vector(self, place: int, message: MaskedVector) -> None:
        """A participant's masked vector."""
        statement = self._open(place, message.statement, VectorStatement, self._round)
        if place not in self._participants:
            raise PeerError(f"member {place} is not in round {self._round}.", "Its vector was not used.")
        if statement.participants != masks.set_digest(self._participants) or statement.model != self._model:
            raise PeerError(f"member {place} masked for other participants or another model.", "It is left out.")
        if hashlib.sha256(message.vector).digest() != statement.vector:
            raise PeerError(f"member {place} sent another vector than it signed.", "It is left out.")
        if len(message.vector) != ring.packed_size(self._shape.length, self._shape.bits):
            raise PeerError(f"member {place} sent a vector of a wrong length.", "It is left out.")
        self._vectors[place] = message

    def request(self) -> Signed:
        """Round, exchange 2: the UnmaskRequest for those whose vectors came; Unavailable if they are too few."""
        self._enough(len(self._vectors), "masked vectors")
        included = tuple(sorted(self._vectors))
        context = Context(self._run, self._session, self._round)
        statements = tuple(self._vectors[place].statement for place in included)
        return sign(self._identity, UnmaskRequest(context, included, statements))

    def finish(self, openings: Mapping[int, Opening]) -> Aggregate:
        """The sum over U from at least t openings, and the deals for the next round.

        Everything opened is compared with the hashes left before; a wrong share is found by trying other subsets.
        """
        included = tuple(sorted(self._vectors))
        shares = {place: self._open(place, message.shares, Shares, self._round) for place, message in openings.items()}
        if len(shares) < self._setup.threshold:
            raise Unavailable(
                f"{len(shares)} hospitals gave shares, {self._setup.threshold} are needed.", "The round is repeated."
            )
        total = self._masked_sum(included)
        for place in included:
            found = self._recover(place, {giver: dict(s.self_keys) for giver, s in shares.items()}, "self")
            total -= masks.self_mask(found, self._shape.length)
        for vanished in self._participants:
            if vanished not in included:
                opened = self._recover(vanished, {giver: dict(s.list_keys) for giver, s in shares.items()}, "list")
                total = self._without_pairs(total, vanished, opened, included)
        self._next_round(openings)
        reduced = total.astype(np.uint64) & ring.mask(self._shape.bits)
        return Aggregate(ring.to_signed(reduced, self._shape.bits), included)

    def _masked_sum(self, included: Sequence[int]) -> masks.Vector:
        total = np.zeros(self._shape.length, np.uint32)
        for place in included:
            packed = self._vectors[place].vector
            total += ring.unpack(packed, self._shape.length, self._shape.bits, f"member {place}").astype(np.uint32)
        return total

    def _recover(self, place: int, by_giver: Mapping[int, Mapping[int, bytes]], purpose: str) -> bytes:
        given = {
            giver: pairs[place] for giver, pairs in by_giver.items() if len(pairs.get(place, b"")) == masks.KEY_BYTES
        }
        deal = self._deals[place]
        expected = deal.self_key_hash if purpose == "self" else deal.list_key_hash
        for subset in islice(combinations(sorted(given), self._setup.threshold), _MOST_SUBSETS):
            key = shamir.reconstruct({giver: given[giver] for giver in subset})
            if masks.key_hash(key, purpose) == expected:
                return key
        raise PeerError(
            f"The {purpose} key of member {place} cannot be opened from the shares of {sorted(given)}.",
            "One of them gave a wrong share, or the member dealt wrong ones; the round is repeated.",
        )

    def _without_pairs(
        self, total: masks.Vector, vanished: int, list_key: bytes, included: Sequence[int]
    ) -> masks.Vector:
        label = wire.encode(Context(self._run, self._session, self._round)) + bytes([vanished, 0])
        try:
            keys = unpack_list(AESGCM(list_key).decrypt(_NONCE, self._deals[vanished].sealed_list, label))
        except (InvalidTag, ValueError):
            raise PeerError(f"member {vanished} left a list that cannot be read.", "The round is repeated.") from None
        group, committed = masks.set_digest(self._participants), dict(self._deals[vanished].commitments)
        for other in included:
            key = keys.get(other, b"")
            if not key or masks.commitment(key) != committed.get(other):
                raise PeerError(f"member {vanished} left a false list of round keys.", "The round is repeated.")
            shared = masks.pair_mask(key, group, self._model, self._shape.length)
            total = total - shared if other < vanished else total + shared
        return total

    def _next_round(self, openings: Mapping[int, Opening]) -> None:
        deals, settlements = {}, []
        for place, message in openings.items():
            try:
                deals[place] = self._open(place, message.next_deal, Deal, self._round + 1)
                self._open(place, message.settlement, Settlement, self._round)
                settlements.append(message.settlement)
            except PeerError:
                deals.pop(place, None)  # its sum stands; it is simply not in the next round
        self._round += 1
        self._deals, self._vectors, self.settlements = deals, {}, tuple(settlements)

    @property
    def round(self) -> int:
        """The number of the coming or current round."""
        return self._round

    @property
    def dealt(self) -> tuple[int, ...]:
        """Members whose deal for the coming round is here."""
        return tuple(sorted(self._deals))

    def _enough(self, count: int, what: str) -> None:
        if count < self._setup.least_included:
            raise Unavailable(
                f"{count} of {self._setup.n} hospitals sent {what}; at least {self._setup.least_included} are needed.",
                "The model stays as it was; the round is repeated when they are back.",
            )

    def _open(self, place: int, envelope: Signed, kind: type[MessageType], round_number: int) -> MessageType:
        message = open_signed(envelope, kind, self.members[place - 1], f"member {place}")
        if message.context != Context(self._run, self._session, round_number):  # type: ignore[attr-defined]
            raise PeerError(f"member {place} sent a {kind.__name__} of another round.", "It was not used.")
        return message
