"""What is computed: a list of ring operations with shapes, rings and ranges. The same list drives dealer, A and B.

A program is public: architecture, rings, and ranges as powers of two; it says nothing else about weights. Values are
tensors [height, width, channels] (channels last; a vector is [1, 1, length]), one per image. Where a value lives:

| form | who has what | made by |
|---|---|---|
| shared in Z_2^bits | A and B one share each | input, Convolution, Bias, Cut, Relu, Sign, Extend, MaxPool, Multiply |
| opened in Z_2^bits | A and B both x^ = x + r, each its share of r | Open |

Operations on public positions (Add to Interpolate) keep the form of their source. `Convolution` and `Multiply` take
opened values; `Cut`, `Relu`, `Sign`, `Extend` and `MaxPool` take shared ones, and an opened value counts as shared.
"""

import hashlib
import math
from typing import Final

from primum.wire import Message, encode

Shape = tuple[int, int, int]
Pair = tuple[int, int]
Edges = tuple[int, int, int, int]
"""Top, bottom, left, right."""

MOST_COMPARED_BITS: Final = 21
LEAST_COMPARED_BITS: Final = 5


class Wire(Message, frozen=True):
    """A value: its shape, its ring Z_2^bits, its fractional bits, and the power of two that it stays below."""

    name: str
    shape: Shape
    bits: int
    fraction: int
    magnitude: int

    @property
    def size(self) -> int:
        """Ring elements an image."""
        return math.prod(self.shape)


class Open(Message, frozen=True):
    """target = source, opened under a fresh mask. One round."""

    name: str
    source: str
    target: str


