"""What the run has checked of itself, and what went wrong at hospitals: two parts of the page."""

from typing import Final

from primum.report.document import section
from primum.report.run import Evidence, Run
from primum.report.words import absent, esc, table

_TESTS: Final = {
    "clipping": ("Clipped gradients", "of two images, are those of the same images one by one"),
    "sampling": ("Samples", "are drawn with the probability that the accountant was told"),
    "noise": ("Noise", "has the mean and the width that the accountant was told"),
}


def block(run: Run) -> str:
    """The evidence, and the faults if there were any."""
    if run.evidence is None:
        return section("Evidence", absent("This run wrote down no checks of itself."))
    rows = [*_of_hospitals(run.evidence), *_of_rounds(run.evidence)]
    body = "<p>Each check fails closed: what had failed would have ended the run or been left out of it.</p>"
    body += table(("Check", "What was compared", "Passed"), rows, "stack")
    body += "<p>What can be computed again from this folder: <code>primum report --verify</code>.</p>"
    return section("Evidence", body) + _faults(run)


def _of_hospitals(evidence: Evidence) -> list[tuple[str, str, str]]:
    return [
        (
            name,
            f"{words}, at the hospital",
            f"{evidence.hospitals_that_passed.get(key, 0)} of {evidence.hospitals} hospitals",
        )
        for key, (name, words) in _TESTS.items()
        if key in evidence.hospitals_that_passed
    ]


def _of_rounds(evidence: Evidence) -> list[tuple[str, str, str]]:
    sums, heads = evidence.secure_sums_equal_plain_sums_on_probes, evidence.rounds_with_exchanged_journal_heads
    rows = [
        ("Secure sum", "on eight public numbers of each hospital, is their plain sum", f"{sums} sums"),
        ("Journals", "each side keeps the other's signed head", f"{heads} sums"),
    ]
    if evidence.saved_model_equals_live_model:
        rows.append(("Saved model", "read back, answers as the one that was learned", "yes"))
    return rows


def _faults(run: Run) -> str:
    if not run.faults:
        return ""
    counted: dict[tuple[int, str, str], int] = {}
    for fault in run.faults:
        key = fault.hospital, fault.code, f"{fault.message} {fault.hint}".strip()
        counted[key] = counted.get(key, 0) + 1
    rows = [
        (f"Hospital {hospital}", esc(code), esc(words), str(count))
        for (hospital, code, words), count in sorted(counted.items())
    ]
    return section("What hospitals could not do", table(("Hospital", "Code", "What it said", "Times"), rows, "stack"))
