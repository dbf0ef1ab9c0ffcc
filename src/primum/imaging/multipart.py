"""multipart/related bodies as DICOMweb servers send them (RFC 2046 section 5.1, RFC 2387; DICOM PS3.18, 8.6.1.2).

Given whole; each part's content type and bytes come out. A body that does not follow the rules is a PeerError.
"""

from email.message import Message
from typing import Final

from primum.errors import PeerError

MOST_PARTS: Final = 10_000
_LONGEST_HEADER: Final = 1 << 14
_HINT: Final = "The server's answer is damaged or no DICOMweb; nothing of it was kept."


def parts(content_type: str, body: bytes) -> list[tuple[str, bytes]]:
    """(content type in lower case, bytes) of each part of `body`; `content_type`: the header of the whole."""
    kind, boundary = _read(content_type)
    if kind != "multipart/related":
        return [(kind, body)]
    if not boundary or len(boundary) > 70 or not boundary.isascii():
        raise PeerError("the server sent a multipart answer without a boundary.", _HINT)
    mark = b"\r\n--" + boundary.encode()
    whole, found = b"\r\n" + body, list[tuple[str, bytes]]()
    place = _after_boundary(whole, 0, mark)
    while place is not None:
        if len(found) >= MOST_PARTS:
            raise PeerError(f"the server sent an answer of more than {MOST_PARTS:,} parts.", _HINT)
        end = whole.find(mark, place)
        if end < 0:
            raise PeerError("the server sent a multipart answer that ends in the middle.", _HINT)
        found.append(_part(whole[place:end]))
        place = _after_boundary(whole, end, mark)
    if not found:
        raise PeerError("the server sent a multipart answer without parts.", _HINT)
    return found


def _read(content_type: str) -> tuple[str, str]:
    """Media type and boundary of a Content-Type header; nothing where it is none."""
    message = Message()
    try:
        message["Content-Type"] = content_type
        return message.get_content_type() if content_type else "", str(message.get_boundary() or "")
    except (ValueError, TypeError, LookupError, UnicodeError):
        return "", ""


def _after_boundary(whole: bytes, start: int, mark: bytes) -> int | None:
    """Where the part behind the first boundary at or after `start` begins; None where that one closes the body."""
    at = whole.find(mark, start)
    if at < 0:
        raise PeerError("the server sent a multipart answer without its boundary.", _HINT)
    behind = at + len(mark)
    if whole[behind : behind + 2] == b"--":
        return None
    line = whole.find(b"\r\n", behind)
    if line < 0 or whole[behind:line].strip(b" \t"):
        raise PeerError("the server sent a multipart answer with a wrong boundary.", _HINT)
    return line  # with its line end, so that a part without headers begins with an empty line


def _part(part: bytes) -> tuple[str, bytes]:
    end = part.find(b"\r\n\r\n", 0, _LONGEST_HEADER)
    if end < 0:
        raise PeerError("the server sent a part without an end of its headers.", _HINT)
    kind = ""
    for line in part[:end].split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.strip().lower() == b"content-type":
            kind = _read(value.strip().decode("latin-1"))[0]
    return kind, part[end + 4 :]
