"""The scientist's own test images: exact figures, on images that no hospital holds."""

import json
import os
from pathlib import Path
from typing import Any

from primum.disk import write
from primum.federation.runs import write_json
from primum.imaging import Dataset, PatientSource, Preparation, read_folder, read_masked_folder
from primum.models.card import load_model
from primum.study import Study
from primum.tasks import metrics
from primum.tasks.look import outputs_of
from primum.tasks.segmentation import mask_figures, masks_of


def read_test(test: Path, study: Study, patient: str | None) -> None:
    """DataError unless `test` can be scored when the study is over: read before anything is asked of a hospital."""
    _read(test, study.study.task, study.study.classes, Preparation(**study.images.model_dump()), patient)


def score_test(folder: Path, test: Path, patient: str | None) -> None:
    """Write predictions.jsonl and the `test` part of summary.json into the run's folder.

    `patient`: regular expression that names the patient in a file's name, for intervals clustered by patient; without
    it PatientID is used where there is one, else each image is its own patient.
    """
    model = load_model(folder)
    card = model.card
    data = _read(test, card.task, card.classes, Preparation.from_card(card.preparation), patient)
    if data.masked:
        found = masks_of(outputs_of(model.module, model.front_end.features(data.images)))
        figures = mask_figures(found, data.labels, data.classes, data.patients, data.files, data.spacing)
        _note(folder, figures)
        return
    chances = model.probabilities(data.images).double().numpy()
    labels = data.labels.numpy()
    binary = len(model.card.classes) == 2
    lines = [
        json.dumps({"label": int(label), "probability": float(row[1]) if binary else row.tolist()})
        for label, row in zip(labels, chances, strict=True)
    ]
    write(folder / "predictions.jsonl", ("\n".join(lines) + "\n").encode())
    _note(folder, metrics.classification_figures(labels, chances, data.patients))


def _read(test: Path, task: str, classes: tuple[str, ...], preparation: Preparation, patient: str | None) -> Dataset:
    read = read_masked_folder if task == "segmentation" else read_folder
    return read(
        test,
        classes,
        preparation=preparation,
        patients=PatientSource(patient, one_image_per_patient=True),
        pseudonym_key=os.urandom(32),
        fewest=1,  # they are the scientist's own: nothing has to be hidden among them
    ).dataset


def _note(folder: Path, figures: dict[str, Any]) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", {**summary, "test": figures})
