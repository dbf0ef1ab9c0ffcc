"""A coordinator that runs for months: hospitals are taken out, keys and certificates are changed, all at a running process."""

import json
import os
import re
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from tests.federation.playing import write_images
from tests.integration.cluster import Process, descendants, wait_for

from primum.cli.coordinator import command
from primum.errors import PeerError, Refused, Unavailable
from primum.federation.coordinator import State
from primum.federation.courier import Courier
from primum.federation.enrolment import JoinFile
from primum.federation.fleet import Fleet, Mail, connect
from primum.federation.node import NodeState, ResidentNode, enrol
from primum.federation.pins import Pins, learn
from primum.federation.scientist import Desk, Scientist
from primum.federation.way import Way
from primum.keys.certificate import any_certificate_context, certificate_digest, load_or_make, server_context
from primum.logs import LARGEST
from primum.ports import free_port


def connected(state: NodeState, way: Way) -> AbstractContextManager[Fleet]:
    key, _ = state.transport()
    stop = threading.Event()
    return connect(way, (key, key.public_key()), Mail(Courier(state.identity, stop), stop, lambda text: None))


@dataclass
class Coordinated:
    """A running coordinator, and hospitals of which only the connection runs, in this process."""

    folder: Path
    state: State
    process: Process
    port: int
    metrics: int
    log: Path
    _open: ExitStack = field(default_factory=ExitStack)

    def join(self, name: str) -> JoinFile:
        path = self.folder / f"{name}.join"
        path.write_text(self.state.invite(name, f"127.0.0.1:{self.port}"))
        return JoinFile.read(path)

    def hospital(self, name: str) -> tuple[NodeState, JoinFile]:
        state, join = NodeState.open(self.folder / name), self.join(name)
        enrol(state, join)
        return state, join

    def connect(self, state: NodeState, way: Way) -> Fleet:
        return self._open.enter_context(connected(state, way))

    def disconnect(self) -> None:
        self._open.close()

    def close(self) -> None:
        self.disconnect()
        self.process.end()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinated]:
    folder = tmp_path_factory.mktemp("months")
    port, metrics, log = free_port(), free_port(), folder / "coordinator.jsonl"
    state = State.open(folder / "coordinator")
    kept = ("--log", str(log), "--log-format", "json", "--metrics", f"127.0.0.1:{metrics}")
    arguments = ("coordinator", "--state", str(state.folder), "--port", str(port), *kept)
    # as in a container: no home, no folder for caches, nothing that could be written where it stands
    process = Process(folder / "said", arguments, {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}, Path("/proc"))
    made = Coordinated(folder, state, process, port, metrics, log)
    try:
        made.process.says("Coordinator ready")
        yield made
    finally:
        made.close()


def way_of(join: JoinFile) -> Way:
    return Way(join.address, join.certificate)


