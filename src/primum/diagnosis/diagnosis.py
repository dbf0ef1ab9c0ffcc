"""What the data owner learns of an image, put together from what was asked: slices of a volume, windows of a picture."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from primum.diagnosis.sources import Source
from primum.imaging.cover import Cover
from primum.models.answers import CALLED, grades_of
from primum.study import Labels


@dataclass(frozen=True)
class Diagnosis:
    """What the data owner learns of one image: a probability and a logit per class, or a mask.

    `labels`: whether the image has one class, or several (whose probabilities are each by themselves and do not sum to
    1), or a grade (then `logits` are those of the thresholds, `logit_names` says of which). `mask`: uint8 [size, size]
    at the prepared size, of a volume [slices, size, size], the most probable class of each pixel; then `probabilities`
    are the classes' shares of the image, and there are no logits. Of a model that draws window by window the mask has
    the picture's own rows and columns (after its `spacing`): its logits, which the answer holds, were blended; what
    `diagnose` tells of a single window keeps them as `window`, float32 [size, size, classes]. `seconds` and `bytes`
    (sent and received, both servers) are its part of the request it was in; of a volume, or of windows and the blank
    ones with them, they are added up, though requests run side by side. `number` is the request number that it used;
    `model` is the digest of the model's card, program and weights, in hex. Prints neither probabilities nor logits nor
    mask.
    """

    classes: tuple[str, ...]
    probabilities: tuple[float, ...] = field(repr=False)
    logits: tuple[float, ...] = field(repr=False)
    number: int
    seconds: float
    bytes: int
    model: str
    mask: npt.NDArray[np.uint8] | None = field(default=None, repr=False, compare=False)
    labels: Labels = "one"
    window: npt.NDArray[np.float32] | None = field(default=None, repr=False, compare=False)

    @property
    def called(self) -> tuple[str, ...]:
        """The most probable class (of a mask the largest); of several all above 1/2, perhaps none; or the grade."""
        if self.labels == "several":
            return tuple(name for name, p in zip(self.classes, self.probabilities, strict=True) if p > CALLED)
        if self.labels == "ordered":
            return (self.classes[int(grades_of(torch.tensor([self.logits], dtype=torch.float64)))],)
        values = self.logits if self.mask is None else self.probabilities
        return (self.classes[max(range(len(self.classes)), key=values.__getitem__)],)

    @property
    def best(self) -> str:
        """The most probable class, also of several; of a mask the largest, of ordered classes the grade."""
        if self.labels == "several":
            return self.classes[max(range(len(self.classes)), key=self.probabilities.__getitem__)]
        return self.called[0]

    @property
    def logit_names(self) -> tuple[str, ...]:
        """What each of `logits` is of: a class, or a threshold between grades."""
        if self.labels != "ordered":
            return self.classes
        return tuple(f"{name} or higher" for name in self.classes[1:])


@dataclass(frozen=True)
class Part:
    """How the answers about one image are put together: so many; with `cover` as windows of so many slices."""

    images: int
    cover: Cover | None
    slices: int

    @classmethod
    def of(cls, source: Source) -> "Part":
        """Of an image that was opened."""
        return cls(len(source.images), source.cover, source.slices)


def joined(diagnoses: Sequence[Diagnosis], parts: Sequence[Part]) -> list[Diagnosis]:
    """One diagnosis for each source: the slices of a volume together, the windows of a picture blended."""
    result, start = [], 0
    for part in parts:
        told = diagnoses[start : start + part.images]
        start += part.images
        if part.cover is not None:
            result.append(_whole(told, _blended(told, part, part.cover)))
        else:
            result.append(_volume(told) if part.images > 1 else told[0])
    return result


def _blended(windows: Sequence[Diagnosis], part: Part, cover: Cover) -> npt.NDArray[np.uint8]:
    """The most probable class by the blended logits: [rows, columns], or [slices, rows, columns], also of patches. Blank windows are last."""
    logits = iter([one.window for one in windows if one.window is not None])
    masks = np.stack([cover.mask(np.stack([next(logits) for _ in range(len(cover))])) for _ in range(part.slices or 1)])
    return masks if part.slices else masks[0]


def _volume(slices: Sequence[Diagnosis]) -> Diagnosis:
    return _whole(slices, np.stack([one.mask for one in slices if one.mask is not None]))


def _whole(parts: Sequence[Diagnosis], mask: npt.NDArray[np.uint8]) -> Diagnosis:
    return replace(
        parts[0],
        probabilities=areas(mask, len(parts[0].classes)),
        seconds=sum(one.seconds for one in parts),
        bytes=sum(one.bytes for one in parts),
        mask=mask,
        window=None,
    )


def areas(mask: npt.NDArray[np.uint8], classes: int) -> tuple[float, ...]:
    """Each class's share of the pixels."""
    return tuple((np.bincount(mask.reshape(-1), minlength=classes) / mask.size).tolist())
