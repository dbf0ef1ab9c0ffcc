"""The public side of training: momentum and the average of the last weights. All post-processing: no privacy is spent.

In each round the server has a mean gradient g: the noisy sum of clipped gradients over q N, or with local steps minus the
mean difference of weights (`update.py`). Then, in this order,

    velocity <- momentum velocity + g
    weights  <- weights - learning_rate velocity

which with local steps is FedAvg for learning_rate = 1 and momentum = 0, and FedAvgM otherwise (Hsu, Qi, Brown 2019;
FedOpt of Reddi et al. 2021 with the server's optimiser SGD). In the long run a steady g moves the weights by
learning_rate / (1 - momentum) of it. Adam (Kingma and Ba, ICLR 2015, algorithm 1, beta_1 = momentum, beta_2 = 0.999)
steps along the running mean of g over the root of the running mean of its squares instead: for networks, whose layers
have gradients of very different lengths. With a cosine the rate of round t of T is learning_rate (1 + cos(pi t / T)) /
2. The result is an average of the weights, in both cases: their mean over the last share of the rounds (tail), or a
running mean that forgets, whose weights are as old on average (exponential).
"""

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from primum.dp.quantile import QuantileNorm
from primum.study import Training

Weights = npt.NDArray[np.float64]
_MEDIAN: Final = 0.5
_FORGETS: Final = 0.999  # beta_2 of Adam
_TINY: Final = 1e-8
_FURTHEST: Final = 1e4  # times its first value, or one part of it, a clipping norm may become


def quantile_norm(settings: Training) -> QuantileNorm | None:
    """How the clipping norm follows the gradients; None where it stays what it is."""
    if settings.clipping != "adaptive":
        return None
    start, quantile = settings.clipping_norm, settings.clipping_quantile or _MEDIAN
    return QuantileNorm(start, quantile, least=start / _FURTHEST, most=start * _FURTHEST)


@dataclass
class Optimiser:
    """Gradient descent with momentum, and the mean of the weights over the last share of the rounds."""

    settings: Training
    weights: Weights = field(repr=False)
    velocity: Weights = field(repr=False)
    average: Weights = field(repr=False)
    squares: Weights = field(repr=False)
    rounds: int = 0
    averaged: int = 0
    norm: float | None = None

    @classmethod
    def start(cls, settings: Training, first: npt.NDArray[np.floating]) -> "Optimiser":
        """From the weights `first` [dimension]."""
        weights, follows = first.astype(np.float64), quantile_norm(settings)
        squares = np.zeros(len(weights) if settings.optimiser == "adam" else 0)
        norm = float(np.float32(follows.start)) if follows else None
        return cls(settings, weights, np.zeros(len(weights)), np.zeros(len(weights)), squares, norm=norm)

    @property
    def sent(self) -> npt.NDArray[np.float32]:
        """What a hospital needs for a round: the weights, and where it follows the gradients the clipping norm."""
        return self.with_norm(self.weights.astype(np.float32))

    def with_norm(self, weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Other weights in place of these."""
        return weights if self.norm is None else np.append(weights, np.float32(self.norm))

    def step(self, mean: Weights, counting: float = 1.0) -> float:
        """One step along a (noisy) mean gradient over `counting` (`Plan.mean_counting`); returns its length.

        Where the clipping norm follows the gradients `mean` is in norms, [dimension + 1]: the last says how many of them
        are short.
        """
        follows = quantile_norm(self.settings)
        if follows and self.norm is not None:
            norm = self.norm
            self.norm = float(np.float32(follows.next(norm, float(mean[-1]) * norm, 1.0)))
            mean = mean[:-1] * norm
        mean = mean / counting
        self.weights = self.weights - self._rate * self._direction(mean)
        self.rounds += 1
        window = self.settings.rounds * self.settings.average_last
        forgets = self.settings.averaging == "exponential"
        if forgets or self.rounds > self.settings.rounds - window:
            self.averaged += 1
            share = max(1 / self.averaged, 2 / (window + 1)) if forgets else 1 / self.averaged
            self.average = self.average + (self.weights - self.average) * share
        return float(np.linalg.norm(mean))

    @property
    def _rate(self) -> float:
        rate, done = self.settings.learning_rate, self.rounds / self.settings.rounds
        return rate * (1 + math.cos(math.pi * min(1.0, done))) / 2 if self.settings.schedule == "cosine" else rate

    def _direction(self, mean: Weights) -> Weights:
        momentum = self.settings.momentum
        if self.settings.optimiser == "momentum":
            self.velocity = momentum * self.velocity + mean
            return self.velocity
        self.velocity = momentum * self.velocity + (1 - momentum) * mean
        self.squares = _FORGETS * self.squares + (1 - _FORGETS) * mean**2
        steps = self.rounds + 1
        size = np.sqrt(self.squares / (1 - _FORGETS**steps))
        direction: Weights = self.velocity / (1 - momentum**steps) / (size + _TINY)
        return direction

    @property
    def result(self) -> Weights:
        """The averaged weights; before averaging has begun, the last ones."""
        return self.average if self.averaged else self.weights

    def state(self) -> dict[str, npt.NDArray[np.float64]]:
        """Everything that a restart needs."""
        counts = np.array([self.rounds, self.averaged, *(() if self.norm is None else (self.norm,))], np.float64)
        vectors = {"weights": self.weights, "velocity": self.velocity, "average": self.average, "squares": self.squares}
        return {**vectors, "counts": counts}

    def restore(self, state: dict[str, npt.NDArray[np.float64]]) -> None:
        """Continue from `state()`."""
        self.weights, self.velocity, self.average = state["weights"], state["velocity"], state["average"]
        self.squares = state.get("squares", self.squares)  # checkpoints of earlier versions have none
        self.rounds, self.averaged = int(state["counts"][0]), int(state["counts"][1])
        self.norm = float(state["counts"][2]) if self.norm is not None else None
