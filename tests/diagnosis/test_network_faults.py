"""Runs of a network that are cut, killed or frozen in the middle: a clear error, and no number twice."""

import signal
import threading
import time

import pytest
from tests.diagnosis.conftest import used_records
from tests.diagnosis.cutting import CuttingProxy
from tests.diagnosis.networks import (
    CLASSES,
    MEAN,
    STD,
    ask,
    compare,
    deployed,
    drawn_pixels,
    in_groups_of,
    numbers_used,
    plain_answers,
    residual_onnx,
    settled,
    store,
)

from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.deployable import Description, open_model
from primum.errors import PeerError, PrimumError, Unavailable

ROLES = ("dealer", "A", "B")
CUTS = 7


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return residual_onnx(tmp_path_factory.mktemp("onnx") / "network.onnx")


@pytest.fixture(scope="module")
def stage(tmp_path_factory, path):
    """(cluster, proxy before the dealer, proxy before B's link); requests run in groups of two images."""
    model = open_model(path, Description(classes=CLASSES, mean=MEAN, std=STD), coarse=True)
    proxies: list[CuttingProxy] = []

    def through(address):
        proxies.append(CuttingProxy(address))
        return proxies[-1].address

    # in the order of Cluster.make: the dealer; A and A's link; B and B's link
    folder = tmp_path_factory.mktemp("faults")
    try:
        with deployed(folder, model, in_groups_of(2, model), via=through) as cluster:
            yield cluster, proxies[0], proxies[4]
    finally:
        for proxy in proxies:
            proxy.close()


def assert_used_once(cluster):
    for role in ROLES:
        spent = numbers_used(cluster, role)
        assert spent == sorted(set(spent)), role
        requests = [request for _, _, request in used_records(cluster.folder / role)]
        assert len(set(requests)) == len(requests), role


def assert_quiet(cluster):
    for role in ROLES:
        assert cluster.running[role].process.poll() is None and "Traceback" not in cluster.log(role), cluster.log(role)


def outcome(cluster, count):
    """The error of a request, or None; never anything but an announced error, and soon."""
    start = time.monotonic()
    try:
        diagnose(drawn(count), cluster.public)
    except PrimumError as error:
        assert isinstance(error, PeerError | Unavailable), error
        assert time.monotonic() - start < 30
        return error
    return None


def drawn(count):
    import torch

    return torch.from_numpy(drawn_pixels(count))


def quiet_bytes(proxy):
    """How much has passed, once nothing passes any more."""
    before = -1
    while before != proxy.passed:
        before = proxy.passed
        time.sleep(0.1)
    return before


def bytes_of_a_request(cluster, proxy, count):
    """What goes through the proxy while a request of `count` images is answered."""
    before = quiet_bytes(proxy)
    assert outcome(cluster, count) is None
    return proxy.passed - before


