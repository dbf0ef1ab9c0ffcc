"""What stands in a model's way to private training, layer by layer, before anything is computed on patients.

    for finding in validate(model):
        print(finding)

| `matter` | what | what `Clipper` does |
|---|---|---|
| privacy | mixes examples, or keeps what it saw of them | refuses |
| repeatable | another pass over the same example gives something else | refuses |
| accuracy | erases what the network computed | refuses where nothing is left |
| speed | no fast rule: gradients by vmap | says so once |

With a batch of inputs (drawn ones will do) the model is run, and what depends on shapes is found, too. `convert` mends
the first kind.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.utils._pytree import tree_leaves, tree_map

from primum.clipping.capture import Capture, Unruled, refuse_unseen
from primum.clipping.mixing import mixed
from primum.clipping.rules import RULES
from primum.clipping.single import Inputs, rows_of, trainable
from primum.errors import ModelError

Matter = Literal["privacy", "repeatable", "accuracy", "speed"]
Batched: Final = nn.modules.batchnorm._BatchNorm
Instance: Final = nn.modules.instancenorm._InstanceNorm
_SLOW: Final = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention, nn.Bilinear, nn.EmbeddingBag)


@dataclass(frozen=True)
class Finding:
    """One thing that stands in the way: the layer's name, what it is, why it is a problem, what to use instead."""

    layer: str
    kind: str
    problem: str
    instead: str
    matter: Matter = "privacy"

    @property
    def refused(self) -> bool:
        """Whether a `Clipper` refuses the model for it."""
        return self.matter in ("privacy", "repeatable")

    def __str__(self) -> str:
        return f"{self.layer} ({self.kind}): {self.problem} {self.instead}"


def validate(model: nn.Module, inputs: Any = None) -> list[Finding]:
    """Everything that stands in the way of private training, in the order of the model's layers.

    `inputs`: [n, ...] with n at least 3, or a tuple of such, on the model's device; without them only what can be told
    from the layers is found; so it is as long as a layer has to be refused. The model stays as it is. ValueError for fewer rows.
    """
    findings = list(of_layers(model))
    if inputs is None or any(finding.refused for finding in findings):
        return [*findings, *_slow_by_kind(model)]
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    if min(len(part) for part in tree_leaves(inputs) if isinstance(part, Tensor)) < 3:
        raise ValueError("to see whether examples mix, at least 3 of them are needed")
    with torch.random.fork_rng():
        findings += _mixing(model, inputs)
        calls = _calls(model, inputs)
        return [*findings, *_erasing(model, calls), *_slow_by_trying(model, calls)]


def refuse_layers(model: nn.Module) -> None:
    """ModelError for the first layer that is known to mix examples, or to change with every pass, by name."""
    for finding in of_layers(model):
        if finding.refused:
            raise ModelError(f"Layer {finding.layer} is {finding.kind}: {finding.problem}", finding.instead)


def of_layers(model: nn.Module) -> Iterator[Finding]:
    """What can be told from the layers alone."""
    for name, module in model.named_modules():
        for check in (_batch_norm, _instance_norm, _spectral_norm):
            found = check(module)
            if found is not None:
                yield Finding(name or type(module).__name__, *found)


Found = tuple[str, str, str, Matter] | None


def _batch_norm(module: nn.Module) -> Found:
    if not isinstance(module, Batched) or not (module.training or module.running_mean is None):
        return None
    kind = "batch normalisation"
    if isinstance(module, nn.SyncBatchNorm):
        kind = "batch normalisation over several machines"
    return (
        kind,
        "it mixes the patients of a batch; no clipping bounds one patient's effect.",
        'Use primum.clipping.convert: "group" for group normalisation, "frozen" for fixed statistics.',
        "privacy",
    )


def _instance_norm(module: nn.Module) -> Found:
    if not isinstance(module, Instance) or not module.track_running_stats:
        return None
    return (
        "instance normalisation with running statistics",
        "it keeps what it sees of patients: they would leave without noise.",
        "Set track_running_stats=False, or use primum.clipping.convert.",
        "privacy",
    )


