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


def refuse_layers(model: nn.Module) -> None:
    """ModelError for a layer that is known to mix examples, by name."""
    for name, module in model.named_modules():
        where = f"Layer {name or type(module).__name__}"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and (module.training or not module.track_running_stats):
            raise ModelError(
                f"{where} is batch normalisation: it mixes the patients of a batch.",
                "Use group normalisation or none; with batch normalisation no clipping bounds one patient's effect.",
            )
        if isinstance(module, nn.modules.instancenorm._InstanceNorm) and module.track_running_stats:
            raise ModelError(
                f"{where} keeps running statistics of what it sees: they would leave without noise.",
                "Set track_running_stats=False.",
            )


def refuse_mixing(model: nn.Module, few: Inputs, more: Inputs) -> None:
    """ModelError where an example's output changes with the rest of its batch; `more` begins with the rows of `few`."""
    with torch.no_grad():
        first, again, longer = (_outputs(model, batch) for batch in (few, few, more))
    if _differ(first, again):
        return  # it draws random numbers: nothing can be compared
    if _differ(first, longer):
        raise ModelError(
            "An example's output changes with the other examples of its batch.",
            f"{_culprit(model, few, more)} Replace it by something that looks at one example at a time.",
        )


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
    """The first layer whose output depends on other rows."""
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
            return f"It first shows in the output of layer {name} ({type(model.get_submodule(name)).__name__})."
    return "No single layer does it."
