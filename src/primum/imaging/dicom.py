"""DICOM by pydicom: stored values -> modality LUT -> VOI LUT or window (else percentiles) -> polarity.

One pipeline for training and diagnosis (DICOM PS3.3 C.11.1, C.11.2; PS3.4 N.2). Only the elements that pixels need are
asked for: an anonymised file without dates, names and study is as good as any. Of several frames the first is taken.
"""

from pathlib import Path
from typing import Any, Final

import gdcm
import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.multival import MultiValue
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi, pixel_array
from pydicom.uid import UID, ExplicitVRBigEndian, ImplicitVRLittleEndian, JPEGExtended12Bit

from primum.errors import DataError
from primum.imaging.image import Picture, Pixels
from primum.imaging.intensity import Float64, stretch, window
from primum.imaging.reader import check_size, reader

gdcm.Trace.WarningOff()
gdcm.Trace.ErrorOff()

_NOT_PICTURES: Final = {
    "1.2.840.10008.5.1.4.1.1.66.4": "a segmentation (SEG), a mask and not a picture",
    "1.2.840.10008.5.1.4.1.1.66.7": "a label map, a mask and not a picture",
    "1.2.840.10008.5.1.4.1.1.481.2": "a radiation dose (RTDOSE), not a picture",
    "1.2.840.10008.1.3.10": "a DICOMDIR index, not a picture",
}
_PIXELS: Final = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
_GREY: Final = ("MONOCHROME1", "MONOCHROME2")
_TEXT_VRS: Final = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT OB OD OF OL OV OW PN SH SL SQ SS ST SV TM UC UI UL UN UR US UT UV".split()
)


def _looks_like_dicom(head: bytes) -> bool:
    """The prefix after the preamble; or a data set that begins at once with group 2 or 8, little or big endian."""
    if head[128:132] == b"DICM":
        return True
    if len(head) < 8 or head[:2] not in (b"\x08\0", b"\0\x08", b"\x02\0", b"\0\x02"):
        return False
    return head[4:6] in _TEXT_VRS or int.from_bytes(head[4:8], "little") < 1 << 16


def _patient(path: Path) -> str | None:
    found = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID")
    return str(found) if found else None


