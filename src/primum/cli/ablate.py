"""`primum train STUDY --ablate FOLDER`: where does accuracy go, to clipping or to noise?"""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from primum.imaging.dataset import Dataset
    from primum.study import Study
    from primum.tasks.simulation import Ablation, Quality

_HELD_BACK = 0.3  # of the patients, where no test folder is named


def run(study: "Study", folder: Path, test: Path | None, patient: str | None, as_json: bool) -> None:
    """Train the study three times in this process on the images in `folder`, and print how good each model is."""
    from dataclasses import asdict

    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    from primum.cli.output import print_json
    from primum.federation.explain import for_three
    from primum.tasks.plan import Plan, resolve
    from primum.tasks.simulation import ablate, study_of

    console = Console(stderr=as_json)
    training, held_back = _images(study, folder, test, patient)
    units = len(training) if study.privacy and study.privacy.unit == "image" else training.patient_count
    plan = Plan(resolve(study_of(for_three(study), units)))
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("features", total=study.training.rounds)
        result = ablate(
            plan,
            training,
            held_back,
            os.urandom(32),
            lambda what, done: bar.update(task, completed=done, description=what),
        )
    if as_json:
        print_json(asdict(result))
        return
    console.print(_table(result, len(held_back), held_back.masked))
    console.print(_advice(result))


def _images(study: "Study", folder: Path, test: Path | None, patient: str | None) -> tuple["Dataset", "Dataset"]:
    from primum.errors import DataError
    from primum.imaging import PatientSource, Preparation, reader_of
    from primum.imaging.dataset import assert_disjoint
    from primum.imaging.split import split_patients

    key, preparation = os.urandom(32), Preparation(**study.images.model_dump())
    reader = reader_of(masked=study.study.task == "segmentation", labels=study.study.labels)

    def read(path: Path) -> "Dataset":
        source = PatientSource(patient, one_image_per_patient=patient is None)
        return reader(path, study.study.classes, preparation=preparation, patients=source, pseudonym_key=key).dataset

    data = read(folder)
    if test is not None:
        held_back = read(test)
        assert_disjoint(data, held_back)
        return data, held_back
    chosen = split_patients(data.patients, _HELD_BACK, key)
    if not chosen.any() or chosen.all():
        raise DataError(f"{folder} has too few patients to hold some back.", "Name other images with --test.")
    return data.select((~chosen).tolist()), data.select(chosen.tolist())


def _table(result: "Ablation", count: int, masked: bool) -> object:
    from rich.table import Table

    drawn = Table(title=f"the same study three times; {count} images that none of them saw")
    graded = result.neither.kappa is not None
    for column in ("", "Dice" if masked else "accuracy", "weighted kappa" if graded else "AUC"):
        drawn.add_column(column, justify="left" if not column else "right")

    def row(name: str, quality: "Quality") -> None:
        ranked = quality.kappa if graded else quality.auc
        drawn.add_row(name, f"{quality.accuracy:.3f}", "-" if ranked is None else f"{ranked:.3f}")

    row("without clipping, without noise", result.neither)
    row("clipping alone", result.clipped)
    row(f"clipping and noise, epsilon {result.epsilon:.2f}", result.private)
    return drawn


def _advice(result: "Ablation") -> str:
    def figure(quality: "Quality") -> float:
        return next((one for one in (quality.auc, quality.kappa) if one is not None), quality.accuracy)

    clipping = figure(result.neither) - figure(result.clipped)
    noise = figure(result.clipped) - figure(result.private)
    if max(clipping, noise) < 0.01:
        return "Privacy takes less than 0.01 here: what is missing is in images, model or settings."
    if clipping > noise:
        return f"Clipping takes {clipping:.3f}, noise {noise:.3f}: a larger clipping norm or learning rate may help."
    return f"Noise takes {noise:.3f}, clipping {clipping:.3f}: more patients, fewer weights or a larger epsilon would help."
