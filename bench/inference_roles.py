"""Dealer, server A and server B of a deployment, each a process with one thread, on loopback."""

import contextlib
import os
import queue
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from primum.diagnosis.deploy import NAMES, PUBLIC, deploy
from primum.diagnosis.deployable import Deployable
from primum.diagnosis.deployment import PublicFile, load_public
from primum.diagnosis.roles import RoleCard, free_address, make_role

PRIMUM = [sys.executable, "-c", "from primum.cli import main; main()"]
START_SECONDS = 180.0
Process = subprocess.Popen[str]


@contextlib.contextmanager
def roles(model: Deployable, delay: float = 0.0) -> Iterator[tuple[PublicFile, dict[str, Process]]]:
    """The public file and the running processes. `delay`: seconds that every byte between two processes takes."""
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as running:
        folder = Path(name)
        listen = {role: free_address() for role in ("dealer", "A", "A link", "B", "B link")}
        shown = running.enter_context(_delayed(listen, delay)) if delay else listen
        cards: dict[str, RoleCard] = {"dealer": make_role("dealer", folder / "dealer", shown["dealer"])}
        for role in ("A", "B"):
            cards[role] = make_role("server", folder / role, shown[role], shown[f"{role} link"])
        deploy(model, cards["dealer"], cards["A"], cards["B"], folder / "files")
        processes = {}
        for role in ("dealer", "A", "B"):
            verb = ["dealer"] if role == "dealer" else ["serve", "--listen-link", listen[f"{role} link"]]
            file = str(folder / "files" / NAMES[role])
            command = [*PRIMUM, *verb, file, "--state", str(folder / role), "--listen", listen[role], "--threads", "1"]
            processes[role] = running.enter_context(_ready(command))
        yield load_public(folder / "files" / PUBLIC), processes


@contextlib.contextmanager
def _started(command: list[str]) -> Iterator[Process]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    try:
        yield process
    finally:
        process.terminate()
        process.wait(30)


def _lines(process: Process, count: int) -> list[str]:
    got: queue.Queue[str] = queue.Queue()
    assert process.stdout is not None
    out = process.stdout
    threading.Thread(target=lambda: [got.put(out.readline()) for _ in range(count)], daemon=True).start()
    return [got.get(timeout=START_SECONDS).strip() for _ in range(count)]


@contextlib.contextmanager
def _ready(command: list[str]) -> Iterator[Process]:
    with _started(command) as process:
        if not _lines(process, 1)[0].startswith("READY"):
            raise RuntimeError(f"{' '.join(command)} did not start")
        yield process


@contextlib.contextmanager
def _delayed(listen: dict[str, str], seconds: float) -> Iterator[dict[str, str]]:
    command = [sys.executable, "-m", "bench.delay", str(seconds), *listen.values()]
    with _started(command) as process:
        yield dict(zip(listen, _lines(process, len(listen)), strict=True))


def resident_megabytes(process: Process) -> float:
    """The most memory that a process has had."""
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1e3 for line in lines if line.startswith("VmHWM"))
