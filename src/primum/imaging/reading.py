"""Every image of a folder, read once: what is unchanged comes from the cache, the rest is decoded, on several cores.

`read_folder` and `read_masked_folder` say in a `Job` how one of their images is read; here it is decided whether it must
be. A job and what it gives travel between processes; the pseudonym key does not.
"""

import hashlib
import json
import multiprocessing
import os
import warnings
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from pydicom.filereader import read_partial
from torch import Tensor

from primum.errors import DataError, MachineError
from primum.imaging.cache import Found, Kind, Outcome, Store, forget, store_folder, store_folders
from primum.imaging.manifest import (
    Manifest,
    Record,
    Stamp,
    holds,
    read_sealed,
    same_file,
    seal_key,
    stamp,
    write_sealed,
)
from primum.imaging.prepare import Preparation
from primum.study import Labels

WORTH_PROCESSES: Final = 100 << 20
"""Bytes: less to decode is decoded by this process alone (about 10 s), as each other one takes seconds to start."""
_AHEAD: Final = 8
_MANIFEST: Final = "manifest"
_STUDY, _SERIES = 0x0020000D, 0x0020000E


class Job(ABC):
    """One image to read."""

    folder: Path

    @property
    @abstractmethod
    def meaning(self) -> str:
        """What beside the content of the files decides what they become; empty where nothing does."""

    @abstractmethod
    def parts(self) -> Sequence[str]:
        """The files that are read, relative to the folder, in an order that does not change. Raises DataError."""

    @abstractmethod
    def found(self) -> Found:
        """Read it. Raises nothing that is the file's fault."""


@dataclass(frozen=True)
class Read:
    """What became of one job. `content` names its pixels in the cache, empty where they are not kept."""

    content: str
    stamps: dict[str, Stamp] = field(repr=False)
    outcome: Outcome


@dataclass(frozen=True)
class _Done:
    content: str
    stamps: dict[str, Stamp] = field(repr=False)
    found: Found | None = field(repr=False)


class Reading:
    """One reading of a folder at one preparation: with the cache below `top`, or in memory alone where that is None.

    A context manager: what `finish` has not kept is removed at the end, unless the folder was refused as a whole: then
    what was decoded is kept, for when it has been put right. The manifest of each preparation lies beside its pixels.
    """

    def __init__(self, top: Path | None, preparation: Preparation, kind: Kind, key: bytes) -> None:
        self._top, self._seal = top, seal_key(key)
        self.store = Store(None if top is None else store_folder(top, preparation, kind), preparation, kind, key)
        folders = [] if top is None else store_folders(top)
        manifests = [read_sealed(one / _MANIFEST, Manifest, self._seal) for one in folders]
        stamps = [pair for found in manifests if found for pair in found.stamps.items()]
        self._before = dict(sorted(stamps, key=lambda pair: pair[1].changed_ns))  # the latest that is settled
        self._stamps: dict[str, Stamp] = {}
        self._contents: set[str] = set()

    def __enter__(self) -> "Reading":
        self.store.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(value, DataError) and self.store.folder is not None and self._contents:
            with suppress(MachineError):  # what is told is why the folder was refused
                self.store.commit([], self.store.known())
        self.store.__exit__(kind, value, trace)

    def each(self, jobs: Sequence[Job], cores: int) -> Iterator[Read]:
        """What became of each job, in order."""
        for read in read_all(jobs, self._before, self.store, cores):
            self._stamps.update(read.stamps)
            self._contents.add(read.content)
            yield read

    def finish(
        self,
        folder: Path,
        classes: tuple[str, ...],
        records: tuple[Record, ...],
        notices: tuple[str, ...],
        labels: Labels = "one",
    ) -> tuple[Manifest, Tensor, Tensor | None]:
        """The manifest, and the images and masks of what is used; both are kept. Raises MachineError."""
        idle, earlier = self._idle(folder, records)
        stamps = {part: earlier[part] for record in idle for part in record.parts} | self._stamps
        manifest = Manifest(classes, records, stamps, notices, idle, labels)
        others = self._contents | {record.content for record in idle}
        images, masks = self.store.commit([record.content for record in manifest.used], others)
        if self.store.folder is not None and self._top is not None:
            write_sealed(self.store.folder / _MANIFEST, manifest, self._seal)
            self._forget(folder, self._top, self.store.folder)
        return manifest, images, masks

    def _idle(self, folder: Path, records: tuple[Record, ...]) -> tuple[tuple[Record, ...], dict[str, Stamp]]:
        """What an earlier reading knew, nobody asks for now, and is still there; with the earlier stamps."""
        own = self.store.folder
        earlier = read_sealed(own / _MANIFEST, Manifest, self._seal) if own else None
        if earlier is None:
            return (), {}
        asked = {record.file for record in records}
        idle = tuple(
            record
            for record in (*earlier.records, *earlier.idle)
            if record.content
            and record.file not in asked
            and all(same_file(folder / part, earlier.stamps[part]) for part in record.parts)
        )
        return idle, earlier.stamps

    def _forget(self, folder: Path, top: Path, own: Path) -> None:
        """Remove the cache of any other preparation that has images which are gone, or others now, in this folder."""
        for other in store_folders(top):
            if other == own:
                continue
            found = read_sealed(other / _MANIFEST, Manifest, self._seal)
            if found is None or any(self._gone(folder, file, one) for file, one in found.stamps.items()):
                (other / _MANIFEST).unlink(missing_ok=True)
                forget(other)

    def _gone(self, folder: Path, file: str, before: Stamp) -> bool:
        now = self._stamps.get(file)
        return not (folder / file).exists() if now is None else now.sha256 != before.sha256


