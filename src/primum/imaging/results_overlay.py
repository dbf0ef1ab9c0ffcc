"""A mask painted over its picture: as PNG for anybody, and as DICOM secondary capture for viewers that show no SEG.

Each class has a thin opaque contour and a transparent fill, in the colours of Okabe and Ito (2008), which people who
see few colours can tell apart. Below the picture stand the classes, the model, and that this is not for diagnosis.
"""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any, Final

import highdicom as hd
import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont
from pydicom import Dataset
from pydicom.sr.codedict import codes

from primum.errors import DataError
from primum.imaging.image import Picture
from primum.imaging.reader import decode
from primum.imaging.results_files import (
    MANUFACTURER,
    NOT_FOR_DIAGNOSIS,
    UTF8,
    Algorithm,
    encode,
    new_uid,
    orientation,
    read_headers,
    refers_to,
    refuse_existing,
    write_new,
)
from primum.imaging.results_mask import Mask, check_mask

COLOURS: Final = (
    (230, 159, 0),
    (86, 180, 233),
    (0, 158, 115),
    (240, 228, 66),
    (204, 121, 167),
    (213, 94, 0),
    (0, 114, 178),
)
"""Okabe and Ito's colours without black; an eighth class begins again, and has a contour of dashes."""

_FILL: Final = 0.3
_SMALLEST: Final = 512
_NARROWEST: Final = 360
_DASH: Final = 6
_SERIES: Final = 9002
_PAPER: Final = (16, 16, 16)
_INK: Final = (240, 240, 240)

Colours = npt.NDArray[np.uint8]


def write_overlay_png(picture: Picture, mask: Mask, classes: Sequence[str], algorithm: Algorithm, out: Path) -> None:
    """Write `mask` (uint8 [rows, columns]) painted over `picture` as PNG; nothing of the patient but the picture.

    Raises DataError where mask and picture differ in size, a value is no class, or `out` exists.
    """
    refuse_existing(out)
    painted = paint(picture, mask, classes, algorithm)
    buffer = BytesIO()
    Pillow.fromarray(painted).save(buffer, "PNG")
    write_new(out, buffer.getvalue())


def write_overlay_capture(
    source_file: Path,
    mask: Mask,
    classes: Sequence[str],
    algorithm: Algorithm,
    out: Path,
    *,
    series: str | None = None,
    number: int = 1,
) -> None:
    """Write `mask` (uint8 [rows, columns]) painted over a DICOM image as secondary capture (RGB, one frame).

    It refers to its source, stands in the same study, and says that it is not for diagnosis: in its pixels, its series'
    description and its derivation. For a volume call it slice by slice with one `series` (`results_files.new_uid()`)
    and `number` from 1 on. Raises DataError as `write_overlay_png` does, and where the source is no DICOM image.
    """
    refuse_existing(out)
    header = read_headers([source_file])[0]
    try:
        painted = paint(decode(source_file), mask, classes, algorithm)
    except DataError as error:
        raise DataError(f"{source_file}: {error.message}", error.hint) from error
    with refers_to(source_file):
        data = encode(_capture(header, painted, algorithm, series or new_uid(), number))
    write_new(out, data)


def _capture(header: Dataset, painted: Colours, algorithm: Algorithm, series: str, number: int) -> Dataset:
    """Secondary Capture Image IOD (PS3.3 A.8.1)."""
    capture: Any = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=header,
        pixel_array=painted,
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        patient_orientation=("L", "P"),  # the library asks for one; the true one is set below
        series_instance_uid=series,
        series_number=_SERIES,
        sop_instance_uid=new_uid(),
        instance_number=number,
        manufacturer=MANUFACTURER,
        manufacturer_model_name=algorithm.name,
        software_versions=algorithm.software,
        device_serial_number=algorithm.digest,
        series_description=NOT_FOR_DIAGNOSIS,
        specific_character_set=UTF8,
    )
    capture.PatientOrientation = orientation(header)
    _say_laterality(capture, header)
    _say_lossy(capture, header)
    capture.BurnedInAnnotation = "YES"
    capture.DerivationDescription = f"{NOT_FOR_DIAGNOSIS}. Mask by {algorithm.name} {algorithm.version}"
    capture.ImageComments = f"{NOT_FOR_DIAGNOSIS}. Model sha256 {algorithm.digest}"
    capture.SourceImageSequence = [_reference(header)]
    return capture


def _reference(header: Dataset) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID = header.SOPClassUID
    item.ReferencedSOPInstanceUID = header.SOPInstanceUID
    purpose = codes.DCM.SourceImageForImageProcessingOperation
    item.PurposeOfReferenceCodeSequence = [hd.sr.CodedConcept(*purpose[:3])]
    return item


def _say_laterality(capture: Dataset, header: Dataset) -> None:
    """The side of a paired part of the body as the source says it; empty where it does not (PS3.3 C.7.3.1, type 2C)."""
    if header.get("ImageLaterality"):
        capture.ImageLaterality = header.ImageLaterality
    else:
        capture.Laterality = header.get("Laterality")


