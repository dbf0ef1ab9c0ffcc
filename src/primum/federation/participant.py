"""A hospital's part in one run: orders in, replies out. Knows no network; `node.py` carries the bytes.

What must hold before anything that depends on the data leaves: the study is signed and within the policy, this hospital
is a member and said yes, the round is new, and its cost is reserved in the ledger.
"""

import datetime
import hashlib
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from primum import wire
from primum.accelerator import PROCESSOR, Accelerator
from primum.dp import account
from primum.dp.ledger import EVALUATION, TRAINING, Ledger
from primum.errors import BudgetError, PeerError, Refused, StudyError
from primum.federation.approval import NO, POLICY, WAITING, YES, Approval, Approvals, Request, Standing, end_of
from primum.federation.explain import images_in_words, rounds_in_words, task_in_words, update_in_words
from primum.federation.memory import Memory
from primum.federation.messages import (
    EVALUATE,
    SURVEY,
    TRAIN,
    Answer,
    ConfirmOrder,
    Consent,
    DealOrder,
    Done,
    EndOrder,
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
from primum.federation.policy import Policy
from primum.federation.probe import with_probe
from primum.federation.witness import FIELD, head_of, kept
from primum.journal import Journal
from primum.keys.identity import Identity, list_fingerprint, verify
from primum.rng import Stream
from primum.secagg import Node
from primum.secagg.messages import Settlement, Signed, open_signed
from primum.study import PURPOSE, SignedStudy, Study
from primum.tasks.learner import Cohort, Learner
from primum.tasks.look import Integers, Weights, known_pixels, look, survey
from primum.tasks.plan import Plan
from primum.tasks.selftest import self_test


@dataclass(frozen=True)
class Cohorts:
    """A hospital's patients for one study, split for ever into training and evaluation."""

    training: Cohort
    evaluation: Cohort


class Desk(Protocol):
    """Where a study is put before a person: returns yes, no or waiting, and by whom."""

    @property
    def attended(self) -> bool:
        """Whether a person could answer here."""

    def ask(self, run: bytes, study: Study, plan: Plan, asker: bytes) -> tuple[str, str]:
        """May return waiting at once and be asked again."""


@dataclass(frozen=True)
class Hospital:
    """What a participant works with."""

    identity: Identity
    coordinator: bytes
    memory: Memory
    approvals: Approvals
    journal: Journal
    policy: Callable[[], Policy | None]
    ledger: Callable[[Policy], Ledger]
    cohorts: Callable[[Plan, float], Cohorts]
    desk: Desk
    show: Callable[[str], None] = field(default=lambda text: None)
    accelerator: Accelerator = PROCESSOR


@dataclass
class _Running:
    study: Study
    asker: bytes
    digest: bytes
    plan: Plan
    order: int  # the ledger's Renyi order when this run began
    node: Node
    ledger: Ledger
    learner: Learner
    cohorts: Cohorts
    passed: tuple[str, ...]
    charged: dict[int, str] = field(default_factory=dict)
    model: bytes = b""
    survey: bytes = b""

    def learn_of(self, order: RoundOrder, accelerator: Accelerator) -> None:
        """Take over what the hospitals' survey says, once. PeerError for a survey that is none, changes or is missing."""
        wanted = self.plan.sheet is not None and order.what != SURVEY
        if bool(order.survey) != wanted or (self.survey and order.survey != self.survey):
            raise PeerError("The coordinator sent another survey than the run's.", "The round was not joined.")
        if not wanted or order.survey == self.survey:
            return
        try:
            plan = self.plan.surveyed(np.frombuffer(order.survey, "<f8"))
        except ValueError:
            raise PeerError("The coordinator sent a survey that is none.", "The round was not joined.") from None
        parts = (self.cohorts.training, self.cohorts.evaluation)
        self.cohorts = Cohorts(*(known_pixels(plan, cohort) for cohort in parts))
        self.learner = Learner(plan, self.cohorts.training, accelerator)
        self.plan, self.survey = plan, order.survey


class Participant:
    """One run at one hospital. A refused order raises (PrimumError) and changes nothing outside the hospital."""

    def __init__(self, hospital: Hospital, run: bytes) -> None:
        self._hospital, self._run = hospital, run
        self._running: _Running | None = None
        self._stream = Stream.from_os()
        self._shown = False

    def handle(self, order: Order) -> Reply:
        """Carry out one order of the coordinator."""
        if isinstance(order, StudyOrder):
            return self._consider(order)
        if isinstance(order, EndOrder):
            self._hospital.journal.write("end", run=self._run.hex(), outcome=order.outcome[:200])
            self._hospital.show(f"Study ended: {order.outcome[:200]}")
            self._running = None
            return Done(self._run)
        running = self._running
        if running is None:
            raise PeerError(
                "The coordinator goes on with a run that was not put before this hospital.", "Not answered."
            )
        reply = self._aggregate(running, order)
        if not isinstance(order, RoundOrder | UnmaskOrder):  # those write entries of their own
            what = type(order).__name__.removesuffix("Order").lower()
            self._hospital.journal.write("exchange", run=self._run.hex(), what=what, bytes=len(wire.encode(reply)))
        return reply

    def _aggregate(self, running: _Running, order: Order) -> Reply:
        match order:
            case KeysOrder():
                self._require_consent(running)
                offer = running.node.offer(order.session, order.first_round)
                self._hospital.memory.use_session(self._run, order.session)
                return Answer(offer)
            case RevealOrder():
                return Answer(running.node.reveal(order.offers))
            case PairOrder():
                return PairAnswer(running.node.encapsulate(order.shown))
            case DealOrder():
                return Answer(running.node.deal(order.encapsulated))
            case RoundOrder():
                return self._round(running, order)
            case ConfirmOrder():
                return Answer(running.node.confirm(order.request))
            case UnmaskOrder():
                return self._open(running, order)
        raise PeerError("The coordinator sent an order out of its place.", "It was not answered.")

    # -- consent --------------------------------------------------------------------------------------------------

    def _consider(self, order: StudyOrder) -> Consent:
        signed = order.study
        verify(signed.asker, PURPOSE, signed.text.encode(), signed.signature, "the scientist")
        study = Study.parse(signed.text, "the study")
        digest = agreement(self._run, signed)
        if self._hospital.identity.public not in study.hospitals.identities():
            raise Refused("This hospital is not a member of the study.", "Nothing is answered.")
        if any(request.study != digest for request in self._hospital.approvals.requests_of(self._run)):
            raise PeerError(
                "The coordinator changed the study of a run.", "A changed study is a new study, in a new run."
            )
        policy = self._hospital.policy()
        standing = self._decide(digest, study, signed, policy)
        pinned = bool(policy and policy.members)
        if standing.answer == YES and self._running is None:
            self._running = self._prepare(study, signed.asker, digest, policy or Policy())
        passed = self._running.passed if self._running else ()
        return Consent(self._run, digest, standing.answer, standing.words, pinned, passed)

    def _decide(self, digest: bytes, study: Study, signed: SignedStudy, policy: Policy | None) -> Standing:
        """The answer, with words for the coordinator: nobody's name stands in them."""
        self._hospital.approvals.put(Request(digest, self._run, signed.text, signed.asker, time.time()))
        if self._standing(digest, policy).answer == NO:
            return Standing(NO, "declined or withdrawn")
        plan = Plan(study)
        self._show_request(plan, signed.asker)
        try:
            plan.check()
            self._hospital.memory.refuse_older(study.study.asked)
            _require_not_expired(study)
            (policy or Policy(decide="ask", without_privacy=True)).check(study, signed.asker, datetime.date.today())
            self._require_budget(plan, policy or Policy())
        except (StudyError, Refused) as error:
            self._note(digest, study, Standing(NO, error.message), POLICY)
            return Standing(NO, error.message)
        return self._ask(digest, plan, signed.asker, policy)

    def _ask(self, digest: bytes, plan: Plan, asker: bytes, policy: Policy | None) -> Standing:
        """What was decided before, or what policy or a person says now."""
        desk = self._hospital.desk
        standing = self._standing(digest, policy)
        if standing.answer == YES:
            return Standing(YES, "")
        if policy is not None and policy.signers is not None:
            return Standing(WAITING, "people are asked to sign")
        if policy is not None and policy.decide == "policy":
            answer, by = YES, POLICY
        elif policy is None and not desk.attended:
            return Standing(NO, "no policy.toml and no terminal to ask at")
        else:
            answer, by = desk.ask(self._run, plan.study, plan, asker)
        if answer != WAITING:
            until = end_of(plan.study.study.expires or datetime.date.today())
            self._hospital.approvals.answer(digest, Approval(by, answer, time.time(), until))
            self._note(digest, plan.study, Standing(answer, ""), by)
        return Standing(answer, {YES: "", NO: "declined", WAITING: "a person is asked"}[answer])

    def _standing(self, digest: bytes, policy: Policy | None) -> Standing:
        signers, needed = (policy.signers, policy.signers_needed) if policy else (None, 1)
        return self._hospital.approvals.standing(digest, signers, needed, time.time())

    def _require_consent(self, running: _Running) -> None:
        """Refused unless the yes still holds: it may have been withdrawn, the policy changed, the study ended."""
        policy = self._hospital.policy()
        if policy is not None:
            policy.check(running.study, running.asker, datetime.date.today())
        _require_not_expired(running.study)
        if self._standing(running.digest, policy).answer != YES:
            raise Refused("This hospital's consent to the study has ended.", "It was withdrawn or has run out.")

    def _show_request(self, plan: Plan, asker: bytes) -> None:
        if self._shown:
            return
        self._shown = True
        self._hospital.show("A study is put before this hospital:")
        for name, words in describe(plan, asker).items():
            self._hospital.show(f"  {name}: {words}")

    def _note(self, digest: bytes, study: Study, standing: Standing, by: str) -> None:
        answer, reason, name = standing.answer, standing.words, study.study.name
        self._hospital.journal.write(
            "decision", run=self._run.hex(), study=digest.hex(), name=name, answer=answer, by=by, reason=reason
        )
        self._hospital.show(f"Study {digest.hex()[:12]}: {answer} ({by}){': ' + reason if reason else ''}")

    def _require_budget(self, plan: Plan, policy: Policy) -> None:
        if plan.study.privacy is None:
            return
        ledger = self._hospital.ledger(policy)
        left = plan.study.training.rounds - self._charges(ledger, TRAINING)
        if left > 0:
            ledger.require(TRAINING, account.rdp(plan.training_steps(left), policy.rdp_order))
        looks = plan.looks - self._charges(ledger, EVALUATION)
        ledger.require(EVALUATION, account.rdp(plan.evaluation_steps(max(looks, 0)), policy.rdp_order))

    def _charges(self, ledger: Ledger, population: str) -> int:
        run = self._run.hex()
        return sum(entry.run == run and entry.population == population for entry in ledger.entries())

    def _prepare(self, study: Study, asker: bytes, digest: bytes, policy: Policy) -> _Running:
        plan = Plan(study)
        asked = study.evaluation_share
        fixed = 0 < asked < 1 or study.privacy is not None  # else nobody is trained on, or nobody is looked at
        share = self._hospital.memory.evaluation_share(asked) if fixed else asked
        if share != asked:
            raise Refused(
                f"This hospital sets {share:.0%} of its patients aside for evaluation for ever, the study {asked:.0%}.",
                f"Write evaluation_share = {share:g}: else a patient would train in one study and evaluate in the next.",
            )
        cohorts = self._hospital.cohorts(plan, share)
        memory, members = self._hospital.memory, study.hospitals.identities()
        used_round, used_session = memory.used_round(self._run), memory.used_session(self._run)
        node = Node(
            self._hospital.identity, members, self._hospital.coordinator, digest, plan.setup, used_round, used_session
        )
        learner = Learner(plan, cohorts.training, self._hospital.accelerator)
        passed = self_test(plan, learner, cohorts.training, self._stream)
        self._hospital.journal.write("self-test", run=self._run.hex(), passed=list(passed))
        ledger = self._hospital.ledger(policy)
        return _Running(study, asker, digest, plan, policy.rdp_order, node, ledger, learner, cohorts, passed)

    # -- rounds -----------------------------------------------------------------------------------------------------

    def _round(self, running: _Running, order: RoundOrder) -> VectorAnswer:
        began = time.monotonic()
        self._require_consent(running)
        theirs = kept(order.journal, self._run, self._hospital.coordinator, "the coordinator")
        self._settle(running, order.settlements)
        if order.what not in (TRAIN, EVALUATE, SURVEY):
            raise PeerError(f"The coordinator asks for {order.what[:20]!r}.", "It was not answered.")
        running.learn_of(order, self._hospital.accelerator)
        weights = self._weights(running.plan, order)
        _require_named_model(running.study, order)
        message = running.node.start(order.start)
        running.model = model_digest(order.what, order.weights, order.survey)
        if message.model != running.model:
            raise PeerError("The coordinator sent another model than it signed.", "The round was not joined.")
        number = message.context.round
        self._hospital.memory.use_round(self._run, number)
        divergence = self._reserve(running, order.what, number)
        vector, bits = self._vector(running, order.what, weights)
        masked = running.node.mask(with_probe(vector, self._run, number, running.node.place, bits), bits)
        self._hospital.journal.write(
            "vector",
            run=self._run.hex(),
            round=number,
            what=order.what,
            participants=list(message.participants),
            bytes=len(masked.vector),
            spent={"rdp": divergence, "order": running.order},
            **{FIELD: [theirs]},
        )
        shown = head_of(self._hospital.journal, self._run, self._hospital.identity)
        return VectorAnswer(masked, wait_for_grid(began, running.study.deadlines.reply_grid), shown)

    def _vector(self, running: _Running, what: str, weights: Weights) -> tuple[Integers, int]:
        """What leaves the hospital but for its mask, and of how many bits."""
        plan, cohorts = running.plan, running.cohorts
        if what == TRAIN:
            return running.learner.step(weights), plan.update.shape.bits
        if what == EVALUATE:
            return look(plan, cohorts.evaluation, weights, self._stream), plan.evaluation.bits
        asked = cohorts.training if plan.study.privacy is None else cohorts.evaluation
        return survey(plan, asked, self._stream), plan.surveying.bits

    def _reserve(self, running: _Running, what: str, number: int) -> float:
        """Charge the worst case of this round before anything is computed; returns its Renyi divergence."""
        if running.study.privacy is None:
            return 0.0
        population, steps, most = (
            (TRAINING, running.plan.training_steps(1), running.study.training.rounds)
            if what == TRAIN
            else (EVALUATION, running.plan.evaluation_steps(1), running.plan.looks)
        )
        if self._charges(running.ledger, population) >= most:
            raise BudgetError(
                f"All {most} sums over the study's {population} patients are charged already.",
                "What failed counts too; no more is given.",
            )
        divergence = account.rdp(steps, running.order)
        running.ledger.reserve(running.study.study.name, self._run.hex(), number, population, divergence)
        running.charged[number] = population
        return divergence

    def _settle(self, running: _Running, settlements: tuple[Signed, ...]) -> None:
        """Charge the noise that was really in the sum, if t members signed the same set."""
        signed: dict[tuple[int, tuple[int, ...]], set[int]] = {}
        for envelope in settlements:
            if envelope.signer not in running.node.members:
                continue
            place = running.node.members.index(envelope.signer) + 1
            try:
                statement = open_signed(envelope, Settlement, envelope.signer, f"member {place}")
            except PeerError:
                continue
            if statement.context.run == running.digest:
                signed.setdefault((statement.context.round, statement.included), set()).add(place)
        for (number, included), places in signed.items():
            if len(places) >= running.plan.setup.settling and places <= set(included):
                self._settle_one(running, number, len(included))

    def _settle_one(self, running: _Running, number: int, included: int) -> None:
        population = running.charged.pop(number, None)
        if population is None:
            return
        plan = running.plan
        honest = max(plan.k_min, included - plan.setup.colluding)
        really = plan.training_steps(1, honest) if population == TRAINING else plan.evaluation_steps(1, honest)
        running.ledger.settle(self._run.hex(), number, population, account.rdp(really, running.order))

    def _open(self, running: _Running, order: UnmaskOrder) -> OpeningAnswer:
        opening = running.node.open(order.request)
        settlement = wire.decode(opening.settlement.body, Settlement, "this node")
        included = settlement.included
        if running.study.privacy is None:
            hospitals = b"".join(running.node.members[place - 1] for place in included)
            if not self._hospital.memory.same_set(running.model, hashlib.sha256(hospitals).digest()):
                raise PeerError(
                    "The coordinator asks for a second sum on the same model over another set.",
                    "The difference would be one hospital's update: no shares were given.",
                )
        reply, number = OpeningAnswer(opening), settlement.context.round
        size = len(wire.encode(reply))
        self._hospital.journal.write("shares", run=self._run.hex(), round=number, included=list(included), bytes=size)
        return reply

    @staticmethod
    def _weights(plan: Plan, order: RoundOrder) -> Weights:
        look = order.what == EVALUATE
        follows = None if look else plan.quantile_norm
        if len(order.weights) != 4 * (plan.dimension if look else plan.coordinates):
            raise PeerError("The coordinator sent weights of a wrong length.", "The round was not joined.")
        weights = np.frombuffer(order.weights, "<f4").astype(np.float32)
        if not np.isfinite(weights).all():
            raise PeerError("The coordinator sent weights that are not finite numbers.", "The round was not joined.")
        if follows and not np.float32(follows.least) <= weights[-1] <= np.float32(follows.most):
            raise PeerError(
                f"The coordinator sent a clipping norm of {weights[-1]:g}; the study allows {follows.least:g} to "
                f"{follows.most:g}.",
                "The round was not joined.",
            )
        return weights


def _require_named_model(study: Study, order: RoundOrder) -> None:
    """PeerError where a finished model is to be looked at and the coordinator trains, or sends another one."""
    named = study.evaluation.model if study.evaluation else None
    if named is None:
        return
    if order.what != EVALUATE:
        raise PeerError("The coordinator trains in a study that trains nothing.", "The round was not joined.")
    if hashlib.sha256(order.weights).hexdigest() != named:
        raise PeerError("The coordinator sent another model than the study names.", "The round was not joined.")


def _require_not_expired(study: Study) -> None:
    expires = study.study.expires
    if expires is None:
        raise Refused("The study names no day on which it ends.", "Add expires = 2027-12-31 (or so) to [study].")
    if study.ended:
        raise Refused(f"The study ended on {expires}.", "A new study is a new file, signed again.")


def model_digest(what: str, weights: bytes, survey: bytes = b"") -> bytes:
    """32 bytes that name what is computed on which model, on images as this survey standardises them."""
    return hashlib.sha256(what.encode() + b"\0" + weights + survey).digest()


def wait_for_grid(began: float, grid: float) -> float:
    """Wait until a multiple of `grid` seconds after `began`; returns that time: it does not show the sample's size."""
    if grid == 0:
        return 0.0
    ends = math.ceil((time.monotonic() - began) / grid) * grid
    time.sleep(max(0.0, began + ends - time.monotonic()))
    return round(ends, 6)


def describe(plan: Plan, asker: bytes) -> Mapping[str, str]:
    """A study in words, for whoever has to decide."""
    study, privacy = plan.study, plan.study.privacy
    promise = (
        f"epsilon {privacy.epsilon:g}, delta {privacy.delta:g} per {privacy.unit}"
        if privacy
        else "NONE: the study promises no privacy"
    )
    return {
        "Study": f"{study.study.name}: {study.study.purpose}",
        "Who asks": asker.hex(),
        "Task": task_in_words(study),
        "Model": f"{study.model.kind}, {plan.dimension:,} weights, {images_in_words(study)}",
        "Privacy": promise,
        "Ends": str(study.study.expires or "no day is named"),
        "Rounds": rounds_in_words(study),
        "Updates": "; ".join(update_in_words(plan)),
        "Members": list_fingerprint(study.hospitals.identities()),
        "Hospitals": f"{plan.hospitals}; safe if {study.hospitals.colluding} of them work with the coordinator",
    }
