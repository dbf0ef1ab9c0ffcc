"""A float graph to a program of ring operations: one rule for each kind of node.

What is compared is cut first (20 bits are compared, 40 would cost twice as much); what is convolved is opened first,
once for all its readers; branches are added exactly, before the one cut.
"""

from functools import singledispatch
from math import gcd, log2, prod
from typing import Final

import numpy as np

from primum.compiler import graph as floating
from primum.compiler.curves import CURVES, SLOPE_FRACTION, SQUARE_FRACTION
from primum.compiler.emitter import Emitter, Unfit, element_weights
from primum.compiler.graph import Array, Graph
from primum.compiler.precision import COMPARED_BITS, Precision, compared_magnitude
from primum.mpc.program import (
    LEAST_COMPARED_BITS,
    Add,
    Bias,
    Concatenate,
    Convolution,
    Extend,
    Flatten,
    Interpolate,
    MaxPool,
    Multiply,
    Open,
    Pad,
    Program,
    Relu,
    Repeat,
    Reshape,
    Sign,
    Slice,
    SumPool,
    Transpose,
    Wire,
)
from primum.ring import Ring

LEAST_WEIGHT_FRACTION: Final = 8
FACTOR_FRACTION: Final = 16
LEAST_FACTOR_FRACTION: Final = 10
BILINEAR_FRACTION: Final = 10
LEAST_COMPARED_FRACTION: Final = 5
LEAST_CURVE_FRACTION: Final = 8
_AXES: Final = (2, 0, 1)
"""Channels, height, width as axes of [height, width, channels]."""


def lower(graph: Graph, precision: Precision) -> tuple[Program, tuple[tuple[Array, Array], ...]]:
    """The program of `graph`, and weight [kh, kw, channels / groups, outputs] and bias of each layer of it that has weights.

    Raises Unfit, naming the layer, where a range leaves too few fractional bits in the ring of `precision`.
    """
    emitter = Emitter(graph, precision, graph.shapes)
    emitter.found[graph.input] = emitter.result(graph.input, precision.settled[graph.input])
    for node in graph.nodes:
        emitter.found[node.name] = rule(node, emitter)
    return emitter.finish(emitter.full(graph.output))


@singledispatch
def rule(node: floating.Node, e: Emitter) -> Wire:
    """Write the operations of `node`; the wire of its value."""
    raise TypeError(f"no rule to lower {type(node).__name__}")


@rule.register
def _(node: floating.Convolution, e: Emitter) -> Wire:
    source = e.open(node.sources[0])
    target = e.result(node.name, e.precision.most[node.name])
    fraction = target.fraction - source.fraction
    if fraction < LEAST_WEIGHT_FRACTION:
        raise e.unfit(node.name, target.magnitude)
    e.weights[target.name] = element_weights(node.weight, node.bias)
    kernel = (node.weight.shape[2], node.weight.shape[3])
    geometry = (kernel, node.stride, node.padding, node.dilation, node.groups)
    return e.emit(Convolution(target.name, source.name, target.name, fraction, *geometry))


@rule.register
def _(node: floating.Affine, e: Emitter) -> Wire:
    if node.public:
        return scaled(node.name, e, node.sources[0], float(node.scale[0]), float(node.shift[0]))
    channels = node.scale.size
    weight = node.scale.reshape(channels, 1, 1, 1)
    return rule(floating.Convolution(node.name, node.sources, weight, node.shift, groups=channels), e)


def scaled(name: str, e: Emitter, source: str, factor: float, shift: float = 0.0) -> Wire:
    """The value `name` = factor source + shift, with public numbers: exact where the factor is 1, -1, 2, 4, ..."""
    whole = factor == round(factor) and abs(factor) <= 1 << LEAST_FACTOR_FRACTION
    wire = roomy(e, source, name, 0 if whole else LEAST_FACTOR_FRACTION)
    more = 0 if whole else min(FACTOR_FRACTION, e.precision.most[name] - wire.fraction)
    target = e.result(name, wire.fraction + more)
    constant = round(shift * 2.0**target.fraction)
    return e.emit(Add(target.name, (wire.name,), target.name, (round(factor * 2.0**more),), constant))


