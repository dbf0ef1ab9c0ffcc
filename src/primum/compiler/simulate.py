"""A program on plain integers: the slow, obviously right twin of the protocol, without shares.

Values are signed integers modulo 2^bits, int64 [n, height, width, channels]. Only the rounding of `Cut` is random, as
it is in the protocol: up with the probability of the fraction that is lost. Calibration runs it against the model.
"""

from collections import Counter
from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from primum.mpc.program import (
    Add,
    Bias,
    Concatenate,
    Convolution,
    Cut,
    Edges,
    Extend,
    Flatten,
    Interpolate,
    MaxPool,
    Multiply,
    Open,
    Operation,
    Pad,
    Pair,
    Program,
    Relu,
    Repeat,
    Reshape,
    Scale,
    Sign,
    Slice,
    SumPool,
    Transpose,
    Wire,
    sources,
    weight_shape,
)
from primum.ring import Ring, to_signed
from primum.rng import Stream

Whole = npt.NDArray[np.int64]
MANTISSA_BITS = 52


class Simulation:
    """The state of one run: wires by name, values, weights and the stream for rounding."""

    def __init__(self, program: Program, weights: Ring, rounding: Stream) -> None:
        self.program = program
        self.wires = {wire.name: wire for wire in program.wires}
        self.values: dict[str, Whole] = {}
        self.weights = _layers(program, weights)
        self.rounding = rounding

    def run(self, images: Ring) -> Whole:
        """The output for inputs [n, height, width, channels] in the ring; a value is kept while it is still read."""
        self.values[self.program.input] = to_signed(images, self.program.bits)
        left = Counter(name for step in self.program.operations for name in sources(step))
        left[self.program.output] += 1
        for step in self.program.operations:
            target = self.wires[step.target]
            made = wrap(compute(step, self), target.bits)
            self.values[step.target] = made.reshape(-1, *target.shape)
            for name in sources(step):
                left[name] -= 1
                if not left[name]:
                    self.values.pop(name, None)
        return self.values[self.program.output]

    def source(self, step: Any) -> Whole:
        """The value that `step` reads."""
        return self.values[step.source]

    def wire(self, name: str) -> Wire:
        """The wire called `name`."""
        return self.wires[name]


def simulate(program: Program, weights: Ring, images: Ring, rounding: Stream) -> Whole:
    """The signed output [n, height, width, channels] of `program`; `weights` flat, in the program's order."""
    return Simulation(program, weights, rounding).run(images)


def wrap(values: Whole, bits: int) -> Whole:
    """Modulo 2^bits, in [-2^(bits-1), 2^(bits-1))."""
    return (values << np.int64(64 - bits)) >> np.int64(64 - bits)


def _layers(program: Program, weights: Ring) -> dict[str, tuple[Whole, Whole]]:
    """W [kh, kw, channels / groups, outputs] and b [outputs] of each layer that has weights, by its target."""
    found, at = {}, 0
    for step in program.weighted:
        shape = weight_shape(program, step)
        size = int(np.prod(shape))
        kernel, bias = weights[at : at + size], weights[at + size : at + size + shape[3]]
        found[step.target] = (to_signed(kernel, program.bits).reshape(shape), to_signed(bias, program.bits))
        at += size + shape[3]
    return found


@singledispatch
def compute(step: Operation, run: Simulation) -> Whole:
    """The target of one operation, before it is wrapped into its ring."""
    raise TypeError(f"no rule to simulate {type(step).__name__}")


@compute.register(Open)
@compute.register(Extend)
@compute.register(Flatten)
def _(step: Open | Extend | Flatten, run: Simulation) -> Whole:
    value = run.source(step)
    return value.transpose(0, 3, 1, 2) if isinstance(step, Flatten) else value


@compute.register
def _(step: Convolution, run: Simulation) -> Whole:
    weight, bias = run.weights[step.target]
    value = _padded(run.source(step), step.padding).transpose(0, 3, 1, 2)
    made = exact_convolution(value, weight.transpose(3, 2, 0, 1), run.program.bits, step)
    return made.transpose(0, 2, 3, 1) + bias


@compute.register
def _(step: Bias, run: Simulation) -> Whole:
    return run.source(step) + run.weights[step.target][1]


def exact_convolution(value: Whole, weight: Whole, bits: int, step: Convolution) -> Whole:
    """A convolution modulo 2^bits, in float64 where its sums are exact there, else limb by limb, so small that they are."""
    reach = int(np.abs(weight.astype(np.float64)).sum((1, 2, 3)).max()) * int(np.abs(value.astype(np.float64)).max())
    if reach < 1 << MANTISSA_BITS:
        return _convolved(_real(value), _real(weight), step)
    length = weight[0].size
    limb = (MANTISSA_BITS - length.bit_length()) // 2
    total: Whole | None = None
    for one, low in _limbs(value, limb, bits):
        for two, high in _limbs(weight, limb, bits):
            if low + high < bits:
                shifted = _convolved(one, two, step) << np.int64(low + high)
                total = shifted if total is None else total + shifted
    assert total is not None
    return total


def _convolved(value: Tensor, weight: Tensor, step: Convolution) -> Whole:
    made = functional.conv2d(value, weight, None, step.stride, 0, step.dilation, step.groups)
    return made.numpy().astype(np.int64)


