"""NRRD: raw and gzip, orders of bytes and spaces; what points elsewhere is refused."""

import gzip
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.imaging.volumes import body, flips, nifti

from primum.errors import DataError
from primum.imaging import read_volume

DIRECTIONS = "(0,-2,0) (-1.5,0,0) (0,0,3)"


def nrrd(path: Path, values: np.ndarray, **changed: str | None) -> Path:
    """`values` [a, b, c], with `changed` header lines (None leaves one out)."""
    fields: dict[str, str | None] = {
        "type": {"i2": "short", "u1": "unsigned char", "f4": "float"}[values.dtype.str[1:]],
        "dimension": "3",
        "space": "right-anterior-superior",
        "sizes": " ".join(map(str, values.shape)),
        "space directions": DIRECTIONS,
        "kinds": "domain domain domain",
        "endian": "big" if values.dtype.str[0] == ">" else "little",
        "encoding": "raw",
        "space origin": "(40,60,-90)",
        **{name.replace("_", " "): value for name, value in changed.items()},
    }
    data = values.tobytes(order="F")
    text = "NRRD0004\n# made\n" + "".join(f"{name}: {value}\n" for name, value in fields.items() if value is not None)
    path.write_bytes(text.encode() + b"\n" + (gzip.compress(data) if fields["encoding"] == "gzip" else data))
    return path


@pytest.mark.parametrize("stored", ["<i2", ">i2", "<f4", "u1"])
@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_a_nrrd_and_a_nifti_of_one_volume_are_the_same(tmp_path: Path, stored: str, encoding: str) -> None:
    values = (body() if stored != "u1" else body().clip(0, 255)).astype(stored)
    affine = np.array([[0, -1.5, 0, 40], [-2, 0, 0, 60], [0, 0, 3, -90], [0, 0, 0, 1]], np.float64)
    one = read_volume(nrrd(tmp_path / "a", values, encoding=encoding))
    other = read_volume(nifti(tmp_path / "a.nii", values, affine))
    assert np.array_equal(one.values, other.values) and np.allclose(one.affine, other.affine)
    assert one.format == "NRRD" and one.hounsfield is other.hounsfield is (stored != "u1")


def test_spaces(tmp_path: Path) -> None:
    """The same text in LPS is another place, in LAS another again; without directions the order is that stored."""
    ras, lps, las = (
        read_volume(nrrd(tmp_path / name, body(), space=name)) for name in ("ras", "lps", "left-anterior-superior")
    )
    assert np.array_equal(ras.values[:, ::-1, ::-1], lps.values) and np.array_equal(las.values[:, ::-1], lps.values)
    plain = read_volume(nrrd(tmp_path / "d", body(), space=None, space_directions=None, spacings="1 2 3"))
    assert plain.spacing == (3, 2, 1) and "no orientation named" in plain.notices[0]
    assert np.array_equal(plain.values, body().transpose(2, 1, 0))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"data_file": "/etc/passwd"}, "in another file"),
        ({"datafile": "LIST"}, "in another file"),
        ({"encoding": "bzip2"}, "otherwise than raw"),
        ({"type": "block"}, "unknown kind"),
        ({"byte_skip": "-1"}, "unknown kind"),
        ({"dimension": "4"}, "3 axes, not 3|has 3 axes"),
        ({"sizes": "2 2"}, "2 axes"),
        ({"sizes": "60000 60000 60000"}, "claims"),
        ({"sizes": "-1 5 5"}, "no voxels"),
        ({"sizes": "500 12 10"}, "cut off"),
        ({"space": "scanner-xyz"}, "LPS, RAS or LAS"),
        ({"space_directions": "none (1,0,0) (0,1,0)"}, "cannot be decoded"),
        ({"space_directions": "(0,0,0) (1,0,0) (0,1,0)"}, "no grid"),
        ({"sizes": None}, "cannot be decoded"),
    ],
    ids=str,
)
def test_what_is_refused(tmp_path: Path, change: dict[str, str | None], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_volume(nrrd(tmp_path / "a", body(), **change))
    assert caught.value.hint


@pytest.mark.parametrize("encoding", ["raw", "gzip"])
def test_every_cut_is_refused(tmp_path: Path, encoding: str) -> None:
    """Also one that only loses the sum at the end of the gzip values; and a changed sum."""
    whole = nrrd(tmp_path / "a", body(), encoding=encoding).read_bytes()
    for length in (4, 60, len(whole) // 2, len(whole) - 9, len(whole) - 2):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_volume(tmp_path / "cut")
    if encoding == "gzip":
        (tmp_path / "cut").write_bytes(whole[:-7] + bytes([whole[-7] ^ 1]) + whole[-6:])
        with pytest.raises(DataError):
            read_volume(tmp_path / "cut")


def test_a_header_that_never_ends(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"NRRD0004\n" + b"x" * 100_000)
    with pytest.raises(DataError, match="no values behind"):
        read_volume(tmp_path / "a")


@settings(max_examples=150)
@given(st.integers(0, 1 << 30), st.integers(1, 8))
def test_changed_bytes_give_a_volume_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    folder = tmp_path_factory.getbasetemp()
    whole = folder / "whole.nrrd"
    if not whole.exists():
        nrrd(whole, body(), encoding="gzip")
    (folder / "changed.nrrd").write_bytes(flips(whole.read_bytes(), seed, count))
    try:
        volume = read_volume(folder / "changed.nrrd")
    except DataError as error:
        assert error.hint and "\n" not in error.message
    else:
        assert np.isfinite(volume.values).all() and volume.values.size < 1 << 20
