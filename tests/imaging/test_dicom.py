"""DICOM: the zoo of the pydicom wheel and of the real files, and one made file for each rule of the pipeline."""

from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.pixels import apply_windowing, convert_color_space
from pydicom.sequence import Sequence
from tests.imaging.samples import WHEEL, dicom, grey
from tests.imaging.volumes import flips

from primum.errors import DataError
from primum.imaging import Preparation, read_image
from primum.imaging.intensity import stretch, window
from primum.imaging.reader import decode
from primum.imaging.stored import _DESCRIBING, frame, open_dicom

READABLE = [
    "CT_small.dcm", "MR_small.dcm", "MR_small_RLE.dcm", "MR_small_bigendian.dcm", "MR_small_expb.dcm",
    "MR_small_implicit.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm", "MR_small_padded.dcm",
    "693_J2KI.dcm", "J2K_pixelrep_mismatch.dcm", "JPEG2000.dcm", "JPEGLSNearLossless_08.dcm", "image_dfl.dcm", "JPGExtended.dcm",
    "JPEGLSNearLossless_16.dcm", "examples_overlay.dcm", "dicomdirtests/77654033/CR1/6154",
]  # fmt: skip
COLOUR = [
    "examples_rgb_color.dcm", "examples_ybr_color.dcm", "examples_palette.dcm", "examples_jpeg2k.dcm",
    "SC_rgb_jpeg_dcmtk.dcm", "SC_rgb_rle_16bit.dcm", "SC_rgb_jpeg_gdcm.dcm", "SC_ybr_full_422_uncompressed.dcm",
]  # fmt: skip
SET_ASIDE = {
    "MR_truncated.dcm": "cut off",
    "reportsi.dcm": "without pixels",
    "test-SR.dcm": "without pixels",
    "rtstruct.dcm": "without pixels",
    "rtplan.dcm": "without pixels",
    "waveform_ecg.dcm": "without pixels",
    "liver_1frame.dcm": "mask",
    "rtdose.dcm": "dose",
    "DICOMDIR-nopatient": "DICOMDIR",
    "zipMR.gz": "gzip",
    "rtplan.dump": "not an image",
}


def _wheel(name: str) -> Path:
    path = WHEEL / name
    return path if path.is_file() else next(WHEEL.parent.rglob(Path(name).name))


@pytest.mark.parametrize("name", READABLE)
def test_readable_files_of_the_wheel(name: str) -> None:
    image = read_image(_wheel(name), Preparation(size=32))
    assert image.pixels.shape == (1, 32, 32) and image.pixels.dtype == np.float32
    assert 0 <= image.pixels.min() < image.pixels.max() <= 1
    assert image.patient is None


@pytest.mark.parametrize("name", COLOUR)
def test_colour_is_read_as_colour_and_refused_as_grey(name: str) -> None:
    assert read_image(_wheel(name), Preparation(size=32, channels=3)).pixels.shape == (3, 32, 32)
    with pytest.raises(DataError, match="is in colour, grey is asked"):
        read_image(_wheel(name), Preparation(size=32))


@pytest.mark.parametrize(("name", "reason"), SET_ASIDE.items())
def test_what_is_no_picture_is_refused_with_its_reason(name: str, reason: str) -> None:
    with pytest.raises(DataError, match=reason) as caught:
        read_image(_wheel(name), Preparation())
    assert name in caught.value.message and caught.value.hint


def test_every_file_of_the_wheel_is_read_or_refused_in_words() -> None:
    read = refused = 0
    for path in sorted(WHEEL.rglob("*")):
        if not path.is_file():
            continue
        try:
            values = decode(path).values
        except DataError as error:
            assert error.hint and "\n" not in error.message
            refused += 1
        else:
            assert values.dtype == np.float32 and 0 <= values.min() < values.max() <= 1
            read += 1
    assert read > 70 and refused > 30


def test_compressions_of_one_picture_agree() -> None:
    plain = decode(_wheel("MR_small.dcm")).values
    for name in ("MR_small_RLE", "MR_small_jp2klossless", "MR_small_jpeg_ls_lossless", "MR_small_bigendian"):
        assert np.array_equal(decode(_wheel(f"{name}.dcm")).values, plain)


