"""A clipping norm that follows the gradients: a private quantile of their norms (Andrew et al. 2021, algorithm 1).

Each step releases one vector by one Gaussian mechanism: the clipped gradients' sum, and one coordinate more, the sum over
the units of +-kappa C: plus where the unit's gradient is at most C long. A unit moves the sum by at most C and the new
coordinate by exactly kappa C, so the sensitivity is C sqrt(1 + kappa^2), and sigma means what it meant before. So the
norm costs no epsilon: it costs noise, sqrt(1 + kappa^2) times as much, half a percent at kappa = 0.1.

The paper releases the count by a mechanism of its own and makes the gradients' noise larger to keep epsilon; with
sigma_b = sigma sqrt(1 + kappa^2) / (2 kappa) its theorem 1 gives this file's noise.

In use: the `Mechanism` of a step has one coordinate more than the model, and sensitivity `sensitivity(C)`; so has the
`Accountant`, whose noise multiplier stays what it is.

| symbol | what |
|---|---|
| C | the norm now |
| gamma | `quantile`: the share of units whose gradients shall not be clipped |
| eta | `rate`: of the step of log C |
| kappa | how much of the sensitivity the count takes, in norms |
| q N | public expected number of units in a step |
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from primum.errors import InputError


@dataclass(frozen=True)
class QuantileNorm:
    """How the clipping norm follows the gradients; its only state is the norm itself. InputError for a wrong value."""

    start: float
    quantile: float = 0.5
    rate: float = 0.2
    kappa: float = 0.1
    least: float = 1e-6
    most: float = 1e6

    def __post_init__(self) -> None:
        rules = (
            (0 < self.least <= self.start <= self.most < math.inf, "start", "least <= start <= most, all above 0"),
            (0 < self.quantile < 1, "quantile", "between 0 and 1"),
            (0 < self.rate <= 2, "rate", "above 0 and at most 2; 0.2 is usual"),
            (0 < self.kappa <= 1, "kappa", "above 0 and at most 1; 0.1 is usual"),
        )
        for right, name, wanted in rules:
            if not right:
                raise InputError(
                    f"A clipping norm with {name} = {getattr(self, name)} was asked for.", f"Take {wanted}."
                )

    @property
    def cost(self) -> float:
        """The noise is so many times as large as with a fixed norm, at the same epsilon: sqrt(1 + kappa^2)."""
        return math.sqrt(1 + self.kappa**2)

    def sensitivity(self, norm: float) -> float:
        """How far one unit moves the vector of sum and coordinate together, by Euclidean norm."""
        return norm * self.cost

    def coordinate(self, norm: float, unclipped: int, units: int) -> float:
        """The coordinate to add to the sum: `unclipped` of this step's `units` have a gradient of at most `norm`."""
        if not 0 <= unclipped <= units:
            raise ValueError(f"{unclipped} of {units} units cannot be")
        return 2 * self.kappa * norm * (unclipped - units / 2)

    def next(self, norm: float, noisy_coordinate: float, expected_batch: float) -> float:
        """The norm of the next step: post-processing of what was released. `expected_batch` is q N of all hospitals.

        C exp(-eta (b - gamma)), b = 1/2 + coordinate / (2 kappa C q N); between `least` and `most`.
        """
        if not math.isfinite(noisy_coordinate):
            raise ValueError("the noisy coordinate is not a finite number")
        unclipped = 0.5 + noisy_coordinate / (2 * self.kappa * norm * expected_batch)
        power = min(max(-self.rate * (unclipped - self.quantile), -10.0), 10.0)  # no noise can overflow the norm
        return min(max(norm * math.exp(power), self.least), self.most)

    def share_sigma(self, noise_multiplier: float, expected_batch: float) -> float:
        """Standard deviation of the noise in b: above about 0.3 the norm mostly follows noise."""
        return noise_multiplier * self.cost / (2 * self.kappa * expected_batch)

    def state(self, norm: float) -> dict[str, Any]:
        """The norm now, with the settings it belongs to; plain values for JSON."""
        return {**asdict(self), "norm": norm}

    def restore(self, state: dict[str, Any]) -> float:
        """The norm in `state`; InputError that names the setting where it belongs to others."""
        for name, value in asdict(self).items():
            if state.get(name) != value:
                raise InputError(
                    f"The saved norm has {name} = {state.get(name)!r}, this study {value!r}.",
                    "Go on with the settings that the study began with.",
                )
        norm = state.get("norm")
        if not isinstance(norm, float | int) or not self.least <= norm <= self.most:
            raise InputError(f"The saved norm is {norm!r}.", f"{self.least:g} to {self.most:g} is possible.")
        return float(norm)
