"""What the hospitals' patients were like before the first round, and what the study made of it."""

from primum.report.document import section
from primum.report.run import Run, Statistics
from primum.report.words import esc, number, table

_WEIGHED = {
    "balanced": "by the inverse of how many have it",
    "root": "by the root of the inverse of how many have it",
}


def block(run: Run) -> str:
    """Nothing where the study asked nothing."""
    found = run.summary.statistics
    if found is None:
        return ""
    whom = "their evaluation patients" if run.private else "the patients on whom they train"
    noise = f", each number with noise of standard deviation {number(found.noise)}" if found.noise else ""
    lead = f"<p>Before the first round one sum over all hospitals was asked of {whom}{noise}.</p>"
    if found.too_few:
        few = "too few were asked for this epsilon. All classes count alike, and pictures are standardised as is usual."
        return section("What the patients are like", f"{lead}<p><b>It told nothing:</b> {few}</p>")
    return section("What the patients are like", lead + _classes(found) + _pixels(found))


def _classes(found: Statistics) -> str:
    if not found.classes:
        return ""
    weights = found.class_weights
    rows = [
        (esc(name), f"{count:.2f}" if found.shares or found.noise else f"{count:.0f}", number(weights.get(name)))
        for name, count in found.classes.items()
    ]
    how = f"<p>A class counts {_WEIGHED.get(found.weighing or '', '')}, at most 20 times as much as another.</p>"
    unit = "Shares of a patient's pixels, added up" if found.shares else "Patients"
    return table(("Class", unit, "Counts"), rows) + how


def _pixels(found: Statistics) -> str:
    if not found.mean:
        return ""
    each = zip(found.mean, found.deviation, strict=True)
    rows = [(str(place), f"{mean:.4f}", f"{deviation:.4f}") for place, (mean, deviation) in enumerate(each, 1)]
    words = "<p>All pictures are standardised by these, of pixels from 0 (black) to 1 (white).</p>"
    if found.vague:
        words = (
            "<p><b>The noise hid how bright pictures are:</b> these are usual numbers, not those of the hospitals.</p>"
        )
    return table(("Channel", "Mean", "Deviation"), rows) + words
