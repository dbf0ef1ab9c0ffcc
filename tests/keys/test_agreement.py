"""Pair secrets: X25519 of RFC 7748 and ML-KEM of FIPS 203, both needed, and nothing agreed by accident."""

import hashlib
import json
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from primum.errors import PeerError
from primum.keys.agreement import CIPHERTEXT_BYTES, MLKEM_BYTES, X25519_BYTES, KeyPair, PublicKeys, hkdf

# RFC 7748, section 6.1
ALICE = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
ALICE_PUBLIC = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
BOB = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
BOB_PUBLIC = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
KNOWN_ANSWERS = json.loads((Path(__file__).resolve().parents[1] / "vectors" / "mlkem768.json").read_text())["cases"]
# RFC 7748, section 7: points of small order
SMALL_ORDER = [bytes(32), (1).to_bytes(32, "little"), (2**255 - 20).to_bytes(32, "little")]


def pair(secret: str, seed: bytes) -> KeyPair:
    return KeyPair(X25519PrivateKey.from_private_bytes(bytes.fromhex(secret)), MLKEM768PrivateKey.from_seed_bytes(seed))


def test_the_classical_half_is_that_of_rfc_7748() -> None:
    alice, bob = pair(ALICE, bytes(64)), pair(BOB, bytes([1]) * 64)
    assert alice.public.x25519.hex() == ALICE_PUBLIC
    assert bob.public.x25519.hex() == BOB_PUBLIC
    assert alice._exchange(bob.public, "bob").hex() == bob._exchange(alice.public, "alice").hex() == SHARED


@pytest.mark.parametrize("case", KNOWN_ANSWERS, ids=range(len(KNOWN_ANSWERS)))
def test_the_post_quantum_half_gives_the_known_answers_of_fips_203(case: dict[str, str]) -> None:
    """Key from its seed, the right ciphertext, and one of another key, which gives the secret of implicit rejection."""
    key = MLKEM768PrivateKey.from_seed_bytes(bytes.fromhex(case["seed"]))
    assert hashlib.sha256(key.public_key().public_bytes_raw()).hexdigest() == case["public_sha256"]
    assert key.decapsulate(bytes.fromhex(case["ct"])).hex() == case["ss"]
    assert key.decapsulate(bytes.fromhex(case["ct_of_another"])).hex() == case["ss_rejected"]


def test_the_pair_secret_is_hkdf_of_both_halves_bound_to_what_was_exchanged() -> None:
    """The combination written out: another implementation can check ours by this."""
    alice, bob = pair(ALICE, bytes(64)), pair(BOB, bytes([1]) * 64)
    secret, ciphertext = alice.initiate(bob.public, "bob")
    digests = [hashlib.sha256(keys.x25519 + keys.mlkem).digest() for keys in (alice.public, bob.public)]
    context = hashlib.sha256(ciphertext + digests[0] + digests[1]).digest()
    info = b"primum 1" + (4).to_bytes(4, "big") + b"pair" + (32).to_bytes(4, "big") + context
    halves = bob._mlkem.decapsulate(ciphertext) + bytes.fromhex(SHARED)
    assert secret == HKDF(hashes.SHA256(), 32, salt=None, info=info).derive(halves)


def test_both_sides_have_one_secret_and_nobody_else_has_it() -> None:
    alice, bob, eve = (KeyPair.generate() for _ in range(3))
    secret, ciphertext = alice.initiate(bob.public, "bob")
    assert len(ciphertext) == CIPHERTEXT_BYTES
    assert (len(alice.public.x25519), len(alice.public.mlkem)) == (X25519_BYTES, MLKEM_BYTES)
    assert bob.respond(alice.public, ciphertext, "alice") == secret
    assert eve.respond(alice.public, ciphertext, "alice") != secret
    assert bob.respond(eve.public, ciphertext, "alice") != secret
    again, _ = alice.initiate(bob.public, "bob")
    assert again != secret


@pytest.mark.parametrize("half", ["x25519", "mlkem"])
def test_knowing_one_half_is_not_enough(half: str) -> None:
    alice, bob, eve = (KeyPair.generate() for _ in range(3))
    secret, ciphertext = alice.initiate(bob.public, "bob")
    stolen = KeyPair(bob._x25519, eve._mlkem) if half == "x25519" else KeyPair(eve._x25519, bob._mlkem)
    assert stolen.respond(alice.public, ciphertext, "alice") != secret


def test_an_altered_ciphertext_gives_another_secret_and_no_error() -> None:
    """Implicit rejection (FIPS 203, section 6.3): an error would tell an attacker something."""
    alice, bob = KeyPair.generate(), KeyPair.generate()
    secret, ciphertext = alice.initiate(bob.public, "bob")
    altered = bytes([ciphertext[0] ^ 1]) + ciphertext[1:]
    assert bob.respond(alice.public, altered, "alice") != secret


@pytest.mark.parametrize("length", [0, CIPHERTEXT_BYTES - 1, CIPHERTEXT_BYTES + 1])
def test_a_ciphertext_of_wrong_length_names_the_peer(length: int) -> None:
    with pytest.raises(PeerError, match="alice sent an ML-KEM-768 ciphertext"):
        KeyPair.generate().respond(KeyPair.generate().public, bytes(length), "alice")


@pytest.mark.parametrize("point", SMALL_ORDER, ids=["0", "1", "p-1"])
def test_points_of_small_order_are_refused(point: bytes) -> None:
    other = KeyPair.generate().public
    with pytest.raises(PeerError, match="bob sent an X25519 key"):
        KeyPair.generate().initiate(PublicKeys(point, other.mlkem), "bob")


@pytest.mark.parametrize("mlkem", [b"", bytes(MLKEM_BYTES - 1), b"\xff" * MLKEM_BYTES])
def test_an_ml_kem_key_that_is_none_is_refused(mlkem: bytes) -> None:
    """The last has coefficients of q and more (FIPS 203, section 7.2)."""
    with pytest.raises(PeerError, match="bob sent an ML-KEM-768 key"):
        KeyPair.generate().initiate(PublicKeys(KeyPair.generate().public.x25519, mlkem), "bob")


def test_labels_never_collide() -> None:
    secret = bytes(32)
    made = [
        hkdf(secret),
        hkdf(secret, ""),
        hkdf(secret, "ab"),
        hkdf(secret, "a", "b"),
        hkdf(secret, "b", "a"),
        hkdf(secret, "ab", ""),
        hkdf(secret, "", "ab"),
        hkdf(bytes(31) + b"\x01", "ab"),
    ]
    assert len(set(made)) == len(made)
    assert len(hkdf(secret, "ab", length=96)) == 96
    assert hkdf(secret, 12) == hkdf(secret, "12") == hkdf(secret, b"12")


def test_keys_do_not_print() -> None:
    assert repr(KeyPair.generate()) == "KeyPair()"
