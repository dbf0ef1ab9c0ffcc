"""Learning a mask for each image: the loss, and what a look counts.

| symbol | meaning |
|---|---|
| p, y | probability of a class at a pixel; 1 where the mask has that class |
| soft Dice | (2 sum p y + 1) / (sum p + sum y + 1) over the pixels of one picture, a class |
| cross entropy | -w_y log p_y, w a weight of each class, 1 unless the study asks for others |
| focal | -(1 - p_y)^2 w_y log p_y: a pixel counts little that is right already |

A look has a table for each figure of a patient (measures.py), and a patient is in one bin of each. Source: Milletari, Navab and Ahmadi, "V-Net", 3DV 2016; Isensee et al.,
"nnU-Net", Nature Methods 18, 2021 (cross entropy and Dice together); Lin et al., "Focal loss", ICCV 2017 (gamma 2).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from primum.dp.sampling import group_by
from primum.models.linear import logits_of
from primum.study import Loss, Measure
from primum.tasks.figures import mean_figure, nothing, too_few, verdict
from primum.tasks.intervals import mean_of_patients
from primum.tasks.masks import Masks, dice, volume_errors
from primum.tasks.measures import bins_of, each_patient, edges, mean_of_classes
from primum.tasks.surface import pieces_of, surfaces
from primum.tasks.windows import Wholes

_BINS: Final = 16  # of a figure of a patient
_FINE: Final = 256  # where there is no noise
_REACH: Final = 20.0  # mm or pixels: borders further off are not told apart; a wider table has more noise
_FAR: Final = 200.0  # where there is no noise
_SMOOTH: Final = 1.0  # pixels
_GAMMA: Final = 2

Cells = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Segmentation:
    """One of some classes for each pixel, by their names; the first is the background.

    `weights`: of a pixel of each class. `measures`: what a look tells, in mm if `millimetres`, else in pixels of each image
    by itself. `exact`: without noise, where bins are fine and each class has its figures too.
    """

    names: tuple[str, ...]
    kind: Loss = "dice-cross-entropy"
    weights: tuple[float, ...] | None = None
    measures: tuple[Measure, ...] = ("dice",)
    millimetres: bool = False
    exact: bool = False

    @property
    def classes(self) -> int:
        """How many."""
        return len(self.names)

    @property
    def table(self) -> tuple[int, int, int]:
        """Of a look: a table for each figure (and where exact for each of its classes), one row, its bins."""
        return len(self.measures) * (self.classes if self.exact else 1), 1, self._bins

    @property
    def _bins(self) -> int:
        return _FINE if self.exact else _BINS

    @property
    def _reach(self) -> float:
        return _FAR if self.exact else _REACH

    def loss(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Of each picture, [n]: the mean cross entropy or focal loss of its pixels, 1 - soft Dice, or the sum of both.

        Outputs [n, classes, *shape] (or [n, 1, ...] for two), target uint8 [n, *shape]; a shape of two axes or three.
        """
        logits, masks = logits_of(outputs), target.long()
        if self.kind == "dice":
            return self._overlap(logits, masks)
        pixels = self._pixels(logits, masks)
        return pixels + self._overlap(logits, masks) if self.kind.startswith("dice") else pixels

    def _pixels(self, logits: Tensor, masks: Tensor) -> Tensor:
        weights = None if self.weights is None else logits.new_tensor(self.weights)
        entropy = nn.functional.cross_entropy(logits, masks, weights, reduction="none").flatten(1)
        if self.kind.endswith("focal"):
            right = torch.softmax(logits, 1).gather(1, masks.unsqueeze(1)).flatten(1)
            entropy = (1 - right) ** _GAMMA * entropy
        return entropy.mean(1)

    def _overlap(self, logits: Tensor, masks: Tensor) -> Tensor:
        truth = nn.functional.one_hot(masks, self.classes).movedim(-1, 1).to(logits.dtype)[:, 1:].flatten(2)
        probability = torch.softmax(logits, 1)[:, 1:].flatten(2)
        both, either = (probability * truth).sum(2), probability.sum(2) + truth.sum(2)
        soft = (2 * both + _SMOOTH) / (either + _SMOOTH)
        return 1 - soft.mean(1)

    def cells(self, seen: Wholes) -> tuple[Cells, Cells]:
        """Row 0 and the bin of each patient in each table, [patients, tables].

        ValueError where distances are in mm, and an image does not say its mm.
        """
        patients = group_by(seen.patients)
        pieces = pieces_of(len(seen.found), *((seen.files, seen.spacing) if self.millimetres else ()))
        if self.millimetres and pieces.unit != "mm":
            raise ValueError("an image does not say its millimetres")
        values = each_patient(seen.found, seen.truth, self.classes, patients, self.measures, pieces)
        columns = [
            bins_of(column, measure, self._bins, self._reach)
            for measure, each in values.items()
            for column in (mean_of_classes(each), *(each.T if self.exact else ()))
        ]
        return np.zeros((len(patients), len(columns)), np.int64), np.stack(columns, axis=1)

    def figures(self, counts: npt.NDArray[np.float64], noise: float) -> dict[str, Any]:
        """The mean of each figure over patients, with its interval; counts [tables, 1, bins], noise of that deviation.

        `surface_unit` where borders are measured; `by_class` where exact.
        """
        tables = counts.reshape(len(self.measures), -1, self._bins)
        told: dict[str, Any] = {}
        for measure, table in zip(self.measures, tables, strict=True):
            told |= self._figure(table[0], noise, measure)
        if "dice" not in told:
            return nothing(counts, noise)
        if {"surface_distance", "hausdorff_95"} & set(self.measures):
            told["surface_unit"] = "mm" if self.millimetres else "pixels"
        if self.exact:
            told["by_class"] = {
                name: {
                    key: value
                    for measure, table in zip(self.measures, tables, strict=True)
                    for key, value in self._figure(table[place], noise, measure).items()
                }
                for place, name in enumerate(self.names[1:], start=1)
            }
        return told | verdict(counts, noise) | too_few((told["dice_high"] - told["dice_low"]) / 2, noise)

    def _figure(self, counts: npt.NDArray[np.float64], noise: float, measure: Measure) -> dict[str, float]:
        return mean_figure(counts, noise, measure, edges(measure, self._bins, self._reach))


