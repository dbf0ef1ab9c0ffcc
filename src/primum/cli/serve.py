"""`primum serve`: make a server's keys, then serve."""

import sys
from pathlib import Path

import click

from primum.cli import options
from primum.cli.output import sayer, told
from primum.logs import Form, kept


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--init", type=click.Path(path_type=Path), metavar="CARD", help="Make the keys; write this card.")
@click.option(
    "--address", default="127.0.0.1:7411", show_default=True, help="With --init: where data owners reach you."
)
@click.option("--link", default="", help="With --init: where the other server reaches you.  [default: the next port]")
@click.option("--state", type=click.Path(path_type=Path), help="Keys and used numbers.  [default: ~/.primum/server]")
@click.option("--threads", default=0, help="Threads for products.  [default: as many as there are cores]")
@click.option("--device", default="cpu", show_default=True, help="Where products are computed: cpu, cuda, cuda:1.")
@click.option("--listen", default="", help="HOST:PORT to listen on for data owners, where it is not the card's.")
@click.option("--listen-link", default="", help="The same for the other server.")
@click.option(
    "--metrics",
    metavar="HOST:PORT|FILE",
    help="Answer /healthz and /metrics there, not at a public port; or the file for counts.  [default: metrics.prom in --state]",
)
@options.log
@options.as_json
@click.option(
    "--ahead",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="B: for how many more images to keep material on disk.",
)
def command(
    file: Path | None,
    init: Path | None,
    address: str,
    link: str,
    state: Path | None,
    threads: int,
    device: str,
    listen: str,
    listen_link: str,
    metrics: str | None,
    ahead: int,
    log_file: Path | None,
    log_format: Form,
    as_json: bool,
) -> None:
    """Run one of the two servers of encrypted diagnoses. It sees neither image nor model nor diagnosis.

    \b
    Once:        primum serve --init server.card --address server.example.org:7411
                 (the card is public: give it to the model owner)
    From then:   primum serve server-a.json
                 (the file that the model owner sends back, sealed to you; it says whether you are A or B)

    Server A needs to reach server B and the dealer; server B needs to be reached by A, and to reach the dealer.
    """
    from primum.diagnosis.roles import card_fingerprint, make_role, save_card
    from primum.watch import Watched, is_address, watching

    folder = state or Path.home() / ".primum" / "server"
    if (file is None) == (init is None):
        raise click.UsageError("Give either --init CARD or the deployment FILE.")
    if init is not None:
        card = make_role("server", folder, address, link)
        save_card(card, init)
        shown = card_fingerprint(card)
        words = f"{init}: give it to the model owner. Fingerprint {shown}"
        told(as_json, {"card": str(init), "fingerprint": shown}, words)
    elif file is not None:
        from primum.diagnosis.server import run_server

        watched_at = metrics if metrics is not None and is_address(metrics) else None
        named = Path(metrics) if metrics is not None and watched_at is None else None
        counts = named or folder / "metrics.prom"
        watched = Watched(lambda: counts.read_text() if counts.exists() else "")
        with kept(log_file, log_format, "server", sayer(as_json, _aside)) as say, watching(watched_at, watched):
            run_server(
                file,
                folder,
                listen=listen,
                listen_link=listen_link,
                ahead=ahead,
                threads=threads,
                device=device,
                metrics=named,
                ready=sayer(as_json, _now),
                say=say,
            )


def _aside(line: str) -> None:
    print(f"server: {line}", file=sys.stderr)


def _now(line: str) -> None:
    print(line, flush=True)
