"""`primum node`: the data owner's one command."""

from pathlib import Path

import click


@click.command()
@click.option(
    "--join", "join_file", type=click.Path(path_type=Path), required=True, help="The file from the coordinator."
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    required=True,
    help="Images: one folder per class, labels.csv, or images/ beside masks/.",
)
@click.option(
    "--state", type=click.Path(path_type=Path), default=Path("node-state"), help="Folder for keys, policy, ledger."
)
@click.option("--patient", help="Regular expression with one group that finds the patient in a file's name.")
def command(join_file: Path, data: Path, state: Path, patient: str | None) -> None:
    """Join with your images. Shows what you offer, waits, and asks you (or policy.toml) about each study."""
    import signal

    from rich.console import Console

    from primum.cli.inspect import show
    from primum.cli.progress import bar
    from primum.federation.enrolment import JoinFile
    from primum.federation.node import NodeState, ResidentNode, check_folder
    from primum.federation.records import wait_briefly
    from primum.imaging import Preparation

    wait_briefly()
    join = JoinFile.read(join_file)
    check_folder(data)
    opened = NodeState.open(state)
    if patient is not None:
        _remember(opened.folder / "node.toml", patient)
    node = ResidentNode(opened, join, data, click.echo)
    with bar("reading") as report:
        node.images.progress = report
        intake = node.images.intake(Preparation())
    node.images.progress = None
    show(intake, Console())
    signal.signal(signal.SIGTERM, lambda *_: node.stop.set())
    try:
        node.run()
    finally:
        node.stop.set()


def _remember(path: Path, pattern: str) -> None:
    import tomli_w

    from primum.disk import write
    from primum.federation.node import NodeSettings

    kept = NodeSettings.read(path).model_dump(exclude_none=True)
    write(path, tomli_w.dumps({**kept, "patient": pattern}).encode())
