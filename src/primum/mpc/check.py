"""Is a program one that can be run: shapes, rings and fractions fit together, sizes fit memory. And what it costs.

An element of the source, from Z_2^20 to Z_2^40 where there are two rings (a max in Z_2^21, in rounds a level):

| operation | rounds | bits each way | bits dealt to B |
|---|---|---|---|
| Open | 1 | 40 | 0 |
| Convolution, of an output | 0 | 0 | 40 |
| Multiply | 0 | 0 | 40 |
| Bias | 0 | 0 | 0 |
| Cut | 0 | 0 | 0 |
| Relu | 3 | 28 | 288 |
| Sign | 3 | 28 | 168 |
| Extend | 1 | 20 | 60 |
| MaxPool, of a pair | 3 | 29 | 186 |
| Add to Interpolate | 0 | 0 | 0 |

In Z_2^l and Z_2^t: Open l; Convolution and Multiply 0 and l; Relu t + 8 and tables + 5 l - 2 t; Sign t + 8 and
tables + l; Extend t and 2 l - t; MaxPool t + 8 and tables + 2 t a pair. Tables are four one-hot words of at least 8
bits (`kernels.comparison.digit_widths`) and 16 bits. A server draws its masks, and A all of its half, from streams:
they cost no traffic. Each message is rounded up to whole bytes.
"""

import math
from dataclasses import dataclass

from primum.errors import ModelError
from primum.kernels.words import packed_size
from primum.mpc.program import (
    LEAST_COMPARED_BITS,
    MOST_COMPARED_BITS,
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
    Pair,
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
    sources,
    weight_size,
)
from primum.mpc.rule import RULES, Parts, Wires

SMALLEST = 1 << 20  # a wire's magnitude, downwards: what is smaller than every double is not meant, nor can it be sent
LARGEST_WIRE = 1 << 26
LARGEST_WEIGHTS = 1 << 28
MOST_OPERATIONS = 1 << 12
MOVING = Flatten | Reshape | Transpose | Concatenate | Slice | Pad | Repeat


@dataclass(frozen=True)
class Cost:
    """What one request of several images takes. Bytes of payload; framing comes on top."""

    rounds: int
    sent_each_way: int
    dealt_to_b: int
    request_to_a: int = 32
    request_to_b: int = 0
    answer: int = 0


def step_cost(wires: Wires, step: Operation, images: int = 1) -> Cost:
    """Rounds, sent_each_way and dealt_to_b of one operation of the program whose wires these are."""
    found = RULES[type(step)]
    sent = found.sent(step, wires)
    return Cost(len(sent), _bytes(sent, images), _bytes(found.dealt(step, wires), images))


def cost(program: Program, images: int = 1) -> Cost:
    """Rounds and bytes of one request of `images` images; a test counts them."""
    wires = Wires(program)
    steps = [step_cost(wires, step, images) for step in program.operations]
    inputs, outputs = program.wire(program.input), program.wire(program.output)
    return Cost(
        rounds=sum(step.rounds for step in steps),
        sent_each_way=sum(step.sent_each_way for step in steps),
        dealt_to_b=sum(step.dealt_to_b for step in steps),
        request_to_b=packed_size(images * inputs.size, inputs.bits),
        answer=packed_size(images * outputs.size, program.answer_bits),
    )


def _bytes(parts: Parts, images: int) -> int:
    return sum(packed_size(images * count, bits) for count, bits in parts)


