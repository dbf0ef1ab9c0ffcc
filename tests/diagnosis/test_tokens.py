"""Tokens: signed by the model owner, counted by each server on disk, also after a crash."""

import time

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.diagnosis.conftest import Cluster, images, run_primum

from primum.diagnosis.data_owner import diagnose
from primum.diagnosis.deploy import deploy
from primum.diagnosis.deployable import deployable_model
from primum.diagnosis.deployment import load_public
from primum.diagnosis.roles import free_address, make_role
from primum.diagnosis.tokens import (
    Asked,
    Permit,
    SignedToken,
    Token,
    TokenBook,
    TokenFile,
    check_token,
    load_token,
    make_token,
    save_token,
)
from primum.errors import InputError, MachineError, PeerError, Refused
from primum.keys.identity import Identity
from primum.wire import decode, encode


@pytest.fixture(scope="module")
def owner():
    return Identity.generate()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory, owner):
    made = Cluster.make(tmp_path_factory.mktemp("tokens"), owner=owner, tokens=True)
    try:
        yield made.start()
    finally:
        made.stop()


@pytest.fixture(scope="module")
def deployment(cluster):
    return cluster.public.deployment


def permit_of(file: TokenFile) -> Permit:
    return Permit(encode(file.token), Identity.from_pem(file.secret, "the token"))


ASKED = Asked("A", b"d", b"r", 1, b"k", b"s")


def test_a_token_is_spent_image_by_image_and_then_refused_by_name(cluster, owner, deployment):
    token = permit_of(make_token(owner, deployment, "clinic", 5, 1))
    assert len(diagnose(images(3), cluster.public, permit=token)) == 3
    with pytest.raises(Refused, match="has 2 of 5 images left; this request has 3"):
        diagnose(images(3), cluster.public, permit=token)
    assert len(diagnose(images(2), cluster.public, permit=token)) == 2
    with pytest.raises(Refused, match="0 of 5"):
        diagnose(images(1), cluster.public, permit=token)


def test_without_a_token_nobody_is_answered(cluster):
    with pytest.raises(Refused, match="only requests with a token"):
        diagnose(images(1), cluster.public)


def test_the_servers_remember_after_kill_9(cluster, owner, deployment):
    token = permit_of(make_token(owner, deployment, "clinic", 2, 1))
    diagnose(images(2), cluster.public, permit=token)
    for role in ("A", "B"):
        cluster.kill(role)
    cluster.start("B", "A")
    with pytest.raises(Refused, match="0 of 2"):
        diagnose(images(1), cluster.public, permit=token)


def test_bad_tokens_are_refused(owner, deployment):
    file = make_token(owner, deployment, "clinic", 5, 1)
    good, proof = file.token, permit_of(file).sign(ASKED)
    token = decode(good.content, Token, "x")

    def signed(**changes):
        content = encode(msgspec.structs.replace(token, **changes))
        return encode(SignedToken(content, owner.sign("token", content)))

    assert check_token(encode(good), proof, ASKED, deployment) == token
    with pytest.raises(Refused, match="another deployment"):
        check_token(signed(deployment=bytes(32)), proof, ASKED, deployment)
    with pytest.raises(Refused, match="expired"):
        check_token(signed(expires=int(time.time()) - 1), proof, ASKED, deployment)
    more = encode(msgspec.structs.replace(token, images=10**6))
    for bad in (encode(SignedToken(more, good.signature)), encode(of_a_stranger(deployment))):
        with pytest.raises(PeerError):
            check_token(bad, proof, ASKED, deployment)
    for garbage in (b"x", encode(good)[:-1], encode(good) + b"x"):
        with pytest.raises(PeerError):
            check_token(garbage, proof, ASKED, deployment)


