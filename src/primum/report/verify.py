"""What a run's folder claims, computed again: signature, epsilon, ledger, rounds, model, figures."""

import json
import math
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from primum import wire
from primum.dp import account
from primum.errors import InputError, PrimumError
from primum.federation.explain import statistics_figures
from primum.federation.looks import SURVEYS, Looks
from primum.federation.runs import Run as RunFolder
from primum.keys.identity import fingerprint, verify
from primum.models.card import load_model
from primum.report.run import LEDGER, METRICS, PREDICTIONS, SUMMARY, Record, Run, read_run
from primum.study import PURPOSE, SignedStudy, Study
from primum.tasks import metrics
from primum.tasks.plan import Plan

_CLOSE: Final = 2e-3  # of an epsilon that was rounded to four digits
_OF_ROUNDED: Final = 0.02  # of figures from counts that were rounded, in older runs to a tenth of a patient


@dataclass(frozen=True)
class Check:
    """One claim: whether it holds (None: this folder does not say), and in words what was compared."""

    name: str
    holds: bool | None
    words: str


@dataclass(frozen=True)
class _Folder:
    path: Path
    run: Run
    study: Study
    plan: Plan
    looks: Looks


def verify_run(folder: Path) -> list[Check]:
    """Every check, in the order of the report. InputError where the folder cannot be read at all."""
    run = read_run(folder)
    study = Study.parse(run.study or "", str(folder / "study.toml"))
    looks = Looks(RunFolder(folder), study)
    opened = _Folder(folder, run, study, _plan(looks), looks)
    return [_carried_out(name, check, opened) for name, check in _CHECKS]


def _plan(looks: Looks) -> Plan:
    """With what the run's survey found, if it had one: classes are weighed and pixels standardised by it."""
    plan, totals = Plan(looks.study), looks.survey
    if plan.sheet is None or totals is None:
        return plan
    try:
        return plan.surveyed(totals)
    except ValueError:
        raise InputError(
            f"{looks.run.folder / SURVEYS} is not the survey of that study.", "Fetch the run again."
        ) from None


def _carried_out(name: str, check: Callable[[_Folder], Iterator[tuple[bool, str]]], opened: _Folder) -> Check:
    """The first part of a check that does not hold, or all of its words."""
    try:
        found = list(check(opened))
    except (PrimumError, KeyError, ValueError, TypeError) as error:
        return Check(name, False, str(error))
    wrong = [words for holds, words in found if not holds]
    if wrong:
        return Check(name, False, wrong[0])
    return Check(name, True if found else None, "; ".join(words for _, words in found) or "this folder does not say")


def _signature(opened: _Folder) -> Iterator[tuple[bool, str]]:
    path = opened.path / "request.bin"
    if not path.exists():
        return
    signed = wire.decode(path.read_bytes(), SignedStudy, "this folder")
    verify(signed.asker, PURPOSE, signed.text.encode(), signed.signature, "the scientist")
    yield signed.text == opened.run.study, "study.toml is the text that was signed"
    yield True, f"signed by {fingerprint(signed.asker)}"


