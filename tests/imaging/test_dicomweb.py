"""Pulling by DICOMweb: from a small real server that answers by the standard, and wrongly; and from Orthanc if there."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import dcmread
from tests.imaging.samples import KEY, WHEEL

from primum.errors import InputError, PeerError, PrimumError, Refused, Unavailable
from primum.imaging import pseudonym
from primum.imaging.dicomweb import Server, Wanted, pull
from primum.imaging.inbox import Inbox
from primum.ports import free_port

FILES = ["CT_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_jpeg_dcmtk.dcm", "examples_overlay.dcm"]
Answer = tuple[int, str, bytes]


@dataclass
class Archive:
    """What a server holds, and how it misbehaves. `page`: most results of one answer; `wrong`: path's end -> answer."""

    files: dict[tuple[str, str, str], Path] = field(default_factory=dict)
    page: int = 1000
    let_in: str = ""
    wrong: dict[str, Answer] = field(default_factory=dict)
    star: bool = True
    asked: list[str] = field(default_factory=list)

    def answer(self, path: str, terms: dict[str, str], accept: str, shown: str) -> Answer:
        self.asked.append(path)
        if self.let_in and shown != self.let_in:
            return 401, "text/plain", b"who are you"
        for end, answer in self.wrong.items():
            if path.endswith(end):
                return answer
        names = path.removeprefix("/dicom-web/").split("/")
        if len(names) == 6:
            return self._retrieve((names[1], names[3], names[5]), accept)
        level = ("studies", "series", "instances").index(names[-1])
        rows = {key[: level + 1]: file for key, file in self.files.items() if list(key[:level]) == names[1::2]}
        results = [self._row(key, file) for key, file in rows.items() if _wanted(file, terms)]
        start = int(terms["offset"])
        chosen = results[start : start + min(int(terms["limit"]), self.page)]
        return (200, "application/dicom+json", json.dumps(chosen).encode()) if chosen else (204, "", b"")

    def _row(self, key: tuple[str, ...], file: Path) -> dict[str, Any]:
        row = {
            tag: {"vr": "UI", "Value": [uid]}
            for tag, uid in zip(("0020000D", "0020000E", "00080018"), key, strict=False)
        }
        kind = dcmread(file, stop_before_pixels=True).SOPClassUID
        return {
            **row,
            "00080016": {"vr": "UI", "Value": [kind]},
            "00100010": {"vr": "PN", "Value": [{"Alphabetic": "A^B"}]},
        }

    def _retrieve(self, key: tuple[str, str, str], accept: str) -> Answer:
        if key not in self.files:
            return 404, "text/plain", b""
        if "transfer-syntax=*" in accept and not self.star:
            return 406, "text/plain", b""
        data = self.files[key].read_bytes()
        head = b"--edge\r\nContent-Type: application/dicom\r\n\r\n"
        return 200, 'multipart/related; type="application/dicom"; boundary="edge"', head + data + b"\r\n--edge--\r\n"


def _wanted(file: Path, terms: dict[str, str]) -> bool:
    modality = dcmread(file, stop_before_pixels=True).get("Modality")
    return modality in (terms.get("Modality", modality), None) and terms.get("ModalitiesInStudy", modality) == modality


@contextmanager
def _serving(archive: Archive) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = urlsplit(self.path)
            terms = {name: values[0] for name, values in parse_qs(found.query).items()}
            shown = self.headers.get("Authorization", "")
            status, kind, body = archive.answer(found.path, terms, self.headers.get("Accept", ""), shown)
            self.send_response(status)
            if kind:
                self.send_header("Content-Type", kind)
            if 300 <= status < 400:
                self.send_header("Location", "http://127.0.0.1:9/")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = False
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/dicom-web"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _archive(names: list[str] = FILES, **options: Any) -> Archive:
    files = {}
    for name in names:
        head = dcmread(WHEEL / name, stop_before_pixels=True)
        files[head.StudyInstanceUID, head.SeriesInstanceUID, head.SOPInstanceUID] = WHEEL / name
    return Archive(files, **options)


@pytest.mark.parametrize("page", [1000, 2])
@pytest.mark.parametrize("star", [True, False])
def test_all_is_pulled_page_by_page_and_without_the_patient(tmp_path: Path, page: int, star: bool) -> None:
    archive, inbox, told = _archive(page=page, star=star), Inbox(tmp_path, KEY), []
    with _serving(archive) as url:
        pulled = pull(Server(url + "/"), Wanted(), inbox, lambda done, found: told.append((done, found)))
    assert (pulled.found, pulled.fetched, pulled.there, inbox.new) == (5, 5, 0, 5) and not pulled.gone
    assert told == [(done, 5) for done in range(1, 6)]
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*.dcm"))
    for name in FILES:
        head = dcmread(WHEEL / name, stop_before_pixels=True)
        assert (tmp_path / "incoming" / pseudonym(str(head.PatientID), KEY)).is_dir()
        for value in (str(head.PatientName), head.SOPInstanceUID, head.StudyInstanceUID):
            assert value.encode() not in written


def test_what_is_there_is_not_asked_for_again(tmp_path: Path) -> None:
    archive = _archive()
    key = list(archive.files)[2]
    archive.wrong = {f"/instances/{key[2]}": (503, "text/plain", b"")}
    with _serving(archive) as url:
        with pytest.raises(Unavailable, match="cannot answer now"):
            pull(Server(url), Wanted(), Inbox(tmp_path, KEY))
        assert len(list(tmp_path.rglob("*.dcm"))) == 2
        archive.wrong, archive.asked = {}, []
        inbox = Inbox(tmp_path, KEY)
        pulled = pull(Server(url), Wanted(), inbox)
    assert (pulled.there, pulled.fetched, inbox.there) == (2, 3, 2)
    assert sum("/instances/" in path for path in archive.asked) == 3


