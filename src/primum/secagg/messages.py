"""What is said in secure aggregation, and who signs it.

Every message stands in a `Signed` envelope: body, signer, signature over the purpose (the message's class) and the
body. Members are named by their place, 1 to n, in the sorted list of identities.

| when | from | message |
|---|---|---|
| session, exchange 1 | node | KeyOffer |
| (more than 128 members) | node | Reveal |
| session, exchange 2 | node | Encapsulated, with signed Encapsulations |
| session, exchange 3 | node | Deal (for the first round) |
| round, exchange 1 | server | RoundStart |
| | node | MaskedVector, with a signed VectorStatement |
| (where a quorum signs) | server | ConfirmRequest |
| | node | Confirmation |
| round, last exchange | server | UnmaskRequest |
| | node | Opening: signed Shares and Settlement, and the Deal for the next round |
"""

from typing import TypeVar

from primum import wire
from primum.errors import PeerError
from primum.keys.identity import Identity, verify

Pairs = tuple[tuple[int, bytes], ...]


class Signed(wire.Message, frozen=True):
    """An envelope: `body` is an encoded message, `signer` the 32-byte identity that signed it."""

    body: bytes
    signer: bytes
    signature: bytes


class Context(wire.Message, frozen=True):
    """Where a message belongs: run, session within the run, round (0 before the first)."""

    run: bytes
    session: int
    round: int


class KeyOffer(wire.Message, frozen=True):
    """A node's key-agreement keys for one session; `commitment` fixes its nonce for the graph (empty without one)."""

    context: Context
    x25519: bytes
    mlkem: bytes
    commitment: bytes


class Reveal(wire.Message, frozen=True):
    """A node's nonce for the graph; `offers` is the digest of all key offers it saw before."""

    context: Context
    offers: bytes
    nonce: bytes


class Encapsulations(wire.Message, frozen=True):
    """What a node agreed to: `story` is the digest of all it was shown, `hashes` those of its ciphertexts, by receiver."""

    context: Context
    story: bytes
    hashes: Pairs


class Encapsulated(wire.Message, frozen=True):
    """ML-KEM ciphertexts from a node to its higher-placed neighbours, with its signed Encapsulations.

    The server hands on to each receiver only the ciphertext meant for it.
    """

    statement: Signed
    ciphertexts: Pairs


class Deal(wire.Message, frozen=True):
    """A node's secrets for one round: shares sealed to each neighbour, commitments, its sealed list."""

    context: Context
    shares: Pairs
    commitments: Pairs
    self_key_hash: bytes
    list_key_hash: bytes
    sealed_list: bytes


class RoundStart(wire.Message, frozen=True):
    """The server's word on a round: who takes part, on which model, and the receiver's shares."""

    context: Context
    participants: tuple[int, ...]
    model: bytes
    shares: Pairs


class VectorStatement(wire.Message, frozen=True):
    """A node's word on what it sent: whose masks are in it, on which model, the digest of the vector."""

    context: Context
    participants: bytes
    model: bytes
    vector: bytes


class MaskedVector(wire.Message, frozen=True):
    """A masked vector, packed; its statement is signed by the node."""

    statement: Signed
    vector: wire.Bulk


class ConfirmRequest(wire.Message, frozen=True):
    """The server's word on U, to be signed before any share is given."""

    context: Context
    included: tuple[int, ...]


class Confirmation(wire.Message, frozen=True):
    """A node's word on a round: these participants, this model, and no other U (digests)."""

    context: Context
    participants: bytes
    model: bytes
    included: bytes


class UnmaskRequest(wire.Message, frozen=True):
    """The server's word on U, with its evidence.

    In two exchanges the VectorStatement of each node in U; where a quorum signs, the Confirmations of the quorum.
    """

    context: Context
    included: tuple[int, ...]
    evidence: tuple[Signed, ...]


class Shares(wire.Message, frozen=True):
    """Shares of self-mask keys (for U) and of list keys (for P without U)."""

    context: Context
    self_keys: Pairs
    list_keys: Pairs


class Settlement(wire.Message, frozen=True):
    """A node's signed word that it gave shares for exactly this set: what the ledgers settle by."""

    context: Context
    included: tuple[int, ...]


class Opening(wire.Message, frozen=True):
    """A node's answer to an UnmaskRequest."""

    shares: Signed
    settlement: Signed
    next_deal: Signed


MessageType = TypeVar("MessageType", bound=wire.Message)


def sign(identity: Identity, message: wire.Message) -> Signed:
    """`message` in an envelope signed by `identity`."""
    body = wire.encode(message)
    return Signed(body, identity.public, identity.sign(type(message).__name__, body))


def open_signed(envelope: Signed, kind: type[MessageType], signer: bytes, peer: str) -> MessageType:
    """The message in `envelope` if `signer` signed it as a `kind`; else PeerError that names `peer`."""
    if envelope.signer != signer:
        raise PeerError(f"A {kind.__name__} of {peer} is signed by somebody else.", "It was not used.")
    verify(signer, kind.__name__, envelope.body, envelope.signature, peer)
    return wire.decode(envelope.body, kind, peer)
