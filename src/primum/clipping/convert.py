"""A pretrained network with batch normalisation becomes one that can be trained under privacy, its weights kept.

    model = convert(pretrained, "group")
    print(report(pretrained, model, images, labels))       # public images: what the change costs before training

| kind | batch norm becomes | outputs before training |
|---|---|---|
| "frozen" | part of the layer before it; where there is none, a `FrozenNorm` | those of the model in eval() |
| "group" | `FrozenGroupNorm`, or nn.GroupNorm with statistics="own" | changed, less with frozen statistics |
| "normfree" | part of a `ScaledStdConv` before it; where there is none, a `FrozenNorm` | changed, less with a `probe` |

The statistics that are kept must stem from public data: they leave with the model. Patients' data are not needed here.
"""

import copy
from dataclasses import dataclass
from typing import Any, Final, Literal, get_args

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from primum.clipping import layers
from primum.clipping.folding import CONVOLUTIONS, Seen, fold, fold_bias, look, scale_and_shift
from primum.clipping.layers import Folded, FrozenGroupNorm, FrozenNorm
from primum.clipping.validate import Batched, Instance
from primum.errors import ModelError

Kind = Literal["frozen", "group", "normfree"]
Statistics = Literal["frozen", "own"]
_MOST_GROUPS: Final = 32  # Wu and He, "Group normalization", ECCV 2018
_FEWEST_CHANNELS: Final = 8  # a group: with one or two a picture of one place would be erased
_SMALLEST_DEVIATION: Final = 1e-6  # of a channel over the probe: one that is dead stays dead
_STANDARDISED: Final = {
    nn.Conv1d: layers.ScaledStdConv1d,
    nn.Conv2d: layers.ScaledStdConv2d,
    nn.Conv3d: layers.ScaledStdConv3d,
}


def convert(model: nn.Module, kind: Kind, *, statistics: Statistics = "frozen", probe: Any = None) -> nn.Module:
    """A copy of `model` in which no layer mixes examples; see the table above.

    Weights, their names, which of them are trained, device, precision and training mode stay. Instance normalisation
    with running statistics is frozen ("frozen") or loses them. `statistics` matters to "group" only. `probe`, for
    "normfree" only: public examples [n, ...] or a tuple of such, over which gains and biases are set so that each
    channel's mean and deviation are those that batch norm gave it. ModelError for an unknown kind, for layers that have
    not seen their shape yet, and where there are no statistics to freeze.
    """
    _check(model, kind, statistics, probe)
    made = copy.deepcopy(model)
    seen, norms = look(made, (Batched,)), {id(module): module for module in made.modules()}
    new: dict[int, nn.Module] = {}
    for name, module in list(made.named_modules()):
        new |= _replacements(name, module, seen, kind, statistics)
    made = _put_in(made, new)
    if probe is not None:
        fitting = {new[id(layer)]: norms[key] for key, layer in seen.before.items() if id(layer) in new}
        _fit(made, fitting, probe if isinstance(probe, tuple) else (probe,))
    return made


def _check(model: nn.Module, kind: str, statistics: str, probe: Any) -> None:
    for name, value, known in (("kind", kind, Kind), ("statistics", statistics, Statistics)):
        if value not in get_args(known):
            raise ModelError(f"Unknown {name} {value!r} of a conversion.", f"Known here: {', '.join(get_args(known))}.")
    if any(isinstance(value, nn.parameter.UninitializedParameter) for value in model.parameters()):
        raise ModelError("A lazy layer has not seen its shape yet.", "Run the model once on drawn images.")
    if probe is not None and kind != "normfree":
        raise ModelError(f'A probe does nothing for a conversion to "{kind}".', "Leave it out.")


