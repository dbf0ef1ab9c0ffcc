"""By how much each unit's gradient is shortened. Every kind bounds a unit's whole contribution by the clipping norm.

| kind | factor of a unit | source |
|---|---|---|
| Flat | min(1, C / norm) | Abadi et al. 2016 |
| PerLayer | for each of L modules min(1, C / sqrt(L) / its norm) | McMahan et al. 2018 |
| Automatic | C / (norm + gamma) | Bu et al. 2023, "Automatic clipping" |

C is taken (1 - 1e-3) long, so that a sum computed in float32 has sensitivity C too. A unit whose gradient is not finite
counts as zero.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Protocol

import torch
from torch import Tensor

MARGIN: Final = 1e-3
_TINY: Final = 1e-30


class Clipping(Protocol):
    """A kind of clipping."""

    def factors(self, squares: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
        """For each parameter's name the factor of each unit, [units], from its squared norms [units]."""


@dataclass(frozen=True)
class Flat:
    """One norm over all parameters."""

    def factors(self, squares: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
        """The same for all parameters."""
        factor = shortened(total(squares), norm)
        return dict.fromkeys(squares, factor)


@dataclass(frozen=True)
class PerLayer:
    """Each module's parameters by themselves, to C / sqrt(modules): nothing of one layer hides behind another."""

    def factors(self, squares: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
        """The same for all parameters of one module."""
        layers: dict[str, dict[str, Tensor]] = {}
        for name, square in squares.items():
            layers.setdefault(name.rpartition(".")[0], {})[name] = square
        finite = total(squares).isfinite()
        share = norm / math.sqrt(max(1, len(layers)))
        chosen = {layer: torch.where(finite, shortened(total(own), share), 0.0) for layer, own in layers.items()}
        return {name: chosen[name.rpartition(".")[0]] for name in squares}


@dataclass(frozen=True)
class Automatic:
    """Every gradient is brought to nearly the norm C; no norm has to be chosen apart from the learning rate."""

    gamma: float = 0.01

    def factors(self, squares: Mapping[str, Tensor], norm: float) -> dict[str, Tensor]:
        """C / (norm + gamma)."""
        lengths = total(squares).sqrt()
        factor = torch.where(lengths.isfinite(), norm * (1 - MARGIN) / (lengths + max(self.gamma, _TINY)), 0.0)
        return dict.fromkeys(squares, factor)


def total(squares: Mapping[str, Tensor]) -> Tensor:
    """Squared norm over several parameters, [units]."""
    return torch.stack(list(squares.values())).sum(0)


def shortened(squares: Tensor, norm: float) -> Tensor:
    """min(1, C (1 - margin) / norm); 0 where the norm is not finite."""
    lengths = squares.sqrt()
    return torch.where(lengths.isfinite(), (norm * (1 - MARGIN) / lengths.clamp_min(_TINY)).clamp_max(1.0), 0.0)
