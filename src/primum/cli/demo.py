"""`primum demo`: the whole way on this machine."""

import sys
import time
from pathlib import Path

import click

from primum.cli import options
from primum.cli.output import told


@click.command()
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder with train/ and test/, one folder per class in each."
)
@click.option("--out", type=click.Path(path_type=Path), help="New folder for everything.  [default: primum-demo-TIME]")
@click.option(
    "--patient",
    metavar="REGEX",
    help="Finds the patient in a file's name; one group.  [default: as in Kermany's X-rays]",
)
@click.option("--drawn", is_flag=True, help="Learn from drawn X-rays; nothing is downloaded.")
@options.as_json
def command(data: Path | None, out: Path | None, patient: str | None, drawn: bool, as_json: bool) -> None:
    """Train with three hospitals, diagnose encrypted, write a report: real processes on this machine.

    Without --data: PneumoniaMNIST at 64 pixels, 5,856 X-rays of children, downloaded once (about 20 MB) from zenodo.org;
    X-rays are drawn where it does not answer.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn

    from primum.demo import run_demo
    from primum.imaging import CHEST_XRAY_PATIENT

    out = out or Path(f"primum-demo-{time.strftime('%Y%m%d-%H%M%S')}")
    columns = (BarColumn(), TaskProgressColumn(), TimeElapsedColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=Console(stderr=as_json)) as bar:
        task = bar.add_task("starting", total=1.0)
        outcome = run_demo(
            out,
            data,
            lambda what, share: bar.update(task, completed=share, description=what),
            patient or CHEST_XRAY_PATIENT,
            drawn=drawn,
        )
    data_found = {"report": str(outcome.report), "agrees": outcome.agrees, "lines": list(outcome.lines)}
    told(as_json, data_found, *outcome.lines, f"Report         {outcome.report}")
    if not outcome.agrees:
        click.echo("An encrypted answer differs from the plaintext model's.", err=True)
        sys.exit(1)
