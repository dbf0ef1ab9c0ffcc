"""The federation as real processes: enrolment, training, refusals, kills, restarts."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import threading
import time
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
import tomli_w
from tests.command import run_command
from tests.federation.playing import make_study
from tests.integration.cluster import Cluster, Process, alive, descendants, open_sockets, wait_for
from tests.integration.networks import ConnectProxy, Interceptor

from primum import __version__, wire
from primum.errors import PeerError, PrimumError, Refused, Unavailable
from primum.federation.courier import Courier
from primum.federation.enrolment import JoinFile
from primum.federation.fleet import Mail, connect
from primum.federation.messages import StudyOrder
from primum.federation.node import NodeState, enrol
from primum.federation.runs import Run
from primum.federation.scientist import (
    Desk,
    MembersRequest,
    Scientist,
    ScientistRequest,
    SubmitRequest,
    Submitted,
    post,
)
from primum.federation.way import Way
from primum.journal import read as read_journal
from primum.keys.certificate import client_context, load_or_make
from primum.keys.identity import Identity
from primum.models.card import load_model
from primum.ports import free_port
from primum.secagg.messages import sign
from primum.study import SignedStudy, Study, sign_study

PRIVACY = {"epsilon": 9.0, "noise_multiplier": 2.0, "looks": 0}


def study(cluster: Cluster, numbers: tuple[int, ...] = (1, 2, 3, 4), **changes: Any) -> Study:
    settings: dict[str, Any] = {"rounds": 2, "may_vanish": 1 if len(numbers) == 4 else 0, **changes}
    settings["privacy"] = {**PRIVACY, **settings.get("privacy", {})}
    settings["deadlines"] = {"consent": 60.0, "stage": 10.0, **settings.get("deadlines", {})}
    return make_study([cluster.identities[number] for number in numbers], **settings)


def primum(*arguments: str, timeout: float = 90) -> "subprocess.CompletedProcess[str]":
    return run_command(*arguments, timeout=timeout, COLUMNS="200")


def refused(done: "subprocess.CompletedProcess[str]", code: int, *words: str) -> None:
    assert done.returncode == code, done
    for word in words:
        assert word in done.stderr, done.stderr
    assert "Traceback" not in done.stdout + done.stderr


@dataclass(frozen=True)
class Both:
    """Two studies at once: of all four hospitals, and of three by the scientist's one command, with what it fetched."""

    trained: Run
    commanded: Run
    fetched: Path


