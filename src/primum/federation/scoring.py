"""The scientist's own test images: exact figures, on images that no hospital holds."""

import json
import os
from pathlib import Path

import numpy as np
import torch

from primum.federation.runs import write, write_json
from primum.imaging import PatientSource, Preparation, read_folder
from primum.models.card import load_model
from primum.tasks import metrics


def score_test(folder: Path, test: Path, patient: str | None) -> None:
    """Write predictions.jsonl and the `test` part of summary.json into the run's folder."""
    model = load_model(folder)
    data = read_folder(
        test,
        model.card.classes,
        preparation=Preparation.from_card(model.card.preparation),
        patients=PatientSource(patient, one_image_per_patient=patient is None),
        pseudonym_key=os.urandom(32),
    ).dataset
    with torch.no_grad():
        probabilities = model.probabilities(data.images).numpy()
    labels = data.labels.numpy()
    lines = [
        json.dumps({"label": int(label), "probability": round(float(row[1]), 6), "predicted": int(row.argmax())})
        for label, row in zip(labels, probabilities, strict=True)
    ]
    write(folder / "predictions.jsonl", ("\n".join(lines) + "\n").encode())
    summary = json.loads((folder / "summary.json").read_text())
    write_json(folder / "summary.json", {**summary, "test": figures(labels, probabilities, data.patients)})


def figures(
    labels: np.ndarray[tuple[int], np.dtype[np.int64]],
    probabilities: np.ndarray[tuple[int, int], np.dtype[np.float32]],
    patients: tuple[str, ...],
) -> dict[str, float]:
    """AUC (two classes) and accuracy with 95 % intervals, clustered by patient where it matters."""
    return metrics.classification_figures(labels, probabilities, patients)
