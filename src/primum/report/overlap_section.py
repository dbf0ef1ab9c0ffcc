"""The part of an inspection's page about another folder: which pictures and patients are in both."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from primum.imaging import Intake
from primum.report.document import notice, section
from primum.report.overlap import ADVICE, NO_PATIENTS, NOTHING, TOO_MANY, Overlap, whose
from primum.report.pair_figure import file_picture, pair_figure
from primum.report.suspects import Near
from primum.report.words import absent, esc, table

_SHOWN_PAIRS: Final = 48
_SHOWN_PATIENTS: Final = 500


@dataclass(frozen=True)
class Against:
    """Another folder that was compared: what the hospital calls it, where its files are, and what both share."""

    name: str
    folder: Path
    intake: Intake
    overlap: Overlap


def overlap_notice(against: Against) -> str:
    """A warning for the top of the page, empty where nothing was found."""
    found = against.overlap
    if found.nothing:
        return ""
    counts = f"{len(found.same)} times the same picture, {len(found.near or ())} times nearly the same"
    patients = "" if found.patients is None else f"; {len(found.patients)} patients in both"
    kind = "bad" if found.same or found.patients else "warn"
    return notice(kind, f"Some of it is also in {esc(against.name)}.", f"{counts}{patients}: see below.")


def overlap_section(folder: Path, against: Against) -> str:
    """The section; `folder` is where the files of the inspected images are."""
    found, data = against.overlap, against.intake.dataset
    body = (
        f"<p>Compared with {len(data):,} images of {data.patient_count:,} patients in <code>{esc(against.name)}</code>."
        " Left is the picture here, right the one there.</p>"
    )
    if found.nothing:
        body += absent(NOTHING)
    else:
        body += f"<p>{esc(ADVICE)}</p>" + _pictures(folder, against) + _patients(found)
    notes = [TOO_MANY] * (found.near is None) + [NO_PATIENTS] * (found.patients is None)
    return section(f"Also in {against.name}", body + "".join(absent(note) for note in notes))


def _pictures(folder: Path, against: Against) -> str:
    found = against.overlap
    same = [(places, "<b>The same picture.</b>") for places in found.same]
    near = [((pair.first, pair.second), _near_words(found, pair)) for pair in found.near or ()]
    if not same and not near:
        return ""
    shown = "".join(_pair(folder, against, places, words) for places, words in [*same, *near][:_SHOWN_PAIRS])
    more = len(same) + len(near) - _SHOWN_PAIRS
    left_out = absent(f"… and {more} more: <code>primum inspect</code> prints them all.") if more > 0 else ""
    heading = f"<h3>Pictures in both: the same {len(same)}, nearly the same {len(near)}</h3>"
    return f'{heading}<div class="suspects">{shown}</div>{left_out}'


def _near_words(found: Overlap, pair: Near) -> str:
    said = whose(found, pair)
    return (
        f"<b>Nearly the same{f', said to be {said}' if said else ''}.</b> {pair.bits} bits, correlation"
        f" {pair.correlation:.2f}."
    )


def _pair(folder: Path, against: Against, places: tuple[int, int], words: str) -> str:
    found = against.overlap
    seen = file_picture(found.one, folder, places[0]), file_picture(found.other, against.folder, places[1])
    here, there = found.files(places)
    return pair_figure(seen, f"{words} Here <code>{esc(here)}</code>, there <code>{esc(there)}</code>")


def _patients(found: Overlap) -> str:
    if not found.patients:
        return ""
    rows = [(_files(here), _files(there)) for here, there in found.patients[:_SHOWN_PATIENTS]]
    listed = f'<div class="scroll">{table(("Their files here", "Their files there"), rows)}</div>'
    return f"<h3>Patients in both: {len(found.patients)}</h3>{listed}"


def _files(files: tuple[str, ...]) -> str:
    return "<br>".join(f"<code>{esc(file)}</code>" for file in files)
