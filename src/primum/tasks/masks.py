r"""What is found in masks beside what is true: Dice and the error of the volume, of each patient.

| symbol | meaning |
|---|---|
| A, B | pixels of one class in the found and in the true masks of a patient |
| Dice | 2 \|A and B\| / (\|A\| + \|B\|) over all pixels of a patient (of a volume: of all its slices) |
| volume error | (\|A\| - \|B\|) / \|B\| |

The background is class 0 and counts in neither.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum.models.linear import logits_of

Floats = npt.NDArray[np.float64]
Masks = Tensor | Sequence[Tensor]
"""Uint8 [n, size, size], or n masks [rows, columns], of volumes [slices, rows, columns], each of its own size."""


def masks_of(outputs: Tensor) -> Tensor:
    """The most probable class of each pixel or voxel, uint8 [n, *shape]."""
    return logits_of(outputs).argmax(1).to(torch.uint8)


def dice(found: Masks, truth: Masks, classes: int, patients: Sequence[Sequence[int]]) -> Floats:
    """Dice of each patient and class but the background, [patients, classes - 1].

    `found`, `truth`: a mask of each image. A class that neither mask has at a patient is found rightly: 1.
    """
    result = np.ones((len(patients), classes - 1))
    for place, images in enumerate(patients):
        ours, theirs = _pixels(found, images), _pixels(truth, images)
        for kind in range(1, classes):
            a, b = ours == kind, theirs == kind
            size = int(a.sum() + b.sum())
            if size:
                result[place, kind - 1] = 2 * int((a & b).sum()) / size
    return result


def volume_errors(found: Masks, truth: Masks, classes: int, patients: Sequence[Sequence[int]]) -> Floats:
    """Volume error of each patient and class but the background, [patients, classes - 1]; NaN where there is no true one."""
    result = np.full((len(patients), classes - 1), np.nan)
    for place, images in enumerate(patients):
        ours, theirs = (
            torch.bincount(_pixels(masks, images).long(), minlength=classes)[1:].double().numpy()
            for masks in (found, truth)
        )
        there = theirs > 0
        result[place, there] = (ours[there] - theirs[there]) / theirs[there]
    return result


def _pixels(masks: Masks, images: Sequence[int]) -> Tensor:
    """All pixels of some masks in one row."""
    return torch.cat([masks[image].flatten() for image in images])