def roomy(e: Emitter, source: str, name: str, more: int) -> Wire:
    """`source` in the full ring, with so few fractional bits that the value `name` may have `more`."""
    wire = e.full(source)
    if wire.fraction + more > e.precision.most[name]:
        wire = e.settle(source)
    if wire.fraction + more > e.precision.most[name]:
        raise e.unfit(name, e.magnitude(name))
    return wire


def compared_fraction(node: floating.Node, e: Emitter) -> int:
    """Fractional bits of what `node` compares."""
    fraction = e.precision.settled[node.name]
    if fraction < LEAST_COMPARED_FRACTION:
        raise e.unfit(node.sources[0], e.magnitude(node.sources[0]))
    return fraction


def ring_for(magnitude: int, fraction: int, spare: int = 0) -> int:
    """Bits of the small ring that holds such values, and `spare` more."""
    return max(LEAST_COMPARED_BITS, 1 + magnitude + fraction + spare)


def rectified(e: Emitter, wire: Wire, name: str, magnitude: int) -> Wire:
    """max(wire, 0) in the full ring."""
    height, width, channels = wire.shape
    target = e.wire(name, (channels, height, width), e.bits, wire.fraction, magnitude)
    return e.emit(Relu(target.name, wire.name, target.name))


@rule.register
def _(node: floating.Rectify, e: Emitter) -> Wire:
    fraction = compared_fraction(node, e)
    short = e.narrow(node.sources[0], ring_for(e.magnitude(node.sources[0]), fraction), fraction)
    return rectified(e, short, node.name, e.magnitude(node.name))


@rule.register
def _(node: floating.Clip, e: Emitter) -> Wire:
    """relu(x - low) - relu(x - high) + low."""
    fraction, magnitude = compared_fraction(node, e), compared_magnitude(node, e.precision.magnitude)
    short = e.narrow(node.sources[0], ring_for(magnitude, fraction), fraction)
    if node.factors is not None:
        return clipped_by_channel(node, e, short, magnitude)
    above = rectified_above(e, short, node.name, (node.low, node.high), magnitude)
    target = e.result(node.name, fraction)
    low = round(node.low * 2.0**fraction)
    return e.emit(Add(target.name, tuple(one.name for one in above), target.name, (1, -1), low))


def clipped_by_channel(node: floating.Clip, e: Emitter, short: Wire, magnitude: int) -> Wire:
    """The same with secret bounds; what is beyond all values may be as well at their end."""
    most = 2.0 ** e.magnitude(node.sources[0])
    low, high = (np.clip(bound, -most, most) for bound in node.bounds)
    parts = [biased(e, short, f"{node.name}.{name}", -bound) for name, bound in (("low", low), ("high", high))]
    above = rectified_together(e, parts, node.name, magnitude)
    target = e.result(node.name, short.fraction)
    made = e.emit(Add(target.name, tuple(one.name for one in above), target.name, (1, -1)))
    return biased(e, made, f"{node.name}.lifted", low)


def biased(e: Emitter, wire: Wire, name: str, bias: Array) -> Wire:
    """wire + bias, one secret number for each channel, in the same ring."""
    if not bias.any():
        return wire
    target = e.like(wire, name, wire.bits, wire.fraction)
    e.weights[target.name] = (np.zeros((1, 1, 0, bias.size)), bias)
    return e.emit(Bias(target.name, wire.name, target.name))


