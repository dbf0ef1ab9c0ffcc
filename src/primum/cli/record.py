"""`primum record`: the page of one study for a hospital's data protection officer."""

from pathlib import Path

import click

from primum.cli import options


@click.command()
@click.argument("study")
@options.node_state
@click.option("--out", type=click.Path(path_type=Path), help="Where the page goes.  [default: STUDY-record.html]")
@options.as_json
def command(study: str, state: Path, out: Path | None, as_json: bool) -> None:
    """One page about STUDY (its name, or the beginning of its digest) at this hospital, to read, to print, to file.

    Purpose, who asks and who agreed, what left the building by kind and bytes, what it costs each patient now and over all
    studies, what an attacker could learn, limits, signatures. With --json the facts that are signed, and no page.
    """
    from primum.cli.output import print_json
    from primum.disk import write
    from primum.report.record import Record, record_page

    record = Record.of(state, study)
    if as_json:
        print_json(record.facts())
        return
    path = out or Path(f"{record.case.study.study.name}-record.html")
    write(path, record_page(record).encode(), private=True)
    click.echo(path.resolve())
