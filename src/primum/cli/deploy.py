"""`primum deploy`: the model owner's four files."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from primum.cli import options
from primum.cli.output import told

if TYPE_CHECKING:
    from primum.diagnosis.deployable import Deployable


def network_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """What an ONNX file does not say, as options of `deploy` and `mpc plan`."""
    asked = (
        click.option("--classes", default="", help="ONNX: names of the classes, with commas.  [default: class 0, ...]"),
        click.option("--size", type=int, help="ONNX: pixels a side, where the file leaves it open."),
        click.option("--mean", default="", help="ONNX: subtracted from pixels in [0, 1], a number a channel."),
        click.option("--std", default="", help="ONNX: pixels are divided by it, a number a channel."),
        click.option(
            "--calibrate",
            type=click.Path(path_type=Path),
            help="ONNX: a folder of PUBLIC images to take ranges from.  [default: drawn ones]",
        ),
        click.option("--only-class", is_flag=True, help="ONNX: only the class comes out, no logit."),
        click.option(
            "--several", is_flag=True, help="ONNX: an image may have several of the classes; a logit of each comes out."
        ),
        click.option(
            "--coarse", is_flag=True, help="Cut answers to 8 fractional bits: honest questions tell less of the model."
        ),
    )
    for option in reversed(asked):
        command = option(command)
    return command


def open_described(model: Path, asked: dict[str, Any]) -> "Deployable":
    """The model with these options, ready to be deployed."""
    from rich.console import Console

    from primum.diagnosis.deployable import Description, names_of, numbers_of, open_model, public_images

    said = Description(
        classes=names_of(asked["classes"]),
        size=asked["size"],
        mean=numbers_of(asked["mean"]),
        std=numbers_of(asked["std"]),
        calibration=public_images(asked["calibrate"]),
        only_class=asked["only_class"],
        several=asked["several"],
    )
    with Console(stderr=True).status(f"Compiling {model} and comparing it with itself in clear ..."):
        return open_model(model, said, coarse=asked["coarse"])


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--dealer", required=True, type=click.Path(path_type=Path), help="The dealer's card.")
@click.option("--a", "card_a", required=True, type=click.Path(path_type=Path), help="The card of server A.")
@click.option("--b", "card_b", required=True, type=click.Path(path_type=Path), help="The card of server B.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder for the four files.")
@network_options
@click.option(
    "--identity", type=click.Path(path_type=Path), help="Your lasting key (made if missing); else one for this time."
)
@click.option("--tokens", is_flag=True, help="Answer only requests with a token (`primum token`).")
@options.as_json
def command(
    model: Path,
    dealer: Path,
    card_a: Path,
    card_b: Path,
    out: Path,
    identity: Path | None,
    tokens: bool,
    as_json: bool,
    **described: Any,
) -> None:
    """Model owner: make the files of a deployment of MODEL, a folder that Primum trained or an ONNX file.

    \b
    Ask the three institutions for their cards:
      primum dealer --init dealer.card --address HOST:PORT
      primum serve  --init a.card      --address HOST:PORT
      primum serve  --init b.card      --address HOST:PORT
    and compare the fingerprints by telephone. Then:
      primum deploy MODEL --dealer dealer.card --a a.card --b b.card --out FOLDER

    Give dealer.json, server-a.json and server-b.json to their roles (each opens only there), and public.json to
    everybody who asks for diagnoses. Dealer, A and B must be three institutions that do not work together.
    """
    from primum.diagnosis.deploy import NAMES, PUBLIC, deploy
    from primum.diagnosis.roles import card_fingerprint, load_card
    from primum.keys.identity import Identity

    cards = (load_card(dealer, "dealer"), load_card(card_a, "server"), load_card(card_b, "server"))
    opened = open_described(model, described)  # before a key is made: a model that is refused leaves nothing behind
    owner = Identity.load_or_make(identity) if identity else None
    deployment = deploy(opened, *cards, out, identity=owner, tokens=tokens)
    roles = list(zip(("dealer", "server A", "server B"), NAMES.values(), cards, strict=True))
    files = {who: str(out / name) for who, name, _ in roles}
    told(
        as_json,
        {"files": files, "public": str(out / PUBLIC), "fingerprint": deployment.fingerprint()},
        *(f"{out / name}  for the {who} at {card.address}, {card_fingerprint(card)}" for who, name, card in roles),
        f"{out / PUBLIC}  for everybody who asks for diagnoses",
        f"Deployment {deployment.fingerprint()}",
    )
