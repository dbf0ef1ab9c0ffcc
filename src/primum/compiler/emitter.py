"""Writes a program: wires, operations and weights, and the few steps that every rule needs.

A value has a wire as it fell (`found`), and at most one that is settled, one that is extended to the full ring and one
that is opened; each is made when first asked for, and kept.
"""

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from primum.compiler.graph import Array, Graph, Shape
from primum.compiler.precision import Precision
from primum.errors import ModelError
from primum.mpc.program import (
    LEAST_COMPARED_BITS,
    Add,
    Concatenate,
    Cut,
    Extend,
    Flatten,
    Open,
    Operation,
    Pad,
    Program,
    Repeat,
    Reshape,
    Transpose,
    Wire,
    sources,
)

ANSWER_FRACTION: Final = 16
MOST_CUT_BITS: Final = 32
KEPT_FORM: Final = (Pad, Repeat, Reshape, Flatten, Transpose, Concatenate)


class Unfit(ModelError):
    """A layer's range does not fit the ring; a larger ring may do."""


@dataclass
class Emitter:
    """The program so far, for `graph` with the binary points of `precision`."""

    graph: Graph
    precision: Precision
    shapes: dict[str, Shape]
    wires: dict[str, Wire] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    weights: dict[str, tuple[Array, Array]] = field(default_factory=dict, repr=False)
    found: dict[str, Wire] = field(default_factory=dict)
    opened: dict[str, Wire] = field(default_factory=dict)
    narrowed: dict[tuple[str, int, int], Wire] = field(default_factory=dict)
    makers: dict[str, Operation] = field(default_factory=dict)

    @property
    def bits(self) -> int:
        """The ring of inputs and convolutions."""
        return self.precision.bits

    def magnitude(self, value: str) -> int:
        """abs(value) < 2^magnitude."""
        return self.precision.magnitude[value]

    def wire(self, name: str, shape: Shape, bits: int, fraction: int, magnitude: int) -> Wire:
        """A new wire for a value [channels, height, width]; programs have channels last."""
        while name in self.wires:
            name += "'"
        made = Wire(name, (shape[1], shape[2], shape[0]), bits, fraction, magnitude)
        self.wires[name] = made
        return made

    def like(self, wire: Wire, name: str, bits: int, fraction: int) -> Wire:
        """A new wire of the shape and magnitude of another."""
        height, width, channels = wire.shape
        return self.wire(name, (channels, height, width), bits, fraction, wire.magnitude)

    def emit(self, operation: Operation) -> Wire:
        """Append `operation`; its target."""
        self.operations.append(operation)
        self.makers[operation.target] = operation
        return self.wires[operation.target]

    def result(self, value: str, fraction: int, bits: int = 0) -> Wire:
        """A new wire for a value of the graph, in the full ring unless `bits` says otherwise."""
        return self.wire(value, self.shapes[value], bits or self.bits, fraction, self.magnitude(value))

    def full(self, value: str) -> Wire:
        """`value`, shared in the full ring."""
        wire = self.found[value]
        if wire.bits < self.bits:
            target = self.like(wire, f"{value}.extended", self.bits, wire.fraction)
            wire = self.emit(Extend(target.name, wire.name, target.name))
            self.found[value] = wire
        return wire

    def settle(self, value: str) -> Wire:
        """`value`, shared in the full ring, with no more than its settled fractional bits."""
        wire, fraction = self.full(value), self.precision.settled[value]
        if wire.fraction > fraction:
            bits = max(LEAST_COMPARED_BITS, 2 + wire.magnitude + fraction)
            short = self.cut(wire, f"{value}.cut", bits, fraction)
            target = self.like(wire, f"{value}.settled", self.bits, fraction)
            wire = self.emit(Extend(target.name, short.name, target.name))
            self.found[value] = wire
        return wire

    def cut(self, wire: Wire, name: str, bits: int, fraction: int) -> Wire:
        """`wire` in Z_2^bits with `fraction` fractional bits; refuses where the ring leaves no room for the cut."""
        gone = wire.fraction - fraction
        if bits + gone > wire.bits or not wire.magnitude + fraction < bits <= MOST_CUT_BITS:
            raise self.unfit(name.split(".cut", maxsplit=1)[0], wire.magnitude)
        target = self.like(wire, name, bits, fraction)
        if gone > 0:
            return self.emit(Cut(target.name, wire.name, target.name))
        return self.emit(Add(target.name, (wire.name,), target.name, (1 << -gone,)))

    def narrow(self, value: str, bits: int, fraction: int) -> Wire:
        """`value` in the small ring Z_2^bits, to be compared."""
        wire, key = self.found[value], (value, bits, fraction)
        if (wire.bits, wire.fraction) == (bits, fraction):
            return wire
        if key not in self.narrowed:
            wire = self.full(value) if wire.bits < bits + max(0, wire.fraction - fraction) else wire
            self.narrowed[key] = self.cut(wire, f"{value}.cut", bits, fraction)
        return self.narrowed[key]

    def aligned(self, wire: Wire, fraction: int) -> Wire:
        """`wire` with more fractional bits, exactly."""
        if wire.fraction == fraction:
            return wire
        target = self.like(wire, f"{wire.name}.aligned", wire.bits, fraction)
        return self.emit(Add(target.name, (wire.name,), target.name, (1 << fraction - wire.fraction,)))

    def open(self, value: str) -> Wire:
        """`value`, opened under one mask; what was only moved is moved after its source was opened."""
        if value not in self.opened:
            wire = self.settle(value)
            moved = self._moved(value, wire)
            if moved is None:
                target = self.like(wire, f"{value}.open", self.bits, wire.fraction)
                moved = self.emit(Open(target.name, wire.name, target.name))
            self.opened[value] = moved
            self.found[value] = moved
        return self.opened[value]

    def _moved(self, value: str, wire: Wire) -> Wire | None:
        """The opened form of a value that only moves others, made of theirs; None where their fractions differ."""
        node = next((node for node in self.graph.nodes if node.name == value), None)
        step = self.makers.get(value)
        if node is None or not isinstance(step, KEPT_FORM):
            return None
        fractions = {self.settle(source).fraction for source in node.sources}
        if len(fractions) != 1:
            return None
        parts = tuple(self.open(source).name for source in node.sources)
        target = self.wire(f"{value}.open", self.shapes[value], self.bits, fractions.pop(), wire.magnitude)
        return self.emit(moved_to(step, parts, target.name))

    def unfit(self, layer: str, magnitude: int) -> Unfit:
        """The refusal of a layer whose values do not fit."""
        return Unfit(
            f"the range of layer `{layer}` does not fit: values up to 2^{magnitude} leave too few fractional bits in a "
            f"ring of {self.bits} bits.",
            "Normalise the layer (batch norm) or train with smaller weights; rings go up to 64 bits.",
        )

    def finish(self, output: Wire) -> tuple[Program, tuple[tuple[Array, Array], ...]]:
        """The program without operations that nobody reads, and its weights in order."""
        needed, kept = {output.name}, list[Operation]()
        for step in reversed(self.operations):
            if step.target in needed:
                kept.append(step)
                needed.update(sources(step))
        kept.reverse()
        needed.add(self.graph.input)
        wires = tuple(wire for name, wire in self.wires.items() if name in needed)
        answer = min(output.fraction, ANSWER_FRACTION)
        program = Program(self.bits, wires, tuple(kept), self.graph.input, output.name, answer)
        return program, tuple(self.weights[step.target] for step in program.weighted)


def moved_to(step: Operation, parts: tuple[str, ...], target: str) -> Operation:
    """The same movement of other wires."""
    if isinstance(step, Concatenate):
        return Concatenate(target, parts, target, step.axis)
    if isinstance(step, Pad):
        return Pad(target, parts[0], target, step.padding, step.gaps)
    if isinstance(step, Repeat):
        return Repeat(target, parts[0], target, step.times)
    if isinstance(step, Transpose):
        return Transpose(target, parts[0], target, step.axes)
    assert isinstance(step, Reshape | Flatten)
    return type(step)(target, parts[0], target)


def element_weights(weight: Array, bias: Array) -> tuple[Array, Array]:
    """Weights as a program wants them: [height, width, channels / groups, outputs], and the bias."""
    return np.ascontiguousarray(weight.transpose(2, 3, 1, 0)), bias
