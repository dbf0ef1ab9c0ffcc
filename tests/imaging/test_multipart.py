"""Multipart bodies, written by hand from the standard, and broken in every way."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from primum.errors import PeerError
from primum.imaging.multipart import parts

TYPE = 'multipart/related; type="application/dicom"; boundary='


def test_an_answer_as_the_standard_shows_it() -> None:
    body = (
        b"--b0\r\nContent-Type: application/dicom\r\nContent-Length: 4\r\n\r\n\0\1\2\3\r\n"
        b"--b0  \r\ncontent-type: Application/DICOM; transfer-syntax=1.2\r\n\r\n\r\n--b0-not\r\n--b0--\r\n"
    )
    with pytest.raises(PeerError, match="wrong boundary"):
        parts(TYPE + "b0", body)
    body = body.replace(b"\r\n--b0-not", b"\r\n-b0")
    assert parts(TYPE + '"b0"', body) == [("application/dicom", b"\0\1\2\3"), ("application/dicom", b"\r\n-b0")]
    assert parts(TYPE + "b0", b"preamble\r\n--b0\r\n\r\nx\r\n--b0--") == [("", b"x")]
    assert parts("application/dicom", b"as it is") == [("application/dicom", b"as it is")]


@pytest.mark.parametrize(
    ("kind", "body", "words"),
    [
        ("multipart/related", b"--b0\r\n\r\nx\r\n--b0--", "without a boundary"),
        (TYPE + "x" * 71, b"", "without a boundary"),
        (TYPE + "b0", b"", "without its boundary"),
        (TYPE + "b0", b"<html>", "without its boundary"),
        (TYPE + "b0", b"--b0--", "without parts"),
        (TYPE + "b0", b"--b0", "wrong boundary"),
        (TYPE + "b0", b"--b0\r\nContent-Type: application/dicom\r\n\r\nx", "ends in the middle"),
        (TYPE + "b0", b"--b0\r\nContent-Type: application/dicom\r\n--b0--", "end of its headers"),
    ],
)
def test_broken_answers_are_named(kind: str, body: bytes, words: str) -> None:
    with pytest.raises(PeerError, match=words):
        parts(kind, body)


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=4), st.binary(max_size=4))
def test_what_was_put_in_comes_out(contents: list[bytes], seed: bytes) -> None:
    boundary = f"edge{seed.hex()}"
    if any(boundary.encode() in content for content in contents):
        return
    body = b"".join(
        f"--{boundary}\r\nContent-Type: application/dicom\r\n\r\n".encode() + content + b"\r\n" for content in contents
    )
    found = parts(TYPE + boundary, body + f"--{boundary}--".encode())
    assert found == [("application/dicom", content) for content in contents]


@given(st.text(max_size=60), st.binary(max_size=200))
def test_any_bytes_give_parts_or_a_named_error(kind: str, body: bytes) -> None:
    for content_type in (kind, TYPE + "b", TYPE + kind):
        try:
            assert parts(content_type, b"--b" + body)
        except PeerError as error:
            assert error.message.startswith("the server sent")


@given(st.integers(0, 200), st.integers(0, 255))
def test_a_damaged_answer_gives_parts_or_a_named_error(at: int, value: int) -> None:
    whole = bytearray(b"--b0\r\nContent-Type: application/dicom\r\n\r\n" + bytes(100) + b"\r\n--b0--\r\n")
    whole[at % len(whole)] = value
    try:
        assert parts(TYPE + "b0", bytes(whole))
    except PeerError as error:
        assert error.hint
