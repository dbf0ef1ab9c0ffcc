"""The coordinator: SuperLink behind our TLS front, a list of members, a queue of runs.

State folder (0700): identity.pem, tls.pem and tls.key (the front), superlink/ (its loopback certificate), members.sqlite,
scientist.pem and scientists.txt, coordinator.toml, runs/. SuperLink keeps its state in memory: what must survive is here,
and after a restart transport keys are registered again and unfinished runs go on.
"""

import errno
import hashlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

import uvicorn
from starlette.applications import Starlette

from primum.disk import write
from primum.errors import InputError, MachineError, PeerError, PrimumError, Refused
from primum.federation.attendance import Attendance
from primum.federation.bells import FRONT, listening, ring_programs
from primum.federation.control import Control
from primum.federation.enrolment import JoinFile, Member, Register
from primum.federation.figures import CoordinatorFigures
from primum.federation.front import Desk as FrontDesk
from primum.federation.front import make_front
from primum.federation.parcels import ParcelStore
from primum.federation.pins import Rotation
from primum.federation.runs import OVER, QUEUED, Run
from primum.federation.scientist import Desk, FetchRequest, Followed, FollowRequest, RunFiles, SubmitRequest
from primum.federation.superlink import SuperLink
from primum.federation.supervision import STUDIES_AT_ONCE, Supervisor
from primum.federation.waiting_room import WaitingRoom
from primum.federation.way import host_and_port
from primum.journal import Journal
from primum.keys.certificate import CertificateFiles, client_context, ending, hosts_of, load_or_make
from primum.keys.identity import Identity, verify
from primum.logs import bound
from primum.state_folder import make_private as make_private
from primum.state_folder import open_state
from primum.study import PURPOSE, Study
from primum.tasks.plan import Plan
from primum.watch import Watched, as_text

DEFAULT_PORT: Final = 9443
_SUPERVISE: Final = 0.2
_DAY: Final = 86400.0