def read_all(
    jobs: Sequence[Job], before: Mapping[str, Stamp], store: Store, cores: int = 1, worth: int = WORTH_PROCESSES
) -> Iterator[Read]:
    """What became of each job, in order. `before`: stamps from an earlier reading; `worth`: so many bytes to decode
    are given to other processes. Raises MachineError (full disk)."""
    ready = [_unread(job, before, store.known()) for job in jobs]
    slow = [job for job, done in zip(jobs, ready, strict=True) if done is None]
    several = cores > 1 and sum(map(_bytes, slow)) >= worth
    rest = _in_processes(slow, before, store, cores) if several else (_read(job, before, store.known()) for job in slow)
    for done in ready:
        found = done or next(rest)
        if found.content and found.content in store.known():
            outcome = store.known()[found.content]
        elif found.found is not None:
            outcome = store.put(found.content, found.found)
        else:
            raise RuntimeError("an image was taken for known, and is not")
        yield Read(found.content, found.stamps, outcome)


def _bytes(job: Job) -> int:
    try:
        return sum((job.folder / part).stat().st_size for part in job.parts())
    except (DataError, OSError):
        return 0


def usable_cores() -> int:
    """Cores that this process may use; OMP_NUM_THREADS bounds them as it does for everything else here."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]
    return max(1, min(cores, int(asked) if asked.isdecimal() else cores))


def identifiers(path: Path) -> dict[str, Any]:
    """Study and series that a DICOM file names, from the beginning of its header; nothing where it names none."""
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")
            header = read_partial(
                file, lambda tag, vr, length: int(tag) > _SERIES, force=True, specific_tags=[_STUDY, _SERIES]
            )
            raw = {name: header.get_item(tag) for name, tag in (("study", _STUDY), ("series", _SERIES))}
            return {name: one.value.decode("ascii").rstrip("\0 ") for name, one in raw.items() if one and one.value}
    except Exception:  # what is wrong with the file was told when it was decoded
        return {}


def _unread(job: Job, before: Mapping[str, Stamp], known: Mapping[str, Outcome]) -> _Done | None:
    """The job without opening a file: all its files are as they were, and the cache has what they became."""
    try:
        parts = job.parts()
    except DataError:
        return None
    if not parts or not all(part in before and holds(job.folder / part, before[part]) for part in parts):
        return None
    stamps = {part: before[part] for part in parts}
    content = _content(job, stamps)
    return _Done(content, stamps, None) if content in known else None


def _read(job: Job, before: Mapping[str, Stamp], known: Iterable[str]) -> _Done:
    """Stamp the files, then read them unless the cache has what they hold."""
    try:
        stamps = {part: stamp(job.folder / part, before.get(part)) for part in job.parts()}
    except DataError as error:  # the reader of images has better words for the same
        found = job.found()
        return _Done("", {}, found if found.reason else Found.aside(error))
    content = _content(job, stamps)
    if content in known:
        return _Done(content, stamps, None)
    found = job.found()
    if not all(same_file(job.folder / part, stamps[part]) for part in stamps):
        changing = DataError("changes while it is read", "Try again when it has been copied.")
        return _Done("", {}, Found.aside(changing))
    return _Done("" if found.passing else content, stamps, found)


def _content(job: Job, stamps: Mapping[str, Stamp]) -> str:
    """The name of what files become: SHA-256 over their contents, and over what else decides it."""
    made = [job.meaning, *(one.sha256 for one in stamps.values())]
    return hashlib.sha256(json.dumps(made).encode()).hexdigest()


_worker: dict[str, object] = {}


def _begin(before: Mapping[str, Stamp], known: frozenset[str]) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"  # each process is one core's
    _worker.update(before=before, known=known)


def _work(job: Job) -> _Done:
    return _read(job, _worker["before"], _worker["known"])  # type: ignore[arg-type]


def _in_processes(jobs: Sequence[Job], before: Mapping[str, Stamp], store: Store, cores: int) -> Iterator[_Done]:
    """In order, never more than a few ahead. Threads would wait for each other: most of the time is Python's.

    If a process dies (a decoder crashed, no memory), the rest is read here.
    """
    context = multiprocessing.get_context("spawn")
    waiting = deque[tuple[Job, Future[_Done]]]()
    left = deque(jobs)
    with ProcessPoolExecutor(cores, context, _begin, (dict(before), frozenset(store.known()))) as pool:
        try:
            while left or waiting:
                while left and len(waiting) < cores * _AHEAD:
                    waiting.append((left[0], pool.submit(_work, left[0])))
                    left.popleft()
                done = waiting[0][1].result()
                waiting.popleft()
                yield done
        except BrokenProcessPool:
            left.extendleft(job for job, _ in reversed(waiting))
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    for job in left:
        yield _read(job, before, store.known())