def coordinator(running: Coordinated, *arguments: str) -> str:
    """A verb of `primum coordinator` beside the running one."""
    done = CliRunner().invoke(command, ["--state", str(running.state.folder), *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_hospital_that_is_taken_out_is_refused_with_words_at_once_and_for_ever(running: Coordinated) -> None:
    state, join = running.hospital("North")
    fleet = running.connect(state, way_of(join))
    assert fleet.receive() is None
    other, others_join = running.hospital("South")
    stays = running.connect(other, way_of(others_join))
    assert "North is out" in coordinator(running, "revoke", "North")
    with pytest.raises(Refused, match="taken out by the coordinator's operator"):
        fleet.receive()
    with pytest.raises(Refused, match="taken out by the coordinator's operator"):
        enrol(state, join)
    with pytest.raises(Refused, match="taken out"):
        running.connect(state, way_of(join))
    assert stays.receive() is None
    assert [member.name for member in running.state.register.members()] == ["South"]


def test_a_hospital_comes_back_with_a_new_invitation_and_a_new_transport_key(running: Coordinated) -> None:
    state, _ = running.hospital("East")
    running.state.revoke("East")
    again = running.join("East")
    with pytest.raises(Refused, match="taken out"):
        enrol(state, again)
    (state.folder / "transport.pem").unlink()
    enrol(state, again)
    assert running.connect(state, way_of(again)).receive() is None


def test_an_invitation_can_be_taken_back(running: Coordinated) -> None:
    join = running.join("Never")
    assert "had not come in yet" in coordinator(running, "revoke", "Never")
    with pytest.raises(Refused, match="not one of this coordinator's"):
        enrol(NodeState.open(running.folder / "never"), join)


def test_a_new_transport_key_needs_no_new_token_and_ends_the_old_one(running: Coordinated) -> None:
    state, join = running.hospital("West")
    old = running.connect(state, way_of(join))
    assert old.receive() is None
    (state.folder / "transport.pem").unlink()
    enrol(state, join)
    assert running.connect(state, way_of(join)).receive() is None
    with pytest.raises(Refused, match="replaced by another"):
        old.receive()


def test_a_new_certificate_is_learned_before_and_after_it_is_shown(running: Coordinated) -> None:
    state, join = running.hospital("Far")
    identity = bytes.fromhex(join.coordinator)
    early = Pins(state.folder / "certificates.json", way_of(join), identity)
    late = Pins(running.folder / "late.json", way_of(join), identity)
    remote = Scientist.at(running.state.folder)  # with the old certificate from here on
    before = certificate_digest(join.certificate)
    assert early.trusted().certificate == join.certificate
    coordinator(running, "rotate", "--in", "0.00002")
    assert early.trusted().certificate.count("BEGIN CERTIFICATE") == 2
    running.process.says("shows its new certificate")
    for pins in (early, late):
        way = pins.trusted()
        assert way.certificate.count("BEGIN CERTIFICATE") == 1
        assert certificate_digest(way.certificate) != before
        with connected(state, way) as fleet:
            assert fleet.receive() is None
    assert Desk.read(running.state.folder / "coordinator.toml").certificate == late.trusted().certificate
    with pytest.raises((PeerError, Unavailable)):
        running.connect(state, way_of(join))  # the old one is not shown any more
    assert remote.members()
    enrol(state, join)


def test_a_node_with_an_old_join_file_connects_over_the_new_certificate(running: Coordinated) -> None:
    state, join = running.hospital("Resident")
    (state.folder / "node.toml").write_text("one_image_per_patient = true\n")
    coordinator(running, "rotate", "--in", "0")
    running.process.says("shows its new certificate", times=2)
    said: list[str] = []
    node = ResidentNode(state, join, write_images(running.folder / "images", 100), said.append)
    thread = threading.Thread(target=node.run)
    thread.start()
    try:
        wait_for(lambda: "Connected; waiting for studies." in said, "the connection")
    finally:
        node.stop.set()
        thread.join()
    assert (state.folder / "certificates.json").exists()


def test_a_certificate_that_the_identity_has_not_signed_is_not_learned(running: Coordinated) -> None:
    _, join = running.hospital("Near")
    false = load_or_make(NodeState.open(running.folder / "false").folder, "127.0.0.1").pem()
    with pytest.raises(PeerError, match="another certificate than the pinned one"):
        learn(Way(join.address, false), bytes(32))
    assert learn(Way(join.address, false), bytes.fromhex(join.coordinator)).certificates


def test_somebody_in_between_who_passes_the_statement_on_is_noticed(running: Coordinated, tmp_path: Path) -> None:
    _, join = running.hospital("Watched")
    own = load_or_make(tmp_path, "127.0.0.1")
    listener = socket.create_server(("127.0.0.1", 0))

    def pass_on() -> None:
        while True:
            try:
                plain, _ = listener.accept()
            except OSError:  # closed: the test is over
                return
            with (
                suppress(OSError),
                server_context(own).wrap_socket(plain, server_side=True) as near,
                socket.create_connection(("127.0.0.1", running.port)) as raw,
                any_certificate_context().wrap_socket(raw) as far,
            ):
                far.sendall(near.recv(65536))
                far.settimeout(0.3)
                while part := far.recv(65536):
                    near.sendall(part)

    thread = threading.Thread(target=pass_on)
    thread.start()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    try:
        with pytest.raises(PeerError, match="another certificate than the pinned one"):
            learn(Way(address, join.certificate), bytes.fromhex(join.coordinator))
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
        listener.close()


def test_an_old_statement_brings_no_old_certificate_back(running: Coordinated, tmp_path: Path) -> None:
    _, join = running.hospital("Middle")
    pins = Pins(tmp_path / "certificates.json", way_of(join), bytes.fromhex(join.coordinator))
    later = load_or_make(tmp_path, "127.0.0.1").pem()
    known = {"coordinator": join.coordinator, "number": int(time.time()) + 1000, "certificates": [later]}
    pins.file.write_text(json.dumps(known))
    assert pins.trusted().certificate == later


# -- whoever watches ----------------------------------------------------------------------------------------------------


def page(running: Coordinated, path: str) -> httpx.Response:
    return httpx.get(f"http://127.0.0.1:{running.metrics}{path}", timeout=10)


def test_the_watching_port_says_that_all_is_well_and_who_is_connected(running: Coordinated) -> None:
    state, join = running.hospital('Saint "Quoted"')
    fleet = running.connect(state, way_of(join))
    assert fleet.receive() is None
    running.hospital("Silent")
    assert (page(running, "/healthz").status_code, page(running, "/healthz").text) == (200, "ok\n")
    text = page(running, "/metrics").text
    assert 'primum_hospital_connected{hospital="Saint \\"Quoted\\""} 1' in text
    assert 'primum_hospital_connected{hospital="Silent"} 0' in text
    assert 'primum_hospital_last_seen_seconds{hospital="Silent"} 0' in text
    assert "primum_superlink_up 1" in text
    for line in text.splitlines():
        assert re.fullmatch(r"# (HELP|TYPE) primum_\w+ .+|primum_\w+(\{.+\})? -?[0-9.e+]+", line), line
    assert page(running, "/v1/fleet/pull-messages").status_code == 404


def test_what_is_said_is_kept_as_json_in_a_private_file(running: Coordinated) -> None:
    lines = [json.loads(line) for line in running.log.read_text().splitlines()]
    assert {tuple(sorted(line)) for line in lines} == {("event", "level", "role", "time")}
    assert any(line["event"].startswith("Coordinator ready") for line in lines)
    assert stat.S_IMODE(running.log.stat().st_mode) == 0o600
    assert "Coordinator ready" in running.process.text()


def test_superlinks_own_log_begins_anew_when_it_is_long(running: Coordinated) -> None:
    log = running.state.folder / "superlink.log"
    with log.open("ab") as file:
        file.truncate(LARGEST + 1)
    wait_for(lambda: log.stat().st_size < LARGEST, "a shorter log")
    assert log.with_name("superlink.log.1").stat().st_size > LARGEST
    running.hospital("Later")


def test_superlink_that_hangs_is_said_and_one_that_is_gone_ends_the_coordinator(running: Coordinated) -> None:
    """The last one here."""
    running.disconnect()
    superlink = next(
        child
        for child in descendants(running.process.child.pid)
        if b"flower-superlink" in Path(f"/proc/{child}/cmdline").read_bytes()
    )
    os.kill(superlink, signal.SIGSTOP)
    answer = page(running, "/healthz")
    assert (answer.status_code, answer.text) == (503, "Flower's SuperLink does not answer\n")
    os.kill(superlink, signal.SIGKILL)
    assert running.process.child.wait(timeout=30) == 5
    assert "SuperLink ended, and the coordinator with it" in running.process.text()
    assert "Traceback" not in running.process.text()
    assert json.loads(running.log.read_text().splitlines()[-1])["level"] == "error"
