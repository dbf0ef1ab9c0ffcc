"""Server A or B: bytes in, bytes out. One `Evaluation` serves the images of one request and cannot be used again.

    made --run(share): bytes to send, bytes received, ... --> answered

Everything that does not depend on the image (masks, tables, W^ r_i) is computed when the evaluation is made.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from primum.errors import PeerError
from primum.kernels.limbs import Weights
from primum.kernels.words import Buffer
from primum.mpc.check import check
from primum.mpc.linear import prepare_weights, split_weights, weight_mask
from primum.mpc.program import Operation, Program, weight_size
from primum.mpc.rule import RULES, Exchange, Serving, Wires
from primum.mpc.share import Elements, Ratchet, Role, Streams, from_bytes, take
from primum.ring import Ring, mask

Done = Callable[[Operation], None]


@dataclass(frozen=True)
class Party:
    """What server `role` knows of one deployment: W^ and its own share of W. Prints neither."""

    role: Role
    program: Program
    model: bytes
    _own: dict[str, Weights] = field(repr=False)
    _masked: dict[str, Weights] = field(repr=False)
    _bias: dict[str, Elements] = field(repr=False)

    @classmethod
    def make(cls, role: Role, program: Program, model: bytes, masked: Buffer, seed: bytes) -> "Party":
        """`masked`: the packed W^; `seed`: this server's weight-mask seed.

        A W^ of a wrong length is a PeerError that names the model owner.
        """
        check(program)
        packed = from_bytes(masked, (weight_size(program),), program.bits, "the model owner")
        ring = packed.astype(np.uint64)
        share = weight_mask(program, model, seed)
        np.negative(share, out=share)
        if role == "B":
            share += ring
        bias = {step.name: values.copy() for step, _, values in split_weights(program, share)}
        return cls(
            role, program, model, prepare_weights(program, share), prepare_weights(program, ring, ahead=True), bias
        )

    def evaluate(
        self,
        first: int,
        count: int,
        own: Ratchet,
        between: Ratchet,
        dealt: Iterable[Buffer] = (),
        done: Done = lambda step: None,
    ) -> "Evaluation":
        """Take the numbers first .. first + count - 1 from k_i (`own`) and k_AB (`between`), for `count` images.

        `dealt` (B only): the dealer's messages for these numbers, in order. `done` is called after each operation.
        """
        return Evaluation(self, take(own, first, count), take(between, first, count), dealt, done)


class Evaluation:
    """One server's side of one request."""

    def __init__(
        self, party: Party, own: tuple[bytes, ...], between: tuple[bytes, ...], dealt: Iterable[Buffer], done: Done
    ) -> None:
        program, digest = party.program, party.program.digest()
        self._party = party
        self._run: Serving | None = Serving(
            party.role, Wires(program), len(own), party._own, party._masked, party._bias
        )
        messages = iter(dealt)
        for step in program.operations:
            self._prepare(step, Streams(own, (party.model, digest, step.name)), messages)
            done(step)
        if next(messages, None) is not None:
            raise PeerError("The dealer sent more than was due.", "It was not used.")
        outputs = program.wire(program.output).size
        label = (party.model, digest, program.output, "answer")
        self._zero = Streams(between, label).draw(outputs, program.answer_bits)

    def __repr__(self) -> str:
        return f"Evaluation({self._party.role})"

    def _prepare(self, step: Operation, streams: Streams, messages: Iterator[Buffer]) -> None:
        run, found, party = self._serving(), RULES[type(step)], self._party
        drawn = [streams.draw(size, bits) for size, bits in found.drawn(step, run.wires)]
        dealt = [
            streams.draw(size, bits) if party.role == "A" else self._corrections(messages, size, bits)
            for size, bits in found.dealt(step, run.wires)
        ]
        found.prepare(step, run, drawn, dealt)

    def _corrections(self, messages: Iterator[Buffer], size: int, bits: int) -> Elements:
        message = next(messages, None)
        if message is None:
            raise PeerError("The dealer sent less than was due.", "Ask again.")
        return from_bytes(message, (self._serving().images, size), bits, "the dealer")

    def _serving(self) -> Serving:
        if self._run is None:
            raise PeerError("This evaluation was used before.", "Nothing is computed twice with the same masks.")
        return self._run

    def run(self, share: Elements, done: Done = lambda step: None) -> Exchange[Ring]:
        """From this server's share of the inputs, [images, height, width, channels], to its answer.

        A generator: it yields what the other server gets, is sent what the other server sent, and returns the answer: a
        share of the output in Z_2^answer_bits, cut and re-randomised. PeerError if a length is wrong, or if it was run
        before.
        """
        run, program = self._serving(), self._party.program
        self._run = None
        wire = run.wires[program.input]
        if share.shape != (run.images, *wire.shape):
            raise ValueError(f"a share has shape {(run.images, *wire.shape)}, got {share.shape}")
        run.put(program.input, share)
        for step in program.operations:
            yield from RULES[type(step)].evaluate(step, run)
            done(step)
        return self._blind(self._cut(run.share(program.output).astype(np.uint64)))

    def _cut(self, output: Ring) -> Ring:
        """T_i = y_i / 2^c modulo 2^(l - c), rounded up at A, down at B: floor(y / 2^c) + {0, 1}, unbiased; no wrap error."""
        program = self._party.program
        up = (1 << program.cut) - 1 if self._party.role == "A" else 0
        kept = output & mask(program.wire(program.output).bits)
        return (kept + np.uint64(up)) >> np.uint64(program.cut)

    def _blind(self, answer: Ring) -> Ring:
        """Add a share of zero: the two answers together say the output and nothing else."""
        zero = self._zero.reshape(answer.shape).astype(np.uint64)
        blinded = answer + zero if self._party.role == "A" else answer - zero
        return blinded & mask(self._party.program.answer_bits)