def test_jpeg_extended_of_12_bits(real_data: Path | None) -> None:
    """The values that another decoder (libjpeg) finds in the file of the wheel, as pydicom's own tests have them."""
    stored = frame(open_dicom(_wheel("JPGExtended.dcm")))
    assert stored.dtype == np.uint16 and stored.shape == (1024, 256)
    assert (stored[420, 140], stored[230, 120]) == (244, 95)
    if real_data is not None:
        hip = frame(open_dicom(real_data / "dicom" / "RG2_JPLY.dcm"))
        assert hip.shape == (2140, 1760) and hip.max() == 960
        assert np.abs(np.diff(hip.astype(int), axis=1)).mean() < 10  # a picture, not noise


@pytest.mark.parametrize("kind", ["i1", "u1", "i2", "u2", "i4", "u4", "f4", "f8"])
def test_values_of_8_to_32_bits_and_floating(tmp_path: Path, kind: str) -> None:
    """One picture in every width shows the same levels."""
    levels = grey("width", top=120).astype(kind)
    elements: dict[str, Any] = {}
    if kind.startswith("f"):
        name = "FloatPixelData" if kind == "f4" else "DoubleFloatPixelData"
        elements = {"PixelData": None, name: levels.tobytes(), "BitsStored": None, "HighBit": None,
                    "PixelRepresentation": None}  # fmt: skip
    shown = decode(dicom(tmp_path / "a", levels, WindowCenter=60.5, WindowWidth=121, **elements)).values
    assert np.allclose(shown[0], levels / 120, atol=1e-6)


@pytest.mark.parametrize("bits", [1, 4, 9, 10, 12, 14, 15])
def test_few_bits_stored_in_many(tmp_path: Path, bits: int) -> None:
    levels = grey("few", top=2**bits - 1).astype(np.uint16)
    path = dicom(tmp_path / "a", levels, BitsStored=bits, HighBit=bits - 1)
    assert np.allclose(decode(path).values[0], stretch(levels.astype(np.float64)))


def test_palette_and_ybr_show_the_colours_of_rgb(tmp_path: Path) -> None:
    numbers = grey("palette", top=7).astype(np.uint8)
    table = np.array(
        [[0, 10, 20], [255, 0, 0], [0, 255, 0], [0, 0, 255], [9, 99, 199], [77, 7, 0], [1, 2, 3], [255, 255, 255]]
    )
    colours = table[numbers].astype(np.uint8)
    rgb: dict[str, Any] = {
        "SamplesPerPixel": 3,
        "PlanarConfiguration": 0,
        "BitsStored": 8,
        "BitsAllocated": 8,
        "HighBit": 7,
    }
    plain = decode(dicom(tmp_path / "rgb", colours, PhotometricInterpretation="RGB", **rgb)).values
    assert np.allclose(plain, colours.transpose(2, 0, 1) / 255)
    planes = np.ascontiguousarray(colours.transpose(2, 0, 1))
    path = dicom(
        tmp_path / "planes", planes, PhotometricInterpretation="RGB", **{**rgb, "PlanarConfiguration": 1},
        Rows=planes.shape[1], Columns=planes.shape[2],
    )  # fmt: skip
    assert np.array_equal(decode(path).values, plain)
    ybr = convert_color_space(colours, "RGB", "YBR_FULL")
    shown = decode(dicom(tmp_path / "ybr", ybr, PhotometricInterpretation="YBR_FULL", **rgb)).values
    assert np.abs(shown - plain).max() < 0.02
    tables: dict[str, Any] = {}
    for place, name in enumerate(("Red", "Green", "Blue")):
        tables[f"{name}PaletteColorLookupTableDescriptor"] = [8, 0, 16]
        tables[f"{name}PaletteColorLookupTableData"] = (table[:, place] * 257).astype("<u2").tobytes()
    shown = decode(dicom(tmp_path / "palette", numbers, PhotometricInterpretation="PALETTE COLOR", **tables)).values
    assert np.allclose(shown, plain, atol=1e-6)


