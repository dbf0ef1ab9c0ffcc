"""A volume: values on a grid in the patient, in one orientation whatever the file's; and how it is cut into slices.

Coordinates are DICOM's, LPS: x to the patient's left, y to the back, z to the head, in mm (NIfTI counts x and y the
other way round). Canonical order of the axes: slices from foot to head, rows from front to back, columns from the
patient's right to the left, so that `values[k]` is an axial slice as a screen shows it. Axes are only exchanged and
turned around, never interpolated: an oblique scan keeps its grid and gets the nearest of these orders.
"""

import gzip
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from pathlib import Path
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from primum.errors import DataError
from primum.imaging.image import Pixels
from primum.imaging.intensity import Float64
from primum.imaging.reader import decoding, read_head

Axis = Literal["axial", "coronal", "sagittal"]
Shape = tuple[int, int, int]

LARGEST_VOLUME: Final = 400_000_000
"""Voxels; a volume that claims more is set aside before memory is taken for it."""
LOWEST_HOUNSFIELD: Final = (-10_000.0, -200.0)
"""Where a format names no unit, values whose smallest lies between these are taken as Hounsfield's (air is -1000)."""
SAME_PLACE: Final = 0.1
"""Two grids are one where their corners are no further apart than this part of the smallest voxel side."""

_GZIP: Final = b"\x1f\x8b"
_HEAD: Final = 1024
_READERS: Final[dict[str, tuple[Callable[[bytes], bool], Callable[[Path], "Volume"]]]] = {}