@pytest.fixture(scope="session")
def both(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Both:
    """The second is handed in as soon as the first is there; both have come to their end."""
    folder = tmp_path_factory.mktemp("scientist")
    path = folder / "study.toml"
    path.write_text(study(cluster, (1, 2, 3), rounds=1).text())
    words = ("train", str(path), "--state", str(cluster.state.folder), "--out", str(folder / "runs"))
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(primum, *words, timeout=240)
        wait_for(lambda: asked.done() or any(cluster.state.runs.glob("*")), "the first study")
        assert not asked.done(), asked.result()
        [made] = cluster.state.runs.glob("*")
        trained = cluster.submit(study(cluster))
        done = asked.result()
    assert done.returncode == 0, done
    cluster.finished(trained)
    [fetched] = (folder / "runs").iterdir()
    return Both(trained, Run(made), fetched)


@pytest.fixture(scope="session")
def trained(both: Both) -> Run:
    return both.trained


# -- what works ---------------------------------------------------------------------------------------------------------


def test_two_studies_run_beside_each_other(cluster: Cluster, both: Both) -> None:
    names = both.trained.name, both.commanded.name
    for name in names:
        cluster.coordinator.says(f"Run {name}: finished")
    said = cluster.coordinator.text()
    begun, ended = ([said.index(f"Run {name}: {what}") for name in names] for what in ("started", "finished"))
    assert max(begun) < min(ended)


def test_four_hospitals_train_a_model(trained: Run) -> None:
    assert [line["participants"] for line in trained.lines("metrics.jsonl")] == [4, 4]
    assert load_model(trained.folder).card.trained["hospitals"] == 4


def test_the_scientists_one_command_signs_trains_and_writes_a_report(both: Both) -> None:
    assert load_model(both.fetched)
    assert "<html" in (both.fetched / "report.html").read_text()


def test_who_is_enrolled_but_not_named_gets_nothing_and_answers_nothing(cluster: Cluster, both: Both) -> None:
    trained, run = both.trained, both.commanded
    kept = [entry["details"].get("run") for entry in read_journal(cluster.node_state(4).folder / "journal.jsonl")]
    assert trained.token.hex() in kept
    assert run.token.hex() not in kept
    assert run.token.hex() in str(read_journal(cluster.node_state(1).folder / "journal.jsonl"))


def test_state_folders_are_private_and_so_are_keys(cluster: Cluster) -> None:
    folders = [cluster.state.folder, *(cluster.node_state(number).folder for number in cluster.nodes)]
    for folder in folders:
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        secrets = [
            path
            for path in folder.rglob("*")
            if re.search(r"identity\.pem|\.key$|transport\.pem|scientist\.pem", path.name)
        ]
        assert secrets
        for path in secrets:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_flowers_telemetry_is_off_in_every_child(cluster: Cluster) -> None:
    children = descendants(cluster.coordinator.child.pid)
    assert children
    seen = 0
    for child in children:
        try:
            environment = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        except (ProcessLookupError, FileNotFoundError):
            continue  # it ended meanwhile
        if environment == [b""]:
            continue  # a zombie
        seen += 1
        assert b"FLWR_TELEMETRY_ENABLED=0" in environment, child
        assert b"FLWR_DISABLE_UPDATE_CHECK=1" in environment, child
    assert seen


def test_nothing_readable_passes_the_proxy(cluster: Cluster, trained: Run) -> None:
    recorded = bytes(cluster.proxy.recorded)
    assert len(recorded) > 100_000
    token = tomllib.loads((cluster.folder / "1.join").read_text())["token"]
    identity = cluster.identities[1]
    for secret in (
        bytes.fromhex(token),
        token.encode(),
        identity,
        b"A study of the tests",
        b"shadow",
        trained.token,
        b"POST /",
    ):
        assert secret not in recorded
    for image in (cluster.folder / "images-1").rglob("*.png"):
        assert image.read_bytes()[40:80] not in recorded


def test_broken_files_at_a_hospital_are_named_there_and_stop_no_run(cluster: Cluster, trained: Run) -> None:
    said = cluster.nodes[2].text()
    for file in ("p299_0.png", "notes.txt", "p298_0.dcm"):
        assert file in said
    assert {line["participants"] for line in trained.lines("metrics.jsonl")} == {4}
    assert "p299_0" not in cluster.coordinator.text()
    assert not any(b"p299_0" in path.read_bytes() for path in trained.folder.rglob("*") if path.is_file())


def far_ends(pids: list[int]) -> set[tuple[str, int]]:
    """Address and port of everybody with whom these processes are connected."""
    found = [far.split(":") for _, _, far, listens in open_sockets(pids) if not listens]
    return {(address, int(port, 16)) for address, port in found}


def test_nobody_talks_to_anybody_but_the_coordinator(cluster: Cluster, trained: Run) -> None:
    here = ("0100007F", "0000000000000000FFFF00000100007F", "00000000000000000000000001000000")
    for node in cluster.nodes.values():
        node.says("Connected")
        ends = far_ends([node.child.pid])
        assert {port for _, port in ends} == {cluster.proxy.port}
        assert {address for address, _ in ends} <= set(here)
    hub = far_ends([cluster.coordinator.child.pid, *descendants(cluster.coordinator.child.pid)])
    assert hub
    assert {address for address, _ in hub} <= set(here)


def test_hospitals_open_no_port(cluster: Cluster) -> None:
    for node in cluster.nodes.values():
        assert not any(listens for _, _, _, listens in open_sockets([node.child.pid]))


# -- the door -----------------------------------------------------------------------------------------------------------


def client(cluster: Cluster) -> httpx.Client:
    desk = Desk.read(cluster.state.folder / "coordinator.toml")
    return httpx.Client(
        verify=client_context(desk.certificate), base_url=f"https://{desk.address}", timeout=20, trust_env=False
    )


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/start-run",
        "/v1/fleet/register-node",
        "/v1/fleet/unregister-node",
        "/v1/fleet/get-fab",
        "/v1/fleet/%2e%2e/control/start-run",
        "/v1/fleet/..%2fcontrol%2fstart-run",
        "/v1/runtime/pull-messages",
        "/",
        "/docs",
    ],
)
def test_nothing_else_of_flower_is_reachable(cluster: Cluster, path: str) -> None:
    with client(cluster) as http:
        assert http.post(path, content=b"x").status_code == 404


