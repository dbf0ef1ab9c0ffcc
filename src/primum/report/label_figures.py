"""Figures of images with several classes, or with grades, and curves: pieces of the section on how good the model is."""

from collections.abc import Sequence
from typing import Final

import numpy as np

from primum.report.plots import Axis, Curve, lines
from primum.report.run import Figures, OfClass, Point, Run
from primum.report.words import DASH, absent, between, esc, in_brackets, pairs, percent, table
from primum.tasks.metrics import roc

_SHOWN_CURVES: Final = 16
_BINARY: Final = 2


def auc_name(run: Run) -> str:
    """What area is meant: of two classes there is one, of more a mean."""
    if run.labels == "several":
        return "AUC, mean over classes"
    return "AUC, mean over classes, each against the rest" if len(run.classes) > _BINARY else "AUC"


def of_grades(figures: Figures) -> list[tuple[str, str]]:
    """Kappa and the error in grades, as names and values, where there are any."""
    rows = []
    if figures.kappa is not None:
        told = between(figures.kappa_low, figures.kappa_high)
        rows.append(("Kappa, quadratic weights", f"<b>{figures.kappa:.3f}</b> &nbsp; {told}"))
    if figures.mae is not None:
        told = between(figures.mae_low, figures.mae_high, "{:.2f}")
        rows.append(("Mean error in grades", f"<b>{figures.mae:.2f}</b> &nbsp; {told}"))
    return rows


def point_rows(points: Sequence[Point]) -> list[tuple[str, str]]:
    """Where one of sensitivity and specificity is at least what the study chose, the other; as names and values."""
    rows = []
    for point in points:
        of, low, high = (point.sensitivity, point.sensitivity_low, point.sensitivity_high)
        if point.asked == "sensitivity":
            of, low, high = (point.specificity, point.specificity_low, point.specificity_high)
        other = "specificity" if point.asked == "sensitivity" else "sensitivity"
        told = between(100 * low, 100 * high, "{:.1f} %")
        what = f"At {percent(point.at_least)} {esc(point.asked)}"
        rows.append(
            (what, f"{other} <b>{percent(of)}</b> &nbsp; {told}, from a probability of {point.threshold:.3f} on")
        )
    return rows


def class_by_class(figures: Figures) -> str:
    """A table of what is known of each class, where an image may have several."""
    exact = any(one.images is not None for one in figures.by_class.values())
    told = any(one.f1 is not None for one in figures.by_class.values())
    rows = [
        (
            esc(name),
            *([DASH if one.images is None else str(one.images)] if exact else []),
            "too few" if one.too_few or one.auc is None else f"{one.auc:.3f}",
            "" if one.too_few else between(one.auc_low, one.auc_high).removeprefix("95 % interval "),
            percent(None if one.too_few else one.accuracy),
            *([_f1(one), percent(one.sensitivity), percent(one.specificity)] if told else []),
        )
        for name, one in figures.by_class.items()
    ]
    head = ["Class", *(["Images"] if exact else []), "AUC", "95 % interval", "Accuracy"]
    head += ["F1", "Sensitivity", "Specificity"] if told else []
    named = [
        (f"{esc(name)}: {what}", told)
        for name, one in figures.by_class.items()
        for what, told in point_rows(one.points)
    ]
    return (table(head, rows, "stack") if rows else "") + (pairs(named) if named else "")


def _f1(one: OfClass) -> str:
    if one.f1 is None or one.too_few:
        return DASH
    return f"{one.f1:.3f}{in_brackets(one.f1_low, one.f1_high)}"


def plots_of_several(run: Run) -> str:
    """A ROC curve for each class that some images have and some have not: there is no table of one class against another."""
    labels = np.array([item.label for item in run.predictions], np.int64)
    chances = np.array([item.probability for item in run.predictions], np.float64)
    names = run.classes if len(run.classes) == labels.shape[1] else [f"class {i}" for i in range(labels.shape[1])]
    known = [place for place in range(len(names)) if len(set(labels[:, place].tolist())) == _BINARY]
    plots = [roc_plot(labels[:, place], chances[:, place], names[place]) for place in known]
    more = absent(f"{len(plots) - _SHOWN_CURVES} more classes are in the table.") if len(plots) > _SHOWN_CURVES else ""
    return "<h3>On the test images</h3>" + grid(plots[:_SHOWN_CURVES]) + more


def roc_plot(labels: np.ndarray, scores: np.ndarray, name: str) -> str:
    """The curve of one class."""
    false, true = roc(labels, scores)
    curve = Curve("model", tuple(zip(false.tolist(), true.tolist(), strict=True)))
    chance = Curve("guessing", ((0.0, 0.0), (1.0, 1.0)), "quiet")
    return lines(
        f"ROC curve for {name}",
        Axis("false positive rate", 0, 1),
        Axis("true positive rate", 0, 1),
        [chance, curve],
        square=True,
    )


def grid(plots: list[str]) -> str:
    """Plots beside each other; those that are empty leave no place."""
    return f'<div class="plots">{"".join(plots)}</div>' if any(plots) else ""
