"""A copy of a role's state folder in one file, while the role runs; and a folder from such a copy.

The file is a tar.gz, mode 0600: manifest.json (release, role, time, SHA-256 of every file), then the files. It holds the
role's private keys. Left out is what is made again: caches, material for later, logs, locks. What a role appends to is
copied up to its last whole line and before the SQLite files, which are copied by SQLite's own backup: a ledger knows
at least what the journal beside it says.
"""

import hashlib
import io
import json
import os
import sqlite3
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from shutil import rmtree
from typing import IO, Final

from primum.errors import InputError, MachineError

NODE: Final = "node"
COORDINATOR: Final = "coordinator"
DIAGNOSIS: Final = "dealer or server"

_KNOWN_BY: Final = {"pseudonym.key": NODE, "members.sqlite": COORDINATOR, "seal.key": DIAGNOSIS}
_LEFT_OUT: Final = frozenset({"images", "store", "parcels", "flower", "superlink", "lock", "metrics.prom"})
_LEFT_OUT_ENDINGS: Final = (".part", ".log", ".sock", "-journal", "-wal", "-shm")
_MANIFEST: Final = "manifest.json"
_FORMAT: Final = 1
_LARGEST_MANIFEST: Final = 64 * 1024 * 1024


@dataclass(frozen=True)
class Manifest:
    """What a backup holds: role, release, when it was made (seconds since 1970), SHA-256 by file name."""

    format: int
    role: str
    release: str
    made: float
    files: dict[str, str]


def role_of(folder: Path) -> str:
    """Whose state folder it is; InputError if it is none."""
    for name, role in _KNOWN_BY.items():
        if (folder / name).exists():
            return role
    raise InputError(f"{folder} is not the state folder of a role.", "Give the one that the role's --state has.")


def backup(folder: Path, file: Path, release: str) -> Manifest:
    """Copy `folder` into the new file `file`, mode 0600; the role may go on meanwhile.

    InputError if the folder is none of a role, or the file is there already or within the folder; MachineError where
    it cannot be written. Written whole or not at all.
    """
    role = role_of(folder)
    if file.exists() or file.resolve().is_relative_to(folder.resolve()):
        raise InputError(f"{file} is there already, or within the folder itself.", "Choose another name.")
    temporary = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        with tempfile.TemporaryDirectory(prefix=".primum-", dir=file.parent) as name:
            manifest = _copy(folder, Path(name), role, release)
            _pack(Path(name), manifest, temporary)
        temporary.replace(file)
    except (OSError, sqlite3.Error) as error:
        temporary.unlink(missing_ok=True)
        raise MachineError(f"{file} cannot be written: {error}.", "Nothing was changed in the folder.") from None
    return manifest


def _copy(folder: Path, into: Path, role: str, release: str) -> Manifest:
    made, files = time.time(), {}
    found = sorted(_wanted(folder), key=lambda path: (path.suffix == ".sqlite", path))
    for path in found:
        name = path.relative_to(folder).as_posix()
        target = into / name
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        _copy_one(path, target)
        files[name] = _digest(target)
    return Manifest(_FORMAT, role, release, made, files)


def _wanted(folder: Path) -> Iterator[Path]:
    for path in folder.rglob("*"):
        top = path.relative_to(folder).parts[0]
        left_out = top in _LEFT_OUT or path.name == "lock" or path.name.endswith(_LEFT_OUT_ENDINGS)
        if not left_out and path.is_file() and not path.is_symlink():
            yield path


def _copy_one(path: Path, target: Path) -> None:
    if path.suffix == ".sqlite":
        with closing(sqlite3.connect(path, timeout=10)) as source, closing(sqlite3.connect(target)) as copy:
            source.backup(copy)
        return
    data = path.read_bytes()
    if path.suffix == ".jsonl":
        data = data[: data.rfind(b"\n") + 1]
    target.write_bytes(data)


def _pack(folder: Path, manifest: Manifest, file: Path) -> None:
    with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as raw:
        with tarfile.open(fileobj=raw, mode="w:gz") as tar:
            _add(tar, _MANIFEST, json.dumps(asdict(manifest), indent=1).encode())
            for name in manifest.files:
                tar.add(folder / name, name, filter=_plain)
        raw.flush()
        os.fsync(raw.fileno())


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode, entry.mtime = len(data), 0o600, time.time()
    tar.addfile(entry, io.BytesIO(data))


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0o600, 0, 0, "", ""
    return entry


def restore(file: Path, folder: Path, finish: Callable[[Path, Manifest], None]) -> Manifest:
    """Make `folder` from the backup `file`. `finish(staging, manifest)` runs on the whole copy before it gets its name.

    InputError if the folder has anything in it, or the file is damaged, altered or none of ours; then, and where
    `finish` raises, there is no folder. MachineError where it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder} is not empty.", "A backup is never laid over a state: choose a new folder.")
    staging = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    try:
        staging.mkdir(mode=0o700, parents=True)
        manifest = _unpack(file, staging)
        finish(staging, manifest)
        if folder.exists():
            folder.rmdir()
        staging.rename(folder)
    except OSError as error:
        raise MachineError(f"{folder} cannot be made: {error}.", "Nothing was restored.") from None
    finally:
        rmtree(staging, ignore_errors=True)
    return manifest


def _unpack(file: Path, into: Path) -> Manifest:
    with _opened(file) as tar:
        manifest = _read_manifest(tar, file)
        missing = set(manifest.files)
        while (entry := tar.next()) is not None:  # a loop over `tar` would begin with the manifest again
            if entry.name not in missing or not entry.isreg():
                raise _damaged(file, f"has {entry.name[:100]!r} in it, which its manifest does not name once")
            missing.remove(entry.name)
            content = tar.extractfile(entry)
            target = into / entry.name
            target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            if content is None or _write(content, target) != manifest.files[entry.name]:
                raise _damaged(file, f"is damaged at {entry.name}")
        if missing:
            raise _damaged(file, f"lacks {min(missing)}")
    return manifest


@contextmanager
def _opened(file: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(file, "r|gz") as tar:
            yield tar
    except FileNotFoundError:
        raise InputError(f"{file} is not there.", "Give the file that `primum state backup` wrote.") from None
    except (tarfile.TarError, EOFError, ValueError) as error:
        raise _damaged(file, f"cannot be read: {error}") from None
    except OSError as error:  # gzip says so too where a byte is wrong
        if error.errno is not None:
            raise
        raise _damaged(file, f"cannot be read: {error}") from None


def _read_manifest(tar: tarfile.TarFile, file: Path) -> Manifest:
    entry = tar.next()
    if entry is None or entry.name != _MANIFEST or not entry.isreg() or entry.size > _LARGEST_MANIFEST:
        raise _damaged(file, "has no manifest")
    content = tar.extractfile(entry)
    data = json.loads(content.read() if content is not None else b"")
    try:
        manifest = Manifest(**data)
        named = all(_inside(name) and len(digest) == 64 for name, digest in manifest.files.items())
    except (TypeError, AttributeError):
        raise _damaged(file, "has no manifest") from None
    if manifest.format > _FORMAT:
        raise InputError(f"{file} was made by a newer release ({manifest.release}).", "Restore it with that release.")
    if not named:
        raise _damaged(file, "names files outside of its folder")
    return manifest


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and str(path) == name


def _write(content: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with os.fdopen(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as out:
        while part := content.read(1 << 20):
            digest.update(part)
            out.write(part)
        out.flush()
        os.fsync(out.fileno())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _damaged(file: Path, how: str) -> InputError:
    return InputError(f"{file} {how}.", "Use another backup; nothing was restored.")
