"""`primum inspect FOLDER`: what a node would offer, and every file that it cannot use, with the reason."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from primum.cli import options
from primum.cli.progress import bar
from primum.imaging import (
    FolderError,
    Intake,
    PatientSource,
    Preparation,
    Problem,
    holds_masks,
    look,
    reader_of,
    require_task,
)
from primum.imaging.archive import Unpacked, unpacked
from primum.study import Labels, Study


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--patient", "pattern", metavar="REGEX", help=r"Patient in file names, as '^(person\d+)_'; one group.")
@click.option(
    "--one-image-per-patient", "single", is_flag=True, help="An image that names no patient is one's only one."
)
@options.labels
@click.option("--size", default=64, show_default=True, help="Pixels a side at which images are compared.")
@click.option("--channels", type=int, help="1 for grey, 3 for colour.  [default: 3 if something is in colour, else 1]")
@click.option(
    "--study",
    type=click.Path(path_type=Path),
    help="Look as a node does for this study: with its classes, labels, size and channels.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--html", "page", type=click.Path(path_type=Path), help="Write a page with thumbnails and suspects, for you alone."
)
def command(
    folder: Path,
    pattern: str | None,
    single: bool,
    labels: Labels | None,
    size: int,
    channels: int | None,
    study: Path | None,
    as_json: bool,
    page: Path | None,
) -> None:
    """Show what a node would offer from FOLDER, and every file that it could not use, with the reason.

    FOLDER holds one folder per class, or a labels.csv (file,label,patient; or a column per class), or a labels.json (the
    same, or which attribute of DICOM files says the class); or images with masks (images/ beside masks/, or
    dataset.json). Nothing is sent anywhere. Ends with 0 if a node could use the folder, else with 2.
    """
    with unpacked(folder) as opened:
        asked = _asked(study)
        read = partial(_read, opened, PatientSource(pattern, single), labels, asked, as_json)
        with showing_set_aside(as_json):
            intake = read(Preparation(**asked.images.model_dump())) if asked else _looked(read, size, channels)
        if as_json:
            print(json.dumps(summary(intake), ensure_ascii=False))
        else:
            show(intake, Console())
        if page is not None:
            _write_page(intake, opened.folder, page, folder.resolve().name, quiet=as_json)


def _asked(study: Path | None) -> Study | None:
    if study is None:
        return None
    context, said = click.get_current_context(), ("size", "channels", "labels")
    if any(context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in said):
        raise click.UsageError("--study says size, channels and labels: leave these out.")
    return Study.read(study)


def _looked(read: Callable[[Preparation], Intake], size: int, channels: int | None) -> Intake:
    if channels is None:
        return look(lambda preparation: read(replace(preparation, size=size)))
    return read(Preparation(size=size, channels=channels))


def _read(
    opened: Unpacked,
    patients: PatientSource,
    labels: Labels | None,
    asked: Study | None,
    quiet: bool,
    preparation: Preparation,
) -> Intake:
    """The one place that decides what kind of folder it is; archives were unpacked before, and stay for the page."""
    if asked is not None:
        require_task(opened.folder, asked.study.task)
    read = reader_of(masked=holds_masks(opened.folder), labels=asked.study.labels if asked else labels)
    with bar("reading", quiet=quiet) as report:
        intake = read(
            opened.folder,
            asked.study.classes if asked else None,
            preparation=preparation,
            patients=patients,
            pseudonym_key=os.urandom(32),
            progress=report,
        )
    problems, notices = (*opened.problems, *intake.problems), (*opened.notices, *intake.notices)
    return replace(intake, problems=problems, notices=notices)


def _write_page(intake: Intake, folder: Path, page: Path, title: str, *, quiet: bool) -> None:
    from primum.report.inspection import write_inspection

    with bar("looking", quiet=quiet) as report:
        write_inspection(intake, folder, page, title, progress=report)
    if not quiet:
        print(f"\nPage  {page.resolve()}\nIt shows images of patients, and stays in this hospital.")


def summary(intake: Intake) -> dict[str, object]:
    """Plain values: counts, notices and problems; no pseudonym stands in it."""
    return {
        "images": len(intake.dataset),
        "patients": intake.dataset.patient_count,
        "labels": intake.labels,
        "classes": {
            name: {"images": intake.classes[name], "patients": intake.patients[name]} for name in intake.dataset.classes
        },
        "formats": intake.formats,
        "notices": list(intake.notices),
        "problems": _plain(intake.problems),
    }


def _plain(problems: tuple[Problem, ...]) -> list[dict[str, str]]:
    return [{"file": item.file, "reason": item.reason, "hint": item.hint} for item in problems]


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
    if intake.labels == "several":
        console.print("note: an image has any number of these classes, or none: the lines need not add up")
    console.print("files: " + ", ".join(f"{count} {name}" for name, count in intake.formats.items()))
    for notice in intake.notices:
        console.print(Text(f"note: {notice}"))
    if not intake.problems:
        console.print("Every file can be used.")
        return
    _show_set_aside(intake.problems, console)


@contextmanager
def showing_set_aside(as_json: bool) -> Iterator[None]:
    """Where the block refuses a folder as a whole, the files that were set aside are printed first: they say why."""
    try:
        yield
    except FolderError as error:
        if as_json:
            print(json.dumps({"problems": _plain(error.problems)}, ensure_ascii=False))
        elif error.problems:
            _show_set_aside(error.problems, Console())
            print(flush=True)
        raise


def _show_set_aside(problems: tuple[Problem, ...], console: Console) -> None:
    console.print(f"\n{len(problems)} set aside")
    for (reason, hint), files in _by_reason(problems).items():
        console.print(Text(f"\n{len(files)} x {reason}", style="bold"))
        console.print(Text(f"  {hint}", style="dim"))
        for file in files:
            console.print(Text(f"    {file}"), soft_wrap=True)


def _by_reason(problems: tuple[Problem, ...]) -> dict[tuple[str, str], list[str]]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for item in problems:
        grouped.setdefault((item.reason, item.hint), []).append(item.file)
    return grouped
