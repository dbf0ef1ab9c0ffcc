"""`primum data`: public data sets by name, for trying Primum out."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from primum.cli import options
from primum.cli.output import print_json, told
from primum.cli.progress import bar


@click.group()
def command() -> None:
    """Public data sets by name: `list` them, `get` one, `unpack` it into folders that a node can read."""


@command.command("list")
@options.as_json
def show(as_json: bool) -> None:
    """Name the data sets, their sizes and licences."""
    from primum.imaging.named import SETS

    if as_json:
        rows = [
            {
                "name": one.name,
                "sizes": [n for n in one.files if n],
                "licence": one.licence,
                "about": one.about,
                "labels": one.labels,
            }
            for one in SETS.values()
        ]
        print_json({"sets": rows})
        return
    click.echo(f"{'name':<19}{'pixels a side':<18}{'licence':<14}what")
    for entry in SETS.values():
        sizes = ", ".join(str(size) for size in entry.files if size) or "–"
        click.echo(f"{entry.name:<19}{sizes:<18}{entry.licence:<14}{entry.about}")
    click.echo("A licence with NC allows no commercial use. `primum data get NAME` says what to cite.")


@command.command()
@click.argument("name")
@click.option(
    "--to", "folder", type=click.Path(path_type=Path), default=Path("data"), show_default=True, help="Folder for files."
)
@click.option("--size", type=int, help="Pixels a side, where there are several.  [default: the smallest]")
@options.as_json
def get(name: str, folder: Path, size: int | None, as_json: bool) -> None:
    """Download the data set NAME, checked by MD5; what is there already is only checked."""
    from primum.imaging.named import named
    from primum.imaging.named_fetch import fetch

    entry = named(name)
    with _bytes_bar(as_json) as report:
        paths = fetch(entry, folder, size, progress=report)
    data = {"files": [str(path) for path in paths], "licence": entry.licence, "citation": entry.citation}
    words = [f"{path}  ({path.stat().st_size / 1e6:.1f} MB, as published)" for path in paths]
    told(as_json, data, *words, f"Licence: {entry.licence}. Cite: {entry.citation}.")


@command.command()
@click.argument("name")
@click.option("--to", type=click.Path(path_type=Path), required=True, help="New folder.")
@click.option(
    "--from",
    "folder",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Where files are.",
)
@click.option("--size", type=int, help="Pixels a side, where there are several.  [default: the smallest]")
@click.option("--hospitals", type=int, default=1, show_default=True, help="Deal the training part to so many.")
@click.option("--by", type=click.Choice(["label"]), help="Skewed: each class has 70 % of its images in one hospital.")
@options.as_json
def unpack(name: str, to: Path, folder: Path, size: int | None, hospitals: int, by: str | None, as_json: bool) -> None:
    """Write the data set NAME as folders that `primum node --data` can read.

    Images: one folder per class (one for all where an image has several) and labels.csv, each image its own patient.
    Volumes: images/ and labels/. The training part is dealt to TO/hospital-1, ... if there are several hospitals.
    """
    from primum.imaging.named import named
    from primum.imaging.named_unpack import unpack as write

    with bar("writing", quiet=as_json) as report:
        counts, notices = write(
            named(name), folder, to, size, hospitals=hospitals, by_label=by == "label", progress=report
        )
    words = [*(f"{to / part}  {count}" for part, count in counts.items()), *(f"note: {notice}" for notice in notices)]
    told(as_json, {"folder": str(to), "parts": dict(counts), "notices": list(notices)}, *words)


@contextmanager
def _bytes_bar(quiet: bool) -> Iterator[Any]:
    if quiet or not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tasks: dict[str, Any] = {}

        def report(file: str, here: int, total: int) -> None:
            if file not in tasks:
                tasks[file] = progress.add_task(file)
            progress.update(tasks[file], completed=here, total=total or None)

        yield report
