"""Every operation on plain integers: what the protocol must compute, modulo 2^bits of the target.

Values are int64 [n, height, width, channels]; sums and products wrap modulo 2^64, which all rings divide.
"""

from functools import singledispatch
from typing import Any

import numpy as np
import numpy.typing as npt
from tests.mpc.theatre import Theatre

from primum.mpc.linear import split_weights
from primum.mpc.local import interpolation
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
    Sign,
    Slice,
    SumPool,
    Transpose,
    sources,
)
from primum.ring import Ring

Whole = npt.NDArray[np.int64]


def wrapped(values: Whole, bits: int) -> Whole:
    """Modulo 2^bits, in [-2^(bits-1), 2^(bits-1))."""
    return (values << np.int64(64 - bits)) >> np.int64(64 - bits)


def assert_every_step_is_right(stage: Theatre) -> None:
    """In the last run: each target is what its sources' values make, where they are in the operation's range."""
    for step in stage.program.operations:
        wires = [stage.program.wire(name) for name in sources(step)]
        values = [stage.value(wire.name) for wire in wires]
        bits = stage.program.wire(step.target).bits
        made = expected(step, stage.program, stage.weights, *values)
        error = wrapped(stage.value(step.target) - made, bits)
        if isinstance(step, Extend | MaxPool):
            quarter = 1 << (wires[0].bits - 2)
            if isinstance(step, MaxPool) and not (np.abs(values[0]) < quarter).all():
                continue
            error = error[(values[0] >= -quarter) & (values[0] < quarter)] if isinstance(step, Extend) else error
        allowed = {0, 1} if isinstance(step, Cut) else {0}
        if isinstance(step, Cut) and bits == 1:
            allowed = {0, -1}
        assert set(error.reshape(-1).tolist()) <= allowed, (type(step).__name__, step.name)


@singledispatch
def expected(step: Operation, program: Program, weights: Ring, *values: Whole) -> Whole:
    """The target, not yet wrapped; of a Cut, rounded down."""
    raise TypeError(type(step).__name__)


@expected.register(Open)
@expected.register(Extend)
def _(step: Open | Extend, program: Program, weights: Ring, value: Whole) -> Whole:
    return value


def padded(value: Whole, padding: tuple[int, int, int, int]) -> Whole:
    return np.pad(value, ((0, 0), padding[:2], padding[2:], (0, 0)))


def windows(step: Any, value: Whole, kernel: tuple[int, int], dilation: tuple[int, int] = (1, 1)) -> list[list[Whole]]:
    """[a][b]: what the kernel's place (a, b) sees at every place of the output."""
    full = padded(value, step.padding)
    high = full.shape[1] - dilation[0] * (kernel[0] - 1)
    wide = full.shape[2] - dilation[1] * (kernel[1] - 1)
    return [
        [
            full[:, a * dilation[0] : a * dilation[0] + high, b * dilation[1] : b * dilation[1] + wide][
                :, :: step.stride[0], :: step.stride[1]
            ]
            for b in range(kernel[1])
        ]
        for a in range(kernel[0])
    ]


@expected.register
def _(step: Convolution, program: Program, weights: Ring, value: Whole) -> Whole:
    weight, bias = next((w, b) for layer, w, b in split_weights(program, weights) if layer is step)
    kernel, part, each = weight.view(np.int64), weight.shape[2], weight.shape[3] // step.groups
    seen = windows(step, value, step.kernel, step.dilation)
    groups = [
        sum(
            seen[a][b][..., g * part : (g + 1) * part] @ kernel[a, b, :, g * each : (g + 1) * each]
            for a in range(step.kernel[0])
            for b in range(step.kernel[1])
        )
        for g in range(step.groups)
    ]
    return np.concatenate(groups, axis=3) + bias.view(np.int64)


@expected.register
def _(step: Bias, program: Program, weights: Ring, value: Whole) -> Whole:
    return value + next(b for layer, _, b in split_weights(program, weights) if layer is step).view(np.int64)


