"""One cell a patient in each of some tables, counted with noise: how hospitals evaluate without showing a patient.

Of one table the sensitivity is 1: adding or removing a patient changes one count by one. Of T tables it changes T counts
by one each, one in every table, and the whole vector by sqrt(T) in its length (L2), to which the noise is scaled.
"""

import math
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.mechanism import Mechanism

RESOLUTION: Final = 64.0  # integer units a patient where there is no noise; whole, so that rounding moves no count
SHARE_WIDTH: Final = 64.0  # of a hospital's noise: so few coordinates may take two bits more


Cells = npt.NDArray[np.int64]
Table = tuple[int, ...]
"""Rows and columns; before them how many tables there are, where a patient is in several."""


def tables_of(table: Table) -> int:
    """In how many tables a patient has a cell: 1, or the first of three numbers."""
    return math.prod(table[:-2])


def sensitivity(table: Table) -> float:
    """How far one patient moves the counts of all tables together, by L2 norm: sqrt(tables)."""
    return math.sqrt(tables_of(table))


def counts(rows: Cells, columns: Cells, table: Table) -> npt.NDArray[np.float64]:
    """Counts [all cells], table by table and row by row.

    `rows`, `columns`: [patients], the one cell of each; or [patients, tables], one in each table. ValueError for a cell
    that is in no table: one patient must never move another number of counts.
    """
    tables, (high, wide) = tables_of(table), table[-2:]
    rows, columns = rows.reshape(-1, tables), columns.reshape(-1, tables)
    if rows.shape != columns.shape or np.any((rows < 0) | (rows >= high) | (columns < 0) | (columns >= wide)):
        raise ValueError("a patient is in one cell of each table")
    cells = (np.arange(tables) * high + rows) * wide + columns
    return np.bincount(cells.reshape(-1), minlength=math.prod(table)).astype(np.float64)


def mechanism(table: Table, noise_multiplier: float, k_min: int, hospitals: int, patients: int) -> Mechanism:
    """The mechanism of such counts. `patients`: no count is larger."""
    dimension, norm = math.prod(table), sensitivity(table)
    resolution = RESOLUTION * norm / math.sqrt(dimension)
    largest = math.ceil(patients / norm)  # so many patients with all of their norm in one count: as large as any is
    return Mechanism(dimension, norm, noise_multiplier, k_min, hospitals, largest, resolution, SHARE_WIDTH)
