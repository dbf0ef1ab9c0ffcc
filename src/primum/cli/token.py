"""`primum token`: the model owner lets somebody ask for diagnoses."""

from pathlib import Path

import click

from primum.cli import options
from primum.cli.output import told


@click.command()
@click.argument("holder")
@click.option("--deployment", required=True, type=click.Path(path_type=Path), help="Your public.json.")
@click.option("--identity", required=True, type=click.Path(path_type=Path), help="The key that `primum deploy` had.")
@click.option("--images", required=True, type=int, help="How many images in all.")
@click.option("--days", default=365, show_default=True, help="How long.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The new token file.")
@options.as_json
def command(holder: str, deployment: Path, identity: Path, images: int, days: int, out: Path, as_json: bool) -> None:
    """Model owner: a token with which HOLDER may ask for a number of diagnoses.

    Only for a deployment that was made with `primum deploy --tokens`. Give the file to HOLDER over a private channel:
    it holds a key; whoever has it can use it. Both servers count, each for itself; a failed request counts too.
    """
    from primum.diagnosis.deployment import load_public
    from primum.diagnosis.tokens import make_token, save_token
    from primum.errors import InputError
    from primum.keys.identity import Identity

    if out.exists():
        raise InputError(f"{out} exists.", "Choose another --out.")
    if not identity.exists():
        raise InputError(f"{identity} does not exist.", "Use the --identity that `primum deploy` had.")
    public = load_public(deployment)
    if not public.deployment.tokens:
        raise InputError("This deployment answers without tokens.", "Deploy again with --tokens.")
    save_token(make_token(Identity.load_or_make(identity), public.deployment, holder, images, days), out)
    data = {"token": str(out), "holder": holder, "images": images, "days": days}
    told(as_json, data, f"{out}: {images} images for {holder}, {days} days")
