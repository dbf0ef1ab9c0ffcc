"""What mixes the examples of a batch, so that no clipping bounds one patient's effect: found by kind, and by trying."""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from primum.clipping.capture import Capture
from primum.clipping.rules import RULES
from primum.clipping.single import Inputs
from primum.errors import ModelError

_SAME: Final = 1e-3  # relative; kernels round differently for other batch sizes


def refuse_mixing(model: nn.Module, few: Inputs, more: Inputs) -> None:
    """ModelError where an example's output changes with the rest of its batch; `more` begins with the rows of `few`."""
    culprit = mixed(model, few, more)
    if culprit is None:
        return
    where = "No single layer does it."
    if culprit:
        kind = type(model.get_submodule(culprit)).__name__
        where = f"It first shows in the output of layer {culprit} ({kind})."
    raise ModelError(
        "An example's output changes with the other examples of its batch.",
        f"{where} Replace it by something that looks at one example at a time.",
    )


def mixed(model: nn.Module, few: Inputs, more: Inputs) -> str | None:
    """The first layer whose output for `few` is another among `more`, "" where none does it alone; None: nothing mixes.

    `more` begins with the rows of `few`. None, too, where the model draws random numbers: nothing can be compared.
    """
    with torch.no_grad():
        first, again, longer = (_outputs(model, batch) for batch in (few, few, more))
    if _differ(first, again) or not _differ(first, longer):
        return None
    return _culprit(model, few, more)


def is_random(model: nn.Module, inputs: Inputs) -> bool:
    """Whether the model draws random numbers beside dropout: then no two passes can be compared."""
    with torch.no_grad():
        return _differ(_outputs(model, inputs), _outputs(model, inputs))


def _outputs(model: nn.Module, batch: Inputs) -> list[Tensor]:
    capture = Capture([], [], 0, 1, RULES)
    capture.still = True
    with capture:
        return [part for part in tree_leaves(model(*batch)) if isinstance(part, Tensor)]


def _differ(few: list[Tensor], more: list[Tensor]) -> bool:
    for one, other in zip(few, more, strict=True):
        if one.ndim == 0:
            return True
        off = torch.linalg.vector_norm((one - other[: len(one)]).double().flatten())
        length = torch.linalg.vector_norm(one.double().flatten())
        if bool(off > _SAME * length) and bool(length.isfinite()):
            return True
    return False


def _culprit(model: nn.Module, few: Inputs, more: Inputs) -> str:
    """The first layer whose output depends on other rows; "" where it is none."""
    seen: dict[str, list[list[Tensor]]] = {}
    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):

            def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                seen.setdefault(name, []).append([part for part in tree_leaves(output) if isinstance(part, Tensor)])

            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            _outputs(model, few), _outputs(model, more)
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in seen.items():
        half = len(outputs) // 2
        if any(_differ(one, other) for one, other in zip(outputs[:half], outputs[half:], strict=False)):
            return name
    return ""
