"""What a run has checked of itself, for the report: evidence.json. Every check fails closed, so a run that has a model has
passed all of them; the block says which there were, and how often."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from primum.errors import MachineError
from primum.federation.runs import Run, write_json
from primum.imaging import Preparation
from primum.models.card import load_model
from primum.rng import Stream

EVIDENCE: Final = "evidence.json"


def check_saved(folder: Path, live: nn.Module) -> float:
    """The largest difference of a logit on a drawn picture between the model read from `folder` and the `live` one.

    MachineError where there is any: what was written is not what was learned.
    """
    saved = load_model(folder)
    shape = 1, saved.front_end.channels, *Preparation.from_card(saved.card.preparation).shape
    picture = torch.from_numpy(Stream.public("saved model").uniform(shape)).float()
    with torch.no_grad():
        features = saved.front_end.features(picture)
        difference = float((saved.module(features) - live(features)).abs().max())
    if not difference == 0:
        raise MachineError(f"The model written to {folder} differs from the one that was learned.", "Check the disk.")
    return difference


def write_evidence(run: Run, hospitals: Mapping[int, tuple[str, ...]], saved: bool) -> None:
    """Write the block: `hospitals` are the self-tests that each passed, by place; `saved` if a model was compared."""
    looks = [line for line in run.lines("looks.jsonl") if "figures" in line]
    passed = Counter(name for names in hospitals.values() for name in names)
    block: dict[str, Any] = {
        "secure_sums_equal_plain_sums_on_probes": len(run.lines("metrics.jsonl")) + len(looks),
        "hospitals": len(hospitals),
        "hospitals_that_passed": dict(sorted(passed.items())),
        "saved_model_equals_live_model": saved,
        "rounds_with_exchanged_journal_heads": len(run.lines("metrics.jsonl")) + len(looks),
    }
    write_json(run.folder / EVIDENCE, block)
