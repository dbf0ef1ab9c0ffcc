"""Watching a forward pass: every use of a trainable parameter becomes a `Use`, from which per-example gradients follow.

Nothing about the model is changed. While a `Capture` is on, torch hands it every function that the model calls
(`TorchFunctionMode`). A function with no trainable parameter among its arguments passes, or goes a quicker way of ours.
One that has a rule (`rules.py`) runs with the parameter detached, so that the backward pass computes slopes of inputs
only, and the rule notes what the parameter's gradient needs. A function of parameters alone (weight standardisation, a
transpose, a parametrisation) gives a derived weight, whose own gradients are pulled back to the parameters afterwards.
Anything else is `Unruled`: the caller falls back to vmap and says so.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Protocol, cast

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.overrides import TorchFunctionMode

Function = Callable[..., Any]


class Unruled(Exception):
    """A function uses a parameter in a way for which there is no rule; the message names the function and why."""


class Use(Protocol):
    """One use of parameters. After the backward pass it knows each row's gradient of each weight that it used."""

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The weights that it used."""

    def each(self, weight: Tensor) -> Tensor:
        """Each row's gradient of one of `weights`: float32 [rows, *weight.shape]."""


@dataclass
class Expanded:
    """A weight that was used as one copy a row: the copies' gradients are the rows' gradients."""

    weight: Tensor
    copies: Tensor = field(repr=False)

    @property
    def weights(self) -> tuple[Tensor, ...]:
        """The one weight."""
        return (self.weight,)

    def each(self, weight: Tensor) -> Tensor:
        """Zeros where the copies had no part in the loss."""
        gradient = self.copies.grad
        rows = self.copies.numel() // weight.numel()
        if gradient is None:
            return weight.new_zeros(rows, *weight.shape)
        return in_float(gradient.reshape(rows, *weight.shape))


def in_float(tensor: Tensor) -> Tensor:
    """At least float32: norms and sums are never taken in half precision."""
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


