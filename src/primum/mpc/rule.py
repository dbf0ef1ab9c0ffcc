"""What every operation has: its material and messages as lists of (count, bits), and its three parts.

A rule is the protocol of one kind of operation: `deal` is the dealer's part, `prepare` a server's part that does not
depend on the image, `evaluate` the part that does. The lists say what is drawn, dealt and sent for one image, in order;
the dealer, A, B, the costs and the tests all read them.
"""

from abc import ABC, abstractmethod
from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Final, Generic, TypeVar

import numpy as np

from primum.kernels.limbs import Weights
from primum.kernels.words import Buffer, Bytes, type_for
from primum.mpc.program import Operation, Program, Wire
from primum.mpc.share import Elements, Role, from_bytes, other, to_bytes

Step = TypeVar("Step", bound=Operation)
Result = TypeVar("Result")
Parts = tuple[tuple[int, int], ...]
"""(count, bits) of each array, for one image."""
Exchange = Generator[Bytes, Buffer, Result]
"""Sends bytes to the other server, receives as many, and returns a result at the end."""


@dataclass
class Value:
    """One server's view of a wire, arrays [images, height, width, channels]; the dealer knows masks only.

    Shared: `share`. Opened: `opened` is x^ and `mask` this server's part of r.
    """

    share: Elements | None = field(default=None, repr=False)
    opened: Elements | None = field(default=None, repr=False)
    mask: Elements | None = field(default=None, repr=False)


class Wires(dict[str, Wire]):
    """The wires of a program by name."""

    def __init__(self, program: Program) -> None:
        super().__init__({wire.name: wire for wire in program.wires})


@dataclass
class Dealing:
    """The dealer's side of one request: masks r of opened wires, weights R_W."""

    wires: Wires
    images: int
    weights: dict[str, Weights] = field(repr=False)
    masks: dict[str, Elements] = field(default_factory=dict, repr=False)


@dataclass
class Serving:
    """A server's side of one request. `lead` is 1 at A and 0 at B: who adds public values."""

    role: Role
    wires: Wires
    images: int
    own: dict[str, Weights] = field(repr=False)
    masked: dict[str, Weights] = field(repr=False)
    bias: dict[str, Elements] = field(repr=False)
    values: dict[str, Value] = field(default_factory=dict, repr=False)
    prepared: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def lead(self) -> int:
        return int(self.role == "A")

    def share(self, name: str) -> Elements:
        """This server's share of a wire: x_A = x^ - r_A and x_B = -r_B where it was opened."""
        value = self.values[name]
        if value.share is None:
            if value.opened is None or value.mask is None:
                raise ValueError(f"{name} was not computed")
            value.share = value.opened - value.mask if self.lead else -value.mask
        return value.share

    def opened(self, name: str) -> Elements:
        """x^ of an opened wire."""
        value = self.values[name].opened
        if value is None:
            raise ValueError(f"{name} was not opened")
        return value

    def mask(self, name: str) -> Elements:
        """This server's part of the mask of an opened wire."""
        value = self.values[name].mask
        if value is None:
            raise ValueError(f"{name} was not opened")
        return value

    def put(self, name: str, share: Elements) -> None:
        """Set a wire to this share; any number of elements, in order."""
        wire = self.wires[name]
        shaped = share.reshape(self.images, *wire.shape).astype(type_for(wire.bits), copy=False)
        self.values[name] = Value(share=shaped)

    def swap(self, values: Elements, bits: int) -> Exchange[Elements]:
        """Send `values`, receive the other server's; flat, of the same type. PeerError if its length is wrong."""
        theirs = yield to_bytes(values, bits)
        return from_bytes(theirs, (values.size,), bits, f"server {other(self.role)}")


class Rule(ABC, Generic[Step]):
    """The protocol of one kind of operation."""

    def drawn(self, step: Step, wires: Wires) -> Parts:
        """What each server draws from its own stream, and the dealer from both."""
        return ()

    def dealt(self, step: Step, wires: Wires) -> Parts:
        """What the dealer shares: A draws its share after `drawn`, B is sent a correction."""
        return ()

    def sent(self, step: Step, wires: Wires) -> Parts:
        """What each server sends the other: one message a round."""
        return ()

    def deal(self, step: Step, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]) -> None:
        """Turn A's shares in `dealt` into B's corrections, in place; note the masks of opened wires.

        `drawn`: what A and B draw, in pairs; arrays are [images, count].
        """

    def prepare(self, step: Step, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        """Everything that does not depend on the image; the mask of an opened wire is set here."""

    @abstractmethod
    def evaluate(self, step: Step, run: Serving) -> Exchange[None]:
        """The online part: set the target's share."""


RULES: Final[dict[type[Operation], Rule[Any]]] = {}


def rule(kind: type[Operation]) -> Any:
    """Class decorator: the rule of this kind of operation."""

    def register(found: type[Rule[Any]]) -> type[Rule[Any]]:
        RULES[kind] = found()
        return found

    return register


def as_words(values: Elements) -> Elements:
    """Flat uint32: what the kernels take for rings of up to 32 bits."""
    return np.ascontiguousarray(values, np.uint32).reshape(-1)


def as_ring(values: Elements) -> Elements:
    """Flat uint64."""
    return np.ascontiguousarray(values, np.uint64).reshape(-1)
