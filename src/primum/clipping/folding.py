"""Which normalisation follows which layer and nothing else, and how it goes into that layer's weights.

What a model does with its layers is read from a symbolic trace (torch.fx). Where a model cannot be traced, because its
forward branches on values, each of its parts is tried by itself; a normalisation that is then not found stays a layer.
"""

from collections import Counter
from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, fx, nn

from primum.clipping import layers

CONVOLUTIONS: Final = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED: Final = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
FOLDABLE: Final = (nn.Linear, *CONVOLUTIONS, *_TRANSPOSED)


@dataclass(frozen=True)
class Seen:
    """What traces showed, by identity of the layers.

    `before`: for a normalisation the one layer whose output it alone reads. `on_inputs`: layers that read the model's
    own input, and are its only reader.
    """

    before: dict[int, nn.Module]
    on_inputs: frozenset[int]


def look(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Seen:
    """What a trace of `model` shows about layers of `kinds`; nothing where it cannot be traced."""
    graph = _traced(model)
    if graph is None:
        parts = [look(child, kinds) for child in model.children()]
        before = {key: layer for part in parts for key, layer in part.before.items()}
        return Seen(_used_once(model, before), frozenset())
    calls = Counter(id(model.get_submodule(str(node.target))) for node in graph.nodes if node.op == "call_module")
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    before, on_inputs = {}, set()
    for node in graph.nodes:
        if node.op != "call_module" or not node.all_input_nodes:
            continue
        layer, source = model.get_submodule(str(node.target)), node.all_input_nodes[0]
        if source.op == "placeholder" and len(source.users) == 1:
            on_inputs.add(id(layer))
        if not isinstance(layer, kinds) or source.op != "call_module" or len(source.users) > 1:
            continue
        giver = model.get_submodule(str(source.target))
        if calls[id(layer)] == calls[id(giver)] == 1 and str(source.target) not in read:
            before[id(layer)] = giver
    return Seen(_used_once(model, before), frozenset(on_inputs))


class _Tracer(fx.Tracer):
    """Layers of torch and of this room are looked at from outside."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        """Whether `m` is one call."""
        return super().is_leaf_module(m, module_qualified_name) or type(m).__module__ == layers.__name__


def _traced(model: nn.Module) -> fx.Graph | None:
    """None where the model cannot be traced, or is a layer of torch itself."""
    if type(model).__module__.startswith("torch.nn") and not isinstance(model, nn.Sequential):
        return None
    try:
        return _Tracer().trace(model)
    except Exception:  # whatever a stranger's forward raises when it is given symbols
        return None


def _used_once(model: nn.Module, before: dict[int, nn.Module]) -> dict[int, nn.Module]:
    """Without layers that stand in two places, share a weight, or whose weight is made or watched by something else."""
    places = Counter(id(module) for _, module in model.named_modules(remove_duplicate=False))
    weights = Counter(id(value) for module in set(model.modules()) for value in module._parameters.values())
    return {
        key: layer
        for key, layer in before.items()
        if places[key] == places[id(layer)] == 1 and weights[id(layer._parameters.get("weight"))] == 1 and _plain(layer)
    }


def _plain(layer: nn.Module) -> bool:
    if type(layer) not in FOLDABLE or layer._forward_pre_hooks or layer._forward_hooks:
        return False
    return not (isinstance(layer, _TRANSPOSED) and layer.groups > 1)


def scale_and_shift(norm: Any) -> tuple[Tensor, Tensor]:
    """What a normalisation with frozen statistics does: y = x * scale + shift, float64 [C]."""
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight.detach().double()
    shift = -norm.running_mean.double() * scale
    return scale, shift if norm.bias is None else shift + norm.bias.detach().double()


def fold(layer: Any, norm: Any) -> None:
    """`layer` becomes `layer`, then `norm`: weights scaled, a bias added. Flags of what is trained stay."""
    scale, _ = scale_and_shift(norm)
    axis = 1 if isinstance(layer, _TRANSPOSED) else 0
    shape = [-1 if place == axis else 1 for place in range(layer.weight.ndim)]
    with torch.no_grad():
        layer.weight.copy_(layer.weight.double() * scale.view(shape))
    fold_bias(layer, norm)


def fold_bias(layer: Any, norm: Any) -> None:
    """The bias that `layer` has to have so that its scaled output is that of `norm`."""
    scale, shift = scale_and_shift(norm)
    if layer.bias is not None:
        shift = shift + layer.bias.detach().double() * scale
    trained = next(value for value in (layer.bias, norm.bias, layer.weight) if value is not None).requires_grad
    layer.bias = nn.Parameter(shift.to(layer.weight), requires_grad=trained)
