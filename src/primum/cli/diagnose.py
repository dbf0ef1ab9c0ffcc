"""`primum diagnose`: an encrypted diagnosis, online or by files that travel."""

import json
import math
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from primum.diagnosis.diagnosis import Diagnosis
    from primum.diagnosis.sources import Source


@click.command()
@click.argument("images", nargs=-1, type=click.Path(path_type=Path))
@click.option("--deployment", type=click.Path(path_type=Path), help="The model owner's public.json.")
@click.option(
    "--model", type=click.Path(path_type=Path), help="In clear on this machine, by your own model: the folder of a run."
)
@click.option("--token", type=click.Path(path_type=Path), help="Your token, where the deployment asks for one.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Write masks and reports there: DICOM, NIfTI, PNG, FHIR.",
)
@click.option("--save-request", type=click.Path(path_type=Path), metavar="DIR", help="Write requests, send nothing.")
@click.option("--carry", type=click.Path(path_type=Path), metavar="DIR", help="Send saved requests, keep the answers.")
@click.option("--from-answers", type=click.Path(path_type=Path), metavar="DIR", help="Open the answers.")
def command(
    images: tuple[Path, ...],
    deployment: Path | None,
    model: Path | None,
    token: Path | None,
    as_json: bool,
    out: Path | None,
    save_request: Path | None,
    carry: Path | None,
    from_answers: Path | None,
) -> None:
    """Clinician or patient: probabilities per class, a grade, or a mask, without any server reading the image.

    IMAGES are pictures, and for a model that draws masks volumes too: NIfTI, NRRD, a folder of one DICOM series, an
    enhanced DICOM file. With --model nothing is encrypted and nothing is sent: for the model's owner, and for models that
    draw in 3D.

    \b
    Online:      primum diagnose xray.dcm --deployment public.json --out results
    By file:     primum diagnose xray.dcm --deployment public.json --save-request DIR     where the image is
                 primum diagnose --deployment public.json --carry DIR                     where there is a network:
                     copy request-a.json and request-b.json there, and both answers back; reply.key stays
                 primum diagnose --deployment public.json --from-answers DIR              where the image is
    """
    from primum.diagnosis.deployment import load_public

    if deployment is None and model is None:
        raise click.UsageError("Give --deployment, or --model for a diagnosis in clear.")
    if deployment is not None and model is not None:
        raise click.UsageError("Give --deployment or --model, not both: one is encrypted, the other is in clear.")
    if model is not None:
        if not images or token or save_request or carry or from_answers:
            raise click.UsageError("--model takes IMAGES, and with them --out and --json only.")
        _in_clear(images, model, as_json, out)
        return
    assert deployment is not None
    modes = [mode for mode in (save_request, carry, from_answers) if mode is not None]
    if len(modes) > 1 or bool(images) == (carry is not None or from_answers is not None):
        raise click.UsageError("Give IMAGES (perhaps with --save-request), or --carry, or --from-answers.")
    if out is not None and (save_request is not None or carry is not None):
        raise click.UsageError("--out goes with a diagnosis, not with --save-request or --carry.")
    public = load_public(deployment)
    if carry is not None:
        from primum.diagnosis.client import carry as send

        send(carry, public)
        print(f"{carry}: both answers are there; they open where the request was made.")
        return
    from primum.diagnosis.data_owner import ImagePath, diagnose_sources, open_saved, save_requests
    from primum.diagnosis.tokens import load_token

    permit = load_token(token, public.deployment) if token is not None else None
    if save_request is not None:
        _noted(save_requests(images, public, save_request, permit))
        print(f"{save_request}: request-a.json and request-b.json may travel; reply.key must stay here.")
        return
    names = [str(path) for path in images]
    if from_answers is not None:
        told, diagnoses = open_saved(from_answers, public)
        names = list(told)
        sources = ImagePath.of(public).read([Path(name) for name in names]) if out else []
    else:
        sources = _noted(ImagePath.of(public).read(images))
        if out is not None:
            from primum.diagnosis.results import refuse_existing_results

            refuse_existing_results(sources, out)
        diagnoses = diagnose_sources(sources, public, permit=permit)
    _show(names, diagnoses, as_json)
    if out is not None:
        _write(sources, diagnoses, public.card, out)


