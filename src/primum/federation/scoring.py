"""The scientist's own test images: exact figures, on images that no hospital holds."""

import json
import os
from pathlib import Path
from typing import Any

from primum.disk import write
from primum.federation.runs import write_json
from primum.imaging import PatientSource, Preparation, read_folder, read_masked_folder
from primum.models.card import load_model
from primum.tasks import metrics
from primum.tasks.look import outputs_of
from primum.tasks.segmentation import mask_figures, masks_of


def score_test(folder: Path, test: Path, patient: str | None) -> None:
    """Write predictions.jsonl and the `test` part of summary.json into the run's folder.

    `patient`: regular expression that names the patient in a file's name, for intervals clustered by patient; without
    it PatientID is used where there is one, else each image is its own patient.
    """
    model = load_model(folder)
    masks = model.card.task == "segmentation"
    data = (read_masked_folder if masks else read_folder)(
        test,
        model.card.classes,
        preparation=Preparation.from_card(model.card.preparation),
        patients=PatientSource(patient, one_image_per_patient=True),
        pseudonym_key=os.urandom(32),
    ).dataset
    if masks:
        found = masks_of(outputs_of(model.module, model.front_end.features(data.images)))
        figures = mask_figures(found, data.labels, data.classes, data.patients)
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


def _note(folder: Path, figures: dict[str, Any]) -> None:
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", {**summary, "test": figures})
