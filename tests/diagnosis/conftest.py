"""A deployment of three real processes on loopback, each with a state folder of its own."""

import contextlib
import os
import signal
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from tests.command import Forked, run_command

from primum.diagnosis.deploy import NAMES, PUBLIC, deploy
from primum.diagnosis.deployable import Deployable, deployable_model
from primum.diagnosis.deployment import PublicFile, load_public
from primum.diagnosis.roles import RoleCard, free_address, make_role
from primum.imaging import Preparation
from primum.keys.identity import Identity
from primum.models.answers import outputs_for
from primum.models.card import Card, TrainedModel, load_model, save_model
from primum.models.feature_map import ScatteringCard
from primum.models.scattering import FrontEnd
from primum.study import Labels

SIZE, SCALES = 16, 1
START_SECONDS = 60


def make_model(
    folder: Path,
    classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA"),
    norm: float = 6.0,
    labels: Labels = "one",
) -> TrainedModel:
    """A model with random weights of length `norm`, saved and loaded again."""
    front_end = FrontEnd(SIZE, SCALES)
    weight = torch.randn(outputs_for(len(classes), labels), front_end.dimension)
    card = Card(
        labels=labels,
        classes=classes,
        front_end=ScatteringCard(size=SIZE, scales=SCALES),
        preparation=Preparation(SIZE).to_card(),
        privacy={"epsilon": 3.0},
        trained={"rounds": 1},
    )
    save_model(folder, {"weight": weight * (norm / weight.norm(dim=1, keepdim=True))}, card)
    return load_model(folder)


def images(count: int) -> torch.Tensor:
    """Drawn images, float32 [count, 1, SIZE, SIZE]: blobs on noise."""
    axis = torch.linspace(-1, 1, SIZE)
    places = torch.rand(count, 2, 1, 1) * 2 - 1
    blob = torch.exp(-4 * ((axis[None, :, None] - places[:, 0]) ** 2 + (axis[None, None] - places[:, 1]) ** 2))
    return (0.7 * blob + 0.3 * torch.rand(count, SIZE, SIZE)).unsqueeze(1)


def used_records(state: Path) -> list[tuple[int, int, bytes]]:
    """(first, count, request) of every record in a state folder."""
    data = (state / "used.bin").read_bytes()
    assert len(data) % 56 == 0
    return [struct.unpack_from(">QQ32s", data, place) for place in range(0, len(data), 56)]


@dataclass
class Role:
    """One running process."""

    process: Forked
    out: Path
    ready: str = ""


@dataclass
class Cluster:
    """Model, deployment files, state folders and processes in one folder."""

    folder: Path
    model: TrainedModel | None
    listen: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, Role] = field(default_factory=dict)
    options: dict[str, list[str]] = field(default_factory=dict)
    before: str = ""
    """Python that every role runs first, to set a constant."""

    @classmethod
    def make(
        cls,
        folder: Path,
        classes: tuple[str, ...] = ("NORMAL", "PNEUMONIA"),
        coarse: bool = False,
        via: Callable[[str], str] = lambda address: address,
        owner: Identity | None = None,
        tokens: bool = False,
        network: Deployable | None = None,
    ) -> "Cluster":
        """Keys, cards and files; `via` maps an address to the one that stands in the card (a proxy's).

        `network` is deployed instead of a drawn linear model.
        """
        made = cls(folder, None if network else make_model(folder / "model", classes))
        addresses = {name: free_address() for name in ("dealer", "A", "A link", "B", "B link")}
        cards: dict[str, RoleCard] = {"dealer": make_role("dealer", folder / "dealer", via(addresses["dealer"]))}
        for role in ("A", "B"):
            cards[role] = make_role("server", folder / role, via(addresses[role]), via(addresses[f"{role} link"]))
            made.listen[role] = ["--listen", addresses[role], "--listen-link", addresses[f"{role} link"]]
        made.listen["dealer"] = ["--listen", addresses["dealer"]]
        model = network or deployable_model(made.model, coarse=coarse)
        files = folder / "files"
        deploy(model, cards["dealer"], cards["A"], cards["B"], files, identity=owner, tokens=tokens)
        return made

    @property
    def public(self) -> PublicFile:
        return load_public(self.folder / "files" / PUBLIC)

    def file(self, role: str) -> Path:
        return self.folder / "files" / NAMES[role]

    def arguments(self, role: str) -> list[str]:
        verb = "dealer" if role == "dealer" else "serve"
        options = [*self.listen[role], *self.options.get(role, [])]
        return [verb, str(self.file(role)), "--state", str(self.folder / role), *options]

    def start(self, *roles: str) -> "Cluster":
        """Start roles (all without arguments) and wait until each says READY."""
        roles = roles or ("dealer", "A", "B")
        for role in roles:
            out, log = self.folder / f"{role}.out", self.folder / f"{role}.log"
            out.write_text("")
            log.touch()
            process = Forked(tuple(self.arguments(role)), out, log, dict(os.environ), before=self.before)
            self.running[role] = Role(process, out)
        for role in roles:
            self._ready(self.running[role], role)
        return self

    def _ready(self, running: Role, role: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not (said := running.out.read_text()).endswith("\n"):
            assert running.process.poll() is None and time.monotonic() < deadline, self.log(role)
            time.sleep(0.01)
        running.ready = said.splitlines()[0]
        assert running.ready.startswith("READY "), self.log(role)

    def kill(self, role: str, number: int = signal.SIGKILL) -> None:
        """End a process at once and reap it."""
        self.running[role].process.send_signal(number)
        self._reap(role)

    def stop(self) -> None:
        for running in self.running.values():
            running.process.terminate()
        for role in list(self.running):
            self._reap(role)

    def _reap(self, role: str) -> None:
        self.running.pop(role).process.wait(30)

    def log(self, role: str) -> str:
        return (self.folder / f"{role}.log").read_text()

    def wait_for(self, role: str, text: str) -> None:
        """Until the log of `role` has `text`."""
        deadline = time.monotonic() + START_SECONDS
        while text not in self.log(role):
            assert time.monotonic() < deadline, f"{role} never said {text!r}: {self.log(role)}"
            time.sleep(0.02)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A deployment that runs for the whole session; tests must leave it running."""
    made = Cluster.make(tmp_path_factory.mktemp("cluster"))
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture
def own_cluster(tmp_path: Path) -> Iterator[Cluster]:
    """A deployment of this test alone, not started."""
    made = Cluster.make(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run_primum(*arguments: str | os.PathLike[str]) -> subprocess.CompletedProcess[str]:
    """The `primum` command with these arguments."""
    return run_command(*arguments)


class Proxy:
    """A TCP proxy that records every byte in both directions."""

    def __init__(self, target: str) -> None:
        import socket

        self.target = target
        self.recorded = bytearray()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._lock = threading.Lock()
        self._socket = socket
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        host, port = self.target.rsplit(":", 1)
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            try:
                far = self._socket.create_connection((host, int(port)), 5)
            except OSError:
                near.close()
                continue
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(source, sink), daemon=True).start()

    def _copy(self, source, sink) -> None:
        try:
            while data := source.recv(1 << 16):
                with self._lock:
                    self.recorded += data
                sink.sendall(data)
        except OSError:
            pass
        finally:
            for end in (source, sink):
                with contextlib.suppress(OSError):
                    end.shutdown(self._socket.SHUT_RDWR)
                end.close()
