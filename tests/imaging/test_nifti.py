"""NIfTI: values and places as nibabel finds them; what is no volume is refused."""

import gzip
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.imaging.volumes import AFFINE, body, flips, nifti

from primum.errors import DataError
from primum.imaging import read_volume


def _nibabels(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The slow twin: nibabel's canonical order (RAS), its axes reversed and two turned around."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    values = np.asarray(image.get_fdata()).transpose(2, 1, 0)[:, ::-1, ::-1]
    where = np.diag([-1, -1, 1, 1]) @ image.affine @ np.array([image.shape[0] - 1, image.shape[1] - 1, 0, 1])
    return values, where


@pytest.mark.parametrize("kind", [nibabel.Nifti1Image, nibabel.Nifti2Image], ids=["nifti-1", "nifti-2"])
@pytest.mark.parametrize("stored", ["u1", "<i2", ">i2", "u2", "i4", "f4", ">f4", "f8", "i8"])
def test_values_and_places_are_nibabels(tmp_path: Path, kind: Any, stored: str) -> None:
    values = (body(shape=(6, 7, 4)) + 1000).clip(0, 255 if stored == "u1" else 3000).astype(np.dtype(stored))
    image = kind(values, AFFINE, dtype=values.dtype)
    if stored.startswith(">"):
        image = kind(values, AFFINE, kind.header_class(endianness=">"), dtype=values.dtype)
    image.to_filename(tmp_path / "a.nii.gz")
    volume = read_volume(tmp_path / "a.nii.gz")
    theirs, corner = _nibabels(tmp_path / "a.nii.gz")
    assert volume.values.shape == (4, 6, 7) and np.array_equal(volume.values, theirs)
    assert np.allclose(volume.affine[:3, 3], corner[:3]) and np.allclose(volume.spacing, (3, 2, 1.5))
    assert volume.format == "NIfTI" and volume.patient is None and not volume.hounsfield


def test_every_real_volume_is_read_as_nibabel_reads_it(real_data: Path | None) -> None:
    if real_data is None:
        return
    files = sorted((real_data / "hippocampus" / "images").iterdir())[::4]
    files += sorted((real_data / "ct_totalsegmentator_example").iterdir())[:2]
    for path in files:
        volume = read_volume(path)
        values, corner = _nibabels(path)
        assert np.allclose(volume.values, values) and np.allclose(volume.affine[:3, 3], corner[:3])
    assert volume.values.shape == (30, 101, 122)
    assert [read_volume(path).hounsfield for path in files[-2:]] == [True, False]


def test_slope_and_intercept(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(body().astype(np.int16), AFFINE)
    image.header.set_slope_inter(0.5, -10)
    image.to_filename(tmp_path / "a.nii")
    volume = read_volume(tmp_path / "a.nii")
    assert np.allclose(volume.values, _nibabels(tmp_path / "a.nii")[0])
    assert volume.hounsfield and volume.values.min() < -500


def test_qform_alone_is_used_and_none_is_said(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(body().astype(np.int16), None)
    image.header.set_qform(AFFINE, 1)
    image.header.set_sform(None, 0)
    image.to_filename(tmp_path / "q.nii")
    assert np.allclose(read_volume(tmp_path / "q.nii").values, _nibabels(tmp_path / "q.nii")[0])
    image.header.set_qform(None, 0)
    image.to_filename(tmp_path / "none.nii")
    assert "no orientation named: taken as stored" in read_volume(tmp_path / "none.nii").notices


def test_two_orientations_that_exchange_sides_are_refused(tmp_path: Path) -> None:
    image = nibabel.Nifti1Image(body().astype(np.int16), AFFINE)
    image.header.set_qform(np.diag([1.0, 1, 1, 1]) @ AFFINE @ np.diag([-1.0, 1, 1, 1]), 1)
    image.to_filename(tmp_path / "a.nii")
    with pytest.raises(DataError, match=r"two orientations \(sform and qform\)"):
        read_volume(tmp_path / "a.nii")


def test_content_counts_not_the_name(tmp_path: Path) -> None:
    plain = nifti(tmp_path / "a.nii", body())
    for name, data in (("a.dcm", plain.read_bytes()), ("noending", gzip.compress(plain.read_bytes()))):
        (tmp_path / name).write_bytes(data)
        assert np.array_equal(read_volume(tmp_path / name).values, read_volume(plain).values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"values": np.zeros((3, 4, 5, 2), np.int16)}, "does not hold one volume"),
        ({"values": np.zeros((3, 4, 5), np.complex64)}, "colours or complex"),
        ({"values": np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])}, "colours or complex"),
        ({"values": np.full((3, 4, 5), np.nan, np.float32)}, "not numbers"),
    ],
    ids=["4D", "complex", "colour", "nan"],
)
def test_what_is_no_volume_of_numbers_is_refused(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    with pytest.raises(DataError, match=words) as caught:
        read_volume(nifti(tmp_path / "a.nii", change["values"]))
    assert caught.value.hint


def test_a_fourth_axis_of_one_is_no_matter(tmp_path: Path) -> None:
    volume = read_volume(nifti(tmp_path / "a.nii", body()[..., None]))
    assert np.array_equal(volume.values, read_volume(nifti(tmp_path / "b.nii", body())).values)


def test_a_header_alone_and_every_cut_are_refused(tmp_path: Path) -> None:
    nibabel.Nifti1Pair(body(), AFFINE).to_filename(tmp_path / "pair.hdr")
    with pytest.raises(DataError, match="without its values"):
        read_volume(tmp_path / "pair.hdr")
    whole = nifti(tmp_path / "a.nii.gz", body()).read_bytes()
    for length in (0, 1, 2, 10, 60, len(whole) // 2, len(whole) - 9):
        (tmp_path / "cut").write_bytes(whole[:length])
        with pytest.raises(DataError):
            read_volume(tmp_path / "cut")


def test_a_bomb_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    """Ten megabytes of zeros in ten kilobytes, behind a header that claims 2^45 voxels."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((32000, 32000, 32000))
    header["vox_offset"] = 352
    (tmp_path / "a.nii.gz").write_bytes(gzip.compress(header.binaryblock + bytes(10_000_000)))
    with pytest.raises(DataError, match="claims 32000 x 32000 x 32000 voxels"):
        read_volume(tmp_path / "a.nii.gz")


@settings(max_examples=150)
@given(st.integers(0, 1 << 30), st.integers(1, 12))
def test_changed_bytes_give_a_volume_or_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "nifti"
    whole = folder / "whole.nii"
    if not whole.exists():
        nifti(whole, body())
    (folder / "changed").write_bytes(flips(whole.read_bytes(), seed, count))
    try:
        volume = read_volume(folder / "changed")
    except DataError as error:
        assert error.hint and "\n" not in error.message
    else:
        assert np.isfinite(volume.values).all() and volume.values.size < 1 << 20
