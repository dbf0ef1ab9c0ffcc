"""Rules for the ONNX operators that move elements about: joining, cutting, padding, axes, resizing."""

from itertools import pairwise
from math import prod
from typing import Any

import numpy as np

from primum.compiler.builder import Builder
from primum.compiler.onnx_rules import Attributes, number, rule, whole_numbers
from primum.compiler.recorder import Symbol, Unsupported


@rule("Concat", takes="any")
def _(b: Builder, a: Attributes, *parts: Any) -> Symbol:
    if not all(isinstance(part, Symbol) for part in parts):
        raise Unsupported("a concatenation with a constant")
    return b.concatenate(list(parts), a["axis"])


@rule("Slice")
def _(b: Builder, a: Attributes, x: Symbol, starts: Any, stops: Any, axes: Any = None, jumps: Any = None) -> Symbol:
    first, last = whole_numbers(starts), whole_numbers(stops)
    along = list(range(len(first))) if axes is None else whole_numbers(axes)
    by = [1] * len(first) if jumps is None else whole_numbers(jumps)
    for start, stop, axis, step in zip(first, last, along, by, strict=True):
        x = b.slice(x, axis, start, stop, step)
    return x


@rule("Split")
def _(b: Builder, a: Attributes, x: Symbol, sizes: Any = None) -> list[Symbol]:
    axis = a.get("axis", 0)
    if sizes is None and "num_outputs" not in a:
        raise Unsupported("a split without sizes")
    each = -(-x.shape[axis] // a.get("num_outputs", 1))
    parts = whole_numbers(sizes) if sizes is not None else [each] * a["num_outputs"]
    ends = np.minimum(np.cumsum([0, *parts]), x.shape[axis]).tolist()
    return [b.slice(x, axis, start, stop) for start, stop in pairwise(ends)]


@rule("Pad")
def _(b: Builder, a: Attributes, x: Symbol, pads: Any, filling: Any = None, axes: Any = None) -> Symbol:
    rank, widths = len(x.shape), whole_numbers(pads)
    along = list(range(rank)) if axes is None else [axis % rank for axis in whole_numbers(axes)]
    before, after = dict(zip(along, widths, strict=False)), dict(zip(along, widths[len(along) :], strict=True))
    moved = {axis for axis in along if before[axis] or after[axis]}
    if moved == {1, 2} and rank == 4:  # height and width of an image whose channels are last
        back = {2: before.get(1, 0), 3: before.get(2, 0)}, {2: after.get(1, 0), 3: after.get(2, 0)}
        turned = _padded(b, b.permute(x, (0, 3, 1, 2)), *back, a, filling)
        return b.permute(turned, (0, 2, 3, 1))
    if moved - set(range(2, rank)):
        raise Unsupported("padding of channels")
    return _padded(b, x, before, after, a, filling)


def _padded(
    b: Builder, x: Symbol, before: dict[int, int], after: dict[int, int], a: Attributes, filling: Any
) -> Symbol:
    if a.get("mode", b"constant") != b"constant":
        raise Unsupported("padding by reflection or repetition")
    last, tall = len(x.shape) - 1, len(x.shape) - 2 if len(x.shape) == 4 else -1
    edges = (before.get(tall, 0), after.get(tall, 0), before.get(last, 0), after.get(last, 0))
    return b.pad(x, edges, number(filling))


@rule("Reshape", takes="any")
def _(b: Builder, a: Attributes, x: Symbol, shape: Any) -> Symbol:
    wanted = whole_numbers(shape)
    if not a.get("allowzero", 0):
        wanted = [x.shape[at] if length == 0 else length for at, length in enumerate(wanted)]
    rest = prod(x.shape) // max(1, prod(length for length in wanted if length != -1))
    return b.reshape(x, tuple(rest if length == -1 else length for length in wanted))


@rule("Flatten", takes="any")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    axis = a.get("axis", 1)
    axis += len(x.shape) if axis < 0 else 0
    return b.reshape(x, (prod(x.shape[:axis]), prod(x.shape[axis:])))


@rule("Squeeze", takes="any")
def _(b: Builder, a: Attributes, x: Symbol, axes: Any = None) -> Symbol:
    rank = len(x.shape)
    chosen = range(1, rank) if axes is None else [axis % rank for axis in whole_numbers(axes)]
    return b.reshape(x, tuple(length for at, length in enumerate(x.shape) if at not in chosen or length != 1))


@rule("Unsqueeze", takes="any")
def _(b: Builder, a: Attributes, x: Symbol, axes: Any) -> Symbol:
    chosen = whole_numbers(axes)
    shape, rank = list(x.shape), len(x.shape) + len(chosen)
    for axis in sorted(one % rank for one in chosen):
        shape.insert(axis, 1)
    return b.reshape(x, tuple(shape))


@rule("Transpose", takes="any")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    order = a.get("perm", range(len(x.shape))[::-1])
    if sorted(order) != list(range(len(x.shape))):
        raise Unsupported("a transposition of axes that are not there")
    return b.permute(x, tuple(order))


@rule("Tile", takes="any")
def _(b: Builder, a: Attributes, x: Symbol, times: Any) -> Symbol:
    for axis, count in enumerate(whole_numbers(times)):
        x = b.tile(x, axis, count)
    return x


@rule("Expand", takes="any")
def _(b: Builder, a: Attributes, x: Symbol, shape: Any) -> Symbol:
    return b.expand(x, tuple(whole_numbers(shape)))


@rule("Resize", takes="any")
def _(b: Builder, a: Attributes, x: Symbol, roi: Any = None, scales: Any = None, sizes: Any = None) -> Symbol:
    if a.get("antialias", 0) or "axes" in a:
        raise Unsupported("resizing with antialiasing, or along chosen axes")
    if a.get("keep_aspect_ratio_policy", b"stretch") != b"stretch":
        raise Unsupported("resizing that keeps the aspect ratio")
    wanted = whole_numbers(sizes) if sizes is not None else _scaled(x, scales)
    mode = a.get("mode", b"nearest").decode()
    place = a.get("coordinate_transformation_mode", b"half_pixel").decode()
    if mode == "nearest":
        times = [new // old for new, old in zip(wanted, x.shape, strict=True)]
        if [old * by for old, by in zip(x.shape, times, strict=True)] != wanted:
            raise Unsupported("nearest resizing by something else than a whole number")
        _require_repeating(a, place, *times)
        if len(times) == 4 and times[:2] == [1, 1]:
            return b.nearest(x, (wanted[2], wanted[3]))
        return b.repeat(x, tuple(times))
    if len(x.shape) != 4 or tuple(wanted[:2]) != x.shape[:2]:
        raise Unsupported(f"{mode} resizing of something else than height and width")
    if mode != "linear" or place not in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        raise Unsupported(f"{mode} resizing by {place}")
    shrunk = any(new == 1 != old for new, old in zip(wanted[2:], x.shape[2:], strict=True))
    if shrunk and place == "pytorch_half_pixel":
        raise Unsupported("resizing to one pixel by pytorch_half_pixel")
    return b.bilinear(x, (wanted[2], wanted[3]), place == "align_corners")


def _scaled(x: Symbol, scales: Any) -> list[int]:
    if scales is None or isinstance(scales, Symbol):
        raise Unsupported("resizing by a computed factor")
    made = [length * scale for length, scale in zip(x.shape, np.asarray(scales, np.float64).tolist(), strict=True)]
    if not all(float(one).is_integer() for one in made):  # onnx samples by the factor, not by the ratio of the sizes
        raise Unsupported(f"resizing of {list(x.shape)} to {made}, which are no whole numbers")
    return [int(one) for one in made]


def _require_repeating(a: Attributes, place: str, *times: int) -> None:
    """Nearest resizing is a repetition where rounding never reaches the next element."""
    rounding = a.get("nearest_mode", b"round_prefer_floor").decode()
    cells = place == "tf_half_pixel_for_nn" and rounding == "floor"  # TensorFlow's, which later opsets do not name
    halves = place in ("half_pixel", "pytorch_half_pixel") and rounding.startswith("round")
    corner = place == "asymmetric" and (rounding == "floor" or (rounding == "round_prefer_floor" and max(times) <= 2))
    if not halves and not corner and not cells:
        raise Unsupported(f"nearest resizing by {place} and {rounding}")
