"""Killed, restarted, rolled back, dead, foreign: a clear error in seconds, and no number twice."""

import shutil
import signal
import threading

import pytest
from tests.diagnosis.conftest import Cluster, images, run_primum, used_records

from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.deploy import deploy
from primum.diagnosis.deployable import deployable_model
from primum.diagnosis.roles import load_card, save_card
from primum.errors import MachineError, PeerError, PrimumError, Unavailable


def numbers(cluster, role):
    records = used_records(cluster.folder / role)
    return [number for first, count, _ in records for number in range(first, first + count)]


def assert_used_once(cluster):
    for role in ("dealer", "A", "B"):
        spent = numbers(cluster, role)
        assert spent == sorted(set(spent)), role
        requests = [request for _, _, request in used_records(cluster.folder / role)]
        assert len(set(requests)) == len(requests), role


def until_it_works(cluster, tries=20):
    """A diagnosis, after the reconnecting that a restart needs; errors on the way are of the announced kind."""
    for _ in range(tries):
        try:
            return diagnose(images(1), cluster.public)[0]
        except (Unavailable, PeerError):
            continue
    raise AssertionError([cluster.log(role) for role in ("dealer", "A", "B")])


@pytest.mark.parametrize("victim", ["dealer", "A", "B"])
def test_a_role_killed_in_the_middle_is_a_clear_error_and_no_number_comes_twice(own_cluster, victim):
    """kill -9 while requests run; then a restart from the state on disk."""
    cluster = own_cluster.start()
    errors: list[Exception] = []
    finished = threading.Event()

    def ask():
        try:
            while not finished.is_set():
                diagnose(images(20), cluster.public)
        except PrimumError as error:
            errors.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    while len(used_records(cluster.folder / victim)) < 3:
        finished.wait(0.01)
    cluster.kill(victim)
    asking.join(60)
    finished.set()
    assert not asking.is_alive()
    (error,) = errors
    assert isinstance(error, Unavailable | PeerError)
    assert ("the dealer" if victim == "dealer" else f"server {victim}") in str(error)
    before = max(max(numbers(cluster, role)) for role in ("dealer", "A", "B"))

    cluster.start(victim)
    assert until_it_works(cluster).number > before
    assert_used_once(cluster)


@pytest.mark.parametrize("victim", ["dealer", "A", "B"])
def test_a_state_folder_restored_from_a_snapshot_is_harmless(own_cluster, victim):
    """One role's numbers go back in time; the run continues above the largest mark."""
    cluster = own_cluster.start()
    diagnose(images(2), cluster.public)
    cluster.kill(victim, signal.SIGTERM)
    shutil.copytree(cluster.folder / victim, cluster.folder / "snapshot")
    cluster.start(victim)
    last = [until_it_works(cluster).number for _ in range(3)][-1]
    cluster.kill(victim, signal.SIGTERM)
    shutil.rmtree(cluster.folder / victim)
    (cluster.folder / "snapshot").rename(cluster.folder / victim)
    assert max(numbers(cluster, victim)) < last
    cluster.start(victim)
    assert until_it_works(cluster).number > last
    for role in {"dealer", "A", "B"} - {victim}:
        assert len(set(numbers(cluster, role))) == len(numbers(cluster, role))


def test_all_three_restarted_go_on_above_their_marks(own_cluster):
    cluster = own_cluster.start()
    last = diagnose(images(3), cluster.public)[-1].number
    for role in ("A", "dealer", "B"):
        cluster.kill(role)
    cluster.start("B", "A", "dealer")
    assert until_it_works(cluster).number > last
    assert_used_once(cluster)


@pytest.mark.parametrize("absent, named", [("dealer", "the dealer"), ("B", "server B"), ("A", "server A")])
def test_a_role_that_is_not_there_is_named(own_cluster, absent, named):
    present = [role for role in ("dealer", "A", "B") if role != absent]
    cluster = own_cluster.start(*present)
    with pytest.raises(Unavailable, match=named):
        diagnose(images(1), cluster.public)
    printed = run_primum(
        "diagnose", "--deployment", cluster.folder / "files" / "public.json", "--carry", cluster.folder
    )
    assert printed.returncode == 2 and "Traceback" not in printed.stderr
    for role in ("A", "B"):
        if role in present:
            assert "Traceback" not in cluster.log(role)
    cluster.start(absent)
    assert until_it_works(cluster).number >= 1


