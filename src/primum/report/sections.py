"""The parts of the page, one function each: a run in, HTML out. A part that is not there is left out with a sentence."""

import math
from typing import Final

import numpy as np

from primum.report import flow
from primum.report.document import section
from primum.report.label_figures import (
    auc_name,
    class_by_class,
    grid,
    of_grades,
    plots_of_several,
    point_rows,
    roc_plot,
)
from primum.report.mask_rows import looked_mask_rows, mask_rows, mask_table
from primum.report.plots import Axis, Curve, bars, lines, matrix
from primum.report.run import (
    DIAGNOSES,
    METRICS,
    PREDICTIONS,
    Figures,
    Prediction,
    Role,
    Round,
    Run,
    Spent,
    Update,
    finite,
)
from primum.report.words import (
    DASH,
    absent,
    between,
    epsilon,
    esc,
    number,
    of_whom,
    pairs,
    percent,
    seconds,
    size,
    table,
)
from primum.tasks.metrics import confusion

ROLES: Final = tuple(
    Role(role=role, sees=sees, stopped_by=stopped_by)
    for role, sees, stopped_by in (
        ("Hospital", "its own images; the model after each round", "the masks of the other hospitals, and their noise"),
        (
            "Coordinator",
            "the sum of all hospitals, who took part, sizes and times",
            "pairwise and self masks in every round",
        ),
        ("Scientist", "the released model and its card; own test images", "differential privacy, where there is any"),
        ("Dealer", "its own random numbers", "it is sent no image, no feature and no model"),
        ("Server A, server B", "shares that look random; sizes and times", "secret sharing; each knows one share only"),
        ("Clinician", "the image and its answer", "the model stays shared between the servers"),
    )
)
"""What each role sees, where the run does not say it itself."""

_SHOWN_DIAGNOSES: Final = 200
_BINARY: Final = 2


def training(run: Run) -> str:
    """Curves over the rounds."""
    if not run.rounds:
        return section("Training", absent(f"There is no {METRICS} in this run: no curves."))
    done = [item for item in run.rounds if item.participants is None or item.participants > 0]
    plots = [
        _curve(done, "update_norm", "Length of the averaged update", "length"),
        _curve(done, "clipping_norm", "Clipping norm: the most one patient moves a round's sum", "norm"),
        _seconds(done),
        _extra(done, "auc", "AUC on public validation images", "AUC"),
        _extra(done, "loss", "Loss on public validation images", "loss"),
        _participants(run.rounds),
    ]
    thrown = len(run.failed)
    again = ""
    if thrown:
        attempts = f"{thrown} attempt{' was' if thrown == 1 else 's were'}"
        again = f" {attempts} thrown away and repeated with a new sample and new noise."
    lead = f"<p>{len({item.round for item in done})} rounds.{again} Losses of single hospitals are not here: they never left them.</p>"
    return section("Training", lead + grid(plots))


def _values(rounds: list[Round], key: str) -> tuple[tuple[float, float], ...]:
    found = ((item.round, getattr(item, key, None)) for item in rounds)
    return tuple((float(x), float(y)) for x, y in found if isinstance(y, int | float) and finite(y))


def _curve(rounds: list[Round], key: str, title: str, unit: str) -> str:
    points = _values(rounds, key)
    if not points:
        return ""
    top = max(y for _, y in points) or 1.0
    return lines(title, _rounds(points), Axis(unit, 0, top * 1.05), [Curve(title, points)])


def _extra(rounds: list[Round], key: str, title: str, unit: str) -> str:
    points = _values(rounds, key)
    if not points:
        return ""
    values = [y for _, y in points]
    low, high = min(values), max(values)
    pad = 0.05 * ((high - low) or 1)
    return lines(title, _rounds(points), Axis(unit, low - pad, high + pad), [Curve(title, points, "b")])


def _rounds(points: tuple[tuple[float, float], ...]) -> Axis:
    last = max(x for x, _ in points)
    return Axis("round", min(1.0, min(x for x, _ in points)), last if last > 1 else 2.0)


