"""What secure aggregation costs one node: exchanges, bytes each way, and bytes of AES, from the public set-up alone.

Counted on messages of the real sizes, of the node that sends or receives most: never less, and hardly more (the tests
compare). The limit of a round is AES-CTR at the speed of the memory: degree + 1 masks of the whole bytes that hold a
coordinate.
"""

from dataclasses import dataclass
from typing import Final

from primum import wire
from primum.kernels import packing
from primum.keys.agreement import CIPHERTEXT_BYTES, MLKEM_BYTES, X25519_BYTES
from primum.secagg.deal import LIST_ENTRY, SEAL, SEALED_SHARE
from primum.secagg.masks import COMMITMENT_BYTES, KEY_BYTES, mask_bytes
from primum.secagg.messages import (
    Confirmation,
    ConfirmRequest,
    Context,
    Deal,
    Encapsulated,
    Encapsulations,
    KeyOffer,
    MaskedVector,
    Opening,
    Pairs,
    Reveal,
    RoundStart,
    Settlement,
    Shares,
    Signed,
    UnmaskRequest,
    VectorStatement,
)
from primum.secagg.setup import Setup, Shape

_DIGEST: Final = 32
_CONTEXT: Final = Context(bytes(16), 2**16, 2**16)


@dataclass(frozen=True)
class Cost:
    """Exchanges with the server, bytes that one node sends and receives in them, bytes of AES-CTR that it computes."""

    exchanges: int
    sent: int
    received: int
    aes: int


def of_session(setup: Setup) -> Cost:
    """From the first key to the shares of the first round, with everybody there."""
    n, degree = setup.n, setup.degree
    commitment = bytes(_DIGEST) if setup.sparse else b""
    offer = _signed(KeyOffer(_CONTEXT, bytes(X25519_BYTES), bytes(MLKEM_BYTES), commitment))
    reveal = _signed(Reveal(_CONTEXT, bytes(_DIGEST), bytes(_DIGEST)))
    # who stands first sends all its ciphertexts, who stands last receives all: on average it is half of the pairs
    ciphertexts = _pairs(n, degree, CIPHERTEXT_BYTES)
    statement = Encapsulations(_CONTEXT, bytes(_DIGEST), _pairs(n, degree, _DIGEST))
    sent = _size(offer) + _size(Encapsulated(_signed(statement), ciphertexts)) + _deal(setup)
    received = n * _size(offer) + degree * _size(Encapsulated(_signed(statement), _pairs(n, 1, CIPHERTEXT_BYTES)))
    if setup.sparse:
        sent, received = sent + _size(reveal), received + n * _size(reveal)
    return Cost(3 + setup.sparse, sent, received, 0)


def of_round(setup: Setup, shape: Shape) -> Cost:
    """One round in steady state with everybody there, the shares for the next round included; the model is not counted."""
    everybody = tuple(range(1, setup.n + 1))
    group = setup.degree + 1
    start = RoundStart(_CONTEXT, everybody, bytes(_DIGEST), _pairs(setup.n, setup.degree, SEALED_SHARE))
    statement = _signed(VectorStatement(_CONTEXT, bytes(_DIGEST), bytes(_DIGEST), bytes(_DIGEST)))
    vector = MaskedVector(statement, memoryview(bytes(packing.packed_size(shape.length, shape.bits))))
    word = _signed(Confirmation(_CONTEXT, bytes(_DIGEST), bytes(_DIGEST), bytes(_DIGEST)))
    evidence = (word,) * setup.committee.needed if setup.confirms else (statement,) * setup.n
    shares = Shares(_CONTEXT, _pairs(setup.n, group, KEY_BYTES), ())
    opening = Opening(_signed(shares), _signed(Settlement(_CONTEXT, everybody)), Signed(b"", b"", b""))
    sent = _size(vector) + _size(opening) + _deal(setup)
    received = _size(_signed(start)) + _size(_signed(UnmaskRequest(_CONTEXT, everybody, evidence)))
    if setup.confirms:
        sent, received = sent + _size(word), received + _size(_signed(ConfirmRequest(_CONTEXT, everybody)))
    return Cost(2 + setup.confirms, sent, received, mask_bytes(shape.bits) * shape.length * group)


def _deal(setup: Setup) -> int:
    degree = setup.degree
    deal = Deal(
        _CONTEXT,
        _pairs(setup.n, degree, SEALED_SHARE),
        _pairs(setup.n, degree, COMMITMENT_BYTES),
        bytes(_DIGEST),
        bytes(_DIGEST),
        bytes(degree * LIST_ENTRY + SEAL),
    )
    return _size(_signed(deal))


def _pairs(n: int, count: int, length: int) -> Pairs:
    return tuple((place, bytes(length)) for place in range(n - count + 1, n + 1))


def _signed(message: wire.Message) -> Signed:
    return Signed(wire.encode(message), bytes(32), bytes(64))


def _size(message: wire.Message) -> int:
    return len(wire.encode(message))