class _Source(torch.autograd.Function):
    """Runs a function whose inputs need no slope, so that its output has one all the same."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, function: Callable[[], Tensor]) -> Tensor:
        return function()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[None, None]:
        return None, None


class Capture(TorchFunctionMode):
    """The uses of `parameters` in one forward pass over `rows` rows, of which `images` consecutive ones are a unit.

    `still` makes dropout the identity: for comparing rows with each other.
    """

    def __init__(
        self, parameters: Sequence[Tensor], constants: Sequence[Tensor], rows: int, images: int, rules: "Rules"
    ) -> None:
        super().__init__()
        self.rows, self.images = rows, images
        self.uses: list[Use] = []
        self.anchor = torch.zeros((), requires_grad=True)
        self.leaves: list[Tensor] = [self.anchor]
        self.still = False
        self._rules = rules
        self._parameters = {id(parameter): parameter for parameter in parameters}
        self._derived: dict[int, Tensor] = {}
        self.sources: dict[int, tuple[Function, tuple[Any, ...]]] = {}
        self._constants = {id(constant) for constant in constants}

    def __torch_function__(
        self, func: Function, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if self.still and func in _DROPOUTS:
            return args[0] if args else kwargs["input"]
        tensors = list(_tensors((args, kwargs)))
        if not any(self.is_weight(tensor) for tensor in tensors) or not torch.is_grad_enabled():
            quicker = self._rules.quicker(func)
            return func(*args, **kwargs) if quicker is None else quicker(func, *args, **kwargs)
        if all(self.is_weight(tensor) or id(tensor) in self._constants for tensor in tensors):
            return self._derive(func, args, kwargs)
        rule = self._rules.find(func)
        if rule is None:
            raise Unruled(f"{_name(func)} with a trainable parameter")
        return rule(self, func, *args, **kwargs)

    def is_weight(self, value: object) -> bool:
        """Whether it is a trainable parameter or made of some."""
        return id(value) in self._parameters or id(value) in self._derived

    def is_parameter(self, weight: Tensor) -> bool:
        """Whether it is a parameter itself."""
        return id(weight) in self._parameters

    def _derive(self, func: Function, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        rule = self._rules.expansion(func)
        if rule is not None:
            expanded = rule(self, func, *args, **kwargs)
            if expanded is not None:
                return expanded
        result = func(*args, **kwargs)
        for tensor in _tensors(result):
            if tensor.requires_grad and id(tensor) not in self._parameters:
                self._derived[id(tensor)] = tensor  # kept alive, so that no other tensor gets its id
                self.sources[id(tensor)] = func, args
        return result

    def copies(self, weight: Tensor, axes: int) -> Tensor:
        """One copy of `weight` a row, [rows, *1, *weight.shape] with `axes` axes, noted as a use."""
        shape = (self.rows, *[1] * (axes - 1 - weight.ndim), *weight.shape)
        copies = weight.detach().expand(shape).clone().requires_grad_()
        self.leaves.append(copies)
        self.uses.append(Expanded(weight, copies))
        return copies

    def run(self, function: Callable[[], Tensor], inputs: Sequence[object], seen: Callable[[Tensor], None]) -> Tensor:
        """function(), and `seen` with the slope of its output in the backward pass."""
        if any(isinstance(value, Tensor) and value.requires_grad for value in inputs):
            output = function()
        else:
            output = cast("Tensor", _Source.apply(self.anchor, function))  # type: ignore[no-untyped-call]
        output.register_hook(seen)  # type: ignore[no-untyped-call]
        return output

    def first_axis_is_rows(self, tensor: Tensor, func: Function) -> None:
        """Unruled unless the first axis of `tensor` is that of the rows."""
        if tensor.ndim == 0 or tensor.shape[0] != self.rows:
            raise Unruled(f"{_name(func)} on a tensor whose first axis is not the batch, {tuple(tensor.shape)}")


Rule = Callable[..., Any]


class Rules:
    """Which rule a function has."""

    def __init__(self) -> None:
        self._of: dict[Function, Rule] = {}
        self._expansions: dict[Function, Rule] = {}
        self._quicker: dict[Function, Rule] = {}

    def add(self, *functions: Function) -> Callable[[Rule], Rule]:
        """Decorator: the rule of `functions`, called as rule(capture, function, *arguments)."""

        def register(rule: Rule) -> Rule:
            self._of.update(dict.fromkeys(functions, rule))
            return rule

        return register

    def add_expansion(self, *functions: Function) -> Callable[[Rule], Rule]:
        """Decorator: a rule for functions of parameters alone that make one copy a row; None where they do not."""

        def register(rule: Rule) -> Rule:
            self._expansions.update(dict.fromkeys(functions, rule))
            return rule

        return register

    def add_quicker(self, function: Function) -> Callable[[Rule], Rule]:
        """Decorator: what `function` without parameters goes through, called as rule(function, *arguments)."""

        def register(rule: Rule) -> Rule:
            self._quicker[function] = rule
            return rule

        return register

    def find(self, function: Function) -> Rule | None:
        """The rule of a function."""
        return self._of.get(function)

    def quicker(self, function: Function) -> Rule | None:
        """What a function without parameters goes through, where there is something."""
        return self._quicker.get(function)

    def expansion(self, function: Function) -> Rule | None:
        """The rule of a function of parameters alone, where it has one."""
        return self._expansions.get(function)


def is_ordinary() -> bool:
    """Whether autograd keeps tensors as they are and goes backward only: no activation checkpoints, no dual numbers.

    What a checkpoint computes again goes the library's ways, and has to keep the same tensors as the first time.
    """
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    return hooks is None and forward_ad._current_level < 0


def is_batched(tensor: Tensor) -> bool:
    """Whether it stands for many tensors, as in vmap."""
    functorch = torch._C._functorch
    return functorch.is_functorch_wrapped_tensor(tensor) or functorch.is_legacy_batchedtensor(tensor)


def leaves_of(tensor: Tensor) -> list[Tensor]:
    """The leaves that autograd reaches from it; itself where it is one."""
    if tensor.grad_fn is None:
        return [tensor] if tensor.requires_grad else []
    leaves: list[Tensor] = []
    seen: set[object] = set()
    stack: list[Any] = [tensor.grad_fn]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        leaf = getattr(node, "variable", None)
        if leaf is not None:
            leaves.append(leaf)
        stack += [parent for parent, _ in node.next_functions]
    return leaves


def refuse_unseen(outputs: Any, parameters: Mapping[str, Tensor]) -> None:
    """Unruled where autograd reaches one of `parameters` from `outputs` of a watched pass: rules cut what they see."""
    names = {id(value): name for name, value in parameters.items()}
    for tensor in _tensors(outputs):
        for leaf in leaves_of(tensor):
            if id(leaf) in names:
                raise Unruled(f"{names[id(leaf)]} in an autograd.Function of the model's own")


_DROPOUTS: Final = frozenset(
    {
        nn.functional.dropout,
        nn.functional.dropout1d,
        nn.functional.dropout2d,
        nn.functional.dropout3d,
        nn.functional.alpha_dropout,
        nn.functional.feature_alpha_dropout,
        torch.dropout,
    }
)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (tuple, list)):
        for part in value:
            yield from _tensors(part)
    elif isinstance(value, dict):
        for part in value.values():
            yield from _tensors(part)


def _name(func: Function) -> str:
    return getattr(func, "__name__", type(func).__name__)
