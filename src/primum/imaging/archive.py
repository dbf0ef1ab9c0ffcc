"""Archives (zip, tar, tar.gz) in the place of a folder: unpacked into a private folder, which is removed afterwards.

An archive is input from outside: names that lead out of the folder, links, devices, encrypted members, names twice,
and more bytes or files than the limits are refused before they reach the disk. Nothing is taken at its word: bytes are
counted as they come out.
"""

import gzip
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Final, cast

from primum.errors import DataError, MachineError
from primum.imaging.image import Problem, speaking_of

MOST_BYTES: Final = 64 << 30
"""Unpacked, of all archives of a folder together."""
MOST_FILES: Final = 200_000
MOST_TIMES: Final = 200
"""An archive that grows more than so many times (beyond `FREE_GROWTH` bytes) is taken for a bomb."""
FREE_GROWTH: Final = 256 << 20
DEPTH: Final = 2
"""Archives inside archives are unpacked so many levels deep; deeper ones are set aside by name as files."""

_CHUNK: Final = 1 << 20
_MAC: Final = "__MACOSX"
_LONGEST_READ: Final = 1 << 24
_ENDINGS: Final = (".tar.gz", ".tgz", ".tar", ".zip")
_HINT: Final = "Unpack it yourself, look at it, and give the folder."


@dataclass(frozen=True)
class Unpacked:
    """A folder to read, what could not be unpacked, and how many archives were."""

    folder: Path
    problems: tuple[Problem, ...] = ()
    notices: tuple[str, ...] = ()


@dataclass
class _Budget:
    bytes: int = field(default_factory=lambda: MOST_BYTES)
    files: int = field(default_factory=lambda: MOST_FILES)
    problems: list[Problem] = field(default_factory=list)
    archives: int = 0


@contextmanager
def unpacked(folder: Path) -> Iterator[Unpacked]:
    """`folder` itself where it holds no archive; else a private folder with the same files and its archives unpacked.

    An archive x.zip becomes a folder x beside the other files (x.zip where there is an x). If `folder` is an archive,
    its content, without the one folder around it if there is one. A broken or dangerous archive in a folder is a
    Problem, as the folder itself a DataError. Errors raised inside the block name `folder`, not the private one.
    """
    with ExitStack() as stack:
        if folder.is_file() and _kind(folder) is not None:
            inside, budget = Path(stack.enter_context(_private())), _Budget()
            with speaking_of(str(folder)):
                _unpack(folder, inside / folder.name, budget)
            _unpack_inside(inside / folder.name, inside, budget)
            top = _only_folder(inside / folder.name)
        elif folder.is_dir() and any(_archives(folder)):
            inside, budget = Path(stack.enter_context(_private())), _Budget()
            top = inside / "folder"
            _mirror(folder, top)
            _unpack_inside(top, top, budget)
        else:
            yield Unpacked(folder)
            return
        notices = (
            (f"{budget.archives} archive{'s' if budget.archives > 1 else ''} unpacked",) if budget.archives else ()
        )
        try:
            yield Unpacked(top, tuple(budget.problems), notices)
        except DataError as error:
            if str(inside) not in f"{error.message}{error.hint}":
                raise
            words = (text.replace(str(top), str(folder)) for text in (error.message, error.hint))
            raise DataError(*words) from error


def _private() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="primum-", ignore_cleanup_errors=True)


def _only_folder(folder: Path) -> Path:
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else folder


def _kind(path: Path) -> str | None:
    """ "zip" or "tar" by name and content, or None; a .nii.gz is no archive."""
    name = path.name.lower()
    if not name.endswith(_ENDINGS) or not path.is_file():
        return None
    try:
        with path.open("rb") as file:
            head = file.read(262)
    except OSError:
        return None
    if name.endswith(".zip"):
        return "zip" if head.startswith((b"PK\3\4", b"PK\5\6")) else None
    return "tar" if head.startswith(b"\x1f\x8b") or head[257:262] == b"ustar" else None


def _archives(folder: Path) -> Iterator[Path]:
    for top, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            path = Path(top, name)
            if not name.startswith(".") and _kind(path) is not None:
                yield path


def _mirror(folder: Path, target: Path) -> None:
    """The same tree of folders under `target`, with links to the files."""
    target.mkdir(mode=0o700)
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"the folder {folder} cannot be read: {error.strerror}", "Give this user the right.") from error
    for entry in entries:
        if entry.is_dir() and not entry.is_symlink():
            _mirror(entry, target / entry.name)
        else:
            (target / entry.name).symlink_to(entry.absolute())


