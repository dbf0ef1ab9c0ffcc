"""Operations that need no message: sums, public factors, and moving elements about.

What is linear keeps the form of its source: a share becomes a share, an opened value and its mask become an opened
value and its mask. `Add` makes a share.
"""

from abc import abstractmethod
from typing import Any, TypeVar

import numpy as np

from primum.kernels.words import type_for
from primum.mpc.program import (
    Add,
    Concatenate,
    Flatten,
    Interpolate,
    Operation,
    Pad,
    Repeat,
    Reshape,
    Scale,
    Shape,
    Slice,
    SumPool,
    Transpose,
    sources,
)
from primum.mpc.rule import Dealing, Exchange, Rule, Serving, Value, Wires, rule
from primum.mpc.share import Elements

Local = TypeVar("Local", bound=Operation)


class _Linear(Rule[Local]):
    """A linear map with public coefficients, of arrays [images, height, width, channels]."""

    @abstractmethod
    def apply(self, step: Local, wires: Wires, values: list[Elements]) -> Elements:
        """The target's array from the sources'."""

    def deal(self, step: Local, run: Dealing, drawn: list[tuple[Elements, Elements]], dealt: list[Elements]) -> None:
        names = sources(step)
        if all(name in run.masks for name in names):
            masks = [run.masks[name] for name in names]
            run.masks[_target(step)] = self.apply(step, run.wires, masks)

    def prepare(self, step: Local, run: Serving, drawn: list[Elements], dealt: list[Elements]) -> None:
        names = sources(step)
        if all(name in run.values for name in names):
            masks = [run.mask(name) for name in names]
            run.values[_target(step)] = Value(mask=self.apply(step, run.wires, masks))

    def evaluate(self, step: Local, run: Serving) -> Exchange[None]:
        names, target = sources(step), _target(step)
        if target in run.values:
            run.values[target].opened = self.apply(step, run.wires, [run.opened(name) for name in names])
        else:
            run.put(target, self.apply(step, run.wires, [run.share(name) for name in names]))
        return
        yield


def _target(step: Any) -> str:
    name: str = step.target
    return name


@rule(Add)
class _Add(Rule[Add]):
    def evaluate(self, step: Add, run: Serving) -> Exchange[None]:
        wire = run.wires[step.target]
        kind = type_for(wire.bits)
        total = np.full((run.images, *wire.shape), _element(step.constant * run.lead, kind), kind)
        for name, factor in zip(step.sources, step.factors, strict=True):
            share = run.share(name).astype(kind, copy=False)
            total += share if factor == 1 else share * _element(factor, kind)
        run.put(step.target, total)
        return
        yield


def _element(value: int, kind: type[np.unsignedinteger[Any]]) -> np.unsignedinteger[Any]:
    return kind(value & ((1 << 8 * np.dtype(kind).itemsize) - 1))


@rule(Scale)
class _Scale(_Linear[Scale]):
    def apply(self, step: Scale, wires: Wires, values: list[Elements]) -> Elements:
        kind = values[0].dtype.type
        return values[0] * np.array([_element(factor, kind) for factor in step.factors], kind)


@rule(SumPool)
class _SumPool(_Linear[SumPool]):
    def apply(self, step: SumPool, wires: Wires, values: list[Elements]) -> Elements:
        high, wide, channels = wires[step.target].shape
        padded = _padded(values[0], step.padding)
        total = np.zeros((len(padded), high, wide, channels), padded.dtype)
        for i in range(step.kernel[0]):
            for j in range(step.kernel[1]):
                rows = slice(i, i + (high - 1) * step.stride[0] + 1, step.stride[0])
                columns = slice(j, j + (wide - 1) * step.stride[1] + 1, step.stride[1])
                total += padded[:, rows, columns]
        return total


def _padded(values: Elements, padding: tuple[int, int, int, int]) -> Elements:
    top, bottom, left, right = padding
    return np.pad(values, ((0, 0), (top, bottom), (left, right), (0, 0))) if any(padding) else values


