"""Compressed frames in a process of their own: what ends that process is an error here, and the next frame is read."""

import os
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.imaging.samples import WHEEL
from tests.imaging.volumes import flips

from primum.errors import DataError
from primum.imaging import decoder
from primum.imaging.decoder import decode_apart
from primum.imaging.reader import decode

GOOD = WHEEL / "MR_small_jpeg_ls_lossless.dcm"


def _pid() -> int:
    process = decoder._decoder.process
    assert process is not None
    return process.pid


def test_a_compressed_file_is_the_plain_one() -> None:
    assert np.array_equal(decode(GOOD).values, decode(WHEEL / "MR_small.dcm").values)


def test_one_process_serves_many_frames_and_is_started_again() -> None:
    plain = decode(GOOD).values
    first = _pid()
    assert np.array_equal(decode(GOOD).values, plain) and _pid() == first
    os.kill(first, signal.SIGKILL)
    decoder._decoder.process.wait()  # type: ignore[union-attr]
    assert np.array_equal(decode(GOOD).values, plain) and _pid() != first


def test_damaged_files_that_may_end_the_decoder(tmp_path: Path) -> None:
    """Changed bytes in the compressed values; some of these end gdcm. Each is a picture or an error, then all is well."""
    whole = GOOD.read_bytes()
    plain = decode(GOOD).values
    for seed in (64, 343, 344, 862, 1365):
        (tmp_path / "changed").write_bytes(whole[:900] + flips(whole[900:], seed, 6))
        try:
            decode(tmp_path / "changed")
        except DataError as error:
            assert error.hint
    assert np.array_equal(decode(GOOD).values, plain)


def test_a_decoder_that_does_not_answer_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = decode(GOOD).values
    before = _pid()
    os.kill(before, signal.SIGSTOP)
    monkeypatch.setattr(decoder, "PATIENCE", 0.2)
    with pytest.raises(DataError, match="cannot be decoded"):
        decode(GOOD)
    monkeypatch.setattr(decoder, "PATIENCE", 60)
    assert np.array_equal(decode(GOOD).values, plain) and _pid() != before


def test_nonsense_is_answered_with_an_error() -> None:
    said = {"syntax": "1.2.840.10008.1.2.4.80", "Rows": 4, "Columns": 4, "BitsAllocated": 8, "BitsStored": 8}
    for encoded in (b"", b"nonsense", bytes(5000)):
        with pytest.raises(RuntimeError, match="the decoder"):
            decode_apart({**said, "PhotometricInterpretation": "MONOCHROME2"}, encoded)
    with pytest.raises(RuntimeError, match="the decoder says"):
        decode_apart({}, b"x")


def test_the_process_is_given_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the environment only what a Python needs to start."""
    monkeypatch.setenv("PRIMUM_TEST_SECRET", "secret")
    decoder._decoder.end()
    decode(GOOD)
    environment = Path(f"/proc/{_pid()}/environ")
    if environment.exists():
        assert b"secret" not in environment.read_bytes()
