"""DICOM by pydicom: stored values -> modality LUT -> VOI LUT or window (else percentiles) -> polarity.

One pipeline for training and diagnosis (DICOM PS3.3 C.11.1, C.11.2; PS3.4 N.2). Only the elements that pixels need are
asked for: an anonymised file without dates, names and study is as good as any. Of several frames the first is taken.
"""

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydicom import Dataset, dcmread
from pydicom.pixels import apply_color_lut, apply_voi

from primum.errors import DataError
from primum.imaging.image import Picture, Pixels
from primum.imaging.intensity import Float64, stretch, window
from primum.imaging.reader import check_size, reader
from primum.imaging.stored import (
    GREY,
    first_number,
    frame,
    functional,
    in_hounsfield,
    looks_like_dicom,
    open_dicom,
    refuse_what_is_no_picture,
    rescaled,
    valid_pixels,
)


def _patient(path: Path) -> str | None:
    found = dcmread(path, force=True, stop_before_pixels=True, specific_tags=["PatientID"]).get("PatientID")
    return str(found) if found else None


@reader("DICOM", looks_like_dicom, _patient)
def read_dicom(path: Path) -> Picture:
    """The first frame of a DICOM file, as a screen would show it; raises DataError with the reason."""
    dataset = open_dicom(path)
    refuse_what_is_no_picture(dataset)
    check_size(int(dataset.get("Rows", 0)), int(dataset.get("Columns", 0)))
    stored = frame(dataset)
    frames = int(dataset.get("NumberOfFrames") or 1)
    notices = [f"first of {frames} frames"] if frames > 1 else []
    if str(dataset.get("PresentationIntentType", "")) == "FOR PROCESSING":
        notices.append("raw detector values (FOR PROCESSING)")
    if stored.max() == stored.min():
        raise DataError("shows nothing: all its pixels are equal", "Export it again; a decoder may have failed.")
    hounsfield: Pixels | None = None
    if dataset.PhotometricInterpretation in GREY:
        values, hounsfield, how = _grey_levels(stored.astype(np.float64), dataset)
        notices += how
    else:
        values = _colours(stored, dataset)
    patient = str(dataset.get("PatientID") or "") or None
    return Picture(values, "DICOM", _spacing(dataset), patient, tuple(notices), hounsfield)


def _grey_levels(stored: Float64, dataset: Dataset) -> tuple[Pixels, Pixels | None, list[str]]:
    """Float32 [1, rows, columns] in [0, 1], white is 1; the same as Hounsfield values if it has them; notices."""
    valid = valid_pixels(stored, dataset)
    values = rescaled(stored, dataset)
    shown, notices = _voi(values, valid, dataset)
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        shown = np.float32(1) - shown
    if not valid.all():
        shown = np.where(valid, shown, np.float32(0))
        values = np.where(valid, values, values[valid].min(initial=np.inf) if valid.any() else 0)
    return shown[None], values[None].astype(np.float32) if in_hounsfield(dataset) else None, notices


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
    elif dataset.get("VOILUTSequence") or functional(dataset, "FrameVOILUTSequence", "WindowWidth") is not None:
        notices.append("its window is none that DICOM allows; percentiles used")
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
    centre = first_number(functional(dataset, "FrameVOILUTSequence", "WindowCenter"))
    width = first_number(functional(dataset, "FrameVOILUTSequence", "WindowWidth"))
    if centre is None or width is None:
        return None
    function = str(functional(dataset, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
    try:
        return window(values, centre, width, function)
    except ValueError:
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
    found = functional(dataset, "PixelMeasuresSequence", "PixelSpacing") or dataset.get("ImagerPixelSpacing")
    try:
        row, column = (float(value) for value in found)
    except (TypeError, ValueError):
        return None
    return (row, column) if row > 0 and column > 0 else None
