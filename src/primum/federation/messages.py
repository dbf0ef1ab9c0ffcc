"""What coordinator and nodes say to each other, around the messages of secure aggregation.

Every order is signed by the coordinator, every reply by the node's identity, both with `secagg.messages.sign`; Flower
carries the envelopes and is trusted with nothing.
"""

from typing import Final

from primum import wire
from primum.secagg.messages import MaskedVector, Opening, Signed
from primum.study import SignedStudy

TRAIN: Final = "train"
EVALUATE: Final = "evaluate"


class StudyOrder(wire.Message, frozen=True):
    """A study is put before a hospital. Answer: Consent."""

    run: bytes
    study: SignedStudy


class KeysOrder(wire.Message, frozen=True):
    """Session, exchange 1. Answer: Answer with a KeyOffer."""

    run: bytes
    session: int
    first_round: int


class PairOrder(wire.Message, frozen=True):
    """Session, exchange 2. Answer: Answer with Encapsulations."""

    run: bytes
    offers: tuple[Signed, ...]


class DealOrder(wire.Message, frozen=True):
    """Session, exchange 3. Answer: Answer with a Deal."""

    run: bytes
    encapsulations: tuple[Signed, ...]


class RoundOrder(wire.Message, frozen=True):
    """Round, exchange 1: weights (float32, little endian), what to do with them. Answer: VectorAnswer.

    `settlements` are the signed sets of the round before.
    """

    run: bytes
    what: str
    weights: bytes
    start: Signed
    settlements: tuple[Signed, ...]


class UnmaskOrder(wire.Message, frozen=True):
    """Round, exchange 2. Answer: Opening in an OpeningAnswer."""

    run: bytes
    request: Signed


class EndOrder(wire.Message, frozen=True):
    """The run is over. Answer: Done."""

    run: bytes
    outcome: str


Order = StudyOrder | KeysOrder | PairOrder | DealOrder | RoundOrder | UnmaskOrder | EndOrder


class Consent(wire.Message, frozen=True):
    """A hospital's word on a study: yes, no or waiting."""

    run: bytes
    study: bytes
    answer: str
    reason: str
    pinned: bool


class Answer(wire.Message, frozen=True):
    """A signed message of secure aggregation."""

    message: Signed


class VectorAnswer(wire.Message, frozen=True):
    """A masked vector. `local_seconds` are rounded up to the public reply grid: they do not show the sample."""

    vector: MaskedVector
    local_seconds: float


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


Reply = Consent | Answer | VectorAnswer | OpeningAnswer | Done | Failure


class Tagged(wire.Message, frozen=True):
    """An order or reply in a signed envelope; `number` counts a sender's orders upwards, so that none is played twice.

    A reply repeats the number of its order.
    """

    number: int
    body: bytes