def test_only_tls_1_3_is_spoken(cluster: Cluster) -> None:
    import ssl

    context = client_context(Desk.read(cluster.state.folder / "coordinator.toml").certificate)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        socket.create_connection(("127.0.0.1", cluster.port)) as raw,
        pytest.raises(ssl.SSLError),
        context.wrap_socket(raw, server_hostname="127.0.0.1"),
    ):
        pass


@pytest.mark.parametrize("path", ["/primum/enrol", "/primum/scientist"])
@pytest.mark.parametrize(
    "body", [b"", b"garbage", b"\x01\x80", b"\x01" + b"\x91" * 5000], ids=["empty", "text", "map", "deep"]
)
def test_garbage_at_the_door_is_refused_with_words(cluster: Cluster, path: str, body: bytes) -> None:
    with client(cluster) as http:
        answer = http.post(path, content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]


def test_a_huge_request_is_refused_and_the_door_stays_open(cluster: Cluster) -> None:
    with client(cluster) as http, suppress(httpx.HTTPError):  # it may hang up while we are still sending
        assert http.post("/primum/enrol", content=bytes(5 * 1024 * 1024)).status_code == 413
    assert len(cluster.scientist.members()) == 4


def test_a_fleet_call_without_a_key_is_refused(cluster: Cluster) -> None:
    with client(cluster) as http:
        assert http.post("/v1/fleet/pull-messages", content=b"").status_code >= 400


def test_a_replayed_or_old_request_is_refused(cluster: Cluster) -> None:
    scientist = cluster.scientist
    body = wire.encode(MembersRequest())
    fresh = wire.encode(sign(scientist.identity, ScientistRequest(time.time(), os.urandom(16), body)))
    assert post(scientist.desk, "/primum/scientist", fresh)
    with pytest.raises(PeerError, match="made before"):
        post(scientist.desk, "/primum/scientist", fresh)
    old = wire.encode(sign(scientist.identity, ScientistRequest(time.time() - 500, os.urandom(16), body)))
    with pytest.raises(PeerError, match="too old"):
        post(scientist.desk, "/primum/scientist", old)


def test_an_unknown_scientist_is_refused(cluster: Cluster) -> None:
    with pytest.raises(Refused, match="may not give orders"):
        Scientist(cluster.scientist.desk, Identity.generate()).members()


def ask(cluster: Cluster, signed: SignedStudy) -> None:
    cluster.scientist._ask(SubmitRequest(signed), Submitted)