def test_only_what_is_wanted_and_what_is_given(tmp_path: Path) -> None:
    archive = _archive([*FILES, "test-SR.dcm"])
    with _serving(archive) as url:
        assert pull(Server(url), Wanted(modality="CT"), Inbox(tmp_path / "ct", KEY)).found == 1
        assert pull(Server(url), Wanted(most=2), Inbox(tmp_path / "most", KEY)).fetched == 2
        archive.wrong = {f"/instances/{next(iter(archive.files))[2]}": (404, "", b"")}
        pulled = pull(Server(url), Wanted(), Inbox(tmp_path / "all", KEY))
    assert (pulled.found, pulled.fetched, sum(pulled.gone.values())) == (5, 4, 1)  # the report is not asked for


@pytest.mark.parametrize(("line", "header"), [("Bearer abc.def", "Bearer abc.def"), ("anna:p:w", "Basic YW5uYTpwOnc=")])
def test_credentials_come_from_a_private_file(tmp_path: Path, line: str, header: str) -> None:
    file = tmp_path / "credentials"
    file.write_text(line + "\n")
    with _serving(_archive(["CT_small.dcm"], let_in=header)) as url:
        with pytest.raises(Refused, match="takes nobody without credentials"):
            pull(Server(url), Wanted(), Inbox(tmp_path, KEY))
        file.chmod(0o640)
        with pytest.raises(InputError, match="read by others"):
            pull(Server(url, credentials=file), Wanted(), Inbox(tmp_path, KEY))
        file.chmod(0o600)
        assert pull(Server(url, credentials=file), Wanted(), Inbox(tmp_path, KEY)).fetched == 1


HTML: Answer = (200, "text/html", b"<html>hello</html>")


@pytest.mark.parametrize(
    ("end", "answer", "kind", "words"),
    [
        ("/studies", HTML, PeerError, "something else than DICOM JSON"),
        ("/studies", (200, "application/dicom+json", b'{"a": 1}'), PeerError, "something else than DICOM JSON"),
        ("/studies", (200, "application/dicom+json", b'[{"0020000D": {"Value": ["../../x"]}}]'), PeerError, "no UID"),
        ("/studies", (200, "application/dicom+json", b"[" * 100_000), PeerError, "something else than DICOM JSON"),
        ("/studies", (404, "", b""), PeerError, "knows no DICOMweb"),
        ("/studies", (403, "", b""), Refused, "does not allow"),
        ("/studies", (302, "", b""), PeerError, "elsewhere"),
        ("/studies", (500, "", b""), Unavailable, "cannot answer now"),
        ("12322", HTML, PeerError, "something else than DICOM files"),
        ("12322", (200, 'multipart/related; boundary="x"', b"--x\r\n\r\nabc"), PeerError, "ends in the middle"),
    ],
)
def test_servers_that_answer_wrongly_are_named(
    tmp_path: Path, end: str, answer: Answer, kind: type[PrimumError], words: str
) -> None:
    with _serving(_archive(["CT_small.dcm"], wrong={end: answer})) as url, pytest.raises(kind, match=words):
        pull(Server(url), Wanted(), Inbox(tmp_path, KEY))
    assert not list(tmp_path.rglob("*"))


def test_a_part_that_is_no_dicom_is_set_aside(tmp_path: Path) -> None:
    inbox = Inbox(tmp_path, KEY)
    broken = (200, 'multipart/related; boundary="x"', b"--x\r\nContent-Type: application/dicom\r\n\r\nabc\r\n--x--")
    with _serving(_archive(wrong={"12322": broken})) as url:
        assert pull(Server(url), Wanted(), inbox).fetched == 5
    assert inbox.new == 4 and sum(inbox.aside.values()) == 1


def test_nobody_there_and_no_tls_are_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="does not answer"):
        pull(Server(f"http://127.0.0.1:{free_port()}/x"), Wanted(), Inbox(tmp_path, KEY))
    with _serving(_archive()) as url, pytest.raises(PeerError, match="no TLS"):
        pull(Server(url.replace("http:", "https:")), Wanted(), Inbox(tmp_path, KEY))


@pytest.mark.parametrize("url", ["pacs", "ftp://pacs/", "http://", "https://a:b@pacs/x", "https://pacs/x?y=1", ""])
def test_addresses_that_are_none_are_refused(url: str) -> None:
    with pytest.raises(InputError):
        Server(url)


def test_credentials_do_not_cross_a_network_in_the_clear(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="in the clear"):
        Server("http://pacs.example/dicom-web", credentials=tmp_path / "x")
    Server("https://pacs.example/dicom-web", credentials=tmp_path / "x")


@pytest.mark.parametrize(
    "options", [{"modality": "ct&x=1"}, {"study_date": "yesterday"}, {"study_date": ""}, {"study_date": "-"}]
)
def test_filters_that_are_none_are_refused(options: dict[str, str]) -> None:
    with pytest.raises(InputError):
        Wanted(**options)


@given(body=st.binary(max_size=80), json_like=st.booleans())
@settings(max_examples=25)
def test_any_answer_to_a_search_is_results_or_a_named_error(
    tmp_path_factory: pytest.TempPathFactory, body: bytes, json_like: bool
) -> None:
    sent = json.dumps([{"0020000D": {"Value": [body.decode("latin-1")]}}]).encode() if json_like else body
    archive = Archive(wrong={"/studies": (200, "application/dicom+json", sent)})
    with _serving(archive) as url:
        try:
            assert pull(Server(url), Wanted(), Inbox(tmp_path_factory.mktemp("x"), KEY)).found == 0
        except PrimumError as error:
            assert error.message and error.hint
