"""Lanes and the door before them: strangers, broken peers, slow ones; and closing under another thread."""

import contextlib
import socket
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from tests.diagnosis.conftest import Cluster, images

from primum.diagnosis.ahead import Ahead, Keys
from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.lane import GREETING, Lane, accept_lane, open_lane
from primum.diagnosis.messages import Run, Sorry, Waiting
from primum.diagnosis.roles import load_keys, make_role, parse_address
from primum.diagnosis.session import Session
from primum.errors import MachineError, PeerError, PrimumError, Unavailable
from primum.keys.certificate import client_context, load_or_make, server_context
from primum.mpc.party import Party
from primum.mpc.program import Open, Program, Wire
from primum.mpc.share import Ratchet

SESSION = b"s" * 32


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    return load_or_make(tmp_path_factory.mktemp("keys"), "127.0.0.1")


@contextlib.contextmanager
def lanes(own, session=SESSION):
    """Both ends of a lane over real TLS; or the error of the accepting end."""
    ends: list[Lane | PrimumError] = []

    def take():
        plain, _ = listener.accept()
        try:
            ends.append(accept_lane(plain, server_context(own, own.pem()), own.pem(), "far", lambda: SESSION))
        except PrimumError as error:
            ends.append(error)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepting = threading.Thread(target=take)
        accepting.start()
        near = open_lane(f"127.0.0.1:{listener.getsockname()[1]}", own.pem(), own, "near", session)
        accepting.join(20)
    try:
        yield near, ends[0]
    finally:
        near.close()
        if isinstance(ends[0], Lane):
            ends[0].close()


def test_both_send_before_either_reads(own):
    """More than any buffer holds, at once in both directions."""
    one, two = (np.frombuffer(np.random.default_rng(seed).bytes(3_000_000), np.uint8) for seed in (1, 2))
    got = []
    with lanes(own) as (near, far):
        thread = threading.Thread(target=lambda: got.append(far.exchange(two, len(one))))
        thread.start()
        assert (near.exchange(one, len(two)) == two).all()
        thread.join(20)
    assert (got[0] == one).all()


def test_a_lane_closed_by_another_thread_ends_what_waits_on_it_and_says_nothing_in_clear(own):
    """A run that is given up: its thread ends at once with an error, and never takes raw bytes for a message."""
    for _ in range(10):
        ends, got = [], []
        with lanes(own) as (near, far):

            def work(near=near, got=got, ends=ends):
                try:
                    while True:
                        got.append(near.exchange(np.zeros(5000, np.uint8), 5000))
                except PrimumError as error:
                    ends.append(error)

            threads = [threading.Thread(target=work), threading.Thread(target=work, args=(far, [], []))]
            for thread in threads:
                thread.start()
            time.sleep(0.01)
            near.close()
            for thread in threads:
                thread.join(20)
                assert not thread.is_alive()
            with pytest.raises(Unavailable):
                near.send(np.zeros(10, np.uint8))
            with pytest.raises(Unavailable):
                near.receive(1)
        assert isinstance(ends[0], Unavailable) and not any(part.any() for part in got)


def test_a_lane_of_another_session_is_refused(own):
    with lanes(own, b"t" * 32) as (near, error):
        assert isinstance(error, PeerError) and "another session" in str(error)
        with pytest.raises(PrimumError):
            near.receive(1)


@pytest.mark.parametrize(
    "data, named",
    [
        ((1 << 31).to_bytes(4, "big"), "announced a message of"),
        ((10).to_bytes(4, "big") + b"\xff" * 10, "far"),
        (b"\0\0\0", "closed the connection"),
    ],
)
def test_a_message_that_is_none_is_refused(own, data, named):
    with lanes(own) as (near, far):
        near.send(np.frombuffer(data, np.uint8))
        near.close()
        with pytest.raises(PrimumError, match=named):
            far.receive_one_of(Run, Sorry)


def test_silence_is_an_error_that_names_the_peer(own):
    with lanes(own) as (_, far), pytest.raises(Unavailable, match=r"far did not answer within 0\.05"):
        far.exchange(np.zeros(3, np.uint8), 3, 0.05)


def test_who_prepares_for_long_is_heard_meanwhile(own):
    with lanes(own) as (near, far):
        with near.saying(Waiting(), 0.01):
            assert all(isinstance(far.receive_one_of(Waiting, Run), Waiting) for _ in range(3))
        near.send_message(Run(b"r" * 32, 7, 1))
        message = far.receive_one_of(Waiting, Run)
        while isinstance(message, Waiting):
            message = far.receive_one_of(Waiting, Run)
        assert message == Run(b"r" * 32, 7, 1)
        far.close()
        with near.saying(Waiting(), 0.01):
            time.sleep(0.05)  # to nobody: no error yet


def still_serves(cluster):
    return len(diagnose(images(1), cluster.public)) == 1


def doors(cluster):
    """(address, certificate) of the dealer's door and of B's."""
    deployment = cluster.public.deployment
    return {
        "dealer": (deployment.dealer.address, deployment.dealer.certificate),
        "B": (deployment.b.link, deployment.b.certificate),
    }


