"""Comments and application data taken out of compressed frames: a camera writes its name, a place or a text there.

JPEG, JPEG Lossless and JPEG-LS: segments COM and APPn (ITU-T T.81 Table B.1; T.87 Annex C). JPEG 2000 and HTJ2K: COM of
the main header (ITU-T T.800 Table A.2). JFIF (APP0), Adobe (APP14) and JPEG-LS (APP8), which
say how colours are coded, stay where they are as short as their standards make them. The coded pixels are not touched.
"""

from collections.abc import Callable
from typing import Final

from pydicom import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import UID, RLELossless

_JPEG: Final = b"\xff\xd8"
_JPEG_2000: Final = b"\xff\x4f"
_LONGEST: Final = {0xE0: 16, 0xE8: 40, 0xEE: 14}
"""Segments that decoders read, with their length (with the two bytes that say it) where they hold nothing else."""


def without_comments(dataset: Dataset) -> int:
    """Take comments out of the compressed frames of `dataset`, in place; how many there were."""
    syntax = UID(str(dataset.file_meta.TransferSyntaxUID))
    if not syntax.is_encapsulated or syntax == RLELossless or "PixelData" not in dataset:
        return 0
    tables = [dataset.get(name) for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths")]
    frames = list(
        generate_frames(
            dataset.PixelData,
            number_of_frames=int(dataset.get("NumberOfFrames") or 1),
            extended_offsets=None if None in tables else (tables[0], tables[1]),
        )
    )
    cleaned = [strip(frame) for frame in frames]
    count = sum(found for _, found in cleaned)
    if count:
        for name in ("ExtendedOffsetTable", "ExtendedOffsetTableLengths"):
            if name in dataset:
                delattr(dataset, name)
        dataset.PixelData = encapsulate([frame for frame, _ in cleaned])
        dataset["PixelData"].is_undefined_length = True
    return count


def strip(frame: bytes) -> tuple[bytes, int]:
    """One compressed frame without its comments, and how many there were; what is no code stream stays as it is."""
    if frame.startswith(_JPEG):
        return _strip(frame, b"\xff\xda", lambda kind, size: kind == 0xFE or _application(kind, size))
    if frame.startswith(_JPEG_2000):
        return _strip(frame, b"\xff\x90", lambda kind, size: kind == 0x64)
    return frame, 0


def _application(kind: int, size: int) -> bool:
    return 0xE0 <= kind <= 0xEF and size > _LONGEST.get(kind, 0)


def _strip(frame: bytes, end: bytes, unwanted: Callable[[int, int], bool]) -> tuple[bytes, int]:
    kept, place, count = [frame[:2]], 2, 0
    while frame[place : place + 1] == b"\xff" and frame[place : place + 2] != end and place + 4 <= len(frame):
        if frame[place + 1] == 0xFF:  # fill bytes may stand before a marker
            place += 1
            continue
        size = int.from_bytes(frame[place + 2 : place + 4], "big")
        if size < 2 or place + 2 + size > len(frame):
            break
        if unwanted(frame[place + 1], size):
            count += 1
        else:
            kept.append(frame[place : place + 2 + size])
        place += 2 + size
    return b"".join(kept) + frame[place:], count
