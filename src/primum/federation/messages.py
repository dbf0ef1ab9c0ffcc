"""What coordinator and nodes say to each other, around the messages of secure aggregation.

Every order is signed by the coordinator, every reply by the node's identity, both with `secagg.messages.sign`; Flower
carries the envelopes and is trusted with nothing.
"""

import hashlib
from typing import Final

from primum import wire
from primum.secagg.messages import Encapsulated, MaskedVector, Opening, Signed
from primum.study import SignedStudy

TRAIN: Final = "train"
EVALUATE: Final = "evaluate"
SURVEY: Final = "survey"


class StudyOrder(wire.Message, frozen=True):
    """A study is put before a hospital. Answer: Consent."""

    run: bytes
    study: SignedStudy


class KeysOrder(wire.Message, frozen=True):
    """Session, exchange 1. Answer: Answer with a KeyOffer."""

    run: bytes
    session: int
    first_round: int


def agreement(run: bytes, signed: SignedStudy) -> bytes:
    """32 bytes that name the run, who asks and the study: secure aggregation runs among those who agreed to the same."""
    return hashlib.sha256(run + signed.asker + signed.text.encode()).digest()


class RevealOrder(wire.Message, frozen=True):
    """Session with a random graph: all key offers. Answer: Answer with a Reveal."""

    run: bytes
    offers: tuple[Signed, ...]


class PairOrder(wire.Message, frozen=True):
    """Session, exchange 2: all key offers, or with a random graph all reveals. Answer: PairAnswer."""

    run: bytes
    shown: tuple[Signed, ...]


class DealOrder(wire.Message, frozen=True):
    """Session, exchange 3. Answer: Answer with a Deal."""

    run: bytes
    encapsulated: tuple[Encapsulated, ...]


class JournalHead(wire.Message, frozen=True):
    """What a side signs in each round: the hash of its journal's last line. The other side keeps it in its own journal,
    so neither can write its past anew alone (`witness.py`)."""

    run: bytes
    head: bytes


class RoundOrder(wire.Message, frozen=True):
    """Round, exchange 1: weights (float32, little endian), what to do with them. Answer: VectorAnswer.

    `settlements` are the signed sets of the round before, `journal` the coordinator's signed JournalHead, `survey` what
    came out of the run's survey (float64, little endian), if it has one and it is over.
    """

    run: bytes
    what: str
    weights: bytes
    start: Signed
    settlements: tuple[Signed, ...]
    journal: Signed
    survey: bytes = b""


class ConfirmOrder(wire.Message, frozen=True):
    """Round, the exchange between where a quorum signs. Answer: Answer with a Confirmation."""

    run: bytes
    request: Signed


class UnmaskOrder(wire.Message, frozen=True):
    """Round, last exchange. Answer: Opening in an OpeningAnswer."""

    run: bytes
    request: Signed


class EndOrder(wire.Message, frozen=True):
    """The run is over. Answer: Done."""

    run: bytes
    outcome: str


Order = (
    StudyOrder | KeysOrder | RevealOrder | PairOrder | DealOrder | RoundOrder | ConfirmOrder | UnmaskOrder | EndOrder
)


class Consent(wire.Message, frozen=True):
    """A hospital's word on a study: yes, no or waiting; with a yes the self-tests that its engine passed."""

    run: bytes
    study: bytes
    answer: str
    reason: str
    pinned: bool
    passed: tuple[str, ...] = ()


class Answer(wire.Message, frozen=True):
    """A signed message of secure aggregation."""

    message: Signed


class PairAnswer(wire.Message, frozen=True):
    """A node's ciphertexts for its higher-placed neighbours."""

    message: Encapsulated


class VectorAnswer(wire.Message, frozen=True):
    """A masked vector. `local_seconds` are rounded up to the public reply grid: they do not show the sample.

    `journal`: the node's signed JournalHead, after the entry that says what is sent here.
    """

    vector: MaskedVector
    local_seconds: float
    journal: Signed


class OpeningAnswer(wire.Message, frozen=True):
    """Shares, settlement, the next deal."""

    opening: Opening


class Done(wire.Message, frozen=True):
    """The order was carried out; there is nothing to say."""

    run: bytes


class Failure(wire.Message, frozen=True):
    """The order was not carried out: kind of error, message, hint; never a value from the data."""

    error: str
    message: str
    hint: str


Reply = Consent | Answer | PairAnswer | VectorAnswer | OpeningAnswer | Done | Failure


class Tagged(wire.Message, frozen=True):
    """An order or reply in a signed envelope; `number` counts a sender's orders upwards, so that none is played twice.

    A reply repeats the number of its order.
    """

    number: int
    body: bytes