@pytest.mark.parametrize("where", ["dealer", "B"])
def test_a_connection_cut_anywhere_is_one_clear_error_and_the_next_request_works(stage, path, where):
    """Between dealer and B while it deals; between A and B in every part of a run, handshakes to answers.

    The error names a peer, the request is not run again by anybody, and the next one, under fresh keys, is answered.
    """
    cluster, *proxies = stage
    proxy, named = proxies[ROLES.index(where) // 2], ("the dealer",) if where == "dealer" else ("server A", "server B")
    pixels = drawn_pixels(1)
    ask(cluster, pixels, tries=20)
    size, failed = bytes_of_a_request(cluster, proxy, 5), 0
    for cut in range(CUTS):
        quiet_bytes(proxy)
        before = {role: len(used_records(cluster.folder / role)) for role in ("A", "B")}
        proxy.cut_after(1 + (size - 2) * cut // (CUTS - 1))
        error = outcome(cluster, 5)
        if error is not None:
            failed += 1
            assert any(name in str(error) for name in named), error
        else:  # before the run, so that it waited for the new connection; or after it
            assert cut == 0 or cut > CUTS // 2, "a cut in the middle went unnoticed"
            quiet_bytes(proxy)
            proxy.forget()
        for role, count in before.items():
            assert len(used_records(cluster.folder / role)) <= count + 1, "somebody tried again"
        compare(ask(cluster, pixels, tries=3), plain_answers(path, pixels))
    assert failed > CUTS // 2
    assert_used_once(cluster)
    assert_quiet(cluster)


def test_cuts_in_a_handshake_are_tried_again_until_it_succeeds(stage, path):
    """Both proxies cut every new connection a little later; keys of a broken handshake are never used."""
    cluster, *proxies = stage
    pixels = drawn_pixels(1)
    for proxy in proxies:
        proxy.cut_after(1)
    outcome(cluster, 3)
    for size in (100, 3000, 5000):
        for proxy in proxies:
            proxy.cut_after(size)
        time.sleep(0.5)
    for proxy in proxies:
        proxy.forget()
    compare(ask(cluster, pixels, tries=5), plain_answers(path, pixels))
    assert_used_once(cluster)
    assert_quiet(cluster)


@pytest.mark.parametrize("victim", ["B"])
def test_a_role_killed_in_the_middle_of_a_run(stage, path, victim):
    """kill -9 between two groups of a request; then a restart from what is on disk."""
    cluster = stage[0]
    errors: list[PrimumError | None] = []
    before = len(numbers_used(cluster, "dealer"))
    ask(cluster, drawn_pixels(1), tries=20)
    asking = threading.Thread(target=lambda: errors.append(outcome(cluster, 60)))
    asking.start()
    while len(numbers_used(cluster, "dealer")) < before + 8:
        time.sleep(0.002)
    cluster.kill(victim)
    asking.join(60)
    assert not asking.is_alive() and errors[0] is not None
    assert ("the dealer" if victim == "dealer" else f"server {victim}") in str(errors[0])
    highest = max(max(numbers_used(cluster, role)) for role in ROLES)
    cluster.start(victim)
    pixels = drawn_pixels(1)
    (answer,) = ask(cluster, pixels, tries=20)
    compare([answer], plain_answers(path, pixels))
    assert answer.number > highest
    assert_used_once(cluster)
    assert_quiet(cluster)


@pytest.mark.parametrize("victim", ["dealer"])
def test_a_role_killed_while_material_is_made_ahead(stage, path, victim):
    """Half-written and whole material alike are of old keys afterwards: deleted, its numbers never used again."""
    cluster, depth = stage[0], 4
    cluster.options["B"] = ["--ahead", str(depth)]
    cluster.kill("B")
    cluster.start("B")
    while len(store(cluster)) < 2:
        time.sleep(0.001)
    cluster.kill(victim)
    highest = max(max(numbers_used(cluster, role)) for role in ROLES)
    cluster.start(victim)
    fresh = settled(cluster, depth)
    assert min(fresh) > highest
    pixels = drawn_pixels(1)
    (answer,) = ask(cluster, pixels, tries=20)
    compare([answer], plain_answers(path, pixels))
    assert answer.number > highest
    assert_used_once(cluster)
    assert_quiet(cluster)


@pytest.mark.parametrize(("victim", "named"), [("dealer", "the dealer"), ("B", "server B")])
def test_who_is_frozen_is_named(stage, path, victim, named):
    """SIGSTOP: no connection ends, nothing comes. The others notice, name it, and ask it again when it is back."""
    cluster = stage[0]
    ask(cluster, drawn_pixels(1), tries=20)
    errors: list[PrimumError | None] = []
    before = len(used_records(cluster.folder / "dealer"))
    asking = threading.Thread(target=lambda: errors.append(outcome(cluster, 16)))
    asking.start()
    while len(used_records(cluster.folder / "dealer")) < before + 2:
        time.sleep(0.001)
    frozen = cluster.running[victim].process
    frozen.send_signal(signal.SIGSTOP)
    try:
        asking.join(60)
    finally:
        frozen.send_signal(signal.SIGCONT)
    assert errors and f"{named} did not answer within" in str(errors[0])
    pixels = drawn_pixels(1)
    compare(ask(cluster, pixels, tries=20), plain_answers(path, pixels))
    assert_used_once(cluster)
    assert_quiet(cluster)
