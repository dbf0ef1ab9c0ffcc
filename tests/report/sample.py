"""An invented run, with everything that a run can have."""

import json
import math
from pathlib import Path
from typing import Any

from primum.rng import Stream

STUDY = """[study]
name = "pneumonia-2026"
purpose = "Tell pneumonia from normal on chest X-rays of children"
task = "classification"
classes = ["NORMAL", "PNEUMONIA"]

[training]
rounds = 40
sampling = 0.5
clipping_norm = 0.25

[privacy]
unit = "patient"
epsilon = 3.0
delta = 1e-05
patients = 379
"""

SUMMARY: dict[str, Any] = {
    "data": "drawn",
    "classes": ["NORMAL", "PNEUMONIA"],
    "test": {
        "auc": 0.9743, "auc_low": 0.9421, "auc_high": 0.9889, "accuracy": 0.92, "accuracy_low": 0.861,
        "accuracy_high": 0.956, "images": 150, "patients": 138,
    },
    "hospitals_private": {"too_few": True, "text": "too few patients for this epsilon"},
    "privacy": {
        "epsilon": 2.98, "delta": 1e-5, "unit": "patient", "epsilon_all_others_collude": 4.87, "epsilon_replace": 6.91,
        "steps": 40, "noise_multiplier": 4.56, "q": 0.5, "clipping_norm": 0.25, "colluding": 1, "k_min": 2, "evaluation_epsilon": 2.96,
    },
    "bytes": {
        "per_hospital_and_round_up": 65410, "per_hospital_and_round_down": 131882,
        "by_kind": {
            "masked updates": 6771000, "model to hospitals": 6772300, "keys and shares": 412000, "signatures": 96000,
            "study and consent": 14100, "private evaluation": 5200,
        },
    },
    "pinned": False,
    "versions": {"primum": "0.1.0", "torch": "2.13.0", "python": "3.11.7", "flwr": "1.41.0"},
    "who_saw": [
        {"role": "Hospital", "sees": "its own images; the released model", "stopped_by": "masks of the other hospitals"},
        {"role": "Coordinator", "sees": "the noisy sum of all hospitals, the model after each round, who took part",
         "stopped_by": "pairwise and self masks, signatures of the members"},
        {"role": "Scientist", "sees": "the model, the card, figures on own test images", "stopped_by": "noise"},
        {"role": "Dealer", "sees": "its own random numbers", "stopped_by": "it receives no image and no model"},
        {"role": "Server A, server B", "sees": "shares that look random, sizes and times",
         "stopped_by": "secret sharing; sealed shares"},
        {"role": "Clinician", "sees": "the image and the probabilities", "stopped_by": "model stays shared"},
    ],
    "exchange_seconds": 0.21,
}  # fmt: skip


EVIDENCE: dict[str, Any] = {
    "secure_sums_equal_plain_sums_on_probes": 41,
    "hospitals": 3,
    "hospitals_that_passed": {"clipping": 3, "noise": 3, "sampling": 3},
    "saved_model_equals_live_model": True,
    "rounds_with_exchanged_journal_heads": 41,
}


def write_run(folder: Path, diagnoses: int = 8, **changes: Any) -> Path:
    """Everything a run can have, invented; `changes` replace keys of the summary."""
    folder.mkdir(parents=True)
    stream = Stream.public("invented run")
    (folder / "study.toml").write_text(STUDY)
    (folder / "summary.json").write_text(json.dumps({**SUMMARY, **changes}))
    rounds = [_round(number, stream) for number in range(1, 41)]
    _lines(folder / "metrics.jsonl", rounds)
    _lines(folder / "attempts.jsonl", [{"attempt": 18, "failed": "hospital 2 vanished", "charged": True}])
    fault = {
        "hospital": 2,
        "code": "MachineError",
        "message": "The hospital's images or computer failed.",
        "attempt": 18,
    }
    _lines(folder / "faults.jsonl", [fault, {**fault, "attempt": 19, "hint": "<b>Its own log says why.</b>"}, fault])
    (folder / "evidence.json").write_text(json.dumps(EVIDENCE))
    ledger = [
        {"round": n, "event": "training step", "noise_multiplier": 4.56, "q": 0.5, "epsilon": 3.0} for n in (1, 2)
    ]
    _lines(folder / "ledger.jsonl", ledger)
    _lines(folder / "predictions.jsonl", [_prediction(number, stream) for number in range(150)])
    _lines(folder / "diagnoses.jsonl", [_diagnosis(number, stream) for number in range(diagnoses)])
    card = {
        "format": 1, "task": "classification", "classes": ["NORMAL", "PNEUMONIA"],
        "front_end": {"kind": "scattering", "size": 64, "scales": 3, "angles": 8, "channels": 1},
        "preparation": {"size": 64, "fit": "squash"}, "privacy": {"epsilon": 2.98, "delta": 1e-5},
        "trained": {"study": "pneumonia-2026", "rounds": 40, "hospitals": 3, "when": "2026-11-21 06:50 UTC"},
        "weights_sha256": "0" * 64,
    }  # fmt: skip
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def _round(number: int, stream: Stream) -> dict[str, Any]:
    wobble = float(stream.uniform(1)[0])
    return {
        "round": number, "attempt": number + (number > 17), "participants": 3, "seconds": 0.34 + 0.1 * wobble,
        "local_seconds": 0.12 + 0.03 * wobble, "bytes_up": 65410, "bytes_down": 131882,
        "update_norm": 0.09 / math.sqrt(number) + 0.01 * wobble, "epsilon": 0.42 * math.sqrt(number) * 1.12,
    }  # fmt: skip


def _prediction(number: int, stream: Stream) -> dict[str, Any]:
    label = number % 2
    logit = 4.2 * (label - 0.5) + 2.4 * (float(stream.uniform(4).sum()) - 2)
    return {"label": label, "probability": 1 / (1 + math.exp(-logit)), "patient": f"p{number}"}


def _diagnosis(number: int, stream: Stream) -> dict[str, Any]:
    plain = 6 * (float(stream.uniform(1)[0]) - 0.5)
    return {
        "image": f"test/PNEUMONIA/person10{number:02d}_virus_1710.jpeg", "seconds": 0.18 + 0.01 * number,
        "encrypted": [0.0, plain + 0.0004], "plain": [0.0, plain], "agrees": True, "bytes": 226400,
    }  # fmt: skip


def _lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
