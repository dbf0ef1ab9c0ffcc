"""`primum diagnose`: an encrypted diagnosis, online or by files that travel."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from primum.diagnosis.data_owner import Diagnosis


@click.command()
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--deployment", required=True, type=click.Path(path_type=Path), help="The model owner's public.json.")
@click.option("--token", type=click.Path(path_type=Path), help="Your token, where the deployment asks for one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--save-request", type=click.Path(path_type=Path), metavar="DIR", help="Write requests, send nothing.")
@click.option("--carry", type=click.Path(path_type=Path), metavar="DIR", help="Send saved requests, keep the answers.")
@click.option("--from-answers", type=click.Path(path_type=Path), metavar="DIR", help="Open the answers.")
def command(
    images: tuple[Path, ...],
    deployment: Path,
    token: Path | None,
    as_json: bool,
    save_request: Path | None,
    carry: Path | None,
    from_answers: Path | None,
) -> None:
    """Clinician or patient: probabilities per class, without any server reading the image.

    \b
    Online:      primum diagnose xray.dcm --deployment public.json
    By file:     primum diagnose xray.dcm --deployment public.json --save-request DIR     where the image is
                 primum diagnose --deployment public.json --carry DIR                     where there is a network:
                     copy request-a.json and request-b.json there, and both answers back; reply.key stays
                 primum diagnose --deployment public.json --from-answers DIR              where the image is
    """
    from primum.diagnosis.deployment import load_public

    modes = [mode for mode in (save_request, carry, from_answers) if mode is not None]
    if len(modes) > 1 or bool(images) == (carry is not None or from_answers is not None):
        raise click.UsageError("Give IMAGES (perhaps with --save-request), or --carry, or --from-answers.")
    public = load_public(deployment)
    if carry is not None:
        from primum.diagnosis.client import carry as send

        send(carry, public)
        print(f"{carry}: both answers are there; they open where the request was made.")
        return
    from primum.diagnosis.data_owner import diagnose_files, open_saved, save_requests
    from primum.diagnosis.tokens import load_token

    permit = load_token(token, public.deployment) if token is not None else None
    if save_request is not None:
        save_requests(images, public, save_request, permit)
        print(f"{save_request}: request-a.json and request-b.json may travel; reply.key must stay here.")
    elif from_answers is not None:
        _show(*open_saved(from_answers, public), as_json)
    else:
        _show([str(path) for path in images], diagnose_files(images, public, permit=permit), as_json)


def _show(names: Sequence[str], diagnoses: Sequence["Diagnosis"], as_json: bool) -> None:
    (_print_json if as_json else _print_table)(names, diagnoses)


def _print_json(names: Sequence[str], diagnoses: Sequence["Diagnosis"]) -> None:
    rows = [
        {
            "image": name,
            "diagnosis": one.best,
            "probabilities": dict(zip(one.classes, one.probabilities, strict=True)),
            "logits": dict(zip(one.classes, one.logits, strict=True)),
            "number": one.number,
            "seconds": None if math.isnan(one.seconds) else one.seconds,
            "bytes": one.bytes,
            "model": one.model,
        }
        for name, one in zip(names, diagnoses, strict=True)
    ]
    print(json.dumps(rows, indent=1))


def _print_table(names: Sequence[str], diagnoses: Sequence["Diagnosis"]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("image", *map(escape, diagnoses[0].classes))
    for name, one in zip(names, diagnoses, strict=True):
        cells = [
            f"[bold]{value:.1%}[/bold]" if kind == one.best else f"{value:.1%}"
            for kind, value in zip(one.classes, one.probabilities, strict=True)
        ]
        table.add_row(escape(Path(name).name), *cells)
    console = Console()
    console.print(table)
    size = sum(one.bytes for one in diagnoses) / len(diagnoses)
    seconds = sum(one.seconds for one in diagnoses) / len(diagnoses)
    took = "" if math.isnan(seconds) else f"{seconds:.2f} s and "
    console.print(
        f"{took}{size / 1e6:.2f} MB an image. A probability is the model's opinion, not a finding.", soft_wrap=True
    )
