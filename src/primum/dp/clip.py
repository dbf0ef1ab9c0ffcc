"""Per-example gradients, clipped to a norm and summed.

The sum is never divided by the actual batch size: that would let the noise depend on the data. Gradients come from
`torch.func.vmap`; the slow twin in the tests loops over single examples.
"""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from primum.errors import ModelError

MARGIN: Final = 1e-3  # clip to C (1 - 1e-3) in float32, so that the computed sum has sensitivity C too
_BLOCK: Final = 32 * 1024 * 1024  # floats held at once
_MIXING: Final = (nn.modules.batchnorm._BatchNorm,)

Loss = Callable[[Tensor, Tensor], Tensor]


def parameters_of(model: nn.Module) -> dict[str, Tensor]:
    """The trainable parameters by name, detached; their order is the order of the flat vector."""
    return {name: value.detach() for name, value in model.named_parameters() if value.requires_grad}


def flatten(parameters: dict[str, Tensor]) -> Tensor:
    """All parameters in one float32 vector."""
    return torch.cat([value.reshape(-1) for value in parameters.values()])


def validate(model: nn.Module) -> None:
    """Refuse (ModelError) a model in which one example's output depends on another example."""
    for name, module in model.named_modules():
        if isinstance(module, _MIXING):
            raise ModelError(
                f"Layer {name or type(module).__name__} is batch normalisation: it mixes the patients of a batch.",
                "Use group normalisation or none; with batch normalisation no clipping bounds one patient's effect.",
            )


def clipped_sum(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, clipping_norm: float, padded_to: int = 0
) -> Tensor:
    """Sum over examples of min(1, C (1 - 1e-3) / |g|) g, as a flat float64 vector.

    Guarantee: adding or removing one example changes the result by at most C in Euclidean norm. `inputs` [n, ...] and
    `targets` [n]; `loss(logits [1, k], target [1])` gives one example's value. With `padded_to`, rows of zeros are
    added up to that many examples and weighted with 0, so that the work does not show n. A gradient that is not finite
    counts as 0. No examples: zeros.
    """
    validate(model)
    parameters = parameters_of(model)
    dimension = sum(value.numel() for value in parameters.values())
    total = torch.zeros(dimension, dtype=torch.float64)
    inputs, targets, weights = _padded(inputs, targets, padded_to)
    block = max(1, _BLOCK // max(1, dimension))
    for start in range(0, len(inputs), block):
        rows = slice(start, start + block)
        gradients = _per_example(model, loss, parameters, inputs[rows], targets[rows])
        total += _clipped(gradients, weights[rows], clipping_norm * (1 - MARGIN)).sum(0, dtype=torch.float64)
    return total


def _padded(inputs: Tensor, targets: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    missing = max(0, count - len(inputs))
    weights = torch.cat([torch.ones(len(inputs)), torch.zeros(missing)])
    inputs = torch.cat([inputs, inputs.new_zeros(missing, *inputs.shape[1:])])
    return inputs, torch.cat([targets, targets.new_zeros(missing)]), weights


def _per_example(
    model: nn.Module, loss: Loss, parameters: dict[str, Tensor], inputs: Tensor, targets: Tensor
) -> Tensor:
    def value(values: dict[str, Tensor], example: Tensor, target: Tensor) -> Tensor:
        logits: Tensor = functional_call(model, values, (example.unsqueeze(0),))
        return loss(logits, target.unsqueeze(0))

    gradients = vmap(grad(value), in_dims=(None, 0, 0))(parameters, inputs, targets)
    return torch.cat([gradients[name].reshape(len(inputs), -1) for name in parameters], dim=1)


def _clipped(gradients: Tensor, weights: Tensor, norm: float) -> Tensor:
    lengths = torch.linalg.vector_norm(gradients, dim=1)
    factors = torch.where(lengths.isfinite(), (norm / lengths.clamp_min(1e-30)).clamp_max(1.0), 0.0) * weights
    return torch.nan_to_num(gradients, nan=0.0, posinf=0.0, neginf=0.0) * factors.unsqueeze(1)
