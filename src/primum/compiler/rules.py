"""The table of a reader's operators: the rule that reads each, and the shapes that it takes."""

from collections.abc import Callable, Iterator
from typing import Any, Literal

import numpy as np

from primum.compiler.builder import Builder
from primum.compiler.recorder import Symbol, Unsupported, is_image

Rule = Callable[..., Any]
Takes = Literal["images", "elements", "any"]
"""Images only; anything, element by element; any shape as it stands in the file."""


class Rules(dict[str, Rule]):
    """Rules by the operator's name: f(builder, *arguments); arguments are symbols, arrays, numbers, None or lists."""

    def __init__(self) -> None:
        super().__init__()
        self._takes: dict[str, Takes] = {}

    def rule(self, *names: str, takes: Takes = "images") -> Callable[[Rule], Rule]:
        """The decorated function reads these operators."""

        def register(function: Rule) -> Rule:
            self.update(dict.fromkeys(names, function))
            self._takes.update(dict.fromkeys(names, takes))
            return function

        return register

    def read(self, name: str, builder: Builder, values: list[Any], *first: Any, **named: Any) -> Any:
        """What the rule of `name` makes of `first`, `values` and `named`. Unsupported for a shape that it does not take."""
        rule, takes = self[name], self._takes[name]
        odd = [x for x in _symbols(values) if not is_image(x.shape)]
        if not odd or takes == "any":
            return rule(builder, *first, *values, **named)
        if takes == "elements" and len(set(_symbols(values))) == 1:
            x = odd[0]
            made = rule(builder, *first, *(_beside(builder, x, value) for value in values), **named)
            return Symbol(made.name, x.shape)
        raise Unsupported(
            f"a value of shape {list(odd[0].shape)} where one image's [1, channels, height, width] is due"
        )


def _symbols(values: Any) -> Iterator[Symbol]:
    for value in values:
        if isinstance(value, Symbol):
            yield value
        elif isinstance(value, list | tuple):
            yield from _symbols(value)


def _beside(builder: Builder, x: Symbol, value: Any) -> Any:
    """`value` where `x` is read as an image with the same last axis: constants differ along that axis alone."""
    if isinstance(value, Symbol):
        return builder.as_image(value)
    if not isinstance(value, np.ndarray) or value.size == 1:
        return value
    if not value.size == value.shape[-1] == x.shape[-1]:
        raise Unsupported(f"a constant of shape {list(value.shape)} with a value of shape {list(x.shape)}")
    return value.reshape(-1)