def _epsilon(opened: _Folder) -> Iterator[tuple[bool, str]]:
    told, privacy, plan = opened.run.summary.privacy, opened.study.privacy, opened.plan
    if told is None or privacy is None or told.steps is None:
        return
    plan.check()
    steps = plan.training_steps(told.steps // opened.study.training.local_steps)
    again = account.epsilon(steps, plan.accounted_delta)
    yield (
        abs(again - (told.epsilon or 0.0)) <= _CLOSE,
        f"epsilon is {again:.4f} after {told.steps} steps, as the report says",
    )
    yield again <= privacy.epsilon * (1 + 1e-6), f"it is at most the {privacy.epsilon:g} that was promised"
    second = account.epsilon_by_rdp(steps, plan.accounted_delta)
    yield again <= second + _CLOSE, f"a second accountant, by Renyi divergence, allows {second:.4f}"


def _looks(opened: _Folder) -> Iterator[tuple[bool, str]]:
    """The hospitals' figures again from their tables of counts, and what the survey found again from its sums."""
    told, plan = json.loads((opened.path / SUMMARY).read_text()), opened.plan
    lines = [line for line in opened.looks.lines if "figures" in line]
    for line in lines:
        figures = line["figures"]
        what = f"look after round {line['round']}: its figures are those of its table of counts"
        if "counts" not in figures:
            yield not _tells(figures), what
            continue
        yield _same(plan.task.figures(np.array(figures["counts"], np.float64), figures["noise"]), figures), what
        least = plan.evaluation.restored_sigma(plan.setup.least_included)
        yield (
            figures["noise"] >= least * (1 - 1e-3),
            "its noise is at least that of so many hospitals as the study needs",
        )
    if _tells(told.get("hospitals_private") or {}):
        last = lines[-1]["figures"] if lines else None
        yield told["hospitals_private"] == last, f"the report's figures are those of the last of {len(lines)} look(s)"
    if plan.sheet is not None:
        same = told.get("statistics") == json.loads(json.dumps(statistics_figures(plan)))
        yield same, "what patients are like is what the survey's sums say"
    spent = opened.run.summary.privacy
    if spent is not None and spent.evaluation_epsilon is not None and plan.looks:
        cost = account.epsilon(plan.evaluation_steps(plan.looks), plan.accounted_delta)
        close = abs(cost - spent.evaluation_epsilon) <= _CLOSE
        yield close, f"epsilon of evaluation patients is {cost:.4f} for {plan.looks} look(s)"


def _tells(figures: Record) -> bool:
    """Whether there is any figure in them, and not only that there is none."""
    return any(isinstance(value, float) for value in figures.values())


def _same(again: Record, told: Record) -> bool:
    """As far as counts were rounded when they were written."""
    return all(
        abs(again.get(name, math.inf) - value) <= _OF_ROUNDED
        for name, value in told.items()
        if isinstance(value, float) and name != "noise"
    )


def _ledger(opened: _Folder) -> Iterator[tuple[bool, str]]:
    if opened.study.privacy is None or LEDGER in opened.run.missing:
        return
    looks = [line for line in opened.run.ledger if line.get("population") == "evaluation"]
    sigma = opened.plan.evaluation.accounted_multiplier
    fits = all(line["q"] == 1 and abs(line["sigma"] - sigma) <= 1e-9 * sigma for line in looks)
    yield fits and len(looks) <= opened.plan.looks, f"{len(looks)} looks, each with the noise of the study"
    lines = [line for line in opened.run.ledger if line.get("population") == "training"]
    yield len(lines) == len(opened.run.rounds), f"{len(lines)} lines for {len(opened.run.rounds)} rounds"
    one = opened.plan.training_steps(1) if lines else None
    same = all(one and line["q"] == one.q and abs(line["sigma"] - one.sigma) <= 1e-9 * one.sigma for line in lines)
    yield same, "each names the sampling and the noise of the study"
    charged = len(lines) + sum(bool((failed.model_extra or {}).get("charged")) for failed in opened.run.failed)
    told = opened.run.summary.privacy
    steps = told.steps if told else None
    expected = charged * opened.study.training.local_steps
    yield (
        steps in (None, expected),
        f"{expected} steps were charged, failed attempts included, and so many are reported",
    )


def _rounds(opened: _Folder) -> Iterator[tuple[bool, str]]:
    if METRICS in opened.run.missing:
        return
    numbers = [line.round for line in opened.run.rounds]
    yield numbers == list(range(1, len(numbers) + 1)), f"{len(numbers)} rounds, none twice, none left out"
    attempts = [line.attempt for line in opened.run.rounds]
    yield attempts == sorted(set(attempts), key=lambda attempt: attempt or 0), "no attempt counts twice"
    fewest = opened.plan.setup.least_included
    enough = all((line.participants or 0) >= fewest for line in opened.run.rounds)
    yield enough, f"at least {fewest} hospitals are in every sum"


def _model(opened: _Folder) -> Iterator[tuple[bool, str]]:
    if not (opened.path / "model.safetensors").exists():
        return
    card, plan = load_model(opened.path).card, opened.plan
    yield True, f"the weights are those of the card ({card.weights_sha256[:12]}...)"
    fits = card.front_end == plan.front_end_card and card.learned == plan.learned
    about = opened.study.study
    same = (card.task, card.labels, card.classes) == (about.task, about.labels, about.classes)
    yield fits and same, "architecture and classes are those of the study"
    told = json.loads((opened.path / "summary.json").read_text()).get("privacy")
    yield card.privacy == told, "the card names the same privacy as the report"


_OF_PREDICTIONS: Final = {
    "auc": "the area under the curve", "accuracy": "the accuracy", "f1": "F1", "mcc": "Matthews' coefficient",
    "calibration_error": "the calibration error", "brier": "the Brier score",
}  # fmt: skip


def _figures(opened: _Folder) -> Iterator[tuple[bool, str]]:
    test, about = opened.run.summary.test, opened.study.study
    if test is None or PREDICTIONS in opened.run.missing or test.auc is None:
        return
    labels = np.array([line.label for line in opened.run.predictions])
    chances = np.array([line.probability for line in opened.run.predictions], np.float64)
    if about.labels == "several":
        told = metrics.several_figures(labels, chances, about.classes)
    else:
        of_each = np.stack([1 - chances, chances], axis=1) if chances.ndim == 1 else chances
        told = metrics.classification_figures(labels, of_each)
    for name, what in _OF_PREDICTIONS.items():
        said = getattr(test, name)
        if said is not None:
            close = abs(told.get(name, math.inf) - said) < 1e-3
            yield close, f"{what} of {len(labels)} predictions is {told.get(name, math.nan):.4f}"


def _digest(opened: _Folder) -> Iterator[tuple[bool, str]]:
    named: Any = tomllib.loads(opened.run.study or "").get("evaluation", {}).get("model")
    if named is None:
        return
    yield opened.study.training.rounds == 0, f"nothing was trained; the model that was looked at is {named[:12]}..."


_CHECKS: Final = (
    ("Signature", _signature),
    ("Privacy", _epsilon),
    ("Ledger", _ledger),
    ("Rounds", _rounds),
    ("Model", _model),
    ("Looks", _looks),
    ("Looked at", _digest),
    ("Figures", _figures),
)
