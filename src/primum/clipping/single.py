"""Per-example gradients without rules: by vmap, which works for nearly any model, or one example after another.

The loop over single examples is the slow, obviously right twin of everything else in this room.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.utils._pytree import tree_map

Loss = Callable[[Any, Any], Tensor]
Inputs = tuple[Any, ...]


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters by name, each once; their order is that of the flat vector."""
    return {name: value for name, value in model.named_parameters() if value.requires_grad}


def rows_of(value: Any, rows: slice | Tensor) -> Any:
    """The same rows of every tensor in `value` (a tensor, or tuples, lists and dicts of them)."""
    return tree_map(lambda part: part[rows] if isinstance(part, Tensor) else part, value)


def value_of_one(loss: Loss, outputs: Any, targets: Any) -> Tensor:
    """The loss of one example, from outputs and targets without a batch axis: a batch of one."""
    batch = tree_map(lambda part: part.unsqueeze(0) if isinstance(part, Tensor) else part, (outputs, targets))
    value = loss(*batch)
    return value.reshape(())


def by_vmap(model: nn.Module, loss: Loss, inputs: Inputs, targets: Any) -> dict[str, Tensor]:
    """Each row's gradient of each trainable parameter, [rows, ...]."""
    fixed = {name: value.detach() for name, value in model.named_parameters() if not value.requires_grad}
    fixed |= dict(model.named_buffers())

    def value(parameters: Mapping[str, Tensor], example: Inputs, target: Any) -> Tensor:
        batch = tree_map(lambda part: part.unsqueeze(0) if isinstance(part, Tensor) else part, example)
        outputs = functional_call(model, {**fixed, **parameters}, batch)
        batched = tree_map(lambda part: part.unsqueeze(0) if isinstance(part, Tensor) else part, target)
        return loss(outputs, batched).reshape(())

    parameters = {name: parameter.detach() for name, parameter in trainable(model).items()}
    gradients = vmap(grad(value), in_dims=(None, 0, 0), randomness="different")(parameters, inputs, targets)
    return {name: gradient.detach() for name, gradient in gradients.items()}


def by_loop(model: nn.Module, loss: Loss, inputs: Inputs, targets: Any) -> dict[str, Tensor]:
    """The same, one example after another, with plain autograd."""
    parameters = trainable(model)
    count = len(next(part for part in _leaves(inputs) if isinstance(part, Tensor)))
    rows: list[tuple[Tensor, ...]] = []
    for row in range(count):
        with torch.enable_grad():
            outputs = model(*rows_of(inputs, slice(row, row + 1)))
            value = loss(outputs, rows_of(targets, slice(row, row + 1))).reshape(())
        found = torch.autograd.grad(value, list(parameters.values()), allow_unused=True, materialize_grads=True)
        rows.append(found)
    return {name: torch.stack([row[place] for row in rows]) for place, name in enumerate(parameters)}


def _leaves(value: Any) -> list[Any]:
    leaves: list[Any] = []
    tree_map(leaves.append, value)
    return leaves
