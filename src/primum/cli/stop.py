"""`primum stop`: let a run end."""

from pathlib import Path

import click

from primum.cli import options


@click.command()
@click.argument("run")
@options.coordinator_state
@options.as_json
def command(run: str, state: Path, as_json: bool) -> None:
    """Stop RUN, whatever it is doing. The last finished round is kept, with a model of it; `primum resume` goes on.

    Once more does no harm, and a run that is over stays as it is. What hospitals charged stays charged.
    """
    from primum.cli.output import print_json
    from primum.federation.scientist import Scientist

    scientist = Scientist.at(state)
    scientist.stop(run)
    [status] = scientist.status(run)
    if as_json:
        print_json({"run": status.name, "state": status.state, "stopping": status.stopping})
        return
    click.echo(f"{status.name}: {'stopping' if status.stopping else status.state}")