@dataclass(frozen=True)
class State:
    """The coordinator's state folder."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> "State":
        """The folder, made (mode 0700) if it is not there."""
        open_state(folder)
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
        try:
            lines = listed.read_text().split() if listed.exists() else []
            return frozenset({own, *(bytes.fromhex(line) for line in lines)})
        except ValueError:
            raise InputError(
                f"{listed} holds something that is not a key.", "One key a line, 64 hex digits each."
            ) from None

    def revoke(self, name: str) -> tuple[Member | None, list[Run]]:
        """Take a hospital out at once, also where the coordinator runs. Returns it, and the unfinished runs that name it.

        None where it was invited only; InputError for a name that nobody has.
        """
        member = self.register.revoke(name)
        if member is None:
            return None, []
        runs = [Run(folder) for folder in sorted(self.runs.glob("*"))]
        unfinished = [run for run in runs if run.status().get("state") not in OVER]
        return member, [run for run in unfinished if member.identity.hex() in run.signed_study().text]

    def rotate(self, days: float) -> float:
        """Order another certificate for the coordinator's port, shown in so many days; returns when.

        InputError where the coordinator was never started: there is none yet.
        """
        host, _ = host_and_port(Desk.read(self.folder / "coordinator.toml").address)
        return Rotation(self.folder).order(days, host)

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

    def __init__(
        self,
        state: State,
        host: str,
        port: int,
        say: Callable[[str], None],
        studies_at_once: int = STUDIES_AT_ONCE,
        listen: str | None = None,
    ) -> None:
        """`host` and `port`: what hospitals reach. `listen`: HOST:PORT to bind where that is another (NAT, a container)."""
        self._state, self._host, self._port, self._say = state, host, port, say
        self._bound = (host, port) if listen is None else host_and_port(listen)
        self._studies_at_once = studies_at_once
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._link: SuperLink | None = None
        self._server: _Front | None = None
        self._register, self._rotation = state.register, Rotation(state.folder)
        self._listed, self._lost = b"", False
        self._warn_at = 0.0
        self.attendance = Attendance()
        self._journal = Journal(state.folder / "journal.jsonl", state.identity)
        self._control = Control(state.runs, self._register.members, self._journal, self._last_seen)

    def serve(self, ready: Callable[[str], None]) -> None:
        """Start SuperLink and the front; `ready(address)` is called when both answer. Returns after an interrupt."""
        check_port(*self._bound)
        files = load_or_make(self._state.folder, self._host)
        if self._rotation.due():
            self._rotation.take_over()
        if self._host not in hosts_of(files.pem()):
            self._say(
                f"Warning: the certificate is for {', '.join(hosts_of(files.pem()))}, not for {self._host}. "
                "Run `primum coordinator rotate --in 0`."
            )
        address = f"{self._host}:{self._port}"
        self._write_desk(address, files)
        make_private(self._state.folder / "superlink")
        own = load_or_make(self._state.folder / "superlink", "127.0.0.1")
        with listening(self._state.folder, FRONT) as bell:
            self._link = SuperLink.start(self._state.folder, own)
            for member in self._register.members():
                self._link.register(member.transport)
            room = WaitingRoom(bell, partial(ring_programs, self._state.folder))
            front = make_front(replace(self._desk(), room=room), self._link.port, client_context(own.pem()))
            config, context = self._at_port(front, files)
            self._server = _Front(config, lambda: ready(address))
            runs = Supervisor(self._state.runs, self._link, self._studies_at_once, self._say)
            rotate = partial(self._rotate, address, files, context)
            supervisor = threading.Thread(target=self._supervise, args=(runs, rotate), daemon=True)
            supervisor.start()
            try:
                self._server.run()
            finally:
                self._over.set()
                supervisor.join(timeout=2)
                self._link.stop()
        if self._lost:
            raise MachineError(
                f"Flower's SuperLink ended, and the coordinator with it; its log is {self._link.log}.",
                "Start the coordinator again: runs go on after their last finished round.",
            )

    def _at_port(self, front: Starlette, files: CertificateFiles) -> tuple[uvicorn.Config, ssl.SSLContext]:
        config = uvicorn.Config(
            front,
            host=self._bound[0],
            port=self._bound[1],
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
        return config, config.ssl

    def _write_desk(self, address: str, files: CertificateFiles) -> None:
        public = self._state.identity.public.hex()
        desk = Desk(address=address, coordinator=public, certificate=files.pem())
        write(self._state.folder / "coordinator.toml", desk.text().encode())

    @property
    def superlink(self) -> SuperLink:
        """The SuperLink of a coordinator that serves."""
        if self._link is None:
            raise MachineError("The coordinator is not running.", "Call serve first.")
        return self._link

    def watched(self) -> Watched:
        """What a watching port shows, from before `serve` on."""
        figures = CoordinatorFigures(self._state.folder, self._register, self.attendance, self._answers)
        return Watched(
            lambda: as_text(figures()), lambda: None if self._answers() else "Flower's SuperLink does not answer"
        )

    def _answers(self) -> bool:
        return self._link is not None and self._link.answers()

    def stop(self) -> None:
        """Make `serve` return."""
        if self._server is not None:
            self._server.should_exit = True

    def _last_seen(self, transport: bytes) -> float:
        return self.attendance.last_seen(transport) or 0.0

    def _desk(self) -> FrontDesk:
        return FrontDesk(
            self._state.identity,
            self._register,
            self._state.scientists,
            lambda member: self._enrolled(member.name, member.transport),
            self._submit,
            self._follow,
            self._fetch,
            self._control,
            self._rotation.shown,
            self.attendance,
            ParcelStore.at(self._state.folder),
        )

    def _enrolled(self, name: str, transport: bytes) -> None:
        if self._link is not None:
            self._link.register(transport)
        self._journal.write("enrolled", name=name)
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
        _require_weights(study, request.weights)
        with self._lock:
            run = Run.create(self._state.runs, signed, study.study.name, request.weights)
        self._journal.write("submitted", run=run.token.hex(), name=study.study.name, asker=signed.asker.hex())
        self._say(f"Study {study.study.name} submitted: run {run.name}")
        return run.name

    def _follow(self, request: FollowRequest) -> Followed:
        run = self._control.find(request.run)
        status = run.status()
        lines, faults = (
            tuple(json.dumps(line) for line in run.lines(file)[max(0, begin) :])
            for file, begin in (("metrics.jsonl", request.line), ("faults.jsonl", request.fault))
        )
        message = self._control.named(run, str(status.get("message", "")))
        return Followed(str(status.get("state", QUEUED)), message, lines, faults)

    def _fetch(self, request: FetchRequest) -> RunFiles:
        return RunFiles(tuple(self._control.find(request.run).results()))

    def _supervise(self, runs: Supervisor, rotate: Callable[[], None]) -> None:
        while not self._over.wait(_SUPERVISE):
            if self.superlink.process.poll() is not None:
                self._lost = True
                self.stop()
                return
            try:
                self._bound_logs(runs)
                runs.look()
                self._let_out()
                rotate()
            except PrimumError as error:
                self._say(str(error))
            except Exception as error:  # the supervisor must outlive a hiccup of SuperLink
                self._say(f"SuperLink does not answer: {type(error).__name__}")
                time.sleep(1)

    def _bound_logs(self, runs: Supervisor) -> None:
        bound(self.superlink.log)
        for name in runs.running:
            bound(self._state.runs / name / "log.txt")

    def _let_out(self) -> None:
        """Take out of SuperLink whoever is no member any more; the front has refused it since the list was changed."""
        listed = self._register.stamp()
        if listed != self._listed:
            self.superlink.keep_only(frozenset(self._register.transports().values()))
            self._listed = listed

    def _rotate(self, address: str, files: CertificateFiles, shown: ssl.SSLContext) -> None:
        """Show the next certificate when its day has come, to connections that begin then; warn of one that ends."""
        if self._rotation.due():
            self._rotation.take_over()
            shown.load_cert_chain(files.certificate, files.private_key)
            self._write_desk(address, files)
            self._say("The port shows its new certificate from now on.")
        if time.monotonic() >= self._warn_at:
            self._warn_at = time.monotonic() + _DAY
            words = ending(files.pem(), "this coordinator's port", "Run `primum coordinator rotate`.")
            if words is not None:
                self._say(words)


def _require_weights(study: Study, weights: bytes) -> None:
    named = study.evaluation.model if study.evaluation else None
    if named is None:
        if weights:
            raise PeerError("Weights came with a study that begins from none.", "`primum evaluate` hands in a model.")
    elif hashlib.sha256(weights).hexdigest() != named or len(weights) != 4 * Plan(study).dimension:
        raise PeerError("The model that came is not the one that the study names.", "Use `primum evaluate`.")


class _Front(uvicorn.Server):  # type: ignore[misc]
    def __init__(self, config: uvicorn.Config, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell when the port is open."""
        await super().startup(sockets)
        self._ready()
