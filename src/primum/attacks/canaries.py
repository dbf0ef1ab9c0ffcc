"""Patients made to be found, among those of a federation; what an attacker hears of them, and how sure he can be.

The attacker is the strongest one that the promise covers: the server together with the hospitals that may collude. He
knows every patient but the coins of the canaries, sees each round's sum less what the colluding hospitals put in, and
(as a server that lies) may choose the weights that it sends out. He does not see samples or honest noise.

White box (Nasr et al. 2023): each canary's features point in a direction of their own that other patients hardly use.
Its gradient (p - y) x is longer than the clipping norm, so a step in which it is sampled moves the sum by exactly that
norm along a known direction. Heard of it: the sum along that direction, in clipping norms: 1 if it was in the step, 0
if not, and noise of the noise multiplier. Black box: the loss of a canary, best one with a wrong label, under the final
model.

| symbol | what |
|---|---|
| T, m, d | rounds, canaries, dimension |
| q, sigma | sampling rate, noise multiplier of the noise that is in what he sees |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from primum import ring
from primum.errors import InputError
from primum.rng import Stream
from primum.tasks.classification import loss
from primum.tasks.learner import Cohort, Learner
from primum.tasks.plan import Plan
from primum.tasks.training import Optimiser
from primum.tasks.update import GradientSum

Reals = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]
Integers = npt.NDArray[np.int32]


@dataclass(frozen=True)
class Canaries:
    """m patients of one image each, for two classes; `included` are the coins, secret until the guesses are made."""

    features: Tensor = field(repr=False)
    labels: Tensor = field(repr=False)
    included: Coins = field(repr=False)

    @classmethod
    def draw(cls, features: Tensor, labels: Tensor, stream: Stream) -> "Canaries":
        """One coin for each row: features float32 [m, d], labels int64 [m]."""
        return cls(features, labels, stream.bernoulli(0.5, len(features)))

    def __len__(self) -> int:
        return len(self.features)

    def join(self, cohort: Cohort) -> Cohort:
        """The hospital's patients and, behind them, the canaries whose coin says "in"."""
        chosen = torch.from_numpy(np.flatnonzero(self.included))
        names = tuple(f"canary {place}" for place in chosen.tolist())
        features = torch.cat([cohort.features[:], self.features[chosen]])
        return Cohort(features, torch.cat([cohort.labels, self.labels[chosen]]), (*cohort.patients, *names))

    def along(self, vector: Reals) -> Reals:
        """A sum of gradients [d] along each canary's own gradient, [m]: positive where it was in."""
        found: Reals = self._directions @ vector
        return found

    @cached_property
    def _directions(self) -> Reals:
        """Unit vectors along the canaries' gradients, [m, d]."""
        rows = self.features.double().numpy()
        signs = 1 - 2 * self.labels.numpy()
        unit: Reals = rows * (signs / np.linalg.norm(rows, axis=1))[:, np.newaxis]
        return unit

    def unlikely(self, weights: npt.NDArray[np.float32]) -> Reals:
        """Minus each canary's loss under a model [d], [m]: what a black box shows, larger where it was in."""
        logits = self.features @ torch.from_numpy(weights).unsqueeze(1)
        scores: Reals = -loss(logits, self.labels).double().numpy()
        return scores


@dataclass(frozen=True)
class Heard:
    """`steps` float64 [T, m]: each round's sum along each canary, in clipping norms; `weights` [d]: the final model."""

    steps: Reals = field(repr=False)
    weights: npt.NDArray[np.float32] = field(repr=False)


Served = Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]


def honestly(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A server that sends the weights that there are."""
    return weights


def zeros(weights: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """A server that lies: at weights of zero every gradient is as long as it ever is."""
    return np.zeros_like(weights)


def listen(
    plan: Plan, learners: Sequence[Learner], canaries: Canaries, honest: int, served: Served = honestly
) -> Heard:
    """Train as the federation does and listen: the first `honest` learners are those that do not collude.

    Integers are added in the ring of the study; masks are left out: the attacker sees the sum in clear anyway.
    InputError for a study of local steps: there a hospital's sum of gradients never leaves it.
    """
    update = plan.update
    if not isinstance(update, GradientSum):
        raise InputError("Canaries are heard in sums of gradients.", "Set training.local_steps = 1.")
    norm, steps = 1.0 if plan.quantile_norm else plan.study.training.clipping_norm, []
    optimiser = Optimiser.start(plan.study.training, plan.first_weights())
    for _ in range(plan.study.training.rounds):
        weights = optimiser.with_norm(served(optimiser.weights.astype(np.float32)))
        vectors = [learner.step(weights) for learner in learners]
        seen = update.mechanism.restore(_sum(vectors[:honest], update.shape.bits))
        steps.append(canaries.along(seen[: plan.dimension]) / norm)
        optimiser.step(update.mean_gradient(_sum(vectors, update.shape.bits), len(learners)))
    return Heard(np.array(steps), optimiser.result.astype(np.float32))


def _sum(vectors: Sequence[Integers], bits: int) -> Integers:
    """In the ring, as masked vectors are added."""
    elements = [ring.from_signed(vector.astype(np.int64), bits) for vector in vectors]
    return ring.to_signed(sum(elements[1:], elements[0]) & ring.mask(bits), bits).astype(np.int32)


def by_sum(heard: Reals) -> Reals:
    """The sum over all steps: [T, m] -> [m]."""
    total: Reals = heard.sum(0)
    return total


def by_likelihood(heard: Reals, q: float, sigma: float) -> Reals:
    """The logarithm of the likelihood ratio, the best score there is if noise is as claimed: [T, m] -> [m].

    Sum over steps of log(1 - q + q exp((2 h - 1) / 2 sigma^2)).
    """
    each = np.logaddexp(np.log1p(-q) if q < 1 else -np.inf, np.log(q) + (2 * heard - 1) / (2 * sigma**2))
    total: Reals = each.sum(0)
    return total


def by_spread(heard: Reals) -> Reals:
    """The variance over steps: [T, m] -> [m]. Noise that is the same in each step drops out; sampling does not."""
    spread: Reals = heard.var(0)
    return spread


def quiet_directions(features: Tensor, count: int) -> Tensor:
    """The `count` directions of features [n, d] with the least in them: float32 [count, d], orthonormal.

    The last eigenvectors of the second moments; canaries there disturb nobody and are disturbed by nobody. ValueError
    where there are fewer directions.
    """
    if not 0 < count <= features.shape[1]:
        raise ValueError(f"{count} directions of {features.shape[1]}")
    moments = features.double().T @ features.double()
    directions: Tensor = torch.linalg.eigh(moments).eigenvectors[:, :count].T.float().contiguous()
    return directions
