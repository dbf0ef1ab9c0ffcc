"""One cell a patient, counted with noise: how hospitals evaluate without showing a patient.

Sensitivity 1: adding or removing a patient changes one bin by one.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.mechanism import Mechanism

RESOLUTION: Final = 64.0  # integer units a patient where there is no noise; whole, so that rounding moves no count
SHARE_WIDTH: Final = 64.0  # of a hospital's noise: so few coordinates may take two bits more


Cells = npt.NDArray[np.int64]
Table = tuple[int, int]


def counts(rows: Cells, columns: Cells, table: Table) -> npt.NDArray[np.float64]:
    """Counts [rows * columns of the table], row by row, from the one cell of each patient."""
    return np.bincount(rows * table[1] + columns, minlength=table[0] * table[1]).astype(np.float64)


def mechanism(table: Table, noise_multiplier: float, k_min: int, hospitals: int, patients: int) -> Mechanism:
    """The mechanism of such counts; `table`: its rows and columns."""
    dimension = table[0] * table[1]
    resolution = RESOLUTION / float(np.sqrt(dimension))
    return Mechanism(dimension, 1.0, noise_multiplier, k_min, hospitals, patients, resolution, SHARE_WIDTH)
