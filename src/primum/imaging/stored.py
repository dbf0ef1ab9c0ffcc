"""What a DICOM file stores: opened, refused with its reason, decoded frame by frame, and in its real unit.

Used for single pictures (dicom.py), for series (series.py) and for masks (segmentation_object.py). Sources: DICOM
PS3.3 C.7.6.3, C.7.6.16, C.8.2.1, C.11.1; PS3.5.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.encaps import get_frame
from pydicom.multival import MultiValue
from pydicom.pixels import apply_modality_lut, pixel_array
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    UID,
    ExplicitVRBigEndian,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    RLELossless,
)

from primum.errors import DataError
from primum.imaging.decoder import decode_apart
from primum.imaging.intensity import Float64

SEGMENTATION: Final = "1.2.840.10008.5.1.4.1.1.66.4"
LABEL_MAP: Final = "1.2.840.10008.5.1.4.1.1.66.7"
GREY: Final = ("MONOCHROME1", "MONOCHROME2")

_NOT_PICTURES: Final = {
    SEGMENTATION: "a segmentation (SEG), a mask and not a picture",
    LABEL_MAP: "a label map, a mask and not a picture",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiation dose (RTDOSE), not a picture",
    "1.2.840.10008.1.3.10": "a DICOMDIR index, not a picture",
}
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_INSIDE: Final = {
    JPEGBaseline8Bit: "pillow",
    JPEGExtended12Bit: "pillow",
    JPEG2000Lossless: "pylibjpeg",
    JPEG2000: "pylibjpeg",
    HTJ2KLossless: "pylibjpeg",
    HTJ2KLosslessRPCL: "pylibjpeg",
    HTJ2K: "pylibjpeg",
    RLELossless: "pydicom",
}
_DESCRIBING: Final = ("SamplesPerPixel", "BitsAllocated", "BitsStored", "PixelRepresentation")
"""Without these a picture is read where its codestream says the same, and refused by their names elsewhere."""
_NUMBERS: Final = ("Rows", "Columns", *_DESCRIBING, "HighBit", "PlanarConfiguration")
_TOMOGRAPHY: Final = {
    "1.2.840.10008.5.1.4.1.1.2": "CT",
    "1.2.840.10008.5.1.4.1.1.2.1": "enhanced CT",
    "1.2.840.10008.5.1.4.1.1.2.2": "legacy converted enhanced CT",
}
_TEXT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


def looks_like_dicom(head: bytes) -> bool:
    """The prefix after the preamble; or a data set that begins at once with group 2 or 8, little or big endian."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8 or head[:2] not in (b"\x08\0", b"\0\x08", b"\x02\0", b"\0\x02"):
        return False
    return head[4:6] in _TEXT_VRS or int.from_bytes(head[4:8], "little") < 1 << 16


def open_dicom(path: Path) -> Dataset:
    """The data set of a file, with a transfer syntax; raises DataError where it is cut off or no DICOM."""
    dataset = dcmread(path, force=True)
    if not len(dataset):  # pydicom drops what it had read when a file ends too early
        raise DataError("is cut off, or no DICOM file at all", "Copy or export it again.")
    if "TransferSyntaxUID" not in dataset.file_meta:
        dataset.file_meta.TransferSyntaxUID = _guessed_syntax(dataset)
    return dataset


def _guessed_syntax(dataset: Dataset) -> UID:
    """Without meta header: what pydicom found while reading; PS3.5 section 10.1 makes implicit little endian default."""
    implicit, little = dataset.original_encoding
    if little is False:
        return ExplicitVRBigEndian
    return ImplicitVRLittleEndian if implicit in (True, None) else UID("1.2.840.10008.1.2.1")


def kind_of(dataset: Dataset) -> str:
    """The SOP class as digits and dots; empty where the file does not say."""
    return str(dataset.get("SOPClassUID", "") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))


def refuse_what_is_no_picture(dataset: Dataset) -> None:
    """Raise DataError where a file holds a mask, a dose, an index, a report, or no whole picture."""
    kind = kind_of(dataset)
    if kind in _NOT_PICTURES:
        raise DataError(f"is {_NOT_PICTURES[kind]}", "Keep it in another folder.")
    if not any(name in dataset for name in _PIXELS):
        if "Rows" in dataset and "Columns" in dataset:
            raise DataError("is cut off: its header is there, its pixels are not", "Copy or export it again.")
        name = _name(UID(kind), "unknown kind") if kind else "no kind given"
        raise DataError(f"is a DICOM file without pixels ({name})", "Keep reports and plans in another folder.")
    _refuse_missing(dataset, ("Rows", "Columns", "PhotometricInterpretation"))
    if int(dataset.get("SamplesPerPixel") or 1) not in (1, 3, 4):
        raise DataError("claims neither grey nor colour (SamplesPerPixel)", "Export it again.")
    if int(dataset.get("BitsAllocated", 8)) == 1:
        raise DataError("is a mask (1 bit per pixel), not a picture", "Keep masks in another folder.")


