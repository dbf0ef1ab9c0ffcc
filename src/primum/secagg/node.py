"""A hospital's side of secure aggregation, and what it checks before it gives shares."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from primum import ring, wire
from primum.errors import PeerError
from primum.keys.agreement import KeyPair, PublicKeys, hkdf
from primum.keys.identity import Identity
from primum.rng import Stream
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
from primum.secagg.setup import Setup

_NONCE: Final = bytes(12)  # every sealing key is used for exactly one message


class State(Enum):
    """Where a node stands."""

    IDLE = auto()
    OFFERED = auto()
    PAIRED = auto()
    DEALT = auto()
    STARTED = auto()
    MASKED = auto()


# From which states each call is allowed, and where it leads: all transitions live here. A new session may begin from
# everywhere (a round that failed leaves the node anywhere); everything else has exactly one predecessor.
TRANSITIONS: Final[Mapping[str, tuple[frozenset[State], State]]] = {
    "offer": (frozenset(State), State.OFFERED),
    "encapsulate": (frozenset({State.OFFERED}), State.PAIRED),
    "deal": (frozenset({State.PAIRED}), State.DEALT),
    "start": (frozenset({State.DEALT}), State.STARTED),
    "mask": (frozenset({State.STARTED}), State.MASKED),
    "open": (frozenset({State.MASKED}), State.DEALT),
}


@dataclass
class _Session:
    """One session's secrets; replaced as a whole by the next session."""

    number: int
    first_round: int
    keys: KeyPair = field(repr=False)
    participants: tuple[int, ...] = ()
    offers: dict[int, PublicKeys] = field(default_factory=dict, repr=False)
    digest: bytes = b""
    secrets: dict[int, bytes] = field(default_factory=dict, repr=False)  # S_ij of the round that is dealt
    own_ciphertexts: dict[int, bytes] = field(default_factory=dict, repr=False)


@dataclass
class _Round:
    """One round's secrets; erased when the round ends."""

    number: int
    round_keys: dict[int, bytes] = field(repr=False)
    own_shares: tuple[bytes, bytes] = field(repr=False)
    share_keys: dict[int, bytes] = field(repr=False)
    self_key: bytes = field(repr=False)
    participants: tuple[int, ...] = ()
    model: bytes = b""
    received: dict[int, bytes] = field(default_factory=dict, repr=False)