def _seconds(rounds: list[Round]) -> str:
    whole, local = _values(rounds, "seconds"), _values(rounds, "local_seconds")
    if not whole:
        return ""
    curves = [
        Curve("whole round", whole),
        *([Curve("local work of the slowest hospital", local, "b")] if local else []),
    ]
    top = max(y for curve in curves for _, y in curve.points) or 1.0
    return lines("Seconds per round", _rounds(whole), Axis("seconds", 0, top * 1.05), curves)


def _participants(rounds: tuple[Round, ...]) -> str:
    points = _values(list(rounds), "participants")
    if not points or len({y for _, y in points}) == 1:
        return ""
    top = max(y for _, y in points)
    return lines(
        "Hospitals in each round", _rounds(points), Axis("hospitals", 0, top * 1.1), [Curve("hospitals", points)]
    )


def results(run: Run) -> str:
    """ROC and confusion matrix from the scientist's test images, and the hospitals' private figure beside them."""
    parts = [_exact(run), _plots_of_predictions(run), _private(run)]
    return section("How good the model is", "".join(parts))


def _exact(run: Run) -> str:
    test = run.summary.test
    if test is None or (test.auc is None and test.accuracy is None and test.dice is None):
        return absent("This run has no figures on test images.")
    mean = ", mean over classes" if run.labels == "several" else ""
    rows = mask_rows(test)
    if test.auc is not None:
        rows.append((auc_name(run), f"<b>{test.auc:.3f}</b> &nbsp; {between(test.auc_low, test.auc_high)}"))
    rows += of_grades(test)
    if test.accuracy is not None:
        low, high = (None if bound is None else 100 * bound for bound in (test.accuracy_low, test.accuracy_high))
        rows.append((f"Accuracy{mean}", f"<b>{percent(test.accuracy)}</b> &nbsp; {between(low, high, '{:.1f} %')}"))
    rows += _of_classes(test, run.classes)
    rows.append(
        ("Measured on", f"{of_whom(test) or 'test images'} of the scientist, exact, outside the privacy promise")
    )
    return pairs(rows) + mask_table(test) + (class_by_class(test) if run.labels == "several" else "")


