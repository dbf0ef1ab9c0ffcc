"""Which of many shares are wrong: decoding of Reed-Solomon codes over GF(2^8) (Berlekamp and Welch 1986).

For shares that are being opened, so nothing here is secret or constant time, or fast: it runs when somebody lied.
"""

from functools import cache

import numpy as np
import numpy.typing as npt

from primum.kernels.galois import logarithm_tables

Bytes = npt.NDArray[np.uint8]


def times(a: Bytes, b: Bytes) -> Bytes:
    """Products in GF(2^8) of public numbers, elementwise with broadcasting."""
    powers, logarithms = logarithm_tables()
    product: Bytes = powers[(logarithms[a] + logarithms[b]) % 255] * ((a != 0) & (b != 0)).astype(np.uint8)
    return product


def locate_errors(points: Bytes, values: Bytes, threshold: int) -> frozenset[int] | None:
    """Indices of the rows of `values` uint8 [n, L] that are not on the polynomials of degree below `threshold` of the others.

    `points` uint8 [n] are different and none is 0. Up to (n - threshold) / 2 rows are found; None where more are wrong.
    """
    left = np.arange(len(points))
    most = (len(points) - threshold) // 2
    wrong: set[int] = set()
    while len(left) >= threshold:
        bad = np.flatnonzero(_syndromes(points[left], values[left], threshold).any(0))
        if not bad.size:
            return frozenset(wrong)
        found = _locate(points[left], values[left][:, bad[0]], threshold)
        if not found or len(wrong) + len(found) > most:
            return None
        wrong |= {int(left[index]) for index in found}
        left = np.delete(left, found)
    return None


def _syndromes(points: Bytes, values: Bytes, threshold: int) -> Bytes:
    """uint8 [n - t, L]: zero in a column whose values are on one polynomial of degree below t."""
    scale = np.array([_inverse(_product(points[i] ^ np.delete(points, i))) for i in range(len(points))], np.uint8)
    weighted, sums = times(scale[:, None], values), []
    for _ in range(len(points) - threshold):
        sums.append(np.bitwise_xor.reduce(weighted, 0))
        weighted = times(points[:, None], weighted)
    return np.array(sums, np.uint8).reshape(-1, values.shape[1])


def _locate(points: Bytes, values: Bytes, threshold: int) -> list[int]:
    """The wrong ones of `values` uint8 [n]; empty where too many are.

    Q(x) = y E(x) at every point, E monic of degree e with the wrong points among its zeros, Q of degree below t + e.
    """
    most = (len(points) - threshold) // 2
    power, columns = np.ones_like(points), []
    for _ in range(threshold + most):
        columns.append(power)
        power = times(points, power)
    columns += [times(values, column) for column in columns[:most]]
    leading = values
    for _ in range(most):
        leading = times(points, leading)
    solution = _solve(np.array([*columns, leading], np.uint8).T.copy())
    if solution is None:
        return []
    locator = [*solution[threshold + most :], 1]
    suspects = [i for i, point in enumerate(points.tolist()) if _evaluate(locator, point) == 0]
    return [i for i in suspects if not _fits(points, values, [j for j in suspects if j != i], threshold)]


def _fits(points: Bytes, values: Bytes, without: list[int], threshold: int) -> bool:
    """Whether all but these are on one polynomial: the locator has more zeros than there are wrong values."""
    rest = np.delete(values, without)[:, None]
    return not _syndromes(np.delete(points, without), rest, threshold).any()


def _solve(system: Bytes) -> list[int] | None:
    """One solution of the linear equations whose rows are coefficients and right side; None where there is none."""
    unknowns, row, pivots = system.shape[1] - 1, 0, []
    for column in range(unknowns):
        below = np.flatnonzero(system[row:, column])
        if not below.size:
            continue
        chosen = row + int(below[0])
        system[[row, chosen]] = system[[chosen, row]]
        system[row] = times(system[row], np.full(1, _inverse(int(system[row, column])), np.uint8))
        factors = system[:, column].copy()
        factors[row] = 0
        system ^= times(factors[:, None], system[row][None, :])
        pivots.append(column)
        row += 1
        if row == len(system):
            break
    if system[row:, -1].any():
        return None
    solution = [0] * unknowns
    for index, column in enumerate(pivots):
        solution[column] = int(system[index, -1])
    return solution


def _evaluate(coefficients: list[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = _times_small(value, point) ^ coefficient
    return value


def _product(values: Bytes) -> int:
    powers, logarithms = logarithm_tables()
    return int(powers[int(logarithms[values].sum()) % 255])


@cache
def _times_small(a: int, b: int) -> int:
    return int(times(np.full(1, a, np.uint8), np.full(1, b, np.uint8))[0])


@cache
def _inverse(value: int) -> int:
    powers, logarithms = logarithm_tables()
    return int(powers[-int(logarithms[value]) % 255])