@settings(max_examples=200)
@given(st.integers(0, 1 << 30), st.integers(1, 10), st.sampled_from(["MR_small_RLE", "MR_small_jp2klossless", "CT_small",
    "SC_rgb_small_odd_jpeg", "MR_small_bigendian", "SC_ybr_full_422_uncompressed", "MR_small_jpeg_ls_lossless"]))  # fmt: skip
def test_changed_bytes_give_a_picture_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, name: str
) -> None:
    path = tmp_path_factory.getbasetemp() / "changed dicom"
    path.write_bytes(flips(_wheel(f"{name}.dcm").read_bytes(), seed, count))
    try:
        values = decode(path).values
    except DataError as error:
        assert error.hint and "\n" not in error.message
    else:
        assert np.isfinite(values).all() and 0 <= values.min() < values.max() <= 1


def test_several_frames_take_the_first_and_say_so() -> None:
    picture = decode(_wheel("examples_ybr_color.dcm"))
    assert picture.notices == ("first of 30 frames",)


def test_real_files(real_data: Path | None) -> None:
    if real_data is None:
        return
    zoo = real_data / "dicom"
    one, two, three = (decode(zoo / f"CT1_{name}.dcm").values for name in ("JPLL", "JLSL", "RLE"))
    assert np.array_equal(one, two) and np.array_equal(one, three)
    assert one[0, 0, 0] == 0  # padding (-2000) is black
    assert decode(zoo / "emri_small.dcm").notices == ("first of 10 frames",)
    assert decode(zoo / "made_jpeg_named.dcm").format == "JPEG"
    assert decode(zoo / "wrong_extension_RG3_J2KI.jpg").format == "DICOM"
    assert decode(zoo / "made_no_preamble_mr.dcm").values.shape == (1, 64, 64)
    for name, reason in {"liver.dcm": "mask", "made_truncated_RG1.dcm": "cut off"}.items():
        with pytest.raises(DataError, match=reason):
            decode(zoo / name)


@pytest.mark.parametrize("view", [{}, {"WindowCenter": 2048, "WindowWidth": 3000}], ids=["percentiles", "window"])
def test_monochrome1_twin_gives_the_same_tensor(tmp_path: Path, view: dict[str, Any]) -> None:
    stored = grey("twin", top=4095)
    shared: dict[str, Any] = {"BitsStored": 12, "HighBit": 11, **view}
    dicom(tmp_path / "a", stored, **shared)
    dicom(tmp_path / "b", np.uint16(4095) - stored, PhotometricInterpretation="MONOCHROME1", **shared)
    a, b = (read_image(tmp_path / name, Preparation()).pixels for name in "ab")
    assert np.abs(a - b).max() < 1e-6
    assert np.abs(a - (1 - b)).max() > 0.1


def test_real_monochrome1_twin(real_data: Path | None) -> None:
    """The two files share one window, whose middle is 10 of 8180 steps off the middle of the values."""
    if real_data is None:
        return
    names = ("made_dx_monochrome2_12bit_rescale.dcm", "made_dx_monochrome1_12bit_rescale.dcm")
    a, b = (read_image(real_data / "dicom" / name, Preparation()).pixels for name in names)
    assert np.abs(a - b).max() < 10 / 8180 + 2e-4
    assert np.abs(a - (1 - b)).max() > 0.1


def test_the_dicom_copy_of_a_jpeg_gives_the_picture_of_the_jpeg(real_data: Path | None) -> None:
    if real_data is None:
        return
    jpeg = real_data / "chest/test/PNEUMONIA/person1020_virus_1710.jpeg"
    copy = real_data / "dicom/made_dx_monochrome2_12bit_rescale.dcm"
    a, b = (read_image(path, Preparation(intensity="stretch")).pixels for path in (jpeg, copy))
    assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.999


def test_window_after_rescale(tmp_path: Path) -> None:
    stored = np.array([[0, 10, 20], [30, 40, 60]], np.uint16)
    path = dicom(tmp_path / "a", stored, RescaleSlope=2, RescaleIntercept=-10, WindowCenter=30.5, WindowWidth=41)
    assert np.allclose(decode(path).values[0], [[0, 0, 0.5], [1, 1, 1]])


