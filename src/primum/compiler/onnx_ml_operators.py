"""Rules for the operators of the domain ai.onnx.ml that follow scikit-learn's exporter: scalers and linear models.

Trees, kernels and norms of the image are refused (`refusal.py` says why). What stands behind the scores (class names,
a map from names to scores) is cut off by `onnx_heads.py` before anything is read.
"""

from typing import Any, Final

import numpy as np

from primum.compiler.builder import Builder
from primum.compiler.graph import Array, Ending
from primum.compiler.onnx_rules import Attributes, rule
from primum.compiler.recorder import Symbol, Unsupported
from primum.compiler.refusal import NORMS

DOMAIN: Final = "ai.onnx.ml"
_ENDINGS: Final[dict[str, Ending]] = {"NONE": "none", "SOFTMAX": "softmax", "LOGISTIC": "sigmoid"}


@rule("Scaler")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    offset, scale = (np.asarray(a.get(name, [default])) for name, default in (("offset", 0.0), ("scale", 1.0)))
    return b.affine(x, scale, -offset * scale)


@rule("Imputer")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    if "imputed_value_int64s" in a or not np.isnan(a.get("replaced_value_float", 0.0)):
        raise Unsupported("numbers that stand for missing ones; an image has none")
    return x  # only NaN is replaced, and the data owner sends none


@rule("ArrayFeatureExtractor")
def _(b: Builder, a: Attributes, x: Any, chosen: Any) -> Symbol:
    if not isinstance(x, Symbol) or isinstance(chosen, Symbol):
        raise Unsupported("names of classes, looked up; export the scores or probabilities")
    places = np.asarray(chosen).reshape(-1)
    if len(x.shape) != 2 or not places.size or not (places >= 0).all() or not (places < x.shape[1]).all():
        raise Unsupported(f"columns that a value of shape {list(x.shape)} has not got")
    return b.linear(x, np.eye(x.shape[1])[places], None)


@rule("LinearRegressor")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    if a.get("post_transform", b"NONE") != b"NONE":
        raise Unsupported(f"{a['post_transform'].decode()} behind a regression")
    weight, bias = _linear(x, a)
    return b.linear(x, weight, bias)


@rule("LinearClassifier")
def _(b: Builder, a: Attributes, x: Symbol) -> list[Symbol | None]:
    """[label, scores]; no label where classes are not counted 0, 1, 2, ..."""
    weight, bias = _linear(x, a)
    names: list[Any] = list(a.get("classlabels_ints") or a.get("classlabels_strings") or ())
    if len(weight) == 1 and len(names) == 2:
        weight, bias = np.concatenate([-weight, weight]), np.concatenate([-bias, bias])
    scores = _ended(b, x, weight, bias, a.get("post_transform", b"NONE").decode())
    counted = len(weight) > 1 and names == list(range(len(weight)))
    return [b.end(scores, "argmax", 1, (1,)) if counted else None, scores]


def _ended(b: Builder, x: Symbol, weight: Array, bias: Array, transform: str) -> Symbol:
    if transform not in _ENDINGS:
        raise Unsupported(f"{transform} behind a linear classifier")
    if transform == "LOGISTIC" and len(weight) == 2 and np.allclose(weight.sum(0), 0) and np.isclose(bias.sum(), 0):
        weight, bias, transform = weight / 2, bias / 2, "SOFTMAX"  # 1 / (1 + e^-z) is the softmax of (z / 2, -z / 2)
    scores = b.linear(x, weight, bias)
    if transform == "LOGISTIC":
        return b.curve(scores, "sigmoid")
    return b.end(scores, "softmax") if transform == "SOFTMAX" else scores


def _linear(x: Symbol, a: Attributes) -> tuple[Array, Array]:
    """Weight [outputs, inputs] and bias [outputs] as the attributes give them, in one list each."""
    if len(x.shape) != 2:
        raise Unsupported(f"a linear model on a value of shape {list(x.shape)}; flatten it first")
    weight = np.asarray(a.get("coefficients", []), np.float64)
    if not weight.size or weight.size % x.shape[1]:
        raise Unsupported(f"{weight.size} coefficients on {x.shape[1]} features")
    rows = weight.reshape(-1, x.shape[1])
    return rows, np.broadcast_to(np.asarray(a.get("intercepts", [0.0]), np.float64), (len(rows),))


@rule("Normalizer")
def _(b: Builder, a: Attributes, x: Symbol) -> Symbol:
    if b.endings.get(x.name, (x, "none"))[1] == "softmax" and a.get("norm", b"MAX") == b"L1":
        return x  # probabilities sum to 1 already
    raise Unsupported(NORMS)