def mask_figures(
    found: Masks,
    truth: Masks,
    classes: Sequence[str],
    patients: Sequence[str],
    files: Sequence[str] = (),
    spacing: Sequence[tuple[float, ...]] = (),
) -> dict[str, Any]:
    """What a report tells of test masks: mean Dice of a patient with its interval, and of each class but the background.

    `found`, `truth`: a mask of each image; `patients`: whose each image is; `files`, `spacing`: as in `imaging.Dataset`.
    Keys: dice, images, patients, surface_unit ("mm" or "pixels"), surface_of ("volumes", "images" or both), and
    `by_class`: dice, volume_error (mean of the difference over the true volume, of the patients who have the class) and
    those of `surface.Surfaces.told`. Dice, errors and distances with intervals (Student's t over patients).
    """
    groups = group_by(patients)
    each = dice(found, truth, len(classes), groups)
    errors = volume_errors(found, truth, len(classes), groups)
    measured = pieces_of(len(found), files, spacing)
    ours, theirs = ([mask.numpy() for mask in masks] for masks in (found, truth))
    by_class = {
        name: {
            **mean_of_patients("dice", each[:, place], 0.0, 1.0),
            **mean_of_patients("volume_error", errors[:, place], -1.0, math.inf),
            **surfaces(ours, theirs, place + 1, groups, measured).told(),
        }
        for place, name in enumerate(classes[1:])
    }
    told: dict[str, Any] = {
        **mean_of_patients("dice", each.mean(axis=1), 0.0, 1.0),
        "images": len(found),
        "patients": len(groups),
    }
    return told | {"surface_unit": measured.unit, "surface_of": measured.kind, "by_class": by_class}
