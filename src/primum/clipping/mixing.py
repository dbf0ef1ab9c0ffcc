"""What mixes the examples of a batch, so that no clipping bounds one patient's effect: found by kind, and by trying."""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from primum.clipping.capture import Capture
from primum.clipping.rules import RULES
from primum.clipping.single import Inputs
from primum.errors import ModelError

_SAME: Final = 1e-3  # relative; kernels round differently for other batch sizes
_TRIES: Final = 8  # how often a model that draws random numbers is tried: some mix only now and then


def refuse_mixing(model: nn.Module, few: Inputs, more: Inputs, images: int = 1) -> None:
    """ModelError where an example's output changes with the rest of its batch; `more` begins with the rows of `few`."""
    culprit = mixed(model, few, more, images)
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


def mixed(model: nn.Module, few: Inputs, more: Inputs, images: int = 1) -> str | None:
    """The first layer whose output for some rows depends on the others, "" where none does it alone; None: none does.

    `more` begins with the rows of `few`: a longer batch must not change them, nor other rows behind the first `images`,
    whatever the batch at hand happens to hold. A model that draws random numbers is tried with the same draws on both
    sides, several times; None where its draws cannot be repeated.
    """
    changed = tree_map(lambda part: other_rows(part, images), more)
    drawing = is_random(model, few)
    pairs: list[tuple[Inputs, Inputs, int]] = [(more, changed, images)]
    if not drawing:
        pairs.append((few, more, len(_rows(few))))
    with torch.random.fork_rng():  # looking must not change what a model draws afterwards
        for _ in range(_TRIES if drawing else 1):
            draws = _generators(few)
            for one, other, rows in pairs:
                if _parted(model, one, other, rows, draws):
                    return _culprit(model, one, other, rows, draws)
    return None


def _parted(model: nn.Module, one: Inputs, other: Inputs, rows: int, draws: list[Tensor]) -> bool:
    """Whether the first `rows` differ, where they do not differ by themselves."""
    with torch.no_grad():
        first, again, second = (_outputs(model, batch, draws) for batch in (one, one, other))
    return not _differ(first, again, rows) and _differ(first, second, rows)


def _rows(batch: Inputs) -> Tensor:
    return next(part for part in tree_leaves(batch) if isinstance(part, Tensor))


def other_rows(part: Any, kept: int) -> Any:
    """Of a tensor the same first rows, and behind them others than these: reals moved up and down, integers reflected, no turned yes."""
    if not isinstance(part, Tensor) or not part.numel():
        return part
    rest = part[kept:]
    if part.is_floating_point():
        wave = torch.linspace(0, 7, rest.numel(), device=part.device).cos().view_as(rest).to(part.dtype)
        rest = 1.5 * rest + (part.abs().mean() + 0.1) * (wave + 0.5)
    elif part.dtype == torch.bool:
        rest = ~rest
    else:
        rest = part.amax() + part.amin() - rest
    return torch.cat([part[:kept], rest])


def is_random(model: nn.Module, inputs: Inputs) -> bool:
    """Whether the model draws random numbers beside dropout: then no two passes can be compared."""
    with torch.no_grad(), torch.random.fork_rng():
        before = _generators(inputs)
        first, second = _outputs(model, inputs), _outputs(model, inputs)
        moved = any(not torch.equal(*pair) for pair in zip(before, _generators(inputs), strict=True))
        return moved or _differ(first, second)


def _generators(inputs: Inputs) -> list[Tensor]:
    """Where torch's generators stand: of the processor, and of the card that holds the inputs."""
    device = _rows(inputs).device
    return [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]


def _outputs(model: nn.Module, batch: Inputs, draws: list[Tensor] | None = None) -> list[Tensor]:
    """With `draws` the generators are put there first, so that the model draws the same numbers again."""
    if draws:
        torch.set_rng_state(draws[0])
        if len(draws) > 1:
            torch.cuda.set_rng_state(draws[1], _rows(batch).device)
    capture = Capture([], [], 0, 1, RULES)
    capture.still = True
    with capture:
        return [part for part in tree_leaves(model(*batch)) if isinstance(part, Tensor)]


def _differ(few: list[Tensor], more: list[Tensor], rows: int | None = None) -> bool:
    for whole, other in zip(few, more, strict=True):
        if whole.ndim == 0:
            return True
        one = whole[:rows]
        finite = one.isfinite()
        if not torch.equal(finite, other[: len(one)].isfinite()):
            return True
        off = torch.linalg.vector_norm((one - other[: len(one)])[finite].double())
        length = torch.linalg.vector_norm(one[finite].double())
        if bool(off > _SAME * length):
            return True
    return False


def _culprit(model: nn.Module, one: Inputs, other: Inputs, rows: int, draws: list[Tensor]) -> str:
    """The first layer whose output for the first `rows` is another; "" where it is none."""
    seen: dict[str, list[list[Tensor]]] = {}
    handles = []
    for name, module in model.named_modules():
        if not list(module.children()):

            def note(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                seen.setdefault(name, []).append([part for part in tree_leaves(output) if isinstance(part, Tensor)])

            handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            _outputs(model, one, draws), _outputs(model, other, draws)
    finally:
        for handle in handles:
            handle.remove()
    for name, outputs in seen.items():
        half = len(outputs) // 2
        if any(_differ(*pair, rows) for pair in zip(outputs[:half], outputs[half:], strict=False)):
            return name
    return ""
