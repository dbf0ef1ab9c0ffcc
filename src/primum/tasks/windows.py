"""What a model says of windows, or patches, blended into masks of whole pictures, or volumes: for figures, and for a mask
in clear."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import torch
from torch import Tensor

from primum.imaging.cover import Cover, covers_of
from primum.imaging.dataset import Dataset
from primum.models.linear import logits_of

T = TypeVar("T")
Outputs = Callable[[Tensor], Tensor]
"""Images [n, channels, *shape] in [0, 1] -> what the model gives, [n, outputs, *shape]."""


@dataclass(frozen=True)
class Wholes:
    """Whole pictures, slices or volumes: what was found and what is true, uint8 [rows, columns] or [slices, rows, columns]
    each, and as in `Dataset` whose each is, its file and its millimetres."""

    found: list[Tensor] = field(repr=False)
    truth: list[Tensor] = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    spacing: tuple[tuple[float, ...], ...] = field(repr=False)


def whole_masks(data: Dataset, outputs: Outputs) -> Wholes:
    """Masks of what the windows or patches of `data` were cut from, at their resolution.

    Picture by picture: what is held is the logits of one. DataError where windows of a picture are missing.
    """
    some = (data.labels, data.patients, data.files, data.spacing, data.grids)
    return joined(lambda windows: outputs(data.images[windows]), *some)


def joined(
    outputs: Callable[[slice], Tensor],
    masks: Tensor,
    patients: Sequence[str],
    files: Sequence[str],
    spacing: Sequence[tuple[float, ...]],
    grids: Sequence[tuple[int, ...]],
) -> Wholes:
    """As `whole_masks`, of parts as in `Dataset`; `outputs`: what the model gives for some windows, or patches."""
    firsts, found, truth = (list(part) for part in zip(*whole_pictures(outputs, masks, grids), strict=True))

    def of_wholes(each: Sequence[T]) -> tuple[T, ...]:
        return tuple(each[first] for first in firsts) if each else ()

    return Wholes(found, truth, of_wholes(patients), of_wholes(files), of_wholes(spacing))


def blended_mask(outputs: Tensor, cover: Cover) -> Tensor:
    """The most probable class of each pixel by the blended logits, uint8 [*cover.grid].

    `outputs`: [windows, outputs, *cover.window], one output for two classes.
    """
    logits = logits_of(outputs).movedim(1, -1).numpy()
    return torch.from_numpy(cover.mask(logits))


def whole_pictures(
    outputs: Callable[[slice], Tensor], masks: Tensor, grids: Sequence[tuple[int, ...]]
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of each picture, or volume, its first window, what is found in it and what is true, uint8 [*grid]: each pixel once.

    `outputs`: what the model gives for some windows, or patches; `masks`: uint8 [windows, *window]; `grids` as in
    `Dataset`. DataError where windows of a picture are missing.
    """
    first = 0
    for cover in covers_of(grids, tuple(masks.shape[1:])):
        windows = slice(first, first + len(cover))
        yield first, blended_mask(outputs(windows), cover), torch.from_numpy(cover.joined(masks[windows].numpy()))
        first = windows.stop
