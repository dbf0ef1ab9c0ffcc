"""Real processes on loopback: a coordinator and hospitals, each with a state folder, behind a proxy that keeps bytes."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.command import Forked
from tests.federation.playing import PATTERN, write_images

from primum.federation.coordinator import State
from primum.federation.node import NodeState
from primum.federation.runs import Run
from primum.federation.scientist import Scientist, SubmitRequest, Submitted
from primum.ports import free_port
from primum.study import Study, sign_study

PATIENCE = 90.0


def wait_for(condition: Callable[[], bool], what: str, patience: float = PATIENCE) -> None:
    """Until the condition holds; fails after `patience` seconds with what was waited for."""
    until = time.monotonic() + patience
    while not condition():
        if time.monotonic() > until:
            raise AssertionError(f"waited {patience:g} s for {what}")
        time.sleep(0.05)


@dataclass
class Process:
    """One `primum` process; what it says is in `log`. `anew`: by an interpreter of its own, as users start it."""

    log: Path
    arguments: tuple[str, ...]
    child: "subprocess.Popen[bytes] | Forked" = field(init=False)
    surroundings: dict[str, str] = field(default_factory=dict)
    where: Path | None = None
    anew: bool = False

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        environment = {**os.environ, "PYTHONUNBUFFERED": "1", "OMP_NUM_THREADS": "1", "COLUMNS": "200"}
        environment |= self.surroundings
        if not self.anew:
            self.log.touch()
            self.child = Forked(self.arguments, self.log, self.log, environment, self.where)
            return
        with self.log.open("ab") as output:
            self.child = subprocess.Popen(
                [sys.executable, "-m", "primum", *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=environment,
                cwd=self.where,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, text: str, times: int = 1) -> None:
        """Wait until it has said it so many times."""

        def said() -> bool:
            assert self.child.poll() is None or self.text().count(text) >= times, f"ended: {self.text()[-2000:]}"
            return self.text().count(text) >= times

        wait_for(said, f"{text!r} in {self.log.name}")

    def kill(self) -> None:
        self.child.kill()
        self.child.wait()

    def end(self) -> None:
        """Whatever is left of it and of what it started."""
        tree = descendants(self.child.pid)
        if self.child.poll() is None:
            self.child.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.child.wait(timeout=10)
        with suppress(ProcessLookupError):
            os.killpg(self.child.pid, signal.SIGKILL)
        for pid in tree:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.child.wait()


def descendants(pid: int) -> list[int]:
    """All processes that this one started, and that those started."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                parents.setdefault(parent, []).append(int(entry.name))
    found, waiting = [], [pid]
    while waiting:
        children = parents.get(waiting.pop(), [])
        found += children
        waiting += children
    return found


def alive(pid: int) -> bool:
    """Whether it runs (a zombie does not)."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def open_files(pid: int) -> set[str]:
    """All that a process has open: paths, and socket:[N]."""
    found = set()
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                found.add(str(link.readlink()))
    return found


def open_sockets(pids: list[int]) -> list[tuple[str, str, str, bool]]:
    """Kind, near end, far end (hex address:port) and whether it listens, of each socket of the internet they have open."""
    theirs, found = set[str]().union(*map(open_files, pids)), []
    for kind in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]:
            parts = line.split()
            if f"socket:[{parts[9]}]" in theirs:
                found.append((kind, parts[1], parts[2], parts[3] == "0A"))
    return found


class Proxy:
    """A TCP proxy that keeps every byte of both ways."""

    def __init__(self, target: int) -> None:
        self.target, self.recorded = target, bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self.target), timeout=5)
                far.settimeout(None)
            except OSError:
                near.close()
                continue
            for end in (near, far):  # else each small write waits 40 ms for the other side's word on the one before
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [near, far]
            for one, other in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._carry, args=(one, other), daemon=True))
                self._threads[-1].start()

    def _carry(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            one.settimeout(None)
            while data := one.recv(1 << 16):
                self.recorded += data
                other.sendall(data)
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        one.close()

    def cut(self) -> None:
        """Break all connections; new ones are let in."""
        cut, self._open = self._open, []
        for end in cut:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """When nobody is connected any more."""
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(timeout=5)
        self._listener.close()


@dataclass
class Cluster:
    """A coordinator, a proxy before it, and four hospitals that reach it through the proxy."""

    folder: Path
    state: State = field(init=False)
    coordinator: Process = field(init=False)
    proxy: Proxy = field(init=False)
    nodes: dict[int, Process] = field(default_factory=dict)
    port: int = field(default_factory=free_port)
    anew: bool = False

    def __post_init__(self) -> None:
        self.state = State.open(self.folder / "coordinator")
        arguments = ("coordinator", "--state", str(self.state.folder), "--port", str(self.port))
        self.coordinator = Process(self.folder / "coordinator.log", arguments, anew=self.anew)
        self.coordinator.says("Coordinator ready")
        self.proxy = Proxy(self.port)
        for number in range(1, 5):
            self.add(number)
        for node in self.nodes.values():
            node.says("Connected")

    def node_state(self, number: int) -> NodeState:
        return NodeState.open(self.folder / f"hospital-{number}")

    def add(self, number: int) -> None:
        state = self.node_state(number)
        images = write_images(self.folder / f"images-{number}", 100 * number)
        if number == 2:  # as exports are: a few files that nobody can read
            (images / "clear" / "p299_0.png").write_bytes(next(images.glob("shadow/*")).read_bytes()[:60])
            (images / "clear" / "notes.txt").write_text("nothing to see")
            (images / "shadow" / "p298_0.dcm").touch()
        self.allow(number)
        join = self.folder / f"{number}.join"
        join.write_text(self.state.invite(f"Hospital {number}", f"127.0.0.1:{self.proxy.port}"))
        arguments = ("node", "--join", str(join), "--data", str(self.folder / f"images-{number}"))
        self.nodes[number] = Process(
            self.folder / f"node-{number}.log",
            (*arguments, "--state", str(state.folder), "--patient", PATTERN),
            anew=self.anew or number == 4,
        )

    def allow(self, number: int, epsilon_cap: float = 200.0) -> None:
        path = self.node_state(number).folder / "policy.toml"
        path.write_text(f"epsilon_cap = {epsilon_cap}\nrdp_order = 8\n")

    @property
    def identities(self) -> dict[int, bytes]:
        return {number: self.node_state(number).identity.public for number in self.nodes}

    @property
    def scientist(self) -> Scientist:
        return Scientist.at(self.state.folder)

    def submit(self, study: Study) -> Run:
        """As `primum train`, but with the noise that the study names already."""
        scientist = self.scientist
        name = scientist._ask(SubmitRequest(sign_study(study, scientist.identity)), Submitted).name
        return Run(self.state.runs / name)

    def finished(self, run: Run) -> None:
        wait_for(lambda: run.status().get("state") in ("finished", "failed"), "the end of the run", 150)
        assert run.status()["state"] == "finished", run.status()

    def close(self) -> None:
        for process in (*self.nodes.values(), self.coordinator):
            process.end()
        self.proxy.close()
