"""A small federation of drawn patients with canaries, and hospitals that are broken on purpose."""

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import numpy.typing as npt
import torch

from primum.attacks import Canaries
from primum.clipping import Clipper
from primum.dp import Budget, account
from primum.models.linear import LinearHead
from primum.rng import Stream
from primum.study import About, Hospitals, Images, Privacy, Study, Training
from primum.study.kinds import Model
from primum.tasks.classification import loss
from primum.tasks.learner import Cohort, Learner
from primum.tasks.plan import Plan

MEMBERS = tuple(f"{place:064x}" for place in (1, 2, 3))
HONEST = 2  # of three; the third one tells the server all that it knows
USED = 25  # coordinates that ordinary patients use
Integers = npt.NDArray[np.int32]


@lru_cache
def study(epsilon: float, rounds: int = 30, sampling: float = 0.2, patients: int = 1000) -> Study:
    """1,250 weights, one image a patient; the smallest noise that is enough, on a wider grid than a real study's."""
    return noised(
        Study(
            study=About(name="audit", purpose="a test", classes=("a", "b")),
            images=Images(size=28),
            model=Model(scales=2, angles=4),
            training=Training(rounds=rounds, sampling=sampling, clipping_norm=0.25, learning_rate=4.0),
            privacy=Privacy(
                unit="image",
                images_per_patient=1,
                epsilon=epsilon,
                delta=1e-5,
                patients=patients,
                looks=0,
                evaluation_share=0.0,
            ),
            hospitals=Hospitals(members=MEMBERS, colluding=1),
        )
    )


def noised(asked: Study) -> Study:
    """As `resolve` does it, quicker."""
    plan = Plan(asked)
    assert asked.privacy
    budget = Budget(asked.privacy.epsilon, plan.accounted_delta)
    sigma = account.calibrate(budget, plan.most_steps, asked.training.sampling, interval=5e-3)
    multiplier = plan.multiplier_for(sigma)
    return asked.model_copy(update={"privacy": asked.privacy.model_copy(update={"noise_multiplier": multiplier})})


def with_noise(honest: Study, factor: float) -> Plan:
    """The plan of a study whose hospitals draw noise of another width than it says."""
    assert honest.privacy
    multiplier = honest.privacy.noise_multiplier * factor
    return Plan(
        honest.model_copy(update={"privacy": honest.privacy.model_copy(update={"noise_multiplier": multiplier})})
    )


def patients(plan: Plan, count: int, name: str) -> Cohort:
    """Two classes apart along one direction, in the first coordinates alone; features of length below 1."""
    stream = Stream.from_os()
    labels = torch.from_numpy(stream.bernoulli(0.5, count).astype(np.int64))
    features = torch.zeros(count, plan.front_end.dimension)
    features[:, :USED] = torch.from_numpy(stream.uniform((count, USED)).astype(np.float32)) - 0.5
    features[:, 0] += 1.5 * (2.0 * labels - 1)
    features /= 1.001 * features.norm(dim=1, keepdim=True).clamp_min(1.0)
    return Cohort(features, labels, tuple(f"{name} {place}" for place in range(count)))


def canaries(plan: Plan, count: int, length: float = 1.0) -> Canaries:
    """One coordinate each, not used by ordinary patients; labels in turn."""
    assert count <= plan.dimension - USED
    features = torch.zeros(count, plan.dimension)
    features[torch.arange(count), USED + torch.arange(count)] = length
    return Canaries.draw(features, torch.arange(count) % 2, Stream.from_os())


Making = Callable[[Plan, Cohort], Learner]


def learners(plan: Plan, birds: Canaries, making: Making = Learner) -> list[Learner]:
    """Three hospitals; canaries are dealt to the first, which does not collude."""
    cohorts = [patients(plan, 80, str(number)) for number in range(3)]
    cohorts[0] = birds.join(cohorts[0])
    return [making(plan, cohort) for cohort in cohorts]


class WithoutNoise(Learner):
    """Rounds, and draws no noise."""

    def step(self, weights: npt.NDArray[np.float32]) -> Integers:
        scaled = self.gradient(weights) * self._plan.training.scale
        return np.rint(scaled).astype(np.int32)


class WithoutClipping(Learner):
    """Takes every gradient as long as it is."""

    def __init__(self, plan: Plan, cohort: Cohort) -> None:
        super().__init__(plan, cohort)
        self._clipper = Clipper(LinearHead(plan.front_end.dimension, plan.outputs), loss, 1e6, rows=4096)
        self._head = self._clipper.model  # type: ignore[assignment]


class SameNoise(Learner):
    """Draws the same noise in each step, as deepee does with its `seed`."""

    def __init__(self, plan: Plan, cohort: Cohort) -> None:
        super().__init__(plan, cohort)
        self._key = Stream.from_os().bytes(32)

    def step(self, weights: npt.NDArray[np.float32]) -> Integers:
        return self._plan.training.share(self.gradient(weights), Stream(self._key))


class PublicNoise(Learner):
    """Draws its noise from a seed that everybody knows, as PriMIA does with `deterministic = yes`."""

    def __init__(self, plan: Plan, cohort: Cohort) -> None:
        super().__init__(plan, cohort)
        self._public = Stream.public("42")

    def step(self, weights: npt.NDArray[np.float32]) -> Integers:
        return self._plan.training.share(self.gradient(weights), self._public)
