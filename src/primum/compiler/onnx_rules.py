"""The table of ONNX operators and what its rules share: f(builder, attributes, *inputs), inputs are symbols, arrays or None."""

from typing import Any, Final

import numpy as np

from primum.compiler.recorder import Symbol, Unsupported, Value
from primum.compiler.rules import Rules

Attributes = dict[str, Any]
RULES: Final = Rules()
rule = RULES.rule


class Public(np.ndarray[Any, Any]):
    """A constant of the architecture: one number from a Constant node, which no training changed."""


def number(value: Any, default: float = 0.0) -> float:
    if isinstance(value, Symbol):
        raise Unsupported("a computed bound or factor")
    if np.size(value) != 1:
        raise Unsupported("several numbers where one is expected")
    return default if value is None else float(np.asarray(value).reshape(()))


def whole_numbers(value: Any) -> list[int]:
    if value is None or isinstance(value, Symbol):
        raise Unsupported("a computed shape or axis")
    return [int(one) for one in np.asarray(value).reshape(-1)]


def as_float(value: Any) -> Value | None:
    """A constant as float64; symbols and None as they are."""
    return value if value is None or isinstance(value, Symbol) else np.asarray(value, np.float64)


def required(value: Any) -> Value:
    made = as_float(value)
    if made is None:
        raise Unsupported("an input is missing")
    return made
