"""Programs for the tests: one that has every kind of operation, and any chain that hypothesis likes."""

from typing import Any

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st
from tests.mpc.theatre import program_of

from primum.mpc.program import (
    Add,
    Bias,
    Concatenate,
    Convolution,
    Cut,
    Extend,
    Flatten,
    Interpolate,
    MaxPool,
    Multiply,
    Open,
    Operation,
    Pad,
    Program,
    Relu,
    Repeat,
    Reshape,
    Scale,
    Shape,
    Sign,
    Slice,
    SumPool,
    Transpose,
    Wire,
    weight_size,
)
from primum.rng import Stream


def everything(bits: int = 40) -> Program:
    """Every kind of operation once or more, on shared and on opened wires."""
    wires = (
        Wire("x", (4, 4, 2), bits, 6, 7),
        Wire("x^", (4, 4, 2), bits, 6, 7),
        Wire("y", (4, 4, 2), bits, 10, 12),
        Wire("T", (4, 4, 2), 10, 6, 8),
        Wire("b", (4, 4, 2), 10, 6, 8),
        Wire("m", (2, 2, 2), 10, 6, 8),
        Wire("r", (2, 2, 2), bits, 6, 8),
        Wire("s", (2, 2, 2), bits, 0, 1),
        Wire("e", (2, 2, 2), bits, 6, 8),
        Wire("r^", (2, 2, 2), bits, 6, 8),
        Wire("s^", (2, 2, 2), bits, 0, 1),
        Wire("p", (2, 2, 2), bits, 6, 8),
        Wire("q", (2, 2, 2), bits, 7, 10),
        Wire("a", (2, 2, 2), bits, 7, 11),
        Wire("padded", (4, 4, 2), bits, 7, 11),
        Wire("pooled", (2, 2, 2), bits, 7, 13),
        Wire("tall", (4, 2, 2), bits, 7, 13),
        Wire("smooth", (3, 3, 2), bits, 11, 17),
        Wire("part", (2, 2, 2), bits, 11, 17),
        Wire("both", (2, 2, 4), bits, 11, 17),
        Wire("turned", (4, 1, 4), bits, 11, 17),
        Wire("turned^", (4, 1, 4), bits, 11, 17),
        Wire("across", (4, 4, 1), bits, 11, 17),
        Wire("flat", (1, 1, 16), bits, 11, 17),
        Wire("z", (1, 1, 3), bits, 15, 24),
    )
    steps: tuple[Operation, ...] = (
        Open("open x", "x", "x^"),
        Convolution("conv", "x^", "y", 4, (3, 3), padding=(1, 1, 1, 1)),
        Cut("cut", "y", "T"),
        Bias("bias", "T", "b"),
        MaxPool("max", "b", "m", (2, 2), (2, 2)),
        Relu("relu", "m", "r"),
        Sign("sign", "m", "s"),
        Extend("extend", "m", "e"),
        Open("open r", "r", "r^"),
        Open("open s", "s", "s^"),
        Multiply("times", "r^", "s^", "p"),
        Scale("scale", "p", "q", (3, -2), 1),
        Add("add", ("q", "e"), "a", (1, 2), 5),
        Pad("pad", "a", "padded", (1, 1, 1, 1)),
        SumPool("sum", "padded", "pooled", (2, 2), (2, 2)),
        Repeat("repeat", "pooled", "tall", (2, 1)),
        Interpolate("smooth", "tall", "smooth", 2),
        Slice("slice", "smooth", "part", (0, 1, 0)),
        Concatenate("concatenate", ("part", "part"), "both", 2),
        Reshape("reshape", "both", "turned"),
        Open("open turned", "turned", "turned^"),
        Transpose("transpose", "turned^", "across", (2, 0, 1)),
        Flatten("flatten", "across", "flat"),
        Convolution("linear", "flat", "z", 4, (1, 1)),
    )
    return program_of(bits, wires, steps, 8)


def small_weights(program: Program) -> npt.NDArray[np.int64]:
    """Weights and biases in [-8, 8), the same for everybody."""
    return Stream.public("test weights").uint64(weight_size(program)).view(np.int64) >> np.int64(60)


