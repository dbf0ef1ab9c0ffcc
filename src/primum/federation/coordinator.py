"""The coordinator: SuperLink behind our TLS front, a list of members, a queue of runs.

State folder (0700): identity.pem, tls.pem and tls.key (the front), superlink/ (its loopback certificate), members.sqlite,
scientist.pem and scientists.txt, coordinator.toml, runs/. SuperLink keeps its state in memory: what must survive is here,
and after a restart transport keys are registered again and unfinished runs go on.
"""

import errno
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import uvicorn

from primum.disk import write
from primum.errors import InputError, MachineError, PeerError, PrimumError, Refused
from primum.federation.enrolment import JoinFile, Register
from primum.federation.front import Desk as FrontDesk
from primum.federation.front import make_front
from primum.federation.runs import FAILED, FINISHED, QUEUED, RUNNING, Run
from primum.federation.scientist import Desk, FetchRequest, Followed, FollowRequest, RunFiles, SubmitRequest
from primum.federation.superlink import SuperLink
from primum.keys.certificate import client_context, load_or_make
from primum.keys.identity import Identity, verify
from primum.study import PURPOSE, Study
from primum.tasks.plan import Plan

DEFAULT_PORT: Final = 9443
_SUPERVISE: Final = 0.2


@dataclass(frozen=True)
class State:
    """The coordinator's state folder."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "State":
        """The folder, made (mode 0700) if it is not there."""
        make_private(folder)
        return cls(folder.resolve())

    @property
    def identity(self) -> Identity:
        """The coordinator's Ed25519 identity."""
        return Identity.load_or_make(self.folder / "identity.pem")

    @property
    def scientist(self) -> Identity:
        """The identity of the scientist who works on this machine."""
        return Identity.load_or_make(self.folder / "scientist.pem")

    @property
    def register(self) -> Register:
        """Members and invitations."""
        return Register(self.folder)

    @property
    def runs(self) -> Path:
        """One folder a run."""
        return self.folder / "runs"

    def scientists(self) -> frozenset[bytes]:
        """Keys that may submit studies: this folder's own, and those in scientists.txt."""
        own = self.scientist.public
        listed = self.folder / "scientists.txt"
        lines = listed.read_text().split() if listed.exists() else []
        return frozenset({own, *(bytes.fromhex(line) for line in lines)})

    def invite(self, name: str, address: str | None = None) -> str:
        """The text of a join file for the hospital `name`; the coordinator must have been started once."""
        if not name or len(name) > 100 or not name.isprintable():
            raise InputError("A hospital's name has 1 to 100 printable characters.", "Choose another.")
        desk = Desk.read(self.folder / "coordinator.toml")
        token = self.register.invite(name).hex()
        where = address or desk.address
        return JoinFile(
            hospital=name, address=where, coordinator=desk.coordinator, certificate=desk.certificate, token=token
        ).text()


