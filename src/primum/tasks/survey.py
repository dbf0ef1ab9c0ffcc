"""What all hospitals' patients are like, from one secure sum before the first round: how many have each class, how grey.

Of each patient a hospital adds up

| part | values | what |
|---|---|---|
| patients | 1 | 1 |
| classes | K | the mean over the patient's images of 1 at the image's class (of several: 1 at each); of masks the share of pixels |
| pixels | 2 a channel | the mean over the patient's images of a picture's mean of u and of u^2, u = 2 (pixel - 1/2) in [-1, 1] |

so one patient moves the vector by at most C = sqrt(1 + K' + 2 channels), K' = 1, or K where an image may have several
classes; a part that nobody asks for is left out. Where the noise is more than a tenth of the patients that were asked,
nothing can be read from the sum: all classes then count alike, and pixels are taken to be what is usual. So they are
where the noise may move their deviation by more than a quarter. A study with privacy asks its evaluation patients, who are a random
share of all: it is one look more at them, with the noise of a look, and costs those who train nothing.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum.dp.histogram import RESOLUTION, SHARE_WIDTH
from primum.dp.mechanism import Mechanism
from primum.dp.sampling import group_by

Reals = npt.NDArray[np.float64]
Weighing = Literal["root", "balanced"]

SPREAD: Final = 20.0
"""No class counts more than so many times as much as another."""
TOO_NOISY: Final = 0.1
"""Noise over patients above which a survey tells nothing."""
_LEAST_DEVIATION: Final = 0.05  # of pixels in [0, 1]: pictures are never told to be flat
TOO_VAGUE: Final = 0.25
"""Share of itself by which noise may move the deviation of the pixels (one standard deviation)."""
_USUAL: Final = (0.5, 0.25)  # mean and deviation of pixels
_ROWS: Final = 256


@dataclass(frozen=True)
class Survey:
    """What came out. `patients`: how many were asked (noisy); `classes`: how many have each; where `shares`, of masks, the
    patients' shares of pixels added up. `mean`, `deviation`: of the pixels of a channel, `vague` where they are the usual
    ones, because noise hid them. What was not asked is empty. `noise`: the standard deviation of `patients` and of each of
    `classes`."""

    patients: float
    classes: tuple[float, ...]
    mean: tuple[float, ...]
    deviation: tuple[float, ...]
    noise: float
    shares: bool = False
    vague: bool = False

    @property
    def too_few(self) -> bool:
        """Whether too few patients were asked for this noise."""
        return self.noise > TOO_NOISY * self.patients

    @property
    def known(self) -> tuple[float, ...]:
        """How many have each class, never fewer than one, nor than the noise would show; all alike where that is all."""
        if self.too_few:
            return (1.0,) * len(self.classes)
        least = max(self.patients / 1e6 if self.shares else 1.0, 2 * self.noise)
        return tuple(max(least, count) for count in self.classes)

    def class_weights(self, how: Weighing) -> tuple[float, ...]:
        """How much each class counts beside the most counted one, in (0, 1]; 1 / `SPREAD` at least."""
        inverse = [_inverse(count, how) for count in self.known]
        return tuple(max(1 / SPREAD, one / max(inverse)) for one in inverse)

    def mean_weight(self, how: Weighing) -> float:
        """What `class_weights` are on average over patients, in (0, 1]."""
        known = self.known
        return sum(n * w for n, w in zip(known, self.class_weights(how), strict=True)) / sum(known)

    def pixel_weights(self, how: Weighing) -> tuple[float, ...]:
        """How much a pixel of each class counts in a loss: 1 on average over all pixels."""
        return tuple(weight / self.mean_weight(how) for weight in self.class_weights(how))

    def presence_weights(self, how: Weighing) -> tuple[float, ...]:
        """Of several classes: how much the presence of each counts beside its absence."""
        if self.too_few:
            return self.known
        ratios = [_inverse(n / max(1.0, 2 * self.noise, self.patients - n), how) for n in self.known]
        return tuple(min(SPREAD, max(1 / SPREAD, ratio)) for ratio in ratios)


@dataclass(frozen=True)
class Sheet:
    """Which questions are asked. `classes`, `channels`: 0 where they are not. `masks`: a class is a share of pixels."""

    classes: int
    several: bool
    channels: int
    masks: bool = False

    @property
    def dimension(self) -> int:
        """Values of the vector."""
        return 1 + self.classes + 2 * self.channels

    @property
    def norm(self) -> float:
        """C: how far one patient can move it."""
        shares = self.classes if self.several else min(1, self.classes)
        return math.sqrt(1 + shares + 2 * self.channels)

    def mechanism(self, noise_multiplier: float, k_min: int, hospitals: int, patients: int) -> Mechanism:
        """The mechanism of the sum; `patients`: no value is larger."""
        resolution = RESOLUTION * self.norm / math.sqrt(self.dimension)
        most = math.ceil(patients / self.norm)
        return Mechanism(self.dimension, self.norm, noise_multiplier, k_min, hospitals, most, resolution, SHARE_WIDTH)

    def sums(self, labels: Tensor, pixels: Tensor, patients: Sequence[str]) -> Reals:
        """One hospital's vector, [dimension]. Labels and patients as in `Cohort`, `pixels` [n, channels, ...] in [0, 1]."""
        total = np.zeros(self.dimension)
        for images in group_by(tuple(patients)):
            parts = [np.ones(1)]
            if self.classes:
                parts.append(self._shares(labels[images]))
            if self.channels:
                parts.append(_brightness(pixels[images]))
            total += np.concatenate(parts)
        return total

    def _shares(self, labels: Tensor) -> Reals:
        """Of one patient."""
        if self.several:
            return np.asarray(labels.double().mean(0))
        count = torch.bincount(labels.flatten().long(), minlength=self.classes).double()
        return np.asarray(count / count.sum())

    def read(self, totals: Reals, noise: float) -> Survey:
        """What the sum over all hospitals says; `noise`: the standard deviation of each value. ValueError for another
        length, or values that are no numbers."""
        if totals.shape != (self.dimension,) or not np.isfinite(totals).all():
            raise ValueError(f"{self.dimension} numbers are needed")
        asked = max(1.0, float(totals[0]))
        classes, pixels = _numbers(totals[1 : 1 + self.classes]), totals[1 + self.classes :] / asked
        mean, square = pixels[: self.channels], pixels[self.channels :]
        variance = np.maximum((square - mean**2) / 4, _LEAST_DEVIATION**2)
        error = noise / asked / 4 * np.sqrt(1 + 4 * mean**2) / (2 * variance)  # of the deviation, relative
        vague = noise > TOO_NOISY * asked or bool((error > TOO_VAGUE).any())
        middle, spread = np.clip(0.5 + mean / 2, 0, 1), np.minimum(np.sqrt(variance), 0.5)
        if vague:
            middle, spread = (np.full(self.channels, value) for value in _USUAL)
        vague = vague and self.channels > 0
        return Survey(asked, classes, _numbers(middle), _numbers(spread), noise, self.masks, vague)


def _inverse(count: float, how: Weighing) -> float:
    return 1 / math.sqrt(count) if how == "root" else 1 / count


def _numbers(values: Reals) -> tuple[float, ...]:
    return tuple(round(float(value), 6) for value in values)


def _brightness(pixels: Tensor) -> Reals:
    """Of one patient: the mean of u and of u^2 of each channel, means over the images."""
    sums = torch.zeros(2, pixels.shape[1], dtype=torch.float64)
    for start in range(0, len(pixels), _ROWS):
        part = 2 * pixels[start : start + _ROWS].double().flatten(2) - 1
        sums += torch.stack([part.mean(2), part.square().mean(2)]).sum(1)
    return np.asarray(sums.flatten() / len(pixels))
