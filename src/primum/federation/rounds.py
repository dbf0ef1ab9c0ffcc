"""The coordinator's side of a run: consent, sessions, rounds, looks. Knows no Flower: `Exchange` carries the orders.

A round that fails (somebody missed a deadline, gave a wrong share, restarted) is thrown away; the model stays as it was,
a new session is made with whoever is there, and the next attempt has a new number. What nodes charged stays charged.
"""

import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, Final, Protocol, TypeVar

import numpy as np
import torch

from primum import __version__
from primum.dp import account
from primum.errors import PeerError, PrimumError, Refused, Unavailable
from primum.federation.messages import (
    EVALUATE,
    TRAIN,
    Answer,
    Consent,
    DealOrder,
    EndOrder,
    Failure,
    KeysOrder,
    OpeningAnswer,
    Order,
    PairOrder,
    Reply,
    RoundOrder,
    StudyOrder,
    UnmaskOrder,
    VectorAnswer,
)
from primum.federation.participant import NO, YES, model_digest
from primum.federation.runs import Run, write_json
from primum.keys.identity import Identity, list_fingerprint
from primum.models.card import Card, FrontEndCard, save_model
from primum.secagg import Aggregate, MaskedVector, Opening, Server, Shape, Signed
from primum.study import Study
from primum.tasks.figures import binary_figures, confusion_figures
from primum.tasks.plan import Plan
from primum.tasks.training import Optimiser

Message = TypeVar("Message", MaskedVector, Signed)

_VERSIONS: Final = ("primum", "torch", "numpy", "flwr", "cryptography", "dp-accounting", "pydicom")
_RETRY_PAUSE: Final = 2.0
_MOST_FAILURES: Final = 100


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


@dataclass
class _Traffic:
    up: dict[str, int] = field(default_factory=dict)
    down: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, replies: Replies) -> None:
        self.up[kind] = self.up.get(kind, 0) + sum(replies.received.values())
        self.down[kind] = self.down.get(kind, 0) + sum(replies.sent.values())