def _spectral_norm(module: nn.Module) -> Found:
    new = isinstance(module, parametrizations._SpectralNorm)
    old = any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
    if not module.training or not (new or old):
        return None
    return (
        "spectral normalisation",
        "each pass takes a step of its power iteration, so that another pass over the same example differs.",
        "Use parametrizations.weight_norm or ScaledStdConv2d, or freeze the iteration with eval().",
        "repeatable",
    )


def _slow_by_kind(model: nn.Module) -> Iterator[Finding]:
    for name, module in model.named_modules():
        if isinstance(module, _SLOW) and any(True for _ in trainable(module)):
            yield _slow(name, module, type(module).__name__)


def _slow(name: str, module: nn.Module, reason: str) -> Finding:
    return Finding(
        name or type(module).__name__,
        type(module).__name__,
        f"No fast rule for {reason}: the whole model's gradients are taken by vmap, which is slower.",
        "It trains all the same.",
        "speed",
    )


def _mixing(model: nn.Module, inputs: Inputs) -> list[Finding]:
    culprit = mixed(model, rows_of(inputs, slice(0, 2)), rows_of(inputs, slice(0, 3)))
    if culprit is None:
        return []
    kind = type(model.get_submodule(culprit)).__name__ if culprit else "the model's own forward"
    problem = "an example's output changes with the other examples of its batch."
    return [Finding(culprit or type(model).__name__, kind, problem, "Use what looks at one example at a time.")]


Calls = dict[str, tuple[tuple[Any, ...], dict[str, Any]]]


def _calls(model: nn.Module, inputs: Inputs) -> Calls:
    """What each layer was first called with. Copies, because a layer in place may change them afterwards."""
    calls: Calls = {}
    handles = []
    for name, module in model.named_modules():

        def note(module: nn.Module, args: Any, kwargs: Any, name: str = name) -> None:
            calls.setdefault(name, (_copied(args), _copied(kwargs)))

        handles.append(module.register_forward_pre_hook(note, with_kwargs=True))
    held = {name: value.clone() for name, value in model.named_buffers()}
    try:
        with torch.no_grad():
            model(*_copied(rows_of(inputs, slice(0, 3))))
    finally:
        for handle in handles:
            handle.remove()
        for name, value in model.named_buffers():
            value.data.copy_(held[name])
    return calls


def _copied(value: Any) -> Any:
    return tree_map(lambda part: part.clone() if isinstance(part, Tensor) else part, value)


def _erasing(model: nn.Module, calls: Calls) -> Iterator[Finding]:
    """Normalisations that see one or two values at a time: one becomes 0, two become -1 and 1."""
    for name, (args, _) in calls.items():
        module, values = model.get_submodule(name), 0
        if not args or not isinstance(args[0], Tensor) or args[0].ndim < 2:
            continue
        places = args[0][0, 0].numel()
        if isinstance(module, nn.GroupNorm):
            values = module.num_channels // module.num_groups * places
        elif isinstance(module, Instance):
            values = places
        elif isinstance(module, nn.LayerNorm):
            values = torch.Size(module.normalized_shape).numel()
        if 0 < values <= 2:
            what = "1 value, which becomes 0" if values == 1 else "2 values, which become -1 and 1"
            problem = f"each group holds {what} whatever the picture."
            yield Finding(
                name, type(module).__name__, problem, "Use fewer groups, with 8 values or more each.", "accuracy"
            )


def _slow_by_trying(model: nn.Module, calls: Calls) -> Iterator[Finding]:
    """Layers with parameters of their own, each run by itself under the rules; what these refuse is found elsewhere."""
    for name, (args, kwargs) in calls.items():
        module = model.get_submodule(name)
        own = any(value.requires_grad for value in module.parameters(recurse=False))
        if not own or isinstance(module, parametrize.ParametrizationList):
            continue
        rows = next((len(part) for part in tree_leaves((args, kwargs)) if isinstance(part, Tensor)), 0)
        fixed = [*module.buffers(), *(value for value in module.parameters() if not value.requires_grad)]
        try:
            with (
                suppress(ModelError),
                torch.enable_grad(),
                Capture(list(trainable(module).values()), fixed, rows, 1, RULES),
            ):
                outputs = module(*args, **kwargs)
                refuse_unseen(outputs, trainable(module))
        except Unruled as reason:
            yield _slow(name, module, str(reason))
