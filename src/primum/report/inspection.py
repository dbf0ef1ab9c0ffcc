"""What a folder holds, as one HTML file for the hospital itself: thumbnails, counts, suspects, what was set aside.

It shows images of patients: it is written with mode 0600 and says that it stays. Pictures are numbered; which file a number
is stands in a list below them, and where the pointer rests on a picture. Pseudonyms stand nowhere.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np

from primum import __version__
from primum.disk import write
from primum.errors import DataError
from primum.imaging import Dataset, Intake, Problem
from primum.imaging.file_spacing import FileSpacing
from primum.imaging.reader import decode
from primum.report.document import document, header, notice, section
from primum.report.overlap_section import Against, overlap_notice, overlap_section
from primum.report.page import _tile
from primum.report.pair_figure import file_picture, flat_pictures, pair_figure
from primum.report.plots import Axis, Curve, bars, lines
from primum.report.suspects import (
    FEW,
    FEW_CORRELATION,
    LETTERS,
    MOST,
    NEAR_BITS,
    NEAR_CORRELATION,
    Box,
    Near,
    near_copies,
    text_boxes,
)
from primum.report.thumbnails import cut_out, picture
from primum.report.words import absent, esc, table

Progress = Callable[[int, int], None]

_SHOWN_OF_CLASS: Final = 24
_SHOWN_PLOTS: Final = 12
_SHOWN_SUSPECTS: Final = 48
_SHOWN_FILES: Final = 500
_BINS: Final = 32
_SMALL: Final = 96
_OF_PATCHES: Final = 5  # axes of images
_LARGE: Final = 220
_COPY: Final = re.compile("is the same (?:picture|image) as ")
"""How the intakes begin the reason for a copy; the rest of the reason names the first one."""
_LOOK: Final = """
.thumbs{display:flex;flex-wrap:wrap;gap:8px;margin:0 0 18px}.thumb{margin:0;width:96px}
.thumb img{width:96px;height:auto;display:block;border-radius:6px;background:#000;image-rendering:auto}
.thumb figcaption{font-size:.74rem;text-align:center;margin-top:2px}
.suspects{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,300px),1fr));gap:16px}
.suspect{margin:0;border:1px solid var(--line);border-radius:10px;padding:10px}
.suspect .seen{display:flex;gap:6px;align-items:flex-start;flex-wrap:wrap}
.suspect img{max-width:100%;height:auto;border-radius:6px;background:#000;display:block}
.suspect .seen.two img{width:calc(50% - 3px)}.suspect figcaption{overflow-wrap:anywhere;font-size:.8rem}
.suspect b{color:var(--ink)}.files{columns:2;margin:4px 0 10px;padding-left:1.2em;font-size:.84rem}
@media(min-width:641px){.bars .bar{grid-template-columns:minmax(120px,230px) 1fr 150px}}
.plots figure:only-child{max-width:520px}.files li{overflow-wrap:anywhere}@media(max-width:640px){.files{columns:1}}
"""


@dataclass(frozen=True)
class Findings:
    """What was looked for in the pictures. `near`: pairs, None if there are too many pictures to compare.
    Slices of one volume are alike, and no finding. `text`: place in the data set -> boxes at full size; None where the
    pictures are slices of volumes.
    """

    near: tuple[Near, ...] | None = field(repr=False)
    text: dict[int, list[Box]] | None = field(repr=False)


def write_inspection(
    intake: Intake,
    folder: Path,
    out: Path,
    title: str,
    *,
    against: Against | None = None,
    progress: Progress | None = None,
) -> Findings:
    """Write the page about `folder`, which was read as `intake`, to `out` (mode 0600, whole or not at all); and what it
    shares with the folder `against`.

    The files are opened a second time to look for text at full size; `progress(done, total)` is called after each.
    Raises DataError where `out` lies in a folder that does not exist, MachineError where it cannot be written.
    """
    if not out.parent.is_dir():
        raise DataError(f"the folder {out.parent} does not exist", "Make it first.")
    findings = look(intake.dataset, folder, progress)
    page = inspection_page(intake, folder, title, findings, against)
    write(out, page.encode(errors="replace"), private=True)
    return findings


def look(dataset: Dataset, folder: Path, progress: Progress | None = None) -> Findings:
    """Near copies among the prepared pictures, and text in the files as they are."""
    near = None if len(dataset) > MOST else tuple(near_copies(flat_pictures(dataset)))
    near = near and tuple(pair for pair in near if dataset.files[pair.first] != dataset.files[pair.second])
    return Findings(near, _text_in(dataset, folder, progress))


def _text_in(dataset: Dataset, folder: Path, progress: Progress | None) -> dict[int, list[Box]] | None:
    """Place -> boxes, for files that are one picture; None where there is none (slices of volumes)."""
    times, found, opened = Counter(dataset.files), {}, 0
    for place, file in enumerate(dataset.files):
        if times[file] == 1:
            try:
                boxes = text_boxes(decode(folder / file).values)
                opened += 1
            except DataError:
                boxes = []  # a volume of one slice; or changed since it was read, and the next run will say so
            if boxes:
                found[place] = boxes
        if progress is not None:
            progress(place + 1, len(dataset))
    return found if opened else None


def inspection_page(
    intake: Intake, folder: Path, title: str, findings: Findings, against: Against | None = None
) -> str:
    """The HTML of the page; `folder` is where the files are, `title` what the hospital calls it."""
    data = intake.dataset
    copies = [problem for problem in intake.problems if _COPY.match(problem.reason)]
    parts = [
        _header(title, data),
        notice(
            "warn",
            "This page stays in this hospital.",
            "It shows images of patients. It was written so that only you can read it; do not send it to anybody.",
        ),
        overlap_notice(against) if against else "",
        _tiles(intake, copies, findings),
        _classes(data),
        _pictures(data),
        _intensities(data),
        _spacing(intake.spacing),
        _twice(data, folder, copies, findings.near),
        overlap_section(folder, against) if against else "",
        _text(data, folder, findings.text),
        _set_aside(intake.problems),
        _notes(intake),
        f"<footer>Made by Primum {esc(__version__)} from the files of this folder. Nothing was sent anywhere.</footer>",
    ]
    return document(title, "Primum inspection", parts, style=_LOOK, pictures=True)


def _header(title: str, data: Dataset) -> str:
    facts = f"{len(data)} images of {data.patient_count} patients · {' / '.join(data.classes)}"
    return header("Primum inspection", title, esc(facts))


def _tiles(intake: Intake, copies: list[Problem], findings: Findings) -> str:
    near, text = findings.near, findings.text
    formats = ", ".join(f"{count} {name}" for name, count in intake.formats.items())
    tiles = [
        _tile("Images that can be used", f"{len(intake.dataset):,}", esc(f"files: {formats}")),
        _tile("Patients", f"{intake.dataset.patient_count:,}", "each counted once"),
        _tile("Files set aside", f"{len(intake.problems):,}", "with the reason, below"),
        _tile("Exact copies", f"{len(copies):,}", "set aside; the first one is kept, in two classes none"),
        _tile("Pairs nearly the same", "–" if near is None else f"{len(near):,}", "to be looked at"),
        _tile("Text in the picture?", "–" if text is None else f"{len(text):,}", "to be looked at"),
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _shows(data: Dataset) -> list[np.ndarray]:
    """For each class: which images show it, bool [n]."""
    return [shown.numpy() for shown in data.shows()]


def _classes(data: Dataset) -> str:
    rows = []
    for name, shown in zip(data.classes, _shows(data), strict=True):
        count, patients = int(shown.sum()), len({data.patients[place] for place in np.flatnonzero(shown)})
        rows.append((name, float(count), f"{count} of {patients} patient{'' if patients == 1 else 's'}"))
    what = (
        "Images, slices, windows or patches in which a class is drawn, and whose they are"
        if data.masked
        else "Images, and whose they are; an image may be in several lines, or in none"
        if data.several
        else "Images, and whose they are"
    )
    return section("Classes", bars(what, rows))


def _pictures(data: Dataset) -> str:
    """Some of each class, of as many different patients as there are; of a volume the slice (of its patches the one) where
    most is drawn."""
    groups, where = list(zip(data.classes, _shows(data), strict=True)), _where(data)
    if data.masked:
        groups = [("", _fullest(data))]
    body, listed = "", set[int]()
    for name, shown in groups:
        chosen = _spread(np.flatnonzero(shown).tolist(), data.patients)
        listed.update(chosen)
        heading = f"<h3>{esc(name)}: {len(chosen)} of {int(shown.sum())}</h3>" if name else ""
        body += f'{heading}<div class="thumbs">{"".join(_thumb(data, place, where) for place in chosen)}</div>'
    lead = (
        "<p>As a model sees them, numbered by their place among the usable images. Rest the pointer on a picture, or open "
        "the list below, to see which file it is.</p>"
    )
    rows = [(str(place + 1), f"<code>{esc(where[place])}</code>") for place in sorted(listed)]
    files = f'<details><summary>Files of the pictures shown</summary><div class="scroll">{table(("Picture", "File"), rows)}</div></details>'
    return section("Pictures", lead + body + files)


def _where(data: Dataset) -> list[str]:
    """The file of each image; of a file that gave several, which of them."""
    times, seen, found = Counter(data.files), Counter[str](), []
    for file in data.files:
        seen[file] += 1
        found.append(f"{file}, image {seen[file]} of {times[file]}" if times[file] > 1 else file)
    return found


def _fullest(data: Dataset) -> np.ndarray:
    """Bool [n]: of each file the slice whose mask covers most."""
    covered = (data.labels > 0).flatten(1).sum(1).tolist()
    best: dict[str, int] = {}
    for place, file in enumerate(data.files):
        if file not in best or covered[place] > covered[best[file]]:
            best[file] = place
    chosen = np.zeros(len(data), np.bool_)
    chosen[list(best.values())] = True
    return chosen


def _spread(places: list[int], patients: Sequence[str]) -> list[int]:
    """At most `_SHOWN_OF_CLASS` places, evenly over the folder; a second image of a patient only if there is room."""
    first = list({patients[place]: place for place in reversed(places)}.values())
    chosen = sorted(first) if len(first) >= _SHOWN_OF_CLASS else sorted(places)
    steps = np.linspace(0, len(chosen) - 1, min(_SHOWN_OF_CLASS, len(chosen))).round().astype(int)
    return [chosen[step] for step in steps]


def _thumb(data: Dataset, place: int, where: Sequence[str]) -> str:
    mask = data.labels[place].numpy() if data.masked else None
    image = data.images[place].numpy()
    if mask is not None and data.images.ndim == _OF_PATCHES:
        slices = int((mask > 0).sum(axis=(1, 2)).argmax())
        image, mask = image[:, slices], mask[slices]
    shown = picture(image, _SMALL, mask=mask)
    return f'<figure class="thumb" title="{esc(where[place])}">{shown}<figcaption>{place + 1}</figcaption></figure>'


def _intensities(data: Dataset) -> str:
    """A histogram of grey levels for each class, over that of all images."""
    everything = _histogram(data, np.ones(len(data), np.bool_))
    groups = [] if data.masked else list(zip(data.classes, _shows(data), strict=True))[:_SHOWN_PLOTS]
    counted = [(name, _histogram(data, shown)) for name, shown in groups] or [("all images", everything)]
    top = 1.15 * max(float(shares[1:-1].max()) for _, shares in [*counted, ("", everything)])
    x, y = Axis("grey level (0 black, 1 white)", 0, 1), Axis("% of pixels", 0, 100 * top)
    plots = []
    for name, shares in counted:
        curves = [Curve(name, _points(shares, top), "a")]
        if groups:
            curves.insert(0, Curve("all images", _points(everything, top), "quiet"))
        plots.append(lines(f"Grey levels, {name}", x, y, curves))
    lead = (
        "<p>Classes whose curves differ much were perhaps exported in different ways: a model would learn the export."
        " Pure black and pure white may rise above the drawing.</p>"
    )
    return section("Intensities", lead + f'<div class="plots">{"".join(plots)}</div>')


def _spacing(spacing: FileSpacing) -> str:
    """Mm of the files' own pixels, before they were prepared."""
    if not spacing.groups:
        return section("Size of a pixel", absent("No file says how many mm its pixels have."))
    lead = (
        "<p>As the files say it, before anything was prepared. A study may ask for one size (<code>images.spacing</code>):"
        " then files that say none are set aside, and the others are sampled to it.</p>"
    )
    rows = [tuple(map(esc, row)) for row in spacing.rows()]
    return section("Size of a pixel", lead + f'<div class="scroll">{table(("Of", "mm", "Files"), rows)}</div>')


def _histogram(data: Dataset, shown: np.ndarray) -> np.ndarray:
    """Share of the pixels in each of `_BINS` grey levels, float64; one image at a time, to copy little."""
    counts = np.zeros(_BINS)
    for place in np.flatnonzero(shown):
        grey = data.images[int(place)].mean(dim=0).numpy()
        counts += np.bincount(np.minimum((grey * _BINS).astype(int), _BINS - 1).ravel(), minlength=_BINS)
    shares: np.ndarray = counts / max(1.0, counts.sum())
    return shares


def _points(shares: np.ndarray, top: float) -> tuple[tuple[float, float], ...]:
    return tuple(((place + 0.5) / _BINS, 100 * min(float(share), top)) for place, share in enumerate(shares))


def _twice(data: Dataset, folder: Path, copies: list[Problem], near: tuple[Near, ...] | None) -> str:
    body = "<h3>Exact copies</h3>" + (_copies(copies) if copies else absent("No picture stands here twice."))
    body += "<h3>Nearly the same</h3>"
    if near is None:
        return section("The same picture twice", body + absent(f"Not looked for among more than {MOST:,} pictures."))
    method = (
        f"<p>Pairs whose perceptual hashes (pHash: signs of 63 low frequencies of a cosine transform at 32 × 32) differ in"
        f" at most {NEAR_BITS} bits, and whose details, without what all pictures share, correlate by at least"
        f" {NEAR_CORRELATION} ({FEW_CORRELATION} among fewer than {FEW} pictures). They are used as they are: if they show"
        " one patient under two names, that patient counts twice.</p>"
    )
    if not near:
        return section("The same picture twice", body + method + absent("There is no such pair."))
    ordered = sorted(near, key=lambda pair: (_one_patient(data, pair), -pair.correlation))
    shown = "".join(_pair(data, folder, pair) for pair in ordered[:_SHOWN_SUSPECTS])
    return section("The same picture twice", body + method + f'<div class="suspects">{shown}</div>' + _more(len(near)))


def _copies(copies: list[Problem]) -> str:
    rows = [(esc(problem.file), esc(_COPY.sub("", problem.reason, count=1))) for problem in copies[:_SHOWN_FILES]]
    return f'<div class="scroll">{table(("Set aside", "Same picture"), rows)}</div>'


def _one_patient(data: Dataset, pair: Near) -> bool:
    return data.patients[pair.first] == data.patients[pair.second]


def _pair(data: Dataset, folder: Path, pair: Near) -> str:
    one, other = pair.first, pair.second
    whose = "of one patient" if _one_patient(data, pair) else "of two patients"
    names = " and ".join(f"{place + 1} <code>{esc(data.files[place])}</code>" for place in (one, other))
    words = f"<b>Said to be {whose}.</b> {names}; {pair.bits} bits, correlation {pair.correlation:.2f}"
    return pair_figure((file_picture(data, folder, one), file_picture(data, folder, other)), words)


def _text(data: Dataset, folder: Path, text: dict[int, list[Box]] | None) -> str:
    title = "Text in the picture"
    if text is None:
        return section(title, absent("Not looked for in slices of volumes."))
    method = (
        f"<p>Names and numbers that were burned into the pixels are not removed by an anonymised header. Framed: rows of"
        f" {LETTERS} or more sharp, bright or dark strokes of a letter’s size near a border, level or upright. It is a"
        " suspicion, and no proof that the others are clean: text in the middle of a picture, slanted or run together"
        " is not seen.</p>"
    )
    if not text:
        return section(title, method + absent("Nothing of this kind was found."))
    shown = "".join(_suspect(data, folder, place, boxes) for place, boxes in list(text.items())[:_SHOWN_SUSPECTS])
    return section(title, method + f'<div class="suspects">{shown}</div>' + _more(len(text)))


def _suspect(data: Dataset, folder: Path, place: int, boxes: list[Box]) -> str:
    try:
        values = decode(folder / data.files[place]).values
    except DataError:
        return ""
    seen = picture(values, _LARGE, boxes=boxes) + "".join(picture(cut_out(values, box), _LARGE) for box in boxes[:3])
    return (
        f'<figure class="suspect"><div class="seen">{seen}</div>'
        f"<figcaption>{place + 1} <code>{esc(data.files[place])}</code></figcaption></figure>"
    )


def _more(count: int) -> str:
    return f'<p class="absent">… and {count - _SHOWN_SUSPECTS} more.</p>' if count > _SHOWN_SUSPECTS else ""


def _set_aside(problems: Iterable[Problem]) -> str:
    """By reason: how many, what to do, which files."""
    grouped: dict[tuple[str, str], list[str]] = {}
    for problem in problems:
        copy = _COPY.match(problem.reason)
        reason = f"{copy[0]}another" if copy else problem.reason
        grouped.setdefault((reason, problem.hint), []).append(problem.file)
    if not grouped:
        return section("Set aside", absent("No file is set aside."))
    body = "<p>Names of files are as in the folder: if they name patients, so does this list.</p>"
    for (reason, hint), files in sorted(grouped.items(), key=lambda entry: -len(entry[1])):
        listed = "".join(f"<li>{esc(file)}</li>" for file in files[:_SHOWN_FILES])
        rest = f"<p>… and {len(files) - _SHOWN_FILES} more.</p>" if len(files) > _SHOWN_FILES else ""
        body += (
            f"<details><summary>{len(files)} × {esc(reason)}</summary><p>{esc(hint)}</p>"
            f'<ul class="files">{listed}</ul>{rest}</details>'
        )
    return section("Set aside", body)


def _notes(intake: Intake) -> str:
    if not intake.notices:
        return ""
    return section(
        "What the readers decided", "<ul>" + "".join(f"<li>{esc(note)}</li>" for note in intake.notices) + "</ul>"
    )
