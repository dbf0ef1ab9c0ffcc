"""How the elements of a value are put in another order, side by side, cut, repeated and resized: nothing is computed."""

from math import prod

import numpy as np

from primum.compiler.graph import Concatenate, Edges, Interpolate, Pad, Pair, Permute, Repeat, Reshape, Shape, Slice
from primum.compiler.recorder import Recorder, Symbol, Unsupported, image_shape, is_image


class Arranger(Recorder):
    """The movements of the field: one method for each, on the axes of the file."""

    def concatenate(self, parts: list[Symbol], axis: int) -> Symbol:
        """Side by side along an axis that is not the batch."""
        rank = len(parts[0].shape)
        at = axis % rank
        if not is_image(parts[0].shape) and len(set(parts)) == 1:
            return self.tile(parts[0], at, len(parts))
        if not all(is_image(part.shape) for part in parts):
            raise Unsupported(f"a concatenation of different values of shape {list(parts[0].shape)}")
        if at == 0 or any(len(part.shape) != rank for part in parts):
            raise Unsupported("a concatenation along the batch")
        if len({(*part.shape[:at], *part.shape[at + 1 :]) for part in parts}) != 1:
            raise Unsupported("a concatenation of values that do not fit together")
        shape = list(parts[0].shape)
        shape[at] = sum(part.shape[at] for part in parts)
        return self.add(Concatenate(self.name(), tuple(part.name for part in parts), _axis(rank, at)), tuple(shape))

    def slice(self, x: Symbol, axis: int, start: int, stop: int, step: int = 1) -> Symbol:
        """Elements start, start + step, ... before stop along one axis; negative positions count from the end."""
        rank = len(x.shape)
        at = axis % rank
        if step < 1:
            raise Unsupported("a slice that runs backwards")
        first, last, _ = slice(start, stop, step).indices(x.shape[at])
        shape = list(x.shape)
        shape[at] = len(range(first, last, step))
        if shape[at] == x.shape[at]:
            return x
        if at == 0:
            raise Unsupported("a slice of the batch")
        place, whole = _axis(rank, at), self.shapes[x.name]
        starts, stops, jumps = [0, 0, 0], list(whole), [1, 1, 1]
        starts[place], stops[place], jumps[place] = first, last, step
        node = Slice(self.name(), (x.name,), _three(starts), _three(stops), _three(jumps))
        return self.add(node, tuple(shape))

    def pad(self, x: Symbol, edges: Edges, filling: float = 0.0) -> Symbol:
        """Zeros around height and width; a negative edge cuts away."""
        if filling != 0.0:
            raise Unsupported("padding with something else than 0")
        _, height, width = self.shapes[x.name]
        top, bottom, left, right = edges
        if min(edges) < 0:
            start, stop = (0, max(-top, 0), max(-left, 0)), (height + min(bottom, 0), width + min(right, 0))
            x = self.add(Slice(self.name(), (x.name,), start, (self.shapes[x.name][0], *stop)))
        around = (max(top, 0), max(bottom, 0), max(left, 0), max(right, 0))
        return self._ranked(Pad(self.name(), (x.name,), around), x) if any(around) else x

    def permute(self, x: Symbol, order: tuple[int, ...]) -> Symbol:
        """The axes of the file in another order; axes that stay together are one."""
        shape = tuple(x.shape[axis] for axis in order)
        long = [axis for axis in order if x.shape[axis] != 1]
        if long == sorted(long):
            return self.reshape(x, shape)
        if x.name in self.endings:
            raise Unsupported(f"a transposition of {list(x.shape)} by {list(order)}")
        if is_image(x.shape) and order[0] == 0:
            axes = (2, 1, 0) if len(shape) == 3 else _three([axis - 1 for axis in order[1:]])
            return self.add(Permute(self.name(), (x.name,), axes), shape)
        groups = _together(long)
        if len(groups) > 3:
            raise Unsupported(f"a transposition of {list(x.shape)} by {list(order)}, which moves {len(groups)} axes")
        ordered = sorted(groups)
        sizes = [prod(x.shape[axis] for axis in group) for group in ordered]
        whole = self.reshape(x, (1, *sizes, *(1,) * (3 - len(sizes))))
        axes = _three([*(ordered.index(group) for group in groups), *range(len(groups), 3)])
        return self.reshape(self.add(Permute(self.name(), (whole.name,), axes)), shape)

    def reshape(self, x: Symbol, shape: tuple[int, ...]) -> Symbol:
        """The same numbers in the same order; a shape that is no image's is only noted."""
        if prod(shape) != prod(x.shape):
            raise Unsupported(f"a reshape of {list(x.shape)} to {list(shape)}, which has another number of elements")
        if not is_image(shape):
            return Symbol(x.name, shape)
        made = image_shape(shape)
        if made == self.shapes[x.name] or x.name in self.endings:
            return Symbol(x.name, shape)
        return self.add(Reshape(self.name(), (x.name,), made), shape)

    def tile(self, x: Symbol, axis: int, times: int) -> Symbol:
        """The elements along `axis` so often, one row after the other."""
        return self._copied(x, axis, axis, times)

    def repeat(self, x: Symbol, times: tuple[int, ...]) -> Symbol:
        """Every element so often in a row, along each axis of the file: nearest upsampling."""
        for axis, count in enumerate(times):
            x = self._copied(x, axis, axis + 1, count)
        return x

    def _copied(self, x: Symbol, axis: int, inner: int, times: int) -> Symbol:
        """Blocks of the axes from `inner` on, each so often in a row."""
        if times == 1:
            return x
        if axis == 0 or times < 1 or x.name in self.endings:
            raise Unsupported(f"{times} copies along axis {axis} of a value of shape {list(x.shape)}")
        shape = (*x.shape[:axis], x.shape[axis] * times, *x.shape[axis + 1 :])
        rows = self.reshape(x, (1, 1, prod(x.shape[:inner]), prod(x.shape[inner:])))
        return self.reshape(self.add(Repeat(self.name(), (rows.name,), (times, 1))), shape)

    def expand(self, x: Symbol, shape: tuple[int, ...]) -> Symbol:
        """Copies along axes of length 1, until `x` has `shape`."""
        made = self.reshape(x, (1,) * (len(shape) - len(x.shape)) + x.shape)
        for axis, length in enumerate(np.broadcast_shapes(made.shape, shape)):
            made = self.tile(made, axis, length // made.shape[axis])
        return made

    def nearest(self, x: Symbol, size: Pair) -> Symbol:
        """Nearest upsampling to a multiple of the size."""
        _, height, width = self.shapes[x.name]
        times = (size[0] // height, size[1] // width)
        if (times[0] * height, times[1] * width) != size:
            raise Unsupported("nearest resizing by something else than a whole number")
        return self._ranked(Repeat(self.name(), (x.name,), times), x) if times != (1, 1) else x

    def bilinear(self, x: Symbol, size: Pair, align_corners: bool) -> Symbol:
        """Bilinear resizing."""
        return self._ranked(Interpolate(self.name(), (x.name,), size, align_corners), x)

    def _aligned(self, left: Symbol, right: Symbol) -> tuple[Symbol, Symbol]:
        """Two values that broadcast in the file, so that they broadcast as [channels, height, width] too."""
        rank = max(len(left.shape), len(right.shape))
        return tuple(self.reshape(x, (1,) * (rank - len(x.shape)) + x.shape) for x in (left, right))  # type: ignore[return-value]


def _together(axes: list[int]) -> list[tuple[int, ...]]:
    """Runs of `axes` that follow each other in the source too; axes that are not among them have length 1."""
    rank, groups = {axis: at for at, axis in enumerate(sorted(axes))}, list[tuple[int, ...]]()
    for axis in axes:
        if groups and rank[axis] == rank[groups[-1][-1]] + 1:
            groups[-1] += (axis,)
        else:
            groups.append((axis,))
    return groups


def _axis(rank: int, at: int) -> int:
    """Which of channels, height and width the file's axis is."""
    return 2 if rank == 3 and at == 2 else at - 1


def _three(numbers: list[int]) -> Shape:
    return (numbers[0], numbers[1], numbers[2])