def make_private(folder: Path) -> None:
    """Make `folder` with mode 0700; MachineError where that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
    except OSError as error:
        raise MachineError(f"{folder} cannot be made: {error.strerror}.", "Choose another --state folder.") from None


def check_port(host: str, port: int) -> None:
    """MachineError if nobody could listen there."""
    try:
        with closing(socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        what = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used: {error.strerror}"
        raise MachineError(
            f"Port {port} of {host} {what}.", "Choose another with --port, or stop what uses it."
        ) from None


class Coordinator:
    """The running coordinator; `serve` blocks."""

    def __init__(self, state: State, host: str, port: int, say: Callable[[str], None]) -> None:
        self._state, self._host, self._port, self._say = state, host, port, say
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._link: SuperLink | None = None
        self._server: _Front | None = None

    def serve(self, ready: Callable[[str], None]) -> None:
        """Start SuperLink and the front; `ready(address)` is called when both answer. Returns after an interrupt."""
        check_port(self._host, self._port)
        files = load_or_make(self._state.folder, self._host)
        address = f"{self._host}:{self._port}"
        public = self._state.identity.public.hex()
        write(self._state.folder / "coordinator.toml", Desk(
            address=address, coordinator=public, certificate=files.pem()
        ).text().encode())  # fmt: skip
        make_private(self._state.folder / "superlink")
        own = load_or_make(self._state.folder / "superlink", "127.0.0.1")
        self._link = SuperLink.start(self._state.folder, own)
        for member in self._state.register.members():
            self._link.register(member.transport)
        front = make_front(self._desk(), self._link.port, client_context(own.pem()))
        config = uvicorn.Config(
            front,
            host=self._host,
            port=self._port,
            ssl_certfile=files.certificate,
            ssl_keyfile=files.private_key,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
        )
        config.load()
        if config.ssl is None:
            raise MachineError("TLS could not be set up.", "Nothing was started.")
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
        self._server = _Front(config, lambda: ready(address))
        supervisor = threading.Thread(target=self._supervise, daemon=True)
        supervisor.start()
        try:
            self._server.run()
        finally:
            self._over.set()
            supervisor.join(timeout=2)
            self._link.stop()

    @property
    def superlink(self) -> SuperLink:
        """The SuperLink of a coordinator that serves."""
        if self._link is None:
            raise MachineError("The coordinator is not running.", "Call serve first.")
        return self._link

    def stop(self) -> None:
        """Make `serve` return."""
        if self._server is not None:
            self._server.should_exit = True

    def _desk(self) -> FrontDesk:
        return FrontDesk(
            self._state.identity,
            self._state.register,
            self._state.scientists,
            lambda member: self._enrolled(member.name, member.transport),
            self._submit,
            self._follow,
            self._fetch,
        )

    def _enrolled(self, name: str, transport: bytes) -> None:
        if self._link is not None:
            self._link.register(transport)
        self._say(f"Enrolled: {name}")

    def _submit(self, request: SubmitRequest) -> str:
        signed = request.study
        verify(signed.asker, PURPOSE, signed.text.encode(), signed.signature, "the scientist")
        if signed.asker not in self._state.scientists():
            raise Refused("The study is signed by a key that may not give orders here.", "Sign it with your own key.")
        study = Study.parse(signed.text, "the study")
        Plan(study).check()
        known = {member.identity for member in self._state.register.members()}
        strangers = [m for m in study.hospitals.identities() if m not in known]
        if strangers:
            raise Refused(
                f"{strangers[0].hex()[:16]}... is not enrolled here.",
                "Invite that hospital, or correct hospitals.members.",
            )
        with self._lock:
            run = Run.create(self._state.runs, signed, study.study.name)
        self._say(f"Study {study.study.name} submitted: run {run.name}")
        return run.name

    def _run(self, name: str) -> Run:
        run = Run(self._state.runs / Path(name).name)
        if not run.folder.is_dir():
            raise PeerError(f"There is no run {name[:80]!r}.", "`primum train` prints the name of its run.")
        return run

    def _follow(self, request: FollowRequest) -> Followed:
        run = self._run(request.run)
        status = run.status()
        lines = run.lines("metrics.jsonl")[max(0, request.line) :]
        texts = tuple(json.dumps(line) for line in lines)
        return Followed(str(status.get("state", QUEUED)), str(status.get("message", "")), texts)

    def _fetch(self, request: FetchRequest) -> RunFiles:
        return RunFiles(tuple(self._run(request.run).results()))

    def _supervise(self) -> None:
        """One run at a time, oldest first; a run that Flower lost is started again or failed, never left hanging."""
        current: tuple[Run, int] | None = None
        while not self._over.wait(_SUPERVISE):
            try:
                current = self._watch(current) or self._start_next()
            except PrimumError as error:
                self._say(str(error))
            except Exception as error:  # the supervisor must outlive a hiccup of SuperLink
                self._say(f"SuperLink does not answer: {type(error).__name__}")
                time.sleep(1)

    def _watch(self, current: tuple[Run, int] | None) -> tuple[Run, int] | None:
        if current is None or self._link is None:
            return None
        run, number = current
        word = self._link.run_status(number)
        if not word.startswith("finished"):
            return current
        state = run.status().get("state")
        if state not in (FINISHED, FAILED):
            run.set_status(FAILED, f"the server program ended: {word}")
        self._say(f"Run {run.name}: {run.status().get('state')} {run.status().get('message', '')}".rstrip())
        return None

    def _start_next(self) -> tuple[Run, int] | None:
        folders = sorted(self._state.runs.glob("*")) if self._state.runs.exists() else []
        for folder in folders:
            run = Run(folder)
            if run.status().get("state") in (QUEUED, RUNNING) and self._link is not None:
                number = self._link.start_run(run.name)
                run.set_status(RUNNING, "starting", flower=number)
                self._say(f"Run {run.name}: started")
                return run, number
        return None


class _Front(uvicorn.Server):  # type: ignore[misc]
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when the port is open."""
        await super().startup(sockets)
        self._ready()
