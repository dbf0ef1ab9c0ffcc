"""A hospital's side of secure aggregation, and what it checks before it gives shares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import numpy as np
import numpy.typing as npt

from primum import ring
from primum.errors import PeerError
from primum.keys.identity import Identity
from primum.rng import Stream
from primum.secagg import deal, masks
from primum.secagg.messages import (
    Confirmation,
    ConfirmRequest,
    Context,
    Encapsulated,
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
from primum.secagg.roster import Roster, require_context
from primum.secagg.session import Member, Session
from primum.secagg.setup import MOST_GRAPHS, Setup


class State(Enum):
    """Where a node stands."""

    IDLE = auto()
    OFFERED = auto()
    REVEALED = auto()
    PAIRED = auto()
    DEALT = auto()
    STARTED = auto()
    MASKED = auto()
    CONFIRMED = auto()


_MOST_NUMBER: Final = 1 << 40  # of sessions and rounds

Transitions = Mapping[str, tuple[frozenset[State], State]]


def transitions(sparse: bool, confirms: bool) -> Transitions:
    """From which states each call is allowed, and where it leads: the whole state machine.

    A new session may begin from everywhere (a round that failed leaves the node anywhere); everything else has exactly
    one predecessor.
    """
    table = {"offer": (frozenset(State), State.OFFERED)}
    if sparse:
        table["reveal"] = (frozenset({State.OFFERED}), State.REVEALED)
    table["encapsulate"] = (frozenset({State.REVEALED if sparse else State.OFFERED}), State.PAIRED)
    table["deal"] = (frozenset({State.PAIRED}), State.DEALT)
    table["start"] = (frozenset({State.DEALT}), State.STARTED)
    table["mask"] = (frozenset({State.STARTED}), State.MASKED)
    if confirms:
        table["confirm"] = (frozenset({State.MASKED}), State.CONFIRMED)
    table["open"] = (frozenset({State.CONFIRMED if confirms else State.MASKED}), State.DEALT)
    return table


@dataclass
class _Round:
    """What a node knows of the round it is in; erased when it ends."""

    secrets: deal.RoundSecrets
    participants: tuple[int, ...] = ()
    group: bytes = b""  # H(participants)
    model: bytes = b""
    received: dict[int, tuple[bytes, bytes]] = field(default_factory=dict, repr=False)
    confirmed: bytes = b""  # H(U)

    @property
    def number(self) -> int:
        return self.secrets.number


class Node:
    """One member of one run.

    `members` are the identities of the study, a node's place (1 to n) its position in their sorted list; `run` names the
    run and all that its members agreed to (a digest of the study); `used_round` and `used_session` are the highest
    numbers that this node has ever begun in this run, also before a restart; `shared_secrets` are secrets that two sites
    have from elsewhere (quantum key distribution, a courier), by the other's identity. Every method takes the server's
    message and returns the answer; a peer's fault is a PeerError that names it and changes nothing.
    """

    def __init__(
        self,
        identity: Identity,
        members: Sequence[bytes],
        coordinator: bytes,
        run: bytes,
        setup: Setup,
        used_round: int,
        used_session: int = 0,
        shared_secrets: Mapping[bytes, bytes] | None = None,
    ) -> None:
        if len(members) != setup.n or len(set(members)) != setup.n:
            raise PeerError(f"The study names {setup.n} members, the list has {len(set(members))}.", "Not taken part.")
        self._roster = Roster(members)
        place = self._roster.place(identity.public, "study")
        self._member = Member(identity, self._roster, place, run, setup, dict(shared_secrets or {}))
        self._coordinator, self._setup = coordinator, setup
        self._transitions: Final = transitions(setup.sparse, setup.confirms)
        self._state = State.IDLE
        self._session: Session | None = None
        self._round: _Round | None = None
        self.used_round, self.used_session = used_round, used_session

    def __repr__(self) -> str:
        return f"Node(member {self.place}, {self._state.name.lower()})"

    @property
    def members(self) -> tuple[bytes, ...]:
        """The members' identities, by place."""
        return self._roster.members

    @property
    def place(self) -> int:
        """This node's place, from 1."""
        return self._member.place

    # -- session --------------------------------------------------------------------------------------------------

    def offer(self, session: int, first_round: int) -> Signed:
        """Session, exchange 1: fresh keys; all secrets of an older session are erased."""
        self._expect("offer")
        if not (1 <= session < _MOST_NUMBER and 1 <= first_round < _MOST_NUMBER):
            raise PeerError("The coordinator names an impossible session or round.", "It was not answered.")
        if session <= self.used_session:
            raise PeerError(f"The coordinator replays session {session}.", "It was not answered.")
        if first_round <= self.used_round:
            raise PeerError(f"The coordinator asks for round {first_round} again.", "A round number is used once.")
        if self._setup.sparse and session > MOST_GRAPHS:
            raise PeerError(
                f"The coordinator draws more than {MOST_GRAPHS} graphs in one run.",
                "A lying one waits for a bad graph.",
            )
        self.used_session = session
        self._round, self._session = None, Session(self._member, session, first_round)
        self._advance("offer")
        return self._session.offer()

    def reveal(self, offers: Sequence[Signed]) -> Signed:
        """Sparse graph: this node's nonce, once all key offers are here."""
        self._expect("reveal")
        answer = self._require_session().reveal(offers)
        self._advance("reveal")
        return answer

    def encapsulate(self, shown: Sequence[Signed]) -> Encapsulated:
        """Session, exchange 2: agree with each higher-placed neighbour; `shown` are all offers (sparse: all reveals)."""
        self._expect("encapsulate")
        answer = self._require_session().encapsulate(shown)
        self._advance("encapsulate")
        return answer

    def deal(self, received: Sequence[Encapsulated]) -> Signed:
        """Session, exchange 3: finish the pair secrets, deal for the first round."""
        self._expect("deal")
        session = self._require_session()
        session.respond(received)
        self._advance("deal")
        return self._deal_for(session.first_round)

    # -- round ----------------------------------------------------------------------------------------------------

    def start(self, envelope: Signed) -> RoundStart:
        """Round, exchange 1: check who takes part; refuses whoever's authenticated shares did not come."""
        self._expect("start")
        current, session = self._require_round(), self._require_session()
        message = self._from_coordinator(envelope, RoundStart, current)
        participants = message.participants
        if not set(participants) <= set(session.participants) or self.place not in participants:
            raise PeerError("The coordinator names participants outside the session.", "The round was not joined.")
        if len(participants) < self._setup.least_included or list(participants) != sorted(set(participants)):
            raise PeerError(
                f"The coordinator starts a round with {len(set(participants))} of {self._setup.n} members.",
                f"At least {self._setup.least_included} are needed.",
            )
        current.received = self._open_shares(message, current)
        current.participants, current.group = participants, masks.set_digest(participants)
        current.model = message.model
        self.used_round = current.number
        self._advance("start")
        return message

    def mask(self, vector: npt.NDArray[np.integer], bits: int) -> MaskedVector:
        """The packed masked vector; `vector` [length] are signed integers that fit into `bits` bits."""
        self._expect("mask")
        current = self._require_round()
        whole = ring.require_signed(vector, bits)
        added, subtracted = [masks.self_mask_key(current.secrets.self_key)], list[bytes]()
        for other in current.participants:
            if other in current.secrets.round_keys:
                key = masks.pair_mask_key(current.secrets.round_keys[other], current.group, current.model)
                (added if self.place < other else subtracted).append(key)
        packed = masks.apply(whole, bits, added, subtracted)
        self._advance("mask")
        digest = masks.vector_digest(packed)
        statement = VectorStatement(self._context(current.number), current.group, current.model, digest)
        return MaskedVector(sign(self._member.identity, statement), packed)

    def confirm(self, envelope: Signed) -> Signed:
        """Round, the exchange between where a quorum signs: this node's word on P, model and U; one U a round."""
        self._expect("confirm")
        current = self._require_round()
        request = self._from_coordinator(envelope, ConfirmRequest, current)
        self._check_included(request.included, current)
        current.confirmed = masks.set_digest(request.included)
        self._advance("confirm")
        context = self._context(current.number)
        return sign(self._member.identity, Confirmation(context, current.group, current.model, current.confirmed))

    def open(self, envelope: Signed) -> Opening:
        """Round, last exchange: the shares that unmask exactly U, a signature on U, and the deal for the next round."""
        self._expect("open")
        current = self._require_round()
        request = self._from_coordinator(envelope, UnmaskRequest, current)
        self._check_included(request.included, current)
        if self._setup.confirms:
            self._check_quorum(request, current)
        else:
            self._check_statements(request, current)
        included = frozenset(request.included)
        context = self._context(current.number)
        shares = Shares(
            context,
            tuple((place, own) for place, (own, _) in sorted(current.received.items()) if place in included),
            tuple((place, lists) for place, (_, lists) in sorted(current.received.items()) if place not in included),
        )
        self._advance("open")
        signed = sign(self._member.identity, shares)
        settlement = sign(self._member.identity, Settlement(context, request.included))
        return Opening(signed, settlement, self._deal_for(current.number + 1))

    def _check_included(self, included: tuple[int, ...], current: _Round) -> None:
        if self.place not in included:
            raise PeerError("The coordinator asks to unmask a set without this node.", "No shares were given.")
        if list(included) != sorted(set(included)) or not set(included) <= set(current.participants):
            raise PeerError("The coordinator asks to unmask nodes that are not participants.", "No shares were given.")
        if len(included) < self._setup.least_included:
            raise PeerError(
                f"The coordinator asks to unmask {len(included)} of {self._setup.n} members.",
                f"At least {self._setup.least_included} are needed; no shares were given.",
            )

    def _check_statements(self, request: UnmaskRequest, current: _Round) -> None:
        context = self._context(current.number)
        statements = self._roster.open_all(request.evidence, VectorStatement, context)
        if tuple(statements) != request.included:
            raise PeerError("The coordinator's statements are not those of the set it names.", "No shares were given.")
        for place, statement in statements.items():
            if (statement.participants, statement.model) != (current.group, current.model):
                raise PeerError(
                    f"member {place} was told other participants or another model than this node.",
                    "No shares were given.",
                )

    def _check_quorum(self, request: UnmaskRequest, current: _Round) -> None:
        if masks.set_digest(request.included) != current.confirmed:
            raise PeerError("The coordinator asks to unmask another set than it had signed.", "No shares were given.")
        context = self._context(current.number)
        expected = Confirmation(context, current.group, current.model, current.confirmed)
        committee = self._require_session().graph.committee
        agreed = self._roster.open_all(request.evidence, Confirmation, context)
        for place, confirmation in agreed.items():
            if confirmation != expected:
                raise PeerError(
                    f"member {place} was told another set, other participants or another model than this node.",
                    "No shares were given.",
                )
        if len(agreed.keys() & committee) < self._setup.committee.needed:
            raise PeerError(
                f"{len(agreed.keys() & committee)} of the committee signed the set, "
                f"{self._setup.committee.needed} are needed.",
                "No shares were given.",
            )

    def _deal_for(self, round_number: int) -> Signed:
        """Make this node's secrets for `round_number`; erases those of the round before."""
        session = self._require_session()
        if self._round is not None:
            session.ratchet()
        made, secrets = deal.make(
            self._context(round_number),
            self.place,
            session.secrets,
            session.positions(),
            self._setup.threshold,
            Stream.from_os(),  # one for each deal: the key of a counter-mode stream gives all that came before, too
        )
        self._round = _Round(secrets)
        return sign(self._member.identity, made)

    def _open_shares(self, message: RoundStart, current: _Round) -> dict[int, tuple[bytes, bytes]]:
        own = current.secrets.own_share
        received = {self.place: (own[: masks.KEY_BYTES], own[masks.KEY_BYTES :])}
        sealed = dict(message.shares)
        for place in message.participants:
            if place in current.secrets.share_keys:
                key = current.secrets.share_keys[place]
                received[place] = deal.open_share(key, sealed.get(place, b""), message.context, place, self.place)
        return received

    # -- where it stands --------------------------------------------------------------------------------------------

    def _from_coordinator(self, envelope: Signed, kind: type[MessageType], current: _Round) -> MessageType:
        message = open_signed(envelope, kind, self._coordinator, "the coordinator")
        return require_context(message, self._context(current.number))

    def _context(self, round_number: int) -> Context:
        return Context(self._member.run, self._require_session().number, round_number)

    def _expect(self, call: str) -> None:
        allowed, _ = self._transitions.get(call, (frozenset(), None))
        if self._state not in allowed:
            raise PeerError(
                f"The coordinator asks to {call} when this node is {self._state.name.lower()}.", "It was not answered."
            )

    def _advance(self, call: str) -> None:
        self._state = self._transitions[call][1]

    def _require_session(self) -> Session:
        assert self._session is not None  # every state but idle has one, and idle answers offers only
        return self._session

    def _require_round(self) -> _Round:
        assert self._round is not None  # made by deal, erased by offer
        return self._round
