"""Downloads a named data set (by pooch), checked by MD5; where nobody answers, says so at once."""

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pooch  # type: ignore[import-untyped]

from primum.errors import DataError, MachineError, Unavailable
from primum.imaging.named import Named, Source, by_hand, check, find

Progress = Callable[[str, int, int], None]
"""Called with the file's name, the bytes that are here, and all of them (0 where the server does not say)."""

PATIENCE = 4.0
"""Seconds in which a server must begin to answer: finding its address, connecting, and the first line together."""
_STALLED = 30.0
_CHUNK = 1 << 16


def cache_folder() -> Path:
    """Where this user's programs keep what can be fetched again (XDG_CACHE_HOME/primum, or as the system has it)."""
    return Path(pooch.os_cache("primum"))


def fetch(
    entry: Named,
    folder: Path,
    size: int | None = None,
    *,
    progress: Progress | None = None,
    patience: float = PATIENCE,
) -> list[Path]:
    """The files of a data set, in `folder`: those that are there (checked), and those that are not, downloaded.

    A file is whole and as published, or not there. Raises DataError where one that is there is not as published,
    Unavailable (after `patience` seconds at most, if nobody answers) that says how to get the file by hand, MachineError
    where the folder cannot be written.
    """
    sources = entry.sources(size)
    found = {source: find(entry, source, folder) for source in sources}
    for source, path in found.items():
        if path is not None:
            check(path, source)
    missing = [source for source, path in found.items() if path is None]
    for place, source in enumerate(missing):
        found[source] = _download(source, folder, progress, patience, by_hand(missing[place:], folder))
    return [path for path in found.values() if path is not None]


def _download(source: Source, folder: Path, progress: Progress | None, patience: float, otherwise: str) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MachineError(f"{folder} cannot be made: {error.strerror}.", "Choose another folder.") from error
    why = _unreachable(source.url, patience)
    if why:
        raise Unavailable(f"{source.file} cannot be fetched: {why}.", otherwise)
    bar = _Bar(source.file, progress)
    pooch.get_logger().setLevel(logging.ERROR)
    try:
        path = pooch.retrieve(
            source.url,
            known_hash=f"md5:{source.md5}",
            fname=source.file,
            path=folder,
            downloader=pooch.HTTPDownloader(progressbar=bar, chunk_size=_CHUNK, timeout=(patience, _STALLED)),
        )
    except ValueError as error:
        raise DataError(
            f"what {urlsplit(source.url).hostname} sent is not {source.file} as published: its MD5 differs",
            "It was thrown away. " + by_hand([source], folder),
        ) from error
    except OSError as error:  # also what requests raises
        raise Unavailable(f"{source.file} cannot be fetched: {type(error).__name__}.", otherwise) from error
    return Path(path)


def _unreachable(url: str, patience: float) -> str:
    """Why nothing can be fetched from `url`, empty where it answers; decided within `patience` seconds.

    In a thread: a resolver without a network may take much longer, and cannot be interrupted.
    """
    host, found = urlsplit(url).hostname, [f"{urlsplit(url).hostname} does not answer within {patience:g} seconds"]

    def ask() -> None:
        try:
            with httpx.stream("GET", url, timeout=patience, follow_redirects=True) as answer:
                found[0] = "" if answer.is_success else f"{host} answers {answer.status_code}"
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            found[0] = f"{host} cannot be reached ({type(error).__name__})"

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(patience)
    return found[0]


class _Bar:
    """What pooch calls a progress bar."""

    def __init__(self, file: str, progress: Progress | None) -> None:
        self._file, self._progress, self._here = file, progress, 0
        self.total = 0

    def update(self, count: int) -> None:
        """`count` more bytes are here."""
        self._here += count
        if self._progress is not None:
            self._progress(self._file, min(self._here, self.total or self._here), self.total)

    def reset(self) -> None:
        """Counting begins again."""
        self._here = 0

    def close(self) -> None:
        """Nothing is left to do."""