def test_a_study_unsigned_altered_or_signed_by_a_stranger_is_refused(cluster: Cluster) -> None:
    before = sorted(cluster.state.runs.glob("*"))
    good = sign_study(study(cluster), cluster.scientist.identity)
    with pytest.raises(PeerError, match="signature of the scientist"):
        ask(cluster, SignedStudy(good.text, good.asker, b""))
    with pytest.raises(PeerError, match="signature of the scientist"):
        ask(cluster, SignedStudy(good.text.replace("epsilon = 9.0", "epsilon = 90.0"), good.asker, good.signature))
    with pytest.raises(Refused, match="may not give orders"):
        ask(cluster, sign_study(study(cluster), Identity.generate()))
    assert sorted(cluster.state.runs.glob("*")) == before, "nothing half-written"


def test_a_study_whose_noise_is_too_small_for_its_epsilon_is_refused(cluster: Cluster) -> None:
    with pytest.raises(PrimumError, match="says epsilon 1, but its training costs"):
        cluster.submit(study(cluster, privacy={"epsilon": 1.0}))


def test_a_study_with_too_large_a_delta_is_refused_by_its_key(cluster: Cluster, tmp_path: Path) -> None:
    path = tmp_path / "study.toml"
    path.write_text(study(cluster).text().replace("delta = 1e-05", "delta = 0.01"))
    refused(
        primum("train", str(path), "--state", str(cluster.state.folder)),
        2,
        "privacy.delta",
        "too large for 48 patients",
        str(path),
    )


def test_a_study_with_a_stranger_among_its_members_is_refused(cluster: Cluster) -> None:
    members = [cluster.identities[1], cluster.identities[2], Identity.generate().public]
    with pytest.raises(Refused, match="is not enrolled here"):
        cluster.submit(make_study(members, rounds=2, privacy=PRIVACY))


# -- hospitals that may not come in -------------------------------------------------------------------------------------


def node_command(cluster: Cluster, folder: Path, **changes: str) -> tuple[str, ...]:
    """A new node with hospital 1's images and its join file, changed."""
    path = folder / "changed.join"
    path.write_text(tomli_w.dumps({**tomllib.loads((cluster.folder / "1.join").read_text()), **changes}))
    images, state = str(cluster.folder / "images-1"), str(folder / "state")
    return "node", "--join", str(path), "--data", images, "--state", state, "--patient", r"^(p\d+)_"


def join_with(cluster: Cluster, folder: Path, **changes: str) -> "subprocess.CompletedProcess[str]":
    return primum(*node_command(cluster, folder, **changes))


def test_a_token_used_twice_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    refused(join_with(cluster, tmp_path), 4, "The token was used before, by another node.", "Ask for a new join file")


def test_a_node_that_was_not_invited_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    refused(join_with(cluster, tmp_path, token="ab" * 32), 4, "not one of this coordinator's")


def test_a_token_that_is_no_token_is_named(cluster: Cluster, tmp_path: Path) -> None:
    refused(join_with(cluster, tmp_path, token="what"), 2, "not hexadecimal")


def test_a_wrong_certificate_is_a_wrong_coordinator(cluster: Cluster, tmp_path: Path) -> None:
    """Unless the coordinator's own identity has signed the one that is shown: then it has changed it meanwhile."""
    other = load_or_make(tmp_path, "127.0.0.1").pem()
    refused(join_with(cluster, tmp_path, certificate=other, coordinator="00" * 32), 3, "certificate")
    refused(join_with(cluster, tmp_path, certificate=other), 4, "The token was used before")


def test_a_coordinator_with_another_identity_is_refused(cluster: Cluster, tmp_path: Path) -> None:
    done = join_with(cluster, tmp_path, coordinator="00" * 32, token=cluster.state.register.invite("Stranger").hex())
    refused(done, 3, "signed by somebody else")


def test_a_port_in_use_is_named(cluster: Cluster, tmp_path: Path) -> None:
    done = primum("coordinator", "--state", str(tmp_path / "state"), "--port", str(cluster.port))
    refused(done, 5, f"Port {cluster.port}", "is in use", "--port")


