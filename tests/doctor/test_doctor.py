"""`primum doctor` against real sockets: each thing that may stand in the way is named, with what to do."""

import json
import socket
import ssl
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path

import pytest
from tests.federation.playing import write_images
from tests.integration.networks import ConnectProxy, Interceptor, Listener, issue

from primum import __version__
from primum.doctor.examination import Examined, Subject, all_of
from primum.doctor.findings import FAILED, OK, WARNING, Finding
from primum.federation.alone import alone
from primum.federation.enrolment import JoinFile
from primum.federation.node_settings import NodeSettings, remember
from primum.keys.certificate import load_or_make
from primum.keys.identity import Identity
from primum.ports import free_port


class Front(Listener):
    """A coordinator's port as far as the doctor goes: TLS, and an answer to GET."""

    def __init__(
        self, folder: Path, *, version: str = __version__, ahead: float = 0.0, days: int | None = None
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.version, self.ahead = version, ahead
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if days is None:
            files = load_or_make(folder, "127.0.0.1")
            self.certificate, key = files.certificate, files.private_key
        else:
            self.certificate, key = issue(folder, "Somebody", days=days)
        self.context.load_cert_chain(self.certificate, key)
        super().__init__(self._hello)

    def _hello(self, near: socket.socket) -> None:
        with self.context.wrap_socket(near, server_side=True) as secured:
            line = secured.recv(4096).split(b"\r\n")[0]
            body = json.dumps({"version": self.version, "time": time.time()}).encode()
            status = b"200 OK" if b"/primum/hello" in line else b"404 Not Found"
            date = formatdate(time.time() + self.ahead, usegmt=True).encode()
            head = b"HTTP/1.1 %s\r\nDate: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
            secured.sendall(head % (status, date, len(body)) + body)


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    made = Front(tmp_path_factory.mktemp("front"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def no_proxy_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)


def join_file(folder: Path, address: str, certificate: Path) -> Path:
    join = JoinFile(
        hospital="North",
        address=address,
        coordinator=Identity.generate().public.hex(),
        certificate=certificate.read_text(),
        token="00" * 32,
    )
    (folder / "north.join").write_text(join.text())
    return folder / "north.join"


def look(folder: Path, front: Front, *, port: int | None = None, host: str = "127.0.0.1", **more: object) -> Examined:
    join = join_file(folder, f"{host}:{port or front.port}", front.certificate)
    return all_of(Subject(folder / "state", join=join, **more))  # type: ignore[arg-type]


def of(examined: Examined, check: str) -> Finding:
    [found] = [finding for finding in examined.findings if finding.check == check]
    return found


# -- all well -----------------------------------------------------------------------------------------------------------


def test_where_all_is_well_every_line_says_so(tmp_path: Path, front: Front) -> None:
    examined = look(tmp_path, front)
    assert examined.exit_code == 0
    for check in ("name", "connection", "TLS", "certificate", "answer", "version", "clock", "disk", "other node"):
        assert of(examined, check).state == OK, of(examined, check)
    assert of(examined, "TLS").seen == "TLS 1.3"
    assert examined.allow == (
        f"Allow from this computer: outbound TCP to 127.0.0.1 port {front.port}, TLS 1.3. Nothing inbound, nothing else."
    )


def test_without_a_join_file_it_says_whose_certificate_it_saw(tmp_path: Path, front: Front) -> None:
    examined = all_of(Subject(tmp_path, address=f"127.0.0.1:{front.port}"))
    assert of(examined, "certificate").state == WARNING
    assert "'127.0.0.1'" in of(examined, "certificate").seen
    assert of(examined, "version").state == OK


# -- the network --------------------------------------------------------------------------------------------------------


def test_a_name_that_does_not_resolve(tmp_path: Path, front: Front) -> None:
    examined = look(tmp_path, front, host="coordinator.invalid")
    assert examined.exit_code == 6
    assert "coordinator.invalid does not resolve" in of(examined, "name").seen
    assert "coordinator.invalid port" in str(examined.allow)


def test_a_closed_port(tmp_path: Path, front: Front) -> None:
    examined = look(tmp_path, front, port=free_port())
    assert examined.exit_code == 6
    assert "refused" in of(examined, "connection").seen
    assert "Nothing listens there" in of(examined, "connection").todo


def test_a_port_that_speaks_no_tls_is_the_wrong_version_number(tmp_path: Path, front: Front) -> None:
    plain = Listener(lambda near: near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    try:
        examined = look(tmp_path, front, port=plain.port)
    finally:
        plain.close()
    assert examined.exit_code == 3
    assert "no TLS is spoken there" in of(examined, "TLS").seen
    assert "another service" in of(examined, "TLS").todo


def test_a_port_that_closes_in_the_handshake(tmp_path: Path, front: Front) -> None:
    rude = Listener(lambda near: None)
    try:
        assert of(look(tmp_path, front, port=rude.port), "TLS").state == FAILED
    finally:
        rude.close()


def test_another_coordinators_certificate(tmp_path: Path, front: Front) -> None:
    other = Front(tmp_path / "other")
    try:
        examined = look(tmp_path, front, port=other.port)
    finally:
        other.close()
    assert examined.exit_code == 3
    assert "another one than in the join file" in of(examined, "certificate").seen
    assert "telephone" in of(examined, "certificate").todo


def test_a_name_that_the_certificate_is_not_for(tmp_path: Path, front: Front) -> None:
    examined = look(tmp_path, front, host="localhost")
    assert examined.exit_code == 3
    assert of(examined, "certificate").seen == "it is for 127.0.0.1, not for localhost"
    assert "--address" in of(examined, "certificate").todo


def test_an_intercepting_proxy_is_named_by_its_issuer(tmp_path: Path, front: Front) -> None:
    between = Interceptor(tmp_path / "between", front.port)
    try:
        examined = look(tmp_path, front, port=between.port)
        allowed = look(tmp_path, front, port=between.port, authority=between.authority)
    finally:
        between.close()
    assert examined.exit_code == 3
    assert "issued by 'Hospital Trust Inspection': a proxy opens the connection" in of(examined, "certificate").seen
    assert "--ca FILE" in of(examined, "certificate").todo
    assert allowed.exit_code == 0
    assert of(allowed, "certificate").state == WARNING
    assert of(allowed, "version").state == OK


def test_a_certificate_near_its_end(tmp_path: Path) -> None:
    old = Front(tmp_path / "old", days=10)
    try:
        examined = all_of(Subject(tmp_path, address=f"127.0.0.1:{old.port}"))
    finally:
        old.close()
    assert of(examined, "certificate's end").state == WARNING
    assert (
        "in 9 days" in of(examined, "certificate's end").seen or "in 10 days" in of(examined, "certificate's end").seen
    )


@pytest.mark.parametrize(("ahead", "state", "code"), [(60.0, WARNING, 0), (-3600.0, FAILED, 5)])
def test_a_clock_that_is_off(tmp_path: Path, ahead: float, state: str, code: int) -> None:
    wrong = Front(tmp_path / "wrong", ahead=ahead)
    try:
        examined = look(tmp_path, wrong)
    finally:
        wrong.close()
    assert (of(examined, "clock").state, examined.exit_code) == (state, code)
    assert ("behind" if ahead > 0 else "ahead of") in of(examined, "clock").seen


def test_another_release_at_the_coordinator(tmp_path: Path) -> None:
    newer = Front(tmp_path / "newer", version="9.9.9")
    try:
        examined = look(tmp_path, newer)
    finally:
        newer.close()
    assert examined.exit_code == 4
    assert "pip install primum==9.9.9" in of(examined, "version").todo


def test_another_page_than_the_fronts(tmp_path: Path) -> None:
    other = Front(tmp_path / "page", version="x")
    other.version = None  # type: ignore[assignment]
    try:
        examined = look(tmp_path, other)
    finally:
        other.close()
    assert "None at the coordinator" in of(examined, "version").seen


# -- proxies ------------------------------------------------------------------------------------------------------------


def test_through_a_proxy_that_wants_a_password(tmp_path: Path, front: Front) -> None:
    proxy = ConnectProxy("anna:secret word")
    try:
        without = look(tmp_path, front, proxy=f"http://127.0.0.1:{proxy.port}")
        examined = look(tmp_path, front, proxy=f"http://anna:secret%20word@127.0.0.1:{proxy.port}")
    finally:
        proxy.close()
    assert without.exit_code == 4
    assert "407" in of(without, "proxy").seen
    assert "USER:PASSWORD" in of(without, "proxy").todo
    assert examined.exit_code == 0
    assert of(examined, "certificate").seen == "the one of the join file"
    assert "through the proxy" in str(examined.allow)
    assert "secret" not in json.dumps(examined.as_json())


def test_a_proxy_that_cannot_reach_the_coordinator_or_is_not_there(tmp_path: Path, front: Front) -> None:
    proxy = ConnectProxy()
    try:
        refuses = look(tmp_path, front, port=free_port(), proxy=f"http://127.0.0.1:{proxy.port}")
    finally:
        proxy.close()
    assert (refuses.exit_code, "503" in of(refuses, "proxy").seen) == (4, True)
    assert look(tmp_path, front, proxy=f"http://127.0.0.1:{free_port()}").exit_code == 6


def test_variables_of_the_environment_count_only_when_asked_for(
    tmp_path: Path, front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = ConnectProxy()
    monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
    try:
        examined = look(tmp_path, front)
        assert proxy.asked == []
        assert of(examined, "proxy settings").state == WARNING
        assert "HTTPS_PROXY is set, and not used" in of(examined, "proxy settings").seen
        assert of(look(tmp_path, front, proxy="environment"), "proxy").state == OK
        assert proxy.asked
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        proxy.asked.clear()
        assert look(tmp_path, front, proxy="environment").exit_code == 0
        assert proxy.asked == []
    finally:
        proxy.close()


def test_what_the_node_remembers_counts_here_too(tmp_path: Path, front: Front) -> None:
    proxy, state = ConnectProxy(), tmp_path / "state"
    state.mkdir(mode=0o700)
    remember(
        state / "node.toml", patient=r"^(p\d+)", single=False, proxy=f"http://127.0.0.1:{proxy.port}", authority=None
    )
    remember(state / "node.toml", patient=None, single=False, proxy=None, authority=None)
    try:
        assert of(look(tmp_path, front), "proxy").state == OK
        assert look(tmp_path, front, proxy="none").exit_code == 0
    finally:
        proxy.close()
    assert (state / "node.toml").stat().st_mode & 0o077 == 0, "a password may stand in it"
    remember(state / "node.toml", patient=None, single=False, proxy="none", authority=None)
    assert NodeSettings.read(state / "node.toml") == NodeSettings(patient=r"^(p\d+)")


@pytest.mark.parametrize("proxy", ["proxy:3128", "socks5://proxy:1080", "http://", "http://proxy:99999999"])
def test_what_is_no_proxy_is_refused_without_its_password(tmp_path: Path, front: Front, proxy: str) -> None:
    examined = look(tmp_path, front, proxy=proxy)
    assert (of(examined, "settings").state, examined.exit_code) == (FAILED, 2)


# -- the computer -------------------------------------------------------------------------------------------------------


def test_a_state_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    examined = all_of(Subject(tmp_path / "file" / "state"))
    assert (of(examined, "state folder").state, examined.exit_code) == (FAILED, 5)


def test_a_state_folder_that_others_can_read_and_a_node_that_runs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o755)
    with alone(state):
        examined = all_of(Subject(state))
    assert of(examined, "state folder").state == WARNING
    assert "a node is running" in of(examined, "other node").seen
    assert of(all_of(Subject(state)), "other node").state == OK


def test_a_policy_with_an_unknown_key(tmp_path: Path) -> None:
    (tmp_path / "policy.toml").write_text("epsilon_kap = 3.0\n")
    examined = all_of(Subject(tmp_path))
    assert (of(examined, "policy").state, examined.exit_code) == (FAILED, 2)
    assert "epsilon_kap" in of(examined, "policy").seen


def test_images_are_counted_and_bad_folders_named(tmp_path: Path) -> None:
    data = write_images(tmp_path / "images", 0)
    (data / "clear" / "p0_2.png").write_text("not a picture")
    state = tmp_path / "state"
    state.mkdir()
    (state / "node.toml").write_text("patient = '^(p\\d+)_'\n")
    examined = all_of(Subject(state, data=data))
    assert of(examined, "images").seen == "12 images of 12 patients; 1 files cannot be used"
    assert of(all_of(Subject(state, data=tmp_path / "nothing")), "images").state == FAILED


def test_a_coordinators_computer(tmp_path: Path) -> None:
    examined = all_of(Subject(tmp_path, side="coordinator"))
    assert (of(examined, "coordinator").state, of(examined, "SuperLink").state) == (WARNING, OK)
    front = Front(tmp_path / "front")
    try:
        address, certificate = f"127.0.0.1:{front.port}", front.certificate.read_text()
        desk = {"address": address, "coordinator": "00" * 32, "certificate": certificate}
        text = "\n".join(f"{key} = '''{value}'''" for key, value in desk.items())
        (tmp_path / "coordinator.toml").write_text(text)
        examined = all_of(Subject(tmp_path, side="coordinator"))
        assert "this coordinator's: it is running" in of(examined, "port").seen
        assert of(examined, "certificate").state == OK
        (tmp_path / "other").mkdir()
        other = load_or_make(tmp_path / "other", "127.0.0.1").pem()
        (tmp_path / "coordinator.toml").write_text(text.replace(certificate, other))
        examined = all_of(Subject(tmp_path, side="coordinator"))
        assert (of(examined, "port").state, examined.exit_code) == (FAILED, 5)
    finally:
        front.close()
    assert "is free" in of(all_of(Subject(tmp_path, side="coordinator")), "port").seen
    assert f"inbound TCP to port {front.port}" in str(examined.allow)
