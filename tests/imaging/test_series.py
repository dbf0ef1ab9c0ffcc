"""DICOM series: ordered by place, the same as a NIfTI of the patient, and refused by the name of the file at fault."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.imaging.samples import WHEEL, dicom, png
from tests.imaging.volumes import AXIAL, CORONAL, body, enhanced, flips, grid_of, nifti, oblique, places, series

from primum.errors import DataError
from primum.imaging import Preparation, read_slices, read_volume

HEAD_FIRST_BACKWARDS = (-1, 0, 0, 0, 1, 0)
SAGITTAL = (0, 1, 0, 0, 0, -1)
TURNS = {
    "axial": AXIAL,
    "backwards": HEAD_FIRST_BACKWARDS,
    "coronal": CORONAL,
    "sagittal": SAGITTAL,
    "tipped": oblique(),
}


@pytest.mark.parametrize("turn", TURNS.values(), ids=TURNS)
def test_a_series_and_a_nifti_of_one_patient_are_the_same_volume(tmp_path: Path, turn: tuple[float, ...]) -> None:
    series(tmp_path / "s", body(), turn)
    one = read_volume(tmp_path / "s")
    affine = np.diag([-1, -1, 1, 1]) @ grid_of(turn)
    other = read_volume(nifti(tmp_path / "a.nii", body(), affine))
    assert np.array_equal(one.values, other.values) and np.allclose(one.affine, other.affine, atol=1e-4)
    assert one.hounsfield and other.hounsfield and one.format == "DICOM series" and one.notices == ()
    assert one.spacing == pytest.approx(other.spacing)


def test_axial_slices_are_shown_as_they_are_stored(tmp_path: Path) -> None:
    series(tmp_path, body())
    volume = read_volume(tmp_path)
    assert np.array_equal(volume.values, body()) and np.allclose(volume.affine, grid_of(AXIAL))


def test_places_order_the_slices_and_names_do_not(tmp_path: Path) -> None:
    files = series(tmp_path / "a", body())
    (tmp_path / "b" / "deeper").mkdir(parents=True)
    for place, file in enumerate(files):
        (tmp_path / "b" / ("deeper" if place % 2 else ".") / f"{99 - place}").write_bytes(file.read_bytes())
    (tmp_path / "b" / "DICOMDIR").write_bytes(b"index")
    assert np.array_equal(read_volume(tmp_path / "a").values, read_volume(tmp_path / "b").values)


def test_an_enhanced_file_is_the_same_as_its_series(tmp_path: Path) -> None:
    series(tmp_path / "s", body(), oblique())
    one, other = read_volume(tmp_path / "s"), read_volume(enhanced(tmp_path / "e", body(), oblique()))
    assert np.array_equal(one.values, other.values) and np.allclose(one.affine, other.affine, atol=1e-4)
    assert other.hounsfield and other.patient is None


def test_slope_and_intercept_of_each_slice_count(tmp_path: Path) -> None:
    files = series(tmp_path, body(), Modality="PT")
    changed = pydicom.dcmread(files[2])
    changed.RescaleSlope, changed.RescaleIntercept = 2, -2048
    changed.save_as(files[2])
    values = read_volume(tmp_path).values
    assert np.array_equal(values[1], body()[1]) and np.array_equal(values[2], 2.0 * body()[2])


def test_a_monochrome1_twin_of_a_series_gives_the_same_slices(tmp_path: Path) -> None:
    """The stored values turned around, and the way they are to be shown too."""
    window = {
        "Modality": "MR",
        "RescaleSlope": None,
        "RescaleIntercept": None,
        "WindowCenter": 1064.5,
        "WindowWidth": 400,
    }
    series(tmp_path / "a", body(), **window)
    twin = {**window, "WindowCenter": 4095 - 1064.5 + 1, "PhotometricInterpretation": "MONOCHROME1"}
    series(tmp_path / "b", 4095 - 2048 - body(), **twin)
    for intensity in ("display", "stretch", "clahe"):
        one, other = (read_slices(tmp_path / name, Preparation(16, intensity=intensity)) for name in "ab")  # type: ignore[arg-type]
        assert all(np.abs(a.pixels - b.pixels).max() < 0.01 for a, b in zip(one, other, strict=True))
    assert np.abs(one[2].pixels - (1 - other[2].pixels)).max() > 0.1


def test_only_what_places_and_pixels_need_is_required(tmp_path: Path) -> None:
    """No study, dates, names, numbers, classes: whatever an anonymiser may have removed; one file without preamble."""
    files = series(tmp_path / "s", body())
    whole = read_volume(tmp_path / "s")
    for file in files:
        _change(file, SOPClassUID=None, SOPInstanceUID=None, SeriesInstanceUID=None, Modality=None)
    files[1].write_bytes(files[1].read_bytes()[132:])
    bare = read_volume(tmp_path / "s")
    assert np.array_equal(bare.values, whole.values) and np.allclose(bare.affine, whole.affine)
    assert bare.patient is None


def test_a_tilted_gantry_is_said_and_its_grid_is_sheared(tmp_path: Path) -> None:
    corners = places(AXIAL, 5, 3.0) + np.arange(5)[:, None] * [0, 0.7, 0]
    series(tmp_path, body(), corners=corners)
    volume = read_volume(tmp_path)
    assert "tilted gantry" in volume.notices[0] and np.allclose(volume.affine[:3, 0], [0, 0.7, 3])


def test_windows_polarity_padding_and_patient(tmp_path: Path) -> None:
    padded = body().copy()
    padded[:, :3] = -1024
    series(
        tmp_path / "a", padded, WindowCenter=40, WindowWidth=400, PixelPaddingValue=0, PatientID="Anna^Secret",
        PhotometricInterpretation="MONOCHROME1",
    )  # fmt: skip
    volume = read_volume(tmp_path / "a")
    assert volume.window == (40, 400, "LINEAR") and volume.inverted and volume.patient == "Anna^Secret"
    assert volume.values.min() == body()[:, 3:].min() and "Secret" not in repr(volume)
    files = series(tmp_path / "b", body(), WindowCenter=40, WindowWidth=400)
    other = pydicom.dcmread(files[0])
    other.WindowCenter = 50
    other.save_as(files[0])
    assert read_volume(tmp_path / "b").window is None


def _change(file: Path, **elements: Any) -> None:
    dataset = pydicom.dcmread(file)
    for name, value in elements.items():
        if value is None:
            del dataset[name]
        else:
            setattr(dataset, name, value)
    dataset.save_as(file)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ImageOrientationPatient": list(CORONAL)}, "{} has another orientation"),
        ({"ImagePositionPatient": [-30, -40, 103.05]}, "IM\\d+ and {}|{} and IM\\d+"),
        ({"ImagePositionPatient": [-30, -40, 107.5]}, "lie at the same place|mm, elsewhere"),
        ({"ImagePositionPatient": [-12, -40, 106]}, "is shifted against"),
        ({"ImagePositionPatient": None}, "{} lacks ImagePositionPatient"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "{} has a PixelSpacing or"),
        ({"PixelSpacing": [2, 1.6]}, "{} has another spacing"),
        ({"PixelSpacing": ""}, "{} lacks PixelSpacing"),
        ({"SeriesInstanceUID": "1.2.10"}, "{} is of another series"),
        ({"PatientID": "another"}, "{} is of another patient"),
        ({"PhotometricInterpretation": "MONOCHROME1"}, "{} has another polarity"),
        ({"PixelData": b"12"}, "{} is damaged"),
        ({"Rows": 6}, "{} has another number of rows"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mixtures_are_refused_by_name(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    files = series(tmp_path, body())
    _change(files[2], **change)
    with pytest.raises(DataError, match=words.format(files[2].name, files[2].name)) as caught:
        read_volume(tmp_path)
    assert caught.value.hint and "another" not in caught.value.hint.split()[-1:]


def test_gaps_and_duplicates_are_refused_by_name(tmp_path: Path) -> None:
    files = series(tmp_path, body(shape=(8, 6, 5)))
    (tmp_path / "copy").write_bytes(files[3].read_bytes())
    with pytest.raises(DataError, match=f"copy.*{files[3].name}|{files[3].name}.*copy") as caught:
        read_volume(tmp_path)
    assert "lie at the same place" in caught.value.message
    (tmp_path / "copy").unlink()
    files[3].unlink()
    with pytest.raises(DataError, match=rf"between {files[2].name} and {files[4].name} are 6.00 mm, elsewhere 3.00 mm"):
        read_volume(tmp_path)


def test_other_files_in_the_folder_are_refused_by_name(tmp_path: Path) -> None:
    series(tmp_path, body())
    png(tmp_path / "shown.png")
    with pytest.raises(DataError, match=r"shown\.png is no DICOM file"):
        read_volume(tmp_path)
    (tmp_path / "shown.png").unlink()
    (tmp_path / "report.dcm").write_bytes((WHEEL / "reportsi.dcm").read_bytes())
    with pytest.raises(DataError, match=r"report\.dcm has no rows"):
        read_volume(tmp_path)


def test_one_slice_no_slice_and_frames_without_a_place(tmp_path: Path, real_data: Path | None) -> None:
    one = series(tmp_path / "one", body()[:1], SliceThickness=4)
    assert read_volume(one[0]).spacing == (4, 2, 1.5)
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="has no slices"):
        read_volume(tmp_path / "none")
    with pytest.raises(DataError, match=r"^lacks ImagePositionPatient"):
        read_volume(dicom(tmp_path / "plain.dcm"))
    if real_data is not None:
        with pytest.raises(DataError, match="lacks ImagePositionPatient"):
            read_volume(real_data / "dicom" / "emri_small.dcm")


def test_the_series_of_the_wheel(tmp_path: Path) -> None:
    """CT slices of the pydicom wheel: those of one series and size, without an ending, from a DICOMDIR's folder."""
    found: dict[str, list[Path]] = {}
    for path in (WHEEL / "dicomdirtests").rglob("*"):
        if path.is_file() and not path.name.startswith("README") and not path.name.startswith("DICOMDIR"):
            found.setdefault(str(pydicom.dcmread(path).SeriesInstanceUID), []).append(path)
    read = 0
    for number, files in enumerate(found.values()):
        for file in files:
            target = tmp_path / str(number) / file.name
            target.parent.mkdir(exist_ok=True)
            target.write_bytes(file.read_bytes())
        try:
            volume = read_volume(tmp_path / str(number))
        except DataError as error:
            assert error.hint
        else:
            read += 1
            assert len(files) in volume.values.shape
    assert read >= 3


def test_claims_of_many_frames_are_refused_before_they_are_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="claims 1000000 frames"):
        read_volume(enhanced(tmp_path / "a", body(), NumberOfFrames=1_000_000))


@settings(max_examples=120)
@given(st.integers(0, 1 << 30), st.integers(1, 10), st.booleans())
def test_changed_bytes_give_a_volume_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, many: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "fuzzed"
    if not folder.exists():
        series(folder / "series", body()[:3])
        enhanced(folder / "many", body())
    whole = folder / "many" if many else sorted((folder / "series").iterdir())[1]
    before = whole.read_bytes()
    target = folder / "changed" if many else whole
    try:
        target.write_bytes(flips(before, seed, count))
        volume = read_volume(target if many else folder / "series")
    except DataError as error:
        assert error.hint and "\n" not in error.message
    else:
        assert np.isfinite(volume.values).all() and volume.values.size < 1 << 20
    finally:
        if not many:
            whole.write_bytes(before)
