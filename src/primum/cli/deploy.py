"""`primum deploy`: the model owner's four files."""

from pathlib import Path

import click


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option("--dealer", required=True, type=click.Path(path_type=Path), help="The dealer's card.")
@click.option("--a", "card_a", required=True, type=click.Path(path_type=Path), help="The card of server A.")
@click.option("--b", "card_b", required=True, type=click.Path(path_type=Path), help="The card of server B.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="A new folder for the four files.")
@click.option("--coarse", is_flag=True, help="Cut answers to 8 fractional bits: harder to copy the model by asking.")
@click.option(
    "--identity", type=click.Path(path_type=Path), help="Your lasting key (made if missing); else one for this time."
)
def command(
    model: Path, dealer: Path, card_a: Path, card_b: Path, out: Path, coarse: bool, identity: Path | None
) -> None:
    """Model owner: make the files of a deployment of MODEL.

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
    from primum.models.card import load_model

    cards = (load_card(dealer, "dealer"), load_card(card_a, "server"), load_card(card_b, "server"))
    owner = Identity.load_or_make(identity) if identity else None
    deployment = deploy(load_model(model), *cards, out, coarse=coarse, identity=owner)
    for who, name, card in zip(("dealer", "server A", "server B"), NAMES.values(), cards, strict=True):
        print(f"{out / name}  for the {who} at {card.address}, {card_fingerprint(card)}")
    print(f"{out / PUBLIC}  for everybody who asks for diagnoses")
    print(f"Deployment {deployment.fingerprint()}")