def test_a_second_coordinator_with_the_same_state_folder_is_refused(cluster: Cluster) -> None:
    told = (cluster.state.folder / "coordinator.toml").read_text()
    done = primum("coordinator", "--state", str(cluster.state.folder), "--port", str(free_port()))
    refused(done, 5, "Another coordinator is running with")
    assert (cluster.state.folder / "coordinator.toml").read_text() == told


def test_a_coordinator_that_is_away_is_named_and_waited_for(cluster: Cluster, tmp_path: Path) -> None:
    node = Process(tmp_path / "node.log", node_command(cluster, tmp_path, address=f"127.0.0.1:{free_port()}"))
    try:
        node.says("cannot be reached. Trying again")
        assert node.child.poll() is None
    finally:
        node.child.terminate()
        assert node.child.wait(timeout=20) == 0
    assert "Traceback" not in node.text()


# -- the networks of hospitals ------------------------------------------------------------------------------------------


def test_the_front_says_its_version_and_time_to_everybody_and_nothing_else(cluster: Cluster) -> None:
    desk = Desk.read(cluster.state.folder / "coordinator.toml")
    with httpx.Client(verify=client_context(desk.certificate), trust_env=False) as client:
        said = client.get(f"https://{desk.address}/primum/hello").json()
    assert said.keys() == {"version", "time"}
    assert said["version"] == __version__
    assert abs(said["time"] - time.time()) < 60


def test_the_doctor_finds_nothing_wrong_here(cluster: Cluster) -> None:
    state, join = str(cluster.node_state(1).folder), str(cluster.folder / "1.join")
    done = primum("doctor", "--join", join, "--state", state, "--data", str(cluster.folder / "images-1"), "--json")
    found = json.loads(done.stdout)
    assert done.returncode == 0, done
    assert {check["check"]: check["state"] for check in found["checks"] if check["state"] == "failed"} == {}
    assert [check["seen"] for check in found["checks"] if check["check"] == "images"] == ["12 images of 12 patients"]
    done = primum("doctor", "--coordinator", "--state", str(cluster.state.folder))
    assert done.returncode == 0, done
    assert "it is running" in done.stdout
    assert done.stdout.splitlines()[-1].startswith(f"Allow to this computer: inbound TCP to port {cluster.port}")


def invited(cluster: Cluster, folder: Path, name: str, port: int) -> tuple[NodeState, JoinFile]:
    (folder / "new.join").write_text(cluster.state.invite(name, f"127.0.0.1:{port}"))
    return NodeState.open(folder / "state"), JoinFile.read(folder / "new.join")


def comes_in(state: NodeState, join: JoinFile, way: Way) -> None:
    """Enrols, connects, and asks for orders once."""
    enrol(state, join, way)
    stop, (key, _) = threading.Event(), state.transport()
    with connect(way, (key, key.public_key()), Mail(Courier(state.identity, stop), stop, print)) as fleet:
        assert fleet.receive() is None


def test_a_hospital_comes_in_through_its_proxy(cluster: Cluster, tmp_path: Path) -> None:
    proxy = ConnectProxy("anna:secret")
    state, join = invited(cluster, tmp_path, "Behind a proxy", cluster.port)
    try:
        without = Way(join.address, join.certificate, f"http://127.0.0.1:{proxy.port}")
        with pytest.raises(Unavailable, match="407"):
            enrol(state, join, without)
        comes_in(state, join, replace(without, proxy=f"http://anna:secret@127.0.0.1:{proxy.port}"))
    finally:
        proxy.close()
    assert set(proxy.asked) == {join.address}


def test_an_intercepting_proxy_is_refused_unless_its_authority_is_allowed(cluster: Cluster, tmp_path: Path) -> None:
    between = Interceptor(tmp_path / "between", cluster.port)
    state, join = invited(cluster, tmp_path, "Intercepted", between.port)
    way = Way(join.address, join.certificate)
    try:
        with pytest.raises(PeerError, match="another certificate"):
            enrol(state, join, way)
        assert join.token.encode() not in between.seen and bytes.fromhex(join.token) not in between.seen
        comes_in(state, join, replace(way, authority=between.authority.read_text()))
    finally:
        between.close()
    assert bytes.fromhex(join.token) in between.seen, "what such a proxy reads: docs/how-to/behind-a-proxy.md"


