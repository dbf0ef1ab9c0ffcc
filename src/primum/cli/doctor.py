"""`primum doctor`: what stands between this computer and a federation, in less than a minute."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from primum.cli import options
from primum.cli.output import print_json

if TYPE_CHECKING:
    from primum.doctor.examination import Side

_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "failed": ("failed", "red")}


@click.command()
@click.option("--join", "join_file", type=click.Path(path_type=Path), help="The file from the coordinator.")
@click.option("--address", metavar="HOST:PORT", help="A coordinator without, or other than in, a join file.")
@click.option("--data", type=click.Path(path_type=Path), help="Images that the node is to offer.")
@click.option("--state", type=click.Path(path_type=Path), help="The state folder; node-state or coordinator-state.")
@click.option("--coordinator", is_flag=True, help="This is the coordinator's computer, not a hospital's.")
@options.patient
@options.single
@options.proxy
@options.authority
@options.as_json
def command(
    join_file: Path | None,
    address: str | None,
    data: Path | None,
    state: Path | None,
    coordinator: bool,
    patient: str | None,
    single: bool,
    proxy: str | None,
    authority: Path | None,
    as_json: bool,
) -> None:
    """Look at network, proxy, TLS, clock, versions, disk, memory, GPU, rules and images; change and send nothing.

    One line a check; the last line is what IT must allow. Ends with 0 where nothing failed, else with the highest exit
    code of what did (docs/how-to/behind-a-proxy.md).
    """
    from primum.doctor import Examined, Subject, examine, what_to_allow
    from primum.federation.node_settings import NodeSettings

    folder = state or Path("coordinator-state" if coordinator else "node-state")
    patients = NodeSettings(patient=patient, one_image_per_patient=single) if patient or single else None
    side: Side = "coordinator" if coordinator else "node"
    subject = Subject(folder, side, join_file, address, data, proxy, authority, patients)
    findings = []
    for finding in examine(subject):
        findings.append(finding)
        if not as_json:
            _show(finding.check, finding.state, finding.seen, finding.todo)
    examined = Examined(tuple(findings), what_to_allow(subject))
    if as_json:
        print_json(examined.as_json())
    elif examined.allow is not None:
        click.echo(f"\n{examined.allow}")
    sys.exit(examined.exit_code)


def _show(check: str, state: str, seen: str, todo: str) -> None:
    word, colour = _MARKS[state]
    click.echo(f"{click.style(f'{word:8}', fg=colour)} {check:18} {seen}")
    if todo:
        click.echo(f"{'':27} {todo}")
