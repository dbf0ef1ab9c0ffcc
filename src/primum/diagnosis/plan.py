"""What one image through a model costs: the protocol played once in this process, operation by operation."""

import contextlib
import re
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch

from primum.diagnosis.deployable import Deployable
from primum.errors import InputError
from primum.mpc.check import Cost, cost, step_cost
from primum.mpc.program import Operation
from primum.mpc.rehearsal import Rehearsal, Timing
from primum.mpc.rule import Wires
from primum.rng import Stream

_SHARE: Final = 0.005
"""Rows that cost less than this part of everything are cheap."""
_UNITS: Final = {"kbit": 1e3, "mbit": 1e6, "gbit": 1e9}
_LINK: Final = re.compile(r"(\d+\.?\d*)\s*ms\s*,\s*(\d+\.?\d*)\s*([kmg]bit)", re.IGNORECASE)


@dataclass(frozen=True)
class Link:
    """A connection between the servers: seconds for a round trip, bits a second each way."""

    round_trip: float
    rate: float


def parse_link(text: str) -> Link:
    """`20ms,100Mbit`; InputError for anything else."""
    found = _LINK.fullmatch(text.strip())
    if found is None or float(found[2]) == 0:
        raise InputError(f"`{text}` is not a link.", "Write round trip and rate: 20ms,100Mbit.")
    return Link(float(found[1]) / 1e3, float(found[2]) * _UNITS[found[3].lower()])


@dataclass(frozen=True)
class Row:
    """One operation: seconds of one server's run and preparation and of the dealer, rounds, bytes."""

    name: str
    kind: str
    shape: tuple[int, int, int]
    running: float
    preparing: float
    dealing: float
    rounds: int
    sent_each_way: int
    dealt: int


@dataclass(frozen=True)
class Plan:
    """What one image costs; times are of this machine, one core a party."""

    rows: tuple[Row, ...]
    cost: Cost

    @property
    def running(self) -> float:
        """Seconds that a server computes while the data owner waits."""
        return sum(row.running for row in self.rows)

    def seconds_over(self, link: Link) -> float:
        """How long a data owner waits over `link`, with material in store; each round takes half a round trip."""
        return self.running + self.cost.rounds * link.round_trip / 2 + 8 * self.cost.sent_each_way / link.rate

    def heaviest(self) -> tuple[Row, ...]:
        """The rows that matter, in order."""
        bounds = {
            name: _SHARE * sum(getattr(row, name) for row in self.rows)
            for name in ("running", "preparing", "dealing", "sent_each_way", "dealt")
        }
        return tuple(
            row for row in self.rows if any(bound and getattr(row, name) > bound for name, bound in bounds.items())
        )

    def in_words(self) -> str:
        """The sums."""
        price = self.cost
        ahead, dealer = (sum(getattr(row, name) for row in self.rows) for name in ("preparing", "dealing"))
        return (
            f"One image: {self.running * 1e3:.0f} ms of each server while the data owner waits, {ahead * 1e3:.0f} ms of "
            f"each before, {dealer * 1e3:.0f} ms of the dealer.\n"
            f"{price.rounds} rounds; {2 * price.sent_each_way / 1e6:.1f} MB between the servers, both ways; "
            f"{price.dealt_to_b / 1e6:.1f} MB from the dealer to B; {price.request_to_b / 1e6:.2f} MB from the data owner."
        )

    def as_dict(self, link: Link | None = None) -> dict[str, Any]:
        """Plain values, for JSON."""
        estimate = {} if link is None else {"seconds_over_link": self.seconds_over(link)}
        return {"operations": [asdict(row) for row in self.rows], "cost": asdict(self.cost), **estimate}


def plan_of(model: Deployable) -> Plan:
    """Play the protocol on a drawn image, twice, and note the second time."""
    program = model.program
    rehearsal = Rehearsal(program, model.weights, time.perf_counter)
    wire = program.wire(program.input)
    drawn = Stream.public("an image for a plan").uint64((1, *wire.shape)) >> np.uint64(64 - max(1, wire.fraction))
    with _one_thread():
        rehearsal.run(drawn)
        _, timing = rehearsal.run(drawn)
    wires = Wires(program)
    return Plan(tuple(_row(wires, step, timing) for step in program.operations), cost(program))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _row(wires: Wires, step: Operation, timing: Timing) -> Row:
    price = step_cost(wires, step)
    return Row(
        step.name,
        type(step).__name__,
        wires[step.target].shape,
        timing.running.get(step.name, 0.0),
        timing.preparing.get(step.name, 0.0),
        timing.dealing.get(step.name, 0.0),
        price.rounds,
        price.sent_each_way,
        price.dealt_to_b,
    )
