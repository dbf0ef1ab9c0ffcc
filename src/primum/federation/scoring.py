"""The scientist's own test images: exact figures, on images that no hospital holds."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from primum.disk import write
from primum.federation.runs import write_json
from primum.imaging import Dataset, PatientSource, Preparation, reader_of
from primum.models.answers import grades_of, probabilities_of
from primum.models.card import Card, TrainedModel, load_model
from primum.study import About, Study
from primum.tasks import metrics
from primum.tasks.look import outputs_of
from primum.tasks.masks import masks_of
from primum.tasks.points import NO_POINTS, Points
from primum.tasks.segmentation import mask_figures
from primum.tasks.windows import whole_masks

Chances = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]


def read_test(test: Path, study: Study, patient: str | None) -> bool:
    """Whether each image of `test` counts as a patient of its own, though nobody said so: intervals rest on it.

    DataError unless `test` can be scored when the study is over: read before anything is asked of a hospital.
    """
    data = _read(test, study.study, Preparation(**study.images.model_dump()), patient)
    return patient is None and data.patient_count == len(data)


def score_test(folder: Path, test: Path, patient: str | None) -> None:
    """Write predictions.jsonl and the `test` part of summary.json into the run's folder.

    `patient`: regular expression that names the patient in a file's name, for intervals clustered by patient; without
    it PatientID is used where there is one, else each image is its own patient.
    """
    model = load_model(folder)
    card = model.card
    data = _read(test, card, Preparation.from_card(card.preparation), patient)
    if data.masked:
        _note(folder, _mask_figures(model, data))
        return
    outputs = model.logits(data.images)
    chances = probabilities_of(outputs, card.labels).double().numpy()
    called = grades_of(outputs).numpy() if card.labels == "ordered" else None
    lines = [_line(card, place, data, chances, called) for place in range(len(data))]
    write(folder / "predictions.jsonl", ("\n".join(map(json.dumps, lines)) + "\n").encode())
    _note(folder, _figures(card, data, chances, called, _points(folder)))


def _mask_figures(model: TrainedModel, data: Dataset) -> dict[str, Any]:
    """Of each picture, slice or volume; of windows or patches blended, at their resolution."""

    def outputs(images: Tensor) -> Tensor:
        return outputs_of(model.module, model.front_end.features(images))

    if not data.grids:
        found = masks_of(outputs(data.images))
        return mask_figures(found, data.labels, data.classes, data.patients, data.files, data.spacing)
    whole = whole_masks(data, outputs)
    return mask_figures(whole.found, whole.truth, data.classes, whole.patients, whole.files, whole.spacing)


def _line(card: Card, place: int, data: Dataset, chances: Chances, called: Labels | None) -> dict[str, Any]:
    """One image: its label (of several 0 or 1 for each class), its probabilities, and its grade where there is one."""
    label, row = data.labels[place].tolist(), chances[place].tolist()
    alone = card.labels == "one" and len(card.classes) == 2
    found = {"label": label, "probability": row[1] if alone else row}
    return found if called is None else {**found, "predicted": int(called[place])}


def _points(folder: Path) -> Points:
    text = folder / "study.toml"
    return Points.of(Study.parse(text.read_text(), str(text)).evaluation) if text.exists() else NO_POINTS


def _figures(card: Card, data: Dataset, chances: Chances, called: Labels | None, points: Points) -> dict[str, Any]:
    labels = data.labels.numpy()
    if card.labels == "several":
        return metrics.several_figures(labels, chances, card.classes, data.patients, points)
    if called is not None:
        return metrics.grade_figures(labels, called, len(card.classes), data.patients)
    return metrics.classification_figures(labels, chances, data.patients, points)


def _read(test: Path, about: Card | About, preparation: Preparation, patient: str | None) -> Dataset:
    read = reader_of(masked=about.task == "segmentation", labels=about.labels)
    return read(
        test,
        about.classes,
        preparation=preparation,
        patients=PatientSource(patient, one_image_per_patient=True),
        pseudonym_key=os.urandom(32),
        fewest=1,  # they are the scientist's own: nothing has to be hidden among them
    ).dataset


def _note(folder: Path, figures: dict[str, Any]) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", {**summary, "test": figures})
