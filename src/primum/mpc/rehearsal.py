"""The whole protocol in one process: dealer, A, B, model owner and data owner, message by message.

What it is for: seeing that a program gives what it should, and where its time goes, before anything is deployed. It
keeps every role's secrets in one place, so it is no way to serve anybody.
"""

import os
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from primum.kernels.words import Bytes
from primum.mpc.dealer import Dealer
from primum.mpc.linear import mask_weights
from primum.mpc.party import Evaluation, Party
from primum.mpc.program import Operation, Program
from primum.mpc.rule import RULES, Exchange, Wires
from primum.mpc.share import ROLES, Ratchet, Role, expand_input, other, split_input, to_bytes
from primum.ring import Ring, mask

_MODEL: Final = b"rehearsal".ljust(32, b"\0")
Clock = Callable[[], float]


def _no_clock() -> float:
    return 0.0


@dataclass(frozen=True)
class Timing:
    """Seconds by operation, of one party: the dealer, a server's preparation, a server's run. And bytes sent."""

    dealing: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    preparing: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    running: dict[str, float] = field(default_factory=lambda: defaultdict(float))
    sent_each_way: list[int] = field(default_factory=list)


class Rehearsal:
    """All roles of one program with these weights (flat ring elements), under fresh keys."""

    def __init__(self, program: Program, weights: Ring, clock: Clock = _no_clock) -> None:
        self._program, self._clock = program, clock
        seeds: dict[Role, bytes] = {role: os.urandom(32) for role in ROLES}
        masked = to_bytes(mask_weights(program, weights, _MODEL, seeds), program.bits)
        self._dealer = Dealer.make(program, _MODEL, seeds)
        self._parties = {role: Party.make(role, program, _MODEL, masked, seeds[role]) for role in ROLES}
        keys, common = {role: os.urandom(32) for role in ROLES}, os.urandom(32)
        self._own, self._dealers = ({role: Ratchet(keys[role], 1) for role in ROLES} for _ in range(2))
        self._between = {role: Ratchet(common, 1) for role in ROLES}

    def run(self, inputs: Ring) -> tuple[Ring, Timing]:
        """(outputs, timing) of inputs [n, height, width, channels]; outputs likewise, in Z_2^answer_bits."""
        timing, count, first = Timing(), len(inputs), self._dealers["A"].next
        seed = os.urandom(32)
        shares: dict[Role, Ring] = {
            "A": expand_input(seed, inputs.shape),
            "B": split_input(inputs, seed, self._program.bits),
        }
        dealt = self._deal(first, count, timing)
        runs = {}
        for role, party in self._parties.items():
            watch = _Stopwatch(self._clock, timing.preparing)
            watch.start()
            material = dealt if role == "B" else ()
            runs[role] = party.evaluate(first, count, self._own[role], self._between[role], material, watch.stop)
        answers = self._play(runs, shares, timing)
        return (answers["A"] + answers["B"]) & mask(self._program.answer_bits), timing

    def _deal(self, first: int, count: int, timing: Timing) -> list[Bytes]:
        wires = Wires(self._program)
        names = [step.name for step in self._program.operations for _ in RULES[type(step)].dealt(step, wires)]
        messages, dealt = self._dealer.deal(first, count, self._dealers), []
        for name in names:
            start = self._clock()
            dealt.append(next(messages))
            timing.dealing[name] += self._clock() - start
        for _ in messages:
            raise RuntimeError("the dealer has more than was due")
        return dealt

    def _play(self, runs: dict[Role, Evaluation], shares: dict[Role, Ring], timing: Timing) -> dict[Role, Ring]:
        watches = {role: _Stopwatch(self._clock, timing.running) for role in ROLES}
        going: dict[Role, Exchange[Ring]] = {role: runs[role].run(shares[role], watches[role].stop) for role in ROLES}
        sent: dict[Role, Bytes] = {}
        answers: dict[Role, Ring] = {}
        while len(answers) < len(ROLES):
            before = dict(sent)
            for role in ROLES:
                watches[role].start()
                try:
                    sent[role] = going[role].send(before[other(role)]) if before else next(going[role])
                except StopIteration as end:
                    answers[role] = end.value
                watches[role].pause()
            if not answers:
                timing.sent_each_way.append(len(sent["A"]))
        return answers


class _Stopwatch:
    """Adds up the time of one of two parties, who take turns, by operation; each counts half."""

    def __init__(self, clock: Clock, seconds: dict[str, float]) -> None:
        self._clock, self._seconds = clock, seconds
        self._since, self._running = 0.0, 0.0

    def start(self) -> None:
        """It is this party's turn."""
        self._since = self._clock()

    def pause(self) -> None:
        """It is the other's turn."""
        self._running += self._clock() - self._since

    def stop(self, step: Operation) -> None:
        """An operation is done."""
        now = self._clock()
        self._seconds[step.name] += (self._running + now - self._since) / 2
        self._since, self._running = now, 0.0