@pytest.mark.parametrize("where", ["dealer", "B"])
@pytest.mark.parametrize("data", [b"primum lane?", GREETING + b"\xff" * 300, b"p", b"GET / HTTP/1.1\r\n\r\n"])
def test_garbage_at_the_door(cluster, where, data):
    """Neither a greeting that is none nor anything but TLS behind a right one is let in."""
    with socket.create_connection(parse_address(doors(cluster)[where][0]), 20) as plain:
        plain.sendall(data)
        with contextlib.suppress(OSError):  # it may have hung up already
            plain.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionError):
            while plain.recv(1000):  # an alert of TLS at most
                pass
    assert still_serves(cluster) and "Traceback" not in cluster.log(where)


def wait_for_more(cluster, role, text, before):
    """Until the log has `text` more than `before` times."""
    deadline = time.monotonic() + 20
    while cluster.log(role).count(text) <= before:
        assert time.monotonic() < deadline, cluster.log(role)
        time.sleep(0.01)


@pytest.mark.parametrize(
    "where, who, said",
    [
        ("dealer", "stranger", "broke a connection off"),
        ("B", "stranger", "broke a connection off"),
        ("dealer", "A", "A stranger connected"),
        ("B", "dealer", "broke a connection off"),
        ("dealer", "B", "another session"),
        ("B", "A", "another session"),
    ],
)
def test_a_lane_of_somebody_else_is_refused(cluster, tmp_path, where, who, said):
    """Only B has a lane to the dealer and only A one to B; and only for the connection that is up."""
    make_role("server", tmp_path / "stranger", "127.0.0.1:7411")
    folder = tmp_path / who if who == "stranger" else cluster.folder / who
    address, certificate = doors(cluster)[where]
    before = cluster.log(where).count(said)
    with pytest.raises(PrimumError):
        lane = open_lane(address, certificate, load_keys(folder).tls, "the peer", bytes(32))
        try:
            lane.receive(1, 20)
        finally:
            lane.close()
    wait_for_more(cluster, where, said, before)
    assert still_serves(cluster)


def test_a_greeting_may_come_in_pieces(cluster):
    """A network may split it; a lane is not lost by that."""
    keys = load_keys(cluster.folder / "A").tls
    address, certificate = doors(cluster)["B"]
    before = cluster.log("B").count("another session")
    with socket.create_connection(parse_address(address), 20) as plain:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for letter in GREETING:
            plain.send(bytes([letter]))
            time.sleep(0.005)
        with client_context(certificate, keys).wrap_socket(plain, server_hostname="127.0.0.1") as secured:
            secured.sendall(bytes(32))
            with contextlib.suppress(OSError):
                secured.recv(1)
    wait_for_more(cluster, "B", "another session", before)


def threads_of(cluster: Cluster, role: str) -> int:
    lines = Path(f"/proc/{cluster.running[role].process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Threads:"))


@pytest.mark.parametrize("data", [b"", b"p"], ids=["silence", "a letter"])
@pytest.mark.parametrize("where", ["dealer", "B"])
def test_a_hundred_who_connect_and_say_next_to_nothing(cluster, where, data):
    """They get no more than 64 places; who is connected already is served, and others are when they are gone."""
    assert still_serves(cluster)
    address = parse_address(doors(cluster)[where][0])
    with contextlib.ExitStack() as open_ones:
        for _ in range(100):
            plain = open_ones.enter_context(socket.create_connection(address, 20))
            with contextlib.suppress(ConnectionError):
                plain.sendall(data)
        time.sleep(0.2)
        assert still_serves(cluster)
        assert threads_of(cluster, where) < 2 * 64 + 24  # one that reads and one that ends it in time, for each
    assert still_serves(cluster) and "Traceback" not in cluster.log(where)


# What is made ahead, where the disk does not take it


def test_a_full_disk_ends_the_keeping_ahead_and_nothing_else(tmp_path):
    """Once, not for ever; numbers that were dealt are not asked for again."""
    wires = (Wire("x", (1, 1, 2), 40, 0, 4), Wire("x^", (1, 1, 2), 40, 0, 4))
    program = Program(40, wires, (Open("open", "x", "x^"),), "x", "x^", 0)
    party = Party.make("B", program, bytes(32), b"", bytes(32))
    ahead = Ahead(party, tmp_path / "store", 2)
    asked = []

    def deal(first, images):
        asked.append(first)
        return iter([np.zeros(100_000, np.uint8)]) if len(asked) > 1 else iter([])

    keys = Keys(Session(b"d" * 32, 0, Ratchet(b"k" * 32, 1)), Session(b"b" * 32, 0, Ratchet(b"c" * 32, 1)), b"a", deal)
    assert ahead.fill(keys, 0)  # the one in memory
    (tmp_path / "store" / "2.material").symlink_to("/dev/full")
    with pytest.raises(MachineError, match="cannot be written"):
        ahead.fill(keys, 0)
    assert not ahead.fill(keys, 0) and asked == [1, 2]
    assert ahead.taken(keys) == 2 and not list((tmp_path / "store").iterdir())
