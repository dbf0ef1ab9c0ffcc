"""The computer's checks: disk, memory, processor, state folder, rules, images, and what must be installed."""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

from primum.doctor.findings import FAILED, OK, WARNING, Finding
from primum.errors import DataError, InputError, MachineError, PrimumError
from primum.federation.alone import is_held
from primum.federation.node_settings import NodeSettings
from primum.federation.policy import Policy

_GIB: Final = 1 << 30
_DISK: Final = (1 * _GIB, 5 * _GIB)  # below the first it fails, below the second it warns
_MEMORY: Final = (1 * _GIB, 3 * _GIB)
_READING: Final = 20.0  # seconds that images may take
_CODE: Final = MachineError.exit_code


def examine_machine(
    state: Path, side: Literal["node", "coordinator"], data: Path | None, patients: NodeSettings | None = None
) -> Iterator[Finding]:
    """Findings of this computer for a node's or a coordinator's work; `patients`: where they are named, if not as before."""
    yield _state_folder(state, side)
    yield _disk(state)
    yield _memory()
    yield _processor()
    if side == "coordinator":
        return
    yield _graphics()
    yield _running(state)
    yield _policy(state)
    if data is not None:
        yield _images(state, data, patients)


def _state_folder(state: Path, side: str) -> Finding:
    state = state.absolute()
    existing = _existing(state)
    try:
        with tempfile.NamedTemporaryFile(dir=existing, prefix=".primum-doctor-"):
            pass
    except OSError as error:
        seen = f"{existing} cannot be written: {(error.strerror or '').lower()}"
        return Finding("state folder", FAILED, seen, "Choose another --state, or change its permissions.", _CODE)
    if existing != state:
        return Finding("state folder", OK, f"{state} is not there yet, and can be made")
    if state.stat().st_mode & 0o077:
        todo = f"It holds private keys: chmod 700 {state} (the {side} does so at its start)."
        return Finding("state folder", WARNING, f"others of this computer can look into {state}", todo)
    return Finding("state folder", OK, f"{state} can be written, and is private")


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _disk(state: Path) -> Finding:
    free = shutil.disk_usage(_existing(state)).free
    return _enough("disk", free, _DISK, "free where the state folder is", "Free some space, or choose another --state.")


def _memory() -> Finding:
    try:
        free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        with Path("/proc/meminfo").open(encoding="ascii") as lines:
            free = next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return Finding("memory", WARNING, "this system does not say how much is free")
    return _enough("memory", free, _MEMORY, "of memory free", "End other programs; large models need more.")


def _enough(check: str, free: int, needed: tuple[int, int], what: str, todo: str) -> Finding:
    seen = f"{free / _GIB:.1f} GiB {what}"
    if free < needed[0]:
        return Finding(check, FAILED, seen, todo, _CODE)
    return Finding(check, OK, seen) if free >= needed[1] else Finding(check, WARNING, seen, todo)


def _processor() -> Finding:
    from primum.imaging.reading import usable_cores

    cores = usable_cores()
    return Finding("processor", OK, f"{cores} core{'s' if cores > 1 else ''}")


def _graphics() -> Finding:
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found = f"{torch.cuda.get_device_name()}, {free / _GIB:.0f} of {total / _GIB:.0f} GiB free"
        return Finding("GPU", OK, f"{found}; a node that is started with --device cuda trains on it")
    if shutil.which("nvidia-smi"):
        todo = "Install PyTorch for CUDA, or go on: everything works on the processor."
        return Finding("GPU", WARNING, "there seems to be one, and PyTorch cannot use it", todo)
    return Finding("GPU", OK, "none: the processor trains")


def _running(state: Path) -> Finding:
    if is_held(state):
        todo = "Only one at a time: end it before you start another with this folder."
        return Finding("other node", WARNING, f"a node is running with {state}", todo)
    return Finding("other node", OK, f"none is running with {state}")


def _policy(state: Path) -> Finding:
    try:
        policy = Policy.read(state / "policy.toml")
    except InputError as error:
        return Finding.of_error("policy", error)
    if policy is None:
        return Finding("policy", OK, "no policy.toml: a person decides on each study")
    return Finding("policy", OK, "policy.toml can be read")


def _images(state: Path, data: Path, patients: NodeSettings | None) -> Finding:
    """By the same reading as `primum inspect`, given up after some seconds."""
    from primum.imaging import Intake, PatientSource, Preparation, holds_masks, look, reader_of

    until = time.monotonic() + _READING
    seen = [0, 0]

    def progress(done: int, total: int) -> None:
        seen[:] = [done, total]
        if time.monotonic() > until:
            raise _Enough

    try:
        settings = patients or NodeSettings.read(state / "node.toml")
        source = PatientSource(settings.patient, settings.one_image_per_patient)
        read = reader_of(masked=holds_masks(data), labels=settings.labels)
        key = os.urandom(32)

        def at(preparation: Preparation) -> Intake:
            return read(data, preparation=preparation, patients=source, pseudonym_key=key, progress=progress)

        intake = look(at)
    except _Enough:
        words = f"{seen[0]:,} of {seen[1]:,} files looked at in {_READING:g} s"
        return Finding("images", OK, words, f"`primum inspect {data}` looks at all of them.")
    except DataError as error:
        return Finding("images", FAILED, error.message, error.hint, error.exit_code)
    except PrimumError as error:
        return Finding.of_error("images", error)
    words = f"{len(intake.dataset):,} images of {intake.dataset.patient_count:,} patients"
    if intake.problems:
        todo = f"`primum inspect {data}` names them."
        return Finding("images", WARNING, f"{words}; {len(intake.problems):,} files cannot be used", todo)
    return Finding("images", OK, words)


class _Enough(Exception):
    pass