def small_images(program: Program, count: int, label: str = "test images") -> npt.NDArray[np.int64]:
    """Inputs in [-64, 64)."""
    shape = (count, *program.wire(program.input).shape)
    return Stream.public(label).uint64(shape).view(np.int64) >> np.int64(57)


class Chain:
    """A program that grows by one valid operation at a time."""

    def __init__(self, draw: Any) -> None:
        self.draw = draw
        self.bits = draw(st.sampled_from([24, 32, 40, 44, 64]))
        shape = draw(st.tuples(st.integers(1, 5), st.integers(1, 5), st.integers(1, 3)))
        self.wires = [Wire("w0", shape, self.bits, draw(st.integers(0, 4)), 8)]
        self.steps: list[Operation] = []
        self.opened: set[str] = set()

    @property
    def last(self) -> Wire:
        return self.wires[-1]

    def put(self, kind: type[Operation], *arguments: Any, source: Any = None, keeps: bool = False, **wire: Any) -> None:
        """Append kind(name, source, target, *arguments), whose target is the last wire but for `wire`."""
        name = f"w{len(self.wires)}"
        was, reads = self.last, source if source is not None else self.last.name
        names = reads if isinstance(reads, tuple) else (reads,)
        if kind is Open or (keeps and self.opened.issuperset(names)):
            self.opened.add(name)
        fields = {"shape": was.shape, "bits": was.bits, "fraction": was.fraction, "magnitude": 8} | wire
        if kind is Multiply:
            self.steps.append(Multiply(f"s{len(self.steps)}", *names, name))
        else:
            self.steps.append(kind(f"s{len(self.steps)}", reads, name, *arguments))  # type: ignore[call-arg]
        self.wires.append(Wire(name, **fields))

    def open(self) -> None:
        if self.last.name not in self.opened:
            self.put(Open)

    def pair(self, lowest: int, highest: int) -> tuple[int, int]:
        return self.draw(st.tuples(st.integers(lowest, highest), st.integers(lowest, highest)))

    def edges(self) -> tuple[int, int, int, int]:
        return self.draw(st.tuples(*[st.integers(0, 1)] * 4))

    def places(
        self, kernel: tuple[int, int], stride: tuple[int, int], edges: tuple[int, ...]
    ) -> tuple[int, int] | None:
        size = (self.last.shape[0] + edges[0] + edges[1], self.last.shape[1] + edges[2] + edges[3])
        if any(whole < part for whole, part in zip(size, kernel, strict=True)):
            return None
        return (size[0] - kernel[0]) // stride[0] + 1, (size[1] - kernel[1]) // stride[1] + 1

    def convolution(self) -> None:
        kernel, stride, edges = self.pair(1, 3), self.pair(1, 2), self.edges()
        places = self.places(kernel, stride, edges)
        if places is None or self.last.bits != self.bits:
            return
        groups = self.draw(st.sampled_from([g for g in (1, 2, 3) if self.last.shape[2] % g == 0]))
        outputs = groups * self.draw(st.integers(1, 2))
        more = self.draw(st.integers(0, 3))
        self.open()
        self.put(
            Convolution, more, kernel, stride, edges, (1, 1), groups,
            shape=(*places, outputs), fraction=self.last.fraction + more,
        )  # fmt: skip

    def bias(self) -> None:
        if self.last.bits <= self.bits:
            self.put(Bias)

    def pool(self) -> None:
        kernel, stride, edges = self.pair(1, 3), self.pair(1, 2), self.edges()
        places = self.places(kernel, stride, edges)
        kind = MaxPool if 5 <= self.last.bits <= 21 and self.draw(st.booleans()) else SumPool
        if places is not None:
            shape = (*places, self.last.shape[2])
            self.put(kind, kernel, stride, edges, shape=shape, keeps=kind is SumPool)

    def narrow(self) -> None:
        was, bits = self.last, self.draw(st.integers(5, 21))
        if was.bits <= 21:
            return
        lost = self.draw(st.integers(0, min(was.fraction, was.bits - bits)))
        self.put(Cut, bits=bits, fraction=was.fraction - lost)

    def widen(self) -> None:
        if not 5 <= self.last.bits <= 21:
            return
        kind = self.draw(st.sampled_from([Relu, Sign, Extend]))
        self.put(kind, bits=self.bits, fraction=0 if kind is Sign else self.last.fraction)

    def multiply(self) -> None:
        self.open()
        was = self.last
        self.put(Multiply, source=(was.name, was.name), fraction=2 * was.fraction)

    def add(self) -> None:
        was = self.last
        others = [w for w in self.wires if w.bits >= was.bits and _fits(w.shape, was.shape)]
        chosen = self.draw(st.lists(st.sampled_from(others), max_size=2))
        factors = self.draw(st.tuples(*[st.integers(-3, 3)] * (1 + len(chosen))))
        names = (was.name, *(wire.name for wire in chosen))
        self.put(Add, factors, self.draw(st.integers(-100, 100)), source=names)

    def scale(self) -> None:
        channels, more = self.last.shape[2], self.draw(st.integers(0, 2))
        factors = self.draw(st.tuples(*[st.integers(-5, 5)] * channels))
        self.put(Scale, factors, more, fraction=self.last.fraction + more, keeps=True)

    def move(self) -> None:
        high, wide, channels = self.last.shape
        match self.draw(
            st.sampled_from(["flatten", "reshape", "transpose", "concatenate", "slice", "pad", "repeat", "resize"])
        ):
            case "flatten":
                self.put(Flatten, shape=(1, 1, high * wide * channels), keeps=True)
            case "reshape":
                self.put(Reshape, shape=(wide, channels, high), keeps=True)
            case "transpose":
                axes = self.draw(st.permutations(range(3)))
                self.put(Transpose, tuple(axes), shape=tuple(self.last.shape[axis] for axis in axes), keeps=True)
            case "concatenate":
                axis = self.draw(st.integers(0, 2))
                shape = tuple(size * (1 + (place == axis)) for place, size in enumerate(self.last.shape))
                self.put(Concatenate, axis, source=(self.last.name,) * 2, shape=shape, keeps=True)
            case "slice":
                start = self.draw(st.tuples(*[st.integers(0, size - 1) for size in self.last.shape]))
                step = self.draw(st.tuples(*[st.integers(1, 2)] * 3))
                rest = zip(self.last.shape, start, step, strict=True)
                shape = tuple((size - first - 1) // by + 1 for size, first, by in rest)
                self.put(Slice, start, step, shape=shape, keeps=True)
            case "pad":
                edges, gaps = self.edges(), self.pair(0, 1)
                rows, columns = (high - 1) * (gaps[0] + 1) + 1, (wide - 1) * (gaps[1] + 1) + 1
                shape = (rows + edges[0] + edges[1], columns + edges[2] + edges[3], channels)
                self.put(Pad, edges, gaps, shape=shape, keeps=True)
            case "repeat":
                times = self.pair(1, 2)
                self.put(Repeat, times, shape=(high * times[0], wide * times[1], channels), keeps=True)
            case _:
                size, fraction = self.pair(1, 5), self.draw(st.integers(0, 4))
                corners = self.draw(st.booleans())
                shape, more = (*size, channels), self.last.fraction + 2 * fraction
                self.put(Interpolate, fraction, corners, shape=shape, fraction=more, keeps=True)


def _fits(shape: Shape, target: Shape) -> bool:
    return all(size in (1, whole) for size, whole in zip(shape, target, strict=True))


@st.composite
def chains(draw: st.DrawFn) -> Program:
    """Any program of up to ten operations; values may leave an operation's range, never a shape its limits."""
    chain = Chain(draw)
    kinds = (chain.open, chain.convolution, chain.pool, chain.narrow, chain.widen, chain.multiply, chain.add)
    for _ in range(draw(st.integers(0, 10))):
        if chain.last.size < 300:
            draw(st.sampled_from((*kinds, chain.scale, chain.bias, chain.move)))()
    last = chain.last
    lost = draw(st.integers(0, min(max(last.fraction, 0), last.bits - 1)))
    return program_of(chain.bits, chain.wires, chain.steps, last.fraction - lost)