@dataclass(frozen=True, eq=False)
class Volume:
    """Values of one volume in canonical order. Prints its shape, never its content.

    `values`: float32 [slices, rows, columns], in the unit of the file. `affine`: float64 [4, 4], from (slice, row,
    column, 1) to (x, y, z, 1) in mm, LPS. `hounsfield`: whether the values are Hounsfield units. `window`: (centre,
    width, function) that the file itself names for all its slices, or None. `inverted`: low values are meant to be
    shown white (MONOCHROME1). `patient`: as the file names it, or None; never printed. `notices`: what the reader had
    to decide, in words that name no patient.
    """

    values: Pixels = field(repr=False)
    affine: Float64 = field(repr=False)
    format: str
    hounsfield: bool = False
    window: tuple[float, float, str] | None = None
    inverted: bool = False
    patient: str | None = field(default=None, repr=False)
    notices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.values.ndim != 3 or self.values.dtype != np.float32:
            raise ValueError("the values of a volume are float32 [slices, rows, columns]")
        if self.affine.shape != (4, 4):
            raise ValueError("an affine is [4, 4]")

    def __repr__(self) -> str:
        return f"Volume({' x '.join(map(str, self.values.shape))}, {self.format})"

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Mm from slice to slice, row to row, column to column."""
        slices, rows, columns = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return slices, rows, columns


def volume_reader(name: str, recognise: Callable[[bytes], bool]) -> Callable[..., Callable[[Path], Volume]]:
    """Register a function path -> Volume for format `name`; `recognise` is given the first 1024 unpacked bytes."""

    def register(read: Callable[[Path], Volume]) -> Callable[[Path], Volume]:
        _READERS[name] = (recognise, read)
        return read

    return register


def volume_format(path: Path) -> str | None:
    """Which registered format a file has by its content, or None; raises DataError where it cannot be opened."""
    head = _unpacked_head(path)
    return next((name for name, (recognise, _) in _READERS.items() if recognise(head)), None)


def read_volume_file(path: Path) -> Volume:
    """The volume in one file of a registered format; raises DataError with the reason, whatever is in the file."""
    name = volume_format(path)
    if name is None:
        raise DataError("is no volume", f"Volumes are read from {', '.join(_READERS)} and series of DICOM files.")
    with decoding(name):
        volume = _READERS[name][1](path)
    return checked(volume)


def checked(volume: Volume) -> Volume:
    """The volume, or a DataError where its values or its grid cannot be used."""
    if volume.values.size == 0 or not np.isfinite(volume.values).all():
        raise DataError("has no voxels or values that are not numbers", "Export it again.")
    if not np.isfinite(volume.affine).all() or min(volume.spacing) <= 0:
        raise DataError("does not say where its voxels lie", "Export it with its orientation.")
    return volume


def check_volume(shape: tuple[int, ...]) -> None:
    """Refuse a volume that claims no voxels or too many, before memory is taken for it."""
    count = 1
    for side in shape:
        count *= int(side)
    if min(shape, default=0) < 1:
        raise DataError("has a side of no voxels", "Export it again.")
    if count > LARGEST_VOLUME:
        raise DataError(f"claims {' x '.join(map(str, shape))} voxels, more than {LARGEST_VOLUME:,}", "Crop it.")


def canonical(values: npt.NDArray[np.float32], affine: Float64) -> tuple[Pixels, Float64]:
    """Values [a, b, c] and their affine (a, b, c) -> LPS, both in canonical order; no value is changed."""
    steps = affine[:3, :3]
    sides = np.linalg.norm(steps, axis=0)
    if not np.isfinite(affine).all() or sides.min() <= 0 or abs(np.linalg.det(steps / sides)) < 1e-3:
        raise DataError("does not say where its voxels lie: its axes are no grid", "Export it with its orientation.")
    cosines = np.abs(steps / sides)
    order = max(permutations(range(3)), key=lambda axes: sum(cosines[2 - new, old] for new, old in enumerate(axes)))
    turn = np.zeros((4, 4))
    turn[3, 3] = 1
    flips = []
    for new, old in enumerate(order):
        backwards = steps[2 - new, old] < 0
        turn[old, new] = -1 if backwards else 1
        turn[old, 3] = values.shape[old] - 1 if backwards else 0
        flips.append(slice(None, None, -1 if backwards else 1))
    moved = np.transpose(values, order)[tuple(flips)]
    return np.ascontiguousarray(moved, np.float32), affine @ turn


def guessed_hounsfield(values: npt.NDArray[np.float32]) -> bool:
    """Whether values of a format that names no unit are taken as Hounsfield units (`LOWEST_HOUNSFIELD`)."""
    return LOWEST_HOUNSFIELD[0] <= float(values.min()) <= LOWEST_HOUNSFIELD[1]


def same_grid(one: Volume, other: Volume) -> bool:
    """Whether two volumes have the same shape and lie at the same place (`SAME_PLACE`)."""
    if one.values.shape != other.values.shape:
        return False
    far = [side - 1 for side in one.values.shape]
    corners = np.array([[(i, j, k, 1)[axis] * 1.0 for axis in range(4)] for i in (0, far[0]) for j in (0, far[1])
                        for k in (0, far[2])]).T  # fmt: skip
    apart = np.linalg.norm(((one.affine - other.affine) @ corners)[:3], axis=0).max()
    return bool(apart <= SAME_PLACE * min(one.spacing))


def cut(values: npt.NDArray[np.generic], axis: Axis) -> npt.NDArray[np.generic]:
    """[slices, rows, columns] in canonical order -> a stack [n, rows, columns] of pictures as a screen shows them.

    "axial": foot to head. "coronal": front to back, head above. "sagittal": right to left, head above, front at the
    left. A view where possible; nothing is interpolated.
    """
    if axis == "axial":
        return values
    upright = values[::-1]
    return upright.transpose(1, 0, 2) if axis == "coronal" else upright.transpose(2, 0, 1)


def cut_spacing(volume: Volume, axis: Axis) -> tuple[float, float]:
    """(row, column) mm of the slices that `cut` makes."""
    slices, rows, columns = volume.spacing
    return {"axial": (rows, columns), "coronal": (slices, columns), "sagittal": (slices, rows)}[axis]


def prepared_spacing(volume: Volume, axis: Axis, within: tuple[float, float]) -> tuple[float, float, float]:
    """Mm from slice to slice of what `cut` makes, and `within` a slice (row, column)."""
    slices, rows, columns = volume.spacing
    return {"axial": slices, "coronal": rows, "sagittal": columns}[axis], *within


def _unpacked_head(path: Path) -> bytes:
    head = read_head(path, _HEAD)
    if not head.startswith(_GZIP):
        return head
    try:
        with gzip.open(path) as file:
            return file.read(_HEAD)
    except (OSError, EOFError, zlib.error):
        return b""
