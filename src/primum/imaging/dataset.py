"""Images and labels by patient."""

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from primum.errors import DataError


@dataclass(frozen=True)
class Dataset:
    """Prepared images with labels. Prints counts, never content.

    `images`: float32 [n, channels, size, size] in [0, 1]. `labels`: int64 [n], indices into `classes`.
    `patients`: n pseudonyms, equal where two images show one patient. `files`: n names relative to their folder.
    """

    images: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    patients: tuple[str, ...] = field(repr=False)
    files: tuple[str, ...] = field(repr=False)
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        count = len(self.images)
        if not (count == len(self.labels) == len(self.patients) == len(self.files)):
            raise ValueError("images, labels, patients and files differ in number")
        if self.images.ndim != 4 or self.images.dtype != torch.float32 or self.labels.dtype != torch.int64:
            raise ValueError("images are float32 [n, channels, size, size] and labels int64 [n]")
        if count and not (int(self.labels.min()) >= 0 and int(self.labels.max()) < len(self.classes)):
            raise ValueError("a label is not the index of a class")

    def __len__(self) -> int:
        return len(self.images)

    def __repr__(self) -> str:
        return f"Dataset({tuple(self.images.shape)}, {self.patient_count} patients, classes {self.classes})"

    @property
    def patient_count(self) -> int:
        """How many different patients there are."""
        return len(set(self.patients))

    def by_class(self) -> dict[str, int]:
        """Images of each class, in the order of `classes`."""
        counts = torch.bincount(self.labels, minlength=len(self.classes)).tolist()
        return dict(zip(self.classes, counts, strict=True))

    def select(self, chosen: Iterable[bool]) -> "Dataset":
        """The images where `chosen` (n booleans) is true, in order."""
        mask = torch.as_tensor(list(chosen), dtype=torch.bool)
        if mask.shape != self.labels.shape:
            raise ValueError("one boolean for each image is needed")
        kept = mask.nonzero()[:, 0].tolist()
        patients, files = (tuple(names[i] for i in kept) for names in (self.patients, self.files))
        return Dataset(self.images[mask], self.labels[mask], patients, files, self.classes)


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
