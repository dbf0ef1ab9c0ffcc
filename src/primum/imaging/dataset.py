"""Images and labels by patient."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from primum.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Prepared images with labels. Prints counts, never content.

    `images`: float32 [n, channels, size, size] in [0, 1], or patches of volumes [n, channels, depth, size, size]. `labels`: indices into `classes`, int64 [n]; where an image
    has several, 0 or 1 for each, int64 [n, classes]; or masks, uint8 [n, (depth,) size, size], a class for each pixel, where class 0 is the background. `patients`: n pseudonyms, equal where two
    images show one patient. `files`: n names relative to their folder; the slices of a volume have its name, in order.
    `spacing`: mm of each image's pixels (row, column), of a slice of a volume (slice, row, column), () where unknown;
    empty where nobody asked, as for labels that are no masks. `grids`: where images are windows or patches (cover.py),
    sides of the picture, slice or volume that each was cut from; all that cover it stand together, in order. Else empty.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    classes: tuple[str, ...]
    spacing: tuple[tuple[float, ...], ...] = field(default=(), repr=False)
    grids: tuple[tuple[int, ...], ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        count = len(self.images)
        if not (count == len(self.labels) == len(self.patients) == len(self.files)):
            raise ValueError("images, labels, patients and files differ in number")
        if len(self.spacing) not in (0, count):
            raise ValueError("spacing is of each image, or of none")
        if len(self.grids) not in (0, count):
            raise ValueError("all images are windows, or none is")
        if self.images.ndim not in (4, 5) or self.images.dtype != torch.float32:
            raise ValueError("images are float32 [n, channels, (depth,) size, size]")
        shape, kind = (self.images.shape[2:], torch.uint8) if self.masked else (torch.Size(), torch.int64)
        shape = torch.Size([len(self.classes)]) if self.several else shape
        if self.labels.dtype != kind or self.labels.shape[1:] != shape:
            raise ValueError("labels are int64 [n] or [n, classes], or masks uint8 [n, (depth,) size, size]")
        most = 2 if self.several else len(self.classes)
        if count and not (int(self.labels.min()) >= 0 and int(self.labels.max()) < most):
            raise ValueError("a label is not the index of a class")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Dataset({tuple(self.images.shape)}, {self.patient_count} patients, classes {self.classes})"

    @property
    def masked(self) -> bool:
        """Whether each image has a mask, and no label."""
        return self.labels.ndim > 2

    @property
    def several(self) -> bool:
        """Whether each image may have several classes, or none."""
        return self.labels.ndim == 2

    @property
    def patient_count(self) -> int:
        """How many different patients there are."""
        return len(set(self.patients))

    def by_class(self) -> dict[str, int]:
        """Images of each class, in the order of `classes`; with masks: images in which a pixel is of it."""
        return {name: int(shown.sum()) for name, shown in zip(self.classes, self.shows(), strict=True)}

    def shows(self) -> list[Tensor]:
        """For each class which images show it, bool [n]; with masks: in which a pixel is of it."""
        if self.several:
            return list(self.labels.bool().T)
        flat = self.labels.flatten(1) if self.masked else self.labels[:, None]
        return [(flat == place).any(1) for place in range(len(self.classes))]

    def select(self, chosen: Iterable[bool]) -> "Dataset":
        """The images where `chosen` (n booleans) is true, in order."""
        mask = torch.as_tensor(list(chosen), dtype=torch.bool)
        if len(mask) != len(self):
            raise ValueError("one boolean for each image is needed")
        kept = mask.nonzero()[:, 0].tolist()
        patients, files = (tuple(names[i] for i in kept) for names in (self.patients, self.files))
        spacing = tuple(self.spacing[i] for i in kept) if self.spacing else ()
        grids = tuple(self.grids[i] for i in kept) if self.grids else ()
        return Dataset(self.images[mask], self.labels[mask], patients, files, self.classes, spacing, grids)


def assert_disjoint(a: Dataset, b: Dataset) -> None:
    """Raise DataError naming files where a patient is in both (train and test, say).

    Pseudonyms must have been made with the same key.
    """
    shared = set(a.patients) & set(b.patients)
    if not shared:
        return
    files = [file for data in (a, b) for file, who in zip(data.files, data.patients, strict=True) if who in shared]
    named = ", ".join(files[:8]) + (f" and {len(files) - 8} more" if len(files) > 8 else "")
    raise DataError(
        f"{len(shared)} patient{'s are' if len(shared) > 1 else ' is'} in both sets: {named}",
        "Move all images of a patient to one side, or split with primum.imaging.split_patients.",
    )
