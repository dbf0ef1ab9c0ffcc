"""One run as one HTML file."""

import statistics
import tomllib
from pathlib import Path
from typing import Any, Final

from primum import __version__
from primum.disk import write
from primum.report import card, evidence, sections, survey
from primum.report.document import document, header, notice
from primum.report.label_figures import auc_name
from primum.report.run import Run, read_run
from primum.report.words import DASH, between, epsilon, esc, number, of_whom, percent, seconds, size

REPORT: Final = "report.html"


def write_report(run_folder: Path) -> Path:
    """Read a run's folder and write its `report.html` (whole or not at all); returns its path.

    Parts that are missing are left out with a sentence. Raises InputError naming a damaged file, MachineError where the
    page cannot be written.
    """
    text = page(read_run(run_folder))
    target = run_folder / REPORT
    write(target, text.encode())
    return target


def page(run: Run) -> str:
    """The HTML of a run."""
    parts = [
        _header(run),
        _notices(run),
        _tiles(run),
        sections.results(run),
        sections.privacy(run),
        sections.saw(run),
        survey.block(run),
        sections.training(run),
        sections.diagnoses(run),
        sections.traffic(run),
        card.promised(run),
        evidence.block(run),
        card.settings(run),
        f"<footer>Made by Primum {esc(__version__)} from the run’s folder; nothing in it is about a single hospital.</footer>",
    ]
    return document(_title(run), "Primum", parts)


def _about(run: Run) -> dict[str, Any]:
    try:
        about = tomllib.loads(run.study or "").get("study", {})
    except tomllib.TOMLDecodeError:
        return {}
    return about if isinstance(about, dict) else {}


def _title(run: Run) -> str:
    return str(_about(run).get("name") or run.name)


def _header(run: Run) -> str:
    purpose = str(_about(run).get("purpose") or "")
    trained = (run.card or {}).get("trained")
    when = str(trained.get("when") or "") if isinstance(trained, dict) else ""
    facts = [purpose, f"Run {run.name}", when]
    if run.classes:
        facts.append(" / ".join(run.classes))
    lead = " · ".join(esc(fact) for fact in facts if fact)
    return header("Primum run report", _title(run), lead)


def _notices(run: Run) -> str:
    found = []
    if run.summary.data == "drawn":
        found.append(
            notice(
                "warn", "These X-rays were drawn by a program.", "No figure below says anything about real patients."
            )
        )
    if run.summary.pinned is False:
        found.append(
            notice(
                "warn",
                "Honest-but-curious server only.",
                "The members of this study were not pinned by the hospitals, so a coordinator that lies about who takes"
                " part was not excluded. The promises below hold against one that follows the protocol.",
            )
        )
    if run.summary.privacy is not None and not run.private:
        found.append(notice("bad", "No differential privacy.", "The model may reveal who it was trained on."))
    differ = sum(1 for item in run.diagnoses if item.agrees is False)
    if differ:
        found.append(
            notice("bad", f"{differ} encrypted diagnoses differ from the plain model.", "Do not use this deployment.")
        )
    return "".join(found)


def _tiles(run: Run) -> str:
    tiles = [*_figures(run), *_spent(run), *_sent(run), *_diagnosed(run)]
    return f'<div class="tiles">{"".join(tiles)}</div>' if tiles else ""


def _tile(name: str, value: str, note: str = "") -> str:
    kind = "value text" if len(value) > 12 and "<" not in value else "value"
    return (
        f'<div class="tile"><div class="name">{name}</div><div class="{kind}">{value}</div>'
        f'<div class="note">{note}</div></div>'
    )


def _figures(run: Run) -> list[str]:
    test = run.summary.test
    if test is None:
        return []
    tiles = []
    if test.dice is not None:
        note = "<br>".join(part for part in (between(test.dice_low, test.dice_high), of_whom(test)) if part)
        tiles.append(_tile("Test Dice, exact", f"{test.dice:.3f}", note))
    if test.auc is not None:
        note = "<br>".join(part for part in (between(test.auc_low, test.auc_high), of_whom(test)) if part)
        tiles.append(_tile(f"Test {auc_name(run)}", f"{test.auc:.3f}", note))
    if test.kappa is not None:
        note = "<br>".join(part for part in (between(test.kappa_low, test.kappa_high), of_whom(test)) if part)
        tiles.append(_tile("Test kappa, quadratic weights", f"{test.kappa:.3f}", note))
    if test.accuracy is not None:
        low, high = (None if x is None else 100 * x for x in (test.accuracy_low, test.accuracy_high))
        name = "Test accuracy, mean over classes" if run.labels == "several" else "Test accuracy, exact"
        tiles.append(_tile(name, percent(test.accuracy), between(low, high, "{:.1f} %")))
    return tiles


def _spent(run: Run) -> list[str]:
    spent = run.summary.privacy
    if spent is None:
        return []
    note = f"δ = {number(spent.delta)}, per {esc(spent.unit or 'patient')}"
    if spent.colluding is not None:
        note += f", {spent.colluding} hospital{'' if spent.colluding == 1 else 's'} may collude"
    return [_tile("Privacy spent, ε", epsilon(spent.epsilon), note)]


def _sent(run: Run) -> list[str]:
    found = run.summary.bytes
    if found is None or size(found.per_hospital_and_round_up) == DASH:
        return []
    down = size(found.per_hospital_and_round_down)
    return [_tile("Sent per hospital and round", size(found.per_hospital_and_round_up), f"and {down} received")]


def _diagnosed(run: Run) -> list[str]:
    times = [item.seconds for item in run.diagnoses if item.seconds is not None]
    judged = [item.agrees for item in run.diagnoses if item.agrees is not None]
    tiles = []
    if times:
        tiles.append(_tile("Per encrypted diagnosis", seconds(statistics.median(times)), f"median of {len(times)}"))
    if judged:
        tiles.append(_tile("Agrees with plain model", f"{sum(judged)} of {len(judged)}", "encrypted diagnoses"))
    return tiles
