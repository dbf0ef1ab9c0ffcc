"""`primum node`: the data owner's one command."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from primum.cli import options
from primum.cli.output import print_json, sayer
from primum.logs import Form, kept

if TYPE_CHECKING:
    from primum.study import Labels


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
@options.patient
@options.single
@options.labels
@click.option("--rotate-transport", is_flag=True, help="Make another key for the connection; the identity stays.")
@click.option("--device", help="Where gradients are computed: cpu (the default), cuda, cuda:1. Remembered.")
@options.proxy
@options.authority
@options.metrics
@options.log
@options.as_json
def command(
    join_file: Path,
    data: Path,
    state: Path,
    patient: str | None,
    single: bool,
    labels: "Labels | None",
    rotate_transport: bool,
    device: str | None,
    proxy: str | None,
    authority: Path | None,
    metrics: str | None,
    log_file: Path | None,
    log_format: Form,
    as_json: bool,
) -> None:
    """Join with your images. Shows what you offer, waits, and asks you (or policy.toml) about each study."""
    import signal

    from rich.console import Console

    from primum.cli.inspect import show, showing_set_aside, summary
    from primum.cli.progress import bar
    from primum.federation.alone import alone
    from primum.federation.contact import HUB
    from primum.federation.enrolment import JoinFile
    from primum.federation.figures import NodeFigures
    from primum.federation.node import NodeState, ResidentNode, check_folder
    from primum.federation.node_settings import remember
    from primum.federation.records import wait_briefly
    from primum.watch import Watched, as_text, watching

    wait_briefly()
    join = JoinFile.read(join_file)
    check_folder(data)
    opened = NodeState.open(state)
    settings = opened.folder / "node.toml"
    remember(settings, patient=patient, single=single, proxy=proxy, authority=authority, device=device, labels=labels)
    if rotate_transport:
        (opened.folder / "transport.pem").unlink(missing_ok=True)
    figures = NodeFigures(opened.folder, HUB, lambda: join.certificate)
    watched = Watched(lambda: as_text(figures()))
    with alone(opened.folder), kept(log_file, log_format, "node", sayer(as_json)) as say, watching(metrics, watched):
        node = ResidentNode(opened, join, data, say)
        with showing_set_aside(as_json), bar("reading") as report:
            node.images.progress = report
            intake = node.images.look()
        node.images.progress = None
        if as_json:
            print_json({"offer": summary(intake)})
        else:
            show(intake, Console())
        signal.signal(signal.SIGTERM, lambda *_: node.stop.set())

        def interrupted(*_: object) -> None:
            node.stop.set()  # the interruption may fall into a callback, which swallows it
            raise KeyboardInterrupt

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started it ignores Ctrl-C
            signal.signal(signal.SIGINT, interrupted)
        try:
            node.run()
        finally:
            node.stop.set()