def _unpack_inside(folder: Path, top: Path, budget: _Budget) -> None:
    """Put each archive's content in its place, archives in archives too; what cannot be unpacked is a Problem."""
    for _ in range(DEPTH):
        found = list(_archives(folder))
        for path in found:
            packed, aside = path.with_name(f".{path.name}"), path.with_name(f".{path.name}.unpacking")
            path.rename(packed)
            try:
                _unpack(packed, aside, budget)
                aside.rename(_place_of(path))
            except DataError as error:
                shutil.rmtree(aside, ignore_errors=True)
                budget.problems.append(Problem(str(path.relative_to(top)), error.message, error.hint))
            packed.unlink()
        if not found:
            return


def _place_of(path: Path) -> Path:
    """x for x.zip, else x.zip where there is an x."""
    stem = next(path.name[: -len(ending)] for ending in _ENDINGS if path.name.lower().endswith(ending))
    return path.with_name(stem) if stem and not path.with_name(stem).exists() else path


def _unpack(path: Path, target: Path, budget: _Budget) -> None:
    """All files of one archive under `target`; raises DataError with the reason, and then nothing is promised there."""
    target.mkdir(mode=0o700, parents=True)
    limit = FREE_GROWTH + MOST_TIMES * path.stat().st_size
    before = budget.bytes
    try:
        for name, file in _zipped(path) if _kind_of_content(path) == "zip" else _tarred(path):
            with file:
                _write(file, target, name, budget, before - limit)
    except NotImplementedError as error:
        raise DataError("is packed in an unknown way", _HINT) from error
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, ValueError, gzip.BadGzipFile) as error:
        raise DataError("is damaged or cut off (archive)", "Copy it again, or unpack it yourself.") from error
    except RuntimeError as error:
        raise DataError("cannot be unpacked: it is encrypted", "Unpack it yourself and give the folder.") from error
    except OSError as error:
        raise MachineError(f"an archive cannot be unpacked: {error.strerror}", "Free space, or set TMPDIR.") from error
    budget.archives += 1


def _kind_of_content(path: Path) -> str:
    with path.open("rb") as file:
        return "zip" if file.read(2) == b"PK" else "tar"


def _zipped(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.is_dir():
                continue
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DataError("holds a link", _HINT)
            yield member.filename, archive.open(member)


class _Bounded:
    """A file that refuses to hand out much at once: tarfile reads long headers whole."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _LONGEST_READ:
            raise DataError("has a header that is too long (archive)", _HINT)
        return self._file.read(size)


def _tarred(path: Path) -> Iterator[tuple[str, IO[bytes]]]:
    with path.open("rb") as raw:
        packed = raw.read(2) == b"\x1f\x8b"
    with (
        cast(IO[bytes], gzip.open(path)) if packed else path.open("rb") as file,
        tarfile.open(fileobj=cast(IO[bytes], _Bounded(file)), mode="r:") as archive,
    ):
        for number, member in enumerate(archive):
            if number > MOST_FILES:
                raise _too_many()
            if member.isdir():
                continue
            if not member.isreg() or member.issparse():
                raise DataError("holds a link or a device", _HINT)
            yield member.name, cast(IO[bytes], archive.extractfile(member))
        if len(file.read(_LONGEST_READ)) == _LONGEST_READ:  # at its end the sum of a gzip file is checked
            raise DataError("holds something behind its files", _HINT)


def _too_many() -> DataError:
    return DataError(f"holds more than {MOST_FILES:,} files", _HINT)


def _write(file: IO[bytes], target: Path, name: str, budget: _Budget, floor: int) -> None:
    """One member; `floor`: what must be left of the budget's bytes, else this archive has grown too much."""
    inside = _safe(name)
    budget.files -= 1
    if inside.parts[0] == _MAC:
        return
    path = target / inside
    if budget.files < 0:
        raise _too_many()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with path.open("xb") as out:
            while chunk := file.read(_CHUNK):
                budget.bytes -= len(chunk)
                if budget.bytes < max(0, floor):
                    raise DataError("unpacks to far more than it is (a bomb, or too much at once)", _HINT)
                out.write(chunk)
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise DataError("holds two files of one name", _HINT) from error


def _safe(name: str) -> PurePosixPath:
    """A relative name that stays inside; Windows names too."""
    path = PurePosixPath(name.replace("\\", "/"))
    outside = path.is_absolute() or ".." in path.parts or not path.parts or "\0" in name or ":" in path.parts[0]
    if outside or any(len(part.encode()) > 250 for part in path.parts) or len(name) > 1000:
        raise DataError("holds a name that leads out of the folder, or is none", _HINT)
    return path
