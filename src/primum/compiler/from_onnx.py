"""An ONNX file to a graph: opset 13 to the newest that the installed onnx knows, one file, no code, from any exporter.

The file is data: protobuf, parsed by onnx, checked, with weights inside it (external data is refused, there is no
pickle). What follows from the weights and from shapes alone is computed here, by onnx's own reference implementation,
from a list of operators that cannot blow up. All operators without a rule are named in one ModelError.
"""

import warnings
from collections.abc import Iterator
from math import prod
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, NodeProto, inliner, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from primum.compiler import onnx_ml_operators, onnx_movements, onnx_operators  # noqa: F401 - their rules register
from primum.compiler.builder import Builder
from primum.compiler.graph import Graph, Shape
from primum.compiler.onnx_heads import Entry, entry_of, with_scores
from primum.compiler.onnx_ml_operators import DOMAIN
from primum.compiler.onnx_rules import RULES, Public
from primum.compiler.recorder import Symbol, Unsupported
from primum.compiler.refusal import Refusals
from primum.errors import ModelError

OLDEST_OPSET: Final = 13
MOST_BYTES: Final = (1 << 31) - 1
MOST_NODES: Final = 50_000
MOST_FOLDED: Final = 1 << 30
"""Bytes of all constants together that are computed from others."""
STANDARD: Final = ("", "ai.onnx")
FOLDED: Final = frozenset((
    "Abs", "Add", "And", "Cast", "CastLike", "Ceil", "Clip", "Concat", "ConstantOfShape", "Div", "Equal", "Exp",
    "Expand", "Flatten", "Floor", "Gather", "Greater", "GreaterOrEqual", "Identity", "Less", "LessOrEqual", "Log",
    "MatMul", "Max", "Min", "Mod", "Mul", "Neg", "Not", "Or", "Pow", "Range", "Reciprocal", "ReduceMax", "ReduceMean",
    "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Reshape", "Round", "Shape", "Size", "Slice", "Split",
    "Sqrt", "Squeeze", "Sub", "Sum", "Tile", "Transpose", "Unsqueeze", "Where",
))  # fmt: skip
BROADCAST: Final = frozenset((
    "Add", "And", "Clip", "Div", "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Max", "Min", "Mod",
    "Mul", "Or", "Pow", "Sub", "Sum", "Where",
))  # fmt: skip
WIDENING: Final = frozenset(("Cast", "CastLike", "ConstantOfShape", "Range"))


def graph_of_onnx(path: Path, shape: Shape | None = None) -> Graph:
    """The graph in the ONNX file at `path`; `shape` [channels, height, width] where the file leaves it open (0: as it says).

    Raises ModelError if the file is too large, is no valid model, has an opset before 13, or names all layers that
    have no rule.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ModelError(f"{path} has more than {MOST_BYTES:,} bytes.", "It was not read.")
        data = path.read_bytes()
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.", "Check the name of the file.") from None
    return graph_of_bytes(data, shape)


def model_of_bytes(data: bytes) -> ModelProto:
    """The model in an ONNX file, checked, its functions written out, its answer alone. Raises ModelError."""
    return with_scores(_checked(_parsed(data)))


def graph_of_bytes(data: bytes, shape: Shape | None = None) -> Graph:
    """As `graph_of_onnx`, from the bytes of a file."""
    model = model_of_bytes(data)
    opset = _opset(model)
    constants = {one.name: _array(one) for one in model.graph.initializer}
    entry = entry_of(input_of(model), shape)
    builder = Builder(entry.name, entry.shape)
    reader = Reader(builder, opset, constants, _shapes(model, entry))
    reader.known[entry.name] = entry.symbol(builder)
    with np.errstate(all="ignore"):  # numbers that are not finite are refused by layer
        for node in model.graph.node:
            reader.read(node)
    reader.refused.raise_if_any("ONNX file")
    output = reader.known.get(model.graph.output[0].name)
    if output is None:
        raise ModelError("the answer of this model is a second result of its last layer.", "Export it again.")
    if not isinstance(output, Symbol):
        raise ModelError("the answer of this model does not depend on the image.", "Export it again.")
    return builder.finish(output)


def input_of(model: ModelProto) -> onnx.ValueInfoProto:
    """The one input that is no weight; ModelError unless the model takes one image and returns one tensor."""
    weights = {one.name for one in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in weights]
    if len(inputs) != 1 or len(model.graph.output) != 1:
        raise ModelError(
            f"the model has {len(inputs)} inputs and {len(model.graph.output)} outputs.",
            "It must take one image and return one tensor.",
        )
    taken: onnx.ValueInfoProto = inputs[0]
    return taken


def _parsed(data: bytes) -> ModelProto:
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except DecodeError:
        raise ModelError("this is not an ONNX file.", "Export the model with torch.onnx.export or its like.") from None
    if any(one.data_location == onnx.TensorProto.EXTERNAL for one in _tensors(model)):
        raise ModelError("the weights of this model are in other files.", "Save it as one file, weights inside.")
    names = (name for node in model.graph.node for name in (node.name, node.op_type, *node.input, *node.output))
    if not all(isinstance(name, str) for name in names):
        raise ModelError("a layer of this model has a name that is no text.", "Export it again.")
    if len(model.graph.node) > MOST_NODES:
        raise ModelError(f"this model has {len(model.graph.node):,} nodes.", f"At most {MOST_NODES:,} are read.")
    return model


def _tensors(model: ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor in the file: weights, and what stands in the attributes of layers, of functions, of branches."""
    graphs, nodes = [model.graph], [node for function in model.functions for node in function.node]
    while graphs or nodes:
        for graph in graphs:
            sparse = [part for one in graph.sparse_initializer for part in (one.values, one.indices)]
            yield from (*graph.initializer, *sparse)
            nodes += graph.node
        attributes, graphs, nodes = [one for node in nodes for one in node.attribute], [], []
        for one in attributes:
            sparse = [part for each in (one.sparse_tensor, *one.sparse_tensors) for part in (each.values, each.indices)]
            yield from (one.t, *one.tensors, *sparse)
            graphs += [*([one.g] if one.HasField("g") else ()), *one.graphs]


