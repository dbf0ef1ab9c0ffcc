"""NRRD with its values in the same file, raw or gzip: a text header, an empty line, the values.

Source: teem.sourceforge.net/nrrd/format.html. Headers that point to other files are refused: nothing outside the file
is ever opened.
"""

import zlib
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.errors import DataError
from primum.imaging.intensity import Float64
from primum.imaging.volume import Volume, canonical, check_volume, guessed_hounsfield, volume_reader

_LONGEST_HEADER: Final = 1 << 16
_TYPES: Final = {
    "int8": "i1", "signed char": "i1", "int8_t": "i1", "uint8": "u1", "uchar": "u1", "unsigned char": "u1",
    "uint8_t": "u1", "short": "i2", "int16": "i2", "int16_t": "i2", "signed short": "i2", "short int": "i2",
    "ushort": "u2", "uint16": "u2", "unsigned short": "u2", "uint16_t": "u2", "int": "i4", "int32": "i4",
    "int32_t": "i4", "signed int": "i4", "uint": "u4", "uint32": "u4", "unsigned int": "u4", "uint32_t": "u4",
    "longlong": "i8", "int64": "i8", "int64_t": "i8", "long long": "i8", "ulonglong": "u8", "uint64": "u8",
    "uint64_t": "u8", "unsigned long long": "u8", "float": "f4", "double": "f8",
}  # fmt: skip
_SPACES: Final = {
    "left-posterior-superior": (1, 1, 1), "lps": (1, 1, 1), "right-anterior-superior": (-1, -1, 1),
    "ras": (-1, -1, 1), "left-anterior-superior": (1, -1, 1), "las": (1, -1, 1),
}  # fmt: skip


@volume_reader("NRRD", lambda head: head.startswith(b"NRRD000"))
def read_nrrd(path: Path) -> Volume:
    """One volume of numbers in one file; detached headers, other encodings and further axes are refused."""
    data = path.read_bytes()
    fields, values_at = _fields(data)
    shape = _shape(fields)
    stored = _values(memoryview(data)[values_at:], fields, shape)
    affine, notices = _affine(fields)
    values, affine = canonical(stored.astype(np.float32), affine)
    return Volume(values, affine, "NRRD", guessed_hounsfield(values), notices=notices)


def _fields(data: bytes) -> tuple[dict[str, str], int]:
    """Header fields in small letters, and where the values begin."""
    ends = [(place, len(mark)) for mark in (b"\n\n", b"\r\n\r\n") if 0 < (place := data.find(mark)) < _LONGEST_HEADER]
    if not ends:
        raise DataError("has no values behind its header", "Save header and values in one file (.nrrd).")
    place, length = min(ends)
    fields: dict[str, str] = {}
    for line in data[:place].decode("utf-8", "replace").splitlines()[1:]:
        name, found, value = line.partition(":")
        if found and not line.startswith("#") and not value.startswith("="):
            fields[name.strip().lower()] = value.strip()
    if "data file" in fields or "datafile" in fields:
        raise DataError("keeps its values in another file", "Save header and values in one file (.nrrd).")
    return fields, place + length


def _shape(fields: dict[str, str]) -> tuple[int, ...]:
    shape = tuple(int(side) for side in fields["sizes"].split())
    check_volume(shape)
    if len(shape) != 3 or int(fields["dimension"]) != 3:
        raise DataError(f"has {len(shape)} axes, not 3", "Export one volume of grey values or labels.")
    return shape


def _values(data: memoryview, fields: dict[str, str], shape: tuple[int, ...]) -> npt.NDArray[np.generic]:
    code = _TYPES.get(fields["type"].lower())
    if code is None or fields.get("byte skip", "0") != "0" or fields.get("line skip", "0") != "0":
        raise DataError("holds values of an unknown kind", "Export it again as plain numbers.")
    kind = np.dtype(code).newbyteorder(">" if fields.get("endian", "little").lower() == "big" else "<")
    size = shape[0] * shape[1] * shape[2] * kind.itemsize
    encoding = fields["encoding"].lower()
    if encoding in ("gzip", "gz"):
        unpacked = zlib.decompressobj(zlib.MAX_WBITS | 16)
        raw = unpacked.decompress(data, size)
        unpacked.decompress(unpacked.unconsumed_tail, 1)
        if not unpacked.eof:  # at its end the sum of a gzip file has been checked
            raise DataError("is cut off, or holds more than its header says", "Copy or export it again.")
    elif encoding == "raw":
        raw = bytes(data[:size])
    else:
        raise DataError("is encoded otherwise than raw or with gzip", "Save it raw or with gzip.")
    if len(raw) < size:
        raise DataError("is cut off: voxels are missing", "Copy or export it again.")
    return np.frombuffer(raw, kind).reshape(shape, order="F")


def _affine(fields: dict[str, str]) -> tuple[Float64, tuple[str, ...]]:
    affine = np.eye(4)
    if "space directions" not in fields:
        affine[:3, :3] = np.diag([float(side) for side in fields.get("spacings", "1 1 1").split()])
        return affine, ("no orientation named: taken as stored",)
    signs = _SPACES.get(fields.get("space", "").lower())
    if signs is None:
        raise DataError("names a space that is not LPS, RAS or LAS", "Export it in patient coordinates.")
    directions = [_vector(part) for part in fields["space directions"].split(")")[:3]]
    affine[:3, :3] = np.array(directions).T
    affine[:3, 3] = _vector(fields.get("space origin", "(0,0,0)").rstrip(")"))
    return np.diag([*map(float, signs), 1.0]) @ affine, ()


def _vector(text: str) -> list[float]:
    x, y, z = (float(part) for part in text.strip().lstrip("(").split(","))
    return [x, y, z]
