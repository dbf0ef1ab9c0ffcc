"""IDX files, the format of MNIST (LeCun, Cortes, Burges): a magic number, the sizes, the bytes; packed by gzip or not."""

import gzip
import math
import struct
import zlib
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.errors import DataError

LARGEST: Final = 1 << 30
"""Bytes of content; a file that claims more is refused before memory is taken for it."""

_GZIP: Final = b"\x1f\x8b"
_UINT8: Final = 8
_MOST_AXES: Final = 4


def read_idx(path: Path, axes: int) -> npt.NDArray[np.uint8]:
    """The uint8 array of `axes` dimensions in an IDX file; 3 for pictures [n, rows, columns], 1 for labels [n].

    Strict: bytes of another type, another number of axes, a byte too few or too many, or a damaged packing raise a
    DataError that names the file.
    """
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP
        with gzip.open(path, "rb") if packed else path.open("rb") as stream:
            shape = _shape(path, stream.read(4 + 4 * axes), axes)
            content = stream.read(math.prod(shape) + 1)
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist", "Check the path.") from error
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read, or is damaged", "Download it again.") from error
    if len(content) != math.prod(shape):
        less = len(content) < math.prod(shape)
        raise DataError(f"{path} has {'fewer' if less else 'more'} bytes than it says", "Download it again.")
    return np.frombuffer(content, np.uint8).reshape(shape)


def _shape(path: Path, head: bytes, axes: int) -> tuple[int, ...]:
    if not 1 <= axes <= _MOST_AXES:
        raise ValueError(f"1 to {_MOST_AXES} axes")
    if len(head) < 4 or head[:2] != b"\0\0":
        raise DataError(f"{path} is no IDX file", "Give a file of MNIST, as train-images-idx3-ubyte.gz.")
    if head[2] != _UINT8 or head[3] != axes or len(head) != 4 + 4 * axes:
        raise DataError(f"{path} does not hold bytes along {axes} axes", "Pictures have 3 axes, labels 1.")
    shape = struct.unpack(f">{axes}I", head[4:])
    if not all(shape) or math.prod(shape) > LARGEST:
        raise DataError(f"{path} claims to hold {' x '.join(map(str, shape))} bytes", "Download it again.")
    return shape
