"""A diagnosis in clear: model and image on one machine, nothing is sent. For the model's owner, and for masks in 3D."""

import time
from collections.abc import Sequence

import torch
from torch import Tensor

from primum.diagnosis.diagnosis import Diagnosis, Part, areas, joined
from primum.diagnosis.sources import Source
from primum.models.answers import probabilities_of
from primum.models.card import TrainedModel
from primum.models.linear import logits_of
from primum.tasks.look import outputs_of


def diagnose_in_clear(model: TrainedModel, sources: Sequence[Source]) -> list[Diagnosis]:
    """What the model says of each source, which were opened with the preparation of its card.

    `number` and `bytes` are 0: there is no request. Windows and patches are blended as their logits.
    """
    return [joined(_each(model, source), [Part.of(source)])[0] for source in sources]


def _each(model: TrainedModel, source: Source) -> list[Diagnosis]:
    """Of each picture, slice, window or patch of a source."""
    began = time.monotonic()
    outputs = outputs_of(model.module, model.front_end.features(source.images))
    outputs = logits_of(outputs) if model.card.labels == "one" else outputs
    seconds = (time.monotonic() - began) / len(outputs)
    if model.card.task == "segmentation":
        return [_mask(model, one, seconds, part=source.cover is not None) for one in outputs]
    return [_class(model, one, seconds) for one in outputs]


def _class(model: TrainedModel, outputs: Tensor, seconds: float) -> Diagnosis:
    card = model.card
    chances = probabilities_of(outputs[None].double(), card.labels)[0].tolist()
    return Diagnosis(
        card.classes, tuple(chances), tuple(outputs.tolist()), 0, seconds, 0, card.weights_sha256, labels=card.labels
    )


def _mask(model: TrainedModel, outputs: Tensor, seconds: float, *, part: bool) -> Diagnosis:
    """With its logits where it is a part of what is blended."""
    classes, mask = model.card.classes, outputs.argmax(0).to(torch.uint8).numpy()
    window = outputs.movedim(0, -1).numpy() if part else None
    shares = areas(mask, len(classes))
    return Diagnosis(classes, shares, (), 0, seconds, 0, model.card.weights_sha256, mask, window=window)