@pytest.mark.parametrize("field", Asked.__struct_fields__)
def test_who_has_seen_a_token_cannot_ask_with_it(owner, deployment, field):
    """A server sees token and proof; for any other request, half, share or reply key the proof does not hold."""
    file = make_token(owner, deployment, "clinic", 5, 1)
    proof = permit_of(file).sign(ASKED)
    other = {"server": "B", "images": 2}.get(field, b"another")
    with pytest.raises(PeerError):
        check_token(encode(file.token), proof, msgspec.structs.replace(ASKED, **{field: other}), deployment)
    with pytest.raises(PeerError):
        check_token(encode(file.token), b"", ASKED, deployment)


def of_a_stranger(deployment):
    stranger = Identity.generate()
    with pytest.raises(InputError, match="did not sign the deployment"):
        make_token(stranger, deployment, "x", 1, 1)
    content = encode(Token(bytes(16), deployment.digest(), "x", stranger.public, 1, 1 << 40))
    return SignedToken(content, stranger.sign("token", content))


@pytest.mark.parametrize(("holder", "count", "days"), [("", 1, 1), ("x" * 101, 1, 1), ("x", 0, 1), ("x", 1, 0)])
def test_tokens_that_make_no_sense_are_not_made(owner, deployment, holder, count, days):
    with pytest.raises(InputError):
        make_token(owner, deployment, holder, count, days)


def test_a_deployment_with_tokens_needs_a_lasting_key(tmp_path, cluster):
    cards = [make_role("dealer", tmp_path / "d", free_address())]
    cards += [make_role("server", tmp_path / role, free_address(), free_address()) for role in ("a", "b")]
    with pytest.raises(InputError, match="lasting key"):
        deploy(deployable_model(cluster.model), *cards, tmp_path / "out", tokens=True)
    assert not (tmp_path / "out").exists()


def test_the_commands_make_and_use_a_token(cluster, owner, tmp_path, deployment):
    path = tmp_path / "clinic.token"
    save_token(make_token(owner, deployment, "clinic", 1, 1), path)
    assert path.stat().st_mode & 0o077 == 0
    permit = load_token(path, deployment)
    assert check_token(permit.token, permit.sign(ASKED), ASKED, deployment).holder == "clinic"
    assert "PRIVATE" not in repr(permit) and "clinic" not in repr(permit)
    public = cluster.folder / "files" / "public.json"
    made = run_primum(
        "token",
        "x",
        "--deployment",
        public,
        "--identity",
        tmp_path / "no.key",
        "--images",
        "3",
        "--out",
        tmp_path / "t",
    )
    assert made.returncode != 0 and "does not exist" in made.stderr and not (tmp_path / "t").exists()
    other = load_public(public)
    elsewhere = msgspec.structs.replace(other.deployment, nonce=bytes(32))
    with pytest.raises(InputError, match="another deployment"):
        load_token(path, elsewhere)


@settings(max_examples=30, deadline=None)
@given(spends=st.lists(st.integers(1, 4), max_size=8), torn=st.integers(0, 31))
def test_a_book_torn_by_a_crash_keeps_every_whole_record(tmp_path_factory, spends, torn):
    folder = tmp_path_factory.mktemp("book")
    token = Token(b"t" * 16, bytes(32), "x", bytes(32), 1000, 1 << 40)
    book = TokenBook(folder)
    for images_ in spends:
        book.spend(token, images_)
    with (folder / "tokens.bin").open("ab") as file:
        file.write(b"\x07" * torn)
    again = TokenBook(folder)
    assert again.used(token) == sum(spends)
    again.spend(token, 1)
    assert TokenBook(folder).used(token) == sum(spends) + 1


def test_a_damaged_book_stops_the_server(tmp_path):
    token = Token(b"t" * 16, bytes(32), "x", bytes(32), 1000, 1 << 40)
    for _ in range(3):
        TokenBook(tmp_path).spend(token, 1)
    data = bytearray((tmp_path / "tokens.bin").read_bytes())
    data[20] ^= 1
    (tmp_path / "tokens.bin").write_bytes(data)
    with pytest.raises(MachineError, match="damaged"):
        TokenBook(tmp_path)
