"""A model, compiled: from a module or an ONNX file to a program and its weights, with the proof that they agree."""

from dataclasses import dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from torch import nn

from primum.compiler.emitter import Unfit
from primum.compiler.equalise import equalised
from primum.compiler.evaluate import batches, evaluate, measure
from primum.compiler.from_onnx import graph_of_onnx, model_of_bytes
from primum.compiler.from_torch import graph_of_module
from primum.compiler.graph import Array, Ending, Graph, Shape, Winner
from primum.compiler.lower import flat_weights, lower
from primum.compiler.original import require_file_says, require_module_says
from primum.compiler.precision import SPARE_BITS, precision_of
from primum.compiler.ranges import bounds, drawn_images
from primum.compiler.simplify import simplify
from primum.compiler.simulate import simulate
from primum.errors import InputError, ModelError
from primum.mpc.check import check
from primum.mpc.program import Program
from primum.ring import Ring, encode
from primum.rng import Stream

RINGS: Final = (40, 48, 56, 64)
TOLERANCE: Final = 0.01
CLEAR_MARGIN: Final = 0.02
"""A class whose lead over the next is smaller may change: its logits may each be off by the tolerance."""


@dataclass(frozen=True)
class Agreement:
    """The model in clear against its program on the calibration images.

    `error` is the largest difference of a logit; `same` of `clear` images with a clear lead keep their class.
    """

    images: int
    error: float
    clear: int
    same: int


@dataclass(frozen=True)
class Compiled:
    """A program and what the model owner keeps: the weights, flat ring elements in the program's order, and the graph."""

    program: Program
    weights: Ring = field(repr=False)
    graph: Graph = field(repr=False)
    ranges: dict[str, float] = field(repr=False)
    ending: Ending
    agreement: Agreement

    def encode_input(self, images: npt.NDArray[np.floating]) -> Ring:
        """Images [n, channels, height, width] as ring elements [n, height, width, channels]."""
        if images.ndim != 4 or images.shape[1:] != self.graph.shape:
            raise InputError(f"the images are {images.shape[1:]}.", f"This model takes {self.graph.shape} each.")
        wire = self.program.wire(self.program.input)
        channels_last = np.ascontiguousarray(images.transpose(0, 2, 3, 1), np.float64)
        return encode(channels_last, wire.fraction, self.program.bits)

    def plain(self, images: npt.NDArray[np.floating]) -> Array:
        """The float64 answers for images: [n, classes], or [n, channels, height, width] where there are positions."""
        return squeezed(evaluate(self.graph, images))

    def fixed(self, images: npt.NDArray[np.floating]) -> Array:
        """The same answers by the program on plain integers."""
        stream, inputs = Stream.from_os(), self.encode_input(images)
        answers = np.concatenate([simulate(self.program, self.weights, part, stream) for part in batches(inputs)])
        fraction = self.program.wire(self.program.output).fraction
        return squeezed(np.ldexp(answers.astype(np.float64), -fraction).transpose(0, 3, 1, 2))


def squeezed(answers: Array) -> Array:
    """[n, classes] where height and width are 1."""
    return answers[:, :, 0, 0] if answers.shape[2:] == (1, 1) else answers


@dataclass(frozen=True)
class Wish:
    """What compilation is asked for.

    `only_class`: the class comes out and no logit, by a maximum under encryption. `images` [n, channels, height,
    width] are public ones for calibration; drawn ones where there are none. `bounded`: ranges by interval arithmetic
    instead, valid for every image in [0, 1]. `tolerance` is the largest error of a logit.
    """

    only_class: bool = False
    images: npt.NDArray[np.floating] | None = None
    bounded: bool = False
    tolerance: float = TOLERANCE


PLAIN_WISH: Final = Wish()


def compile_module(module: nn.Module, shape: Shape, wish: Wish = PLAIN_WISH) -> Compiled:
    """Compile a PyTorch module for images [channels, height, width] in [0, 1].

    What was read is compared with the module itself on two images. Raises ModelError if layers are not supported
    (naming all), do not fit (naming the layer) or do not agree.
    """
    graph = graph_of_module(module, shape)
    require_module_says(graph, module, _images(graph, wish))
    return compile_graph(graph, wish)


def compile_onnx(path: Path, shape: Shape | None = None, wish: Wish = PLAIN_WISH) -> Compiled:
    """Compile the ONNX file at `path`, as `compile_module`; `shape` where the file leaves the size of images open."""
    return compile_read(path, graph_of_onnx(path, shape), wish)