@reader("DICOM", _looks_like_dicom, _patient)
def read_dicom(path: Path) -> Picture:
    """The first frame of a DICOM file, as a screen would show it; raises DataError with the reason."""
    dataset = _dataset(path)
    _refuse_what_is_no_picture(dataset)
    check_size(int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0)))
    stored = _first_frame(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    notices = [f"first of {frames} frames"] if frames > 1 else []
    if str(dataset.get("PresentationIntentType", "")) == "FOR PROCESSING":
        notices.append("raw detector values (FOR PROCESSING)")
    if stored.max() == stored.min():
        raise DataError("shows nothing: all its pixels are equal", "Export it again; a decoder may have failed.")
    if dataset.PhotometricInterpretation in _GREY:
        values, how = _grey_levels(stored.astype(np.float64), dataset)
        notices += how
    else:
        values = _colours(stored, dataset)
    patient = str(dataset.get("PatientID") or "") or None
    return Picture(values, "DICOM", _spacing(dataset), patient, tuple(notices))


def _dataset(path: Path) -> Dataset:
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


def _refuse_what_is_no_picture(dataset: Dataset) -> None:
    kind = str(dataset.get("SOPClassUID", "") or dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    if kind in _NOT_PICTURES:
        raise DataError(f"is {_NOT_PICTURES[kind]}", "Keep it in another folder.")
    if not any(name in dataset for name in _PIXELS):
        if "Rows" in dataset and "Columns" in dataset:
            raise DataError("is cut off: its header is there, its pixels are not", "Copy or export it again.")
        name = UID(kind).name if kind else "no kind given"
        raise DataError(f"is a DICOM file without pixels ({name})", "Keep reports and plans in another folder.")
    missing = [name for name in ("Rows", "Columns", "PhotometricInterpretation") if name not in dataset]
    if missing:
        raise DataError(f"lacks {', '.join(missing)}, which pixels need", "Export it again.")
    if int(dataset.get("BitsAllocated", 8)) == 1:
        raise DataError("is a mask (1 bit per pixel), not a picture", "Keep masks in another folder.")


def _first_frame(dataset: Dataset) -> npt.NDArray[Any]:
    """Stored values [rows, columns] or RGB [rows, columns, 3] of frame 0."""
    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        frame: npt.NDArray[Any] = pixel_array(dataset, index=0)
    except (NotImplementedError, RuntimeError) as error:
        more = " (or `pip install pylibjpeg-libjpeg`, which is GPL)" if syntax == JPEGExtended12Bit else ""
        raise DataError(
            f"its pixels cannot be decoded ({syntax.name})",
            f"It is damaged, or needs another decoder{more}: export it uncompressed or as JPEG 2000.",
        ) from error
    except (ValueError, AttributeError, KeyError, EOFError) as error:
        raise DataError(f"is damaged or cut off (DICOM, {type(error).__name__})", "Copy or export it again.") from error
    return frame


def _grey_levels(stored: Float64, dataset: Dataset) -> tuple[Pixels, list[str]]:
    """Float32 [1, rows, columns] in [0, 1], white is 1; and what was decided."""
    valid = _valid(stored, dataset)
    values = _modality(stored, dataset)
    shown, notices = _voi(values, valid, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = np.float32(1) - shown
    if not valid.all():
        shown = np.where(valid, shown, np.float32(0))
    return shown[None], notices


def _valid(stored: Float64, dataset: Dataset) -> npt.NDArray[np.bool_]:
    """False where a pixel is padding (PS3.3 C.7.5.1.1.2), which is shown black and takes no part in percentiles."""
    first = dataset.get("PixelPaddingValue")
    if first is None:
        return np.ones(stored.shape, np.bool_)
    last = dataset.get("PixelPaddingRangeLimit", first)
    low, high = sorted((float(first), float(last)))
    return ~((stored >= low) & (stored <= high))


def _modality(stored: Float64, dataset: Dataset) -> Float64:
    if "ModalityLUTSequence" in dataset:
        values: Float64 = apply_modality_lut(stored.astype(np.int64), dataset).astype(np.float64)
        return values
    slope = _first(_functional(dataset, "PixelValueTransformationSequence", "RescaleSlope"))
    intercept = _first(_functional(dataset, "PixelValueTransformationSequence", "RescaleIntercept"))
    return stored * (1.0 if slope is None else slope) + (0.0 if intercept is None else intercept)


def _voi(values: Float64, valid: npt.NDArray[np.bool_], dataset: Dataset) -> tuple[Pixels, list[str]]:
    """VOI LUT, else the first window, else percentiles; a table or window that shows nothing is not used."""
    notices: list[str] = []
    shown = _voi_table(values, dataset)
    if shown is None:
        shown = _voi_window(values, dataset)
    if shown is not None and shown.max() - shown.min() >= 1e-3:
        return shown, notices
    if shown is not None:
        notices.append("its window shows nothing; percentiles used")
    return stretch(values, valid), notices


def _voi_table(values: Float64, dataset: Dataset) -> Pixels | None:
    sequence = dataset.get("VOILUTSequence")
    if not sequence:
        return None
    try:
        table: Float64 = apply_voi(np.rint(values).astype(np.int64), dataset).astype(np.float64)
        top = float((1 << int(sequence[0].LUTDescriptor[2])) - 1)
    except (AttributeError, ValueError, NotImplementedError, IndexError, KeyError):
        return None
    return np.clip(table / top, 0, 1).astype(np.float32)


def _voi_window(values: Float64, dataset: Dataset) -> Pixels | None:
    centre = _first(_functional(dataset, "FrameVOILUTSequence", "WindowCenter"))
    width = _first(_functional(dataset, "FrameVOILUTSequence", "WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(_functional(dataset, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
    try:
        return window(values, centre, width, function)
    except ValueError:
        return None


def _functional(dataset: Dataset, sequence: str, name: str) -> Any:
    """An element of the data set, or of the functional groups of an enhanced one (first frame, then shared)."""
    if name in dataset:
        return dataset.get(name)
    for groups in ("PerFrameFunctionalGroupsSequence", "SharedFunctionalGroupsSequence"):
        group = dataset.get(groups)
        if group and group[0].get(sequence):
            return group[0].get(sequence)[0].get(name)
    return None


def _first(value: Any) -> float | None:
    """The first number of a decimal string, None where it is absent, empty or no number."""
    if isinstance(value, MultiValue):
        value = value[0] if len(value) else None
    try:
        return None if value is None or value == "" else float(value)
    except (TypeError, ValueError):
        return None


def _colours(stored: npt.NDArray[Any], dataset: Dataset) -> Pixels:
    """Float32 [3, rows, columns] in [0, 1]."""
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        stored = apply_color_lut(stored, dataset)
        top = float(np.iinfo(stored.dtype).max)
    else:
        top = float((1 << int(dataset.BitsStored)) - 1)
    if stored.ndim != 3 or stored.shape[2] < 3:
        raise DataError(f"has unknown colours ({dataset.PhotometricInterpretation})", "Export it as grey or RGB.")
    values = np.clip(stored[..., :3].astype(np.float64) / top, 0, 1).astype(np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1))


def _spacing(dataset: Dataset) -> tuple[float, float] | None:
    found = _functional(dataset, "PixelMeasuresSequence", "PixelSpacing") or dataset.get("ImagerPixelSpacing")
    try:
        row, column = (float(value) for value in found)
    except (TypeError, ValueError):
        return None
    return (row, column) if row > 0 and column > 0 else None
