"""The coordinator's side of a run: consent, sessions, rounds, looks. Knows no Flower: `Exchange` carries the orders.

A round that fails (somebody missed a deadline, gave a wrong share, restarted) is thrown away; the model stays as it was,
a new session is made with whoever is there, and the next attempt has a new number. What nodes charged stays charged.
"""

import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from primum import __version__
from primum.dp import account
from primum.errors import PeerError, PrimumError, Refused, Unavailable
from primum.federation.aggregation import Aggregation, Exchange, Halted, names, note_fault, reasons, require_going_on
from primum.federation.approval import NO, YES
from primum.federation.evidence import check_saved, write_evidence
from primum.federation.explain import statistics_figures, update_figures
from primum.federation.looks import LOOKS, SURVEYS, Looks
from primum.federation.messages import (
    EVALUATE,
    SURVEY,
    TRAIN,
    Consent,
    EndOrder,
    Failure,
    StudyOrder,
    agreement,
)
from primum.federation.runs import Run, write_json
from primum.federation.witness import FIELD
from primum.journal import Journal
from primum.keys.identity import Identity, list_fingerprint
from primum.models.card import Card, save_model
from primum.models.learned import write_weights
from primum.secagg import Aggregate
from primum.study import Study
from primum.tasks.plan import Plan
from primum.tasks.training import Optimiser
from primum.tasks.update import shape_of

_VERSIONS: Final = ("primum", "torch", "numpy", "flwr", "cryptography", "dp-accounting", "pydicom")
_RETRY_PAUSE: Final = 2.0
_MOST_FAILURES: Final = 100