def test_negative_slope_turns_the_picture_around(tmp_path: Path) -> None:
    stored = grey("slope")
    up = decode(dicom(tmp_path / "up", stored)).values
    down = decode(dicom(tmp_path / "down", stored, RescaleSlope=-1, RescaleIntercept=255)).values
    assert np.allclose(up, 1 - down, atol=1e-6)


def test_without_window_percentiles_and_without_padding(tmp_path: Path) -> None:
    stored = grey("padding", top=1000).astype(np.int16)
    padded = stored.copy()
    padded[:, :6] = -2000
    picture = decode(dicom(tmp_path / "a", padded, PixelPaddingValue=-2000)).values[0]
    assert np.all(picture[:, :6] == 0)
    assert np.allclose(picture[:, 6:], stretch(stored[:, 6:].astype(np.float64)))


def test_padding_is_black_in_monochrome1_too(tmp_path: Path) -> None:
    stored = grey("padding", top=1000).astype(np.int16)
    stored[:, :6] = -2000
    path = dicom(tmp_path / "a", stored, PixelPaddingValue=-2000, PhotometricInterpretation="MONOCHROME1")
    assert np.all(decode(path).values[0, :, :6] == 0)


def test_a_window_that_shows_nothing_is_not_used(tmp_path: Path) -> None:
    picture = decode(dicom(tmp_path / "a", grey("far"), WindowCenter=90000, WindowWidth=10))
    assert picture.values.max() == 1 and "window shows nothing" in picture.notices[0]


@pytest.mark.parametrize("width", [0, -20])
def test_a_window_without_a_width_is_not_used_and_said(tmp_path: Path, width: int) -> None:
    picture = decode(dicom(tmp_path / "a", grey("narrow"), WindowCenter=100, WindowWidth=width))
    assert np.array_equal(picture.values, decode(dicom(tmp_path / "b", grey("narrow"))).values)
    assert picture.notices == ("its window is none that DICOM allows; percentiles used",)


def test_first_of_several_windows(tmp_path: Path) -> None:
    stored = grey("windows")
    several = decode(dicom(tmp_path / "a", stored, WindowCenter=[100, 20], WindowWidth=[50, 5])).values
    one = decode(dicom(tmp_path / "b", stored, WindowCenter=100, WindowWidth=50)).values
    assert np.array_equal(several, one)


@pytest.mark.parametrize("broken", [{"WindowWidth": 0}, {"WindowWidth": None}, {"WindowWidth": ""}], ids=str)
def test_a_broken_window_falls_back_to_percentiles(tmp_path: Path, broken: dict[str, Any]) -> None:
    stored = grey("broken")
    path = dicom(tmp_path / "a", stored, WindowCenter=100, **broken)
    assert np.array_equal(decode(path).values, decode(dicom(tmp_path / "b", stored)).values)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_window_functions_equal_pydicoms(function: str) -> None:
    dataset = Dataset()
    dataset.PhotometricInterpretation, dataset.BitsStored, dataset.PixelRepresentation = "MONOCHROME2", 16, 0
    dataset.WindowCenter, dataset.WindowWidth, dataset.VOILUTFunction = 300.0, 250.0, function
    values = np.arange(0, 700, 7, dtype=np.uint16)
    theirs = apply_windowing(values, dataset) / 65535
    assert np.allclose(window(values.astype(np.float64), 300, 250, function), theirs, atol=1e-6)


def test_modality_and_voi_tables(real_data: Path | None, tmp_path: Path) -> None:
    table = Dataset()
    table.LUTDescriptor = [4, 0, 8]
    table.add_new("LUTData", "OW", np.array([0, 255, 0, 128], "<u2").tobytes())
    stored = np.array([[0, 1], [2, 3]], np.uint16)
    shown = decode(dicom(tmp_path / "a", stored, VOILUTSequence=Sequence([table]))).values[0]
    assert np.allclose(shown, [[0, 1], [0, 128 / 255]])
    table.ModalityLUTType = "US"
    shown = decode(dicom(tmp_path / "b", stored, ModalityLUTSequence=Sequence([table]))).values[0]
    assert shown[0, 1] == 1 and shown[0, 0] == shown[1, 0] == 0
    if real_data is not None:
        for name in ("mlut_18.dcm", "vlut_04.dcm"):
            assert decode(real_data / "dicom" / name).values.std() > 0.05