def _checked(model: ModelProto) -> ModelProto:
    try:
        whole = inliner.inline_local_functions(model) if model.functions else model
        onnx.checker.check_model(whole)
    except Exception as error:  # onnx raises its own, protobuf's and Python's errors for bad files
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"this is not a valid ONNX model: {reason[0] if reason else type(error).__name__}", "Export it again."
        ) from None
    return whole


def _array(tensor: onnx.TensorProto) -> Any:
    try:
        array = numpy_helper.to_array(tensor)
    except Exception:  # onnx raises whatever its parsing meets
        array = np.zeros(0, object)
    if array.dtype.kind in "cOSU":
        raise ModelError(f"the tensor `{tensor.name}` cannot be read as numbers.", "Export the model again.")
    return array


def _opset(model: ModelProto) -> int:
    """The version of the standard operators; other domains are found out node by node."""
    opset = next((one.version for one in model.opset_import if one.domain in STANDARD), 0)
    newest = onnx.defs.onnx_opset_version()
    if not OLDEST_OPSET <= opset <= newest:
        raise ModelError(
            f"this ONNX file uses opset {opset}; {OLDEST_OPSET} to {newest} are read.",
            "Export it with a newer opset, or convert it with onnx.version_converter.",
        )
    return opset


def _shapes(model: ModelProto, entry: Entry) -> dict[str, tuple[int, ...]]:
    """Shapes that onnx infers: only used to go on behind an operator that is refused.

    Without the values of shapes: onnx computes these by doubling lists without a bound, which fills memory.
    """
    fixed = ModelProto()
    fixed.CopyFrom(model)
    for one in fixed.graph.input:
        if one.name == entry.name:
            for axis, size in zip(one.type.tensor_type.shape.dim, entry.sizes, strict=True):
                axis.dim_value = size
    try:
        known = shape_inference.infer_shapes(fixed).graph.value_info
    except Exception:  # a model that cannot be inferred is still read
        return {}
    return {one.name: tuple(axis.dim_value for axis in one.type.tensor_type.shape.dim) for one in known}


