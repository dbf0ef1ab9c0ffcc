"""What is computed: a list of ring operations with shapes, ranges and exact cost. The same list drives dealer, A and B.

A program is public: architecture, ring, and ranges as powers of two; it says nothing else about weights. A new kind
of operation (convolution, cut, sign) is a new message in `Operation`, with its own cost, and a rule in dealer and
party.

Precision of scattering + linear. Features have length at most 1, so |w x| <= |w| (Cauchy and Schwarz): interval
arithmetic is exact here, no image is needed for calibration. Rounding x to f_x and w to f_w bits changes a logit by
at most

    sqrt(d) |w| 2^-(f_x + 1)  +  sqrt(d) (1 + sqrt(d) 2^-(f_x + 1)) 2^-(f_w + 1)

and each of the two parts is held under `TOLERANCE` / 2 for every image and every weight of that length.
"""

import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.errors import ModelError
from primum.ring import packed_size
from primum.wire import Message, encode

TOLERANCE: Final = 0.002
SPARE_BITS: Final = 2
COARSE_FRACTION: Final = 8
RINGS: Final = (40, 48, 56, 64)
_LARGEST_DIMENSION: Final = 1 << 20
_LARGEST_OUTPUTS: Final = 1 << 10


class Wire(Message, frozen=True):
    """A value per image: its length, its fractional bits, and the power of two that it stays below."""

    name: str
    length: int
    fraction: int
    magnitude: int


class Linear(Message, frozen=True):
    """target = W source, W [target.length, source.length] with `fraction` fractional bits.

    Opens `source` (one round, source.length elements each way); deals target.length elements to B.
    """

    name: str
    source: str
    target: str
    fraction: int


Operation = Linear  # a union when there are more


class Program(Message, frozen=True):
    """Operations in order. `answer_fraction`: the fractional bits that an answer keeps; the rest is cut by the servers."""

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
    def layer(self) -> Linear:
        """The one linear layer of a scattering + linear program."""
        return self.operations[0]

    @property
    def cut(self) -> int:
        """Fractional bits that the servers remove from an answer."""
        return self.wire(self.output).fraction - self.answer_fraction

    @property
    def answer_bits(self) -> int:
        """Bits of the ring that answers are shared in."""
        return self.bits - self.cut


@dataclass(frozen=True)
class Cost:
    """What one request of several images takes. Bytes of payload; framing comes on top."""

    rounds: int
    sent_each_way: int
    dealt_to_b: int
    request_to_a: int
    request_to_b: int
    answer: int


def cost(program: Program, images: int) -> Cost:
    """Rounds and bytes of one request of `images` images; a test counts them."""
    opened = sum(packed_size(images * program.wire(step.source).length, program.bits) for step in program.operations)
    dealt = sum(packed_size(images * program.wire(step.target).length, program.bits) for step in program.operations)
    return Cost(
        rounds=len(program.operations),
        sent_each_way=opened,
        dealt_to_b=dealt,
        request_to_a=32,
        request_to_b=packed_size(images * program.wire(program.input).length, program.bits),
        answer=packed_size(images * program.wire(program.output).length, program.answer_bits),
    )


def linear_program(weight: npt.NDArray[np.floating], *, coarse: bool = False) -> Program:
    """The program of features (length at most 1) times `weight` [outputs, dimension].

    `coarse` cuts answers to 8 fractional bits: full-precision logits help to extract a model (Carlini et al. 2020).
    Ring and fractional bits follow from the dimension and the longest row of `weight`; a model whose range does not
    fit is a ModelError that names the layer.
    """
    outputs, dimension = weight.shape
    magnitude = _magnitude(weight)
    root = math.sqrt(dimension)
    f_x = _fraction(root * 2.0**magnitude)
    f_w = _fraction(root * (1 + root * 2.0 ** -(f_x + 1)))
    needed = 1 + SPARE_BITS + magnitude + f_x + f_w
    ring = next((bits for bits in RINGS if bits >= needed), None)
    if ring is None:
        raise ModelError(
            f"Layer `linear`: logits reach 2^{magnitude}, which needs a ring of {needed} bits; there are {RINGS[-1]}.",
            "Train with weight decay or fewer steps: such a model is certain of everything.",
        )
    wires = (Wire("features", dimension, f_x, 0), Wire("logits", outputs, f_x + f_w, magnitude))
    answer = min(COARSE_FRACTION, f_x + f_w) if coarse else f_x + f_w
    program = Program(ring, wires, (Linear("linear", "features", "logits", f_w),), "features", "logits", answer)
    check(program)
    return program


def _magnitude(weight: npt.NDArray[np.floating]) -> int:
    norms = np.linalg.norm(np.asarray(weight, np.float64), axis=1)
    if not np.isfinite(norms).all():
        raise ModelError("Layer `linear`: a weight is not a finite number.", "Train the model again.")
    return max(0, math.ceil(math.log2(max(float(norms.max()), 1.0))))


def _fraction(error_at_one: float) -> int:
    """The least f for which error_at_one * 2^-(f + 1) <= TOLERANCE / 2."""
    return math.ceil(math.log2(error_at_one / TOLERANCE))


def logit_error(program: Program) -> float:
    """How far a decrypted logit can be from the exact one, for every image and every weight of the program's range."""
    source = program.wire(program.layer.source)
    f_x, f_w, root = source.fraction, program.layer.fraction, math.sqrt(source.length)
    magnitude = program.wire(program.layer.target).magnitude
    features = root * 2.0 ** (magnitude - f_x - 1)
    weights = root * (1 + root * 2.0 ** -(f_x + 1)) * 2.0 ** -(f_w + 1)
    return features + weights + (2.0**-program.answer_fraction if program.cut else 0.0)


def check(program: Program) -> None:
    """ModelError unless the program is one that this release can run: shapes, ring and ranges fit together."""
    names = [wire.name for wire in program.wires]
    if not _known(program, names):
        raise ModelError(
            "The program is not a single linear layer.",
            "This release runs scattering + linear; get a release that knows the model.",
        )
    source, target = program.wire(program.input), program.wire(program.output)
    sound = (
        program.bits in RINGS
        and 1 <= source.length <= _LARGEST_DIMENSION
        and 1 <= target.length <= _LARGEST_OUTPUTS
        and source.magnitude == 0
        and min(source.fraction, program.layer.fraction, target.magnitude) >= 0
        and target.fraction == source.fraction + program.layer.fraction
        and 1 + SPARE_BITS + target.magnitude + target.fraction <= program.bits
        and 0 <= program.answer_fraction <= target.fraction
    )
    if not sound:
        raise ModelError(
            "Layer `linear`: its shapes, ring and ranges contradict each other.", "Ask for the deployment file again."
        )


def _known(program: Program, names: list[str]) -> bool:
    return (
        len(program.operations) == 1
        and len(set(names)) == len(names) == 2
        and program.input in names
        and program.output in names
        and (program.layer.source, program.layer.target) == (program.input, program.output)
        and program.input != program.output
    )
