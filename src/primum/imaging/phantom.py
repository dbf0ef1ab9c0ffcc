"""X-rays of the chest, drawn: for a first try without any patient's data. Everybody who draws sees the same pictures.

A drawn patient has a body (width, height of the lungs, spine, twelve pairs of ribs, collar bones, a heart to the left,
a diaphragm), a camera (exposure, tilt, blur, noise), and is NORMAL or has PNEUMONIA: one to three soft opacities inside
the lungs, of which faint ones are hard to see. Some patients have several images. It is a drawing, made so that the
parts of Primum have something to work on; nothing that is learned from it says anything about people.
"""

import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from PIL import Image as Pillow
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian

from primum.errors import DataError
from primum.rng import Stream, normal_for_pictures

CLASSES: Final = ("NORMAL", "PNEUMONIA")
PHANTOM_PATIENT: Final = r"^(P\d{4})_"
"""The patient in the name of a drawn JPEG or PNG; drawn DICOM files carry the same in PatientID."""

_TEST_SHARE: Final = 0.25
_CR: Final = "1.2.840.10008.5.1.4.1.1.1"
_UID_ROOT: Final = "2.25."

Grey = npt.NDArray[np.floating[Any]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class _Body:
    """One patient, in units of the picture's height; x to the right, y down, (0, 0) in the middle."""

    width: float
    lung_top: float
    lung_bottom: float
    lung_half: float
    gap: float
    heart: float
    heart_down: float
    rib_slope: float
    rib_depth: float
    rib_phase: float
    spine: float
    curve: float
    fat: float
    density: float


class _Dice:
    """Numbers from a public stream, one after the other."""

    def __init__(self, label: str) -> None:
        self._stream = Stream.public(label)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * float(self._stream.uniform(1)[0])

    def normal(self, shape: tuple[int, ...]) -> Grey:
        """Standard normal values, float32."""
        return normal_for_pictures(self._stream, shape).astype(np.float32)

    def below(self, bound: int) -> int:
        return self._stream.below(bound)


def draw(folder: Path, patients: int = 600, *, progress: Progress | None = None) -> Path:
    """Write `folder`/{train,test}/{NORMAL,PNEUMONIA}/: PNG, JPEG and DICOM (MONOCHROME1 and 2) mixed; returns `folder`.

    A quarter of the patients is in test/; half of them have pneumonia; a quarter has two or three images. Always the
    same pictures for the same number. Raises DataError where `folder` is not empty or `patients` is below 20.
    """
    if patients < 20 or patients > 9999:
        raise DataError(f"20 to 9999 patients can be drawn, not {patients}", "Choose another number.")
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is not empty", "Draw into a new folder.")
    for split in ("train", "test"):
        for name in CLASSES:
            (folder / split / name).mkdir(parents=True, exist_ok=True)
    for number in range(patients):
        _draw_patient(folder, number)
        if progress is not None:
            progress(number + 1, patients)
    return folder


def _draw_patient(folder: Path, number: int) -> None:
    dice = _Dice(f"phantom patient {number}")
    ill = number % 2 == 1
    split = "test" if (number // 2) % round(1 / _TEST_SHARE) == 1 else "train"
    target = folder / split / CLASSES[ill]
    body = _body(dice)
    visits = (1, 1, 1, 2, 1, 1, 1, 3)[dice.below(8)]
    for visit, picture in enumerate(_pictures(dice, body, ill, visits)):
        _write(target, number, visit, picture, dice)


def _pictures(dice: _Dice, body: _Body, ill: bool, visits: int) -> Iterator[Grey]:
    for _ in range(visits):
        yield xray(dice, body, ill)


def _body(dice: _Dice) -> _Body:
    u = dice.uniform
    return _Body(
        width=u(0.92, 1.02),
        lung_top=u(-0.385, -0.345),
        lung_bottom=u(0.24, 0.31),
        lung_half=u(0.178, 0.20),
        gap=u(0.05, 0.065),
        heart=u(0.135, 0.185),
        heart_down=u(0.10, 0.17),
        rib_slope=u(0.15, 0.35),
        rib_depth=u(0.6, 1.25),
        rib_phase=u(0, 1),
        spine=u(0.035, 0.05),
        curve=u(-0.03, 0.03),
        fat=u(0.0, 0.25),
        density=u(0.85, 1.15),
    )


def xray(dice: _Dice, body: _Body, ill: bool) -> Grey:
    """One picture, float32 [rows, columns] in [0, 1], bright where rays are stopped."""
    rows = 160 + 8 * dice.below(9)
    columns = int(rows * dice.uniform(1.0, 1.16))
    x, y = _camera(dice, rows, columns)
    attenuation = _torso(body, x, y)
    left, right = _lung(body, x, y, -1), _lung(body, x, y, 1)
    lungs = np.maximum(left, right)
    attenuation -= lungs * (0.78 - 0.14 * body.fat)
    attenuation += _vessels(dice, body, x, y) * lungs
    attenuation += _ribs(body, x, y) * (0.35 + 0.65 * lungs)
    attenuation += _spine(body, x, y) + _collar_bones(body, x, y)
    attenuation += _heart(body, x, y) * np.clip(1.1 - np.clip(attenuation, 0, 1), 0.15, 1)
    attenuation += _haze(dice, lungs)
    if ill:
        attenuation += _opacities(dice, body, x, y) * lungs
    return _exposed(dice, body, attenuation)


def _camera(dice: _Dice, rows: int, columns: int) -> tuple[Grey, Grey]:
    tilt, zoom = math.radians(dice.uniform(-2, 2)), dice.uniform(1.06, 1.16)
    down, across = dice.uniform(-0.05, -0.02), dice.uniform(-0.015, 0.015)
    v, u = np.mgrid[0:rows, 0:columns].astype(np.float32)
    u, v = (u - columns / 2) / rows / zoom + across, (v - rows / 2) / rows / zoom + down
    return (u * math.cos(tilt) - v * math.sin(tilt)).astype(np.float32), (
        u * math.sin(tilt) + v * math.cos(tilt)
    ).astype(np.float32)


def _soft(distance: Grey, edge: float) -> Grey:
    """1 where `distance` is well below 0, 0 well above, smooth over `edge`."""
    return np.asarray(1 / (1 + np.exp(np.clip(distance / edge, -30, 30))), np.float32)


def _torso(body: _Body, x: Grey, y: Grey) -> Grey:
    out, half = np.abs(x), 0.5 * body.width
    shoulder = half * (1 - 0.62 * np.clip(-(y + 0.18) / 0.34, 0, 1) ** 2.2)
    chest = _soft(out - shoulder, 0.012)
    neck = _soft(out - 0.10, 0.012) * _soft(y + 0.3, 0.03)
    belly = 0.26 * _soft(body.lung_bottom + 0.04 - y, 0.05)
    lean = half + 0.05 + 0.30 * (y + 0.26)
    arms = 0.62 * _soft(np.abs(out - lean) - 0.075, 0.012) * _soft(-0.26 - y, 0.03)
    flank = 0.16 * _soft(0.40 * body.width - out, 0.03) * chest
    torso = np.maximum(np.maximum(chest, neck) * (0.86 + belly), arms)
    return np.asarray(body.density * (torso + flank), np.float32)


def _lung(body: _Body, x: Grey, y: Grey, side: int) -> Grey:
    """One lung: narrow at the top, wide below, cut by the dome of the diaphragm (higher on the patient's right)."""
    bottom = body.lung_bottom - (0.03 if side < 0 else 0.0)
    height = np.clip((y - body.lung_top) / (bottom - body.lung_top), 0, 1)
    middle = side * (body.gap + body.lung_half * (0.72 + 0.28 * height))
    half = body.lung_half * np.sqrt(np.clip(height * (2 - height), 0, 1)) ** 0.8
    inside = np.abs(x - middle) - half
    dome = bottom - 0.10 * np.cos(np.clip((x - middle) / body.lung_half, -1.4, 1.4)) + 0.055
    return np.minimum(_soft(inside, 0.008), np.minimum(_soft(y - dome, 0.006), _soft(body.lung_top - y, 0.01)))


def _ribs(body: _Body, x: Grey, y: Grey) -> Grey:
    """Back ribs fall outwards, front ribs rise inwards; each a band brighter at its lower edge."""
    out = np.abs(x)
    back = np.clip(1 - ((out - 0.19) / 0.24) ** 2, 0, 1)
    phase = (y + 0.36 - 0.42 * out * body.rib_slope - 0.55 * out**2) * 12.2 + body.rib_phase
    band = np.maximum(0, np.sin(2 * math.pi * phase)) ** 0.7
    front_phase = (y + 0.30 + 0.62 * (out - 0.35)) * 8.6 + body.rib_phase
    front = np.maximum(0, np.sin(2 * math.pi * front_phase)) ** 1.5 * np.clip((out - 0.13) / 0.15, 0, 1) * 0.45
    cage = _soft(out - 0.43 * body.width, 0.02) * _soft(body.lung_top - 0.03 - y, 0.02) * _soft(y - 0.36, 0.03)
    return np.asarray(0.17 * body.rib_depth * (band * back + front) * cage, np.float32)


def _spine(body: _Body, x: Grey, y: Grey) -> Grey:
    axis = body.curve * np.sin(3 * y)
    column = _soft(np.abs(x - axis) - body.spine, 0.008)
    discs = 1 - 0.35 * np.maximum(0, np.sin(2 * math.pi * y * 13)) ** 6
    windpipe = 0.16 * _soft(np.abs(x - 0.005) - 0.017, 0.005) * _soft(y + 0.12, 0.03)
    return np.asarray(0.24 * column * discs - windpipe, np.float32)


def _collar_bones(body: _Body, x: Grey, y: Grey) -> Grey:
    out = np.abs(x)
    line = body.lung_top + 0.075 - 0.16 * (out - 0.05) - 0.05 * np.sin(8 * out)
    bone = _soft(np.abs(y - line) - 0.011, 0.004) * _soft(0.045 - out, 0.008) * _soft(out - 0.40 * body.width, 0.02)
    return np.asarray(0.22 * bone, np.float32)


def _heart(body: _Body, x: Grey, y: Grey) -> Grey:
    """A tilted egg left of the middle (right in the picture), the arch of the aorta above it."""
    dx, dy = x - 0.055, y - body.heart_down
    along, across = 0.82 * dx + 0.57 * dy, -0.57 * dx + 0.82 * dy
    egg = np.sqrt((along / (1.15 * body.heart)) ** 2 + (across / (0.82 * body.heart)) ** 2) - 1
    arch = np.sqrt(((x - 0.035) / 0.045) ** 2 + ((y + 0.14) / 0.06) ** 2) - 1
    middle = _soft(np.abs(x) - body.gap - 0.012, 0.012) * _soft(body.lung_top - y, 0.02)
    shadow = np.maximum(_soft(egg, 0.05), np.maximum(0.75 * _soft(arch, 0.12), 0.8 * middle))
    return np.asarray(0.72 * shadow, np.float32)


def _vessels(dice: _Dice, body: _Body, x: Grey, y: Grey) -> Grey:
    """Branches that leave the root of each lung and get thinner."""
    total = np.zeros_like(x)
    for side in (-1, 1):
        root_x, root_y = side * (body.gap + 0.035), dice.uniform(-0.07, -0.02)
        dx, dy = (x - root_x) * side, y - root_y
        distance = np.sqrt(dx**2 + dy**2) + 1e-4
        angle = np.arctan2(dy, dx) + 0.15 * np.sin(18 * distance + dice.uniform(0, 6))
        for _ in range(9):
            towards, thick = dice.uniform(-1.2, 1.35), dice.uniform(0.006, 0.013)
            off = distance * np.sin(angle - towards)
            ahead = np.cos(angle - towards) > 0
            width = thick * np.clip(1 - distance / 0.30, 0.15, 1)
            total += np.exp(-((off / width) ** 2)) * ahead * np.exp(-distance / 0.15) * 0.2
        total += 0.12 * np.exp(-((distance / 0.05) ** 2))
    return np.asarray(0.32 * np.tanh(total / 0.32), np.float32)


def _haze(dice: _Dice, lungs: Grey) -> Grey:
    """What every lung has: uneven density, and sometimes a bad breath that makes both bases grey."""
    cloud = _smooth(dice, lungs.shape, 10) * dice.uniform(0.02, 0.09)
    rows = np.linspace(0, 1, lungs.shape[0], dtype=np.float32)[:, None]
    base = dice.uniform(0, 0.16) * np.clip((rows - 0.45) / 0.35, 0, 1)
    return np.asarray((cloud + base) * lungs, np.float32)


def _smooth(dice: _Dice, shape: tuple[int, ...], cells: int) -> Grey:
    """A random field of about `cells` bumps a side, mean 0, deviation about 1."""
    coarse = Pillow.fromarray(dice.normal((cells, cells)))
    return np.asarray(coarse.resize((shape[1], shape[0]), Pillow.Resampling.BICUBIC), np.float32)


def _opacities(dice: _Dice, body: _Body, x: Grey, y: Grey) -> Grey:
    """A haze over one lung or both, denser below, and two to four soft patches in it; barely visible to dense."""
    severity = dice.uniform(0.2, 1.0)
    texture = np.clip(0.8 + 0.35 * _smooth(dice, x.shape, 26), 0.1, 1.6)
    depth = np.clip((y - body.lung_top) / (body.lung_bottom - body.lung_top), 0, 1)
    main = 1 if dice.below(2) else -1
    other = dice.uniform(0.3, 1.0)
    sides = np.where(x * main > 0, 1.0, other)
    total = severity * 0.34 * sides * _soft(dice.uniform(0.25, 0.5) - depth, 0.12)
    for _ in range(2 + dice.below(3)):
        side = main if dice.uniform(0, 1 + other) < 1 else -main
        total = np.maximum(total, severity * _patch(dice, body, x, y, side))
    return np.asarray(total * texture, np.float32)


def _patch(dice: _Dice, body: _Body, x: Grey, y: Grey, side: int) -> Grey:
    """One soft, ragged, turned ellipse in the lung on `side`."""
    middle_x = side * (body.gap + body.lung_half * dice.uniform(0.4, 1.3))
    middle_y = body.lung_top + (body.lung_bottom - body.lung_top) * dice.uniform(0.35, 0.85)
    wide, high, turn = dice.uniform(0.07, 0.14), dice.uniform(0.06, 0.12), dice.uniform(0, math.pi)
    dx, dy = x - middle_x, y - middle_y
    a, b = dx * math.cos(turn) + dy * math.sin(turn), -dx * math.sin(turn) + dy * math.cos(turn)
    rough = np.sqrt((a / wide) ** 2 + (b / high) ** 2) + 0.25 * _smooth(dice, x.shape, 12)
    return np.asarray(dice.uniform(0.35, 0.7) * _soft(rough - 1, 0.25), np.float32)


def _exposed(dice: _Dice, body: _Body, attenuation: Grey) -> Grey:
    """Beer and Lambert's law, then the film's curve, blur of the screen and grain."""
    gain, offset = dice.uniform(0.9, 1.25), dice.uniform(-0.06, 0.06)
    grey = 1 - np.exp(-1.25 * gain * np.clip(attenuation, 0, None))
    blurred = _blur(_blur(grey, share := dice.uniform(0.1, 0.3)).T, share).T
    grain = dice.normal(grey.shape) * dice.uniform(0.008, 0.022)
    return np.clip((blurred + offset + grain) * 1.05, 0.0, 1.0)


def _blur(grey: Grey, share: float) -> Grey:
    """Each row gets `share` of the row above and of the row below."""
    around = np.pad(grey, ((1, 1), (0, 0)), mode="edge")
    return np.asarray((1 - 2 * share) * grey + share * (around[:-2] + around[2:]), np.float32)


def _write(target: Path, number: int, visit: int, picture: Grey, dice: _Dice) -> None:
    """PNG and JPEG carry the patient in their name, DICOM (half of all, without an ending) in PatientID."""
    kind = dice.below(4)
    if kind >= 2:
        _write_dicom(target / f"I{number:04d}{visit}", f"P{number:04d}", picture, inverted=kind == 3)
        return
    name = f"P{number:04d}_{visit}"
    shown = Pillow.fromarray((picture * 255).round().astype(np.uint8))
    if kind == 0:
        shown.save(target / f"{name}.png")
    else:
        shown.save(target / f"{name}.jpeg", quality=90)


def _write_dicom(path: Path, patient: str, picture: Grey, *, inverted: bool) -> None:
    """A CR image of 12 bits, explicit little endian, window over all values; MONOCHROME1 if `inverted`."""
    stored = (picture * 4095).round().astype(np.uint16)
    if inverted:
        stored = np.uint16(4095) - stored
    uid = _UID_ROOT + str(int.from_bytes(hashlib.sha256(path.name.encode()).digest()[:15], "big"))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.MediaStorageSOPClassUID, dataset.file_meta.MediaStorageSOPInstanceUID = _CR, uid
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    for name, value in _elements(uid, patient, stored, inverted).items():
        setattr(dataset, name, value)
    dataset.save_as(path, enforce_file_format=True)


def _elements(uid: str, patient: str, stored: npt.NDArray[np.uint16], inverted: bool) -> dict[str, Any]:
    return {
        "SOPClassUID": _CR,
        "SOPInstanceUID": uid,
        "StudyInstanceUID": uid + "1",
        "SeriesInstanceUID": uid + "2",
        "Modality": "CR",
        "Manufacturer": "Primum (a drawing, no patient)",
        "PatientName": "Drawn^" + patient,
        "PatientID": patient,
        "BodyPartExamined": "CHEST",
        "ViewPosition": "PA",
        "BurnedInAnnotation": "NO",
        "ImagerPixelSpacing": [1.7, 1.7],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME1" if inverted else "MONOCHROME2",
        "Rows": stored.shape[0],
        "Columns": stored.shape[1],
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        "WindowCenter": 2048,
        "WindowWidth": 4096,
        "PixelData": stored.astype("<u2").tobytes(),
    }