@rule.register
def _(node: floating.Curve, e: Emitter) -> Wire:
    """constant + sum of a_j r_j^2 + b_j r_j, r_j = relu(x - c_j): one ReLU, one opening and one product for all j."""
    curve, magnitude = CURVES[node.kind], compared_magnitude(node, e.precision.magnitude)
    fraction = min(COMPARED_BITS - magnitude, (e.precision.most[node.name] - SQUARE_FRACTION) // 2)
    if fraction < LEAST_CURVE_FRACTION:
        raise e.unfit(node.name, magnitude)
    short = e.narrow(node.sources[0], ring_for(magnitude, fraction), fraction)
    above = rectified_above(e, short, node.name, curve.knots, magnitude)
    squares = squared(e, above, node.name)
    target = e.result(node.name, 2 * fraction + SQUARE_FRACTION)
    align = target.fraction - fraction - SLOPE_FRACTION
    terms = [
        *zip(curve.squares, squares, strict=True),
        *((b << align, r) for b, r in zip(curve.slopes, above, strict=True)),
    ]
    names, factors = zip(*((wire.name, factor) for factor, wire in terms if factor), strict=True)
    constant = round(curve.constant * 2.0**target.fraction)
    return e.emit(Add(target.name, names, target.name, factors, constant))


def squared(e: Emitter, parts: list[Wire], name: str) -> list[Wire]:
    """The squares of what `rectified_above` made."""
    height, width, channels = parts[0].shape
    whole = e.wires[f"{name}.above"]
    opened = e.like(whole, f"{name}.open", e.bits, whole.fraction)
    e.emit(Open(opened.name, whole.name, opened.name))
    shape = (channels * len(parts), height, width)
    product = e.wire(f"{name}.squares", shape, e.bits, 2 * whole.fraction, 2 * whole.magnitude)
    e.emit(Multiply(product.name, opened.name, opened.name, product.name))
    return [part_of(e, product, f"{name}.square{at}", at * channels, channels) for at in range(len(parts))]


@rule.register
def _(node: floating.Winner, e: Emitter) -> Wire:
    """The largest of all channels by halving, then whose difference to it is not negative."""
    source, magnitude = node.sources[0], e.magnitude(node.sources[0])
    classes, height, width = e.shapes[source]
    fraction = COMPARED_BITS - magnitude
    short = e.narrow(source, ring_for(magnitude, fraction, 1), fraction)
    flat = e.wire(f"{node.name}.flat", (1, classes, height * width), short.bits, fraction, magnitude)
    e.emit(Reshape(flat.name, short.name, flat.name))
    top = e.wire(f"{node.name}.top", (1, 1, height * width), short.bits, fraction, magnitude)
    e.emit(MaxPool(top.name, flat.name, top.name, (classes, 1), (1, 1)))
    best = e.wire(f"{node.name}.best", (1, height, width), short.bits, fraction, magnitude)
    e.emit(Reshape(best.name, top.name, best.name))
    behind = e.wire(f"{node.name}.behind", e.shapes[source], short.bits, fraction, magnitude + 1)
    e.emit(Add(behind.name, (short.name, best.name), behind.name, (1, -1)))
    target = e.result(node.name, 0)
    return e.emit(Sign(target.name, behind.name, target.name))


def rectified_above(e: Emitter, wire: Wire, name: str, knots: tuple[float, ...], magnitude: int) -> list[Wire]:
    """max(wire - knot, 0) in the full ring for every knot."""
    return rectified_together(e, [moved(e, wire, -knot) for knot in knots], name, magnitude)


def rectified_together(e: Emitter, wires: list[Wire], name: str, magnitude: int) -> list[Wire]:
    """max(wire, 0) in the full ring for wires of one shape: side by side, so that all take the rounds of one."""
    height, width, channels = wires[0].shape
    shape = (channels * len(wires), height, width)
    joined = e.wire(f"{name}.joined", shape, wires[0].bits, wires[0].fraction, magnitude)
    e.emit(Concatenate(joined.name, tuple(wire.name for wire in wires), joined.name, 2))
    whole = rectified(e, joined, f"{name}.above", magnitude)
    return [part_of(e, whole, f"{name}.above{at}", at * channels, channels) for at in range(len(wires))]


def part_of(e: Emitter, wire: Wire, name: str, first: int, channels: int) -> Wire:
    """Some channels of a wire."""
    height, width, _ = wire.shape
    target = e.wire(name, (channels, height, width), wire.bits, wire.fraction, wire.magnitude)
    return e.emit(Slice(target.name, wire.name, target.name, (0, 0, first)))


def moved(e: Emitter, wire: Wire, shift: float) -> Wire:
    """wire + shift in the same ring."""
    constant = round(shift * 2.0**wire.fraction)
    if not constant:
        return wire
    target = e.like(wire, f"{wire.name}.moved", wire.bits, wire.fraction)
    return e.emit(Add(target.name, (wire.name,), target.name, (1,), constant))


@rule.register
def _(node: floating.Leaky, e: Emitter) -> Wire:
    """slope x + (1 - slope) relu(x)."""
    fraction, most = compared_fraction(node, e), e.precision.most[node.name]
    short = e.narrow(node.sources[0], ring_for(e.magnitude(node.sources[0]), fraction, 1), fraction)
    positive = rectified(e, short, f"{node.name}.positive", short.magnitude)
    whole = e.like(short, f"{node.name}.extended", e.bits, fraction)
    e.emit(Extend(whole.name, short.name, whole.name))
    more = min(FACTOR_FRACTION, most - fraction)
    if more < LEAST_FACTOR_FRACTION:
        raise e.unfit(node.name, short.magnitude)
    slope, target = round(node.slope * 2.0**more), e.result(node.name, fraction + more)
    return e.emit(Add(target.name, (whole.name, positive.name), target.name, (slope, (1 << more) - slope)))


@rule.register
def _(node: floating.MaxPool, e: Emitter) -> Wire:
    """In the small ring; a ReLU goes on from there. Where padding must not count as 0, all is lifted above 0 first."""
    fraction, magnitude = compared_fraction(node, e), compared_magnitude(node, e.precision.magnitude)
    short = e.narrow(node.sources[0], ring_for(magnitude, fraction, 1), fraction)
    lift = 2.0 ** (magnitude - 1) if node.lifted else 0.0
    raised = moved(e, short, lift)
    target = e.result(node.name, raised.fraction, raised.bits)
    pooled = e.emit(MaxPool(target.name, raised.name, target.name, node.kernel, node.stride, node.padding))
    return moved(e, pooled, -lift)


@rule.register
def _(node: floating.SumPool, e: Emitter) -> Wire:
    return summed(node, e, e.full(node.sources[0]), node.name, 0)


def summed(node: floating.Window, e: Emitter, wire: Wire, name: str, more: int) -> Wire:
    """The sum of each window, `more` bits larger than the node's value."""
    target = e.wire(name, e.shapes[node.name], e.bits, wire.fraction, e.magnitude(node.name) + more)
    return e.emit(SumPool(target.name, wire.name, target.name, node.kernel, node.stride, node.padding))


@rule.register
def _(node: floating.AveragePool, e: Emitter) -> Wire:
    size = prod(node.kernel)
    if not size & (size - 1):
        more = size.bit_length() - 1
        total = summed(node, e, roomy(e, node.sources[0], node.name, more), f"{node.name}.sum", more)
        target = e.result(node.name, total.fraction + more)
        return e.emit(Add(target.name, (total.name,), target.name, (1,)))
    wire = roomy(e, node.sources[0], node.name, LEAST_FACTOR_FRACTION)
    total = summed(node, e, wire, f"{node.name}.sum", size.bit_length())
    more = min(FACTOR_FRACTION + size.bit_length(), e.precision.most[node.name] - wire.fraction)
    target = e.result(node.name, wire.fraction + more)
    return e.emit(Add(target.name, (total.name,), target.name, (round(2.0**more / size),)))


@rule.register
def _(node: floating.Sum, e: Emitter) -> Wire:
    wires = [roomy(e, source, node.name, 0) for source in node.sources]
    target = e.result(node.name, max(wire.fraction for wire in wires))
    factors = (f << target.fraction - wire.fraction for f, wire in zip(node.factors, wires, strict=True))
    return e.emit(Add(target.name, tuple(wire.name for wire in wires), target.name, tuple(factors)))


@rule.register
def _(node: floating.Multiply, e: Emitter) -> Wire:
    left, right = (e.open(source) for source in node.sources)
    target = e.result(node.name, left.fraction + right.fraction)
    if target.fraction > e.bits - 2 - target.magnitude:
        raise e.unfit(node.name, target.magnitude)
    return e.emit(Multiply(target.name, left.name, right.name, target.name))


@rule.register
def _(node: floating.Concatenate, e: Emitter) -> Wire:
    wires = [roomy(e, source, node.name, 0) for source in node.sources]
    fraction = max(wire.fraction for wire in wires)
    parts = tuple(e.aligned(wire, fraction).name for wire in wires)
    target = e.result(node.name, fraction)
    return e.emit(Concatenate(target.name, parts, target.name, _AXES[node.axis]))


@rule.register
def _(node: floating.Slice, e: Emitter) -> Wire:
    wire = e.full(node.sources[0])
    target = e.result(node.name, wire.fraction)
    start, step = ((three[1], three[2], three[0]) for three in (node.start, node.step))
    return e.emit(Slice(target.name, wire.name, target.name, start, step))


@rule.register
def _(node: floating.Pad, e: Emitter) -> Wire:
    wire = e.full(node.sources[0])
    target = e.result(node.name, wire.fraction)
    return e.emit(Pad(target.name, wire.name, target.name, node.edges, node.gaps))


@rule.register
def _(node: floating.Reshape, e: Emitter) -> Wire:
    wire = e.full(node.sources[0])
    kind = Flatten if node.shape[1:] == (1, 1) else Reshape
    target = e.result(node.name, wire.fraction)
    return e.emit(kind(target.name, wire.name, target.name))


@rule.register
def _(node: floating.Permute, e: Emitter) -> Wire:
    wire = e.full(node.sources[0])
    target = e.result(node.name, wire.fraction)
    one, two, three = (_AXES[node.axes[place]] for place in (1, 2, 0))
    return e.emit(Transpose(target.name, wire.name, target.name, (one, two, three)))


@rule.register
def _(node: floating.Repeat, e: Emitter) -> Wire:
    wire = e.full(node.sources[0])
    target = e.result(node.name, wire.fraction)
    return e.emit(Repeat(target.name, wire.name, target.name, node.times))


@rule.register
def _(node: floating.Interpolate, e: Emitter) -> Wire:
    before, after = e.shapes[node.sources[0]][1:], node.size
    bits = min(
        BILINEAR_FRACTION, max(bilinear_bits(a, b, node.align_corners) for a, b in zip(before, after, strict=True))
    )
    wire = roomy(e, node.sources[0], node.name, 2 * bits)
    target = e.result(node.name, wire.fraction + 2 * bits)
    return e.emit(Interpolate(target.name, wire.name, target.name, bits, node.align_corners))


def bilinear_bits(before: int, after: int, align_corners: bool) -> int:
    """Fractional bits that the weights of one axis need to be exact, or BILINEAR_FRACTION where none suffice."""
    whole = max(1, after - 1) if align_corners else 2 * after
    rest = whole // (gcd(whole, before - 1) if align_corners else gcd(whole, 2 * before, before - after))
    return int(log2(rest)) if not rest & (rest - 1) else BILINEAR_FRACTION


def flat_weights(program: Program, weights: tuple[tuple[Array, Array], ...]) -> Ring:
    """All weights and biases as ring elements, flat, in the program's order: W in units of 2^-fraction, b of 2^-target's."""
    parts: list[Array] = []
    for step, (weight, bias) in zip(program.weighted, weights, strict=True):
        fraction = step.fraction if isinstance(step, Convolution) else 0
        parts += [np.ldexp(weight, fraction).ravel(), np.ldexp(bias, program.wire(step.target).fraction)]
    whole = np.rint(np.concatenate(parts)) if parts else np.zeros(0)
    if whole.size and np.abs(whole).max() >= 2.0**63:
        raise Unfit("a weight does not fit into 64 bits.", "Train with smaller weights, or normalise its layer.")
    return whole.astype(np.int64).view(np.uint64) & np.uint64((1 << program.bits) - 1)
