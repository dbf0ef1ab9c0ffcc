"""JPEG, PNG, TIFF, BMP and WebP: depth, colour, transparency, orientation, and what is refused."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as Pillow
from tests.imaging.samples import grey, png
from tests.imaging.volumes import flips

from primum.errors import DataError
from primum.imaging import Preparation, read_image
from primum.imaging.reader import LARGEST_PICTURE, decode, formats


def test_the_readers() -> None:
    assert formats() == ("DICOM", "JPEG", "PNG", "TIFF", "BMP", "WebP")


def test_grey_png_is_its_values(tmp_path: Path) -> None:
    values = grey("a").astype(np.uint8)
    Pillow.fromarray(values).save(tmp_path / "a.png")
    picture = decode(tmp_path / "a.png")
    assert np.allclose(picture.values[0], values / 255) and picture.format == "PNG"
    assert picture.spacing is None and picture.patient is None and picture.notices == ()


def test_the_ending_does_not_matter(tmp_path: Path) -> None:
    Pillow.fromarray(grey("a").astype(np.uint8)).save(tmp_path / "a.png")
    for name in ("a", "a.jpg", "a.dcm", "a.PNG.txt"):
        (tmp_path / name).write_bytes((tmp_path / "a.png").read_bytes())
        assert decode(tmp_path / name).format == "PNG"


def test_16_bit_png_is_stretched(tmp_path: Path) -> None:
    deep = grey("deep", top=4095)
    Pillow.fromarray(deep).save(tmp_path / "a.png")
    picture = decode(tmp_path / "a.png")
    assert picture.values.min() == 0 and picture.values.max() == 1
    assert np.corrcoef(picture.values.ravel(), deep.ravel())[0, 1] > 0.99
    assert "16 bit" in picture.notices[0]


def test_a_jpeg_of_three_equal_channels_is_grey(tmp_path: Path) -> None:
    shown = Pillow.fromarray(grey("a", 64, 64).astype(np.uint8))
    shown.save(tmp_path / "grey.jpg", quality=95)
    shown.convert("RGB").save(tmp_path / "rgb.jpg", quality=95)
    a, b = (read_image(tmp_path / name, Preparation(size=32)).pixels for name in ("grey.jpg", "rgb.jpg"))
    assert np.abs(a - b).max() < 0.02


def test_colour_is_refused_as_grey_and_kept_as_colour(tmp_path: Path) -> None:
    colours = np.stack([grey("r"), grey("g")[::-1], grey("b")[:, ::-1]], axis=-1).astype(np.uint8)
    for name, mode in (("rgb.png", "RGB"), ("palette.png", "P"), ("cmyk.jpg", "CMYK"), ("ycc.jpg", "YCbCr")):
        Pillow.fromarray(colours).convert(mode).save(tmp_path / name)
        assert read_image(tmp_path / name, Preparation(size=16, channels=3)).pixels.shape == (3, 16, 16)
        with pytest.raises(DataError, match=f"{name} is in colour, grey is asked"):
            read_image(tmp_path / name, Preparation(size=16))


def test_grey_shown_as_colour_has_three_equal_channels(tmp_path: Path) -> None:
    pixels = read_image(png(tmp_path / "a.png"), Preparation(size=16, channels=3)).pixels
    assert np.array_equal(pixels[0], pixels[1]) and np.array_equal(pixels[0], pixels[2])


def test_transparency_is_black(tmp_path: Path) -> None:
    values = grey("a").astype(np.uint8)
    alpha = np.full_like(values, 255)
    Pillow.fromarray(np.stack([values, alpha], -1)).save(tmp_path / "opaque.png")
    assert np.allclose(read_image(tmp_path / "opaque.png", Preparation(size=24)).pixels.max(), 1, atol=0.2)
    assert decode(tmp_path / "opaque.png").notices == ()
    alpha[:, :5] = 0
    Pillow.fromarray(np.stack([values, alpha], -1)).save(tmp_path / "half.png")
    picture = decode(tmp_path / "half.png")
    assert not picture.values[:, :, :5].any() and picture.notices == ("transparent parts shown black",)


def test_exif_orientation(tmp_path: Path) -> None:
    shown = Pillow.fromarray(grey("turn", 40, 24).astype(np.uint8))
    exif = Pillow.Exif()
    exif[0x0112] = 6  # the camera was turned: show it 90 degrees clockwise
    shown.save(tmp_path / "a.jpg", exif=exif, quality=95)
    shown.rotate(-90, expand=True).save(tmp_path / "b.jpg", quality=95)
    a, b = decode(tmp_path / "a.jpg"), decode(tmp_path / "b.jpg")
    assert a.values.shape == b.values.shape == (1, 24, 40)
    assert np.abs(a.values - b.values).mean() < 0.02
    assert a.notices == ("turned as EXIF says",) and b.notices == ()


def test_a_mask_is_refused(real_data: Path | None, tmp_path: Path) -> None:
    Pillow.fromarray(grey("a").astype(np.uint8) > 99).save(tmp_path / "mask.png")
    masks = [tmp_path / "mask.png"]
    if real_data is not None:
        masks.append(sorted((real_data / "lungs_montgomery/masks").iterdir())[0])
    for path in masks:
        with pytest.raises(DataError, match="mask"):
            decode(path)


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp", "webp"])
def test_formats_without_loss_give_one_picture(tmp_path: Path, kind: str) -> None:
    values = grey("kinds").astype(np.uint8)
    colours = np.stack([values, values[::-1], values[:, ::-1]], -1)
    Pillow.fromarray(values).convert("RGB" if kind == "webp" else "L").save(tmp_path / "grey", kind, lossless=True)
    Pillow.fromarray(colours).save(tmp_path / "colour", kind, lossless=True)
    shown = decode(tmp_path / "colour")
    assert np.allclose(shown.values, colours.transpose(2, 0, 1) / 255) and shown.format.lower() == kind
    plain = read_image(tmp_path / "grey", Preparation(24)).pixels
    assert np.allclose(plain, read_image(png(tmp_path / "a.png", "kinds"), Preparation(24)).pixels, atol=1e-6)


@pytest.mark.parametrize("stored", ["uint16", ">u2", "int32", "float32"])
@pytest.mark.parametrize("packed", [None, "tiff_lzw", "tiff_adobe_deflate", "packbits"])
def test_deep_tiff_is_stretched(tmp_path: Path, stored: str, packed: str | None) -> None:
    deep = grey("deep", top=4095)
    if stored == ">u2":
        (tmp_path / "a").write_bytes(_deep_tiff(deep))
    else:
        Pillow.fromarray(deep.astype(stored)).save(tmp_path / "a", "tiff", compression=packed)
    picture = decode(tmp_path / "a")
    assert np.corrcoef(picture.values.ravel(), deep.ravel())[0, 1] > 0.99 and picture.values.max() == 1
    assert picture.notices == (f"{16 if stored in ('uint16', '>u2') else 32} bit: darkest and brightest 0.5 % cut",)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_a_float_tiff_with_a_pixel_that_is_no_number_is_refused(tmp_path: Path, value: float) -> None:
    values = grey("inf").astype(np.float32)
    values[3, 4] = value
    Pillow.fromarray(values).save(tmp_path / "a", "tiff")
    with pytest.raises(DataError, match="no numbers"):
        decode(tmp_path / "a")


def _deep_tiff(values: np.ndarray, order: str = ">", photometric: int = 1) -> bytes:
    """An uncompressed TIFF of 16 bits, as some detectors write it."""
    rows, columns = values.shape
    tags = [(256, columns), (257, rows), (258, 16), (259, 1), (262, photometric), (273, 8), (277, 1), (278, rows)]
    data = values.astype(f"{order}u2").tobytes()
    entries = b"".join(struct.pack(f"{order}HHIHxx", tag, 3, 1, value) for tag, value in tags)
    entries += struct.pack(f"{order}HHII", 279, 4, 1, len(data))
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(tags) + 1) + entries + bytes(4)


@pytest.mark.parametrize("bits", [8, 16])
def test_a_tiff_whose_zero_is_white_is_its_twin(tmp_path: Path, bits: int) -> None:
    values = grey("white", top=2**bits - 1)
    if bits == 8:
        Pillow.fromarray(values.astype(np.uint8)).save(tmp_path / "a", "tiff")
        Pillow.fromarray(values.astype(np.uint8)).save(tmp_path / "b", "tiff", tiffinfo={262: 0})
    else:
        (tmp_path / "a").write_bytes(_deep_tiff(values, "<"))
        (tmp_path / "b").write_bytes(_deep_tiff(2**bits - 1 - values, "<", photometric=0))
    assert np.allclose(decode(tmp_path / "a").values, decode(tmp_path / "b").values, atol=1e-6)


def test_pages_turns_and_masks_of_tiff(tmp_path: Path) -> None:
    shown = [Pillow.fromarray(grey(name, 40, 24).astype(np.uint8)) for name in "ab"]
    shown[0].save(tmp_path / "pages", "tiff", save_all=True, append_images=shown[1:])
    picture = decode(tmp_path / "pages")
    assert picture.notices == ("first of 2 frames",) and np.allclose(picture.values[0], np.asarray(shown[0]) / 255)
    shown[0].save(tmp_path / "turned", "tiff", tiffinfo={274: 3})
    turned = decode(tmp_path / "turned")
    assert np.allclose(turned.values[0], np.asarray(shown[0])[::-1, ::-1] / 255)
    assert turned.notices == ("turned as EXIF says",)
    shown[0].save(tmp_path / "lying", "tiff", tiffinfo={274: 6})
    with pytest.raises(DataError, match="turned by its Orientation tag"):
        decode(tmp_path / "lying")
    for kind in ("tiff", "bmp"):
        Pillow.fromarray(grey("a").astype(np.uint8) > 99).save(tmp_path / "mask", kind)
        with pytest.raises(DataError, match="mask"):
            decode(tmp_path / "mask")


@pytest.mark.parametrize("kind", ["png", "jpeg", "tiff", "bmp", "webp"])
def test_every_cut_is_refused(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(grey("cut", 64, 64).astype(np.uint8)).save(buffer, kind)
    whole = buffer.getvalue()
    for length in (0, 3, 8, 20, 40, len(whole) // 2, len(whole) - 60):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataError):
            decode(tmp_path / "cut")


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty"),
        (b"patient,age\n1,40\n", "not an image"),
        (b"GIF89a" + bytes(50), "GIF"),
        (b"PK\3\4" + bytes(50), "ZIP"),
        (b"%PDF-1.7", "PDF"),
        (b"II*\0" + bytes(50), "TIFF"),
        (b"\x1f\x8b" + bytes(50), "gzip"),
        (b"BM" + bytes(12) + b"\x28" + bytes(50), "BMP"),
        (b"RIFF\x40\0\0\0WEBP" + bytes(50), "WebP"),
        (b"RIFF\x40\0\0\0WAVE" + bytes(50), "sound"),
        (b"NRRD0004\n", "NRRD"),
        (b"\x89PNG\r\n\x1a\n" + bytes(50), "PNG"),
        (b"\xff\xd8\xff" + bytes(50), "JPEG"),
        (bytes(200), "not an image"),
    ],
    ids=["empty", "csv", "gif", "zip", "pdf", "tiff", "gzip", "bmp", "webp", "wav", "nrrd", "png", "jpeg", "zeros"],
)
def test_what_is_no_picture_is_refused_by_name(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "thing").write_bytes(data)
    with pytest.raises(DataError, match=reason) as caught:
        read_image(tmp_path / "thing", Preparation())
    assert "thing" in caught.value.message and caught.value.hint


def test_a_flat_picture_is_refused(tmp_path: Path) -> None:
    Pillow.new("L", (20, 20), 90).save(tmp_path / "a.png")
    with pytest.raises(DataError, match="all its pixels are equal"):
        decode(tmp_path / "a.png")


def test_a_bomb_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    """A PNG header that claims 2^31 pixels, in 60 bytes."""
    header = struct.pack(">IIBBBBB", 1 << 16, 1 << 15, 8, 0, 0, 0, 0)
    chunk = b"IHDR" + header
    data = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    body = b"IDAT" + zlib.compress(b"")
    data += struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "bomb.png").write_bytes(data)
    assert LARGEST_PICTURE < (1 << 31)
    with pytest.raises(DataError):
        decode(tmp_path / "bomb.png")


@settings(max_examples=150)
@given(st.integers(0, 1 << 30), st.integers(1, 8), st.sampled_from(["png", "jpeg", "tiff", "bmp", "webp"]))
def test_changed_bytes_give_a_picture_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, kind: str
) -> None:
    buffer = io.BytesIO()
    Pillow.fromarray(grey("fuzz").astype(np.uint8)).save(buffer, kind)
    path = tmp_path_factory.getbasetemp() / "changed picture"
    path.write_bytes(flips(buffer.getvalue(), seed, count))
    try:
        values = decode(path).values
    except DataError as error:
        assert error.hint and "\n" not in error.message
    else:
        assert np.isfinite(values).all() and 0 <= values.min() < values.max() <= 1


def test_missing_file_folder_and_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    for name, reason in {"gone": "does not exist", "link": "link to a file that is not there", ".": "regular"}.items():
        with pytest.raises(DataError, match=reason):
            read_image(tmp_path / name, Preparation())
