"""One linear layer: what is learned on top of the fixed front end."""

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """One linear layer without bias that starts at zero: features float32 [n, dimension] -> [n, outputs].

    What they mean: `answers.py`.
    """

    def __init__(self, dimension: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, dimension))

    def forward(self, features: Tensor) -> Tensor:
        """Float32 [n, outputs]."""
        return nn.functional.linear(features, self.weight)


def logits_of(outputs: Tensor) -> Tensor:
    """Of one class an image or pixel, one logit per class [n, classes]: a single output z becomes [0, z]."""
    if outputs.shape[1] == 1:
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    return outputs
