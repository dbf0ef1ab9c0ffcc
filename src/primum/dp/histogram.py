"""One score a patient, counted with noise: how hospitals evaluate without showing a patient.

Sensitivity 1: adding or removing a patient changes one bin by one. Counts are multiplied by RESOLUTION so that each
hospital's noise is wide enough to be accounted for.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.mechanism import Mechanism

BINS: Final = 8  # a class; more bins carry more noise than resolution at a few hundred patients
RESOLUTION: Final = 64.0


def counts(scores: npt.NDArray[np.float64], labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """Counts [classes * BINS]: patients of each class by score in [0, 1]."""
    bins = np.clip((scores * BINS).astype(np.int64), 0, BINS - 1)
    return np.bincount(labels * BINS + bins, minlength=classes * BINS).astype(np.float64)


def mechanism(classes: int, noise_multiplier: float, k_min: int, hospitals: int, patients: int) -> Mechanism:
    """The mechanism of such counts. Counts are whole and RESOLUTION is too, so rounding moves nothing."""
    dimension = classes * BINS
    return Mechanism(
        dimension, 1.0, noise_multiplier, k_min, hospitals, patients, RESOLUTION / float(np.sqrt(dimension))
    )
