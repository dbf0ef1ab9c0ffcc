"""`primum mpc plan`: what an encrypted diagnosis by a model costs, before anything is deployed."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from primum.cli.deploy import network_options, open_described

if TYPE_CHECKING:
    from primum.diagnosis.plan import Plan


@click.group()
def command() -> None:
    """Encrypted inference: what it needs and costs."""


@command.command()
@click.argument("model", type=click.Path(path_type=Path))
@network_options
@click.option("--link", default="", metavar="RTT,RATE", help="Between the servers, for an estimate: 20ms,100Mbit.")
@click.option("--all", "everything", is_flag=True, help="Every operation, also the cheap ones.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(model: Path, link: str, everything: bool, as_json: bool, **options: Any) -> None:
    """What one image through MODEL costs, layer by layer: time on this machine, rounds, bytes.

    MODEL is a folder that Primum trained or an ONNX file. The whole protocol is played once in this process, on a drawn
    image; nothing is sent.
    """
    import json

    from primum.diagnosis.plan import parse_link, plan_of

    between = parse_link(link) if link else None
    found = plan_of(open_described(model, options))
    if as_json:
        print(json.dumps(found.as_dict(between)))
        return
    _print_table(found, everything)
    print(found.in_words())
    if between is not None:
        print(f"Over {link} between the servers: about {found.seconds_over(between):.2f} s.")


def _print_table(found: "Plan", everything: bool) -> None:
    names = ("run ms", "ahead ms", "deal ms", "rounds", "sent MB", "dealt MB")
    print(f"{'operation':20} {'kind':11} {'output':>12}", *(f"{name:>8}" for name in names))
    rows = found.rows if everything else found.heaviest()
    for row in rows:
        times = (f"{seconds * 1e3:8.2f}" for seconds in (row.running, row.preparing, row.dealing))
        shape = "x".join(map(str, row.shape))
        sizes = (f"{row.rounds:8}", f"{row.sent_each_way / 1e6:8.3f}", f"{row.dealt / 1e6:8.3f}")
        print(f"{row.name:20.20} {row.kind:11} {shape:>12}", *times, *sizes)
    if len(rows) < len(found.rows):
        print(f"{len(found.rows) - len(rows)} cheap operations are not shown (--all shows them).")