def _real(values: Whole) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, np.float64))


def _limbs(values: Whole, limb: int, bits: int) -> list[tuple[Tensor, int]]:
    """Balanced digits in base 2^limb, lowest first, with their shifts; no more than the values need."""
    found: list[tuple[Tensor, int]] = []
    low, half = 0, np.int64(1 << (limb - 1))
    while not found or (low < bits and values.any()):
        digit = ((values + half) & np.int64((1 << limb) - 1)) - half
        found.append((_real(digit), low))
        values, low = (values - digit) >> np.int64(limb), low + limb
    return found


@compute.register
def _(step: Cut, run: Simulation) -> Whole:
    lost = run.wire(step.source).fraction - run.wire(step.target).fraction
    value = run.source(step)
    dither = (run.rounding.uint64(value.shape) >> np.uint64(64 - lost)).astype(np.int64)
    return (value + dither) >> np.int64(lost)


@compute.register
def _(step: Relu, run: Simulation) -> Whole:
    return np.maximum(run.source(step), 0)


@compute.register
def _(step: Sign, run: Simulation) -> Whole:
    return (run.source(step) >= 0).astype(np.int64)


@compute.register
def _(step: MaxPool, run: Simulation) -> Whole:
    value = _padded(run.source(step), step.padding)
    largest: Whole = _windows(value, step.kernel, step.stride).max((-2, -1))
    return largest


@compute.register
def _(step: SumPool, run: Simulation) -> Whole:
    value = _padded(run.source(step), step.padding)
    total: Whole = _windows(value, step.kernel, step.stride).sum((-2, -1))
    return total


def _padded(value: Whole, edges: Edges) -> Whole:
    top, bottom, left, right = edges
    return np.pad(value, ((0, 0), (top, bottom), (left, right), (0, 0))) if any(edges) else value


def _windows(value: Whole, kernel: Pair, stride: Pair) -> Whole:
    """[n, rows, columns, channels, kernel height, kernel width]."""
    return np.lib.stride_tricks.sliding_window_view(value, kernel, (1, 2))[:, :: stride[0], :: stride[1]]


@compute.register
def _(step: Multiply, run: Simulation) -> Whole:
    return run.values[step.left] * run.values[step.right]


@compute.register
def _(step: Add, run: Simulation) -> Whole:
    total = np.full((1, 1, 1, 1), step.constant, np.int64)
    for factor, name in zip(step.factors, step.sources, strict=True):
        total = total + np.int64(factor) * run.values[name]
    return total


@compute.register
def _(step: Scale, run: Simulation) -> Whole:
    return run.source(step) * np.array(step.factors, np.int64)


@compute.register
def _(step: Reshape, run: Simulation) -> Whole:
    height, width, channels = run.wire(step.target).shape
    outermost = run.source(step).transpose(0, 3, 1, 2).reshape(-1, channels, height, width)
    return outermost.transpose(0, 2, 3, 1)


@compute.register
def _(step: Transpose, run: Simulation) -> Whole:
    return run.source(step).transpose(0, *(axis + 1 for axis in step.axes))


@compute.register
def _(step: Concatenate, run: Simulation) -> Whole:
    return np.concatenate([run.values[name] for name in step.sources], step.axis + 1)


@compute.register
def _(step: Slice, run: Simulation) -> Whole:
    parts = (
        slice(start, start + (count - 1) * jump + 1, jump)
        for start, jump, count in zip(step.start, step.step, run.wire(step.target).shape, strict=True)
    )
    return run.source(step)[(slice(None), *parts)]


@compute.register
def _(step: Pad, run: Simulation) -> Whole:
    value = run.source(step)
    number, height, width, channels = value.shape
    down, across = step.gaps[0] + 1, step.gaps[1] + 1
    wide = np.zeros((number, (height - 1) * down + 1, (width - 1) * across + 1, channels), np.int64)
    wide[:, ::down, ::across] = value
    return _padded(wide, step.padding)


@compute.register
def _(step: Repeat, run: Simulation) -> Whole:
    return run.source(step).repeat(step.times[0], 1).repeat(step.times[1], 2)


@compute.register
def _(step: Interpolate, run: Simulation) -> Whole:
    value, after = run.source(step), run.wire(step.target).shape
    for axis in (1, 2):
        low, high, weight = taps(value.shape[axis], after[axis - 1], step.fraction, step.align_corners)
        spread = weight.reshape(-1, *(1,) * (3 - axis))
        near, far = value.take(low, axis), value.take(high, axis)
        value = near * ((1 << step.fraction) - spread) + far * spread
    return value


def taps(before: int, after: int, fraction: int, align_corners: bool) -> tuple[Whole, Whole, Whole]:
    """For every new position along one axis: its two neighbours, and the weight of the second in units of 2^-fraction."""
    at = np.arange(after, dtype=np.float64)
    if align_corners:
        place = at * ((before - 1) / max(1, after - 1))
    else:
        place = np.maximum((at + 0.5) * (before / after) - 0.5, 0.0)
    low = np.minimum(place.astype(np.int64), before - 1)
    weight = np.rint((place - low) * (1 << fraction)).astype(np.int64)
    return low, np.minimum(low + 1, before - 1), weight