def _say_lossy(capture: Dataset, header: Dataset) -> None:
    """What was once compressed with loss stays so (PS3.3 C.7.6.1.1.5)."""
    if str(header.get("LossyImageCompression", "")) == "01":
        for name in ("LossyImageCompression", "LossyImageCompressionRatio", "LossyImageCompressionMethod"):
            if header.get(name):
                setattr(capture, name, header[name].value)


def paint(picture: Picture, mask: Mask, classes: Sequence[str], algorithm: Algorithm) -> Colours:
    """Uint8 [rows, columns, 3]: the picture (a small one enlarged), the mask over it, and a legend below.

    `mask`: uint8 [rows, columns] of the picture's size, 0 is background and not painted. Raises DataError where the
    sizes differ or a value is no class.
    """
    if mask.ndim != 2:
        raise DataError("a mask to be painted is uint8 [rows, columns]", "Paint one slice at a time.")
    check_mask(mask, classes)
    if mask.shape != picture.values.shape[1:]:
        raise DataError(
            f"the mask has {mask.shape[0]} x {mask.shape[1]} pixels, the picture "
            f"{picture.values.shape[1]} x {picture.values.shape[2]}",
            "Give the mask on the grid of the picture.",
        )
    times = max(1, -(-_SMALLEST // max(mask.shape)))
    shown, labels = _enlarged(picture.values, times), np.kron(mask, np.ones((times, times), np.uint8))
    return _with_legend(_coloured(shown, labels), classes, algorithm)


def _enlarged(values: npt.NDArray[np.float32], times: int) -> npt.NDArray[np.float32]:
    """RGB float32 [rows, columns, 3] in [0, 255]; pixels repeated, not smoothed: nothing is made up."""
    grey = np.broadcast_to(values, (3, *values.shape[1:])).transpose(1, 2, 0)
    return np.repeat(np.repeat(grey, times, axis=0), times, axis=1) * np.float32(255)


def _coloured(shown: npt.NDArray[np.float32], labels: Mask) -> Colours:
    width = max(1, round(max(labels.shape) / 256))
    for number in range(1, int(labels.max()) + 1):
        inside = labels == number
        colour = np.asarray(COLOURS[(number - 1) % len(COLOURS)], np.float32)
        edge = inside & ~_shrunk(inside, width)
        if number > len(COLOURS):
            rows, columns = np.indices(labels.shape)
            edge &= (rows + columns) // (_DASH * width) % 2 == 0
        shown[inside] = (1 - _FILL) * shown[inside] + _FILL * colour
        shown[edge] = colour
    return shown.round().astype(np.uint8)


def _shrunk(inside: npt.NDArray[np.bool_], width: int) -> npt.NDArray[np.bool_]:
    """`inside` without what lies within `width` pixels of its edge; the picture's own edge is none."""
    for _ in range(width):
        around = np.pad(inside, 1, mode="edge")
        inside = inside & around[:-2, 1:-1] & around[2:, 1:-1] & around[1:-1, :-2] & around[1:-1, 2:]
    return inside


def _with_legend(shown: Colours, classes: Sequence[str], algorithm: Algorithm) -> Colours:
    """The picture in the middle of a panel, with classes, model and warning below it."""
    height, across = shown.shape[:2]
    width = max(across, _NARROWEST)
    size = max(14, width // 42)
    font = ImageFont.load_default(size)
    lines = [
        *(
            (number, line)
            for number, name in enumerate(classes[1:], 1)
            for line in _wrapped(name, font, width - 4 * size)
        ),
        *((0, line) for words in _words(algorithm) for line in _wrapped(words, font, width - 2 * size)),
    ]
    step = round(1.5 * size)
    panel = Pillow.new("RGB", (width, height + step * len(lines) + size), _PAPER)
    panel.paste(Pillow.fromarray(shown), ((width - across) // 2, 0))
    draw = ImageDraw.Draw(panel)
    before = 0
    for place, (number, line) in enumerate(lines):
        top = height + size // 2 + step * place
        if number and number != before:
            _sample(draw, (size, top + size // 8), size, number)
        draw.text((3 * size if number else size, top), line, _INK, font)
        before = number
    return np.asarray(panel)


def _sample(draw: ImageDraw.ImageDraw, corner: tuple[int, int], size: int, number: int) -> None:
    """A square of the class's colour; an eighth class and later ones have a dark middle, as their contours have gaps."""
    left, top = corner
    draw.rectangle((left, top, left + size, top + size), COLOURS[(number - 1) % len(COLOURS)])
    if number > len(COLOURS):
        draw.rectangle((left + size // 3, top + size // 3, left + 2 * size // 3, top + 2 * size // 3), _PAPER)


def _words(algorithm: Algorithm) -> tuple[str, ...]:
    return NOT_FOR_DIAGNOSIS, f"{algorithm.name} {algorithm.version}, sha256 {algorithm.digest[:16]}…"


def _wrapped(words: str, font: Any, width: int) -> list[str]:
    """`words` in lines that are at most `width` pixels wide; a word that is too long is cut anywhere."""
    lines = [""]
    for letter in words:
        if font.getlength(lines[-1] + letter) <= width:
            lines[-1] += letter
            continue
        kept, space, rest = lines[-1].rpartition(" ")
        lines[-1:] = [kept, rest + letter] if space and letter != " " else [lines[-1], letter.strip()]
    return [line for line in lines if line]
