"""Everything that follows from a study; hospitals and coordinator compute the same from the same text."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from primum.dp import account, histogram
from primum.dp.account import Budget, Steps
from primum.dp.mechanism import Mechanism
from primum.dp.sampling import public_maximum
from primum.errors import StudyError
from primum.models.linear import outputs_for
from primum.models.scattering import FrontEnd
from primum.secagg.setup import Setup
from primum.study import Study

_PLAIN_PATIENTS: Final = 1_000_000  # in all, where a study without privacy names no number
_RESOLUTION: Final = 100.0  # integer steps per clipping norm and sqrt(dimension): rounding costs 1 % of the noise


@dataclass(frozen=True)
class Plan:
    """A study and what follows from it. StudyError where the settings contradict each other."""

    study: Study

    @cached_property
    def front_end(self) -> FrontEnd:
        """The public front end."""
        images, model = self.study.images, self.study.model
        return FrontEnd(size=images.size, scales=model.scales, angles=model.angles, channels=images.channels)

    @property
    def outputs(self) -> int:
        """Outputs of the linear layer."""
        return outputs_for(len(self.study.study.classes))

    @property
    def dimension(self) -> int:
        """Coordinates of an update."""
        return self.front_end.dimension * self.outputs

    @property
    def hospitals(self) -> int:
        """n."""
        return len(self.study.hospitals.members)

    @property
    def patients(self) -> int:
        """N: the public number of units that the step size is made for."""
        return self.study.privacy.patients if self.study.privacy else _PLAIN_PATIENTS

    @cached_property
    def largest_batch(self) -> int:
        """No hospital's batch is larger, but with probability 1e-9 a study; batches are padded to it."""
        units = self.patients
        if self.study.privacy and self.study.privacy.unit == "image":
            units = self.patients * self.study.privacy.images_per_patient
        return public_maximum(units, self.study.training.sampling, self.study.training.rounds)

    @cached_property
    def setup(self) -> Setup:
        """The secure aggregation of this study."""
        hospitals = self.study.hospitals
        return Setup(self.hospitals, hospitals.colluding, hospitals.may_vanish)

    @property
    def k_min(self) -> int:
        """The fewest honest hospitals in a sum."""
        return self.setup.k_min

    @cached_property
    def training(self) -> Mechanism:
        """The mechanism of one training step."""
        privacy = self.study.privacy
        sigma = privacy.noise_multiplier if privacy else 0.0
        norm, batch = self.study.training.clipping_norm, self.largest_batch
        resolution = _RESOLUTION if privacy else min(_RESOLUTION, self._finest(batch))
        return Mechanism(self.dimension, norm, sigma, self.k_min, self.hospitals, batch, resolution)

    def _finest(self, batch: int) -> float:
        # without privacy nobody says how many patients there are: the finest steps of which a million fit into 31 bits
        return 2.0**30 / (self.hospitals * math.sqrt(self.dimension) * batch)

    @cached_property
    def evaluation(self) -> Mechanism:
        """The mechanism of one look at the evaluation patients."""
        privacy = self.study.privacy
        sigma = privacy.evaluation_noise_multiplier if privacy else 0.0
        return histogram.mechanism(len(self.study.study.classes), sigma, self.k_min, self.hospitals, self.patients)

    @property
    def looks(self) -> int:
        """How often the evaluation patients are looked at."""
        return self.study.privacy.looks if self.study.privacy else 0

    def training_steps(self, count: int) -> Steps:
        """What `count` rounds are, to the accountant."""
        return Steps(count, self.study.training.sampling, self.training.accounted_multiplier)

    def evaluation_steps(self, count: int) -> Steps:
        """What `count` looks are, to the accountant: every evaluation patient is in each."""
        return Steps(count, 1.0, self.evaluation.accounted_multiplier)

    @property
    def accounted_delta(self) -> float:
        """delta less what tables and padding are charged."""
        privacy = self.study.privacy
        if privacy is None:
            return 0.0
        rounds = self.study.training.rounds
        return privacy.delta - account.delta_overheads(privacy.epsilon, self.dimension, rounds, self.hospitals)

    def epsilon_after(self, rounds: int) -> float:
        """epsilon at the study's delta after so many rounds."""
        return account.epsilon(self.training_steps(rounds), self.accounted_delta)

    def check(self) -> None:
        """StudyError unless the noise in the study really gives the epsilon in the study; what every node computes."""
        privacy = self.study.privacy
        _ = self.training.bits, self.evaluation.bits
        if privacy is None:
            return
        if privacy.noise_multiplier == 0 or (privacy.looks and privacy.evaluation_noise_multiplier == 0):
            raise StudyError("The study has no noise multiplier.", "It is filled in by `primum train`.")
        spent = self.epsilon_after(self.study.training.rounds)
        looks = account.epsilon(self.evaluation_steps(privacy.looks), self.accounted_delta)
        for what, value in (("training", spent), ("evaluation", looks)):
            if value > privacy.epsilon * (1 + 1e-6):
                raise StudyError(
                    f"The study says epsilon {privacy.epsilon:g}, but its {what} costs {value:.3f}.",
                    "Its noise multiplier was altered or made for other settings; sign it again with `primum train`.",
                )


def resolve(study: Study) -> Study:
    """`study` with its noise multipliers: the smallest that cost at most its epsilon."""
    privacy = study.privacy
    if privacy is None:
        return study
    plan = Plan(study)
    budget = Budget(privacy.epsilon, plan.accounted_delta)
    training = account.calibrate(budget, study.training.rounds, study.training.sampling)
    sigma = plan.training.multiplier_for(training)
    looks = plan.evaluation.multiplier_for(account.calibrate(budget, privacy.looks, 1.0)) if privacy.looks else 0.0
    noised = privacy.model_copy(update={"noise_multiplier": sigma, "evaluation_noise_multiplier": looks})
    return study.model_copy(update={"privacy": noised})