def _refuse_missing(dataset: Dataset, names: Iterable[str]) -> None:
    missing = [name for name in names if name not in dataset]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}, which pixels need", "Export it again.")


def frame(dataset: Dataset, index: int = 0) -> npt.NDArray[Any]:
    """Stored values [rows, columns] or RGB [rows, columns, 3] of one frame; DataError where it cannot be decoded."""
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    try:
        if not syntax.is_encapsulated:
            values: npt.NDArray[Any] = pixel_array(dataset, index=index)
        else:
            values = _unpacked(dataset, index, syntax)
    except (NotImplementedError, RuntimeError) as error:
        raise DataError(
            f"its pixels cannot be decoded ({_name(syntax, 'unknown transfer syntax')})",
            "It is damaged, or needs another decoder: export it uncompressed or as JPEG 2000.",
        ) from error
    except (ValueError, AttributeError, KeyError, EOFError) as error:
        _refuse_missing(dataset, _DESCRIBING)
        raise DataError(f"is damaged or cut off (DICOM, {type(error).__name__})", "Copy or export it again.") from error
    return values


def _unpacked(dataset: Dataset, index: int, syntax: UID) -> npt.NDArray[Any]:
    """A compressed frame: by a decoder that can be trusted with a damaged file, else by gdcm in another process."""
    plugin = _INSIDE.get(syntax)
    deep = syntax == JPEGExtended12Bit and int(dataset.BitsStored) > 8
    if plugin is not None and not deep:
        try:
            values: npt.NDArray[Any] = pixel_array(dataset, index=index, decoding_plugin=plugin)
            return values
        except Exception:  # what this decoder cannot do, the other one may
            plugin = None
    elements = {name: int(dataset[name].value) for name in _NUMBERS if dataset.get(name) is not None}
    elements = {"SamplesPerPixel": 1, "PixelRepresentation": 0, **elements}
    tables = [dataset.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    encoded = get_frame(
        dataset.PixelData,
        index,
        number_of_frames=int(dataset.get("NumberOfFrames") or 1),
        extended_offsets=None if None in tables else tuple(tables),
    )
    shown = str(dataset.PhotometricInterpretation)
    return decode_apart({**elements, "syntax": str(syntax), "PhotometricInterpretation": shown}, encoded)


def _name(uid: UID, otherwise: str) -> str:
    """The name of a UID that the standard knows; others may hold anything, and are not repeated."""
    return str(uid.name) if uid.name != str(uid) else otherwise


def valid_pixels(stored: Float64, dataset: Dataset) -> npt.NDArray[np.bool_]:
    """False where a pixel is padding (PS3.3 C.7.5.1.1.2), which is shown black and takes no part in percentiles."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.ones(stored.shape, np.bool_)
    last = dataset.get("PixelPaddingRangeLimit", first)
    low, high = sorted((float(first), float(last)))
    return ~((stored >= low) & (stored <= high))


def rescaled(stored: Float64, dataset: Dataset, index: int = 0) -> Float64:
    """Stored values in their unit (Hounsfield for CT): modality LUT, else slope and intercept of frame `index`."""
    if "ModalityLUTSequence" in dataset:
        values: Float64 = apply_modality_lut(stored.astype(np.int64), dataset).astype(np.float64)
        return values
    slope = first_number(functional(dataset, "PixelValueTransformationSequence", "RescaleSlope", index))
    intercept = first_number(functional(dataset, "PixelValueTransformationSequence", "RescaleIntercept", index))
    return stored * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)


def in_hounsfield(dataset: Dataset) -> bool:
    """Whether the rescaled values are Hounsfield units: a CT with slope and intercept that names no other unit."""
    if "ModalityLUTSequence" in dataset or dataset.get("PhotometricInterpretation") not in GREY:
        return False
    if str(dataset.get("Modality", "")) != "CT" and kind_of(dataset) not in _TOMOGRAPHY:
        return False
    sequence = "PixelValueTransformationSequence"
    numbers = [first_number(functional(dataset, sequence, name)) for name in ("RescaleSlope", "RescaleIntercept")]
    return None not in numbers and str(functional(dataset, sequence, "RescaleType") or "HU") == "HU"


def functional(dataset: Dataset, sequence: str, name: str, index: int = 0) -> Any:
    """An element of the data set, or of the functional groups of an enhanced one (frame `index`, then shared)."""
    if name in dataset:
        return dataset.get(name)
    for groups, place in (("PerFrameFunctionalGroupsSequence", index), ("SharedFunctionalGroupsSequence", 0)):
        group = dataset.get(groups)
        if group and place < len(group) and group[place].get(sequence):
            return group[place].get(sequence)[0].get(name)
    return None


def first_number(value: Any) -> float | None:
    """The first number of a decimal string, None where it is absent, empty or no number."""
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        return None