def test_a_second_node_with_the_same_state_folder_is_refused(cluster: Cluster) -> None:
    state, images = str(cluster.node_state(1).folder), str(cluster.folder / "images-1")
    done = primum("node", "--join", str(cluster.folder / "1.join"), "--data", images, "--state", state)
    refused(done, 5, "Another node is running with")


# -- refusals and kills -------------------------------------------------------------------------------------------------


def test_more_epsilon_than_a_hospital_allows_is_refused_by_the_rule_and_hospitals_keep_running(
    cluster: Cluster, trained: Run, tmp_path: Path
) -> None:
    path = tmp_path / "study.toml"
    path.write_text(study(cluster, (1, 2, 3), rounds=1).text())
    cluster.allow(2, epsilon_cap=5.0)
    try:
        done = primum("train", str(path), "--state", str(cluster.state.folder), "--out", str(tmp_path / "runs"))
    finally:
        cluster.allow(2)
    refused(done, 4, "(epsilon_cap)", "epsilon = 9, at most 5 is allowed", "hospital ")
    assert not (tmp_path / "runs").exists()
    assert all(node.child.poll() is None for node in cluster.nodes.values())  # and they train in the next tests


def command(*arguments: str | Path) -> Any:
    """A verb with --json: what it printed."""
    done = primum(*map(str, arguments), "--json")
    assert done.returncode == 0, done
    return json.loads(done.stdout)


def test_a_run_waits_for_a_person_who_agrees_and_then_withdraws_and_status_says_so(
    cluster: Cluster, trained: Run
) -> None:
    state, hospital = cluster.state.folder, cluster.node_state(2).folder
    policy = (hospital / "policy.toml").read_text()
    (hospital / "policy.toml").write_text(policy + 'decide = "ask"\n')
    try:
        asked = study(cluster, (1, 2, 3), rounds=60, name="asked", privacy={"noise_multiplier": 6.0})
        run = cluster.submit(asked)
        place = sorted(cluster.identities[number] for number in (1, 2, 3)).index(cluster.identities[2]) + 1

        def waits() -> bool:
            [status] = command("status", run.name, "--state", state)["runs"]
            waiting = [(awaited["place"], awaited["name"]) for awaited in status["awaited"]]
            return status["stage"] == "consent" and waiting == [(place, "Hospital 2")]

        wait_for(waits, "status to name hospital 2")
        [found] = [one for one in command("consent", "list", "--state", hospital)["studies"] if one["name"] == "asked"]
        assert found["answer"] == "waiting"
        assert command("consent", "yes", "asked", "--state", hospital)["answer"] == "yes"
        wait_for(lambda: len(run.lines("metrics.jsonl")) > 2, "three rounds")
        assert command("consent", "withdraw", found["digest"][:12], "--state", hospital)["answer"] == "no"
        wait_for(lambda: run.status().get("state") == "stopped", "the end of the rounds")
    finally:
        (hospital / "policy.toml").write_text(policy)
    assert "declined or withdrawn" in run.status()["message"]
    assert load_model(run.folder)
    shown = primum("journal", "show", str(hospital), "--study", "asked")
    assert shown.returncode == 0, shown
    for words in ("agreed to the study asked", "sent its masked update", "withdrew from the study asked", "Charged:"):
        assert words in shown.stdout, shown.stdout