def _of_classes(test: Figures, classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Figures of the class that is called; of two classes, and of each of several, by a threshold of one half."""
    rows = []
    for name, of, low, high, place in (
        ("Sensitivity", test.sensitivity, test.sensitivity_low, test.sensitivity_high, 1),
        ("Specificity", test.specificity, test.specificity_low, test.specificity_high, 0),
    ):
        if of is not None:
            kind = f"of {esc(classes[place])}, " if len(classes) == _BINARY else ""
            lower, upper = (None if bound is None else 100 * bound for bound in (low, high))
            bounds = between(lower, upper, "{:.1f} %")
            rows.append((name, f"<b>{percent(of)}</b> &nbsp; {kind}{bounds}"))
    rows += point_rows(test.points)
    for name, of, low, high in (
        ("F1, mean over classes", test.f1, test.f1_low, test.f1_high),
        ("Matthews' correlation coefficient", test.mcc, test.mcc_low, test.mcc_high),
        (
            "Calibration error, expected",
            test.calibration_error,
            test.calibration_error_low,
            test.calibration_error_high,
        ),
        ("Brier score, sum over classes", test.brier, test.brier_low, test.brier_high),
    ):
        if of is not None:
            rows.append((name, f"<b>{of:.3f}</b> &nbsp; {between(low, high)}"))
    return rows


def _plots_of_predictions(run: Run) -> str:
    if run.summary.test is not None and run.summary.test.dice is not None:
        return ""
    if not run.predictions:
        return absent(f"There is no {PREDICTIONS} in this run: no ROC curve and no confusion matrix.")
    if run.labels == "several":
        return plots_of_several(run)
    labels = np.array([item.label for item in run.predictions], np.int64)
    chances = _chances(run.predictions)
    called = _called(run.predictions, chances)
    count = max(chances.shape[1], int(labels.max()) + 1, int(called.max()) + 1)
    names = list(run.classes) if len(run.classes) >= count else [f"class {index}" for index in range(count)]
    plots = []
    if len(names) == _BINARY and set(labels.tolist()) == {0, 1}:
        plots.append(roc_plot(labels, chances[:, 1], names[1]))
    if len(names) == _BINARY or chances.shape[1] > _BINARY or run.predictions[0].predicted is not None:
        counts = confusion(labels, called, len(names))
        what = "the grade that was called" if run.labels == "ordered" else "the most probable class"
        plots.append(matrix(f"Confusion matrix: {what} against the true one", names, counts.tolist()))
    return "<h3>On the test images</h3>" + grid(plots)


def _called(predictions: tuple[Prediction, ...], chances: np.ndarray) -> np.ndarray:
    """Int64 [n]: the class that the model called, else the most probable one."""
    best = chances.argmax(axis=1)
    return np.array(
        [best[index] if item.predicted is None else item.predicted for index, item in enumerate(predictions)], np.int64
    )


def _chances(predictions: tuple[Prediction, ...]) -> np.ndarray:
    """Float64 [n, classes]; a single probability p of two classes becomes [1 - p, p]."""
    rows = [
        (1 - item.probability, item.probability) if isinstance(item.probability, float) else item.probability
        for item in predictions
    ]
    width = max(len(row) for row in rows)
    return np.array([[*row, *[0.0] * (width - len(row))] for row in rows], np.float64)


def _private(run: Run) -> str:
    figures = run.summary.hospitals_private
    whose = "held-back patients, with privacy" if run.private else "patients, as exact sums over all of them"
    whose += " (the model may have been trained on them)" if run.summary.looks_at_learners else ""
    head, noise = f"<h3>On the hospitals' {whose}</h3>", ", noise included" if run.private else ""
    if figures is None:
        return head + absent("No private evaluation was asked for, or none was made.")
    if figures.too_few:
        words = figures.text or "too few patients"
        why = "the interval would be wider than ±0.1" if run.private else "there is none, or none of one of the classes"
        return head + f"<p><b>{esc(words[:1].upper() + words[1:])}:</b> {why}, so no figure is shown.</p>"
    rows = []
    rows += looked_mask_rows(figures, noise)
    mean = ", mean over classes" if run.labels == "several" else ""
    if figures.auc is not None:
        told = between(figures.auc_low, figures.auc_high)
        rows.append((auc_name(run), f"{figures.auc:.3f} &nbsp; {told}{noise}"))
    rows += of_grades(figures)
    if figures.accuracy is not None:
        low, high = (None if x is None else 100 * x for x in (figures.accuracy_low, figures.accuracy_high))
        rows.append((f"Accuracy{mean}", f"{percent(figures.accuracy)} &nbsp; {between(low, high, '{:.1f} %')}"))
    if run.labels != "several":
        rows += _of_classes(figures, run.classes)
    if figures.patients is not None:
        rows.append(("Measured on", f"{figures.patients:,} patients of the hospitals, each hospital's share unseen"))
    if figures.text:
        rows.append(("Note", esc(figures.text)))
    if not rows:
        return head + absent("The private evaluation gave no figure.")
    of_masks = mask_table(figures) if len(figures.by_class) > 1 else ""
    return head + pairs(rows) + (class_by_class(figures) if run.labels == "several" else of_masks)


def privacy(run: Run) -> str:
    """Epsilon over the rounds, and what it means."""
    spent = run.summary.privacy
    if spent is None:
        return section("Privacy spent", absent("This run does not say what privacy was spent. Assume no guarantee."))
    colluding = spent.colluding if spent.colluding is not None else "the stated number of"
    unit = esc(spent.unit or "patient")
    rows = [
        (
            "Spent",
            f"<b>ε = {epsilon(spent.epsilon)}</b>, δ = {number(spent.delta)}, per {unit}",
        ),
        ("Against", f"the server together with {colluding} hospital{'' if colluding == 1 else 's'}"),
        ("If all other hospitals collude", f"ε = {epsilon(spent.epsilon_all_others_collude)}"),
        (
            f"If {'an' if unit == 'image' else 'a'} {unit} is replaced by another",
            f"ε = {epsilon(spent.epsilon_replace)} (not added or removed)",
        ),
        ("For a patient with two images", f"ε = {epsilon(spent.epsilon_two_images)}"),
        (
            "On the patients of the evaluation",
            f"ε = {epsilon(spent.evaluation_epsilon)} (others than those of training)",
        ),
        (f"{unit.capitalize()}s in all (public)", number(spent.patients)),
        ("Steps", number(spent.steps)),
        ("Local steps a round", _local_steps(spent.local_steps)),
        ("Noise multiplier σ", number(spent.noise_multiplier)),
        ("Sampling rate q", number(spent.q)),
        ("Clipping norm C", _norm(spent)),
        ("Fewest honest hospitals in a sum", number(spent.k_min)),
        ("Hospitals that may be missing", number(spent.may_vanish)),
    ]
    absent_figures = {"For a patient with two images": spent.epsilon_two_images, **_side_figures(spent)}
    rows = [row for row in rows if row[0] not in absent_figures or absent_figures[row[0]] is not None]
    if spent.epsilon is None:
        nothing = "<p><b>No guarantee.</b> The study promised no privacy: hospitals sent sums only, and a sum can tell a lot.</p>"
        return section("Privacy spent", nothing)
    words = (
        "<p>Whatever anybody computes from the released model, the chance of any outcome changes by a factor of at most "
        f"e<sup>ε</sup>{_factor(spent.epsilon)} when one {esc(spent.unit or 'patient')} of one hospital is added or "
        "removed, except with probability about δ.</p>"
    )
    known = pairs([(name, value) for name, value in rows if value not in (DASH, f"ε = {DASH}")])
    return section("Privacy spent", words + grid([known, _epsilon_curve(run)]))


def _norm(spent: Spent) -> str:
    if spent.clipping_quantile is None:
        return number(spent.clipping_norm)
    first, quantile = number(spent.clipping_norm), number(spent.clipping_quantile)
    return f"{first} at first, then the {quantile} quantile of the gradients' norms by a private count"


def _local_steps(count: int | None) -> str:
    own = "each with the hospital's own full noise, whoever colludes"
    return f"{count}, {own}" if count is not None and count > 1 else DASH


def _side_figures(spent: Spent) -> dict[str, float | None]:
    return {
        "If all other hospitals collude": spent.epsilon_all_others_collude,
        "If a patient is replaced by another": spent.epsilon_replace,
        "On the patients of the evaluation": spent.evaluation_epsilon,
    }


def _factor(value: float | None) -> str:
    return f" = {number(math.exp(value), 3)}" if value is not None and value < 50 else ""


def _epsilon_curve(run: Run) -> str:
    points = _values(list(run.rounds), "epsilon")
    if not points:
        return absent("The rounds do not say what each of them spent.")
    last = run.summary.privacy.epsilon if run.summary.privacy else None
    top = max([y for _, y in points] + ([last] if last is not None and finite(last) else []))
    curves = [Curve("spent so far", points, "b")]
    if last is not None and finite(last):
        axis = _rounds(points)
        curves.insert(0, Curve("in all", ((axis.low, last), (axis.high, last)), "quiet"))
    return lines("Privacy spent after each round", _rounds(points), Axis("epsilon", 0, top * 1.08), curves)


def saw(run: Run) -> str:
    """The drawings, and the table."""
    hospitals = max((item.participants or 0 for item in run.rounds), default=0) or 3
    drawings = grid([flow.training(hospitals, private=run.private), flow.diagnosis()])
    roles = run.summary.who_saw or ROLES
    rows = [(esc(row.role), esc(row.sees), esc(row.stopped_by)) for row in roles]
    told = table(("Role", "Sees", "What stops it from seeing more"), rows, "stack")
    return section("Who saw what", drawings + f"<h3>Role by role</h3>{told}")


def traffic(run: Run) -> str:
    """Bytes by kind."""
    found = run.summary.bytes
    if found is None:
        return section("Bytes sent", absent("This run does not say what was sent."))
    rows = [
        *_update_rows(run.summary.update or Update()),
        ("Per hospital and round, up", size(found.per_hospital_and_round_up)),
        ("Per hospital and round, down", size(found.per_hospital_and_round_down)),
        ("One exchange", seconds(run.summary.exchange_seconds)),
        ("One round", seconds(run.summary.round_seconds)),
    ]
    kinds = sorted(found.by_kind.items(), key=lambda item: -item[1])
    plot = (
        bars("Each hospital over the whole run, by kind", [(name, count, size(count)) for name, count in kinds])
        if kinds
        else ""
    )
    return section("Bytes sent", pairs([row for row in rows if row[1] != DASH]) + (f"<h3></h3>{plot}" if plot else ""))


def _update_rows(update: Update) -> list[tuple[str, str]]:
    """What is sent; of bits that were asked for, also what they cost."""
    rows = [("One update", size(update.bytes)), ("Bits a coordinate", number(update.bits))]
    if update.clamp is not None:
        typical = f", {number(update.clamp_typical, 2)} times their typical size in the first rounds"
        cut = f"{number(update.clamp)} clipping norms" + (typical if update.clamp_typical is not None else "")
        extra = f"{percent(update.extra_noise)} above what is accounted for"
        rows += [("Noise multiplier for so few bits", extra), ("Rotated coordinates are cut at", cut)]
    return rows


def diagnoses(run: Run) -> str:
    """Encrypted diagnoses against the plain model."""
    if not run.diagnoses:
        return section("Encrypted diagnoses", absent(f"There is no {DIAGNOSES} in this run: nothing was diagnosed."))
    judged = [item for item in run.diagnoses if item.agrees is not None]
    agreed = sum(1 for item in judged if item.agrees)
    apart = [_apart(item.encrypted, item.plain) for item in run.diagnoses]
    largest = max((value for value in apart if value is not None), default=None)
    lead = (
        f"<p>{len(run.diagnoses)} images were diagnosed encrypted; {agreed} of {len(judged)} answers agree with the plain "
        "model"
        + (f", whose logits differ by at most {number(largest, 2)}" if largest is not None else "")
        + ". Neither server saw an image, a feature or an answer.</p>"
    )
    rows = [
        (
            esc(item.image),
            _logits(item.encrypted),
            _logits(item.plain),
            _verdict(item.agrees),
            seconds(item.seconds),
            size(item.bytes),
        )
        for item in run.diagnoses[:_SHOWN_DIAGNOSES]
    ]
    told = table(("Image", "Encrypted logits", "Plain logits", "Agrees", "Time", "Bytes"), rows, "stack short")
    more = len(run.diagnoses) - _SHOWN_DIAGNOSES
    rest = f'<p class="absent">… and {more} more in {DIAGNOSES}.</p>' if more > 0 else ""
    if len(rows) > 12:
        told = f"<details><summary>All {len(rows)} diagnoses</summary>{told}{rest}</details>"
        rest = ""
    return section("Encrypted diagnoses", lead + told + rest)


def _apart(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> float | None:
    if one is None or other is None or len(one) != len(other) or not one:
        return None
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


def _logits(values: tuple[float, ...] | None) -> str:
    return DASH if values is None else ", ".join(f"{value:.4f}".replace("-", "−") for value in values)


def _verdict(agrees: bool | None) -> str:
    if agrees is None:
        return DASH
    return '<span class="yes">yes</span>' if agrees else '<span class="no">NO</span>'
