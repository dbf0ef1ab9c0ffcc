"""Prepared images kept in the node's state folder: decoded once, then used through a memory map.

One folder for each preparation: `index` (sealed, manifest.py), and the pixels as plain rows: float32 [channels, size,
size] of each image, with masks uint8 [size, size] beside them (of patches [depth, size, size]), in files named by their
content. Rows are named by the content of the files that they were made from, so that a renamed or a touched file is not
decoded again.

Trusted is only what is proved when it is opened: the seal of the index, which is of this node; what made the rows
(preparation, the code of this package, the versions of its decoders); and SHA-256 of each image. At opening and not at
first use, because a tensor over a memory map is read where nobody could check it; it costs about a second for each GB.
What fails is decoded again. Pixels are written first, the index that names them last: a full disk or an interrupted
build leaves the old index with its pixels, or none.

The rows are images of patients in clear. They are protected as the state folder is (folder 0700, files 0600) and by
nothing else: use an encrypted disk. An image that is gone from the data folder is removed from here when the folder is
next read: its row at that preparation, at any other the whole cache (reading.py). Nobody else may write these files:
whoever cuts one short while it is mapped ends the process that uses it.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum.errors import DataError, MachineError
from primum.imaging.image import Pixels
from primum.imaging.manifest import read_sealed, seal_key, write_sealed
from primum.imaging.patient import canonical, pseudonym
from primum.imaging.prepare import Preparation

Mask = npt.NDArray[np.uint8]
Kind = Literal["labels", "masks"]

_DECODERS: Final = (
    "gdcm", "highdicom", "nibabel", "numpy", "pillow", "pydicom", "pylibjpeg-openjpeg", "python-gdcm",
)  # fmt: skip
_INDEX: Final = "index"
_PART: Final = ".part"
_NAME: Final = 16


@dataclass(frozen=True)
class Found:
    """What reading one image gave: prepared pixels (and masks), or the reason why not. On its way into the cache.

    `format` is empty where nothing could be decoded. `patient`, `study`, `series` as the file names them. `spacing`,
    `grid`, `file_spacing`: as in `Record`.
    """

    format: str = ""
    notices: tuple[str, ...] = ()
    patient: str = field(default="", repr=False)
    study: str = field(default="", repr=False)
    series: str = field(default="", repr=False)
    images: Pixels | None = field(default=None, repr=False)
    masks: Mask | None = field(default=None, repr=False)
    spacing: tuple[float, ...] = ()
    grid: tuple[int, ...] = ()
    file_spacing: tuple[float, ...] = ()
    reason: str = ""
    hint: str = ""
    passing: bool = False

    @classmethod
    def aside(cls, error: DataError, **known: Any) -> "Found":
        """The reason why not; `passing` where it is this computer's (memory, disk) and not the file's."""
        cause = error.__cause__
        passing = isinstance(cause, MemoryError) or (isinstance(cause, OSError) and cause.errno is not None)
        return cls(reason=error.message, hint=error.hint, passing=passing, **known)


@dataclass(frozen=True)
class Outcome:
    """What one content became. `count` images, 0 where it is set aside for `reason`; `digest`: SHA-256 of their pixels.

    `patient`, `study`, `series`: pseudonyms, empty where the file names none. `drawn`: in how many of the masks a pixel
    is of each class. `spacing`, `grid`, `file_spacing`: as in `Record`.
    """

    format: str
    notices: tuple[str, ...]
    patient: str = field(repr=False)
    study: str = field(repr=False)
    series: str = field(repr=False)
    count: int
    digest: str
    mask_digest: str
    drawn: tuple[int, ...]
    spacing: tuple[float, ...]
    grid: tuple[int, ...]
    file_spacing: tuple[float, ...]
    reason: str
    hint: str


@dataclass(frozen=True)
class _Index:
    """`outcomes` in the order of their rows; `files`: those of images and of masks."""

    recipe: str
    files: dict[str, str]
    outcomes: dict[str, Outcome]


class Store:
    """Prepared images of one preparation, by content; in memory alone where `folder` is None.

    Use as a context manager: what `commit` has not made part of the cache is removed at the end. Raises MachineError
    where the disk is full.
    """

    def __init__(self, folder: Path | None, preparation: Preparation, kind: Kind, key: bytes) -> None:
        self._key, self._seal = key, seal_key(key)
        self._recipe = recipe(preparation, kind)
        self._shapes: dict[str, tuple[int, ...]] = {"images": (preparation.channels, *preparation.shape)}
        if kind == "masks":
            self._shapes["masks"] = preparation.shape
        self._outcomes: dict[str, Outcome] = {}
        self._places: dict[str, tuple[str, int]] = {}  # content -> in which files, first row
        self._memory: dict[tuple[str, str], npt.NDArray[Any]] = {}
        self._files: dict[tuple[str, str], Path] = {}
        self._spool: dict[str, IO[bytes]] = {}
        self._spooled = 0
        self._whole = True  # the files hold what the index says, and nothing else
        self.folder = folder
        if folder is not None:
            self._open(folder)

    def __enter__(self) -> "Store":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for file in self._spool.values():
            with suppress(OSError):  # a full disk says so again
                file.close()
        self._spool = {}
        if self.folder is not None:
            _remove(self.folder, lambda name: name.endswith(_PART))

    def known(self) -> dict[str, Outcome]:
        """What is there, by content."""
        return self._outcomes

    def put(self, content: str, found: Found) -> Outcome:
        """Keep what reading gave; with an empty `content` a reason is not kept, and will be looked for again."""
        images = np.zeros(0, np.float32) if found.images is None else np.ascontiguousarray(found.images, np.float32)
        masks = np.zeros(0, np.uint8) if found.masks is None else np.ascontiguousarray(found.masks)
        count = images.size // int(np.prod(self._shapes["images"]))
        outcome = Outcome(
            format=found.format,
            notices=found.notices,
            patient=self._pseudonym(found.patient),
            study=self._pseudonym(found.study),
            series=self._pseudonym(found.series),
            count=count,
            digest=_digest(images.ravel().data) if count else "",
            mask_digest=_digest(masks.ravel().data) if len(masks) else "",
            drawn=tuple(drawn(masks)) if len(masks) else (),
            spacing=found.spacing,
            grid=found.grid,
            file_spacing=found.file_spacing,
            reason=found.reason,
            hint=found.hint,
        )
        if count:
            self._keep(content, count, {"images": images.ravel(), "masks": masks.ravel()})
        if content:
            self._outcomes[content] = outcome
            self._whole = False
        return outcome

    def _pseudonym(self, name: str) -> str:
        return pseudonym(name, self._key) if canonical(name) else ""

    def _keep(self, content: str, count: int, arrays: dict[str, npt.NDArray[Any]]) -> None:
        if self.folder is None:
            for name in self._shapes:
                self._memory[content, name] = arrays[name]
            return
        with _space(self.folder):
            for name in self._shapes:
                if name not in self._spool:
                    path = self.folder / f"{name}.{os.getpid()}{_PART}"
                    self._files["spool", name] = path
                    self._spool[name] = _private(path)
                self._spool[name].write(arrays[name].data)
        self._places[content] = "spool", self._spooled
        self._spooled += count

    def commit(self, wanted: Sequence[str], others: Iterable[str] = ()) -> tuple[Tensor, Tensor | None]:
        """The images, and masks, of `wanted` in this order; `others` are kept for another time, the rest forgotten.

        Float32 [n, channels, *shape] over a private memory map: what is written to it is seen by nobody else.
        """
        chosen, also = set(wanted), set(others)
        kept = [content for content in self._outcomes if content in also and content not in chosen]
        order = [*wanted, *kept]
        count = sum(self._outcomes[content].count for content in wanted)
        if self.folder is None:
            tensors = {name: self._gathered(name, wanted, count) for name in self._shapes}
        else:
            with _space(self.folder):
                if not self._whole or order != list(self._outcomes):
                    self._rewrite(self.folder, order)
                tensors = {name: self._mapped(name, count) for name in self._shapes}
        return tensors["images"], tensors.get("masks")

    def _gathered(self, name: str, wanted: Sequence[str], count: int) -> Tensor:
        """Each piece is let go when it has been copied: not everything is held twice."""
        whole = np.empty((count, *self._shapes[name]), _TYPES[name])
        at = 0
        for content in wanted:
            rows = self._outcomes[content].count
            whole[at : at + rows] = self._memory.pop((content, name)).reshape(rows, *self._shapes[name])
            at += rows
        return torch.from_numpy(whole)

    def _mapped(self, name: str, count: int) -> Tensor:
        if not count:
            return torch.from_numpy(np.empty((0, *self._shapes[name]), _TYPES[name]))
        path = self._files["kept", name]
        return torch.from_numpy(np.memmap(path, _TYPES[name], "c", shape=(count, *self._shapes[name])))

    def _rewrite(self, folder: Path, order: list[str]) -> None:
        """Pixels in the new order, then the index, then nothing else."""
        for file in self._spool.values():
            file.close()
        self._spool, ready = {}, self._is_spool(order)
        digests = [self._outcomes[content].digest + self._outcomes[content].mask_digest for content in order]
        names = {name: f"{name}-{_digest(json.dumps([order, digests]).encode())[:24]}" for name in self._shapes}
        for name in self._shapes:
            part = self._files["spool", name] if ready else folder / f"{names[name]}{_PART}"
            if not ready:
                with _private(part) as out:
                    out.writelines(self._pieces(name, order))
            part.replace(folder / names[name])
        self._outcomes = {content: self._outcomes[content] for content in order}
        write_sealed(folder / _INDEX, _Index(self._recipe, names, self._outcomes), self._seal)
        self._settle(folder, names)
        _remove(folder, lambda file: file.startswith(tuple(_TYPES)) and file not in names.values())

    def _is_spool(self, order: list[str]) -> bool:
        """Whether what was put, as it lies there, is what is wanted."""
        first = 0
        for content in order:
            if count := self._outcomes[content].count:
                if self._places[content] != ("spool", first):
                    return False
                first += count
        return 0 < first == self._spooled

    def _pieces(self, name: str, order: list[str]) -> Iterable[bytes]:
        """The bytes of each content in `order`, from the files that hold them now."""
        length = self._row_bytes(name)
        opened: dict[str, IO[bytes]] = {}
        try:
            for content in order:
                if (count := self._outcomes[content].count) == 0:
                    continue
                where, first = self._places[content]
                if where not in opened:
                    opened[where] = self._files[where, name].open("rb")
                opened[where].seek(first * length)
                yield opened[where].read(count * length)
        finally:
            for file in opened.values():
                file.close()

    def _row_bytes(self, name: str) -> int:
        return int(np.prod(self._shapes[name])) * np.dtype(_TYPES[name]).itemsize

    def _settle(self, folder: Path, names: dict[str, str]) -> None:
        """Every content lies in the kept files, in the order of the outcomes."""
        self._files = {("kept", name): folder / file for name, file in names.items()}
        first, self._places, self._spooled = 0, {}, 0
        for content, outcome in self._outcomes.items():
            self._places[content] = "kept", first
            first += outcome.count
        self._whole = True

    def _open(self, folder: Path) -> None:
        try:
            folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
            folder.chmod(0o700)
        except OSError as error:
            raise MachineError(f"{folder} cannot be made: {error.strerror}.", "Check its permissions.") from error
        _remove(folder, lambda name: name.endswith(_PART))
        index = read_sealed(folder / _INDEX, _Index, self._seal)
        if index is None or index.recipe != self._recipe or index.files.keys() != self._shapes.keys():
            self._whole = False
            return
        self._outcomes = dict(index.outcomes)
        self._settle(folder, index.files)
        damaged = self._damaged()
        for content in damaged:
            del self._outcomes[content]
        self._whole = not damaged

    def _damaged(self) -> set[str]:
        """Contents whose rows are not what the index says, or not there."""
        found: set[str] = set()
        for name in self._shapes:
            contents = [content for content, outcome in self._outcomes.items() if outcome.count]
            try:
                for content, data in zip(contents, self._pieces(name, contents), strict=True):
                    outcome = self._outcomes[content]
                    if _digest(data) != (outcome.digest if name == "images" else outcome.mask_digest):
                        found.add(content)
            except OSError:
                found.update(contents)
        return found


_TYPES: Final[dict[str, type[np.generic]]] = {"images": np.float32, "masks": np.uint8}


def store_folder(top: Path, preparation: Preparation, kind: Kind) -> Path:
    """The folder of one preparation below `top`."""
    return top / _digest(json.dumps([asdict(preparation), kind], sort_keys=True).encode())[:_NAME]


def store_folders(top: Path) -> list[Path]:
    """The folders of all preparations below `top`."""
    return sorted(path for path in top.glob("[0-9a-f]" * _NAME) if path.is_dir())


def forget(folder: Path) -> None:
    """Remove the cache of one preparation: the index first, so that nothing names pixels that are not there."""
    (folder / _INDEX).unlink(missing_ok=True)
    _remove(folder, lambda name: name.endswith(_PART) or name.startswith(tuple(_TYPES)))
    with suppress(OSError):
        folder.rmdir()


@cache
def recipe(preparation: Preparation, kind: Kind) -> str:
    """All that decides which pixels a file becomes: a cache of another recipe is not used.

    Of the code of this package a digest stands in it, so that nobody must remember to raise a number.
    """
    code = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        code.update(path.name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    made = {"preparation": asdict(preparation), "kind": kind, "code": code.hexdigest(), "decoders": _versions()}
    return json.dumps(made, sort_keys=True)


def _versions() -> dict[str, str]:
    found = {}
    for name in _DECODERS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def drawn(masks: Mask) -> list[int]:
    """In how many of the masks [n, size, size] a pixel is of each class, up to the highest."""
    flat = masks.reshape(len(masks), -1)
    return [int((flat == place).any(1).sum()) for place in range(int(masks.max(initial=0)) + 1)]


def _digest(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()


def _private(path: Path) -> IO[bytes]:
    """A new file, mode 0600 from its first byte."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb")


def _remove(folder: Path, chosen: Callable[[str], bool]) -> None:
    for path in list(folder.iterdir()):
        if chosen(path.name):
            path.unlink(missing_ok=True)


class _space:
    """OSError in the block becomes a MachineError that names the folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, OSError):
            raise MachineError(
                f"the cache of images in {self._folder} cannot be written: {value.strerror}.",
                "Free some space or change the permissions; the old cache is as it was.",
            ) from value