class Rounds:
    """One run, from consent to model."""

    def __init__(self, run: Run, identity: Identity, exchange: Exchange, say: Callable[[str], None]) -> None:
        self._run, self._exchange, self._say = run, exchange, say
        self._signed = run.signed_study()
        self._study = Study.parse(self._signed.text, str(run.folder / "study.toml"))
        self._plan = Plan(self._study)
        self._members = self._study.hospitals.identities()
        self._server = Server(identity, self._members, run.token, self._plan.setup)
        training = self._study.training
        expected = training.sampling * self._units()
        self._optimiser = Optimiser.start(training, expected, self._plan.dimension)
        self._traffic = _Traffic()
        self._in_session = False
        self._budget_over = False
        self._vectors_left = False
        self._round_bytes: dict[str, int] = {}
        self._pinned: dict[int, bool] = {}

    def _units(self) -> float:
        # without privacy nobody says how many there are: the step is then per image of an agreed thousand
        return float(self._study.privacy.patients) if self._study.privacy else 1000.0

    # -- the whole run ----------------------------------------------------------------------------------------------

    def run_all(self) -> None:
        """Everything; on return the folder holds the model. Raises what ended the run."""
        checkpoint = self._run.last_checkpoint()
        if checkpoint is not None:
            self._optimiser.restore(checkpoint)
            self._say(f"Going on after round {self._optimiser.rounds}.")
        self._count_lost_attempts()
        self._consent()
        self._train()
        self._finish(self._look())

    def _count_lost_attempts(self) -> None:
        """What a coordinator that was killed had begun and not written down is charged: vectors may have left."""
        if self._optimiser.rounds >= self._study.training.rounds:
            return  # what was begun last was a look
        files = ("metrics.jsonl", "attempts.jsonl")
        known = {line["attempt"] for file in files for line in self._run.lines(file)}
        for number in range(1, self._run.started()[0] + 1):
            if number not in known:
                line = {"attempt": number, "failed": "the coordinator ended in the middle", "charged": True}
                self._run.append("attempts.jsonl", line)

    def tell_end(self, outcome: str) -> None:
        """Tell the members that the run is over."""
        places = range(1, len(self._members) + 1)
        self._exchange({place: EndOrder(self._run.token, outcome) for place in places}, 5.0)

    def _consent(self) -> None:
        """Ask all members; one no of a needed member ends the run.

        When enough said yes, the others have one more stage to answer; who comes later joins at the next session.
        """
        until = time.monotonic() + self._study.deadlines.consent
        needed, waiting = self._plan.setup.least_included, set(range(1, len(self._members) + 1))
        agreed: set[int] = set()
        refused: dict[int, str] = {}
        while waiting and time.monotonic() < until:
            order = StudyOrder(self._run.token, self._signed)
            replies = self._exchange(dict.fromkeys(sorted(waiting), order), self._study.deadlines.stage)
            for place, reply in replies.by_place.items():
                if isinstance(reply, Failure):
                    refused[place] = reply.message
                elif isinstance(reply, Consent) and reply.answer == NO:
                    refused[place] = reply.reason
                elif isinstance(reply, Consent) and reply.answer == YES:
                    agreed.add(place)
                    self._pinned[place] = reply.pinned
            waiting -= agreed | refused.keys()
            if len(self._members) - len(refused) < needed:
                break
            if waiting and len(agreed) >= needed:
                until = min(until, time.monotonic() + self._study.deadlines.stage)
            if waiting:
                self._run.set_status("running", f"waiting for the consent of {self._names(waiting)}")
                time.sleep(_RETRY_PAUSE if agreed or replies.by_place else 0.2)
        if len(agreed) < needed:
            reasons = "; ".join(f"{self._names([place])}: {why}" for place, why in sorted(refused.items()))
            raise Refused(
                f"{len(agreed)} of {len(self._members)} hospitals agreed, {needed} are needed. {reasons}".strip(),
                "Talk to the hospitals; a changed study is a new study.",
            )

    def _train(self) -> None:
        rounds, failures = self._study.training.rounds, 0
        charged = self._charged()
        while self._optimiser.rounds < rounds and charged < rounds:
            began = time.monotonic()
            try:
                aggregate, local = self._attempt(TRAIN, self._weights())
            except (PeerError, Unavailable) as error:
                failures, charged = failures + 1, charged + self._vectors_left
                self._note_failure(error)
                if self._budget_over and self._optimiser.rounds:
                    self._say("A hospital gives no more steps of this study: the model is what there is.")
                    return
                self._pause(error, failures)
                continue
            failures, charged = 0, charged + 1
            norm = self._optimiser.step(self._plan.training.restore(aggregate.total))
            self._run.checkpoint(self._optimiser.state())
            self._note_round(aggregate, time.monotonic() - began, local, norm, charged)
        if self._optimiser.rounds == 0:
            raise Unavailable(
                f"No round came to its end; the hospitals charged {charged} steps, all that the study asked for.",
                "Nothing was learned. A new study needs a budget of its own.",
            )

    def _note_failure(self, error: PrimumError) -> None:
        self._in_session = False
        number = self._run.started()[0]
        self._run.append(
            "attempts.jsonl", {"attempt": number, "failed": error.message, "charged": bool(self._vectors_left)}
        )
        self._run.set_status("running", f"round repeated: {error.message}")
        self._say(f"Attempt {number} thrown away: {error.message}")

    def _pause(self, error: PrimumError, failures: int) -> None:
        if failures >= _MOST_FAILURES:
            raise Unavailable(f"{failures} attempts in a row failed: {error.message}", "The model is as it was.")
        time.sleep(min(_RETRY_PAUSE, 0.2 * failures))

    def _note_round(self, aggregate: Aggregate, seconds: float, local: float, norm: float, charged: int) -> None:
        number = self._optimiser.rounds
        line: dict[str, Any] = {
            "round": number,
            "attempt": self._run.started()[0],
            "participants": len(aggregate.included),
            "seconds": round(seconds, 4),
            "local_seconds": round(local, 4),
            "update_norm": norm,
            **self._round_bytes,
        }
        if self._study.privacy is not None:
            line["epsilon"] = round(self._plan.epsilon_after(charged), 4)
            entry = {"round": number, "sigma": self._plan.training.accounted_multiplier}
            self._run.append("ledger.jsonl", {**entry, "q": self._study.training.sampling, "population": "training"})
        self._run.append("metrics.jsonl", line)
        self._run.set_status("running", f"round {number} of {self._study.training.rounds}")

    def _look(self) -> Aggregate | None:
        """One look at the evaluation patients; None where none is allowed or it failed twice."""
        if self._plan.looks == 0:
            return None
        aggregate = self._try_look() or self._try_look()
        if aggregate is None:
            return None
        entry = {"round": self._optimiser.rounds, "sigma": self._plan.evaluation.accounted_multiplier, "q": 1.0}
        self._run.append("ledger.jsonl", {**entry, "population": "evaluation"})
        return aggregate

    def _try_look(self) -> Aggregate | None:
        try:
            return self._attempt(EVALUATE, self._result())[0]
        except (PeerError, Unavailable) as error:
            self._in_session = False
            self._say(f"The hospitals' private figure could not be had: {error.message}")
            return None

    # -- one attempt ------------------------------------------------------------------------------------------------

    def _attempt(self, what: str, weights: bytes) -> tuple[Aggregate, float]:
        self._vectors_left = False
        self._round_bytes = {}
        if not self._in_session or len(self._server.dealt) < self._plan.setup.least_included:
            self._session()
        mechanism = self._plan.training if what == TRAIN else self._plan.evaluation
        number, session = self._server.round, self._run.started()[1]
        self._run.start(number, session)
        settlements = self._server.settlements
        starts = self._server.start(model_digest(what, weights), Shape(mechanism.dimension, mechanism.bits))
        orders: dict[int, Order] = {
            place: RoundOrder(self._run.token, what, weights, start, settlements) for place, start in starts.items()
        }
        replies = self._send("vectors", orders)
        local = 0.0
        for place, reply in replies.by_place.items():
            if isinstance(reply, VectorAnswer):
                self._vectors_left = True
                self._accept(place, self._server.take_vector, reply.vector)
                local = max(local, reply.local_seconds)
        request = self._server.request()
        included = [place for place in starts if isinstance(replies.by_place.get(place), VectorAnswer)]
        unmask: dict[int, Order] = {place: UnmaskOrder(self._run.token, request) for place in included}
        opened = self._send("shares", unmask)
        openings: dict[int, Opening] = {
            place: reply.opening for place, reply in opened.by_place.items() if isinstance(reply, OpeningAnswer)
        }
        aggregate = self._server.finish(openings)
        self._in_session = len(self._server.dealt) == len(self._members)
        return aggregate, local

    def _session(self) -> None:
        """Three exchanges: keys, ciphertexts, shares for the first round. Includes whoever is there and agreed."""
        last_round, last_session = self._run.started()
        session, first = last_session + 1, last_round + 1
        self._run.start(last_round, session)
        self._server.begin_session(session, first)
        token = self._run.token
        everybody = range(1, len(self._members) + 1)
        study = StudyOrder(token, self._signed)  # whoever restarted must know the study again
        here = self._send("setup", dict.fromkeys(everybody, study))
        present = [p for p, reply in here.by_place.items() if isinstance(reply, Consent) and reply.answer == YES]
        keys = self._send("setup", dict.fromkeys(present, KeysOrder(token, session, first)))
        for place, reply in keys.by_place.items():
            if isinstance(reply, Answer):
                self._accept(place, self._server.take_offer, reply.message)
        offers = self._server.offers()
        present = [place for place in present if isinstance(keys.by_place.get(place), Answer)]
        pairs = self._send("setup", dict.fromkeys(present, PairOrder(token, offers)))
        encapsulations = []
        for place in present:
            pair = pairs.by_place.get(place)
            if not isinstance(pair, Answer):
                raise Unavailable(f"{self._names([place])} left during the key exchange.", "It is made again.")
            self._server.check_encapsulations(place, pair.message)
            encapsulations.append(pair.message)
        dealt = self._send("setup", dict.fromkeys(present, DealOrder(token, tuple(encapsulations))))
        for place, reply in dealt.by_place.items():
            if isinstance(reply, Answer):
                self._accept(place, self._server.take_deal, reply.message)
        self._in_session = True

    def _accept(self, place: int, take: Callable[[int, Message], None], message: Message) -> None:
        try:
            take(place, message)
        except PeerError as error:
            self._say(f"{self._names([place])} is left out: {error.message}")

    def _send(self, kind: str, orders: Mapping[int, Order]) -> Replies:
        replies = self._exchange(orders, self._study.deadlines.stage)
        self._traffic.add(kind, replies)
        for place, reply in replies.by_place.items():
            if isinstance(reply, Failure):
                self._budget_over |= reply.error == "BudgetError"
                self._say(f"{self._names([place])}: {reply.message} {reply.hint}".strip())
        missing = [place for place in orders if place not in replies.by_place]
        if missing:
            self._run.set_status("running", f"{self._names(missing)} missed a deadline")
        self._round_bytes = {
            "bytes_up": self._round_bytes.get("bytes_up", 0) + max(replies.received.values(), default=0),
            "bytes_down": self._round_bytes.get("bytes_down", 0) + max(replies.sent.values(), default=0),
        }
        return replies

    # -- the end ----------------------------------------------------------------------------------------------------

    def _weights(self) -> bytes:
        return self._optimiser.weights.astype("<f4").tobytes()

    def _result(self) -> bytes:
        return self._optimiser.result.astype("<f4").tobytes()

    def _finish(self, look: Aggregate | None) -> None:
        study, plan = self._study, self._plan
        privacy = privacy_report(plan, self._charged())
        front_end = FrontEndCard(**{k: getattr(plan.front_end, k) for k in ("size", "scales", "angles", "channels")})
        card = Card(
            classes=study.study.classes,
            front_end=front_end,
            preparation=study.images.model_dump(),
            privacy=privacy,
            trained={
                "study": study.study.name,
                "run": self._run.name,
                "rounds": self._optimiser.rounds,
                "hospitals": len(self._members),
                "members": list_fingerprint(self._members),
                "version": __version__,
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )
        weight = torch.from_numpy(self._optimiser.result.astype(np.float32)).view(plan.outputs, -1)
        save_model(self._run.folder, weight, card)
        write_json(self._run.folder / "summary.json", self._summary(privacy, look))

    def _charged(self) -> int:
        """How many steps the hospitals charged: every round, and every failed attempt in which a vector had left."""
        failed = [line for line in self._run.lines("attempts.jsonl") if line.get("charged")]
        return len(self._run.lines("metrics.jsonl")) + len(failed)

    def _summary(self, privacy: dict[str, Any], look: Aggregate | None) -> dict[str, Any]:
        lines = self._run.lines("metrics.jsonl")
        members = len(self._members)
        return {
            "classes": list(self._study.study.classes),
            "privacy": privacy,
            "pinned": bool(self._pinned) and all(self._pinned.values()),
            "hospitals_private": private_figures(self._plan, look),
            "bytes": {
                "per_hospital_and_round_up": int(np.mean([line["bytes_up"] for line in lines])) if lines else 0,
                "per_hospital_and_round_down": int(np.mean([line["bytes_down"] for line in lines])) if lines else 0,
                "by_kind": {
                    f"{kind} ({way})": total // members
                    for way, kinds in (("sent", self._traffic.up), ("received", self._traffic.down))
                    for kind, total in kinds.items()
                },
            },
            "round_seconds": float(np.median([line["seconds"] for line in lines])) if lines else 0.0,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in _VERSIONS},
        }

    def _names(self, places: Any) -> str:
        return ", ".join(f"hospital {place}" for place in sorted(places))