def _replacements(name: str, module: nn.Module, seen: Seen, kind: Kind, statistics: Statistics) -> dict[int, nn.Module]:
    """What stands for `module`, and for the layer before it, by identity of the old."""
    if isinstance(module, Instance) and module.track_running_stats:
        return {id(module): _frozen(name, module) if kind == "frozen" else _without_statistics(module)}
    if isinstance(module, Batched):
        if kind == "group":
            return {id(module): _like(_grouped(module, statistics), module)}
        before = seen.before.get(id(module))
        if before is None or module.running_mean is None:
            return {id(module): _frozen(name, module)}
        return _merged(before, module, kind)
    if isinstance(module, (nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.ELU, nn.SiLU)) and id(module) in seen.on_inputs:
        module.inplace = False  # it would change the caller's batch, of which rows are compared
    return {}


def _put_in(model: nn.Module, new: dict[int, nn.Module]) -> nn.Module:
    """`model` with its layers replaced, also where one stands in several places."""
    if id(model) in new:
        return new[id(model)]
    for module in list(model.modules()):
        for name, child in list(module._modules.items()):
            if child is not None and id(child) in new:
                module._modules[name] = new[id(child)]
    return model


def _like(made: nn.Module, old: Any) -> nn.Module:
    """`made` with the mode, scale and shift of the normalisation `old`."""
    if old.affine:
        made.weight, made.bias = old.weight, old.bias
    return made.train(old.training)


def _grouped(norm: Any, statistics: Statistics) -> nn.Module:
    groups = groups_for(norm.num_features)
    if statistics == "frozen" and norm.running_mean is not None:
        return FrozenGroupNorm(groups, norm.running_mean, norm.running_var, norm.eps, norm.affine)
    return nn.GroupNorm(groups, norm.num_features, norm.eps, norm.affine)


