"""`primum train`: the data scientist's one command."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from primum.cli import options
from primum.cli.output import told
from primum.errors import ModelError, Refused, StudyError

STANDS_STILL = Refused.exit_code
"""A run that was stopped, or that too few hospitals agree to: docs/reference/exit-codes.md."""


@click.command()
@click.argument("study_file", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only explain the study: steps, noise, epsilon per round, bytes.")
@click.option("--link", metavar="RATE", help="With --check: how long the bytes take on such a link, as 5Mbit/s.")
@options.coordinator_state
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Where the run's folder goes.")
@click.option("--test", type=click.Path(path_type=Path), help="Your own test images: exact figures, shown as such.")
@click.option("--follow", metavar="RUN", help="Follow a run that was handed in before; closing this never stops a run.")
@click.option("--patient", help="Regular expression with one group that finds the patient in a test file's name.")
@click.option(
    "--ablate",
    type=click.Path(path_type=Path),
    metavar="FOLDER",
    help="On your own or public images, here: train without clipping, with clipping, with noise; where does accuracy go?",
)
@options.as_json
def command(
    study_file: Path,
    check: bool,
    link: str | None,
    state: Path,
    out: Path,
    test: Path | None,
    follow: str | None,
    patient: str | None,
    ablate: Path | None,
    as_json: bool,
) -> None:
    """Sign the study, hand it in, follow it, fetch the model and the report."""
    from primum.study import Study

    study = Study.read(study_file)
    if follow is None and ablate is None:
        study.require_open(str(study_file))
    if check:
        from primum.federation.explain import explain
        from primum.federation.link_cost import cost_on_link, parse_rate

        rate = None if link is None else parse_rate(link)
        with _naming(study_file):
            lines = [*explain(study).splitlines(), *([] if rate is None else [cost_on_link(study, rate)])]
        told(as_json, {"explanation": lines}, *lines)
        return
    if ablate is not None:
        from primum.cli.ablate import run as run_ablation

        with _naming(study_file):
            run_ablation(study, ablate, test, patient, as_json)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from primum.federation.scientist import Scientist

    if test is not None:
        from primum.federation.scoring import read_test

        if read_test(test, study, patient):
            click.echo(
                "Each test image counts as a patient of its own; --patient REGEX tells whose they are.", err=True
            )
    scientist = Scientist.at(state)
    with _naming(study_file):
        run = follow or scientist.submit(study)
    if not as_json:
        click.echo(f"Run {run}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=as_json)) as bar:
        task = bar.add_task("waiting", total=study.training.rounds)

        def show(message: str, line: dict[str, Any]) -> None:
            if "round" in line:
                bar.update(task, completed=line["round"], description=_words(line))
            elif message:
                bar.update(task, description=message[:80])

        def fault(line: dict[str, Any]) -> None:
            bar.console.print(
                f"Hospital {line['hospital']}: {line['message']} {line['hint']} [{line['code']}]", markup=False
            )

        try:
            ended = scientist.follow(run, show, fault)
        except KeyboardInterrupt:
            bar.stop()
            click.echo(
                f"Not followed any more; the run goes on. `primum train {study_file} --follow {run}` follows it again, "
                f"`primum stop {run}` stops it.",
                err=True,
            )
            raise click.exceptions.Exit(130) from None
    folder = scientist.fetch(run, out)
    stopped = f"The run was stopped; `primum resume {run}` goes on after its last finished round."
    if not (folder / "model.safetensors").exists():
        told(as_json, {"run": run, "state": ended, "folder": str(folder)}, stopped)
        raise click.exceptions.Exit(STANDS_STILL)
    if test is not None:
        from primum.federation.scoring import score_test

        score_test(folder, test, patient)
    from primum.report import write_report

    model, report = folder / "model.safetensors", write_report(folder)
    data = {"run": run, "state": ended, "folder": str(folder), "model": str(model), "report": str(report)}
    words = [*([stopped] if ended == "stopped" else []), f"Model:  {model}", f"Report: {report}"]
    told(as_json, data, *words)
    if ended == "stopped":
        raise click.exceptions.Exit(STANDS_STILL)


@contextmanager
def _naming(study_file: Path) -> Iterator[None]:
    """Where a model cannot be made as the study says, the error names the file and the section."""
    try:
        yield
    except ModelError as error:
        raise StudyError(f"{study_file}: [model] and [images]: {error.message.rstrip('.')}.", error.hint) from error


def _words(line: dict[str, Any]) -> str:
    spent = f", epsilon {line['epsilon']:.2f}" if "epsilon" in line else ""
    return f"round {line['round']}{spent}"
