"""`primum dealer`: make the dealer's keys, then deal."""

import sys
from pathlib import Path

import click

from primum.cli import options
from primum.cli.output import sayer, told
from primum.logs import Form, kept


@click.command()
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--init", type=click.Path(path_type=Path), metavar="CARD", help="Make the keys; write this card.")
@click.option("--address", default="127.0.0.1:7401", show_default=True, help="With --init: where servers reach you.")
@click.option("--state", type=click.Path(path_type=Path), help="Keys and used numbers.  [default: ~/.primum/dealer]")
@click.option("--threads", default=0, help="Threads for products.  [default: as many as there are cores]")
@click.option("--listen", default="", help="HOST:PORT to listen on, where it is not the card's address.")
@options.metrics
@options.log
@options.as_json
def command(
    file: Path | None,
    init: Path | None,
    address: str,
    state: Path | None,
    threads: int,
    listen: str,
    metrics: str | None,
    log_file: Path | None,
    log_format: Form,
    as_json: bool,
) -> None:
    """Crypto provider: deal the randomness of encrypted diagnoses. You never see an image or a model.

    \b
    Once:        primum dealer --init dealer.card --address dealer.example.org:7401
                 (the card is public: give it to the model owner)
    From then:   primum dealer dealer.json
                 (the file that the model owner sends back, sealed to you)
    """
    from primum.diagnosis.dealer import run_dealer
    from primum.diagnosis.metrics import DealerFigures
    from primum.diagnosis.roles import card_fingerprint, make_role, save_card
    from primum.watch import Watched, watching

    folder = state or Path.home() / ".primum" / "dealer"
    if (file is None) == (init is None):
        raise click.UsageError("Give either --init CARD or the deployment FILE.")
    if init is not None:
        card = make_role("dealer", folder, address)
        save_card(card, init)
        shown = card_fingerprint(card)
        words = f"{init}: give it to the model owner. Fingerprint {shown}"
        told(as_json, {"card": str(init), "fingerprint": shown}, words)
    elif file is not None:
        watched = Watched(DealerFigures(folder))
        with kept(log_file, log_format, "dealer", sayer(as_json, _aside)) as say, watching(metrics, watched):
            run_dealer(file, folder, listen=listen, threads=threads, ready=sayer(as_json, _now), say=say)


def _aside(line: str) -> None:
    print(f"dealer: {line}", file=sys.stderr)


def _now(line: str) -> None:
    print(line, flush=True)
