"""What was read against what it was read from: a mistake of a reader is found here, before anything is deployed.

PyTorch runs a module, onnx's reference implementation runs a file (pools and transposed convolutions: `onnx_twins.py`),
and the graph must say the same. Where a file is so large that the slow reference would take minutes, or has something
that the reference has not, it is not compared.
"""

from math import prod
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import nn

from primum.compiler.evaluate import evaluate
from primum.compiler.from_onnx import input_of
from primum.compiler.graph import Array, Graph
from primum.compiler.onnx_heads import entry_of
from primum.compiler.onnx_twins import TWINS
from primum.errors import ModelError

ALLOWED: Final = 1e-4
ALLOWED_HALF: Final = 0.03
"""For 16-bit floats."""
MOST_BYTES: Final = 200_000_000
MOST_ELEMENTS: Final = 1 << 26
LEAST_PROBABILITY: Final = 1e-30


def require_module_says(graph: Graph, module: nn.Module, images: npt.NDArray[np.floating]) -> None:
    """ModelError unless `graph` says what `module` says in evaluation mode, on the first two images."""
    kind = next((one.dtype for one in module.parameters()), torch.float32)
    modes = {name: part.training for name, part in module.named_modules()}
    few = images[:2]
    try:
        with torch.no_grad():
            answers = [_tensor(module.eval()(torch.from_numpy(np.asarray(one[None])).to(kind))) for one in few]
    finally:
        for name, part in module.named_modules():
            part.training = modes[name]
    said = np.stack([one.double().numpy() for one in answers])
    _require_same(graph, few, said, _allowed(kind.itemsize))


def _tensor(answer: Any) -> torch.Tensor:
    """The one tensor that a module returns, also where it stands in a tuple or a dictionary."""
    if isinstance(answer, torch.Tensor):
        return answer
    parts = list(answer.values()) if isinstance(answer, dict) else answer
    return _tensor(next(part for part in parts if part is not None))


def require_file_says(graph: Graph, model: onnx.ModelProto, images: npt.NDArray[np.floating]) -> None:
    """ModelError unless `graph` says what onnx's reference implementation says of `model`, on the first image."""
    if not _comparable(graph, model):
        return
    given = input_of(model)
    entry = entry_of(given, graph.shape)
    number = onnx.helper.tensor_dtype_to_np_dtype(given.type.tensor_type.elem_type)
    few = images[:1]
    try:
        with np.errstate(all="ignore"):
            reference = ReferenceEvaluator(model, new_ops=list(TWINS))
            answers: Any = reference.run(None, {given.name: entry.arranged(few).astype(number)})
    except Exception:  # an operator, or a use of one, that the reference has not got
        return
    _require_same(graph, few, np.asarray(answers[0], np.float64), _allowed(number.itemsize))


def _allowed(size: int) -> float:
    return ALLOWED if size >= 4 else ALLOWED_HALF


def _comparable(graph: Graph, model: onnx.ModelProto) -> bool:
    """Whether onnx's reference implementation is quick here."""
    if sum(len(one.raw_data) + 8 * len(one.float_data) for one in model.graph.initializer) > MOST_BYTES:
        return False
    return sum(map(prod, graph.shapes.values())) <= MOST_ELEMENTS


def _require_same(graph: Graph, images: npt.NDArray[np.floating], said: Array, allowed: float) -> None:
    """Shapes apart from axes of length 1, then values, relative to the largest; probabilities by their logarithms."""
    read = evaluate(graph, images)
    if not np.isfinite(read).all():
        return  # refused by layer, which says more
    if graph.ending == "argmax":
        _require_class(read, said)
        return
    one, two = (_without_ones(value.shape[1:]) for value in (read, said))
    if one != two:
        raise _refusal(f"it says {list(one)} numbers where the model says {list(two)}")
    expected = said.reshape(read.shape)
    with np.errstate(all="ignore"):
        if graph.ending in ("softmax", "sigmoid"):
            expected = np.log(np.maximum(expected, LEAST_PROBABILITY))
        got = _ended(graph, read)
        error = float(np.abs(got - expected).max())
    if not error <= allowed * max(1.0, float(np.abs(expected).max())):
        raise _refusal(f"an answer differs by {error:.3g}")


def _ended(graph: Graph, read: Array) -> Array:
    """The answers as they are compared: logarithms of probabilities, where the model ends in them."""
    value = torch.from_numpy(read)
    if graph.ending in ("softmax", "log_softmax"):
        value = torch.log_softmax(value, 1)
    elif graph.ending == "sigmoid":
        value = nn.functional.logsigmoid(value)
    least = np.log(LEAST_PROBABILITY) if graph.ending in ("softmax", "sigmoid") else -np.inf
    made: Array = np.maximum(value.numpy(), least)
    return made


def _require_class(read: Array, said: Array) -> None:
    """The class that the model names has the largest number, or one that is as large but for rounding."""
    places = read[:, 0].size
    if said.size != places or said.min() < 0 or said.max() >= read.shape[1]:
        raise _refusal(f"it says {places} classes where the model says {said.size}")
    chosen = np.take_along_axis(read, said.astype(np.int64).reshape(read[:, :1].shape), 1)
    if (read.max(1, keepdims=True) - chosen).max() > ALLOWED_HALF * max(1.0, float(np.abs(read).max())):
        raise _refusal("its class differs")


def _without_ones(shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(length for length in shape if length != 1)


def _refusal(difference: str) -> ModelError:
    return ModelError(
        f"what Primum read of this model is not the model: {difference}.",
        "Nothing was deployed. Export it another way (other layers, a newer exporter), and report the model.",
    )
