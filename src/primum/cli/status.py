"""`primum status`: where runs stand, and who is waited for since when."""

import time
from pathlib import Path
from typing import Any

import click

from primum.cli import options


@click.command()
@click.argument("run", required=False, default="")
@options.coordinator_state
@options.as_json
def command(run: str, state: Path, as_json: bool) -> None:
    """Where RUN stands, or all runs: its state, the round, the stage, and which hospitals have not answered yet."""
    from primum.cli.output import print_json
    from primum.federation.scientist import Scientist

    found = Scientist.at(state).status(run)
    if as_json:
        print_json({"runs": [_as_data(status) for status in found]})
        return
    for status in found:
        for line in _words(status, time.time()):
            click.echo(line)
    if not found:
        click.echo("No run was handed in yet.")


def _as_data(status: Any) -> dict[str, Any]:
    import msgspec

    data: dict[str, Any] = msgspec.to_builtins(status)
    return data


def _words(status: Any, now: float) -> list[str]:
    stopping = ", stopping" if status.stopping else ""
    lines = [f"{status.name}: {status.state}{stopping}, round {status.rounds} of {status.of}"]
    if status.message:
        lines.append(f"  {status.message}")
    if status.stage:
        lines.append(
            f"  {status.stage} for {_seconds(now - status.since)}, at most {_seconds(max(0.0, status.until - now))} more"
        )
    lines += [
        f"  waiting for {awaited.name} (hospital {awaited.place} of this study), {_seen(awaited.last_seen, now)}"
        for awaited in status.awaited
    ]
    return lines


def _seen(at: float, now: float) -> str:
    return f"last heard of {_seconds(now - at)} ago" if at else "not heard of since the coordinator began"


def _seconds(value: float) -> str:
    return f"{value:.0f} s" if value < 120 else f"{value / 60:.0f} min"
