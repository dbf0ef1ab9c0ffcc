"""Downloads: whole and as published, or not there; and a word where nobody answers."""

import socket
from pathlib import Path

import pytest
from tests.imaging.named_samples import npz, published, small_set

from primum.errors import DataError, MachineError, Unavailable
from primum.imaging.named import open_named
from primum.imaging.named_fetch import fetch

DATA = npz()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def test_a_file_is_fetched_once(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "small.npz").write_bytes(DATA)
    told: list[tuple[str, int, int]] = []
    with published(tmp_path / "server") as url:
        entry = small_set(DATA, url)
        paths = fetch(entry, tmp_path / "new" / "here", progress=lambda *now: told.append(now))
    assert [path.read_bytes() for path in paths] == [DATA] and paths[0].name == "small.npz"
    assert told[-1] == ("small.npz", len(DATA), len(DATA))
    assert fetch(entry, tmp_path / "new" / "here") == paths, "the server is gone, the file is there"


def test_what_is_not_as_published_is_thrown_away(tmp_path: Path) -> None:
    (tmp_path / "small.npz").write_bytes(DATA + b"!")
    with published(tmp_path) as url, pytest.raises(DataError, match="MD5 differs") as caught:
        fetch(small_set(DATA, url), tmp_path / "here")
    assert "by hand" in caught.value.hint and not list((tmp_path / "here").iterdir())
    with pytest.raises(DataError, match="not the file that was published"):
        fetch(small_set(DATA), tmp_path)
    assert (tmp_path / "small.npz").read_bytes() == DATA + b"!"


def test_nobody_answers(tmp_path: Path) -> None:
    with published(tmp_path) as url, pytest.raises(Unavailable, match=r"127\.0\.0\.1 answers 404"):
        fetch(small_set(DATA, url), tmp_path / "here")
    with pytest.raises(Unavailable, match="cannot be reached") as caught:
        fetch(small_set(DATA, url), tmp_path / "here")
    for words in ("small.npz", url, "by hand", str(tmp_path / "here"), "MD5"):
        assert words in str(caught.value)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(Unavailable, match=r"does not answer within 0\.2 seconds|cannot be reached"):
            fetch(small_set(DATA, url), tmp_path / "here", patience=0.2)
    with pytest.raises(Unavailable):
        fetch(small_set(DATA, "http://no-such-host.invalid/"), tmp_path / "here")
    assert not list((tmp_path / "here").iterdir())


def test_a_folder_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot be made"):
        fetch(small_set(DATA), tmp_path / "file" / "below")


def test_a_set_that_is_there_needs_no_network(real_data: Path | None) -> None:
    if real_data is None:
        return
    from primum.imaging.named import SETS

    assert fetch(SETS["pneumoniamnist"], real_data) == [real_data / "medmnist" / "pneumoniamnist.npz"]
    assert open_named("pneumoniamnist", real_data).splits["val"].by_class() == {"normal": 135, "pneumonia": 389}