def check(program: Program) -> None:
    """ModelError that names the operation unless this release can run the program."""
    most = max(len(program.operations), len(program.wires) - 1)
    if most > MOST_OPERATIONS or not 8 <= program.bits <= 64:
        raise _wrong("The program", "it has too many operations or no ring of 8 to 64 bits")
    wires = Wires(program)
    if len(wires) != len(program.wires) or not {program.input, program.output} <= wires.keys():
        raise _wrong("The program", "two wires have one name, or an end is missing")
    if wires[program.input].bits != program.bits:
        raise _wrong("The program", "its input is not in its ring")
    for wire in program.wires:
        if (
            min(wire.shape) < 1
            or wire.size > LARGEST_WIRE
            or not 1 <= wire.bits <= 64
            or not -SMALLEST <= wire.magnitude <= 64
        ):
            raise _wrong(f"Wire `{wire.name}`", "its shape or its ring is out of bounds")
    known, opened = {program.input}, set[str]()
    for step in program.operations:
        _check_step(program, step, wires, known, opened)
    if weight_size(program) > LARGEST_WEIGHTS:
        raise _wrong("The program", "it has too many weights")
    if program.output not in known or not 0 <= program.cut < wires[program.output].bits:
        raise _wrong("The program", "its output is never computed, or the answer's fraction does not fit")
    if len({step.name for step in program.operations}) != len(program.operations):
        raise _wrong("The program", "two operations have one name")


def _check_step(program: Program, step: Operation, wires: Wires, known: set[str], opened: set[str]) -> None:
    where = f"Operation `{step.name}`"
    names = sources(step)
    if not names or not set(names) <= known or step.target not in wires or step.target in known:
        raise _wrong(where, "it reads a wire that is not there yet, or writes one twice")
    target, read = wires[step.target], [wires[name] for name in names]
    shape = _shape(step, read, target.shape)
    if shape is None or shape != target.shape:
        raise _wrong(where, f"its result has the shape {shape}, the program says {target.shape}")
    if not _rings_fit(program, step, read, target, opened.issuperset(names)):
        raise _wrong(where, "rings and fractions of its wires do not fit together")
    if any(count > LARGEST_WIRE for count, _ in RULES[type(step)].sent(step, wires)):
        raise _wrong(where, "it compares too many pairs")
    known.add(step.target)
    linear = isinstance(step, MOVING | Interpolate | SumPool | Scale)
    if isinstance(step, Open) or (linear and opened.issuperset(names)):
        opened.add(step.target)


def _rings_fit(program: Program, step: Operation, read: list[Wire], target: Wire, opened: bool) -> bool:
    first = read[0]
    same = all(wire.bits == target.bits for wire in read)
    compared = LEAST_COMPARED_BITS <= first.bits <= MOST_COMPARED_BITS
    match step:
        case Convolution():
            summed = target.fraction == first.fraction + step.fraction
            return opened and same and target.bits == program.bits and step.fraction >= 0 and summed
        case Multiply():
            return opened and same and target.fraction == read[0].fraction + read[1].fraction
        case Bias():
            return same and target.fraction == first.fraction and target.bits <= program.bits
        case Cut():
            shift = first.fraction - target.fraction
            return shift >= 0 and target.bits <= 32 and target.bits + shift <= first.bits
        case Relu() | Extend():
            fits = compared if isinstance(step, Relu) else 2 <= first.bits <= 32
            return fits and first.bits < target.bits and first.fraction == target.fraction
        case Sign():
            return compared and target.fraction == 0 and target.bits >= first.bits
        case MaxPool():
            return compared and same and first.fraction == target.fraction
        case Add():
            return len(step.factors) == len(read) and all(wire.bits >= target.bits for wire in read)
        case Scale():
            return same and target.fraction == first.fraction + step.fraction and 0 <= step.fraction < 64
        case Interpolate():
            return same and target.fraction == first.fraction + 2 * step.fraction and 0 <= step.fraction < 32
        case _:
            return same and all(wire.fraction == target.fraction for wire in read)


def _windows(size: Shape, kernel: Pair, stride: Pair, edges: tuple[int, ...], dilation: Pair = (1, 1)) -> Pair | None:
    """Height and width after a sliding window; None for numbers that make no sense."""
    if min(*kernel, *stride, *dilation) < 1 or min(edges) < 0 or max(*kernel, *stride, *dilation, *edges) > 1 << 16:
        return None
    high = size[0] + edges[0] + edges[1] - dilation[0] * (kernel[0] - 1) - 1
    wide = size[1] + edges[2] + edges[3] - dilation[1] * (kernel[1] - 1) - 1
    padded = (size[0] + edges[0] + edges[1]) * (size[1] + edges[2] + edges[3]) * size[2]
    if min(high, wide) < 0 or padded > LARGEST_WIRE:
        return None
    return high // stride[0] + 1, wide // stride[1] + 1


