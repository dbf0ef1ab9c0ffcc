r"""Learning a mask for each image: the loss, Dice, and what a private look counts.

| symbol | meaning |
|---|---|
| p, y | probability of a class at a pixel; 1 where the mask has that class |
| soft Dice | (2 sum p y + 1) / (sum p + sum y + 1) over the pixels of one picture, a class |
| cross entropy | -w_y log p_y, w a weight of each class, 1 unless the study asks for others |
| focal | -(1 - p_y)^2 w_y log p_y: a pixel counts little that is right already |
| Dice | 2 \|A and B\| / (\|A\| + \|B\|) over all pixels of a patient (of a volume: of all its slices), a class |

The background is class 0 and counts in no Dice. Source: Milletari, Navab and Ahmadi, "V-Net", 3DV 2016; Isensee et al.,
"nnU-Net", Nature Methods 18, 2021 (cross entropy and Dice together); Lin et al., "Focal loss", ICCV 2017 (gamma 2).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from scipy import stats
from torch import Tensor, nn

from primum.dp.sampling import group_by
from primum.models.linear import logits_of
from primum.study import Loss
from primum.tasks.figures import mean_figures
from primum.tasks.surface import pieces_of, surface_figures

BINS: Final = 16  # of a patient's Dice
FINE: Final = 256  # where there is no noise
_SMOOTH: Final = 1.0  # pixels
_GAMMA: Final = 2

Cells = npt.NDArray[np.int64]
Masks = Tensor | Sequence[Tensor]
"""Uint8 [n, size, size], or n masks [rows, columns], of volumes [slices, rows, columns], each of its own size."""


@dataclass(frozen=True)
class Segmentation:
    """One of so many classes for each pixel; the first is the background. `weights`: of a pixel of each class."""

    classes: int
    kind: Loss = "dice-cross-entropy"
    weights: tuple[float, ...] | None = None
    bins: int = BINS

    @property
    def table(self) -> tuple[int, int]:
        """Of a look: one row, bins of a patient's Dice."""
        return 1, self.bins

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

    def cells(self, found: Masks, truth: Masks, patients: Sequence[Sequence[int]]) -> tuple[Cells, Cells]:
        """Row 0 and the bin of each patient's mean Dice; `found`, `truth`: a mask of each image."""
        means = dice(found, truth, self.classes, patients).mean(axis=1)
        columns = np.clip((means * self.bins).astype(np.int64), 0, self.bins - 1)
        return np.zeros(len(patients), np.int64), columns

    def figures(self, counts: npt.NDArray[np.float64], noise: float) -> dict[str, Any]:
        """Mean Dice with its interval; counts [1, bins] with noise of that deviation."""
        return mean_figures(counts[0], noise, "dice")


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
    Keys: dice, dice_low, dice_high (Student's t over patients), images, patients, surface_unit ("mm" or "pixels"),
    surface_of ("volumes", "images" or both), and `by_class`: dice, volume_error (mean of the difference over the true
    volume, of the patients who have the class) and those of `surface.OfClass`.
    """
    groups = group_by(patients)
    each = dice(found, truth, len(classes), groups)
    means = each.mean(axis=1)
    half = float(_t(len(means)) * means.std(ddof=1) / np.sqrt(len(means))) if len(means) > 1 else 1.0
    mean = float(means.mean())
    errors = volume_errors(found, truth, len(classes), groups)
    measured = pieces_of(len(found), files, spacing)
    ours, theirs = ([mask.numpy() for mask in masks] for masks in (found, truth))
    by_class = {
        name: {
            "dice": float(each[:, place].mean()),
            "volume_error": errors[place],
            **surface_figures(ours, theirs, place + 1, groups, measured).told(),
        }
        for place, name in enumerate(classes[1:])
    }
    bounds = {"dice_low": max(0.0, mean - half), "dice_high": min(1.0, mean + half)}
    surface = {"surface_unit": measured.unit, "surface_of": measured.kind}
    return {"dice": mean, **bounds, "images": len(found), "patients": len(groups), **surface, "by_class": by_class}


def volume_errors(found: Masks, truth: Masks, classes: int, patients: Sequence[Sequence[int]]) -> list[float | None]:
    """Per class but the background: mean of (found - true) / true pixels over the patients who have it; None: nobody."""
    result: list[float | None] = []
    for kind in range(1, classes):
        sizes = [tuple(int((_pixels(masks, images) == kind).sum()) for masks in (found, truth)) for images in patients]
        errors = [(ours - theirs) / theirs for ours, theirs in sizes if theirs]
        result.append(float(np.mean(errors)) if errors else None)
    return result


def _t(patients: int) -> float:
    return float(stats.t.ppf(0.975, patients - 1))


def masks_of(outputs: Tensor) -> Tensor:
    """The most probable class of each pixel or voxel, uint8 [n, *shape]."""
    return logits_of(outputs).argmax(1).to(torch.uint8)


def dice(found: Masks, truth: Masks, classes: int, patients: Sequence[Sequence[int]]) -> npt.NDArray[np.float64]:
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


def _pixels(masks: Masks, images: Sequence[int]) -> Tensor:
    """All pixels of some masks in one row."""
    return torch.cat([masks[image].flatten() for image in images])
