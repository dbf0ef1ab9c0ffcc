"""Small data sets that have a name, and a server that publishes them."""

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from tests.imaging.test_idx import idx

from primum.imaging.named import SETS, Named, Source
from primum.rng import Stream


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def npz(count: int = 12, side: int = 8, classes: int = 3) -> bytes:
    """A MedMNIST file: `count` pictures in train, half as many in val and test."""
    stream, arrays = Stream.public(f"npz {count} {side}"), {}
    for split, images in (("train", count), ("val", count // 2), ("test", count // 2)):
        arrays[f"{split}_images"] = (stream.uniform((images, side, side)) * 256).astype(np.uint8)
        arrays[f"{split}_labels"] = (np.arange(images, dtype=np.uint8) % classes)[:, None]
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def findings(count: int = 12, classes: int = 14) -> bytes:
    """A MedMNIST file as ChestMNIST is: a column of 0 and 1 for each class; each fourth image has none."""
    stream, arrays = Stream.public("findings"), {}
    for split in ("train", "val", "test"):
        arrays[f"{split}_images"] = (stream.uniform((count, 8, 8)) * 256).astype(np.uint8)
        shown = (np.arange(count)[:, None] + np.arange(classes)) % 3 == 0
        arrays[f"{split}_labels"] = (shown & (np.arange(count)[:, None] % 4 > 0)).astype(np.int64)
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def digits(count: int) -> tuple[bytes, bytes]:
    """Images and labels of MNIST, packed."""
    images = (Stream.public(f"digits {count}").uniform((count, 28, 28)) * 256).astype(np.uint8)
    return gzip.compress(idx(images), mtime=0), gzip.compress(idx((np.arange(count) % 10).astype(np.uint8)), mtime=0)


def small_set(data: bytes, url: str = "http://127.0.0.1:9/", classes: int = 3) -> Named:
    """A set of one MedMNIST file, with the checksum of `data`."""
    files = {28: (Source("small.npz", url + "small.npz", md5(data)),)}
    names = tuple(f"class {number}" for number in range(classes))
    return Named("small", "drawn", "medmnist", files, names, "none", "none")


def as_published(name: str, data: bytes, size: int = 28) -> Named:
    """The set of that name, as if its file were `data`."""
    entry = SETS[name]
    return replace(entry, files={size: (replace(entry.sources(size)[0], md5=md5(data)),)})


def tar(path: Path, count: int = 6, **more: bytes) -> Path:
    """A Decathlon archive of `count` volumes with masks, with the hidden files of a Mac, and `more` (name: content)."""
    with tarfile.open(path, "w") as archive:
        names = [f"Task99/{part}Tr/v{number}.nii.gz" for number in range(count) for part in ("images", "labels")]
        hidden = ["Task99/imagesTr/._v0.nii.gz", "Task99/imagesTs/v9.nii.gz"]
        for name in [*names, *hidden]:
            _add(archive, name, name.encode())
        for name, content in more.items():
            _add(archive, name, content)
        link = tarfile.TarInfo("Task99/imagesTr/link.nii.gz")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    return path


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


@contextmanager
def published(folder: Path) -> Iterator[str]:
    """The address of a server, on this machine, of the files in `folder`."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/"
        finally:
            server.shutdown()
            thread.join()
