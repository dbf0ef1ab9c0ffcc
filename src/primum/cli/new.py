"""`primum new study`: a commented study.toml."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from primum.cli import options
from primum.cli.output import told

if TYPE_CHECKING:
    from primum.federation.template import Task


@click.group()
def command() -> None:
    """Write a new file to start from."""


@command.command()
@click.argument("path", type=click.Path(path_type=Path), default=Path("study.toml"))
@click.option(
    "--state", type=click.Path(path_type=Path), help="A coordinator's folder: its enrolled hospitals are filled in."
)
@click.option(
    "--task",
    type=click.Choice(["classification", "segmentation"]),
    default="classification",
    show_default=True,
    help="A class for each image, or a mask.",
)
@options.as_json
def study(path: Path, state: Path | None, task: "Task", as_json: bool) -> None:
    """Write a commented study.toml."""
    from primum.disk import write
    from primum.errors import InputError
    from primum.federation.enrolment import Register
    from primum.federation.template import study_template

    if path.exists():
        raise InputError(f"{path} exists already.", "Give another name: primum new study NAME.toml")
    members = [member.identity.hex() for member in Register(state).members()] if state else []
    write(path, study_template(members, task=task).encode())
    told(as_json, {"study": str(path)}, f"Wrote {path}. Edit it, then: primum train {path} --check")
