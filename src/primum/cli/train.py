"""`primum train`: the data scientist's one command."""

from pathlib import Path
from typing import Any

import click


@click.command()
@click.argument("study_file", type=click.Path(path_type=Path))
@click.option("--check", is_flag=True, help="Only explain the study: steps, noise, epsilon per round, bytes.")
@click.option(
    "--state",
    type=click.Path(path_type=Path),
    default=Path("coordinator-state"),
    help="The coordinator's folder, or yours.",
)
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
def command(
    study_file: Path,
    check: bool,
    state: Path,
    out: Path,
    test: Path | None,
    follow: str | None,
    patient: str | None,
    ablate: Path | None,
) -> None:
    """Sign the study, hand it in, follow it, fetch the model and the report."""
    from primum.study import Study

    study = Study.read(study_file)
    if check:
        from primum.federation.explain import explain

        click.echo(explain(study))
        return
    if ablate is not None:
        from primum.cli.ablate import run as run_ablation

        run_ablation(study, ablate, test, patient)
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from primum.federation.scientist import Scientist

    if test is not None:
        from primum.federation.scoring import read_test

        read_test(test, study, patient)
    scientist = Scientist.at(state)
    run = follow or scientist.submit(study)
    click.echo(f"Run {run}")
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as bar:
        task = bar.add_task("waiting", total=study.training.rounds)

        def show(message: str, line: dict[str, Any]) -> None:
            if "round" in line:
                bar.update(task, completed=line["round"], description=_words(line))
            elif message:
                bar.update(task, description=message[:80])

        scientist.follow(run, show)
    folder = scientist.fetch(run, out)
    if test is not None:
        from primum.federation.scoring import score_test

        score_test(folder, test, patient)
    from primum.report import write_report

    click.echo(f"Model:  {folder / 'model.safetensors'}")
    click.echo(f"Report: {write_report(folder)}")


def _words(line: dict[str, Any]) -> str:
    spent = f", epsilon {line['epsilon']:.2f}" if "epsilon" in line else ""
    return f"round {line['round']}{spent}"
