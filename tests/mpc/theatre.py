"""All roles of one deployment in one process: every message, and every value behind the shares, is kept."""

import os
from collections.abc import Generator, Iterable

import numpy as np
import numpy.typing as npt

from primum.mpc.dealer import Dealer
from primum.mpc.linear import mask_weights
from primum.mpc.party import Evaluation, Party
from primum.mpc.program import Operation, Program, Wire, weight_size
from primum.mpc.rule import RULES, Dealing, Serving, Wires
from primum.mpc.share import (
    ROLES,
    Elements,
    Ratchet,
    Role,
    Streams,
    expand_input,
    from_bytes,
    other,
    split_input,
    to_bytes,
)
from primum.ring import mask, to_signed

MODEL = b"m" * 32
Whole = npt.NDArray[np.int64]
Messages = dict[Role, list[bytes]]


def program_of(
    bits: int, wires: Iterable[Wire], steps: Iterable[Operation], answer_fraction: int | None = None
) -> Program:
    """A program from its first wire to its last."""
    listed = tuple(wires)
    fraction = listed[-1].fraction if answer_fraction is None else answer_fraction
    return Program(bits, listed, tuple(steps), listed[0].name, listed[-1].name, fraction)


def as_ring(values: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Signed integers as ring elements of 64 bits."""
    return np.asarray(values, np.int64).view(np.uint64)


def exchange(runs: dict[Role, Generator]) -> tuple[Messages, dict[Role, object]]:  # type: ignore[type-arg]
    """Carry messages between both sides to the end: what each sent, and what each returned."""
    sent: Messages = {role: [] for role in ROLES}
    ends: dict[Role, object] = {}
    due: dict[Role, object] = dict.fromkeys(ROLES)
    while len(ends) < len(ROLES):
        for role in ROLES:
            try:
                sent[role].append(bytes(runs[role].send(due[role])))
            except StopIteration as end:
                ends[role] = end.value
        assert len(ends) in (0, len(ROLES)), "one server waits for a message that never comes"
        if not ends:
            due = {role: sent[other(role)][-1] for role in ROLES}
    return sent, ends


class Theatre:
    """Model owner, dealer, A, B and data owner. What went over the wires in the last run stands in its attributes."""

    def __init__(
        self, program: Program, weights: npt.ArrayLike = (), secret: bytes | None = None, model: bytes = MODEL
    ) -> None:
        """`weights`: signed integers, flat, in the program's order; `secret`: where all keys come from, else fresh."""
        self.program = program
        self.weights = as_ring(weights) if np.size(weights) else np.zeros(weight_size(program), np.uint64)
        stream = os.urandom if secret is None else Streams((secret,), ("theatre",))._streams[0].bytes
        seeds: dict[Role, bytes] = {role: stream(32) for role in ROLES}
        self.masked = to_bytes(mask_weights(program, self.weights, model, seeds), program.bits).tobytes()
        self.parties = {role: Party.make(role, program, model, self.masked, seeds[role]) for role in ROLES}
        self.dealer = Dealer.make(program, model, seeds)
        keys: dict[Role, bytes] = {role: stream(32) for role in ROLES}
        common = stream(32)
        self.with_dealer = {role: Ratchet(keys[role], 1) for role in ROLES}
        self.at_dealer = {role: Ratchet(keys[role], 1) for role in ROLES}
        self.between = {role: Ratchet(common, 1) for role in ROLES}
        self.fresh = stream
        self.sent: Messages = {}
        self.dealt: list[bytes] = []
        self.answers: dict[Role, Elements] = {}
        self.evaluations: dict[Role, Evaluation] = {}
        self._served: dict[Role, Serving] = {}

    @property
    def number(self) -> int:
        """The next number."""
        return self.at_dealer["A"].next

    def infer(self, images: npt.ArrayLike) -> Whole:
        """The signed outputs of signed integers [n, h, w, c]."""
        seed, values = self.fresh(32), as_ring(images)
        shares: dict[Role, Elements] = {
            "A": expand_input(seed, values.shape),
            "B": split_input(values, seed, self.program.bits),
        }
        return self.infer_shares(shares)

    def infer_shares(self, shares: dict[Role, Elements]) -> Whole:
        """The signed outputs of given shares."""
        first, count = self.number, len(shares["A"])
        self.dealt = [bytes(message) for message in self.dealer.deal(first, count, self.at_dealer)]
        self.evaluations = {role: self.evaluate(role, first, count) for role in ROLES}
        return self.play(shares)

    def evaluate(self, role: Role, first: int, count: int) -> Evaluation:
        """A server's evaluation, with the dealer's last messages."""
        dealt = self.dealt if role == "B" else ()
        return self.parties[role].evaluate(first, count, self.with_dealer[role], self.between[role], dealt)

    def play(self, shares: dict[Role, Elements]) -> Whole:
        """Run the evaluations that were made."""
        self._served = {role: self.evaluations[role]._serving() for role in ROLES}
        self.sent, ends = exchange({role: self.evaluations[role].run(shares[role]) for role in ROLES})
        bits = self.program.answer_bits
        shape = (len(shares["A"]), *self.program.wire(self.program.output).shape)
        self.answers = {role: from_bytes(to_bytes(ends[role], bits), shape, bits, role) for role in ROLES}  # type: ignore[arg-type]
        total = self.answers["A"].astype(np.uint64) + self.answers["B"].astype(np.uint64)
        return to_signed(total & mask(bits), bits)

    def value(self, name: str) -> Whole:
        """The signed value of a wire in the last run; where it was opened, both servers hold the same x^ = x + r."""
        bits = self._served["A"].wires[name].bits
        total = sum(self._served[role].share(name).astype(np.uint64) for role in ROLES)
        held = [self._served[role].values[name] for role in ROLES]
        if held[0].opened is not None:
            assert held[1].opened is not None
            r = held[0].mask.astype(np.uint64) + held[1].mask.astype(np.uint64)
            for value in held:
                assert not ((value.opened.astype(np.uint64) - r - total) & mask(bits)).any()
        return to_signed(total & mask(bits), bits)


def by_hand(
    program: Program, step: Operation, shares: dict[Role, Elements], drawn: list[tuple[Elements, Elements]]
) -> Whole:
    """One operation of one image, with the masks `drawn` instead of those of a stream: the target's signed value."""
    wires, found = Wires(program), RULES[type(step)]
    parts = found.dealt(step, wires)
    stream = Streams((os.urandom(32),), ("by hand",))
    dealt = [stream.draw(size, bits) for size, bits in parts]
    corrections = [part.copy() for part in dealt]
    found.deal(step, Dealing(wires, 1, {}), drawn, corrections)
    corrections = [
        from_bytes(to_bytes(part, bits).tobytes(), (1, size), bits, "the dealer")
        for part, (size, bits) in zip(corrections, parts, strict=True)
    ]
    servers = {role: Serving(role, wires, 1, {}, {}, {}) for role in ROLES}
    for place, role in enumerate(ROLES):
        servers[role].put(step.source, shares[role])  # type: ignore[union-attr]
        material = (dealt, corrections)[place]
        found.prepare(step, servers[role], [pair[place] for pair in drawn], material)
    exchange({role: found.evaluate(step, servers[role]) for role in ROLES})
    bits = wires[step.target].bits
    total = sum(servers[role].share(step.target).astype(np.uint64) for role in ROLES)
    return to_signed(total & mask(bits), bits)
