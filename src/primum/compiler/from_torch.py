"""A PyTorch module to a graph, through torch.export; the rules for its operators stand in `torch_operators.py`.

What follows from the weights alone (weight standardisation, gains) is computed here and becomes a constant. All
operators without a rule are named in one ModelError.
"""

import operator
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.export.graph_signature import ConstantArgument

from primum.compiler.builder import Builder
from primum.compiler.graph import Graph, Shape
from primum.compiler.recorder import Symbol, Unsupported
from primum.compiler.refusal import Refusals
from primum.compiler.torch_operators import RULES
from primum.errors import ModelError


def graph_of_module(module: nn.Module, shape: Shape) -> Graph:
    """The graph of `module` in evaluation mode, for images [channels, height, width]; the module stays as it is.

    Raises ModelError if it cannot be exported, or names all layers that have no rule.
    """
    exported = _export(module, shape)
    constants = _constants(exported)
    builder, refused = Builder("image", shape), Refusals()
    known: dict[str, Any] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            known[node.name] = constants.get(node.name, builder.input)
        elif node.op == "call_function":
            known[node.name] = _read(builder, refused, node, known)
        elif node.op == "output":
            outputs = [known[item.name] for item in node.args[0] if item is not None]
    refused.raise_if_any("module")
    if len(outputs) != 1 or not isinstance(outputs[0], Symbol):
        raise ModelError(
            f"the model has {len(outputs)} outputs.", "It must return one tensor that depends on the image."
        )
    return builder.finish(outputs[0])


def _export(module: nn.Module, shape: Shape) -> torch.export.ExportedProgram:
    """Exported without gradients, in evaluation mode, with operators that change nothing in place."""
    modes = {name: part.training for name, part in module.named_modules()}
    example = torch.zeros(1, *shape, dtype=next((p.dtype for p in module.parameters()), torch.float32))
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            exported: torch.export.ExportedProgram = torch.export.export(module.eval(), (example,))
            return exported.run_decompositions({})  # type: ignore[no-any-return]
    except Exception as error:
        reason = str(error).strip().splitlines()
        raise ModelError(
            f"the module cannot be exported: {reason[0] if reason else type(error).__name__}",
            "It must run under torch.export, without branches that depend on the image.",
        ) from None
    finally:
        for name, part in module.named_modules():
            part.training = modes[name]


def _constants(exported: torch.export.ExportedProgram) -> dict[str, Any]:
    """Parameters, buffers and constants by the name of their placeholder, tensors of floats as float64."""
    stored: dict[str, Any] = {**exported.state_dict, **exported.constants}
    targets = {spec.arg.name: spec.target for spec in exported.graph_signature.input_specs if spec.target is not None}
    found = {name: stored[target].detach().cpu() for name, target in targets.items()}
    real = {name: value.double() if value.is_floating_point() else value for name, value in found.items()}
    arguments = (spec.arg for spec in exported.graph_signature.input_specs)
    return real | {one.name: one.value for one in arguments if isinstance(one, ConstantArgument)}


def _read(builder: Builder, refused: Refusals, node: torch.fx.Node, known: dict[str, Any]) -> Any:
    """What `node` makes; where it has no rule, a symbol that stands for it, so that the rest is looked at too."""
    arguments = torch.fx.node.map_arg(node.args, lambda item: known[item.name])
    named = torch.fx.node.map_arg(node.kwargs, lambda item: known[item.name])
    builder.place = _place(node)
    name = _operator(node)
    try:
        if not any(isinstance(item, Symbol) for item in _leaves((arguments, named))):
            return _folded(node, arguments, named)
        if name not in RULES:
            raise Unsupported(Refusals.reason(name))
        with np.errstate(all="ignore"):  # numbers that are not finite are refused by layer
            named = {key: _plain(value) for key, value in named.items()}
            return RULES.read(name, builder, [_plain(item) for item in arguments], **named)
    except Unsupported as reason:
        refused.add(name, builder.place, str(reason))
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        refused.add(name, builder.place, f"not understood: {error}")
    return _stand_in(builder, node)


def _folded(node: torch.fx.Node, arguments: Any, named: Any) -> Any:
    """An operator on constants: PyTorch itself computes it, in float64."""
    assert callable(node.target)
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise Unsupported("random numbers, other ones each time")
    with torch.no_grad():
        made = node.target(*arguments, **named)
    return made.double() if isinstance(made, Tensor) and made.is_floating_point() else made


def _leaves(item: Any) -> list[Any]:
    if isinstance(item, dict):
        return _leaves(list(item.values()))
    return [leaf for part in item for leaf in _leaves(part)] if isinstance(item, list | tuple) else [item]


def _plain(item: Any) -> Any:
    """Tensors as arrays, also within lists."""
    if isinstance(item, Tensor):
        return item.numpy()
    return [_plain(part) for part in item] if isinstance(item, list | tuple) else item


def _place(node: torch.fx.Node) -> str:
    """The path of the module that the operator belongs to."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values()]
    return paths[-1] if paths and paths[-1] else node.name


def _operator(node: torch.fx.Node) -> str:
    """`conv2d` for aten.conv2d.default."""
    if node.target is operator.getitem:
        return "getitem"
    return str(getattr(node.target, "overloadpacket", node.target)).removeprefix("aten.")


def _stand_in(builder: Builder, node: torch.fx.Node) -> Any:
    value = node.meta.get("val")
    if isinstance(value, tuple | list):
        return [_stand_in_for(builder, part) for part in value]
    return _stand_in_for(builder, value)


def _stand_in_for(builder: Builder, value: Any) -> Any:
    if not isinstance(value, Tensor):
        return value
    return builder.stand_in(tuple(value.shape))