def test_servers_of_two_deployments_refuse_each_other(own_cluster, tmp_path):
    """Same institutions, two versions of the model: A has the new file, B the old one."""
    cluster = own_cluster
    cards = [
        load_card(save(cluster, name, tmp_path), "dealer" if name == "dealer" else "server")
        for name in ("dealer", "A", "B")
    ]
    deploy(deployable_model(cluster.model), *cards, tmp_path / "second")
    shutil.copy(tmp_path / "second" / "server-a.json", cluster.file("A"))
    shutil.copy(tmp_path / "second" / "dealer.json", cluster.file("dealer"))
    cluster.start()
    cluster.wait_for("B", "runs another deployment")
    cluster.wait_for("A", "runs another deployment")
    with pytest.raises(PrimumError):
        diagnose(images(1), cluster.public)
    assert numbers(cluster, "A") == [] and numbers(cluster, "B") == []


def save(cluster, name, folder):
    deployment = cluster.public.deployment
    card = {"dealer": deployment.dealer, "A": deployment.a, "B": deployment.b}[name]
    path = folder / f"{name}.card"
    save_card(card, path)
    return path


def test_a_port_in_use_and_a_state_in_use_are_named(cluster):
    again = run_primum("dealer", cluster.file("dealer"), "--state", cluster.folder / "dealer")
    assert again.returncode == MachineError.exit_code
    assert "Another process" in again.stderr and "Traceback" not in again.stderr


@pytest.mark.parametrize("role", ["dealer", "A", "B"])
def test_a_port_in_use_is_named(own_cluster, cluster, role):
    """The other cluster's server A listens there."""
    address = cluster.listen["A"][1]
    verb = "dealer" if role == "dealer" else "serve"
    printed = run_primum(verb, own_cluster.file(role), "--state", own_cluster.folder / role, "--listen", address)
    assert printed.returncode == MachineError.exit_code
    assert address in printed.stderr and "--listen" in printed.stderr and "Traceback" not in printed.stderr


def test_states_are_private_and_the_journal_keeps_hashes_only(cluster):
    (one,) = diagnose(images(1), cluster.public)
    for role in ("dealer", "A", "B"):
        folder = cluster.folder / role
        assert folder.stat().st_mode & 0o777 == 0o700
        for path in folder.iterdir():
            assert path.stat().st_mode & 0o077 == 0, path
            if path.name != "journal.jsonl":  # which grows with the tests that came before; its lines are short, below
                assert path.stat().st_size < 20_000, path  # no share, mask or opening of 2,000 values is on a disk
    text = (cluster.folder / "A" / "journal.jsonl").read_text()
    assert f'"first":{one.number},' in text
    assert all(len(line) < 1200 for line in text.splitlines())


def test_a_signal_ends_each_process_quietly(own_cluster):
    cluster = own_cluster.start()
    diagnose(images(1), cluster.public)
    for role in ("A", "B", "dealer"):
        process = cluster.running[role].process
        cluster.kill(role, signal.SIGTERM)
        assert process.returncode == 0, cluster.log(role)
        assert "Traceback" not in cluster.log(role)


def test_ready_names_role_address_and_deployment(cluster):
    for role in ("dealer", "A", "B"):
        word, who, address, fingerprint = cluster.running[role].ready.split()
        assert (word, who, address) == ("READY", role, cluster.listen[role][1])
        assert fingerprint == cluster.public.deployment.fingerprint()


def test_servers_and_dealer_need_no_torch():
    import subprocess
    import sys

    code = (
        "import sys, primum.cli.serve, primum.cli.dealer, primum.diagnosis.server, primum.diagnosis.dealer;"
        "print([name for name in ('torch', 'pydicom', 'matplotlib', 'pydantic', 'scipy') if name in sys.modules])"
    )
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert printed.stdout.strip() == "[]"


def test_cluster_can_be_made_twice_on_one_machine(tmp_path):
    """Two deployments side by side do not disturb each other."""
    one, two = (Cluster.make(tmp_path / name) for name in ("one", "two"))
    try:
        one.start()
        two.start()
        for made in (one, two):
            (answer,) = diagnose(images(1), made.public)
            assert answer.number == 1
    finally:
        one.stop()
        two.stop()