@expected.register
def _(step: Cut, program: Program, weights: Ring, value: Whole) -> Whole:
    return value >> np.int64(program.wire(step.source).fraction - program.wire(step.target).fraction)


@expected.register
def _(step: Relu, program: Program, weights: Ring, value: Whole) -> Whole:
    return np.maximum(value, 0)


@expected.register
def _(step: Sign, program: Program, weights: Ring, value: Whole) -> Whole:
    return (value >= 0).astype(np.int64)


@expected.register
def _(step: MaxPool, program: Program, weights: Ring, value: Whole) -> Whole:
    return np.max([part for row in windows(step, value, step.kernel) for part in row], axis=0)


@expected.register
def _(step: SumPool, program: Program, weights: Ring, value: Whole) -> Whole:
    return np.sum([part for row in windows(step, value, step.kernel) for part in row], axis=0)


@expected.register
def _(step: Multiply, program: Program, weights: Ring, left: Whole, right: Whole) -> Whole:
    return left * right


def signed_64(value: int) -> np.int64:
    return np.int64((value + (1 << 63)) % (1 << 64) - (1 << 63))


@expected.register
def _(step: Add, program: Program, weights: Ring, *values: Whole) -> Whole:
    total = np.zeros((len(values[0]), *program.wire(step.target).shape), np.int64) + signed_64(step.constant)
    for value, factor in zip(values, step.factors, strict=True):
        total = total + value * signed_64(factor)
    return total


@expected.register
def _(step: Scale, program: Program, weights: Ring, value: Whole) -> Whole:
    return value * np.array([signed_64(factor) for factor in step.factors])


@expected.register
def _(step: Transpose, program: Program, weights: Ring, value: Whole) -> Whole:
    one, two, three = (axis + 1 for axis in step.axes)
    return np.einsum(value, [0, 1, 2, 3], [0, one, two, three])


@expected.register(Flatten)
@expected.register(Reshape)
def _(step: Flatten | Reshape, program: Program, weights: Ring, value: Whole) -> Whole:
    high, wide, channels = program.wire(step.target).shape
    as_torch = np.moveaxis(value, 3, 1).reshape(len(value), channels, high, wide)
    return np.moveaxis(as_torch, 1, 3)


@expected.register
def _(step: Concatenate, program: Program, weights: Ring, *values: Whole) -> Whole:
    return np.concatenate(values, axis=step.axis + 1)


@expected.register
def _(step: Slice, program: Program, weights: Ring, value: Whole) -> Whole:
    for axis, count in enumerate(program.wire(step.target).shape):
        value = value.take([step.start[axis] + step.step[axis] * place for place in range(count)], axis + 1)
    return value


@expected.register
def _(step: Pad, program: Program, weights: Ring, value: Whole) -> Whole:
    for axis in (1, 2):
        gap, size = step.gaps[axis - 1], value.shape[axis]
        places = [place * (gap + 1) for place in range(size)]
        spread = np.zeros([places[-1] + 1 if at == axis else n for at, n in enumerate(value.shape)], np.int64)
        spread[(slice(None),) * axis + (places,)] = value
        value = spread
    return padded(value, step.padding)


@expected.register
def _(step: Repeat, program: Program, weights: Ring, value: Whole) -> Whole:
    return np.kron(value, np.ones((1, *step.times, 1), np.int64))


@expected.register
def _(step: Interpolate, program: Program, weights: Ring, value: Whole) -> Whole:
    for axis in (1, 2):
        size = program.wire(step.target).shape[axis - 1]
        first, weight = interpolation(value.shape[axis], size, step.fraction, step.align_corners)
        matrix = np.zeros((value.shape[axis], size), np.int64)
        for place in range(size):
            at, right = int(first[place]), int(weight[place])
            matrix[at, place] += (1 << step.fraction) - right
            matrix[min(at + 1, len(matrix) - 1), place] += right
        value = np.moveaxis(np.moveaxis(value, axis, -1) @ matrix, -1, axis)
    return value
