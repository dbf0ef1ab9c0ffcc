"""Keys of a connection: agreed afresh, bound to what both sides run, above both marks."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.diagnosis.conftest import Cluster

from primum.diagnosis.session import accept, hello, welcome
from primum.errors import PeerError, Refused
from primum.keys.agreement import KeyPair
from primum.mpc.share import FARTHEST_SKIP


@pytest.fixture(scope="module")
def deployment(tmp_path_factory):
    return Cluster.make(tmp_path_factory.mktemp("session")).public.deployment


def connect(deployment, mark, other_mark, role="A"):
    keys = KeyPair.generate()
    answer, theirs = welcome(deployment, hello(deployment, role, mark, keys), other_mark, "server A")
    return accept(deployment, role, answer, mark, keys, "the dealer"), theirs


@settings(max_examples=20)
@given(other_mark=st.integers(0, 2**40), beyond=st.integers(-(2**40), FARTHEST_SKIP), ahead=st.integers(1, 5))
def test_both_sides_have_the_same_keys_above_both_marks(deployment, other_mark, beyond, ahead):
    mark = max(0, other_mark + beyond)
    ours, theirs = connect(deployment, mark, other_mark)
    base = max(mark, other_mark)
    assert ours.id == theirs.id and ours.base == theirs.base == base
    assert ours.ratchet.take(base + ahead) == theirs.ratchet.take(base + ahead)
    with pytest.raises(Refused):
        theirs.ratchet.take(base)


def test_every_connection_has_other_keys_even_for_the_same_numbers(deployment):
    """State folders restored from a snapshot on all sides: the same number, another mask."""
    taken = [connect(deployment, 5, 5)[0].ratchet.take(6) for _ in range(3)]
    assert len(set(taken)) == 3


@pytest.mark.parametrize("name", ["model", "program", "deployment"])
def test_what_differs_is_named_on_both_sides(deployment, name):
    keys = KeyPair.generate()
    said = hello(deployment, "A", 0, keys)
    with pytest.raises(PeerError, match=f"runs another {name}"):
        welcome(deployment, msgspec.structs.replace(said, **{name: bytes(32)}), 0, "server A")
    answer, _ = welcome(deployment, said, 0, "server A")
    with pytest.raises(PeerError, match=f"runs another {name}"):
        accept(deployment, "A", msgspec.structs.replace(answer, **{name: bytes(32)}), 0, keys, "the dealer")


def test_a_mark_far_ahead_is_refused_since_marks_never_go_back(deployment):
    with pytest.raises(PeerError, match="far ahead"):
        connect(deployment, 7 + FARTHEST_SKIP + 1, 7)


@pytest.mark.parametrize("mark", [-1, 1 << 62, 1 << 63])
def test_marks_out_of_range_are_refused(deployment, mark):
    said = msgspec.structs.replace(hello(deployment, "A", 0, KeyPair.generate()), mark=mark)
    with pytest.raises(PeerError, match="out of range"):
        welcome(deployment, said, 0, "server A")


def test_a_peer_that_would_go_back_is_refused(deployment):
    keys = KeyPair.generate()
    answer, _ = welcome(deployment, hello(deployment, "A", 3, keys), 0, "server A")
    with pytest.raises(PeerError, match="again"):
        accept(deployment, "A", answer, 4, keys, "the dealer")


@pytest.mark.parametrize("change", [{"x25519": bytes(32)}, {"x25519": b""}, {"mlkem": b"short"}])
def test_keys_that_are_none_are_refused(deployment, change):
    said = msgspec.structs.replace(hello(deployment, "A", 0, KeyPair.generate()), **change)
    with pytest.raises(PeerError):
        welcome(deployment, said, 0, "server A")


def test_an_altered_agreement_gives_different_keys(deployment):
    keys = KeyPair.generate()
    answer, theirs = welcome(deployment, hello(deployment, "A", 0, keys), 0, "server A")
    altered = msgspec.structs.replace(answer, ciphertext=bytes([answer.ciphertext[0] ^ 1]) + answer.ciphertext[1:])
    ours = accept(deployment, "A", altered, 0, keys, "the dealer")
    assert ours.id != theirs.id


def test_a_session_prints_no_key(deployment):
    ours, _ = connect(deployment, 0, 0)
    assert "ratchet" not in repr(ours)
