"""From stored values to grey levels: window, lookup table, percentiles, equalisation."""

from itertools import product
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from primum.imaging.image import Pixels

CUT: Final = 0.5
"""Percent of the pixels cut at the dark and at the bright end where no window is given."""

Preset = Literal["", "soft-tissue", "lung", "bone", "brain"]
PRESETS: Final[dict[str, tuple[float, float]]] = {
    "soft-tissue": (40, 400),
    "lung": (-600, 1500),
    "bone": (400, 1800),
    "brain": (40, 80),
}
"""Centre and width in Hounsfield units, as radiologists usually set them."""

_BINS: Final = 256
_TILES: Final = 8
_SMALLEST_TILE: Final = 8
_CONTRAST: Final = 2.0
_SAMPLE: Final = 4_000_000
_SLAB: Final = 1 << 22

Float64 = npt.NDArray[np.float64]


def stretch(values: Float64, valid: npt.NDArray[np.bool_] | None = None) -> Pixels:
    """Percentiles `CUT` and 100 - `CUT` (of the `valid` pixels) become 0 and 1, float32; a flat picture becomes 0."""
    chosen = values if valid is None or not valid.any() else values[valid]
    low, high = np.percentile(chosen, [CUT, 100 - CUT])
    if high <= low:  # nearly everything has one value: the rest is the picture
        low, high = float(chosen.min()), float(chosen.max())
    if high <= low:
        return np.zeros(values.shape, np.float32)
    shown: Pixels = np.clip((values - low) / (high - low), 0, 1).astype(np.float32)
    return shown


def stretch_volume(values: Pixels) -> Pixels:
    """`stretch` for a whole volume: one pair of percentiles for all slices, found on at most 4 million even voxels."""
    sample = values.ravel()[:: max(1, values.size // _SAMPLE)].astype(np.float64)
    low, high = np.percentile(sample, [CUT, 100 - CUT])
    if high <= low:
        low, high = float(values.min()), float(values.max())
    if high <= low:
        return np.zeros(values.shape, np.float32)
    shown: Pixels = np.clip((values - np.float32(low)) / np.float32(high - low), 0, 1, dtype=np.float32)
    return shown


def window(values: Float64 | Pixels, centre: float, width: float, function: str = "LINEAR") -> Pixels:
    """A VOI window as DICOM PS3.3 C.11.2.1.2 and C.11.2.1.3 define it, onto [0, 1]; float32.

    `function`: LINEAR, LINEAR_EXACT or SIGMOID. The width must be at least 1 for LINEAR and more than 0 else.
    """
    if not np.isfinite([centre, width]).all() or width < (1 if function == "LINEAR" else 1e-12):
        raise ValueError("a window needs a positive width")
    if function == "SIGMOID":
        return (1 / (1 + np.exp(np.clip(-4 * (values - centre) / width, -500, 500)))).astype(np.float32)
    if function == "LINEAR_EXACT":
        return np.clip((values - centre) / width + 0.5, 0, 1).astype(np.float32)
    if width == 1:
        return (values > centre - 0.5).astype(np.float32)
    return np.clip((values - (centre - 0.5)) / (width - 1) + 0.5, 0, 1).astype(np.float32)


def preset_window(hounsfield: Pixels, preset: str) -> Pixels:
    """Hounsfield values as a radiologist's window of that name shows them, onto [0, 1]; float32."""
    return window(hounsfield, *PRESETS[preset], "LINEAR_EXACT")


def clahe(values: Pixels) -> Pixels:
    """Contrast-limited adaptive histogram equalisation of a picture or a whole volume; float32 in [0, 1] to the same.

    Up to 8 tiles along each axis, none smaller than 8 pixels; each tile's histogram of 256 bins is cut at twice its
    mean and what was cut is spread evenly; a pixel's level is interpolated between the tiles around it. In a volume
    tiles reach over slices, so that neighbouring slices stay alike. Source: Zuiderveld, Graphics Gems IV (1994).
    """
    bins = np.minimum((values * _BINS).astype(np.int16), _BINS - 1)
    counts = [max(1, min(_TILES, side // _SMALLEST_TILE)) for side in values.shape]
    edges = [np.linspace(0, side, count + 1).astype(int) for side, count in zip(values.shape, counts, strict=True)]
    tables = np.stack([_table(bins[_tile(edges, place)]) for place in product(*map(range, counts))])
    out = np.zeros(values.shape, np.float32)
    rows = max(1, _SLAB // max(1, values[0].size))
    for start in range(0, len(values), rows):
        chosen = slice(start, start + rows)
        for weight, tile in _corners(edges, counts, chosen):
            out[chosen] += weight * tables[tile, bins[chosen]]
    return np.clip(out, 0, 1)


def _tile(edges: list[npt.NDArray[np.int_]], place: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(edge[index], edge[index + 1]) for edge, index in zip(edges, place, strict=True))


def _table(bins: npt.NDArray[np.int16]) -> Pixels:
    """Bin -> level of one tile: the cut histogram, added up."""
    counts = np.bincount(bins.ravel(), minlength=_BINS).astype(np.float64)
    kept = np.minimum(counts, _CONTRAST * bins.size / _BINS)
    kept += (counts.sum() - kept.sum()) / _BINS
    return (np.cumsum(kept) / bins.size).astype(np.float32)


def _corners(edges: list[npt.NDArray[np.int_]], counts: list[int], chosen: slice) -> list[tuple[Any, Any]]:
    """Weight and number of each tile around each pixel of the chosen first axis, broadcast over all axes."""
    axes = []
    for axis, (edge, count) in enumerate(zip(edges, counts, strict=True)):
        places = np.arange(edge[-1])[chosen if axis == 0 else slice(None)]
        exact = np.clip(np.interp(places, (edge[:-1] + edge[1:] - 1) / 2, np.arange(count)), 0, count - 1)
        low = np.minimum(exact.astype(int), max(0, count - 2))
        share = (exact - low).astype(np.float32)
        axes.append(((1 - share, low), (share, np.minimum(low + 1, count - 1))))
    found = []
    for sides in product((0, 1), repeat=len(axes)):
        weights = np.ix_(*(axes[axis][side][0] for axis, side in enumerate(sides)))
        tiles = np.ix_(*(axes[axis][side][1] for axis, side in enumerate(sides)))
        weight, tile = np.float32(1), np.int_(0)
        for one, other, count in zip(weights, tiles, counts, strict=True):
            weight, tile = weight * one, tile * count + other
        found.append((weight, tile))
    return found