def groups_for(channels: int) -> int:
    """The most groups, 32 at most, that divide `channels` and leave 8 or more to each; 1 where none do."""
    fitting = (groups for groups in range(_MOST_GROUPS, 1, -1) if channels % groups == 0)
    return next((groups for groups in fitting if channels // groups >= _FEWEST_CHANNELS), 1)


def _frozen(name: str, norm: Any) -> nn.Module:
    if norm.running_mean is None:
        raise ModelError(
            f"Layer {name or type(norm).__name__} has no running statistics that could be frozen.",
            'Convert with "group".',
        )
    weight, bias = (norm.weight, norm.bias) if norm.affine else (None, None)
    return FrozenNorm(norm.running_mean, norm.running_var, norm.eps, weight, bias).train(norm.training)


def _without_statistics(norm: Any) -> nn.Module:
    made = type(norm)(norm.num_features, norm.eps, norm.momentum, norm.affine)
    return _like(made, norm)


def _merged(before: Any, norm: Any, kind: Kind) -> dict[int, nn.Module]:
    """`norm` goes into `before`."""
    folded = Folded(2 if isinstance(before, nn.Linear) else 0).train(norm.training)
    if kind == "normfree" and isinstance(before, CONVOLUTIONS) and before.weight[0].numel() > 1:
        return {id(norm): folded, id(before): _scaled(before, norm)}
    fold(before, norm)
    return {id(norm): folded}


def _scaled(convolution: Any, norm: Any) -> nn.Module:
    """The convolution with its weights, standardised, and a gain that restores the scale of `norm` of its output."""
    old, settings = convolution, ("stride", "padding", "dilation", "groups", "padding_mode")
    chosen = {name: getattr(old, name) for name in settings}
    made = _STANDARDISED[type(old)](old.in_channels, old.out_channels, old.kernel_size, bias=False, **chosen)
    scale, _ = scale_and_shift(norm)
    gain = layers.gain_for(old.weight.detach().double(), scale)
    made.weight, trained = old.weight, old.weight.requires_grad
    made.gain = nn.Parameter(gain.to(old.weight), requires_grad=trained)
    made.bias = old.bias
    fold_bias(made, norm)
    return made.train(old.training)


def _fit(model: nn.Module, norms: dict[nn.Module, Any], probe: tuple[Any, ...]) -> None:
    """Each scaled convolution's gain and bias, in the order in which they run: as Salimans and Kingma 2016, section 3.

    A filter loses its mean when it is standardised; its inputs, past an activation, are positive: without this, outputs
    of pretrained filters move.
    """

    def fit(layer: Any, inputs: Any, outputs: Tensor) -> Tensor:
        axes, shape = [0, *range(2, outputs.ndim)], (-1, *[1] * (outputs.ndim - 2))
        mean, norm = outputs.mean(axes), norms[layer]
        deviation = outputs.std(axes).clamp(min=_SMALLEST_DEVIATION)
        wanted = torch.ones_like(mean) if norm.weight is None else norm.weight.abs()
        ratio = wanted / deviation
        shift = -mean * ratio if norm.bias is None else norm.bias - mean * ratio
        layer.gain.mul_(ratio)
        layer.bias.mul_(ratio).add_(shift)
        return outputs * ratio.view(shape) + shift.view(shape)

    handles = [layer.register_forward_hook(fit) for layer in norms]
    try:
        _outputs(model, probe)
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class Comparison:
    """How much the outputs of two models differ on the same inputs, both in eval().

    `difference`: mean over examples of |after - before| / |before|. `agreeing`: share of examples with the same largest
    output. `accuracy_before`, `accuracy_after`: shares of right answers, None without labels.
    """

    difference: float
    agreeing: float
    accuracy_before: float | None = None
    accuracy_after: float | None = None

    def __str__(self) -> str:
        text = f"outputs differ by {self.difference:.2%}, {self.agreeing:.1%} of answers are the same"
        if self.accuracy_before is None or self.accuracy_after is None:
            return text
        return f"{text}, accuracy {self.accuracy_before:.1%} before, {self.accuracy_after:.1%} after"


def compare(before: nn.Module, after: nn.Module, inputs: Any, labels: Tensor | None = None) -> Comparison:
    """What a conversion changed, on a probe of public examples.

    `inputs`: [n, ...] or a tuple of such; `labels`: int64 [n]. The models' outputs: [n, classes, ...]. Nothing is
    written into either. The result is exact and without noise: of patients it must not leave.
    """
    inputs = inputs if isinstance(inputs, tuple) else (inputs,)
    first, second = (_outputs(model, inputs) for model in (before, after))
    rows, others = first.flatten(1).double(), second.flatten(1).double()
    difference = (others - rows).norm(dim=1) / rows.norm(dim=1).clamp(min=torch.finfo(torch.float32).tiny)
    answers = first.argmax(1), second.argmax(1)
    same = _share(answers[0], answers[1])
    if labels is None:
        return Comparison(float(difference.mean()), same)
    return Comparison(float(difference.mean()), same, _share(answers[0], labels), _share(answers[1], labels))


def _share(one: Tensor, other: Tensor) -> float:
    return float((one == other).double().mean())


def _outputs(model: nn.Module, inputs: tuple[Any, ...]) -> Tensor:
    """The first tensor that the model returns, in eval()."""
    modes = {module: module.training for module in model.modules()}
    try:
        with torch.no_grad():
            outputs = model.eval()(*(part.clone() if isinstance(part, Tensor) else part for part in inputs))
    finally:
        for module, training in modes.items():
            module.training = training
    return next(part for part in tree_leaves(outputs) if isinstance(part, Tensor))


def changes(before: nn.Module, after: nn.Module) -> list[tuple[str, str, str]]:
    """Which layers a conversion replaced: name, what it was, what it is."""
    kept = dict(after.named_modules(remove_duplicate=False))
    layers_before = ((name, old) for name, old in before.named_modules(remove_duplicate=False) if not old._modules)
    pairs = ((name, repr(old), repr(kept.get(name))) for name, old in layers_before)
    return [(name or "the model", old, new) for name, old, new in pairs if old != new]


def report(before: nn.Module, after: nn.Module, inputs: Any = None, labels: Tensor | None = None) -> str:
    """What a conversion changed, one line a layer; with `inputs` also what it did to the outputs (see `compare`)."""
    lines = [f"{name}: {old} -> {new}" for name, old, new in changes(before, after)]
    lines = lines or ["no layer was changed"]
    if inputs is not None:
        lines.append(str(compare(before, after, inputs, labels)))
    return "\n".join(lines)
