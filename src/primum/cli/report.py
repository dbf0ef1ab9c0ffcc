"""`primum report RUN`: the HTML report of a run, written again."""

from pathlib import Path

import click

from primum.report import write_report


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def command(run: Path) -> None:
    """Write RUN/report.html from what is in the folder RUN (runs/<id>), and print where it is."""
    print(write_report(run).resolve())
