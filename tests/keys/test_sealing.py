"""Boxes that one receiver can open, for one purpose."""

import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import InputError, PeerError
from primum.keys.sealing import SealingKey, seal

KEY = SealingKey.generate()


@given(st.binary(max_size=300))
def test_a_box_opens_for_its_receiver(data: bytes) -> None:
    box = seal(KEY.public, data, "request")
    assert KEY.open(box, "request", "the clinician") == data
    assert data not in box or len(data) < 4


@given(st.data())
def test_any_altered_box_is_refused(data: st.DataObject) -> None:
    box = bytearray(seal(KEY.public, b"secret", "request"))
    box[data.draw(st.integers(0, len(box) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    with pytest.raises(PeerError, match="the clinician"):
        KEY.open(bytes(box), "request", "the clinician")


@pytest.mark.parametrize("length", [0, 10, 1119])
def test_a_short_box_is_refused(length: int) -> None:
    with pytest.raises(PeerError, match="the clinician"):
        KEY.open(bytes(length), "request", "the clinician")


def test_a_box_is_for_one_key_and_one_purpose() -> None:
    box = seal(KEY.public, b"secret", "request")
    with pytest.raises(PeerError):
        KEY.open(box, "answer", "the clinician")
    with pytest.raises(PeerError):
        SealingKey.generate().open(box, "request", "the clinician")


def test_two_boxes_of_one_text_differ() -> None:
    assert seal(KEY.public, b"secret", "request") != seal(KEY.public, b"secret", "request")


@pytest.mark.parametrize("public", [b"", bytes(1215), b"\xff" * 1216, bytes(32) + KEY.public[32:]])
def test_a_receiver_that_is_none_is_refused(public: bytes) -> None:
    with pytest.raises(InputError, match="sealing key"):
        seal(public, b"secret", "request")


def test_a_key_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "sealing.key"
    made = SealingKey.load_or_make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert SealingKey.load_or_make(path).open(seal(made.public, b"x", "p"), "p", "peer") == b"x"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"sealing\.key"):
        SealingKey.load_or_make(path)
    assert repr(made) == "SealingKey()"
