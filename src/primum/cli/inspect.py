"""`primum inspect FOLDER`: what a node would offer, and every file that it cannot use, with the reason."""

import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource
from rich.console import Console
from rich.table import Table
from rich.text import Text

from primum.cli import options
from primum.cli.progress import bar
from primum.errors import DataError
from primum.imaging import (
    FEWEST_PATIENTS,
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
from primum.imaging.file_spacing import FileSpacing
from primum.imaging.patient import PSEUDONYM_KEY_BYTES
from primum.study import Labels, Study

if TYPE_CHECKING:
    from primum.report.overlap_section import Against


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
@click.option(
    "--against",
    type=click.Path(path_type=Path),
    help="Another folder, as of test images: which pictures and patients of FOLDER are in it too.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@click.option(
    "--html",
    "page",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write a page with thumbnails and suspects, for you alone.",
)
def command(
    folder: Path,
    pattern: str | None,
    single: bool,
    labels: Labels | None,
    size: int,
    channels: int | None,
    study: Path | None,
    against: Path | None,
    as_json: bool,
    page: Path | None,
) -> None:
    """Show what a node would offer from FOLDER, and every file that it could not use, with the reason.

    FOLDER holds one folder per class, or a labels.csv (file,label,patient; or a column per class), or a labels.json (the
    same, or which attribute of DICOM files says the class); or images with masks (images/ beside masks/, or
    dataset.json). Nothing is sent anywhere. Ends with 0 if a node could use the folder, whatever
    --against finds, else with 2.
    """
    if against is not None and against.resolve() == folder.resolve():
        raise DataError(f"{against} is FOLDER itself", "Name another folder with --against.")
    with ExitStack() as stack:
        opened = stack.enter_context(unpacked(folder))
        reading = _Reading(PatientSource(pattern, single), labels, _asked(study), size, channels, as_json)
        with showing_set_aside(as_json, page):
            intake = reading.intake(opened)
        told = summary(intake)
        if not as_json:
            show(intake, Console())
        other = None if against is None else _compared(intake, against, reading, stack)
        if other is not None:
            told |= {"against": _overlap_told(other, as_json)}
        if as_json:
            print(json.dumps(told, ensure_ascii=False))
        if page is not None:
            _write_page(intake, opened.folder, page, folder.resolve().name, other, quiet=as_json)


def _asked(study: Path | None) -> Study | None:
    if study is None:
        return None
    context, said = click.get_current_context(), ("size", "channels", "labels")
    if any(context.get_parameter_source(name) is not ParameterSource.DEFAULT for name in said):
        raise click.UsageError("--study says size, channels and labels: leave these out.")
    return Study.read(study)


@dataclass(frozen=True)
class _Reading:
    """How FOLDER is read, and in the same way the one that it is compared with: `key` makes their pseudonyms."""

    patients: PatientSource
    labels: Labels | None
    asked: Study | None
    size: int
    channels: int | None
    quiet: bool
    key: bytes = field(default_factory=partial(os.urandom, PSEUDONYM_KEY_BYTES), repr=False)

    def intake(self, opened: Unpacked, fewest: int = FEWEST_PATIENTS) -> Intake:
        """Read as the study asks, or at the size and channels that were given. Raises DataError."""
        if self.asked is not None:
            return self._read(opened, fewest, Preparation(**self.asked.images.model_dump()))
        if self.channels is None:
            return look(lambda preparation: self._read(opened, fewest, replace(preparation, size=self.size)))
        return self._read(opened, fewest, Preparation(size=self.size, channels=self.channels))

    def _read(self, opened: Unpacked, fewest: int, preparation: Preparation) -> Intake:
        """The one place that decides what kind of folder it is; archives were unpacked before, and stay for the page."""
        asked = self.asked
        if asked is not None:
            require_task(opened.folder, asked.study.task)
        read = reader_of(masked=holds_masks(opened.folder), labels=asked.study.labels if asked else self.labels)
        with bar("reading", quiet=self.quiet) as report:
            intake = read(
                opened.folder,
                asked.study.classes if asked else None,
                preparation=preparation,
                patients=self.patients,
                pseudonym_key=self.key,
                progress=report,
                fewest=fewest,
            )
        problems, notices = (*opened.problems, *intake.problems), (*opened.notices, *intake.notices)
        return replace(intake, problems=problems, notices=notices)


def _compared(intake: Intake, folder: Path, reading: _Reading, stack: ExitStack) -> "Against":
    """What `intake` shares with another folder, which may be small: nothing is offered from it. It stays unpacked."""
    from primum.report.overlap import overlap
    from primum.report.overlap_section import Against

    opened = stack.enter_context(unpacked(folder))
    with showing_set_aside(reading.quiet):
        other = reading.intake(opened, fewest=1)
    return Against(str(folder), opened.folder, other, overlap(intake, other, reading.key))


def _overlap_told(other: "Against", as_json: bool) -> dict[str, object]:
    from primum.cli.overlap import plain_overlap, show_overlap

    if not as_json:
        show_overlap(other.overlap, other.intake, other.name, Console())
    return plain_overlap(other.overlap, other.intake)


def _write_page(intake: Intake, folder: Path, page: Path, title: str, other: "Against | None", *, quiet: bool) -> None:
    from primum.report.inspection import write_inspection

    with bar("looking", quiet=quiet) as report:
        write_inspection(intake, folder, page, title, against=other, progress=report)
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
        "spacing": intake.spacing.plain(),
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
    _show_spacing(intake.spacing, console)
    for notice in intake.notices:
        console.print(Text(f"note: {notice}"))
    if not intake.problems:
        console.print("No file is set aside.")
        return
    _show_set_aside(intake.problems, console)


def _show_spacing(spacing: FileSpacing, console: Console) -> None:
    if not spacing.groups:
        console.print("mm of a pixel: no file says it")
        return
    sizes = Table(title="mm of a pixel, as the files say it", title_justify="left")
    for heading in ("", "mm", "files"):
        sizes.add_column(heading, justify="right" if heading == "files" else "left")
    for row in spacing.rows():
        sizes.add_row(*map(Text, row))
    console.print(sizes)


@contextmanager
def showing_set_aside(as_json: bool, page: Path | None = None) -> Iterator[None]:
    """Where the block refuses a folder as a whole, the files that were set aside are printed first: they say why.

    `page`: what would have been written.
    """
    try:
        yield
    except FolderError as error:
        if as_json:
            print(json.dumps({"problems": _plain(error.problems)}, ensure_ascii=False))
        elif error.problems:
            _show_set_aside(error.problems, Console())
            print(flush=True)
        if page is not None and not as_json:
            print(f"{page} is not written: there is nothing that a node would offer.", flush=True)
        raise


def _show_set_aside(problems: tuple[Problem, ...], console: Console) -> None:
    console.print(f"\n{len(problems)} set aside")
    for (reason, hint), files in _by_reason(problems).items():
        console.print(Text(f"\n{len(files)} x {reason}", style="bold"))
        console.print(Text(f"  {hint}", style="dim"))
        for file in files:
            console.print(Text(f"    {_shown(file)}"), soft_wrap=True)


def _shown(name: str) -> str:
    """A file's name on a terminal: without what would move its cursor, or be taken for a line of its own."""
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in name)


def _by_reason(problems: tuple[Problem, ...]) -> dict[tuple[str, str], list[str]]:
    grouped: dict[tuple[str, str], list[str]] = {}
    for item in problems:
        grouped.setdefault((item.reason, item.hint), []).append(item.file)
    return grouped
