"""Layers that look at one example at a time, made from pretrained ones that did not (`convert.py`).

| layer | stands for | keeps |
|---|---|---|
| `FrozenNorm` | batch norm | its statistics, scale and shift; train() changes nothing |
| `FrozenGroupNorm` | batch norm | the same, and group norm between statistics and scale |
| `Folded` | a batch norm that went into the layer before it | nothing |
| `ScaledStdConv1d`, `2d`, `3d` | a convolution and its batch norm | weights, and the scale of the output |

Frozen statistics are constants of the model: they must stem from public data.
"""

from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import wrap_torch_function

from primum.errors import ModelError

_SMALLEST: Final = 1e-4  # of variance times inputs: a constant filter is not blown up (Brock et al. 2021, appendix)


class FrozenNorm(nn.Module):
    """Batch normalisation with the statistics that it has: y = (x - mean) / sqrt(var + eps) * weight + bias.

    x: [n, C, ...]. `weight` and `bias` [C] may be trained or missing; the statistics [C] never move.
    """

    running_mean: Tensor
    running_var: Tensor
    weight: nn.Parameter | None
    bias: nn.Parameter | None

    def __init__(
        self, mean: Tensor, variance: Tensor, eps: float, weight: nn.Parameter | None, bias: nn.Parameter | None
    ) -> None:
        super().__init__()
        self.register_buffer("running_mean", mean.detach().clone())
        self.register_buffer("running_var", variance.detach().clone())
        self.register_parameter("weight", weight)
        self.register_parameter("bias", bias)
        self.eps = eps

    def forward(self, inputs: Tensor) -> Tensor:
        """Float, the shape of `inputs`."""
        statistics = self.running_mean, self.running_var
        return functional.batch_norm(inputs, *statistics, self.weight, self.bias, False, 0.0, self.eps)

    def extra_repr(self) -> str:
        """Channels, for print(model)."""
        return f"{len(self.running_mean)}, eps={self.eps}"


class FrozenGroupNorm(nn.GroupNorm):
    """Each channel by its frozen statistics, then group normalisation.

    Where an example looks like those of which the statistics stem, the second step changes little, so that pretrained
    weights stay of use; an example from another camera is brought to scale by itself.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, groups: int, mean: Tensor, variance: Tensor, eps: float, affine: bool) -> None:
        super().__init__(groups, len(mean), eps, affine, mean.device, mean.dtype)
        self.register_buffer("running_mean", mean.detach().clone())
        self.register_buffer("running_var", variance.detach().clone())

    def forward(self, input: Tensor) -> Tensor:
        """Float, the shape of `input` [n, C, ...]."""
        return super().forward(
            functional.batch_norm(input, self.running_mean, self.running_var, None, None, False, 0.0, self.eps)
        )


class Folded(nn.Module):
    """The place of a normalisation that was folded into the layer before it: returns its input.

    `axes`: how many the input has to have, else ModelError (a linear layer's channels are its last axis, a
    normalisation's the second: the same only where there are two). 0: any.
    """

    def __init__(self, axes: int = 0) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, inputs: Tensor) -> Tensor:
        """`inputs`, the same tensor."""
        if self.axes and inputs.ndim != self.axes:
            raise ModelError(
                f"A folded normalisation was given {inputs.ndim} axes, it holds for {self.axes}.",
                'Convert with "group", or give the linear layer inputs of two axes.',
            )
        return inputs

    def extra_repr(self) -> str:
        """What it asks for."""
        return f"axes={self.axes}" if self.axes else ""


@wrap_torch_function(lambda weight, gain: (weight, gain))
def standardised(weight: Tensor, gain: Tensor) -> Tensor:
    """Each filter less its mean, over its deviation times the root of its size, times its gain.

    `weight`: float [O, C / groups, *kernel], `gain`: float [O]. A filter's sum is 0 and its length its gain, so that
    inputs of mean 0 and deviation 1 give outputs of deviation gain (Brock, De and Smith, "Characterizing signal
    propagation to close the performance gap in unnormalized ResNets", ICLR 2021, eq. 4).
    """
    result: Tensor = _Standardised.apply(weight.flatten(1), gain)  # type: ignore[no-untyped-call]
    return result.view_as(weight)


class _Standardised(torch.autograd.Function):
    """The same of rows [O, K], with its slope in closed form: a clipped step pulls back one slope an example."""

    generate_vmap_rule = True

    @staticmethod
    def forward(rows: Tensor, gain: Tensor) -> Tensor:
        centred = rows - rows.mean(1, keepdim=True)
        return centred * (inverse_length(centred) * gain).unsqueeze(1)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> tuple[Tensor, Tensor]:
        """Less its part along the constants and along the filter, times gain / length."""
        rows, gain = ctx.saved_tensors
        centred = rows - rows.mean(1, keepdim=True)
        inverse = inverse_length(centred)
        along = (slopes[0] * centred).sum(1) * inverse
        free = centred.square().sum(1) > _SMALLEST  # else the length is held, and does not turn the slope
        turned = (along * inverse * free).unsqueeze(-1)
        slope = slopes[0] - slopes[0].mean(-1, keepdim=True)
        slope -= turned * centred
        slope *= (inverse * gain).unsqueeze(1)
        return slope, along


def inverse_length(centred: Tensor) -> Tensor:
    """One over each row's length, of rows [O, K] of mean 0; a row without a length is held to a tiny one."""
    return centred.square().sum(1).clamp(min=_SMALLEST).rsqrt()


def gain_for(weight: Tensor, scale: Tensor) -> Tensor:
    """The gain [O] with which `standardised` gives the centred `weight` times `scale` [O]."""
    rows = weight.flatten(1)
    return scale / inverse_length(rows - rows.mean(1, keepdim=True))


class _ScaledStd(nn.modules.conv._ConvNd):
    """What the three have in common: the weight is standardised anew in each pass, `gain` [O] is learned."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        if self.weight[0].numel() < 2:
            raise ModelError(
                "A filter of one value cannot be standardised: less its mean it is 0.", "Use a plain convolution."
            )
        self.gain = nn.Parameter(torch.ones(self.out_channels, device=self.weight.device, dtype=self.weight.dtype))

    def forward(self, input: Tensor) -> Tensor:
        """Float [n, O, ...]."""
        return self._conv_forward(input, standardised(self.weight, self.gain), self.bias)


class ScaledStdConv1d(_ScaledStd, nn.Conv1d):
    """nn.Conv1d with a standardised weight and a learned gain for each output: no normalisation is needed after it."""


class ScaledStdConv2d(_ScaledStd, nn.Conv2d):
    """nn.Conv2d with a standardised weight and a learned gain for each output: no normalisation is needed after it."""


class ScaledStdConv3d(_ScaledStd, nn.Conv3d):
    """nn.Conv3d with a standardised weight and a learned gain for each output: no normalisation is needed after it."""
