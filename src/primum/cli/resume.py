"""`primum resume`: let a run go on."""

from pathlib import Path

import click

from primum.cli import options


@click.command()
@click.argument("run")
@options.coordinator_state
@options.as_json
def command(run: str, state: Path, as_json: bool) -> None:
    """Let RUN go on after its last finished round, if it was stopped or has failed. Once more does no harm."""
    from primum.cli.output import print_json
    from primum.federation.scientist import Scientist

    scientist = Scientist.at(state)
    scientist.resume(run)
    [status] = scientist.status(run)
    if as_json:
        print_json({"run": status.name, "state": status.state})
        return
    click.echo(f"{status.name}: {status.state}; follow it: primum train STUDY --follow {status.name}")
