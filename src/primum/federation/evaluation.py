"""A study that only looks at a finished model: made from the study that trained it, or from another for the same images."""

import hashlib
from pathlib import Path

from primum.errors import ModelError
from primum.models.card import load_model
from primum.models.feature_map import PixelsCard
from primum.models.learned import read_weights
from primum.study import Evaluation, Statistics, Study
from primum.tasks.plan import Plan


def finished_weights(folder: Path, study: Study) -> bytes:
    """The weights (float32, little endian) of the model in `folder`; ModelError where the study describes another."""
    model, plan = load_model(folder), Plan(study)
    same = (
        model.card.classes == study.study.classes
        and model.card.task == study.study.task
        and model.card.labels == study.study.labels
        and model.card.front_end == plan.front_end_card
        and model.card.learned == plan.learned
    )
    if not same:
        raise ModelError(
            f"The model in {folder} is not the one that the study describes.",
            "Classes, images and [model] must be those of its card.json; the study that trained it fits.",
        )
    return read_weights(model.module).astype("<f4").tobytes()


def as_surveyed(study: Study, folder: Path) -> Study:
    """`study` with what the survey of its training found of pixels, as the model in `folder` has it: nothing is asked."""
    front_end = load_model(folder).card.front_end
    if study.statistics is None or not study.surveys:
        return study
    mean, deviation = (front_end.mean, front_end.deviation) if isinstance(front_end, PixelsCard) else (None, None)
    known = Statistics(mean=mean, deviation=deviation) if mean else None
    return study.model_copy(update={"statistics": known})


def study_of(study: Study, weights: bytes, epsilon: float | None = None) -> Study:
    """`study` without its training: one look at these weights, for `epsilon` if it is given.

    Noise and the day of its end are filled in anew. Patients on whom `study` trained nothing are looked at, and no others;
    all of them where it held nobody back.
    """
    asked = study.evaluation or Evaluation()
    share = None if study.privacy is not None else study.evaluation_share or None
    named = asked.model_copy(update={"model": hashlib.sha256(weights).hexdigest(), "share": share})
    about = study.study.model_copy(update={"name": f"{study.study.name[:50]}-evaluation", "expires": None})
    training = study.training.model_copy(update={"rounds": 0, "look_every": 0, "patience": 0})
    privacy = study.privacy
    if privacy is not None:
        noiseless = {"looks": 1, "noise_multiplier": 0.0, "evaluation_noise_multiplier": 0.0}
        privacy = privacy.model_copy(update={**noiseless, "epsilon": epsilon or privacy.epsilon})
    parts = {"study": about, "training": training, "privacy": privacy, "evaluation": named}
    return Study.model_validate({**study.model_dump(), **{name: _dumped(part) for name, part in parts.items()}})


def _dumped(part: object) -> object:
    return part.model_dump() if hasattr(part, "model_dump") else part