class Node:
    """One member of one run.

    `members` are the identities of the study, `place` (1 to n) this node's position in their sorted list; `used_round`
    is the highest round number that this node has ever begun in this run, also before a restart. Every method takes
    the server's message and returns the answer; a peer's fault is a PeerError that names it and changes nothing.
    """

    def __init__(
        self,
        identity: Identity,
        members: Sequence[bytes],
        coordinator: bytes,
        run: bytes,
        setup: Setup,
        used_round: int,
    ) -> None:
        self.members = tuple(sorted(members))
        if len(self.members) != setup.n or len(set(members)) != setup.n:
            raise PeerError(f"The study names {setup.n} members, the list has {len(set(members))}.", "Not taken part.")
        self.place = self.members.index(identity.public) + 1
        self._identity, self._coordinator, self._run, self._setup = identity, coordinator, run, setup
        self._stream = Stream.from_os()
        self._state = State.IDLE
        self._session: _Session | None = None
        self._round: _Round | None = None
        self.used_round = used_round

    def offer(self, session: int, first_round: int) -> Signed:
        """Session, exchange 1: fresh keys; all secrets of an older session are erased."""
        if self._session is not None and session <= self._session.number:
            raise PeerError(f"The coordinator replays session {session}.", "It was not answered.")
        if first_round <= self.used_round:
            raise PeerError(f"The coordinator asks for round {first_round} again.", "A round number is used once.")
        self._advance("offer")
        self._round = None
        self._session = _Session(session, first_round, KeyPair.generate())
        public = self._session.keys.public
        return sign(self._identity, KeyOffer(self._context(0), public.x25519, public.mlkem))

    def encapsulate(self, offers: Sequence[Signed]) -> Signed:
        """Session, exchange 2: agree with each higher-placed member; `offers` are those of all participants."""
        self._expect("encapsulate")
        session = self._require_session()
        opened = dict(self._open_all(offers, KeyOffer, 0))
        if len(opened) < self._setup.least_included or self.place not in opened:
            raise PeerError(
                f"The coordinator starts a session with {len(opened)} of {self._setup.n} members.",
                f"At least {self._setup.least_included} are needed, this one among them.",
            )
        session.participants = tuple(sorted(opened))
        session.offers = {place: PublicKeys(offer.x25519, offer.mlkem) for place, offer in opened.items()}
        if session.offers[self.place] != session.keys.public:
            raise PeerError("The coordinator changed this node's own keys.", "The session was not joined.")
        session.digest = masks.offers_digest(offers)
        for place in session.participants:
            if place > self.place:
                raw, session.own_ciphertexts[place] = session.keys.initiate(session.offers[place], self._name(place))
                session.secrets[place] = self._session_secret(raw, place)
        self._advance("encapsulate")
        pairs = tuple(sorted(session.own_ciphertexts.items()))
        return sign(self._identity, Encapsulations(self._context(0), session.digest, pairs))

    def deal(self, encapsulations: Sequence[Signed]) -> Signed:
        """Session, exchange 3: finish the pair secrets, deal for the first round."""
        self._expect("deal")
        session = self._require_session()
        opened = self._open_all(encapsulations, Encapsulations, 0)
        if tuple(sorted(opened)) != session.participants:
            raise PeerError("The coordinator left out a participant's ciphertexts.", "The session was not joined.")
        for place, message in opened.items():
            if message.offers != session.digest:
                raise PeerError(
                    f"{self._name(place)} was shown other keys than this node.", "The session was not joined."
                )
            if place < self.place:
                raw = session.keys.respond(
                    session.offers[place], dict(message.ciphertexts).get(self.place, b""), self._name(place)
                )
                session.secrets[place] = self._session_secret(raw, place)
        self._advance("deal")
        return self._deal_for(session.first_round)

    def start(self, envelope: Signed) -> RoundStart:
        """Round, exchange 1: check who takes part; refuses whoever's authenticated shares did not come."""
        self._expect("start")
        current = self._require_round()
        message = open_signed(envelope, RoundStart, self._coordinator, "the coordinator")
        self._check_context(message.context, current.number)
        participants = message.participants
        session = self._require_session()
        if not set(participants) <= set(session.participants) or self.place not in participants:
            raise PeerError("The coordinator names participants outside the session.", "The round was not joined.")
        if len(participants) < self._setup.least_included or list(participants) != sorted(set(participants)):
            raise PeerError(
                f"The coordinator starts a round with {len(set(participants))} of {self._setup.n} members.",
                f"At least {self._setup.least_included} are needed.",
            )
        current.received = self._open_shares(message, current)
        current.participants, current.model = participants, message.model
        self.used_round = current.number
        self._advance("start")
        return message

    def mask(self, vector: npt.NDArray[np.int64], bits: int) -> MaskedVector:
        """The packed masked vector; `vector` [length] are signed integers that fit into `bits` bits."""
        self._expect("mask")
        current, length = self._require_round(), len(vector)
        masked = ring.from_signed(vector, bits).astype(np.uint32)
        masked += masks.self_mask(current.self_key, length)
        group = masks.set_digest(current.participants)
        for other in current.participants:
            if other != self.place:
                shared = masks.pair_mask(current.round_keys[other], group, current.model, length)
                masked = masked + shared if self.place < other else masked - shared
        packed = ring.pack(masked.astype(np.uint64) & ring.mask(bits), bits)
        self._advance("mask")
        digest = hashlib.sha256(packed).digest()
        statement = VectorStatement(self._context(current.number), group, current.model, digest)
        return MaskedVector(sign(self._identity, statement), packed)

    def open(self, envelope: Signed) -> Opening:
        """Round, exchange 2: the shares that unmask exactly U, a signature on U, and the deal for the next round."""
        self._expect("open")
        current = self._require_round()
        request = open_signed(envelope, UnmaskRequest, self._coordinator, "the coordinator")
        self._check_context(request.context, current.number)
        self._check_included(request, current)
        included = request.included
        shares = Shares(
            self._context(current.number),
            tuple((place, current.received[place][: masks.KEY_BYTES]) for place in included),
            tuple((place, current.received[place][masks.KEY_BYTES :]) for place in current.participants
                  if place not in included),
        )  # fmt: skip
        settlement = Settlement(self._context(current.number), included)
        self._advance("open")
        next_deal = self._deal_for(current.number + 1)
        return Opening(sign(self._identity, shares), sign(self._identity, settlement), next_deal)

    def _check_included(self, request: UnmaskRequest, current: _Round) -> None:
        included = request.included
        if self.place not in included:
            raise PeerError("The coordinator asks to unmask a set without this node.", "No shares were given.")
        if list(included) != sorted(set(included)) or not set(included) <= set(current.participants):
            raise PeerError("The coordinator asks to unmask nodes that are not participants.", "No shares were given.")
        if len(included) < self._setup.least_included:
            raise PeerError(
                f"The coordinator asks to unmask {len(included)} of {self._setup.n} members.",
                f"At least {self._setup.least_included} are needed; no shares were given.",
            )
        statements = self._open_all(request.statements, VectorStatement, current.number)
        if tuple(sorted(statements)) != included:
            raise PeerError("The coordinator's statements are not those of the set it names.", "No shares were given.")
        group = masks.set_digest(current.participants)
        for place, statement in statements.items():
            if statement.participants != group or statement.model != current.model:
                raise PeerError(
                    f"{self._name(place)} was told other participants or another model than this node.",
                    "No shares were given.",
                )

    def _deal_for(self, round_number: int) -> Signed:
        """Make this node's secrets for `round_number`; erases those of the round before."""
        session = self._require_session()
        if self._round is not None:
            session.secrets = {place: masks.ratchet(secret) for place, secret in session.secrets.items()}
        keys = {place: masks.round_key(secret, round_number) for place, secret in session.secrets.items()}
        self_key, list_key = self._stream.bytes(masks.KEY_BYTES), self._stream.bytes(masks.KEY_BYTES)
        places, threshold = session.participants, self._setup.threshold
        self_shares = shamir.share(self_key, places, threshold, self._stream)
        list_shares = shamir.share(list_key, places, threshold, self._stream)
        sealed: list[tuple[int, bytes]] = []
        for place, secret in sorted(session.secrets.items()):
            key = masks.share_key(secret, round_number, self.place, place)
            label = self._label(round_number, self.place, place)
            sealed.append((place, AESGCM(key).encrypt(_NONCE, self_shares[place] + list_shares[place], label)))
        share_keys = {p: masks.share_key(s, round_number, p, self.place) for p, s in session.secrets.items()}
        own = (self_shares[self.place], list_shares[self.place])
        self._round = _Round(round_number, keys, own, share_keys, self_key)
        deal = Deal(
            self._context(round_number),
            tuple(sealed),
            tuple((place, masks.commitment(key)) for place, key in sorted(keys.items())),
            masks.key_hash(self_key, "self"),
            masks.key_hash(list_key, "list"),
            AESGCM(list_key).encrypt(_NONCE, _pack_list(keys), self._label(round_number, self.place, 0)),
        )
        return sign(self._identity, deal)

    def _open_shares(self, message: RoundStart, current: _Round) -> dict[int, bytes]:
        sealed, received = dict(message.shares), {self.place: b"".join(current.own_shares)}
        for place in message.participants:
            if place == self.place:
                continue
            label = self._label(current.number, place, self.place)
            try:
                received[place] = AESGCM(current.share_keys[place]).decrypt(_NONCE, sealed.get(place, b""), label)
            except (InvalidTag, ValueError):
                raise PeerError(
                    f"The share of {self._name(place)} for round {current.number} is missing or altered.",
                    "The round was not joined.",
                ) from None
            if len(received[place]) != 2 * masks.KEY_BYTES:
                raise PeerError(f"The share of {self._name(place)} has a wrong length.", "The round was not joined.")
        return received

    def _open_all(
        self, envelopes: Iterable[Signed], kind: type[MessageType], round_number: int
    ) -> dict[int, MessageType]:
        opened: dict[int, MessageType] = {}
        for envelope in envelopes:
            if envelope.signer not in self.members:
                raise PeerError(f"A {kind.__name__} is signed by somebody who is not a member.", "It was not used.")
            place = self.members.index(envelope.signer) + 1
            message = open_signed(envelope, kind, envelope.signer, self._name(place))
            self._check_context(message.context, round_number)  # type: ignore[attr-defined]
            if place in opened:
                raise PeerError(f"{self._name(place)} appears twice.", "It was not used.")
            opened[place] = message
        return opened

    def _session_secret(self, raw: bytes, place: int) -> bytes:
        session = self._require_session()
        low, high = sorted((self.members[self.place - 1], self.members[place - 1]))
        return hkdf(raw, "session", self._run, session.number, low, high, session.digest)

    def _label(self, round_number: int, dealer: int, receiver: int) -> bytes:
        return wire.encode(self._context(round_number)) + bytes([dealer, receiver])

    def _context(self, round_number: int) -> Context:
        return Context(self._run, self._require_session().number, round_number)

    def _check_context(self, context: Context, round_number: int) -> None:
        expected = self._context(round_number)
        if context != expected:
            raise PeerError(
                f"A message of session {context.session}, round {context.round} came in session {expected.session}, "
                f"round {expected.round}.",
                "An old or foreign message is never answered.",
            )

    def _expect(self, call: str) -> None:
        allowed, _ = TRANSITIONS[call]
        if self._state not in allowed:
            raise PeerError(
                f"The coordinator asks to {call} when this node is {self._state.name.lower()}.", "It was not answered."
            )

    def _advance(self, call: str) -> None:
        self._state = TRANSITIONS[call][1]

    def _require_session(self) -> _Session:
        if self._session is None:
            raise PeerError("The coordinator has not started a session.", "It was not answered.")
        return self._session

    def _require_round(self) -> _Round:
        if self._round is None:
            raise PeerError("The coordinator has not started a round.", "It was not answered.")
        return self._round

    def _name(self, place: int) -> str:
        return f"member {place}"


def _pack_list(keys: Mapping[int, bytes]) -> bytes:
    return b"".join(bytes([place]) + key for place, key in sorted(keys.items()))


def unpack_list(data: bytes) -> dict[int, bytes]:
    """The round keys in an opened list, by place."""
    step = 1 + masks.KEY_BYTES
    if len(data) % step:
        raise ValueError("a list of round keys has a wrong length")
    return {data[i]: data[i + 1 : i + step] for i in range(0, len(data), step)}