def test_an_enhanced_file_keeps_its_window_in_functional_groups(tmp_path: Path) -> None:
    voi, groups, measures = Dataset(), Dataset(), Dataset()
    voi.WindowCenter, voi.WindowWidth = 100, 50
    measures.PixelSpacing = [0.5, 0.25]
    groups.FrameVOILUTSequence, groups.PixelMeasuresSequence = Sequence([voi]), Sequence([measures])
    stored = grey("enhanced")
    path = dicom(tmp_path / "a", stored, SharedFunctionalGroupsSequence=Sequence([groups]))
    plain = dicom(tmp_path / "b", stored, WindowCenter=100, WindowWidth=50)
    assert np.array_equal(decode(path).values, decode(plain).values)
    assert decode(path).spacing == (0.5, 0.25)


def test_only_what_pixels_need_is_required(tmp_path: Path) -> None:
    """An anonymised file: no patient, no dates, no study, no names; and nothing but pixels from the wheel's CT."""
    assert decode(dicom(tmp_path / "a")).patient is None
    dataset = pydicom.dcmread(_wheel("CT_small.dcm"))
    keep = {"Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData"}
    keep |= {"PhotometricInterpretation", "SamplesPerPixel", "RescaleSlope", "RescaleIntercept"}
    for element in list(dataset):
        if element.keyword not in keep:
            del dataset[element.tag]
    dataset.save_as(tmp_path / "bare")
    assert np.array_equal(decode(tmp_path / "bare").values, decode(_wheel("CT_small.dcm")).values)


@pytest.mark.parametrize("element", ["Rows", "Columns", "PhotometricInterpretation", *_DESCRIBING, "PixelData"])
def test_a_missing_element_that_pixels_need_is_refused(tmp_path: Path, element: str) -> None:
    dataset = pydicom.dcmread(dicom(tmp_path / "a"))
    kept = dataset.file_meta
    bare = Dataset()
    bare.file_meta = kept
    bare.update({item.tag: item for item in dataset if item.keyword != element})
    if element == "BitsAllocated":
        bare["PixelData"].VR = "OW"
    bare.save_as(tmp_path / "b")
    with pytest.raises(DataError, match="its pixels are not" if element == "PixelData" else f"lacks {element}"):
        decode(tmp_path / "b")


def test_all_zeros_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="all its pixels are equal"):
        decode(dicom(tmp_path / "a", np.zeros((16, 16), np.uint16)))


def test_every_cut_is_refused(tmp_path: Path) -> None:
    whole = dicom(tmp_path / "a", PatientID="p").read_bytes()
    for length in (1, 100, 131, 132, 140, 200, len(whole) // 2, len(whole) - 1):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataError):
            decode(tmp_path / "cut")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    path = dicom(tmp_path / "a", Rows=60000, Columns=60000)
    with pytest.raises(DataError, match="60000 x 60000"):
        decode(path)


def test_the_patient_does_not_print(tmp_path: Path) -> None:
    picture = decode(dicom(tmp_path / "a", PatientID="Anna^Secret", PatientName="Anna^Secret"))
    assert picture.patient == "Anna^Secret"
    image = read_image(tmp_path / "a", Preparation(size=16))
    assert "Secret" not in repr(picture) + repr(image) and repr(image) == "Image(1 x 16 x 16, DICOM)"


def test_spacing_follows_the_pixels(tmp_path: Path) -> None:
    image = read_image(dicom(tmp_path / "a", PixelSpacing=[0.5, 0.4]), Preparation(size=12))
    assert image.spacing == pytest.approx((0.5 * 24 / 12, 0.4 * 20 / 12))