class Reader:
    """Reads node by node; `known` has constants as arrays and everything else as symbols."""

    def __init__(
        self, builder: Builder, opset: int, constants: dict[str, Any], shapes: dict[str, tuple[int, ...]]
    ) -> None:
        self.builder, self.opset, self.shapes = builder, opset, shapes
        self.known: dict[str, Any] = {builder.input.name: builder.input, "": None, **constants}
        self.refused = Refusals()
        self.shapeless = set[str]()
        self.folded = 0.0

    def read(self, node: NodeProto) -> None:
        """Add what `node` makes to the graph, or to the constants."""
        self.builder.place = node.name or next(iter(node.output), node.op_type)
        try:
            arguments = [self._value(name) for name in node.input]
            while arguments and arguments[-1] is None:
                arguments.pop()
            made = self._made(node, arguments)
        except Unsupported as reason:
            made = self._refused(node, str(reason))
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            made = self._refused(node, f"not understood: {error}")
        self.known.update(
            {name: value for name, value in zip(node.output, made, strict=False) if name and value is not None}
        )

    def _refused(self, node: NodeProto, reason: str) -> list[Symbol]:
        """Note it, unless an operator that has a rule only stumbled over the unknown shape behind another refusal."""
        known = node.op_type in RULES and any(name in self.shapeless for name in node.input)
        if not known:
            self.refused.add(node.op_type, self.builder.place, reason)
        shapes = [self.shapes.get(name, ()) for name in node.output]
        self.shapeless.update(name for name, shape in zip(node.output, shapes, strict=True) if not prod(shape or (0,)))
        return [self.builder.stand_in(shape or (1, 1)) for shape in shapes]

    def _value(self, name: str) -> Any:
        if name not in self.known:
            raise Unsupported(f"it reads `{name}`, a second result that has no rule (indices, a mask)")
        return self.known[name]

    def _made(self, node: NodeProto, arguments: list[Any]) -> list[Any]:
        if node.domain not in (*STANDARD, DOMAIN):
            raise Unsupported(f"an operator of the domain {node.domain}")
        attributes = {one.name: onnx.helper.get_attribute_value(one) for one in node.attribute}
        if node.op_type == "Constant":
            return [_constant(attributes)]
        if node.op_type in ("Shape", "Size") and isinstance(arguments[0], Symbol):
            arguments = [np.broadcast_to(np.float32(0), arguments[0].shape)]
        if not any(isinstance(one, Symbol) for one in arguments):
            return self._folded(node, arguments)
        if node.op_type not in RULES:
            raise Unsupported(Refusals.reason(node.op_type))
        made = RULES.read(node.op_type, self.builder, arguments, attributes)
        return list(made) if isinstance(made, list) else [made]

    def _folded(self, node: NodeProto, arguments: list[Any]) -> list[Any]:
        """An operator on constants, by onnx's reference implementation."""
        if node.op_type not in FOLDED:
            raise Unsupported("no rule for it on constants")
        self.folded += _most_bytes(node, arguments)
        if not self.folded <= MOST_FOLDED:
            raise Unsupported(f"it makes a constant that is too large, or all make more than {MOST_FOLDED:,} bytes")
        names = [name for name in node.input if name]
        kind = onnx.helper.make_opsetid("", self.opset)
        inputs = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in dict.fromkeys(names)
        ]
        outputs = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.UNDEFINED, None) for name in node.output]
        model = onnx.helper.make_model(onnx.helper.make_graph([node], "one", inputs, outputs), opset_imports=[kind])
        given = {name: value for name, value in zip(node.input, arguments, strict=False) if name}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                results = ReferenceEvaluator(model).run(None, given)
            except Exception as error:
                raise Unsupported(f"onnx cannot compute it: {error}") from None
        if any(np.asarray(result).dtype.kind in "cOSU" for result in results):
            raise Unsupported("it makes something else than numbers")
        public = all(isinstance(value, Public) for value in given.values())
        return [_marked(np.asarray(result), public) for result in results]


def _constant(attributes: dict[str, Any]) -> Any:
    """The value of a Constant node; one number of it is architecture, so it is marked as public."""
    value = next(iter(attributes.values()))
    return _marked(_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value), True)


def _marked(array: np.ndarray[Any, Any], public: bool) -> np.ndarray[Any, Any]:
    """As public where it is one number and made of nothing but such; else plain, whatever NumPy made of the mark."""
    plain = array.view(np.ndarray)
    return plain.view(Public) if public and plain.size == 1 else plain


def _most_bytes(node: NodeProto, arguments: list[Any]) -> float:
    """A bound of the result of an operator on constants, from shapes alone: it is refused before it is computed."""
    arrays = [np.asarray(one) for one in arguments if one is not None]
    wide = 8 if node.op_type in WIDENING else max([one.itemsize for one in arrays], default=8)
    if node.op_type == "Tile" and len(arrays) > 1:
        return wide * float(arrays[0].size) * float(np.prod(np.maximum(arrays[1], 1.0)))
    return float(wide * max([_most_elements(node, arrays), *(one.size for one in arrays)]))


def _most_elements(node: NodeProto, arrays: list[np.ndarray[Any, Any]]) -> float:
    """The same in elements; 0 where the result is no larger than what is read."""
    shapes = [one.shape for one in arrays]
    if node.op_type == "Range":
        first, last, step = (float(one.reshape(-1)[0]) for one in arrays)
        return abs((last - first) / step)
    if node.op_type == "ConstantOfShape":
        return float(np.prod(np.asarray(arrays[0], np.float64)))
    if node.op_type == "Expand":
        return float(prod(np.broadcast_shapes(shapes[0], tuple(arrays[1].tolist()))))
    if node.op_type == "Concat":
        return float(sum(one.size for one in arrays))
    if node.op_type == "Gather":
        axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
        return float(arrays[1].size * arrays[0].size // max(1, shapes[0][axis]))
    if node.op_type == "MatMul":
        rows, columns = (1, *shapes[0])[-2], (*shapes[1], 1)[1] if len(shapes[1]) == 1 else shapes[1][-1]
        return float(prod(np.broadcast_shapes(shapes[0][:-2], shapes[1][:-2])) * rows * columns)
    return float(prod(np.broadcast_shapes(*shapes))) if node.op_type in BROADCAST else 0.0