def test_a_run_is_stopped_and_goes_on_by_commands(cluster: Cluster, trained: Run) -> None:
    state = str(cluster.state.folder)
    run = cluster.submit(study(cluster, (1, 2, 3), rounds=6, deadlines={"reply_grid": 0.3}))
    wait_for(lambda: len(run.lines("metrics.jsonl")) >= 2, "the second round")
    assert command("stop", run.name, "--state", state)["run"] == run.name
    wait_for(lambda: run.status().get("state") == "stopped", "the stop")
    done = len(run.lines("metrics.jsonl"))
    assert done < 6
    command("resume", run.name, "--state", state)
    cluster.finished(run)
    assert len(run.lines("metrics.jsonl")) > done
    assert primum("stop", run.name, "--state", state).stdout.strip().endswith("finished"), "what is over stays so"
    refused(primum("status", "nothing", "--state", state), 3, "There is no run 'nothing'")


def test_both_sides_journals_confirm_each_other(cluster: Cluster, trained: Run) -> None:
    told = command("journal", "verify", cluster.node_state(1).folder, "--against", cluster.state.folder)
    assert told["their_heads_here"] >= 2
    assert told["our_heads_there"] >= 2


def test_a_coordinator_killed_in_the_middle_and_started_again_goes_on(cluster: Cluster, trained: Run) -> None:
    """Every process at every stage: `scripts/bench faults --only kills`."""
    run = cluster.submit(study(cluster, rounds=6, deadlines={"reply_grid": 0.3}))
    wait_for(lambda: len(run.lines("metrics.jsonl")) >= 2, "the second round")
    children = descendants(cluster.coordinator.child.pid)
    cluster.coordinator.kill()
    done = len(run.lines("metrics.jsonl"))
    cluster.coordinator.start()
    cluster.coordinator.says("Coordinator ready", times=2)
    cluster.finished(run)
    lines = run.lines("metrics.jsonl")
    assert [line["round"] for line in lines] == list(range(1, len(lines) + 1))
    assert len(lines) + sum(line["charged"] for line in run.lines("attempts.jsonl")) == 6
    attempts = [line["attempt"] for line in lines]
    assert attempts == sorted(set(attempts)), "no round number is used again"
    assert len(lines) > done
    wait_for(lambda: not any(alive(child) for child in children), "the end of the old SuperLink", 20)


def test_journals_hold_and_name_no_image(cluster: Cluster, trained: Run) -> None:
    for number in cluster.nodes:
        entries = read_journal(cluster.node_state(number).folder / "journal.jsonl")
        kinds = {entry["kind"] for entry in entries}
        assert {"enrolled", "decision", "vector", "shares"} <= kinds
        assert ".png" not in str(entries)


def test_no_process_of_the_cluster_printed_a_stack_trace(cluster: Cluster, trained: Run) -> None:
    for process in (cluster.coordinator, *cluster.nodes.values()):
        assert "Traceback" not in process.text(), process.text()[-3000:]


# -- the end ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_coordinator_ends_with_all_its_children_and_without_a_trace(tmp_path: Path, number: signal.Signals) -> None:
    arguments = ("coordinator", "--state", str(tmp_path / "state"), "--port", str(free_port()))
    coordinator = Process(tmp_path / "coordinator.log", arguments, anew=True)
    try:
        coordinator.says("Coordinator ready")
        children = descendants(coordinator.child.pid)
        assert children
        coordinator.child.send_signal(number)
        assert coordinator.child.wait(timeout=20) in (0, 130, 143, -number)
        wait_for(lambda: not any(alive(child) for child in children), "the end of its children", 10)
        assert "Traceback" not in coordinator.text()
    finally:
        coordinator.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
def test_a_hospital_ends_without_a_trace_and_comes_back(cluster: Cluster, number: signal.Signals) -> None:
    node = cluster.nodes[4]
    node.says("Connected")
    connected = node.text().count("Connected")
    node.child.send_signal(number)
    assert node.child.wait(timeout=20) in (0, 130)
    assert "Traceback" not in node.text()
    node.start()
    node.says("Connected", times=connected + 1)


def test_orders_name_themselves_only() -> None:
    assert repr(StudyOrder(b"run", SignedStudy("text", b"", b""))) == "StudyOrder()"
