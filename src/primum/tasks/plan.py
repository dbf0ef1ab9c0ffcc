"""Everything that follows from a study; hospitals and coordinator compute the same from the same text."""

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from primum.dp import account, histogram
from primum.dp.account import Budget, Steps
from primum.dp.mechanism import Mechanism
from primum.dp.quantile import QuantileNorm
from primum.dp.sampling import public_maximum
from primum.errors import StudyError
from primum.imaging.windows import DEVIATIONS
from primum.models.answers import outputs_for
from primum.models.feature_map import (
    BackboneCard,
    FeatureMap,
    FrontEndCard,
    MultiScaleCard,
    PixelFeaturesCard,
    PixelsCard,
    RandomCard,
    ScatteringCard,
)
from primum.models.learned import Learned, Linear, Weights, first_weights, settings_of, weight_count
from primum.secagg.setup import Setup
from primum.study import Loss, Study
from primum.study.kinds import PIXEL_MODELS, BackboneModel, MultiScaleModel, PixelModel, RandomModel
from primum.tasks import classification
from primum.tasks.classification import Classification
from primum.tasks.narrow import Narrow
from primum.tasks.ordered import Ordered
from primum.tasks.points import Points
from primum.tasks.segmentation import Segmentation
from primum.tasks.several import Several
from primum.tasks.survey import TOO_NOISY, Sheet, Survey, Weighing
from primum.tasks.training import quantile_norm
from primum.tasks.update import (
    GradientSum,
    LocalStep,
    PlainStep,
    PrivateStep,
    Update,
    WeightDifference,
    difference_layout,
)

_PLAIN_PATIENTS: Final = 1_000_000  # in all, where a study without privacy names no number
_PLAIN_BATCH: Final = (
    1000.0  # in all, of an agreed thousand images: a sum's step size, where nobody says how many there are
)
_SHARE_WIDTH: Final = 16.0  # of a hospital's noise that is sent
_LOCAL_WIDTH: Final = 64.0  # of noise that stays in the building until a local step is made: its bits cost nothing
_RESOLUTION: Final = 100.0  # without privacy: integer steps per clipping norm and sqrt(dimension)


