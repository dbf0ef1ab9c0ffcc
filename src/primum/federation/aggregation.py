"""Sums over the hospitals, at the coordinator: sessions, and attempts at a round. Knows no Flower.

An attempt that fails (somebody missed a deadline, gave a wrong share, restarted) is thrown away; the next one begins a
new session with whoever is there, and has a new number. What nodes charged stays charged.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

from primum import wire
from primum.errors import PeerError, Refused, Unavailable
from primum.federation.approval import NO, YES
from primum.federation.messages import (
    Answer,
    ConfirmOrder,
    Consent,
    DealOrder,
    Failure,
    KeysOrder,
    OpeningAnswer,
    Order,
    PairAnswer,
    PairOrder,
    Reply,
    RevealOrder,
    RoundOrder,
    StudyOrder,
    UnmaskOrder,
    VectorAnswer,
    agreement,
)
from primum.federation.participant import model_digest
from primum.federation.probe import longer, without_probe
from primum.federation.runs import Run
from primum.federation.witness import head_of, kept
from primum.journal import Journal
from primum.keys.identity import Identity
from primum.secagg import Aggregate, Blame, Opening, Server, Shape
from primum.tasks.plan import Plan

Message = TypeVar("Message", bound=wire.Message)
Answered = TypeVar("Answered", Answer, PairAnswer, VectorAnswer, OpeningAnswer)


@dataclass(frozen=True)
class Replies:
    """What came back before the deadline, by place; bytes that went out and came in, by place."""

    by_place: Mapping[int, Reply]
    sent: Mapping[int, int]
    received: Mapping[int, int]


class Exchange(Protocol):
    """Carries one order to each named member and brings the replies that come before the deadline."""

    def __call__(self, orders: Mapping[int, Order], deadline: float) -> Replies:
        """`deadline` in seconds. A member that is away is missing in the replies."""


class Halted(Refused):
    """The run stands still: somebody asked for a stop, or too few hospitals agree any more. It can be resumed."""


@dataclass
class Traffic:
    """Bytes that all members sent and received, by kind of exchange."""

    up: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, replies: Replies) -> None:
        """Count one exchange."""
        self.up[kind] = self.up.get(kind, 0) + sum(replies.received.values())
        self.down[kind] = self.down.get(kind, 0) + sum(replies.sent.values())


class Aggregation:
    """The sums of one run. `survey`: what came out of its survey, for every later order.

    After each attempt: `vectors_left`, whether a masked vector had come; `round_bytes`, the most that a member sent and
    received; `their_journals`, the signed heads that came with the vectors; `budget_over`, whether a hospital ever
    refused for its budget.
    """

    def __init__(
        self,
        run: Run,
        plan: Plan,
        identity: Identity,
        exchange: Exchange,
        journal: Journal,
        say: Callable[[str], None],
    ) -> None:
        self._run, self._exchange, self._say = run, exchange, say
        self._identity, self._journal = identity, journal
        self._members = plan.study.hospitals.identities()
        self._signed = run.signed_study()
        self._deadline, self._setup = plan.study.deadlines.stage, plan.setup
        self._everybody = range(1, plan.hospitals + 1)
        agreed = agreement(run.token, self._signed)
        self._server = Server(identity, self._members, agreed, self._setup)
        self._blamed: Counter[int] = Counter()
        self._in_session = False
        self.traffic = Traffic()
        self.budget_over = False
        self.vectors_left = False
        self.round_bytes: dict[str, int] = {}
        self.their_journals: list[str] = []
        self.survey = b""

    def leave_session(self) -> None:
        """The next attempt begins a new session."""
        self._in_session = False

    def attempt(self, what: str, weights: bytes, shape: Shape) -> tuple[Aggregate, float]:
        """One sum of what the hospitals compute at these weights, and the slowest one's seconds of local work.

        Raises PeerError or Unavailable where it failed; the caller then leaves the session. Whoever is to blame is left
        out of the next one, as far as the study can do without.
        """
        try:
            return self._try(what, weights, shape)
        except Blame as error:
            self._blamed.update(error.places)
            raise

    def _try(self, what: str, weights: bytes, shape: Shape) -> tuple[Aggregate, float]:
        self.vectors_left, self.round_bytes, self.their_journals = False, {}, []
        if not self._in_session or len(self._server.dealt) < self._setup.least_included:
            self._session()
        self._run.start(self._server.round, self._run.started()[1])
        local, included = self._vectors(what, weights, shape)
        if self._setup.confirms:
            confirmed = self._same("confirmations", included, ConfirmOrder(self._run.token, self._server.confirm()))
            for place, reply in _answers(confirmed, Answer).items():
                self._accept(place, self._server.take_confirmation, reply.message)
        opened = self._same("shares", included, UnmaskOrder(self._run.token, self._server.request()))
        openings: dict[int, Opening] = {
            place: reply.opening for place, reply in _answers(opened, OpeningAnswer).items()
        }
        aggregate = self._server.finish(openings)
        if aggregate.liars:
            self._blamed.update(aggregate.liars)
            self._say(f"{names(aggregate.liars)} gave wrong shares; the sum is right without them.")
        aggregate = without_probe(aggregate, self._run.token, self._run.started()[0], shape.bits)
        self._in_session = self._enough_left()
        return aggregate, local

    def _enough_left(self) -> bool:
        """Whether the session goes on: with everybody who is not left out; over a random graph, where it is dear, longer."""
        slack = self._setup.may_vanish // 2 if self._setup.sparse else 0
        return len(self._server.dealt) >= len(self._everybody) - len(self._left_out()) - slack

    def _left_out(self) -> set[int]:
        """The members most often to blame, at most as many as may vanish."""
        return {place for place, _ in self._blamed.most_common(self._setup.may_vanish)}

    def _vectors(self, what: str, weights: bytes, shape: Shape) -> tuple[float, list[int]]:
        settlements = self._server.settlements
        starts = self._server.start(model_digest(what, weights, self.survey), longer(shape))
        head = head_of(self._journal, self._run.token, self._identity)
        orders: dict[int, Order] = {
            place: RoundOrder(self._run.token, what, weights, start, settlements, head, self.survey)
            for place, start in starts.items()
        }
        answers = _answers(self._send("vectors", orders), VectorAnswer)
        for place, reply in answers.items():
            self.vectors_left = True
            if self._keep_head(place, reply):
                self._accept(place, self._server.take_vector, reply.vector)
        return max((reply.local_seconds for reply in answers.values()), default=0.0), list(answers)

    def _keep_head(self, place: int, reply: VectorAnswer) -> bool:
        signer, name = self._members[place - 1], names([place])
        try:
            self.their_journals.append(kept(reply.journal, self._run.token, signer, name))
        except PeerError as error:
            self._say(f"{name} is left out: {error.message}")
            return False
        return True

    def _session(self) -> None:
        """Three exchanges, four with a random graph: keys, (nonces), ciphertexts, shares for the first round.

        Includes whoever is there and agreed.
        """
        last_round, last_session = self._run.started()
        session, first, token = last_session + 1, last_round + 1, self._run.token
        self._run.start(last_round, session)
        self._server.begin_session(session, first)
        study = StudyOrder(token, self._signed)  # whoever restarted must know the study again
        left_out = self._left_out()
        if left_out:
            self._say(f"{names(left_out)} left out: it did not keep to the protocol.")
        here = self._same("setup", [place for place in self._everybody if place not in left_out], study)
        self._require_enough_consent(here)
        present = [p for p, reply in here.by_place.items() if isinstance(reply, Consent) and reply.answer == YES]
        keys = _answers(self._same("setup", present, KeysOrder(token, session, first)), Answer)
        present = [
            place for place, reply in keys.items() if self._accept(place, self._server.take_offer, reply.message)
        ]
        shown = self._server.offers()
        if self._setup.sparse:
            for place, reply in _answers(self._same("setup", present, RevealOrder(token, shown)), Answer).items():
                self._server.take_reveal(place, reply.message)
            shown = self._server.reveals()
        pairs = _answers(self._same("setup", present, PairOrder(token, shown)), PairAnswer)
        for place in present:
            if place not in pairs:
                raise Unavailable(f"{names([place])} left during the key exchange.", "It is made again.")
            self._server.take_encapsulated(place, pairs[place].message)
        deals: dict[int, Order] = {place: DealOrder(token, self._server.encapsulated_for(place)) for place in present}
        for place, reply in _answers(self._send("setup", deals), Answer).items():
            self._accept(place, self._server.take_deal, reply.message)
        self._in_session = True

    def _require_enough_consent(self, here: Replies) -> None:
        """Halted where so many hospitals say no that no round could come to its end. (Budgets end a study, see Rounds.)"""
        if self.budget_over:
            return
        no = {
            p: reply.reason for p, reply in here.by_place.items() if isinstance(reply, Consent) and reply.answer == NO
        }
        if len(self._everybody) - len(no) < self._setup.least_included:
            raise Halted(f"Too few hospitals agree any more: {reasons(no)}.", "Talk to them; `primum resume` goes on.")

    def _accept(self, place: int, take: Callable[[int, Message], None], message: Message) -> bool:
        """Whether the server took a member's message; where it did not, the operator reads why."""
        try:
            take(place, message)
        except PeerError as error:
            self._say(f"{names([place])} is left out: {error.message}")
            return False
        return True

    def _same(self, kind: str, places: Iterable[int], order: Order) -> Replies:
        return self._send(kind, dict.fromkeys(places, order))

    def _send(self, kind: str, orders: Mapping[int, Order]) -> Replies:
        require_going_on(self._run)
        self._run.wait(kind, orders, self._deadline)
        replies = self._exchange(orders, self._deadline)
        require_going_on(self._run)
        self.traffic.add(kind, replies)
        for place, reply in replies.by_place.items():
            if isinstance(reply, Failure):
                self.budget_over |= reply.error == "BudgetError"
                self._say(f"{names([place])}: {reply.message} {reply.hint}".strip())
                note_fault(self._run, place, reply)
        missing = [place for place in orders if place not in replies.by_place]
        if missing:
            self._run.set_status("running", f"{names(missing)} missed a deadline")
        self.round_bytes = {
            "bytes_up": self.round_bytes.get("bytes_up", 0) + max(replies.received.values(), default=0),
            "bytes_down": self.round_bytes.get("bytes_down", 0) + max(replies.sent.values(), default=0),
        }
        return replies


def require_going_on(run: Run) -> None:
    """Halted if somebody asked for a stop."""
    if run.stop_asked:
        raise Halted("The run was stopped.", "`primum resume` goes on after the last finished round.")


def note_fault(run: Run, place: int, failure: Failure) -> None:
    """Keep what a hospital could not do, for the scientist."""
    attempt, fault = run.started()[0], {"code": failure.error, "message": failure.message, "hint": failure.hint}
    run.append("faults.jsonl", {"at": time.time(), "attempt": attempt, "hospital": place, **fault})


def names(places: Iterable[int]) -> str:
    """Members in words, by place."""
    return ", ".join(f"hospital {place}" for place in sorted(places))


def reasons(said: dict[int, str]) -> str:
    """What members said, by place: once, where several said the same."""
    alike: dict[str, list[int]] = {}
    for place, words in sorted(said.items()):
        alike.setdefault(words.rstrip("."), []).append(place)
    return "; ".join(f"{names(places)}: {words}" for words, places in alike.items())


def _answers(replies: Replies, kind: type[Answered]) -> dict[int, Answered]:
    """The replies of one kind, by place."""
    return {place: reply for place, reply in replies.by_place.items() if isinstance(reply, kind)}
