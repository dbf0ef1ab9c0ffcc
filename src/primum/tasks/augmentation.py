"""Training images changed at random, each time they are drawn; never those of validation or test.

By MONAI's transforms, on what a network sees (pixels of deviation 1), and on the mask alike: geometry moves both, masks
by the nearest pixel. Each image of a round is changed by itself, with numbers that the hospital draws, so an example's
gradient still depends on that example alone and privacy costs the same. With `copies` an image is drawn once and seen
in so many ways, whose mean gradient is clipped once (Tramèr and Boneh 2021; De et al., "Unlocking high-accuracy
differentially private image classification through scale", 2022, section 4.4). Mixup makes an example's gradient depend
on another patient: it is for studies without privacy only (study/rules.py refuses it).
"""

import math
from importlib import import_module
from typing import Any

import numpy as np
import torch
from scipy.special import betaincinv
from torch import Tensor

from primum.models.pixels import FARTHEST
from primum.rng import Stream
from primum.study import Augmentation


class Augmenter:
    """The changes that a study names, for pictures of `sides` pixels (rows, columns; of patches slices, rows, columns);
    `masked`: whether labels are masks. A patch is turned, bent and moved along all its axes, and flipped as its slices."""

    def __init__(self, settings: Augmentation, sides: tuple[int, ...], masked: bool, stream: Stream) -> None:
        self._keys = ("image", "mask") if masked else ("image",)
        self._masked, self._stream = masked, stream
        self._change = _compose(settings, sides, self._keys)

    def __call__(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 [n, channels, *sides] and labels [n, ...], changed; the same shapes and dtypes."""
        if not len(images):
            return images, labels
        self._change.set_random_state(seed=int(self._stream.uint32()))
        changed = [self._one(image, label) for image, label in zip(images, labels, strict=True)]
        seen = torch.stack([image for image, _ in changed]).clamp(-FARTHEST, FARTHEST)
        return seen, torch.stack([mask for _, mask in changed]) if self._masked else labels

    def _one(self, image: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:
        entry = {"image": image.clone()}  # some changes write into what they are given
        if self._masked:
            entry["mask"] = label[None].clone()
        done = self._change(entry)
        mask = _plain(done["mask"])[0].to(label.dtype) if self._masked else label
        return _plain(done["image"]).float(), mask


def mixed(
    images: Tensor, labels: Tensor, weights: Tensor, settings: Augmentation, stream: Stream
) -> tuple[Tensor, Tensor, Tensor]:
    """Mixup (Zhang et al., "mixup: beyond empirical risk minimization", 2018): two rows for each one, [2 n, ...].

    Both show the same picture, a x + (1 - a) x' with another row x' of the sample, and a from Beta(mixup, mixup); one has
    the label of x and the weight a, the other the label of x' and the rest. The losses of all tasks are linear in the
    label, so the rows' gradients add up to that of the mixed label. A share of `settings.share` is mixed.
    """
    count = len(images)
    own = betaincinv(settings.mixup, settings.mixup, stream.uniform(count))
    part = torch.from_numpy(np.where(stream.bernoulli(settings.share, count), own, 1.0)).float()
    other = torch.from_numpy(stream.permutation(count))
    of_picture = part.reshape(-1, *[1] * (images.ndim - 1))
    pictures = of_picture * images + (1 - of_picture) * images[other]
    told = torch.stack([labels, labels[other]], 1).flatten(0, 1)
    return pictures.repeat_interleave(2, 0), told, (torch.stack([part, 1 - part], 1) * weights[:, None]).flatten()


def _plain(value: Any) -> Tensor:
    """Without MONAI's record of what was done."""
    found = value.as_tensor() if hasattr(value, "as_tensor") else torch.as_tensor(np.asarray(value))
    plain: Tensor = found.detach()
    return plain


def _compose(settings: Augmentation, sides: tuple[int, ...], keys: tuple[str, ...]) -> Any:
    m: Any = import_module("monai.transforms")  # seconds to import: only where a study asks for it
    modes, edges = ("bilinear", "nearest")[: len(keys)], ("border", "zeros")[: len(keys)]
    moved = {"keys": keys, "prob": settings.share, "mode": modes, "padding_mode": edges}
    own = {"keys": "image", "prob": settings.share}
    steps: list[Any] = []
    axes = len(sides)
    turns = axes * (axes - 1) // 2  # a picture turns about a point, a patch about three axes
    if settings.rotation or settings.scale or settings.shear or settings.shift:
        steps.append(
            m.RandAffined(
                rotate_range=(math.radians(settings.rotation),) * turns,
                scale_range=(settings.scale,) * axes,
                shear_range=(settings.shear,) * (2 * turns),
                translate_range=tuple(settings.shift * side for side in sides),
                **moved,
            )
        )
    for axis, name in ((axes - 1, "horizontal"), (axes - 2, "vertical")):
        if settings.flip in (name, "both"):
            steps.append(m.RandFlipd(keys, prob=0.5, spatial_axis=axis))
    if settings.elastic:
        spacing = tuple(max(2, side // 4) for side in sides)
        steps.append(m.Rand2DElasticd(spacing=spacing, magnitude_range=(0, settings.elastic), **moved))
    if settings.grid:
        limits = (-settings.grid, settings.grid)
        steps.append(m.RandGridDistortiond(num_cells=4, distort_limit=limits, **moved))
    if settings.blur:
        width, reach = (0.1, settings.blur), math.ceil(4 * settings.blur)
        # beyond the border MONAI sees black: it would blur a dark frame into the picture
        steps.append(m.BorderPadd("image", spatial_border=reach, mode="edge"))
        steps.append(m.RandGaussianSmoothd(sigma_x=width, sigma_y=width, sigma_z=width, **own))
        steps.append(m.CenterSpatialCropd("image", roi_size=sides))
    if settings.gamma:
        steps.append(m.RandAdjustContrastd(gamma=(1 - settings.gamma, 1 + settings.gamma), **own))
    if settings.contrast:
        steps.append(m.RandScaleIntensityd(factors=settings.contrast, **own))
    if settings.noise:
        steps.append(m.RandGaussianNoised(std=settings.noise, **own))
    if settings.cutout:
        hole = tuple(max(1, round(settings.cutout * side)) for side in sides)
        steps.append(m.RandCoarseDropoutd(holes=1, spatial_size=hole, fill_value=0.0, **own))
    return m.Compose(steps)