@dataclass(frozen=True)
class Plan:
    """A study and what follows from it. StudyError where the settings contradict each other.

    `survey`: what the hospitals' patients are like, once it is known; pixels are not standardised before, and no class
    counts more than another.
    """

    study: Study
    survey: Survey | None = None

    @property
    def front_end_card(self) -> FrontEndCard:
        """The public front end, as a card names it."""
        size, channels, model = self.study.images.size, self.study.images.channels, self.study.model
        if isinstance(model, MultiScaleModel):
            return MultiScaleCard(
                size=size, channels=channels, scales=model.scales, angles=model.angles, views=model.views
            )
        if isinstance(model, RandomModel):
            return RandomCard(size=size, channels=channels, filters=model.filters, patch=model.patch, pools=model.pools)
        if isinstance(model, BackboneModel):
            return BackboneCard(size=size, channels=channels, backbone=model.backbone, weights=model.weights)
        if isinstance(model, PixelModel):
            return PixelFeaturesCard(size=size, channels=channels, scales=model.scales, places=model.places)
        if isinstance(model, PIXEL_MODELS):
            images = self.study.images
            as_one = images.fit in ("windows", "patches")
            mean, deviation = self._pixels_of_all
            return PixelsCard(
                size=size,
                channels=channels,
                deviations=DEVIATIONS if as_one else None,
                mean=mean,
                deviation=deviation,
                depth=images.patch_depth,
            )
        return ScatteringCard(size=size, channels=channels, scales=model.scales, angles=model.angles)

    @property
    def _pixels_of_all(self) -> tuple[tuple[float, ...] | None, tuple[float, ...] | None]:
        known = self.study.statistics
        if known is None or known.pixels == "picture":
            return (known.mean, known.deviation) if known else (None, None)
        if self.survey is None:
            return (0.0,) * self.study.images.channels, (1.0,) * self.study.images.channels
        return self.survey.mean, self.survey.deviation

    @property
    def _weighing(self) -> Weighing | None:
        how = self.study.statistics.class_weights if self.study.statistics else "equal"
        return how if self.survey is not None and how != "equal" else None

    @property
    def counting(self) -> tuple[float, ...] | None:
        """By how much the clipped gradient of a unit of each class is multiplied, in (0, 1]; None: all count alike.

        Where an image has several classes, and of masks, classes are weighed in the loss instead.
        """
        whole = isinstance(self.task, Classification | Ordered)
        return self.survey.class_weights(self._weighing) if self.survey and self._weighing and whole else None

    @property
    def class_weights(self) -> tuple[float, ...] | None:
        """How much each class counts: `counting`, or what stands in the loss. None: all alike."""
        if isinstance(self.task, Segmentation):
            return self.task.weights
        return self.task.presence if isinstance(self.task, Several) else self.counting

    @property
    def mean_counting(self) -> float:
        """What `counting` is on average over the patients that were asked: what steps are divided by."""
        return self.survey.mean_weight(self._weighing) if self.survey and self._weighing and self.counting else 1.0

    @cached_property
    def sheet(self) -> Sheet | None:
        """What is asked of the hospitals before the first round; None: nothing."""
        about, known = self.study.study, self.study.statistics
        if known is None or not known.asked:
            return None
        classes = len(about.classes) if known.class_weights != "equal" else 0
        channels = self.study.images.channels if known.pixels == "hospitals" else 0
        return Sheet(classes, about.labels == "several", channels, about.task == "segmentation")

    @cached_property
    def surveying(self) -> Mechanism:
        """The mechanism of that sum; StudyError where nothing is asked."""
        if self.sheet is None:
            raise StudyError("The study asks nothing of the hospitals before its first round.", "Add [statistics].")
        return self.sheet.mechanism(self._looking, self.k_min, self.hospitals, self.patients)

    def surveyed(self, totals: npt.NDArray[np.float64]) -> "Plan":
        """The plan once the sum over all hospitals is known; everybody computes the same. ValueError where it is none."""
        if self.sheet is None:
            raise ValueError("nothing was asked")
        return replace(self, survey=self.sheet.read(totals, self.survey_noise))

    @property
    def survey_noise(self) -> float:
        """Standard deviation of each number that the survey brings, if all hospitals are in it."""
        return self.surveying.restored_sigma(self.hospitals)

    @property
    def expected_evaluation(self) -> float:
        """How many patients a private study looks at, by what it says: those who train are `patients`."""
        share = self.study.evaluation_share
        return self.patients * share / (1 - share)

    @property
    def learned(self) -> Learned:
        """What is learned on the front end, as a card names it."""
        model = self.study.model
        return settings_of(model.model_dump()) if isinstance(model, PIXEL_MODELS) else Linear()

    @cached_property
    def task(self) -> Classification | Several | Ordered | Segmentation:
        """What is asked of an image."""
        about, survey, how = self.study.study, self.survey, self._weighing
        private = self.study.privacy is not None  # more bins, and more tables, carry more noise
        if about.task == "segmentation":
            kind: Loss = self.study.training.loss or "dice-cross-entropy"
            weights = survey.pixel_weights(how) if survey and how else None
            millimetres = self.study.images.spacing is not None
            return Segmentation(about.classes, kind, weights, self.study.measures, millimetres, not private)
        bins, points = classification.BINS if private else classification.FINE, Points.of(self.study.evaluation)
        if about.labels == "several":
            presence = survey.presence_weights(how) if survey and how else None
            return Several(about.classes, presence, bins, points)
        if about.labels == "ordered":
            return Ordered(len(about.classes))
        return Classification(len(about.classes), not private, points)

    def module(self) -> nn.Module:
        """A new module to learn, whatever its weights; ModelError where the settings do not fit each other."""
        return self.learned.module(self.front_end.shape, self.outputs)

    def first_weights(self) -> Weights:
        """Where the study begins: float32 [dimension], the same for everybody."""
        return first_weights(self.module(), f"{self.study.study.name} {self.learned.model_dump_json()}")

    @cached_property
    def front_end(self) -> FeatureMap:
        """The public front end."""
        return self.front_end_card.feature_map()

    @property
    def outputs(self) -> int:
        """Outputs of what is learned."""
        return outputs_for(len(self.study.study.classes), self.study.study.labels)

    @cached_property
    def dimension(self) -> int:
        """Coordinates of an update."""
        with torch.device("meta"):
            return weight_count(self.module())

    @property
    def quantile_norm(self) -> QuantileNorm | None:
        """How the clipping norm follows the gradients; None where it stays what it is."""
        return quantile_norm(self.study.training)

    @property
    def coordinates(self) -> int:
        """Of a round's sum, and of what is sent for it: the weights, and one for a norm that follows the gradients."""
        return self.dimension + (self.quantile_norm is not None)

    @property
    def hospitals(self) -> int:
        """n."""
        return len(self.study.hospitals.members)

    @property
    def patients(self) -> int:
        """N: the public number of units (with unit = "image": of images), that steps and batches are made for."""
        return self.study.privacy.patients if self.study.privacy else _PLAIN_PATIENTS

    @cached_property
    def largest_batch(self) -> int:
        """No hospital's batch is larger, but with probability 1e-9 a study; batches are padded to it."""
        return public_maximum(self.patients, self.study.training.sampling, max(1, self.most_steps))

    @property
    def most_steps(self) -> int:
        """Samples that a hospital draws in the whole study."""
        return self.study.training.rounds * self.study.training.local_steps

    @property
    def expected_batch(self) -> float:
        """q N, of all hospitals together: what a sum of gradients is divided by."""
        privacy = self.study.privacy
        return self.study.training.sampling * (privacy.patients if privacy else _PLAIN_BATCH)

    @cached_property
    def setup(self) -> Setup:
        """The secure aggregation of this study."""
        hospitals = self.study.hospitals
        return Setup(self.hospitals, hospitals.colluding, hospitals.may_vanish)

    @property
    def k_min(self) -> int:
        """The fewest honest hospitals in a sum."""
        return self.setup.k_min

    @property
    def _local(self) -> bool:
        return self.study.training.local_steps > 1

    @cached_property
    def training(self) -> Mechanism:
        """The mechanism of one step: of the sum over all hospitals, or with local steps of each hospital by itself."""
        narrow, privacy = self._narrow, self.study.privacy
        return narrow.fitted() if narrow and privacy and privacy.noise_multiplier else self._unbounded

    @cached_property
    def _unbounded(self) -> Mechanism:
        privacy = self.study.privacy
        sigma = privacy.noise_multiplier if privacy else 0.0
        norm, batch = self.study.training.clipping_norm, self.largest_batch
        k_min, hospitals, width = (1, 1, _LOCAL_WIDTH) if self._local else (self.k_min, self.hospitals, _SHARE_WIDTH)
        if self.quantile_norm:  # sums are in norms, whatever the norm is in a round
            norm = self.quantile_norm.sensitivity(1.0)
        return Mechanism(self.coordinates, norm, sigma, k_min, hospitals, batch, self._resolution(batch), width)

    @cached_property
    def _narrow(self) -> Narrow | None:
        bits = self.study.aggregation.bits
        return Narrow(self._unbounded, bits, self.expected_batch / self.hospitals) if bits else None

    @property
    def clamp(self) -> float | None:
        """With `aggregation.bits`: where coordinates are cut, in typical ones."""
        return self._narrow.clamp_of(self.training) if self._narrow else None

    def multiplier_for(self, accounted: float) -> float:
        """The noise multiplier whose steps the accountant may take for `accounted`."""
        if self._narrow:
            return self._narrow.for_accounted(accounted).noise_multiplier
        return self._unbounded.multiplier_for(accounted)

    @cached_property
    def update(self) -> Update:
        """What a hospital sends in a round of training, and what the server makes of the sum."""
        return self._difference() if self._local else GradientSum(self.training, self.expected_batch)

    def _difference(self) -> WeightDifference:
        training = self.study.training
        step: LocalStep = PlainStep(training.clipping_norm, training.sampling)
        if self.study.privacy:
            step = PrivateStep(self.training, self.expected_batch / self.hospitals)
        layout = difference_layout(training, step, self.dimension, self.hospitals, self.largest_weight)
        return WeightDifference(training, step, layout)

    @property
    def largest_weight(self) -> int:
        """The most images that a hospital may count with; 0: all hospitals count the same."""
        return self.patients if self.study.aggregation.weighting == "images" else 0

    def _resolution(self, batch: int) -> float:
        # without privacy nobody says how many patients there are: the finest steps of which a million fit into 31 bits
        return min(_RESOLUTION, 2.0**30 / (self.hospitals * math.sqrt(self.dimension) * batch))

    @cached_property
    def evaluation(self) -> Mechanism:
        """The mechanism of one look at the evaluation patients."""
        return histogram.mechanism(self.task.table, self._looking, self.k_min, self.hospitals, self.patients)

    @property
    def _looking(self) -> float:
        privacy = self.study.privacy
        return privacy.evaluation_noise_multiplier if privacy else 0.0

    @property
    def looks(self) -> int:
        """How often the evaluation patients are looked at, the survey included."""
        return self.study.looks + self.study.surveys

    def training_steps(self, rounds: int, honest: int | None = None) -> Steps:
        """What so many rounds are, to the accountant, if `honest` hospitals' noise is in each sum; k_min if not said.

        With local steps a round is so many steps, and each has its own hospital's noise alone, whoever is there.
        """
        sigma = _accounted(self.training, honest) if rounds else 0.0
        return Steps(rounds * self.update.steps, self.study.training.sampling, sigma)

    def evaluation_steps(self, looks: int, honest: int | None = None) -> Steps:
        """What so many looks are, to the accountant: every evaluation patient is in each; a survey is one of them."""
        return Steps(looks, 1.0, _accounted(self.evaluation, honest))

    @property
    def accounted_delta(self) -> float:
        """delta less what the noise's distance from the Gaussian and padding are charged."""
        privacy = self.study.privacy
        if privacy is None:
            return 0.0
        charged = account.delta_overheads(privacy.epsilon, self.coordinates, self.most_steps, self.hospitals)
        if charged >= privacy.delta:
            raise StudyError(
                f"At epsilon {privacy.epsilon:g}, {self.most_steps} steps of {self.dimension:,} weights leave nothing of "
                f"privacy.delta = {privacy.delta:g}.",
                "Use a smaller epsilon: a larger one promises hardly anything.",
            )
        return privacy.delta - charged

    def epsilon_after(self, rounds: int) -> float:
        """epsilon at the study's delta after so many rounds."""
        return account.epsilon(self.training_steps(rounds), self.accounted_delta)

    def check(self) -> None:
        """StudyError unless the noise in the study really gives the epsilon in the study; what every node computes."""
        privacy = self.study.privacy
        _ = self.update.shape, self.evaluation.bits
        if privacy is None:
            return
        trains = self.study.training.rounds > 0
        if (trains and privacy.noise_multiplier == 0) or (self.looks and privacy.evaluation_noise_multiplier == 0):
            raise StudyError("The study has no noise multiplier.", "It is filled in by `primum train`.")
        spent = self.epsilon_after(self.study.training.rounds) if trains else 0.0
        looks = account.epsilon(self.evaluation_steps(self.looks), self.accounted_delta)
        self._check_survey()
        for what, value in (("training", spent), ("evaluation", looks)):
            if value > privacy.epsilon * (1 + 1e-6):
                raise StudyError(
                    f"The study says epsilon {privacy.epsilon:g}, but its {what} costs {value:.3f}.",
                    "Its noise multiplier was altered or made for other settings; sign it again with `primum train`.",
                )

    def _check_survey(self) -> None:
        """StudyError where noise would be all that the survey tells: about as many patients are asked as are set aside."""
        if self.sheet is None or self.study.privacy is None:
            return
        asked, noise = self.expected_evaluation, self.survey_noise
        if noise > TOO_NOISY * asked:
            raise StudyError(
                f"[statistics] asks about {asked:.0f} evaluation patients, with noise of {noise:.1f}: that tells nothing.",
                "Leave the section out, or use a larger epsilon, fewer looks, or more patients.",
            )


def resolve(study: Study) -> Study:
    """`study` with its noise multipliers: the smallest that cost at most its epsilon."""
    privacy = study.privacy
    if privacy is None:
        return study
    plan = Plan(study)
    budget = Budget(privacy.epsilon, plan.accounted_delta)
    sigma = 0.0
    if plan.most_steps:
        sigma = plan.multiplier_for(account.calibrate(budget, plan.most_steps, study.training.sampling))
    looks = plan.evaluation.multiplier_for(account.calibrate(budget, plan.looks, 1.0)) if plan.looks else 0.0
    noised = privacy.model_copy(update={"noise_multiplier": sigma, "evaluation_noise_multiplier": looks})
    return study.model_copy(update={"privacy": noised})


def _accounted(mechanism: Mechanism, honest: int | None) -> float:
    """The multiplier that the accountant may use where `honest` hospitals' noise is in a sum: sqrt(h w^2 - r^2) / Delta."""
    there = min(honest or mechanism.k_min, mechanism.hospitals)
    sigma = mechanism.noise_multiplier * math.sqrt(there / mechanism.k_min)
    return replace(mechanism, k_min=there, noise_multiplier=sigma).accounted_multiplier
