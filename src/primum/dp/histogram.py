"""One cell a patient, counted with noise: how hospitals evaluate without showing a patient.

Sensitivity 1: adding or removing a patient changes one bin by one.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.mechanism import Mechanism

BINS: Final = 8  # of a score; more carry more noise than resolution at a few hundred patients
RESOLUTION: Final = 64.0  # integer units a patient where there is no noise; whole, so that rounding moves no count
SHARE_WIDTH: Final = 64.0  # of a hospital's noise: so few coordinates may take two bits more


def bins(classes: int) -> int:
    """Columns of the table: bins of the score for two classes, predicted classes for more."""
    return BINS if classes == 2 else classes


def counts(cells: npt.NDArray[np.int64], labels: npt.NDArray[np.int64], classes: int) -> npt.NDArray[np.float64]:
    """Counts [classes * bins(classes)]: patients by class (row) and cell (column), one cell a patient."""
    width = bins(classes)
    return np.bincount(labels * width + cells, minlength=classes * width).astype(np.float64)


def mechanism(classes: int, noise_multiplier: float, k_min: int, hospitals: int, patients: int) -> Mechanism:
    """The mechanism of such counts."""
    dimension = classes * bins(classes)
    resolution = RESOLUTION / float(np.sqrt(dimension))
    return Mechanism(dimension, 1.0, noise_multiplier, k_min, hospitals, patients, resolution, SHARE_WIDTH)
