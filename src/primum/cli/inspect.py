"""`primum inspect FOLDER`: what a node would offer, and every file that it cannot use, with the reason."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from primum.imaging import Intake, PatientSource, Preparation, Problem, read_folder
from primum.imaging.folder import Progress as Report


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--patient", "pattern", metavar="REGEX", help=r"Patient in file names, as '^(person\d+)_'; one group.")
@click.option(
    "--one-image-per-patient", "single", is_flag=True, help="An image that names no patient is one's only one."
)
@click.option("--size", default=64, show_default=True, help="Pixels a side at which images are compared.")
@click.option("--channels", default=1, show_default=True, help="1 for grey, 3 for colour.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
def command(folder: Path, pattern: str | None, single: bool, size: int, channels: int, as_json: bool) -> None:
    """Show what a node would offer from FOLDER, and every file that it could not use, with the reason.

    FOLDER holds one folder per class, or a labels.csv (file,label,patient). Nothing is sent anywhere. Ends with 0 if a
    node could use the folder, else with 2.
    """
    with _bar(quiet=as_json) as report:
        intake = read_folder(
            folder,
            preparation=Preparation(size=size, channels=channels),
            patients=PatientSource(pattern, single),
            pseudonym_key=os.urandom(32),
            progress=report,
        )
    if as_json:
        print(json.dumps(summary(intake), indent=2, ensure_ascii=False))
    else:
        show(intake, Console())


def summary(intake: Intake) -> dict[str, object]:
    """Plain values: counts, notices and problems; no pseudonym stands in it."""
    return {
        "images": len(intake.dataset),
        "patients": intake.dataset.patient_count,
        "classes": {
            name: {"images": intake.classes[name], "patients": intake.patients[name]} for name in intake.dataset.classes
        },
        "formats": intake.formats,
        "notices": list(intake.notices),
        "problems": [{"file": item.file, "reason": item.reason, "hint": item.hint} for item in intake.problems],
    }


def show(intake: Intake, console: Console) -> None:
    """Print the counts, the notices and one line for each file that was set aside."""
    offer = Table(title="What this node would offer", title_justify="left")
    for heading in ("class", "images", "patients"):
        offer.add_column(heading, justify="left" if heading == "class" else "right")
    for name in intake.dataset.classes:
        offer.add_row(Text(name), str(intake.classes[name]), str(intake.patients[name]))
    offer.add_section()
    offer.add_row("all", str(len(intake.dataset)), str(intake.dataset.patient_count))
    console.print(offer)
    console.print("formats: " + ", ".join(f"{count} {name}" for name, count in intake.formats.items()))
    for notice in intake.notices:
        console.print(Text(f"note: {notice}"))
    if not intake.problems:
        console.print("Every file can be used.")
        return
    console.print(f"\n{len(intake.problems)} set aside")
    for (reason, hint), files in _by_reason(intake.problems).items():
        console.print(Text(f"\n{len(files)} x {reason}", style="bold"))
        console.print(Text(f"  {hint}", style="dim"))
        for file in files:
            console.print(Text(f"    {file}"), soft_wrap=True)


def _by_reason(problems: tuple[Problem, ...]) -> dict[tuple[str, str], list[str]]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for item in problems:
        grouped.setdefault((item.reason, item.hint), []).append(item.file)
    return grouped


@contextmanager
def _bar(*, quiet: bool) -> Iterator[Report | None]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("reading", total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
