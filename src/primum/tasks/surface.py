"""How far the borders of two masks are from each other: mean surface distance and 95th percentile Hausdorff distance.

| symbol | meaning |
|---|---|
| A, B | two masks of one class in one piece: a volume, or one image |
| S(A) | its surface: pixels (voxels) of A with a neighbour across a side that is not of A; outside the piece nothing is |
| d(a, B) | from the middle of a to the middle of the nearest pixel of S(B) |
| surface distance | mean of all d(a, B), a in S(A), and d(b, A), b in S(B), together |
| HD95 | the larger of the 95th percentiles of both directions |

Source: Taha and Hanbury, "Metrics for evaluating 3D medical image segmentation", BMC Medical Imaging 15, 2015; symmetric
and directed as in MONAI's compute_average_surface_distance and compute_hausdorff_distance.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from primum.tasks.intervals import mean_of_patients

Mask = npt.NDArray[np.uint8]
Masks = Sequence[Mask] | Mask
Inside = npt.NDArray[np.bool_]
Distances = npt.NDArray[np.float64]
Spacing = tuple[float, ...]

_PERCENTILE: Final = 95.0


@dataclass(frozen=True)
class Piece:
    """What is measured as one: the slices of one volume, or one image. `spacing`: one number an axis, mm or 1."""

    images: tuple[int, ...]
    spacing: Spacing

    def of(self, masks: Masks) -> Mask:
        """[slices, rows, columns] of a volume, whose masks are of its slices or one of the whole; [rows, columns] of an image."""
        first = masks[self.images[0]]
        if first.ndim < len(self.spacing):
            return np.stack([masks[image] for image in self.images])
        return first


@dataclass(frozen=True)
class Pieces:
    """The pieces of a set of masks. `unit`: "mm" where every image says its spacing, else "pixels" for all of them."""

    pieces: tuple[Piece, ...] = field(repr=False)
    unit: str

    @property
    def kind(self) -> str:
        """What they are: "volumes", "images", or "volumes and images"."""
        kinds = {"volumes" if len(piece.spacing) == 3 else "images" for piece in self.pieces}
        return " and ".join(sorted(kinds, reverse=True))


def pieces_of(count: int, files: Sequence[str] = (), spacing: Sequence[Spacing] = ()) -> Pieces:
    """How `count` masks are measured. `spacing`: as in `imaging.Dataset`; three numbers: the volume in `files`, or a slice of it.

    Where one image does not say its mm, all are measured in pixels, image by image: means of both would be neither.
    """
    if not spacing or not all(spacing):
        return Pieces(tuple(Piece((place,), (1.0, 1.0)) for place in range(count)), "pixels")
    found: list[Piece] = []
    for (_, mm), group in groupby(range(count), lambda place: (files[place], tuple(spacing[place]))):
        images = tuple(group)
        found += [Piece(images, mm)] if len(mm) == 3 else [Piece((place,), mm) for place in images]
    return Pieces(tuple(found), "mm")


@dataclass(frozen=True)
class Surfaces:
    """Of one class: `each` [patients, 2], surface distance and HD95, NaN where a patient has no piece with it in both masks.

    `one_sided`: pieces left out, because one mask has the class there and the other does not: no distance is defined.
    """

    each: Distances
    one_sided: int

    def told(self) -> dict[str, Any]:
        """Means over patients with their intervals, for a report; None where no patient has any."""
        told: dict[str, Any] = {"one_sided": self.one_sided}
        for name, each in zip(("surface_distance", "hausdorff_95"), self.each.T, strict=True):
            told |= mean_of_patients(name, each, least=0.0)
        return told


def surfaces(found: Masks, truth: Masks, kind: int, patients: Sequence[Sequence[int]], measured: Pieces) -> Surfaces:
    """Surface distance and HD95 of class `kind`, over all surfaces of a patient.

    `found`, `truth`: n masks, uint8 [rows, columns], of whole volumes [slices, rows, columns]; `patients`: which images
    each has. A piece in which neither mask has the class has no surface, and counts neither way.
    """
    owner = {image: place for place, images in enumerate(patients) for image in images}
    ways: dict[int, list[tuple[Distances, Distances]]] = {}
    one_sided = 0
    for piece in measured.pieces:
        ours, theirs = piece.of(found) == kind, piece.of(truth) == kind
        if ours.any() and theirs.any():
            ways.setdefault(owner[piece.images[0]], []).append(surface_distances(ours, theirs, piece.spacing))
        else:
            one_sided += bool(ours.any() or theirs.any())
    each = np.full((len(patients), 2), np.nan)
    for place, parts in ways.items():
        each[place] = _of_patient(parts)
    return Surfaces(each, one_sided)


def _of_patient(parts: list[tuple[Distances, Distances]]) -> tuple[float, float]:
    there, back = (np.concatenate([pair[way] for pair in parts]) for way in (0, 1))
    far = max(float(np.percentile(one, _PERCENTILE)) for one in (there, back))
    return float(np.concatenate([there, back]).mean()), far


def surface_distances(ours: Inside, theirs: Inside, spacing: Spacing) -> tuple[Distances, Distances]:
    """From each pixel of the surface of `ours` to the nearest of `theirs`, and the way back; neither mask is empty.

    In the unit of `spacing`, one number for each axis.
    """
    box = ndimage.find_objects((ours | theirs).astype(np.uint8))[0]  # nothing outside of it is nearer
    edges = [mask[box] & ~ndimage.binary_erosion(mask[box]) for mask in (ours, theirs)]
    to_ours, to_theirs = (ndimage.distance_transform_edt(~edge, sampling=spacing) for edge in edges)
    return to_theirs[edges[0]], to_ours[edges[1]]
