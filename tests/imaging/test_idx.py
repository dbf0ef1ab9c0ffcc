"""IDX files: what was written is read, and nothing else is."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import DataError
from primum.imaging.idx import read_idx


def idx(values: np.ndarray, kind: int = 8) -> bytes:
    return bytes((0, 0, kind, values.ndim)) + struct.pack(f">{values.ndim}I", *values.shape) + values.tobytes()


@given(shape=st.lists(st.integers(1, 5), min_size=1, max_size=4), packed=st.booleans(), seed=st.integers(0, 200))
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], packed: bool, seed: int
) -> None:
    values = ((np.arange(np.prod(shape)) * 7 + seed) % 256).astype(np.uint8).reshape(shape)
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(gzip.compress(idx(values)) if packed else idx(values))
    np.testing.assert_array_equal(read_idx(path, len(shape)), values)


@given(place=st.integers(0, 33), value=st.integers(0, 255))
def test_a_changed_byte_is_an_error_or_another_pixel(
    tmp_path_factory: pytest.TempPathFactory, place: int, value: int
) -> None:
    data = bytearray(idx(np.arange(18, dtype=np.uint8).reshape(2, 3, 3)))
    data[place] = value
    path = tmp_path_factory.mktemp("idx") / "file"
    path.write_bytes(data)
    try:
        assert read_idx(path, 3).size == 18
    except DataError as error:
        assert str(path) in error.message and place < 16


def test_what_is_no_idx(tmp_path: Path) -> None:
    whole = idx(np.zeros((2, 3, 3), np.uint8))
    huge = bytes((0, 0, 8, 3)) + struct.pack(">3I", 1 << 31, 1 << 31, 1 << 31)
    cases = {
        "cut": whole[:-1],
        "long": whole + b"\0",
        "short": b"\0\0",
        "png": b"\x89PNG\r\n\x1a\n" + bytes(40),
        "kind": idx(np.zeros((2, 3, 3), np.uint8), kind=9),
        "axes": idx(np.zeros((2, 9), np.uint8)),
        "huge": huge,
        "none": idx(np.zeros((0, 3, 3), np.uint8)),
        "packing": gzip.compress(whole)[:-9],
        "empty": b"",
    }
    for name, data in cases.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(DataError, match=name):
            read_idx(tmp_path / name, 3)
    for path in (tmp_path / "gone", tmp_path):
        with pytest.raises(DataError):
            read_idx(path, 3)


def test_real_digits(real_data: Path | None) -> None:
    if real_data is None:
        return
    images = read_idx(real_data / "mnist" / "t10k-images-idx3-ubyte.gz", 3)
    labels = read_idx(real_data / "mnist" / "t10k-labels-idx1-ubyte.gz", 1)
    assert images.shape == (10000, 28, 28) and labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