@rule(Flatten)
class _Flatten(_Linear[Flatten]):
    def apply(self, step: Flatten, wires: Wires, values: list[Elements]) -> Elements:
        return _reshaped(values[0], wires[step.target].shape)


@rule(Reshape)
class _Reshape(_Linear[Reshape]):
    def apply(self, step: Reshape, wires: Wires, values: list[Elements]) -> Elements:
        return _reshaped(values[0], wires[step.target].shape)


@rule(Transpose)
class _Transpose(_Linear[Transpose]):
    def apply(self, step: Transpose, wires: Wires, values: list[Elements]) -> Elements:
        return np.ascontiguousarray(values[0].transpose(0, *(axis + 1 for axis in step.axes)))


def _reshaped(values: Elements, shape: Shape) -> Elements:
    """In the order of channels, height, width; a vector's channels are in that order already."""
    high, wide, channels = shape
    outermost = values.transpose(0, 3, 1, 2).reshape(len(values), channels, high, wide)
    return np.ascontiguousarray(outermost.transpose(0, 2, 3, 1))


@rule(Concatenate)
class _Concatenate(_Linear[Concatenate]):
    def apply(self, step: Concatenate, wires: Wires, values: list[Elements]) -> Elements:
        return np.concatenate(values, axis=step.axis + 1)


@rule(Slice)
class _Slice(_Linear[Slice]):
    def apply(self, step: Slice, wires: Wires, values: list[Elements]) -> Elements:
        shape = wires[step.target].shape
        cuts = (
            slice(start, start + (count - 1) * by + 1, by)
            for start, by, count in zip(step.start, step.step, shape, strict=True)
        )
        return np.ascontiguousarray(values[0][(slice(None), *cuts)])


@rule(Pad)
class _Pad(_Linear[Pad]):
    def apply(self, step: Pad, wires: Wires, values: list[Elements]) -> Elements:
        (source,), (top, _, left, _) = values, step.padding
        count, high, wide, _ = source.shape
        out = np.zeros((count, *wires[step.target].shape), source.dtype)
        by_row, by_column = step.gaps[0] + 1, step.gaps[1] + 1
        out[:, top : top + (high - 1) * by_row + 1 : by_row, left : left + (wide - 1) * by_column + 1 : by_column] = (
            source
        )
        return out


@rule(Repeat)
class _Repeat(_Linear[Repeat]):
    def apply(self, step: Repeat, wires: Wires, values: list[Elements]) -> Elements:
        return values[0].repeat(step.times[0], axis=1).repeat(step.times[1], axis=2)


@rule(Interpolate)
class _Interpolate(_Linear[Interpolate]):
    def apply(self, step: Interpolate, wires: Wires, values: list[Elements]) -> Elements:
        high, wide, _ = wires[step.target].shape
        return _stretched(_stretched(values[0], 1, high, step), 2, wide, step)


def _stretched(values: Elements, axis: int, size: int, step: Interpolate) -> Elements:
    first, weight = interpolation(values.shape[axis], size, step.fraction, step.align_corners)
    kind = values.dtype.type
    second = np.minimum(first + 1, values.shape[axis] - 1)
    by = [1, 1, 1, 1]
    by[axis] = size
    right = weight.astype(kind).reshape(by)
    left = _element(1 << step.fraction, kind) - right
    stretched: Elements = values.take(first, axis) * left + values.take(second, axis) * right
    return stretched


def interpolation(length: int, size: int, fraction: int, align_corners: bool) -> tuple[Elements, Elements]:
    """(left neighbour, weight of the right one in units of 2^-fraction) of each of `size` places; as PyTorch's bilinear."""
    if align_corners:
        places = np.arange(size) * ((length - 1) / max(size - 1, 1))
    else:
        places = np.maximum((np.arange(size) + 0.5) * (length / size) - 0.5, 0.0)
    first = np.minimum(places.astype(np.uint64), np.uint64(length - 1))
    return first, np.rint((places - first) * (1 << fraction)).astype(np.uint64)
