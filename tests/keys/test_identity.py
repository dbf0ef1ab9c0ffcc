"""Identities: the signatures of RFC 8032, one purpose each, and files that only their owner can read."""

import stat
from pathlib import Path

import pytest
from blake3 import blake3
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from primum.errors import InputError, PeerError
from primum.keys.identity import Identity, fingerprint, list_fingerprint, verify

VECTORS = [  # RFC 8032, section 7.1: secret key, public key, message, signature
    (
        "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "",
        "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555fb8821590a33bacc61e39701cf9b46b"
        "d25bf5f0595bbe24655141438e7a100b",
    ),
    (
        "4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb",
        "3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c",
        "72",
        "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c"
        "387b2eaeb4302aeeb00d291612bb0c00",
    ),
]


def identity(secret: str) -> Identity:
    return Identity(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(secret)))


@pytest.mark.parametrize(("secret", "public", "message", "signature"), VECTORS)
def test_keys_and_signatures_are_those_of_rfc_8032(secret: str, public: str, message: str, signature: str) -> None:
    owner = identity(secret)
    assert owner.public.hex() == public
    assert owner._private.sign(bytes.fromhex(message)).hex() == signature


@pytest.mark.parametrize("secret", [vector[0] for vector in VECTORS])
def test_what_is_signed_is_purpose_and_data_framed(secret: str) -> None:
    """The frame written out: another implementation can check our signatures by this."""
    framed = b"primum signature 1\0" + (5).to_bytes(2, "big") + b"Study" + b"data"
    owner = identity(secret)
    assert owner.sign("Study", b"data") == owner._private.sign(framed)
    verify(owner.public, "Study", b"data", owner.sign("Study", b"data"), "the scientist")


def test_a_signature_holds_for_one_purpose_one_text_and_one_key() -> None:
    owner, other = Identity.generate(), Identity.generate()
    signature = owner.sign("Study", b"data")
    wrong = [
        (owner.public, "Studydata", b"", signature),
        (owner.public, "Round", b"data", signature),
        (owner.public, "Study", b"datA", signature),
        (other.public, "Study", b"data", signature),
        (owner.public, "Study", b"data", signature[:-1] + bytes([signature[-1] ^ 1])),
        (owner.public, "Study", b"data", signature[:63]),
        (owner.public, "Study", b"data", b""),
        (owner.public[:31], "Study", b"data", signature),
    ]
    for public, purpose, data, bad in wrong:
        with pytest.raises(PeerError, match="the scientist"):
            verify(public, purpose, data, bad, "the scientist")


def test_an_identity_is_made_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    made = Identity.load_or_make(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load_or_make(path).public == made.public
    assert [file.name for file in tmp_path.iterdir()] == ["identity.pem"]


@pytest.mark.parametrize(
    "content", [b"", b"not a key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"]
)
def test_a_broken_identity_file_is_named_and_never_replaced(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "identity.pem"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"identity\.pem"):
        Identity.load_or_make(path)
    assert path.read_bytes() == content


def test_a_key_of_another_kind_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "identity.pem"
    path.write_bytes(
        X25519PrivateKey.generate().private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    with pytest.raises(InputError, match="not an Ed25519 key"):
        Identity.load_or_make(path)


def test_fingerprints_are_short_enough_to_be_compared_and_never_the_key() -> None:
    owner = identity(VECTORS[0][0])
    groups = fingerprint(owner.public).split("-")
    assert [len(group) for group in groups] == [4] * 16
    assert fingerprint(owner.public) != fingerprint(Identity.generate().public)
    assert repr(owner) == f"Identity({fingerprint(owner.public)})"
    assert VECTORS[0][0] not in repr(owner)


def test_the_fingerprint_of_a_list_ignores_its_order_and_nothing_else() -> None:
    a, b, c = (Identity.generate().public for _ in range(3))
    assert list_fingerprint([a, b, c]) == list_fingerprint([c, a, b])
    assert list_fingerprint([a, b]) != list_fingerprint([a, b, c])
    assert list_fingerprint([a]) != fingerprint(a)


def test_of_a_long_message_the_digest_is_signed_and_nothing_short_is_mistaken_for_it() -> None:
    identity, data = Identity.generate(), bytes(100_000)
    signature = identity.sign("vector", data)
    verify(identity.public, "vector", data, signature, "hospital 1")
    for purpose, changed in (("vector", data[:-1] + b"\1"), ("vector", data[:-1]), ("other", data)):
        with pytest.raises(PeerError, match="hospital 1"):
            verify(identity.public, purpose, changed, signature, "hospital 1")
    with pytest.raises(PeerError):
        verify(identity.public, "vector", blake3(data).digest(), signature, "hospital 1")
    head = b"primum signature 1 of a digest\0" + (6).to_bytes(2, "big") + b"vector"
    Ed25519PublicKey.from_public_bytes(identity.public).verify(signature, head + blake3(data).digest())
