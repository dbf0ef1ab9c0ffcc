"""Invitations and members: a token lets one hospital in, once."""

import os
import sqlite3
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from primum import __version__
from primum.errors import InputError, PeerError, PrimumError, Refused
from primum.federation import enrolment
from primum.federation.coordinator import State
from primum.federation.enrolment import EnrolRequest, JoinFile, Register
from primum.keys.identity import Identity


@cache
def transport_key(name: bytes) -> bytes:
    """A key as a node makes it, the same for the same name."""
    made = ec.generate_private_key(ec.SECP384R1()).public_key()
    return made.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def request(token: bytes, identity: Identity, transport: bytes = b"", version: str = __version__) -> EnrolRequest:
    transport = transport or transport_key(identity.public)
    unsigned = EnrolRequest(token, identity.public, transport, version, b"")
    signature = identity.sign(enrolment.PURPOSE, unsigned.signed_part())
    return EnrolRequest(token, identity.public, transport, version, signature)


@pytest.fixture
def register(tmp_path: Path) -> Register:
    return Register(tmp_path)


def expire(register_file: Path) -> None:
    with sqlite3.connect(register_file) as db:
        db.execute("update invitation set expires = 1")
    db.close()


def test_an_invited_hospital_becomes_a_member(register: Register) -> None:
    identity = Identity.generate()
    register.enrol(request(register.invite("North"), identity))
    [member] = register.members()
    assert (member.name, member.identity) == ("North", identity.public)
    assert register.transports() == {identity.public: transport_key(identity.public)}


def test_the_same_hospital_may_come_again_with_its_token(register: Register) -> None:
    token, identity = register.invite("North"), Identity.generate()
    register.enrol(request(token, identity))
    register.enrol(request(token, identity))
    assert len(register.members()) == 1


def test_a_token_used_by_another_is_refused(register: Register) -> None:
    token = register.invite("North")
    register.enrol(request(token, Identity.generate()))
    with pytest.raises(Refused, match="used before, by another node"):
        register.enrol(request(token, Identity.generate()))
    assert len(register.members()) == 1


def test_an_unknown_token_is_refused(register: Register) -> None:
    with pytest.raises(Refused, match="not one of this coordinator's"):
        register.enrol(request(os.urandom(32), Identity.generate()))


def test_an_expired_token_lets_nobody_in(register: Register, tmp_path: Path) -> None:
    token = register.invite("North")
    expire(tmp_path / "members.sqlite")
    with pytest.raises(Refused, match="expired"):
        register.enrol(request(token, Identity.generate()))


def test_a_member_starts_again_with_its_join_file_when_the_token_has_expired(
    register: Register, tmp_path: Path
) -> None:
    token, identity = register.invite("North"), Identity.generate()
    register.enrol(request(token, identity))
    expire(tmp_path / "members.sqlite")
    assert register.enrol(request(token, identity)).name == "North"


def test_a_transport_key_of_another_member_does_not_push_it_out(register: Register) -> None:
    first, second = Identity.generate(), Identity.generate()
    register.enrol(request(register.invite("North"), first, transport_key(b"key")))
    with pytest.raises(Refused, match="transport key is another member's"):
        register.enrol(request(register.invite("South"), second, transport_key(b"key")))
    assert [member.identity for member in register.members()] == [first.public]


@pytest.mark.parametrize(
    "key", [b"key", transport_key(b"key")[:-1], transport_key(b"key") + b"\n"], ids=["", "cut", "+"]
)
def test_a_transport_key_that_superlink_would_not_take_is_refused(register: Register, key: bytes) -> None:
    """Else the coordinator could not start again."""
    with pytest.raises(PeerError, match="not a P-384 key"):
        register.enrol(request(register.invite("North"), Identity.generate(), key))
    assert not register.members()


def test_a_signature_over_something_else_is_refused(register: Register) -> None:
    good = request(register.invite("North"), Identity.generate())
    altered = EnrolRequest(good.token, good.identity, b"another transport key", good.version, good.signature)
    with pytest.raises(PeerError, match="the enrolling node"):
        register.enrol(altered)


def test_another_release_is_told_which_one_to_install(register: Register) -> None:
    with pytest.raises(Refused, match=f"coordinator {__version__}") as caught:
        register.enrol(request(register.invite("North"), Identity.generate(), version="0.0.1"))
    assert "pip install" in caught.value.hint


def test_a_name_is_invited_again_until_it_is_a_member(register: Register) -> None:
    lost, token = register.invite("North"), register.invite("North")
    with pytest.raises(Refused, match="not one of"):
        register.enrol(request(lost, Identity.generate()))
    register.enrol(request(token, Identity.generate()))
    with pytest.raises(Refused, match="enrolled already"):
        register.invite("North")


def test_the_token_itself_is_not_on_the_coordinators_disk(register: Register, tmp_path: Path) -> None:
    token = register.invite("North")
    assert token not in (tmp_path / "members.sqlite").read_bytes()


def test_a_join_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    join = JoinFile(hospital="North", address="host:9443", coordinator="00" * 32, certificate="a\nb\n", token="ff")
    path = tmp_path / "north.join"
    path.write_text(join.text())
    assert JoinFile.read(path) == join


@pytest.mark.parametrize("text", ["", "hospital = ", "hospital = 'x'\nport = 1\n", "\x00"])
def test_a_file_that_is_no_join_file_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "north.join"
    path.write_text(text)
    with pytest.raises(InputError, match=r"north\.join"):
        JoinFile.read(path)


def test_an_invitation_before_the_first_start_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"coordinator\.toml does not exist") as caught:
        State.open(tmp_path / "state").invite("North")
    assert "Start `primum coordinator` first" in caught.value.hint


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb"])
def test_a_name_that_cannot_be_shown_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(PrimumError, match="1 to 100 printable characters"):
        State.open(tmp_path / "state").invite(name)
