"""NIfTI-1 and NIfTI-2 (.nii, .nii.gz, told by content): header by nibabel, values read here in bounded memory.

NIfTI's coordinates are RAS (x to the right, y to the front): turned into LPS. The sform is used before the qform, as
nibabel and the standard's own advice do; where the two name different orders of the axes the file is refused, since a
left and a right side may be exchanged. Source: nifti.nimh.nih.gov/nifti-1, nifti1.h and nifti2.h.
"""

import gzip
from io import BytesIO
from pathlib import Path
from typing import IO, Any, Final, cast

import numpy as np
import numpy.typing as npt
from nibabel.nifti1 import Nifti1Header
from nibabel.nifti2 import Nifti2Header
from nibabel.orientations import aff2axcodes

from primum.errors import DataError
from primum.imaging.intensity import Float64
from primum.imaging.volume import Volume, canonical, check_volume, guessed_hounsfield, volume_reader

_SIZES: Final = {348: Nifti1Header, 540: Nifti2Header}
_MOST_REST: Final = 1 << 20
_TO_LPS: Final = np.diag([-1.0, -1.0, 1.0, 1.0])


def _header_class(head: bytes) -> type[Any] | None:
    for order in ("little", "big"):
        kind = _SIZES.get(int.from_bytes(head[:4], order))
        if kind is not None and (head[344:346] == b"n+" or head[344:346] == b"ni" or head[4:6] in (b"n+", b"ni")):
            return kind
    return None


@volume_reader("NIfTI", lambda head: _header_class(head) is not None)
def read_nifti(path: Path) -> Volume:
    """One volume of numbers; several, colours, complex numbers and header files without values are refused."""
    with _opened(path) as file:
        head = file.read(540)
        kind = _header_class(head)
        if kind is None:
            raise DataError("is no NIfTI file", "Export it again.")
        header = kind.from_fileobj(BytesIO(head[: kind.sizeof_hdr]))
        if not header["magic"].tobytes().startswith(b"n+"):
            raise DataError("is a header without its values (.hdr)", "Save it as one file (.nii).")
        shape = _shape(header)
        values = _scaled(_values(file, header, shape), header)
    affine, notices = _affine(header)
    turned, affine = canonical(values, _TO_LPS @ affine)
    return Volume(turned, affine, "NIfTI", guessed_hounsfield(values), notices=notices)


def _opened(path: Path) -> IO[bytes]:
    with path.open("rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
    return cast(IO[bytes], gzip.open(path)) if packed else path.open("rb")


def _shape(header: Any) -> tuple[int, int, int]:
    """Three sides; further ones must be 1."""
    shape = tuple(int(side) for side in header.get_data_shape())
    check_volume(shape)
    if len(shape) < 2 or any(side != 1 for side in shape[3:]):
        raise DataError(f"does not hold one volume ({' x '.join(map(str, shape))})", "Export each volume by itself.")
    return shape[0], shape[1], shape[2] if len(shape) > 2 else 1


def _values(file: IO[bytes], header: Any, shape: tuple[int, int, int]) -> npt.NDArray[Any]:
    """Exactly the stored values, read in one piece of known size; first index fastest."""
    kind = header.get_data_dtype()
    if kind.fields is not None or kind.kind not in "iuf" or kind.itemsize > 8:
        raise DataError("holds colours or complex numbers", "Export grey values.")
    offset = int(header["vox_offset"])
    if not header.sizeof_hdr + 4 <= offset <= 1 << 24:
        raise DataError("names no place for its values", "Export it again.")
    file.seek(offset)
    size = shape[0] * shape[1] * shape[2] * kind.itemsize
    data = file.read(size)
    if len(data) < size:
        raise DataError("is cut off: voxels are missing", "Copy or export it again.")
    if len(file.read(_MOST_REST)) == _MOST_REST:  # reading on to the end also checks the sum of a gzip file
        raise DataError("holds more than its header says", "Export it again.")
    return np.frombuffer(data, kind).reshape(shape, order="F")


def _scaled(stored: npt.NDArray[Any], header: Any) -> npt.NDArray[np.float32]:
    """Slope and intercept; a slope of 0 or that is no number means that there is none."""
    slope, intercept = header.get_slope_inter()
    if slope is None:
        return stored.astype(np.float32)
    scaled: npt.NDArray[np.float64] = stored.astype(np.float64) * float(slope) + float(intercept or 0)
    return scaled.astype(np.float32)


def _affine(header: Any) -> tuple[Float64, tuple[str, ...]]:
    named = [
        header.get_sform() if int(header["sform_code"]) > 0 else None,
        header.get_qform() if int(header["qform_code"]) > 0 else None,
    ]
    found = [np.asarray(affine, np.float64) for affine in named if affine is not None]
    if not found:
        return np.asarray(header.get_base_affine(), np.float64), ("no orientation named: taken as stored",)
    if len(found) == 2 and aff2axcodes(found[0]) != aff2axcodes(found[1]):  # type: ignore[no-untyped-call]
        raise DataError("names two orientations (sform and qform) that differ", "Export it again; keep the right one.")
    return found[0], ()
