"""The dealer: randomness that it made itself. It never receives a message about an image or a weight."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from primum.kernels.limbs import Weights
from primum.kernels.words import Bytes
from primum.mpc.check import check
from primum.mpc.linear import prepare_weights, weight_mask
from primum.mpc.program import Operation, Program
from primum.mpc.rule import RULES, Dealing, Wires
from primum.mpc.share import ROLES, Ratchet, Role, Streams, take, to_bytes


@dataclass(frozen=True)
class Dealer:
    """What the dealer knows of one deployment: the program and R_W, not the weights."""

    program: Program
    model: bytes
    _weights: dict[str, Weights] = field(repr=False)

    @classmethod
    def make(cls, program: Program, model: bytes, seeds: dict[Role, bytes]) -> "Dealer":
        """The dealer of `program` for the model that the 32 bytes `model` name; both weight-mask seeds."""
        check(program)
        total = weight_mask(program, model, seeds["A"])
        total += weight_mask(program, model, seeds["B"])
        return cls(program, model, prepare_weights(program, total))

    def deal(self, first: int, count: int, ratchets: dict[Role, Ratchet]) -> Iterator[Bytes]:
        """B's corrections for the numbers first .. first + count - 1: one message for each array of material.

        A's half of the material is in A's stream. Refused if a number was dealt before under these keys; the keys of all
        numbers up to the last are erased before the first message is made.
        """
        keys = {role: take(ratchets[role], first, count) for role in ROLES}
        return self._messages(keys, count)

    def _messages(self, keys: dict[Role, tuple[bytes, ...]], count: int) -> Iterator[Bytes]:
        run = Dealing(Wires(self.program), count, self._weights)
        digest = self.program.digest()
        for step in self.program.operations:
            streams = {role: Streams(keys[role], (self.model, digest, step.name)) for role in ROLES}
            yield from _deal(step, run, streams)


def _deal(step: Operation, run: Dealing, streams: dict[Role, Streams]) -> Iterator[Bytes]:
    found = RULES[type(step)]
    drawn = [
        (streams["A"].draw(size, bits), streams["B"].draw(size, bits)) for size, bits in found.drawn(step, run.wires)
    ]
    parts = found.dealt(step, run.wires)
    dealt = [streams["A"].draw(size, bits) for size, bits in parts]
    found.deal(step, run, drawn, dealt)
    for (_, bits), corrections in zip(parts, dealt, strict=True):
        yield to_bytes(corrections, bits)