def _in_clear(images: Sequence[Path], model: Path, as_json: bool, out: Path | None) -> None:
    from primum.diagnosis.clear import diagnose_in_clear
    from primum.diagnosis.results import refuse_existing_results
    from primum.diagnosis.sources import open_source
    from primum.imaging import Preparation
    from primum.models.card import load_model

    trained = load_model(model)
    preparation, masks = Preparation.from_card(trained.card.preparation), trained.card.task == "segmentation"
    sources = _noted([open_source(path, preparation, masks) for path in images])
    if out is not None:
        refuse_existing_results(sources, out)
    diagnoses = diagnose_in_clear(trained, sources)
    _show([str(path) for path in images], diagnoses, as_json)
    if out is not None:
        _write(sources, diagnoses, trained.card.model_dump(mode="json"), out)


def _noted(sources: list["Source"]) -> list["Source"]:
    """`sources`, after what their readers had to decide was said: a film of which one picture is looked at, for instance."""
    for source in sources:
        for notice in source.notices:
            print(f"{source.path}: {notice}", file=sys.stderr)
    return sources


def _write(sources: Sequence["Source"], diagnoses: Sequence["Diagnosis"], card: Mapping[str, Any], out: Path) -> None:
    from primum.diagnosis.results import write_results

    for source, diagnosis in zip(sources, diagnoses, strict=True):
        for path in write_results(source, diagnosis, card, out):
            print(path, file=sys.stderr)


def _show(names: Sequence[str], diagnoses: Sequence["Diagnosis"], as_json: bool) -> None:
    (_print_json if as_json else _print_table)(names, diagnoses)


def _print_json(names: Sequence[str], diagnoses: Sequence["Diagnosis"]) -> None:
    rows = [
        {
            "image": name,
            "diagnosis": list(one.called) if one.labels == "several" else one.called[0],
            **_figures(one),
            "number": one.number,
            "seconds": None if math.isnan(one.seconds) else one.seconds,
            "bytes": one.bytes,
            "model": one.model,
        }
        for name, one in zip(names, diagnoses, strict=True)
    ]
    print(json.dumps(rows))


def _figures(one: "Diagnosis") -> dict[str, dict[str, float]]:
    if one.mask is not None:
        return {"shares": dict(zip(one.classes, one.probabilities, strict=True))}
    return {
        "probabilities": dict(zip(one.classes, one.probabilities, strict=True)),
        "logits": dict(zip(one.logit_names, one.logits, strict=True)),
    }


def _print_table(names: Sequence[str], diagnoses: Sequence["Diagnosis"]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table("image", *map(escape, diagnoses[0].classes))
    for name, one in zip(names, diagnoses, strict=True):
        cells = [
            f"[bold]{value:.1%}[/bold]" if kind in one.called else f"{value:.1%}"
            for kind, value in zip(one.classes, one.probabilities, strict=True)
        ]
        table.add_row(escape(Path(name).name), *cells)
    console = Console()
    console.print(table)
    size = sum(one.bytes for one in diagnoses) / len(diagnoses)
    seconds = sum(one.seconds for one in diagnoses) / len(diagnoses)
    took = "" if math.isnan(seconds) else f"{seconds:.2f} s and "
    what = "share of the picture" if diagnoses[0].mask is not None else "probability"
    bold = {
        "one": "",
        "several": "Each class by itself: an image may have several, or none; above 50 % is bold. ",
        "ordered": "Bold is the grade: the highest that is reached with more than 50 %. ",
    }[diagnoses[0].labels]
    cost = f"{took}{size / 1e6:.2f} MB an image" if size else f"{seconds:.2f} s an image, in clear"
    console.print(f"{bold}{cost}. A {what} is the model's opinion, not a finding.", soft_wrap=True)
