"""The two ends of an ONNX file as its exporter wrote them: how the file takes an image, and which output is the answer.

PyTorch's files take [1, channels, height, width]; Keras' take channels last; scikit-learn's take a row of features,
which is an image line by line, colours of a pixel side by side, as NumPy flattens a picture. scikit-learn's classifiers
have two outputs, a label and its scores: the scores are the answer, the label follows from them.
"""

from dataclasses import dataclass
from math import isqrt
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto

from primum.compiler.builder import Builder
from primum.compiler.graph import Shape
from primum.compiler.recorder import Symbol
from primum.errors import ModelError

_COLOURS: Final = (1, 3)
_FLOATS: Final = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Entry:
    """Images of `shape` [channels, height, width] as the file takes them: `sizes`, batch first."""

    name: str
    shape: Shape
    sizes: tuple[int, ...]

    @property
    def last(self) -> bool:
        """Whether the file's channels are last."""
        return self.sizes[1:] != self.shape

    def arranged(self, images: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Images [n, channels, height, width] as the file takes them."""
        turned = images.transpose(0, 2, 3, 1) if self.last else images
        return np.ascontiguousarray(turned).reshape(len(images), *self.sizes[1:])

    def symbol(self, builder: Builder) -> Symbol:
        """The file's input, made of the graph's."""
        turned = builder.permute(builder.input, (0, 2, 3, 1)) if self.last else builder.input
        return builder.reshape(turned, self.sizes)


def entry_of(value: onnx.ValueInfoProto, shape: Shape | None) -> Entry:
    """How the input `value` takes an image; `shape` [channels, height, width] where the file leaves it open, 0: any.

    Channels are last where the file says so: the last axis has 1 or 3 and the first has not. Raises ModelError.
    """
    sizes = [one.dim_value for one in value.type.tensor_type.shape.dim]
    wanted = shape or (0, 0, 0)
    if len(sizes) == 2 and sizes[0] <= 1 and sizes[1] > 0:
        made = _of_row(sizes[1], wanted)
        return Entry(value.name, made, (1, sizes[1]))
    if len(sizes) != 4 or sizes[0] > 1:
        raise ModelError(
            f"the model takes a tensor of shape {sizes}.",
            "It must take images [1 or any, channels, height, width], channels last, or a row of pixels.",
        )
    first = _merged(sizes[1:], wanted)
    turned = _merged([sizes[3], sizes[1], sizes[2]], wanted)
    if turned and sizes[3] in _COLOURS and (first is None or sizes[1] not in _COLOURS) and shape != first:
        return Entry(value.name, turned, (1, *turned[1:], turned[0]))
    if first is None:
        raise ModelError(
            f"the model takes images of {sizes[1:]} (0: any), the shape given is {shape}.",
            "Give channels, height and width that fit.",
        )
    return Entry(value.name, first, (1, *first))


def _merged(sizes: list[int], wanted: Shape) -> Shape | None:
    """The file's sizes and the wanted ones, where they do not contradict each other and leave nothing open."""
    one, two, three = (known or said for known, said in zip(sizes, wanted, strict=True))
    made = (one, two, three)
    fitting = all(said in (0, size) for said, size in zip(wanted, made, strict=True))
    return made if fitting and min(made) > 0 else None


def _of_row(features: int, wanted: Shape) -> Shape:
    """The image that a row of features is: as wanted, or square in grey or colour, or else a list of channels."""
    channels, height, width = wanted
    if height and width:
        made = (channels or max(1, features // (height * width)), height, width)
        if made[0] * height * width != features:
            raise ModelError(
                f"the model takes {features} features, an image of {height} x {width} has another number of pixels.",
                "Give the size of the images that it was trained with.",
            )
        return made
    for colours in _COLOURS:
        side = isqrt(features // colours)
        if colours * side * side == features and channels in (0, colours):
            return (colours, side, side)
    return (features, 1, 1)


def with_scores(model: ModelProto) -> ModelProto:
    """`model` with the one output that is its answer: of a classifier with labels and scores, the scores.

    A map from names of classes to scores is undone, and what only the label needs is left out, also its names.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    outputs = [one.name for one in model.graph.output if len(model.graph.output) == 1 or _scores(one)]
    mapped = [makers[name].input[0] if _maps(makers.get(name)) else name for name in outputs]
    if len(mapped) != 1 or mapped == [one.name for one in model.graph.output]:
        return model
    needed, kept = set(mapped), list[NodeProto]()
    for node in reversed(model.graph.node):
        if needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    made = ModelProto()
    made.CopyFrom(model)
    for field, values in (
        ("node", kept[::-1]),
        ("output", [onnx.helper.make_tensor_value_info(mapped[0], TensorProto.FLOAT, None)]),
        ("initializer", [one for one in model.graph.initializer if one.name in needed]),
    ):
        made.graph.ClearField(field)
        getattr(made.graph, field).extend(values)
    return made


def _scores(value: onnx.ValueInfoProto) -> bool:
    kind = value.type.WhichOneof("value")
    return kind == "sequence_type" or (kind == "tensor_type" and value.type.tensor_type.elem_type in _FLOATS)


def _maps(node: NodeProto | None) -> bool:
    return node is not None and node.op_type == "ZipMap"