class Convolution(Message, frozen=True):
    """target = W * source + b; W [kernel height, kernel width, channels / groups, outputs] with `fraction` fractional bits.

    `source` is opened; a linear layer has a kernel (1, 1) on a [1, 1, n]. b has the fraction of the target, which is
    the sum of the source's and of W's. No round.
    """

    name: str
    source: str
    target: str
    fraction: int
    kernel: Pair
    stride: Pair = (1, 1)
    padding: Edges = (0, 0, 0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1


class Bias(Message, frozen=True):
    """target = source + b, one weight for each channel, in units of 2^-target.fraction; in any ring up to the program's.

    The lowest bits of a share of b are a share of its lowest bits. Local.
    """

    name: str
    source: str
    target: str


class Cut(Message, frozen=True):
    """target = source / 2^c in a smaller ring, c the difference of their fractions; rounded up or down at random.

    Right while |source| < 2^(target.bits - 1 + c) - 2^c. Local.
    """

    name: str
    source: str
    target: str


class Relu(Message, frozen=True):
    """target = max(source, 0): from Z_2^t, t from 5 to 21, to the ring of the target. Three rounds."""

    name: str
    source: str
    target: str


class Sign(Message, frozen=True):
    """target = 1 where source >= 0, else 0 (fraction 0): from Z_2^t to the ring of the target. Three rounds."""

    name: str
    source: str
    target: str


class Extend(Message, frozen=True):
    """target = source, from Z_2^t to the larger ring of the target; right while |source| < 2^(t - 2). One round."""

    name: str
    source: str
    target: str


class MaxPool(Message, frozen=True):
    """target = the largest source in each window, in the same ring Z_2^m, m from 5 to 21; right while |source| < 2^(m - 2).

    Padding counts as 0: a ReLU follows, or the source is never negative. Three rounds for each halving of a window's
    width, then of its height.
    """

    name: str
    source: str
    target: str
    kernel: Pair
    stride: Pair
    padding: Edges = (0, 0, 0, 0)


class Multiply(Message, frozen=True):
    """target = left right, element by element (a size of 1 is repeated); both opened. No round."""

    name: str
    left: str
    right: str
    target: str


class Add(Message, frozen=True):
    """target = sum of factor_i source_i + constant, in the ring of the target; factors are public integers.

    Every source has the target's ring or a larger one, and target.fraction = source_i.fraction + log2 |factor_i| where
    that is meant; a size of 1 is repeated. `constant` is in units of 2^-target.fraction. The result is shared. Local.
    """

    name: str
    sources: tuple[str, ...]
    target: str
    factors: tuple[int, ...]
    constant: int = 0


class Scale(Message, frozen=True):
    """target = factor_c source, one public integer per channel (fraction of the target: source's + `fraction`). Local."""

    name: str
    source: str
    target: str
    factors: tuple[int, ...]
    fraction: int


class SumPool(Message, frozen=True):
    """target = the sum of each window; padding counts as 0. Local."""

    name: str
    source: str
    target: str
    kernel: Pair
    stride: Pair
    padding: Edges = (0, 0, 0, 0)


class Flatten(Message, frozen=True):
    """[h, w, c] to [1, 1, c h w], channels outermost, as PyTorch and ONNX flatten. Local."""

    name: str
    source: str
    target: str


class Reshape(Message, frozen=True):
    """Channels outermost, as Flatten, then read as another [h, w, c] in the same order. Local."""

    name: str
    source: str
    target: str


class Transpose(Message, frozen=True):
    """The axes of [h, w, c] in another order: the target's axis i is the source's axis `axes`[i]. Local."""

    name: str
    source: str
    target: str
    axes: Shape


class Concatenate(Message, frozen=True):
    """Sources side by side along `axis` (0 height, 1 width, 2 channels); all shared or all opened. Local."""

    name: str
    sources: tuple[str, ...]
    target: str
    axis: int


class Slice(Message, frozen=True):
    """Every step-th element from start on, as many as the target has, along each of the three axes. Local."""

    name: str
    source: str
    target: str
    start: Shape
    step: Shape = (1, 1, 1)


class Pad(Message, frozen=True):
    """Zeros around height and width, `before` to `after`; and `gaps` zeros between neighbours first. Local."""

    name: str
    source: str
    target: str
    padding: Edges
    gaps: Pair = (0, 0)


class Repeat(Message, frozen=True):
    """Nearest upsampling: every element `times` as often in height and width. Local."""

    name: str
    source: str
    target: str
    times: Pair


class Interpolate(Message, frozen=True):
    """Bilinear resizing to the target's height and width; weights have `fraction` bits for each axis. Local.

    The target's fraction is the source's and twice `fraction`.
    """

    name: str
    source: str
    target: str
    fraction: int
    align_corners: bool = False


Operation = (
    Open
    | Convolution
    | Bias
    | Cut
    | Relu
    | Sign
    | Extend
    | MaxPool
    | Multiply
    | Add
    | Scale
    | SumPool
    | Flatten
    | Reshape
    | Transpose
    | Concatenate
    | Slice
    | Pad
    | Repeat
    | Interpolate
)


class Program(Message, frozen=True):
    """Operations in order, from the shared wire `input` to the wire `output`.

    `bits`: the ring Z_2^l of inputs and convolutions. `answer_fraction`: the fractional bits that an answer keeps; the
    rest is cut by the servers.
    """

    bits: int
    wires: tuple[Wire, ...]
    operations: tuple[Operation, ...]
    input: str
    output: str
    answer_fraction: int

    def wire(self, name: str) -> Wire:
        """The wire called `name`."""
        return next(wire for wire in self.wires if wire.name == name)

    def digest(self) -> bytes:
        """32 bytes that name this program; part of every stream's label and of every handshake."""
        return hashlib.sha256(b"primum program\0" + encode(self)).digest()

    @property
    def weighted(self) -> tuple[Convolution | Bias, ...]:
        """The operations that have weights, in order."""
        return tuple(step for step in self.operations if isinstance(step, Convolution | Bias))

    @property
    def cut(self) -> int:
        """Fractional bits that the servers remove from an answer."""
        return self.wire(self.output).fraction - self.answer_fraction

    @property
    def answer_bits(self) -> int:
        """Bits of the ring that answers are shared in."""
        return self.wire(self.output).bits - self.cut


def sources(step: Operation) -> tuple[str, ...]:
    """The wires that an operation reads."""
    if isinstance(step, Multiply):
        return (step.left, step.right)
    return step.sources if isinstance(step, Add | Concatenate) else (step.source,)


def weight_shape(program: Program, step: Convolution | Bias) -> tuple[int, int, int, int]:
    """[kernel height, kernel width, channels / groups, outputs]; a bias stands alone, with a kernel that reads nothing."""
    if isinstance(step, Bias):
        return (1, 1, 0, program.wire(step.target).shape[2])
    channels = program.wire(step.source).shape[2] // step.groups
    return (*step.kernel, channels, program.wire(step.target).shape[2])


def weight_size(program: Program) -> int:
    """Ring elements of all weights and biases."""
    shapes = (weight_shape(program, step) for step in program.weighted)
    return sum(math.prod(shape) + shape[3] for shape in shapes)