def privacy_report(plan: Plan, charged: int) -> dict[str, Any]:
    """What was spent, and the figures beside it that docs/threat-model.md explains."""
    privacy, setup = plan.study.privacy, plan.setup
    if privacy is None:
        return {"epsilon": None, "text": "no guarantee: the study promised no privacy"}
    steps, delta = plan.training_steps(charged), plan.accounted_delta
    alone = account.Steps(steps.count, steps.q, steps.sigma / plan.k_min**0.5)
    report: dict[str, Any] = {
        "epsilon": round(account.epsilon(steps, delta), 4),
        "delta": privacy.delta,
        "unit": privacy.unit,
        "epsilon_all_others_collude": round(account.epsilon(alone, delta), 4),
        "epsilon_replace": round(account.epsilon(steps, delta, replace=True), 4),
        "steps": charged,
        "noise_multiplier": round(privacy.noise_multiplier, 4),
        "q": plan.study.training.sampling,
        "clipping_norm": plan.study.training.clipping_norm,
        "colluding": setup.colluding,
        "may_vanish": setup.may_vanish,
        "k_min": plan.k_min,
        "evaluation_epsilon": round(account.epsilon(plan.evaluation_steps(plan.looks), delta), 4),
        "patients": privacy.patients,
    }
    if privacy.unit == "image":
        report["epsilon_two_images"] = round(account.patient_epsilon(steps, delta, 2), 4)
    return report


def private_figures(plan: Plan, look: Aggregate | None) -> dict[str, Any]:
    """AUC and accuracy from the hospitals' noisy histogram, with intervals that add the known noise."""
    if look is None:
        return {"text": "no private look was taken"}
    counts = plan.evaluation.restore(look.total).reshape(len(plan.study.study.classes), -1)
    noise = plan.evaluation.restored_sigma(len(look.included))
    return binary_figures(counts, noise) if len(counts) == 2 else confusion_figures(counts, noise)
