"""Masks painted over pictures, as PNG and as secondary capture."""

import stat
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image as Pillow
from tests.imaging.result_samples import ALGORITHM, PATIENT, mask_of, radiograph, rotation, series

from primum.errors import DataError
from primum.imaging.image import Picture
from primum.imaging.results_files import new_uid
from primum.imaging.results_overlay import COLOURS, paint, write_overlay_capture, write_overlay_png

CLASSES = ("background", "lung", "tumour")


def _picture(rows: int = 700, columns: int = 640, channels: int = 1) -> Picture:
    ramp = np.linspace(0, 1, columns, dtype=np.float32)
    return Picture(np.broadcast_to(ramp, (channels, rows, columns)).copy(), "PNG", patient="SECRET-4711")


def _mask(rows: int = 700, columns: int = 640) -> np.ndarray:
    mask = np.zeros((rows, columns), np.uint8)
    mask[100:300, 100:300], mask[400:600, 100:500] = 1, 2
    return mask


@pytest.mark.parametrize("channels", [1, 3])
def test_background_stays_and_classes_are_coloured(channels: int) -> None:
    picture, mask = _picture(channels=channels), _mask()
    painted = paint(picture, mask, CLASSES, ALGORITHM)
    assert painted.dtype == np.uint8 and painted.shape[1:] == (640, 3) and painted.shape[0] > 700
    grey = (picture.values[0] * 255).round()
    np.testing.assert_array_equal(painted[:700][mask == 0], np.repeat(grey[mask == 0][:, None], 3, 1))
    for number in (1, 2):
        inside = mask == number
        np.testing.assert_array_equal(painted[np.argwhere(inside)[0][0], 200], COLOURS[number - 1])
        middle = tuple(np.argwhere(inside).mean(axis=0).astype(int))
        mixed = 0.7 * grey[middle] + 0.3 * np.asarray(COLOURS[number - 1])
        np.testing.assert_allclose(painted[middle], mixed, atol=1)


def test_a_small_picture_is_enlarged_without_smoothing() -> None:
    values = np.arange(28 * 20, dtype=np.float32).reshape(1, 28, 20) / 600
    painted = paint(Picture(values, "PNG"), np.zeros((28, 20), np.uint8), CLASSES, ALGORITHM)
    times = 512 // 28 + 1
    left = (painted.shape[1] - 20 * times) // 2
    shown = painted[: 28 * times, left : left + 20 * times, 0].reshape(28, times, 20, times)
    assert (shown == (values[0] * 255).round()[:, None, :, None]).all()


def test_the_legend_names_every_class_and_grows_with_them() -> None:
    heights = [
        paint(_picture(), _mask(), CLASSES + extra, ALGORITHM).shape[0] for extra in ((), ("a",), ("a", "b" * 60))
    ]
    assert heights[0] < heights[1] < heights[2]
    many = tuple(f"class {number}" for number in range(11))
    painted = paint(_picture(), (_mask() * 5).astype(np.uint8), many, ALGORITHM)
    legend = painted[700:].reshape(-1, 3)
    assert all((legend == colour).all(axis=1).any() for colour in COLOURS)
    edge = painted[400, 100:500]
    dashes = (edge == COLOURS[(10 - 1) % len(COLOURS)]).all(axis=1)
    assert 0.3 < dashes.mean() < 0.7, "the tenth class has a broken contour"


def test_png_holds_nothing_but_the_picture(tmp_path: Path) -> None:
    out = tmp_path / "overlay.png"
    write_overlay_png(_picture(), _mask(), CLASSES, ALGORITHM, out)
    with Pillow.open(out) as opened:
        assert opened.mode == "RGB" and not opened.info and not opened.getexif()
        np.testing.assert_array_equal(np.asarray(opened), paint(_picture(), _mask(), CLASSES, ALGORITHM))
    assert b"SECRET" not in out.read_bytes() and stat.S_IMODE(out.stat().st_mode) == 0o600
    with pytest.raises(DataError, match="exists"):
        write_overlay_png(_picture(), _mask(), CLASSES, ALGORITHM, out)
    for mask, words in ((_mask()[1:], "699 x 640"), (_mask()[None], "one slice"), (_mask() * 2, "none of 3 classes")):
        with pytest.raises(DataError, match=words):
            write_overlay_png(_picture(), mask, CLASSES, ALGORITHM, tmp_path / "other.png")
    assert not (tmp_path / "other.png").exists()


def test_a_capture_refers_to_its_source_and_warns(tmp_path: Path) -> None:
    source = radiograph(tmp_path / "chest.dcm")
    write_overlay_capture(source, mask_of((40, 30), 3), CLASSES, ALGORITHM, tmp_path / "capture.dcm")
    found, before = pydicom.dcmread(tmp_path / "capture.dcm"), pydicom.dcmread(source)
    assert found.SOPClassUID == pydicom.uid.SecondaryCaptureImageStorage and found.Modality == "OT"
    assert found.PhotometricInterpretation == "RGB" and found.pixel_array.shape[2] == 3
    reference = found.SourceImageSequence[0]
    assert reference.ReferencedSOPInstanceUID == before.SOPInstanceUID
    assert reference.ReferencedSOPClassUID == before.SOPClassUID
    assert found.StudyInstanceUID == before.StudyInstanceUID and found.SeriesInstanceUID != before.SeriesInstanceUID
    for words in (found.SeriesDescription, found.DerivationDescription, found.ImageComments):
        assert "NOT FOR DIAGNOSIS" in words
    assert found.BurnedInAnnotation == "YES" and found.PatientOrientation == ["L", "F"]
    assert ALGORITHM.digest in found.ImageComments and found.DeviceSerialNumber == ALGORITHM.digest
    assert str(found.PatientName) == PATIENT["PatientName"] and "PixelSpacing" not in found


def test_captures_of_a_volume_are_one_series(tmp_path: Path) -> None:
    files, _ = series(tmp_path, rotation(0.2, 0.1, -0.3))
    shared, mask = new_uid(), mask_of((5, 10, 12), 3)
    outs = [tmp_path / f"capture{number}.dcm" for number in range(3)]
    for number, out in enumerate(outs):
        write_overlay_capture(files[number], mask[number], CLASSES, ALGORITHM, out, series=shared, number=number + 1)
    found = [pydicom.dcmread(out) for out in outs]
    assert {str(item.SeriesInstanceUID) for item in found} == {shared}
    assert [item.InstanceNumber for item in found] == [1, 2, 3]
    assert len({item.SOPInstanceUID for item in found}) == 3 and found[0].PatientOrientation == ["L", "P"]


def test_a_capture_of_the_wrong_size_names_its_source(tmp_path: Path) -> None:
    source = radiograph(tmp_path / "chest.dcm")
    with pytest.raises(DataError, match=r"chest\.dcm: the mask has 30 x 40"):
        write_overlay_capture(source, mask_of((30, 40), 3), CLASSES, ALGORITHM, tmp_path / "capture.dcm")
