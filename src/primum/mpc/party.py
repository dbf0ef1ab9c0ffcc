"""Server A or B: events in, messages out. One `Evaluation` serves the images of one request and cannot be reused.

    made --open(share)--> opened --receive(other's opening)--> answered

Everything that does not depend on the image (masks, W^ r_i) is computed when the evaluation is made.
Cost: one round; `program.cost` has the bytes.
"""

from dataclasses import dataclass, field
from enum import Enum, auto

import numpy as np

from primum.errors import PeerError
from primum.mpc.linear import product, weight_mask
from primum.mpc.program import Program, check
from primum.mpc.share import Ratchet, Role, draw_rows, from_bytes, other, take, to_bytes
from primum.ring import Ring, mask


@dataclass(frozen=True)
class Party:
    """What server `role` knows of one deployment: W^ and its own share of W. Prints neither."""

    role: Role
    program: Program
    model: bytes
    _masked: Ring = field(repr=False)
    _share: Ring = field(repr=False)

    @classmethod
    def make(cls, role: Role, program: Program, model: bytes, masked: bytes, seed: bytes) -> "Party":
        """`masked`: the packed W^ [outputs, dimension]; `seed`: this server's weight-mask seed.

        A W^ of a wrong length or of another ring is a PeerError that names the model owner.
        """
        check(program)
        shape = (program.wire(program.output).length, program.wire(program.input).length)
        ring = from_bytes(masked, shape, program.bits, "the model owner")
        own = weight_mask(program, program.layer, model, seed)
        share = -own if role == "A" else ring - own
        return cls(role, program, model, ring, share & mask(program.bits))

    def evaluate(self, first: int, count: int, own: Ratchet, between: Ratchet) -> "Evaluation":
        """Take the numbers first .. first + count - 1 from k_i (`own`) and k_AB (`between`), for `count` images."""
        return Evaluation(self, take(own, first, count), take(between, first, count))


class _State(Enum):
    MADE = auto()
    OPENED = auto()
    ANSWERED = auto()


class Evaluation:
    """One server's side of one request."""

    def __init__(self, party: Party, own: tuple[bytes, ...], between: tuple[bytes, ...]) -> None:
        program, bits = party.program, party.program.bits
        label = (party.model, program.digest(), program.layer.source)
        self._party = party
        self._count = len(own)
        self._inputs = program.wire(program.layer.source).length
        self._outputs = program.wire(program.layer.target).length
        self._mask = draw_rows(own, (*label, "mask"), self._inputs, bits)
        self._fixed = -product(self._mask, party._masked, bits)
        if party.role == "A":
            self._fixed += draw_rows(own, (*label, "product"), self._outputs, bits)
        answer_label = (party.model, program.digest(), program.output, "answer")
        self._zero = draw_rows(between, answer_label, self._outputs, program.answer_bits)
        self._opening: Ring = np.empty(0, np.uint64)
        self._state = _State.MADE

    def __repr__(self) -> str:
        return f"Evaluation({self._party.role}, {self._count} images, {self._state.name.lower()})"

    def open(self, share: Ring) -> bytes:
        """x_i + r_i for the other server; `share` [count, dimension] is this server's share of the features."""
        self._advance(_State.MADE, _State.OPENED)
        if share.shape != (self._count, self._inputs):
            raise ValueError(f"a share has shape {(self._count, self._inputs)}, got {share.shape}")
        self._opening = (share + self._mask) & mask(self._party.program.bits)
        return to_bytes(self._opening, self._party.program.bits)

    def receive(self, opening: bytes, correction: bytes = b"") -> bytes:
        """This server's answer, packed: its share of the logits [count, outputs], re-randomised and cut.

        `opening` is the other server's; `correction` is what the dealer sent (B only). PeerError if a length is wrong.
        """
        party, bits = self._party, self._party.program.bits
        theirs = from_bytes(opening, (self._count, self._inputs), bits, f"server {other(party.role)}")
        if party.role == "B":
            self._fixed = self._fixed + from_bytes(correction, (self._count, self._outputs), bits, "the dealer")
        self._advance(_State.OPENED, _State.ANSWERED)
        logits = (product((self._opening + theirs) & mask(bits), party._share, bits) + self._fixed) & mask(bits)
        return to_bytes(self._blind(self._cut(logits)), party.program.answer_bits)

    def _cut(self, logits: Ring) -> Ring:
        """T_i = (y_i >> c) + [i = A] modulo 2^(l - c): floor(y / 2^c) + {0, 1}, unbiased; no wrap error."""
        program = self._party.program
        if not program.cut:
            return logits
        lift = np.uint64(self._party.role == "A")
        return ((logits >> np.uint64(program.cut)) + lift) & mask(program.answer_bits)

    def _blind(self, answer: Ring) -> Ring:
        """Add a share of zero: the two answers together say the logits and nothing else."""
        blinded = answer + self._zero if self._party.role == "A" else answer - self._zero
        return blinded & mask(self._party.program.answer_bits)

    def _advance(self, before: _State, after: _State) -> None:
        if self._state is not before:
            raise PeerError(
                f"A message for the state `{before.name.lower()}` came in the state `{self._state.name.lower()}`.",
                "It was not used.",
            )
        self._state = after