class Rounds:
    """One run, from consent to model."""

    def __init__(self, run: Run, identity: Identity, exchange: Exchange, say: Callable[[str], None]) -> None:
        self._run, self._exchange, self._say = run, exchange, say
        self._journal = Journal(run.folder.parent.parent / "journal.jsonl", identity)
        self._signed = run.signed_study()
        self._study = Study.parse(self._signed.text, str(run.folder / "study.toml"))
        self._plan = Plan(self._study)
        self._members = self._study.hospitals.identities()
        self._sums = Aggregation(run, self._plan, identity, exchange, self._journal, say)
        self._looks = Looks(run, self._study)
        self._optimiser = Optimiser.start(self._study.training, self._first_weights())
        self._know(self._looks.survey)
        self._pinned: dict[int, bool] = {}
        self._passed: dict[int, tuple[str, ...]] = {}

    # -- the whole run ----------------------------------------------------------------------------------------------

    def run_all(self) -> None:
        """Everything; on return the folder holds the model. Raises what ended the run.

        Halted: it may go on later; of the rounds that were finished there is a model, without a look at the evaluation.
        """
        digest = agreement(self._run.token, self._signed).hex()
        self._journal.write("run", run=self._run.token.hex(), study=digest, name=self._study.study.name)
        checkpoint = self._run.last_checkpoint()
        if checkpoint is not None:
            self._optimiser.restore(checkpoint)
            self._say(f"Going on after round {self._optimiser.rounds}.")
        self._count_lost_attempts()
        self._charge_looks()
        try:
            self._consent()
            self._survey()
            self._train()
            self._finish(self._look())
        except Halted:
            if self._optimiser.rounds:
                self._finish({"text": "the run was stopped before the last look"})
            raise

    def _first_weights(self) -> npt.NDArray[np.float32]:
        """Where learning begins, or the finished model that is looked at."""
        named = self._study.evaluation.model if self._study.evaluation else None
        return self._plan.first_weights() if named is None else self._run.finished_weights(named)

    def _count_lost_attempts(self) -> None:
        """What a coordinator that was killed had begun and not written down is charged: vectors may have left."""
        if self._optimiser.rounds >= self._study.training.rounds:
            return  # what was begun last was a look
        files = ("metrics.jsonl", "attempts.jsonl", LOOKS, SURVEYS)
        known = {line["attempt"] for file in files for line in self._run.lines(file)}
        why = "the coordinator ended in the middle"
        for number in range(1, self._run.started()[0] + 1):
            if number in known:
                continue
            if self._plan.sheet is not None and self._plan.survey is None:
                self._looks.note_failed_survey(number, why, charged=True)
            else:
                self._run.append("attempts.jsonl", {"attempt": number, "failed": why, "charged": True})

    def tell_end(self, outcome: str) -> None:
        """Tell the members that the run is over."""
        self._journal.write("end", run=self._run.token.hex(), outcome=outcome)
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
            require_going_on(self._run)
            self._run.wait("consent", waiting, until - time.monotonic())
            order = StudyOrder(self._run.token, self._signed)
            replies = self._exchange(dict.fromkeys(sorted(waiting), order), self._study.deadlines.stage)
            for place, reply in replies.by_place.items():
                if isinstance(reply, Failure):
                    refused[place] = f"{reply.message} {reply.hint}".strip()
                    note_fault(self._run, place, reply)
                elif isinstance(reply, Consent) and reply.answer == NO:
                    refused[place] = reply.reason
                elif isinstance(reply, Consent) and reply.answer == YES:
                    agreed.add(place)
                    self._pinned[place] = reply.pinned
                    self._passed[place] = reply.passed
            waiting -= agreed | refused.keys()
            if len(self._members) - len(refused) < needed:
                break
            if waiting and len(agreed) >= needed:
                until = min(until, time.monotonic() + self._study.deadlines.stage)
            if waiting:
                self._run.set_status("running", f"waiting for the consent of {names(waiting)}")
                time.sleep(_RETRY_PAUSE if agreed or replies.by_place else 0.2)
        self._journal.write(
            "consents",
            run=self._run.token.hex(),
            agreed=sorted(agreed),
            refused=sorted(refused),
            silent=sorted(waiting),
        )
        if len(agreed) < needed:
            told = f" ({reasons(refused)})" if refused else ""
            raise Refused(
                f"{len(agreed)} of {len(self._members)} hospitals agreed, {needed} are needed{told}.",
                "Talk to the hospitals: this study can go on once they agree; a changed one is a new study.",
            )

    def _survey(self) -> None:
        """Ask what the hospitals' patients are like, where the study does and it is not known yet."""
        failures = 0
        while self._plan.sheet is not None and self._plan.survey is None:
            if self._looks.surveys_left <= 0:
                raise Unavailable(
                    "The hospitals' survey could not be had, and no look is left for another.",
                    "Leave [statistics] out, or hand the study in again with more looks.",
                )
            mechanism = self._plan.surveying
            try:
                aggregate = self._sums.attempt(SURVEY, self._weights(), shape_of(mechanism))[0]
            except (PeerError, Unavailable) as error:
                failures += 1
                self._sums.leave_session()
                self._looks.note_failed_survey(self._run.started()[0], error.message, self._sums.vectors_left)
                self._say(f"The hospitals' survey could not be had: {error.message}")
                self._pause(error, failures)
                continue
            totals = mechanism.restore(aggregate.total).astype(np.float64)
            self._looks.note_survey(self._run.started()[0], totals, len(aggregate.included))
            self._charge_looks()
            self._note_sum("survey", aggregate)
            self._know(totals)

    def _know(self, totals: npt.NDArray[np.float64] | None) -> None:
        if totals is not None:
            self._plan = self._plan.surveyed(totals)
            self._sums.survey = totals.astype("<f8").tobytes()

    def _train(self) -> None:
        rounds, failures = self._study.training.rounds, 0
        charged = self._charged()
        while self._optimiser.rounds < rounds and charged < rounds:
            began = time.monotonic()
            try:
                aggregate, local = self._sums.attempt(TRAIN, self._weights(), self._plan.update.shape)
            except (PeerError, Unavailable) as error:
                failures, charged = failures + 1, charged + self._sums.vectors_left
                self._note_failure(error)
                if self._sums.budget_over and self._optimiser.rounds:
                    self._say("A hospital gives no more steps of this study: the model is what there is.")
                    return
                self._pause(error, failures)
                continue
            failures, charged = 0, charged + 1
            gradient = self._plan.update.mean_gradient(aggregate.total, len(aggregate.included))
            clipped_to = {} if self._optimiser.norm is None else {"clipping_norm": self._optimiser.norm}
            norms = {"update_norm": self._optimiser.step(gradient, self._plan.mean_counting), **clipped_to}
            self._note_round(aggregate, time.monotonic() - began, local, norms, charged)
            if self._looks.due(self._optimiser.rounds):
                self._try_look()
            if self._looks.enough:
                self._say("Looks bring nothing better any more: training ends here.")
                return
        if rounds and self._optimiser.rounds == 0:
            raise Unavailable(
                f"No round came to its end; the hospitals charged {charged} rounds, all that the study asked for.",
                "Nothing was learned. A new study needs a budget of its own.",
            )

    def _note_failure(self, error: PrimumError) -> None:
        self._sums.leave_session()
        number = self._run.started()[0]
        self._run.append(
            "attempts.jsonl", {"attempt": number, "failed": error.message, "charged": bool(self._sums.vectors_left)}
        )
        self._run.set_status("running", f"round repeated: {error.message}")
        self._journal.write("attempt failed", run=self._run.token.hex(), round=number, reason=error.message)
        self._say(f"Attempt {number} thrown away: {error.message}")

    def _pause(self, error: PrimumError, failures: int) -> None:
        if failures >= _MOST_FAILURES:
            raise Unavailable(f"{failures} attempts in a row failed: {error.message}", "The model is as it was.")
        require_going_on(self._run)
        time.sleep(min(_RETRY_PAUSE, 0.2 * failures))

    def _note_round(
        self, aggregate: Aggregate, seconds: float, local: float, norms: dict[str, float], charged: int
    ) -> None:
        number = self._optimiser.rounds
        line: dict[str, Any] = {
            "round": number,
            "attempt": self._run.started()[0],
            "participants": len(aggregate.included),
            "seconds": round(seconds, 4),
            "local_seconds": round(local, 4),
            **norms,
            **self._sums.round_bytes,
        }
        lines = {"metrics.jsonl": line}
        if self._study.privacy is not None:
            line["epsilon"] = round(self._plan.epsilon_after(charged), 4)
            steps = self._plan.training_steps(1)
            entry = {"round": number, "steps": steps.count, "sigma": steps.sigma, "q": steps.q}
            lines["ledger.jsonl"] = {**entry, "population": "training"}
        self._run.checkpoint(self._optimiser.state(), lines)
        self._note_sum("round", aggregate)
        self._run.set_status("running", f"round {number} of {self._study.training.rounds}")

    def _note_sum(self, kind: str, aggregate: Aggregate) -> None:
        heads: dict[str, Any] = {FIELD: self._sums.their_journals}
        number, included = self._run.started()[0], list(aggregate.included)
        self._journal.write(kind, run=self._run.token.hex(), round=number, included=included, **heads)

    def _look(self) -> dict[str, Any]:
        """The last look's figures; why there are none where none is allowed or it failed twice."""
        if not self._study.looks:
            return {"text": "no private look was taken"}
        figures = self._try_look() or self._try_look()
        if figures is None and self._study.training.rounds == 0:
            raise Unavailable(
                "The hospitals' figures could not be had.", "`primum resume` tries again if a look is left."
            )
        return figures or {"text": "the look at the hospitals' evaluation patients failed"}

    def _try_look(self) -> dict[str, Any] | None:
        if not self._looks.left:
            return None
        rounds, budget_over = self._optimiser.rounds, self._sums.budget_over
        try:
            aggregate = self._sums.attempt(EVALUATE, self._result(), shape_of(self._plan.evaluation))[0]
        except (PeerError, Unavailable) as error:
            self._sums.leave_session()
            self._sums.budget_over = budget_over  # that of training patients, which is another one
            self._looks.note_failed(rounds, self._run.started()[0], error.message, self._sums.vectors_left)
            self._say(f"The hospitals' private figure could not be had: {error.message}")
            return None
        figures = private_figures(self._plan, aggregate)
        self._looks.note(rounds, self._run.started()[0], figures, self._optimiser.result.astype(np.float32))
        self._charge_looks()
        self._note_sum("look", aggregate)
        return figures

    def _charge_looks(self) -> None:
        """A line of the ledger for the survey and each look that has figures; a kill may have come between the two."""
        if self._study.privacy is None:
            return
        entry = {"sigma": self._plan.evaluation.accounted_multiplier, "q": 1.0, "population": "evaluation"}
        charged = sum(line["population"] == "evaluation" for line in self._run.lines("ledger.jsonl"))
        shown = [0] * (self._looks.survey is not None)
        shown += [line["round"] for line in self._looks.lines if "figures" in line]
        for number in shown[charged:]:
            self._run.append("ledger.jsonl", {"round": number, **entry})

    # -- the end ----------------------------------------------------------------------------------------------------

    def _weights(self) -> bytes:
        return self._optimiser.sent.astype("<f4").tobytes()

    def _result(self) -> bytes:
        return self._optimiser.result.astype("<f4").tobytes()

    def _finish(self, figures: dict[str, Any]) -> None:
        privacy = privacy_report(self._plan, self._charged())
        if self._study.training.rounds:
            weights = self._optimiser.result.astype(np.float32)
            self._save(self._run.folder, weights, self._optimiser.rounds, privacy)
            best = self._looks.best()
            if best is not None and self._study.training.look_every:
                self._save(self._run.folder / "best", *best, privacy)
        write_json(self._run.folder / "summary.json", self._summary(privacy, figures))
        write_evidence(self._run, self._passed, saved=self._study.training.rounds > 0)

    def _save(self, folder: Path, weights: npt.NDArray[np.float32], rounds: int, privacy: dict[str, Any]) -> None:
        study, plan = self._study, self._plan
        card = Card(
            task=study.study.task,
            labels=study.study.labels,
            classes=study.study.classes,
            front_end=plan.front_end_card,
            learned=plan.learned,
            preparation=study.images.model_dump(exclude_none=True),
            privacy=privacy,
            trained={
                "study": study.study.name,
                "run": self._run.name,
                "rounds": rounds,
                "hospitals": len(self._members),
                "members": list_fingerprint(self._members),
                "version": __version__,
                "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            },
        )
        module = plan.module()
        write_weights(module, weights)
        save_model(folder, module.state_dict(), card)
        check_saved(folder, module)

    def _charged(self) -> int:
        """How many rounds the hospitals charged: all that ended, and each failed attempt in which a vector had left."""
        failed = [line for line in self._run.lines("attempts.jsonl") if line.get("charged")]
        return len(self._run.lines("metrics.jsonl")) + len(failed)

    def _summary(self, privacy: dict[str, Any], figures: dict[str, Any]) -> dict[str, Any]:
        lines = self._run.lines("metrics.jsonl")
        members = len(self._members)
        return {
            "classes": list(self._study.study.classes),
            "labels": self._study.study.labels,
            "privacy": privacy,
            "pinned": bool(self._pinned) and all(self._pinned.values()),
            "hospitals_private": figures,
            "looks_at_learners": self._study.looks_at_learners,
            "looks": self._looks.lines,
            "statistics": statistics_figures(self._plan),
            "update": update_figures(self._plan),
            "bytes": {
                "per_hospital_and_round_up": int(np.mean([line["bytes_up"] for line in lines])) if lines else 0,
                "per_hospital_and_round_down": int(np.mean([line["bytes_down"] for line in lines])) if lines else 0,
                "by_kind": {
                    f"{kind} ({way})": total // members
                    for way, kinds in (("sent", self._sums.traffic.up), ("received", self._sums.traffic.down))
                    for kind, total in kinds.items()
                },
            },
            "round_seconds": float(np.median([line["seconds"] for line in lines])) if lines else 0.0,
            "versions": {"python": platform.python_version()} | {name: version(name) for name in _VERSIONS},
        }


def privacy_report(plan: Plan, charged: int) -> dict[str, Any]:
    """What was spent in so many rounds, and the figures beside it that docs/threat-model.md explains.

    With local steps each hospital's own noise protects its patients: whoever colludes, the figure is the same.
    """
    privacy, setup = plan.study.privacy, plan.setup
    if privacy is None:
        return {"epsilon": None, "text": "no guarantee: the study promised no privacy"}
    steps, delta = plan.training_steps(charged), plan.accounted_delta
    alone = plan.training_steps(charged, honest=1)
    report: dict[str, Any] = {
        "epsilon": round(account.epsilon(steps, delta), 4),
        "delta": privacy.delta,
        "unit": privacy.unit,
        "epsilon_all_others_collude": round(account.epsilon(alone, delta), 4),
        "epsilon_replace": round(account.epsilon(steps, delta, replace=True), 4),
        "steps": steps.count,
        "local_steps": plan.study.training.local_steps,
        "noise_multiplier": round(privacy.noise_multiplier, 4),
        "q": plan.study.training.sampling,
        "clipping_norm": plan.study.training.clipping_norm,
        "clipping_quantile": plan.quantile_norm.quantile if plan.quantile_norm else None,
        "colluding": setup.colluding,
        "may_vanish": setup.may_vanish,
        "k_min": plan.k_min,
        "evaluation_epsilon": round(account.epsilon(plan.evaluation_steps(plan.looks), delta), 4),
        "patients": privacy.patients,
    }
    if privacy.unit == "image":
        report["epsilon_two_images"] = round(account.patient_epsilon(steps, delta, 2), 4)
    return report


def private_figures(plan: Plan, look: Aggregate) -> dict[str, Any]:
    """The task's figures from the hospitals' noisy table, with intervals that add the known noise."""
    counts = plan.evaluation.restore(look.total).reshape(plan.task.table)
    return plan.task.figures(counts, plan.evaluation.restored_sigma(len(look.included)))
