"""One linear layer: what is learned on top of the fixed front end."""

import torch
from torch import Tensor, nn


class LinearHead(nn.Module):
    """One linear layer without bias that starts at zero: features float32 [n, dimension] -> [n, outputs].

    `outputs` is 1 for two classes (the logit of class 1; class 0 has logit 0), else the number of classes.
    """

    def __init__(self, dimension: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(outputs, dimension))

    def forward(self, features: Tensor) -> Tensor:
        """Float32 [n, outputs]."""
        return nn.functional.linear(features, self.weight)


def outputs_for(classes: int) -> int:
    """How many outputs a head for `classes` classes has."""
    return 1 if classes == 2 else classes


def logits_of(outputs: Tensor) -> Tensor:
    """One logit per class [n, classes]: a single output z becomes [0, z]."""
    if outputs.shape[1] == 1:
        return torch.cat([torch.zeros_like(outputs), outputs], dim=1)
    return outputs
