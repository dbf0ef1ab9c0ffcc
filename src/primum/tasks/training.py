"""The public side of training: momentum and the average of the last weights. All post-processing: no privacy is spent.

In each round the server has a mean gradient g: the noisy sum of clipped gradients over q N, or with local steps minus the
mean difference of weights (`update.py`). Then, in this order,

    velocity <- momentum velocity + g
    weights  <- weights - learning_rate velocity

which with local steps is FedAvg for learning_rate = 1 and momentum = 0, and FedAvgM otherwise (Hsu, Qi, Brown 2019; FedOpt
of Reddi et al. 2021 with the server's optimiser SGD). In the long run a steady g moves the weights by learning_rate /
(1 - momentum) of it. The result is an average of the weights, in both cases: their mean over the last share of the rounds (tail), or a
running mean that forgets, whose weights are as old on average (exponential).
"""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from primum.study import Training

Weights = npt.NDArray[np.float64]


@dataclass
class Optimiser:
    """Gradient descent with momentum, and the mean of the weights over the last share of the rounds."""

    settings: Training
    weights: Weights = field(repr=False)
    velocity: Weights = field(repr=False)
    average: Weights = field(repr=False)
    rounds: int = 0
    averaged: int = 0

    @classmethod
    def start(cls, settings: Training, dimension: int) -> "Optimiser":
        """Weights at zero."""
        return cls(settings, np.zeros(dimension), np.zeros(dimension), np.zeros(dimension))

    def step(self, mean: Weights) -> float:
        """One step along a (noisy) mean gradient; returns its length."""
        self.velocity = self.settings.momentum * self.velocity + mean
        self.weights = self.weights - self.settings.learning_rate * self.velocity
        self.rounds += 1
        window = self.settings.rounds * self.settings.average_last
        forgets = self.settings.averaging == "exponential"
        if forgets or self.rounds > self.settings.rounds - window:
            self.averaged += 1
            share = max(1 / self.averaged, 2 / (window + 1)) if forgets else 1 / self.averaged
            self.average = self.average + (self.weights - self.average) * share
        return float(np.linalg.norm(mean))

    @property
    def result(self) -> Weights:
        """The averaged weights; before averaging has begun, the last ones."""
        return self.average if self.averaged else self.weights

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Everything that a restart needs."""
        counts = np.array([self.rounds, self.averaged], np.float64)
        return {"weights": self.weights, "velocity": self.velocity, "average": self.average, "counts": counts}

    def restore(self, state: dict[str, npt.NDArray[np.float64]]) -> None:
        """Continue from `state()`."""
        self.weights, self.velocity, self.average = state["weights"], state["velocity"], state["average"]
        self.rounds, self.averaged = int(state["counts"][0]), int(state["counts"][1])
