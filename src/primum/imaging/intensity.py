"""From stored values to grey levels: window, lookup table, percentiles."""

from typing import Final

import numpy as np
import numpy.typing as npt

from primum.imaging.image import Pixels

CUT: Final = 0.5
"""Percent of the pixels cut at the dark and at the bright end where no window is given."""

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


def window(values: Float64, centre: float, width: float, function: str = "LINEAR") -> Pixels:
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