def compile_read(path: Path, graph: Graph, wish: Wish = PLAIN_WISH) -> Compiled:
    """Compile what `graph_of_onnx` read from `path`, after a comparison with the file (`original.py` says when).

    ModelError if they say different things of an image.
    """
    require_file_says(graph, model_of_bytes(path.read_bytes()), _images(graph, wish))
    return compile_graph(graph, wish)


def compile_graph(graph: Graph, wish: Wish = PLAIN_WISH) -> Compiled:
    """Compile a graph in the smallest ring in which it fits and agrees; compares with no module and no file."""
    if wish.only_class and graph.shapes[graph.output][0] < 2:
        raise ModelError("the model has one output: no class is larger.", "Ask for its logit, or train it with two.")
    images = _images(graph, wish)
    small = equalised(simplify(with_winner(graph) if wish.only_class else graph), images)
    logits, ranges = measure(small, images, _compared(small))
    ranges = bounds(small) if wish.bounded else ranges
    require_finite(ranges)
    refusal: ModelError | None = None
    for bits in RINGS:
        try:
            return _in_ring(small, ranges, (images, squeezed(logits)), bits, wish)
        except Unfit as error:
            refusal = error
    assert refusal is not None
    raise refusal


def _images(graph: Graph, wish: Wish) -> npt.NDArray[np.floating]:
    """Images for calibration: the given ones, or drawn ones."""
    if wish.images is None:
        return drawn_images(graph.shape)
    if wish.images.shape[1:] != graph.shape or not len(wish.images):
        raise InputError(
            f"the images for calibration are {wish.images.shape}.", f"Give one or more, {graph.shape} each."
        )
    return wish.images


def require_finite(ranges: dict[str, float]) -> None:
    """ModelError that names the first value that is not a finite number."""
    for name, value in ranges.items():
        if not isfinite(value):
            raise ModelError(
                f"layer `{name}` gives values that are not finite numbers.", "Find the broken weights; train again."
            )


def with_winner(graph: Graph) -> Graph:
    """`graph` with an argmax under encryption at its end; softmax before it changes nothing."""
    name = f"{graph.output}.class"
    return replace(graph.with_nodes((*graph.nodes, Winner(name, (graph.output,))), name), ending="argmax")


def _in_ring(
    graph: Graph, ranges: dict[str, float], seen: tuple[npt.NDArray[np.floating], Array], bits: int, wish: Wish
) -> Compiled:
    """`seen`: images, and what the classes of these are compared by, in clear."""
    images, logits = seen
    precision = precision_of(graph, ranges, bits, 0 if wish.bounded else SPARE_BITS)
    program, weights = lower(graph, precision)
    check(program)
    unproven = Agreement(0, 0.0, 0, 0)
    made = Compiled(program, flat_weights(program, weights), graph, ranges, graph.ending, unproven)
    agreement = agreement_of(logits, made.fixed(images), wish.only_class, 2 * wish.tolerance)
    if agreement.error > wish.tolerance or agreement.same < agreement.clear:
        raise Unfit(
            f"in a ring of {bits} bits a logit differs by {agreement.error:.3g} from the model in clear, "
            f"where {wish.tolerance:.3g} is allowed; {agreement.same} of {agreement.clear} clear images keep their class.",
            "Its weights or values span too many magnitudes: normalise its layers (batch norm), or allow more.",
        )
    return replace(made, agreement=agreement)


def _compared(graph: Graph) -> str:
    """The value that classes are compared by."""
    last = graph.nodes[-1] if graph.nodes else None
    return last.sources[0] if isinstance(last, Winner) else graph.output


def agreement_of(plain: Array, fixed: Array, only_class: bool = False, margin: float = CLEAR_MARGIN) -> Agreement:
    """How well `fixed` [n, classes, ...] agrees with `plain`; with `only_class`, fixed is 1 in the class and else 0.

    `margin`: the lead from which on a class is clear.
    """
    error = 0.0 if only_class else float(np.abs(plain - fixed).max())
    if plain.shape[1] < 2:
        return Agreement(len(plain), error, 0, 0)
    ordered = np.sort(plain, 1)
    clear = ordered[:, -1] - ordered[:, -2] > margin
    same = plain.argmax(1) == fixed.argmax(1)
    return Agreement(len(plain), error, int(clear.sum()), int((clear & same).sum()))
