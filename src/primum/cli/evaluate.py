"""`primum evaluate`: a finished model at all hospitals; nothing is trained."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from primum.cli import options
from primum.errors import Refused

if TYPE_CHECKING:
    from primum.study import Study


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@click.option(
    "--study",
    "study_file",
    type=click.Path(path_type=Path),
    help="Whom to ask, and for what.  [default: MODEL/study.toml]",
)
@click.option("--epsilon", type=click.FloatRange(0, min_open=True), help="Of the look.  [default: as in the study]")
@options.coordinator_state
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs"), help="Where the run's folder goes.")
@options.as_json
def command(model: Path, study_file: Path | None, epsilon: float | None, state: Path, out: Path, as_json: bool) -> None:
    """Ask the hospitals how good MODEL (the folder of a run) is on their evaluation patients.

    Only a table of counts, summed over all hospitals, comes back: with noise where the study promises privacy. Nothing is
    learned from any patient, and the budget of training patients is not touched; that of evaluation patients pays.
    """
    from primum.cli.output import print_json
    from primum.federation.evaluation import as_surveyed, finished_weights, study_of
    from primum.federation.scientist import Scientist
    from primum.report import write_report
    from primum.study import Study

    study = as_surveyed(Study.read(study_file or model / "study.toml"), model)
    weights = finished_weights(model, study)
    scientist = Scientist.at(state)
    looked = study_of(study, weights, epsilon)
    run = scientist.submit(looked, weights)
    if not as_json:
        click.echo(f"Run {run}")
    last: list[str] = []

    def show(message: str, line: dict[str, Any]) -> None:
        if message and message not in last[-1:] and not as_json:
            last.append(message)
            click.echo(message)

    try:
        scientist.follow(run, show)
    except Refused as error:
        raise refused_look(error, looked) from None
    folder = scientist.fetch(run, out)
    figures = _figures(folder)
    report = write_report(folder)
    if as_json:
        print_json({"run": run, "figures": figures, "report": str(report)})
        return
    click.echo(in_words(figures))
    if looked.looks_at_learners:
        click.echo("Of all patients, also those on whom it may have been trained: such figures are too good.")
    click.echo(f"Report: {report}")


def refused_look(error: Refused, looked: "Study") -> Refused:
    """With the way out where this look costs more than is left of a budget: one that costs less."""
    if looked.privacy is None:
        return error
    asked = f"{looked.privacy.epsilon:g}"
    cheaper = (
        f"Where a budget is used up: a smaller --epsilon costs less (this look asked for {asked}); half of it costs"
    )
    return Refused(error.message, f"{cheaper} about a quarter. Else: {error.hint}")


def _figures(folder: Path) -> dict[str, Any]:
    import json

    figures: dict[str, Any] = json.loads((folder / "summary.json").read_text())["hospitals_private"]
    return figures


def in_words(figures: dict[str, Any]) -> str:
    """Each figure with its interval, and why there is none or why it says little; the counts are in the report."""
    found = [
        f"{name} {value:.3f} [{figures[f'{name}_low']:.3f}, {figures[f'{name}_high']:.3f}]"
        for name, value in figures.items()
        if f"{name}_low" in figures
    ]
    text = figures.get("text")
    return ", ".join(found) + (f" ({text})" if found and text else str(text or ""))