def _convolved(step: Convolution, read: list[Wire], outputs: int) -> Shape | None:
    places = _windows(read[0].shape, step.kernel, step.stride, step.padding, step.dilation)
    fits = step.groups >= 1 and read[0].shape[2] % step.groups == 0 and outputs % step.groups == 0
    return (*places, outputs) if places and fits else None


def _pooled(step: MaxPool | SumPool, read: list[Wire]) -> Shape | None:
    places = _windows(read[0].shape, step.kernel, step.stride, step.padding)
    return (*places, read[0].shape[2]) if places else None


def _broadcast(read: list[Wire]) -> Shape | None:
    sizes = [{shape[axis] for shape in (wire.shape for wire in read)} - {1} for axis in range(3)]
    if any(len(found) > 1 for found in sizes):
        return None
    high, wide, channels = (next(iter(found), 1) for found in sizes)
    return high, wide, channels


def _concatenated(step: Concatenate, read: list[Wire]) -> Shape | None:
    if step.axis not in (0, 1, 2):
        return None
    rest = {tuple(size for axis, size in enumerate(wire.shape) if axis != step.axis) for wire in read}
    high, wide, channels = (
        sum(wire.shape[axis] for wire in read) if axis == step.axis else read[0].shape[axis] for axis in range(3)
    )
    return (high, wide, channels) if len(rest) == 1 else None


def _sliced(step: Slice, source: Wire, target: Shape) -> Shape | None:
    ends = (start + (count - 1) * by for start, by, count in zip(step.start, step.step, target, strict=True))
    inside = all(end < size for end, size in zip(ends, source.shape, strict=True))
    return target if inside and min(step.start) >= 0 and min(step.step) >= 1 else None


def _padded(step: Pad, source: Wire) -> Shape | None:
    if min(*step.padding, *step.gaps) < 0:
        return None
    (top, bottom, left, right), (high, wide, channels) = step.padding, source.shape
    rows, columns = (high - 1) * (step.gaps[0] + 1) + 1, (wide - 1) * (step.gaps[1] + 1) + 1
    return top + rows + bottom, left + columns + right, channels


def _shape(step: Operation, read: list[Wire], target: Shape) -> Shape | None:
    """What the operation makes of its sources' shapes; None where they do not fit."""
    first = read[0].shape
    match step:
        case Convolution():
            return _convolved(step, read, target[2])
        case MaxPool() | SumPool():
            return _pooled(step, read)
        case Multiply() | Add():
            return _broadcast(read)
        case Concatenate():
            return _concatenated(step, read)
        case Slice():
            return _sliced(step, read[0], target)
        case Pad():
            return _padded(step, read[0])
        case Repeat():
            return first[0] * step.times[0], first[1] * step.times[1], first[2]
        case Interpolate():
            halfway = target[0] * first[1] * first[2]
            return (target[0], target[1], first[2]) if halfway <= LARGEST_WIRE else None
        case Flatten():
            return 1, 1, read[0].size
        case Reshape():
            return target if math.prod(target) == read[0].size else None
        case Transpose():
            return _turned(step, first)
        case Scale():
            return first if len(step.factors) == first[2] else None
        case _:
            return first


def _turned(step: Transpose, shape: Shape) -> Shape | None:
    if sorted(step.axes) != [0, 1, 2]:
        return None
    one, two, three = (shape[axis] for axis in step.axes)
    return one, two, three


def _wrong(where: str, what: str) -> ModelError:
    return ModelError(
        f"{where}: {what}.", "Ask for the deployment file again, or use the release that it was made with."
    )


def material_sizes(program: Program, images: int) -> tuple[int, ...]:
    """Bytes of each of the dealer's messages for B, in order."""
    wires = Wires(program)
    parts = (part for step in program.operations for part in RULES[type(step)].dealt(step, wires))
    return tuple(packed_size(images * count, bits) for count, bits in parts)


def elements(program: Program) -> int:
    """Ring elements of all wires of one image: what memory a server needs, roughly times 8 bytes."""
    return sum(wire.size for wire in program.wires)
